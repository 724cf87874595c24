//! The README's tables against the program: what is in one and not in the other is a failure.

mod common;

use common::{Report, Run};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;

/// A table of the README by its header's first cell: the rows, cell by cell.
fn table(first: &str) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = fs::read_to_string(path).expect("there is a README");
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        // A bar inside a cell is written \|.
        let line = line.replace("\\|", "\u{1}");
        line.split('|')
            .map(|cell| cell.trim().replace('\u{1}', "|"))
            .collect()
    };
    let mut lines = text.lines().skip_while(|line| !is_header(line, first));
    assert!(
        lines.next().is_some(),
        "the README has no table that begins with {first:?}"
    );
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

fn is_header(line: &str, first: &str) -> bool {
    line.strip_prefix('|')
        .is_some_and(|rest| rest.split('|').next().unwrap_or("").trim() == first)
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A flag as `-help` shows it: its name, and its default as the README writes it.
struct Flag {
    name: String,
    default: String,
}

fn flags() -> Vec<Flag> {
    let help = String::from_utf8(Run::bare().arg("-help").output().stdout).expect("UTF-8");
    let mut flags: Vec<Flag> = Vec::new();
    let mut text = String::new();
    for line in help.lines() {
        if let Some(flag) = line.strip_prefix("  -") {
            let name = flag.split('=').next().unwrap_or_default().to_owned();
            let default = String::new();
            flags.push(Flag { name, default });
            text.clear();
        } else if let (Some(more), Some(flag)) = (line.strip_prefix("        "), flags.last_mut()) {
            text = format!("{text} {more}");
            let default = text.rsplit_once(" (default ").map(|(_, default)| default);
            let required = text.ends_with(" (required)").then_some("required");
            let default = default.and_then(|default| default.strip_suffix(')'));
            flag.default = required.or(default).unwrap_or_default().to_owned();
        }
    }
    assert!(flags.len() > 10, "-help shows its flags: {help}");
    flags
}

#[test]
fn every_flag_is_in_the_readme_with_its_default_and_no_other() {
    let flags = flags();
    let rows = table("flag");
    let mut documented = BTreeSet::new();
    for row in &rows {
        let name = quoted(&row[0]).first().map(|flag| {
            let name = flag.trim_start_matches('-');
            name.split(['=', ' ', '['])
                .next()
                .unwrap_or_default()
                .to_owned()
        });
        let name = name.unwrap_or_else(|| panic!("no flag in backticks: {row:?}"));
        let flag = flags.iter().find(|flag| flag.name == name);
        let flag = flag.unwrap_or_else(|| panic!("the README has -{name}, the program has not"));
        let default = row[1].replace('`', "");
        assert_eq!(default, flag.default, "the default of -{name}");
        documented.insert(name);
    }
    let known: BTreeSet<String> = flags.iter().map(|flag| flag.name.clone()).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_readme_names_the_signals_that_the_program_catches_and_no_other() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    daemon.worker_that_said("up");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = u64::from_str_radix(mask.expect("proc(5)").trim(), 16).expect("proc(5)");
    let caught: BTreeSet<String> = Signal::iterator()
        .filter(|signal| mask >> (*signal as i32 - 1) & 1 == 1)
        // Deaths of workers are no signal for people; the last two are Rust's, for its stack guard.
        .filter(|s| !matches!(s, Signal::SIGCHLD | Signal::SIGSEGV | Signal::SIGBUS))
        .map(|signal| signal.as_str().to_owned())
        .collect();
    let documented: BTreeSet<String> = table("signal")
        .iter()
        .flat_map(|row| quoted(&row[0]))
        .map(|name| {
            if name.starts_with("SIG") {
                name
            } else {
                format!("SIG{name}")
            }
        })
        .collect();
    assert_eq!(documented, caught);
}

#[test]
fn every_variable_of_a_worker_is_in_the_readme() {
    let rows = table("protocol");
    let documented: BTreeSet<String> = rows
        .iter()
        .flatten()
        .flat_map(|cell| quoted(cell))
        .collect();
    let dir = common::TempDir::new();
    let flags = [
        "-protocol=einhorn,systemd,server-starter,nginx,php-fpm",
        "-ready=notify",
        &format!("-control={}", dir.word("control")),
    ];
    let bare: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    let daemon = Run::worker(&flags, &["report"]).start();
    for name in Report::first(&daemon).env_names() {
        if bare.iter().any(|inherited| inherited == name) {
            continue;
        }
        let general = name.replace('0', "n");
        let known = documented.contains(name) || documented.contains(&general);
        assert!(
            known,
            "{name} is not in the README's table of variables: {documented:?}"
        );
    }
}

#[test]
fn the_readme_names_every_exit_status() {
    let rows = table("exit status");
    let first: Vec<String> = rows.iter().map(|row| row[0].replace('`', "")).collect();
    for status in ["0", "1", "2"] {
        assert!(
            first.iter().any(|cell| cell == status),
            "{status} is not in {first:?}"
        );
    }
    let told = rows.iter().flatten().any(|cell| cell.contains("128"));
    assert!(
        told,
        "a worker that died of a signal gives 128 + its number"
    );
}
