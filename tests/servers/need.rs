//! Which programs are here. A test whose program is missing says so and passes; it must never pass
//! silently where the program was promised.

use crate::common::skip;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The names of what must be here, separated by commas or blanks.
const REQUIRED: &str = "SOCKETMASTER_REQUIRE";

/// What a recipe needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// In `PATH`, or where Debian keeps what is the administrator's; also with a version after its
    /// name (`php-fpm8.2`).
    Program(&'static str),
    /// Importable by `python3`.
    Python(&'static str),
    /// Usable by `perl`.
    Perl(&'static str),
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Program(name) | Need::Python(name) | Need::Perl(name) => name,
        }
    }

    fn is_here(self) -> bool {
        match self {
            Need::Program(name) => find(name).is_some(),
            Need::Python(module) => succeeds("python3", &["-c", &format!("import {module}")]),
            Need::Perl(module) => succeeds("perl", &[&format!("-M{module}"), "-e1"]),
        }
    }
}

/// Whether every one of them is here. Panics when a missing one was promised.
pub fn all_there(needs: &[Need]) -> bool {
    let missing = needs.iter().filter(|need| !need.is_here());
    let missing: Vec<&str> = missing.map(|need| need.name()).collect();
    let promised = env::var(REQUIRED).unwrap_or_default();
    for name in &missing {
        let is_promised = promised
            .split([',', ' '])
            .any(|word| is_version(word, name));
        assert!(!is_promised, "{REQUIRED} promises {name}, which is missing");
    }
    if !missing.is_empty() {
        skip(&format!("{} is not installed", missing.join(", ")));
    }
    missing.is_empty()
}

fn succeeds(program: &str, words: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `PATH`, with the administrator's directory.
pub fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    path
}

/// The program's file: the first of that name, else the first with a version after it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = path();
    let exact = env::split_paths(&path).map(|dir| dir.join(name));
    exact
        .chain(env::split_paths(&path).filter_map(|dir| versioned(&dir, name)))
        .find(|file| file.is_file())
}

fn versioned(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let file = names.find(|file| is_version(file, name))?;
    Some(dir.join(file))
}

/// `php-fpm8.2` is a version of `php-fpm`, and so is `php-fpm` itself.
fn is_version(file: &str, name: &str) -> bool {
    let version = file.strip_prefix(name);
    version.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}
