//! The hardened unit: everything still works.

use super::systemd::in_each;
use super::{get, port, unit};

#[test]
fn the_hardened_unit_serves_reloads_rolls_back_respawns_and_stops() {
    in_each(|systemd| {
        systemd.run(&["systemctl", "start", "hardened"]);
        let main = systemd.show("hardened", "MainPID");
        let first = get(systemd, &port(8080));
        systemd.run(&["systemctl", "reload", "hardened"]);
        let live = |status: &str| status.contains("generation 2 is live");
        systemd.wait_for("hardened", "StatusText", live);
        let second = get(systemd, &port(8080));
        assert_ne!(second, first);

        systemd.install_script("exit 7", "/usr/local/bin/server");
        systemd.run(&["systemctl", "reload", "hardened"]);
        let rolled_back = |status: &str| status.contains("reload 3 rolled back");
        systemd.wait_for("hardened", "StatusText", rolled_back);
        assert_eq!(get(systemd, &port(8080)), second);
        assert_eq!(systemd.show("hardened", "MainPID"), main);

        systemd.run(&["systemctl", "stop", "hardened"]);
        let journal = systemd.journal("hardened");
        assert!(journal.contains("Deactivated successfully"), "{journal}");
        for complaint in ["cannot", "Operation not permitted", "SIGSYS", "core-dump"] {
            assert!(!journal.contains(complaint), "{complaint} in {journal}");
        }
    });
}

/// The same cage around what the unit of the README does not use: a unix socket with rights, the
/// notify gate, respawn, several workers, a pid file, a user, the fd store.
#[test]
fn all_of_our_means_work_in_the_cage_of_the_hardened_unit() {
    in_each(|systemd| {
        let cage = std::fs::read_to_string(format!("{}/hardened.service", super::UNITS)).unwrap();
        let cage = cage.lines().skip_while(|line| !line.starts_with("UMask="));
        let cage = cage.take_while(|line| !line.is_empty());
        let mut lines: Vec<&str> = cage.filter(|line| !line.starts_with("UMask=")).collect();
        lines.extend([
            "RuntimeDirectory=caged",
            "FileDescriptorStoreMax=2",
            "Restart=always",
        ]);
        lines.extend(["RuntimeDirectoryPreserve=restart", "WatchdogSec=2"]);
        let capabilities = "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_KILL";
        for line in &mut lines {
            *line = if line.starts_with("CapabilityBoundingSet=") {
                capabilities
            } else {
                line
            };
        }
        let flags = "-listen=tcp://:8090 -listen=unix:///run/caged/sock?mode=0660&group=daemon \
                     -workers=2 -ready=notify -respawn -user=daemon -pidfile=/run/caged/pid \
                     -start=5000 -command=/usr/local/bin/both";
        let worker = "systemd-notify --ready; exec /usr/local/bin/server";
        systemd.install_script(worker, "/usr/local/bin/both");
        systemd.unit("caged.service", &unit(flags, &lines));
        systemd.run(&["systemctl", "start", "caged"]);
        get(systemd, &port(8090));
        get(
            systemd,
            &super::Address::Path(systemd.path("/run/caged/sock")),
        );
        systemd.wait_for("caged", "NFileDescriptorStore", |count| count == "2");
        if systemd.version() >= 254 {
            systemd.wait_for_line("caged", "fd store holds our listening sockets");
        }

        systemd.run(&[
            "systemctl",
            "kill",
            "--signal=KILL",
            "--kill-whom=main",
            "caged",
        ]);
        systemd.wait_for("caged", "NRestarts", |count| count == "1");
        systemd.wait_for("caged", "ActiveState", |state| state == "active");
        get(
            systemd,
            &super::Address::Path(systemd.path("/run/caged/sock")),
        );
        systemd.run(&[
            "systemctl",
            "kill",
            "--signal=HUP",
            "--kill-whom=main",
            "caged",
        ]);
        let live = |status: &str| status.contains("generation 2 is live");
        systemd.wait_for("caged", "StatusText", live);
        get(systemd, &port(8090));
        let journal = systemd.journal("caged");
        for complaint in ["cannot", "Operation not permitted", "SIGSYS", "core-dump"] {
            assert!(!journal.contains(complaint), "{complaint} in {journal}");
        }
    });
}
