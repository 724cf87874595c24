//! The house's rules about who may know what, held by reading the sources.

use std::fs;
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Every source file, as its path below src/ and its text without unit tests.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(SRC)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(SRC)
                    .unwrap_or(&path)
                    .display()
                    .to_string();
                let text = fs::read_to_string(&path).expect("a source is text");
                let tests = text.find("mod tests {").unwrap_or(text.len());
                found.push((name, text[..tests].to_owned()));
            }
        }
    }
    found
}

fn is_test(name: &str) -> bool {
    let path = Path::new(name);
    path.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

/// The lines of code, not of comments, in which `word` stands in a file that may not say it.
fn offences(word: &str, may: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (name, code) in sources() {
        if is_test(&name) || may(&name) {
            continue;
        }
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        found.extend(
            lines
                .filter(|line| line.contains(word))
                .map(|line| format!("{name}: {line}")),
        );
    }
    found
}

fn is_in(name: &str, module: &str) -> bool {
    name == format!("{module}.rs") || name.starts_with(&format!("{module}/"))
}

#[test]
fn only_the_poller_knows_mio() {
    let may = |name: &str| is_in(name, "poller");
    assert_eq!(offences(" mio::", may), [""; 0]);
}

#[test]
fn only_the_start_up_knows_the_daemon() {
    let may = |name: &str| is_in(name, "daemon") || name == "startup.rs";
    assert_eq!(offences("daemon::", may), [""; 0]);
}

#[test]
fn unsafe_stands_only_in_sys_and_spawn() {
    let may = |name: &str| is_in(name, "sys") || name == "worker/spawn.rs";
    assert_eq!(offences("unsafe ", may), [""; 0]);
}

#[test]
fn sys_and_text_import_nothing_of_ours() {
    let may = |name: &str| !is_in(name, "sys") && !is_in(name, "text");
    assert_eq!(offences("crate::", may), [""; 0]);
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    assert_eq!(offences(".unwrap()", |_| false), [""; 0]);
}

#[test]
fn the_core_and_its_words_do_no_io() {
    let pure = [
        "supervisor",
        "control/protocol",
        "control/status",
        "listen/uri",
        "args",
        "config",
        "text",
        "worker/env",
    ];
    let impure = |name: &str| !pure.iter().any(|module| is_in(name, module));
    for word in [
        "std::fs",
        "std::net::Tcp",
        "std::process",
        "nix::unistd",
        "std::time::Instant",
    ] {
        assert_eq!(offences(word, impure), [""; 0]);
    }
}

#[test]
fn only_the_start_up_and_what_the_loop_owns_log() {
    let owners = ["daemon", "log", "control/server", "listen/listeners"];
    let may = |name: &str| name == "startup.rs" || owners.iter().any(|owner| is_in(name, owner));
    for word in ["info!(", "warn!(", "error!("] {
        assert_eq!(offences(word, may), [""; 0]);
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |(name, code): &(String, String)| !is_test(name) && !code.starts_with("//!");
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(silent)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(silent, [""; 0]);
}
