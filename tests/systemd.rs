//! Under a real systemd: the units of tests/systemd/units, which are those of the README, and what
//! systemctl shows of them, in a systemd of their own. Needs root; SYSTEMD_DEBS names directories
//! with the .deb files of further versions to play everything with.

mod common;
#[path = "common/systemd.rs"]
mod systemd;

#[path = "systemd/crash.rs"]
mod crash;
#[path = "systemd/ends.rs"]
mod ends;
#[path = "systemd/hardened.rs"]
mod hardened;
#[path = "systemd/readiness.rs"]
mod readiness;
#[path = "systemd/sockets.rs"]
mod sockets;

use common::Address;
use systemd::{SystemdBox, UNITS, in_each};

/// A port on all addresses, as a client inside sees it.
fn port(number: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], number).into())
}

/// A unit of a test's own, with more lines for its [Service].
fn unit(flags: &str, more: &[&str]) -> String {
    let start = format!("ExecStart=/usr/local/bin/socketmaster {flags}");
    let mut lines = vec!["[Service]", "Type=notify", &start, "KillMode=mixed"];
    lines.extend(more);
    lines.join("\n") + "\n"
}

/// What a client inside is answered.
fn get(systemd: &SystemdBox, address: &Address) -> String {
    let answer = systemd.visit(|| address.get());
    answer.unwrap_or_else(|error| panic!("GET from {address:?}: {error}"))
}

#[test]
fn each_systemd_boots_and_finds_nothing_wrong_with_our_units() {
    in_each(|systemd| {
        assert_eq!(systemd.run(&["systemctl", "is-system-running"]), "running");
        for (unit, _) in units() {
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
    });
}

/// The units: name and text.
fn units() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(UNITS).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let unit = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    paths.map(unit).collect()
}

#[test]
fn the_readme_has_each_unit_as_it_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("a README");
    for (name, text) in units() {
        let block = format!("```ini\n{text}```");
        let found = readme.contains(&block);
        assert!(found, "the README does not have {name} as it is:\n{text}");
    }
}
