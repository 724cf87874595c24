//! `kill -9` of socketmaster, with the fd store and without: who is refused, who is cut off.

use super::systemd::{self, SystemdBox, in_each, in_each_since};
use super::{get, port};
use crate::common::Address;
use crate::common::clients::{Clients, Tally};
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(5);

fn clients(systemd: &SystemdBox, address: Address, path: &'static str) -> Clients {
    let network = systemd.network();
    Clients::start(address, path, EVERY, move || systemd::enter(&network))
}

/// Waits until systemd holds one socket of the unit's. It says so whatever its version is.
fn wait_until_stored(systemd: &SystemdBox, unit: &str) {
    systemd.wait_for(unit, "NFileDescriptorStore", |count| count == "1");
}

/// Kills the main process of an active unit and waits until it is active again.
fn kill(systemd: &SystemdBox, unit: &str) {
    let (main, before) = (
        systemd.show(unit, "MainPID"),
        systemd.show(unit, "NRestarts"),
    );
    systemd.signal(unit, "KILL");
    systemd.wait_for(unit, "NRestarts", |count| count != before);
    systemd.wait_for(unit, "ActiveState", |state| state == "active");
    assert_ne!(systemd.show(unit, "MainPID"), main);
}

/// What becomes of clients every 5 ms while socketmaster is killed this many times.
fn count(systemd: &SystemdBox, unit: &str, address: Address, path: &'static str) -> Tally {
    systemd.run(&["systemctl", "start", unit]);
    if systemd.show(unit, "FileDescriptorStoreMax") != "0" {
        wait_until_stored(systemd, unit);
    }
    let clients = clients(systemd, address, path);
    for _ in 0..3 {
        kill(systemd, unit);
    }
    let tally = clients.finish();
    let version = systemd.version();
    println!(
        "{unit} {version}, GET {path}, {} clients, 3 kills: {tally:?}",
        tally.all()
    );
    tally
}

#[test]
fn with_the_fd_store_kill_9_of_socketmaster_refuses_nobody() {
    in_each(|systemd| {
        for path in ["/", "/slow/200"] {
            let tally = count(systemd, "store", port(8080), path);
            assert_eq!((tally.refused, tally.others.len()), (0, 0), "{tally:?}");
        }
        assert_eq!(systemd.show("store", "NFileDescriptorStore"), "1");
        systemd.wait_for_line("store", "back from systemd's fd store");
    });
}

/// KillMode=mixed kills the workers when socketmaster is gone; this unit lets them finish.
#[test]
fn with_the_seamless_unit_kill_9_of_socketmaster_cuts_nobody_off() {
    in_each(|systemd| {
        for path in ["/", "/slow/200"] {
            let tally = count(systemd, "seamless", port(8080), path);
            assert_eq!(tally.answered, tally.all(), "{tally:?}");
        }
        systemd.run(&["systemctl", "stop", "seamless"]);
        let journal = systemd.journal("seamless");
        assert!(journal.contains("Deactivated successfully"), "{journal}");
    });
}

#[test]
fn without_the_fd_store_clients_are_refused_until_the_restart() {
    in_each(|systemd| {
        let text = store_unit().replace("FileDescriptorStoreMax=1\n", "");
        systemd.unit("bare.service", &text);
        let tally = count(systemd, "bare", port(8090), "/");
        assert!(tally.refused > 0, "{tally:?}");
    });
}

#[test]
fn systemctl_restart_refuses_nobody_either() {
    in_each(|systemd| {
        systemd.run(&["systemctl", "start", "store"]);
        wait_until_stored(systemd, "store");
        let clients = clients(systemd, port(8080), "/slow/50");
        for _ in 0..3 {
            systemd.run(&["systemctl", "restart", "store"]);
        }
        let tally = clients.finish();
        println!("restart: {} clients: {tally:?}", tally.all());
        assert_eq!(tally.answered, tally.all(), "{tally:?}");
        // A stop is a stop: the store is emptied, and clients are refused.
        systemd.run(&["systemctl", "stop", "store"]);
        let error = systemd.visit(|| port(8080).get()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// The store unit, on a port of the tests' own.
fn store_unit() -> String {
    let text = std::fs::read_to_string(format!("{}/store.service", super::UNITS)).unwrap();
    text.replace(":8080", ":8090")
}

#[test]
fn a_changed_listen_drops_from_the_store_what_is_no_longer_asked_for() {
    in_each(|systemd| {
        systemd.unit("moved.service", &store_unit());
        systemd.run(&["systemctl", "start", "moved"]);
        wait_until_stored(systemd, "moved");
        get(systemd, &port(8090));
        systemd.unit("moved.service", &store_unit().replace(":8090", ":8091"));
        kill(systemd, "moved");
        systemd.wait_for_line("moved", "no -listen asks for it");
        get(systemd, &port(8091));
        let error = systemd.visit(|| port(8090).get()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(systemd.show("moved", "NFileDescriptorStore"), "1");
        // And the new one is found again.
        kill(systemd, "moved");
        get(systemd, &port(8091));
        let journal = systemd.journal("moved");
        assert!(journal.contains("Took tcp://[::]:8091 back"), "{journal}");
        if systemd.version() >= 254 {
            let table = systemd.run(&["systemd-analyze", "fdstore", "moved.service"]);
            assert!(
                table.contains("socketmaster-") && table.contains("8091"),
                "{table}"
            );
        }
    });
}

#[test]
fn a_store_that_is_too_small_is_said_where_systemd_says_its_size_and_the_service_goes_on() {
    in_each(|systemd| {
        let more = "-listen=tcp://:8090 -listen=tcp://:8091 ";
        systemd.unit(
            "small.service",
            &store_unit().replace("-listen=tcp://:8090 ", more),
        );
        systemd.run(&["systemctl", "start", "small"]);
        if systemd.version() >= 254 {
            systemd.wait_for_line("small", "raise FileDescriptorStoreMax=");
        }
        kill(systemd, "small");
        get(systemd, &port(8090));
        get(systemd, &port(8091));
    });
}

#[test]
fn a_unix_socket_survives_a_crash_if_its_directory_does() {
    in_each(|systemd| {
        let text = store_unit().replace("tcp://:8090", "unix:///run/kept/sock?mode=0666");
        let directory = "RuntimeDirectory=kept\nRuntimeDirectoryPreserve=restart\nRestart=";
        systemd.unit("kept.service", &text.replace("Restart=", directory));
        let address = Address::Path(systemd.path("/run/kept/sock"));
        let tally = count(systemd, "kept", address.clone(), "/");
        assert_eq!((tally.refused, tally.others.len()), (0, 0), "{tally:?}");
        systemd.wait_for_line("kept", "Took unix:///run/kept/sock back");
        systemd.run(&["systemctl", "stop", "kept"]);
        assert!(address.get().is_err());
    });
}

/// Again and again before the first generation is ready.
#[test]
fn a_socketmaster_that_is_killed_while_it_starts_loses_no_socket() {
    in_each(|systemd| {
        let gated = store_unit().replace("-start=500", "-start=20000 -ready=notify");
        let gated = gated.replace("bin/server", "bin/gated");
        let worker = "until [ -e /run/go ]; do sleep 0.05; done\n\
                      systemd-notify --ready; exec /usr/local/bin/server";
        systemd.install_script(worker, "/usr/local/bin/gated");
        systemd.unit("gated.service", &gated);
        systemd.run(&["systemctl", "start", "--no-block", "gated"]);
        wait_until_stored(systemd, "gated");
        let clients = clients(systemd, port(8090), "/");
        for restarts in ["1", "2", "3"] {
            systemd.signal("gated", "KILL");
            systemd.wait_for("gated", "NRestarts", |count| count == restarts);
            systemd.wait_for("gated", "StatusText", |status| status.contains("starting:"));
        }
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
        let tally = clients.finish();
        assert_eq!(tally.answered, tally.all(), "{tally:?}");
    });
}

/// systemd logs a warning when something is stored that there is no store for. From 254 on it says
/// beforehand that there is none, where its cgroups have a memory controller.
#[test]
fn a_unit_without_a_store_is_not_bothered_where_systemd_says_so() {
    in_each_since(254, |systemd| {
        let text = store_unit().replace("FileDescriptorStoreMax=1", "MemoryPressureWatch=on");
        systemd.unit("bare.service", &text);
        systemd.run(&["systemctl", "start", "bare"]);
        let journal = systemd.journal("bare");
        assert!(!journal.contains("Cannot store"), "{journal}");
    });
}
