//! How a unit ends: stops, exit statuses, and what is left behind.

use super::systemd::{SystemdBox, in_own};
use super::{get, port, unit};

/// A unit whose workers, asked to stop, leave when /run/go is there.
const DRAINING: &str = "-listen=tcp://:8090 -start=0 -command=/usr/local/bin/worker -- \
                        drain /run/go";

fn start(systemd: &SystemdBox, name: &str, text: &str) {
    systemd.unit(&format!("{name}.service"), text);
    systemd.run(&["systemctl", "start", name]);
}

/// How a unit that failed did so: result, code (CLD_EXITED is 1, CLD_KILLED 2), exit status.
fn failure(systemd: &SystemdBox, unit: &str) -> [String; 3] {
    systemd.wait_for(unit, "ActiveState", |state| state == "failed");
    ["Result", "ExecMainCode", "ExecMainStatus"].map(|property| systemd.show(unit, property))
}

/// Waits for the unit's end with status 0 and nothing left of it. (A unit that ended well is soon
/// forgotten by systemd; its journal is not.)
fn assert_ends_well(systemd: &SystemdBox, unit: &str) {
    systemd.wait_for(unit, "ActiveState", |state| state == "inactive");
    let journal = systemd.journal(unit);
    assert!(journal.contains("Deactivated successfully"), "{journal}");
    assert!(
        !journal.contains("left-over") && !is_populated(systemd, unit),
        "{journal}"
    );
}

/// Whether a process of the unit is left.
fn is_populated(systemd: &SystemdBox, unit: &str) -> bool {
    let path = format!("/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs");
    let pids = std::fs::read_to_string(systemd.path(&path));
    pids.is_ok_and(|pids| !pids.is_empty())
}

#[test]
fn a_stop_by_signal_shows_as_deactivating_until_the_workers_have_finished() {
    in_own(|systemd| {
        start(
            systemd,
            "draining",
            &unit(DRAINING, &["Restart=on-failure"]),
        );
        systemd.wait_for_line("draining", "] up");
        systemd.signal("draining", "TERM");
        systemd.wait_for("draining", "ActiveState", |state| state == "deactivating");
        let waiting = |status: &str| status.contains("stopping: waiting for 1 worker;");
        systemd.wait_for("draining", "StatusText", waiting);
        systemd.write("/run/go", "");
        assert_ends_well(systemd, "draining");
        assert_eq!(systemd.show("draining", "NRestarts"), "0");
        systemd.wait_for_line("draining", "drained");
    });
}

/// With KillMode=mixed systemd's TERM is for us alone, and we forward it once.
#[test]
fn systemctl_stop_reaches_each_worker_once() {
    in_own(|systemd| {
        let trap = DRAINING.replace("drain /run/go", "trap /run/go");
        start(systemd, "trap", &unit(&trap, &[]));
        systemd.wait_for_line("trap", "] up");
        systemd.run(&["systemctl", "stop", "--no-block", "trap"]);
        systemd.wait_for_line("trap", "got SIGTERM");
        systemd.write("/run/go", "");
        assert_ends_well(systemd, "trap");
        assert_eq!(systemd.journal("trap").matches("got SIGTERM").count(), 1);
    });
}

#[test]
fn a_worker_that_never_stops_is_killed_when_systemd_loses_patience() {
    in_own(|systemd| {
        let stubborn = DRAINING.replace("drain /run/go", "ignore-term");
        start(systemd, "stubborn", &unit(&stubborn, &["TimeoutStopSec=1"]));
        systemd.wait_for_line("stubborn", "] up");
        systemd.run(&["systemctl", "stop", "stubborn"]);
        assert_eq!(failure(systemd, "stubborn")[0], "timeout");
        assert!(!is_populated(systemd, "stubborn"));
    });
}

/// nginx and php-fpm finish what they have begun at QUIT; KillSignal= says so to us, we to them.
#[test]
fn kill_signal_quit_is_forwarded_and_ends_the_unit_cleanly() {
    in_own(|systemd| {
        let flags = DRAINING.replace("drain /run/go", "up");
        start(
            systemd,
            "quit",
            &unit(&flags, &["KillSignal=SIGQUIT", "Restart=on-failure"]),
        );
        systemd.wait_for_line("quit", "] up");
        systemd.run(&["systemctl", "stop", "quit"]);
        assert_ends_well(systemd, "quit");
    });
}

#[test]
fn the_exit_status_says_why_the_unit_ended() {
    in_own(|systemd| {
        let flags = |worker: &str| DRAINING.replace("drain /run/go", worker);
        for (name, flags, expected) in [
            ("status", flags("exit 3 300"), ["exit-code", "1", "3"]),
            ("killed", flags("kill-self 15"), ["exit-code", "1", "143"]),
            (
                "usage",
                flags("up").replace("-start", "-strat"),
                ["exit-code", "1", "2"],
            ),
            (
                "command",
                flags("up").replace("bin/worker", "bin/nobody"),
                ["exit-code", "1", "1"],
            ),
        ] {
            systemd.unit(&format!("{name}.service"), &unit(&flags, &[]));
            systemd.exec(&["systemctl", "start", name]);
            assert_eq!(
                failure(systemd, name),
                expected,
                "{name}: {}",
                systemd.journal(name)
            );
        }
        systemd.wait_for_line("command", "cannot find /usr/local/bin/nobody");
    });
}

#[test]
fn a_service_whose_workers_left_by_themselves_is_restarted() {
    in_own(|systemd| {
        let flags = DRAINING.replace("drain /run/go", "from /run/words");
        systemd.write("/run/words", "exit 3 200");
        start(systemd, "again", &unit(&flags, &["Restart=on-failure"]));
        systemd.wait_for("again", "NRestarts", |count| count != "0");
        systemd.write("/run/words", "http");
        let main = systemd.wait_for("again", "MainPID", |pid| pid != "0");
        systemd.wait_for_line("again", "up, version 1");
        get(systemd, &port(8090));
        assert_ne!(systemd.show("again", "MainPID"), "0", "{main}");
    });
}
