//! The rules of the house about who may know what and how things are called, held by reading the
//! sources. Comments and unit tests are exempt, except from the rules about whole files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// How many lines `src` may have without unit tests, comments included.
const MOST_LINES: usize = 15_700;

/// The names that stand for two things today. A name leaves the list when one of the two is renamed;
/// none may come.
const DOUBLED_TYPES: [&str; 0] = [];
const DOUBLED_FILES: [&str; 3] = ["commands", "notify", "signals"];

/// The files that may hold methods of the daemon.
const DAEMON: [&str; 1] = ["daemon/mod.rs"];

/// One file of `src`.
struct Source {
    /// Its path below `src`.
    name: String,
    /// Its text up to its unit tests.
    code: String,
}

impl Source {
    /// Its lines without comments.
    fn lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.code.lines();
        lines.filter(|line| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, module: &str) -> bool {
        self.name == format!("{module}.rs") || self.name.starts_with(&format!("{module}/"))
    }

    /// The name of the module that the file is, which `mod.rs` does not tell.
    fn stem(&self) -> Option<&str> {
        let stem = Path::new(&self.name).file_stem()?.to_str()?;
        (stem != "mod").then_some(stem)
    }
}

/// Every file of `src` that is not a unit test as a whole.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(SRC)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let name = path.strip_prefix(SRC).expect("it is in src").to_owned();
            if name.ends_with("tests") || name.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is text");
                let tests = text.find("\n#[cfg(test)]\nmod tests {");
                found.push(Source {
                    name: name.display().to_string(),
                    code: text[..tests.map_or(text.len(), |at| at + 1)].to_owned(),
                });
            }
        }
    }
    assert!(found.len() > 30, "these are not all sources");
    found
}

/// The lines of code in which `word` stands in a file that may not say it.
fn offences(word: &str, may: impl Fn(&Source) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !may(source)) {
        let lines = source.lines().filter(|line| line.contains(word));
        found.extend(lines.map(|line| format!("{}: {line}", source.name)));
    }
    found
}

/// The names that stand in more than one file. `names` gives those of a file.
fn doubled(names: impl Fn(&Source) -> Vec<String>) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        // The same name twice in one file is one thing under two cargo features.
        for name in BTreeSet::from_iter(names(&source)) {
            places.entry(name).or_default().push(source.name.clone());
        }
    }
    places.retain(|_, files| files.len() > 1);
    places
}

// ---- who may know what ----

#[test]
fn only_the_poller_knows_mio() {
    assert_eq!(offences(" mio::", |it| it.is_in("poller")), [""; 0]);
}

#[test]
fn only_the_start_up_knows_the_daemon() {
    let may = |it: &Source| it.is_in("daemon") || it.name == "startup.rs" || it.name == "main.rs";
    assert_eq!(offences("daemon::", may), [""; 0]);
}

#[test]
fn methods_of_the_daemon_stand_in_one_file() {
    let may = |it: &Source| DAEMON.contains(&it.name.as_str());
    assert_eq!(offences("impl Daemon", may), [""; 0]);
}

#[test]
fn sys_and_text_import_nothing_of_ours() {
    for word in ["crate::", "super::super::"] {
        let may = |it: &Source| !it.is_in("sys") && !it.is_in("text");
        assert_eq!(offences(word, may), [""; 0]);
    }
    assert_eq!(offences("super::", |it| !it.is_in("text")), [""; 0]);
}

#[test]
fn the_core_imports_std_and_serde_only() {
    let sources = sources();
    let core = || sources.iter().filter(|source| source.is_in("supervisor"));
    let mut known: BTreeSet<&str> = core().filter_map(Source::stem).collect();
    known.extend(["std", "serde", "super", "self"]);
    for source in core() {
        for line in source.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let path = line.strip_prefix("use ").unwrap_or("std");
            let root = path.split("::").next().unwrap_or_default();
            let root = root.trim_end_matches(';');
            assert!(known.contains(root), "{}: {line}", source.name);
        }
    }
    for word in ["crate::", "nix::", "libc::", "slog::"] {
        let may = |it: &Source| !it.is_in("supervisor");
        assert_eq!(offences(word, may), [""; 0]);
    }
}

#[test]
fn the_core_and_its_words_do_no_io() {
    let pure = [
        "supervisor",
        "control/protocol",
        "control/status",
        "listen/uri",
        "listen/inherited",
        "args",
        "config",
        "text",
        "worker/env",
    ];
    let may = |it: &Source| !pure.iter().any(|module| it.is_in(module));
    for word in [
        "std::fs",
        "std::net::Tcp",
        "std::process",
        "nix::unistd",
        "std::time::Instant",
    ] {
        assert_eq!(offences(word, may), [""; 0]);
    }
}

#[test]
fn only_the_start_up_and_what_the_loop_owns_log() {
    let owners = [
        "startup",
        "daemon",
        "log",
        "control/server",
        "listen/listeners",
    ];
    let may = |it: &Source| owners.iter().any(|owner| it.is_in(owner));
    for word in ["info!(", "warn!(", "error!("] {
        assert_eq!(offences(word, may), [""; 0]);
    }
}

#[test]
fn unsafe_stands_only_in_sys_and_spawn() {
    let may = |it: &Source| it.is_in("sys") || it.name == "worker/spawn.rs";
    for word in ["unsafe ", "allow(unsafe_code"] {
        assert_eq!(offences(word, may), [""; 0]);
    }
}

// ---- what never stands anywhere ----

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    assert_eq!(offences(".unwrap()", |_| false), [""; 0]);
}

#[test]
fn nothing_is_an_option_of_an_option() {
    assert_eq!(offences("Option<Option<", |_| false), [""; 0]);
}

#[test]
fn no_dead_code_is_allowed_in_a_whole_file() {
    assert_eq!(offences("#![allow(dead_code", |_| false), [""; 0]);
}

// ---- names and files ----

#[test]
fn no_type_stands_for_two_things() {
    let types = |source: &Source| {
        let mut types = Vec::new();
        for line in source.lines() {
            // `pub(crate) struct Name<T> {`. An associated type is indented, and does not count.
            let line = match line.split_once(' ') {
                Some((word, rest)) if word.starts_with("pub") => rest,
                _ => line,
            };
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let (Some("struct" | "enum" | "type" | "trait" | "union"), Some(name)) =
                (words.next(), words.next())
            {
                types.push(name.to_owned());
            }
        }
        types
    };
    let doubled = doubled(types);
    let names: Vec<&String> = doubled.keys().collect();
    assert_eq!(names, DOUBLED_TYPES, "{doubled:#?}");
}

#[test]
fn no_file_name_stands_for_two_things() {
    let doubled = doubled(|source| source.stem().map(str::to_owned).into_iter().collect());
    let names: Vec<&String> = doubled.keys().collect();
    assert_eq!(names, DOUBLED_FILES, "{doubled:#?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources() {
        assert!(source.code.starts_with("//!"), "{}", source.name);
    }
}

#[test]
fn unit_tests_stand_at_the_end_of_a_file() {
    for source in sources() {
        let rest = source.code.split_once("mod tests;\n").map(|it| it.1);
        assert_eq!(rest.unwrap_or_default(), "", "{}", source.name);
    }
}

#[test]
fn the_program_stays_small() {
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        let room = source.name.split('/').next().unwrap_or_default();
        *rooms.entry(room.to_owned()).or_default() += source.code.lines().count();
    }
    let lines: usize = rooms.values().sum();
    assert!(lines <= MOST_LINES, "{lines} lines: {rooms:#?}");
}
