//! Sockets that come from .socket units.

use super::systemd::{SystemdBox, in_each, in_own};
use super::{get, port, unit};

fn main_pid(systemd: &SystemdBox, unit: &str) -> i32 {
    systemd.show(unit, "MainPID").parse().expect("a pid")
}

/// A line of /proc/PID/status inside.
fn process_status(systemd: &SystemdBox, pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(systemd.path(&format!("/proc/{pid}/status"))).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_unit_without_any_privilege_serves_a_port_below_1024_from_its_socket_unit() {
    in_each(|systemd| {
        systemd.run(&["systemctl", "start", "activated.socket"]);
        assert_eq!(systemd.show("activated", "ActiveState"), "inactive");
        let first = get(systemd, &port(80));
        systemd.wait_for("activated", "ActiveState", |state| state == "active");
        let main = main_pid(systemd, "activated");
        assert!(
            !process_status(systemd, main, "Uid:").contains(" 0"),
            "it is root"
        );
        assert_eq!(process_status(systemd, main, "CapEff:"), "0000000000000000");

        systemd.run(&["systemctl", "reload", "activated"]);
        let live = |status: &str| status.contains("generation 2 is live");
        systemd.wait_for("activated", "StatusText", live);
        assert_ne!(get(systemd, &port(80)), first);

        // The socket unit holds the port while the service is down.
        systemd.run(&["systemctl", "stop", "activated.service"]);
        get(systemd, &port(80));
        systemd.wait_for("activated", "ActiveState", |state| state == "active");
        assert_ne!(main_pid(systemd, "activated"), main);
    });
}

/// What the first worker of a unit reported: `key=value` lines.
fn report(systemd: &SystemdBox, unit: &str) -> Vec<String> {
    systemd.wait_for_line(unit, "report=done");
    let journal = systemd.journal(unit);
    let said = journal.lines().filter_map(|line| line.strip_prefix('['));
    said.filter_map(|line| line.split_once("] ").map(|(_, text)| text.to_owned()))
        .collect()
}

fn value<'a>(report: &'a [String], key: &str) -> Option<&'a str> {
    report
        .iter()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

const SOCKETS: [&str; 3] = [
    "ListenStream=127.0.0.1:91\nListenStream=/run/many.sock\nFileDescriptorName=web",
    "ListenDatagram=127.0.0.1:92\nFileDescriptorName=log",
    "ListenStream=@admin\nFileDescriptorName=admin",
];

/// A service whose sockets come from three units, and that only reports.
fn start_many(systemd: &SystemdBox, listen: &str) {
    let mut lines = Vec::new();
    for (n, socket) in SOCKETS.iter().enumerate() {
        let text = format!("[Socket]\n{socket}\nService=many.service\n");
        systemd.unit(&format!("many{n}.socket"), &text);
        lines.push(format!("Sockets=many{n}.socket"));
    }
    let flags = format!(
        "{listen} -start=0 -protocol=systemd,einhorn -command=/usr/local/bin/worker -- report"
    );
    lines.push("FileDescriptorStoreMax=4".to_owned());
    lines.push("WatchdogSec=30".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    systemd.unit("many.service", &unit(&flags, &lines));
    systemd.run(&[
        "systemctl",
        "start",
        "many0.socket",
        "many1.socket",
        "many2.socket",
    ]);
    systemd.run(&["systemctl", "start", "many"]);
}

#[test]
fn all_sockets_come_those_of_one_unit_in_its_order_and_keep_their_names() {
    in_each(|systemd| {
        start_many(systemd, "-listen=systemd://");
        let found = report(systemd, "many");
        assert_eq!(value(&found, "env:LISTEN_FDS"), Some("4"));
        let names = value(&found, "env:LISTEN_FDNAMES").unwrap();
        let mut sorted: Vec<&str> = names.split(':').collect();
        sorted.sort_unstable();
        assert_eq!(sorted, ["admin", "log", "web", "web"], "{names}");
        for (name, fd) in names.split(':').zip(3..) {
            let datagram = value(&found, &format!("fd{fd}"))
                .unwrap()
                .contains("type=Datagram");
            assert_eq!(datagram, name == "log", "{found:#?}");
        }
        // systemd orders the sockets of one unit, and not the units.
        let first = 3 + names.split(':').position(|name| name == "web").unwrap();
        let is_tcp = |fd| {
            value(&found, &format!("fd{fd}"))
                .unwrap()
                .contains("backlog=")
        };
        assert!(is_tcp(first) && !is_tcp(first + 1), "{found:#?}");
        assert_eq!(value(&found, "env:LISTEN_PID"), value(&found, "pid"));
        // They are the socket units': not for our fd store, and systemd's to remove.
        assert_eq!(systemd.show("many", "NFileDescriptorStore"), "0");
        systemd.run(&["systemctl", "stop", "many"]);
        assert!(systemd.path("/run/many.sock").exists());
    });
}

#[test]
fn sockets_are_taken_by_name_and_nothing_meant_for_us_reaches_a_worker() {
    in_each(|systemd| {
        start_many(
            systemd,
            "-listen=systemd://admin -listen=systemd://log -listen=tcp://:8090",
        );
        let found = report(systemd, "many");
        let names = value(&found, "env:LISTEN_FDNAMES").unwrap();
        assert!(names.starts_with("admin:log:"), "{names}");
        assert_eq!(value(&found, "env:EINHORN_FDS"), Some("3 4 5"));
        assert_eq!(value(&found, "env:LISTEN_PID"), value(&found, "pid"));
        let numbers = found.iter().filter(|line| line.starts_with("fd"));
        assert_eq!(numbers.count(), 6, "{found:#?}");
        let meant_for_us = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"];
        for name in meant_for_us {
            assert_eq!(value(&found, &format!("env:{name}")), None);
        }
        systemd.wait_for("many", "NFileDescriptorStore", |count| count == "1");
        systemd.wait_for_line("many", "no -listen asks for it");
    });
}

#[test]
fn a_socket_is_taken_by_number_and_no_listen_variable_reaches_a_worker_unasked() {
    in_own(|systemd| {
        let flags = "-listen=fd://3 -start=0 -command=/usr/local/bin/worker -- report";
        let text = unit(flags, &["Sockets=activated.socket"]);
        systemd.unit("silent.service", &text);
        systemd.run(&["systemctl", "start", "activated.socket", "silent"]);
        let found = report(systemd, "silent");
        assert_eq!(value(&found, "env:EINHORN_FDS"), Some("3"));
        let leaked: Vec<_> = found
            .iter()
            .filter(|line| line.starts_with("env:LISTEN_"))
            .collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    });
}

#[test]
fn a_name_that_no_socket_unit_gives_is_an_error_that_names_what_there_is() {
    in_own(|systemd| {
        let flags = "-listen=systemd://wbe -start=0 -command=/usr/local/bin/worker -- up";
        systemd.unit("typo.service", &unit(flags, &["Sockets=activated.socket"]));
        systemd.run(&["systemctl", "start", "activated.socket"]);
        assert!(
            !systemd
                .exec(&["systemctl", "start", "typo"])
                .status
                .success()
        );
        assert_eq!(systemd.show("typo", "ExecMainStatus"), "1");
        systemd.wait_for_line("typo", "none of the passed sockets is called wbe (web)");
    });
}
