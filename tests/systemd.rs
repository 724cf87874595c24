//! Under a real systemd: the units of tests/systemd/units in a systemd of their own.

#[path = "common/systemd.rs"]
mod systemd;

use systemd::{SystemdBox, UNITS, other_versions};

const SOCKETMASTER: &str = env!("CARGO_BIN_EXE_socketmaster");

#[test]
fn a_systemd_boots_and_says_that_it_runs() {
    let Some(systemd) = SystemdBox::start(UNITS) else {
        return;
    };
    assert_eq!(systemd.run(&["systemctl", "is-system-running"]), "running");
}

#[test]
fn each_other_systemd_boots_too() {
    if other_versions().is_empty() {
        eprintln!("skipped: SYSTEMD_DEBS names no other systemd");
    }
    for debs in other_versions() {
        let Some(systemd) = SystemdBox::start_version(UNITS, Some(&debs)) else {
            return;
        };
        assert_eq!(systemd.run(&["systemctl", "is-system-running"]), "running");
        println!("{} is systemd {}", debs.display(), systemd.version());
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_our_units() {
    let Some(systemd) = SystemdBox::start(UNITS) else {
        return;
    };
    systemd.install(SOCKETMASTER, "/usr/local/bin/socketmaster");
    systemd.install(SOCKETMASTER, "/usr/local/bin/server");
    let units = std::fs::read_dir(UNITS)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    for unit in units.map(|name| name.into_string().unwrap()) {
        if unit == "notify-reload.service" && systemd.version() < 253 {
            println!("skipped: {unit} needs systemd 253");
            continue;
        }
        let output = systemd.exec(&["systemd-analyze", "verify", "--man=no", &unit]);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{unit}: {output:?}"
        );
    }
}
