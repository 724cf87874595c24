//! System calls that fail, by strace's fault injection, and signals at a given call. Only the
//! program itself is traced; the children that it forks are not.

use super::{Run, skip};
use std::env;

/// The program below strace with these expressions ("sendto:error=ENOBUFS"), each a list of calls and
/// what becomes of them; `None` where strace is not installed.
pub fn injected(run: Run, faults: &[&str]) -> Option<Run> {
    on_file(run, None, faults)
}

/// The same for the calls only that concern the file at this path.
pub fn injected_at(run: Run, path: &str, faults: &[&str]) -> Option<Run> {
    on_file(run, Some(path), faults)
}

fn on_file(run: Run, path: Option<&str>, faults: &[&str]) -> Option<Run> {
    if !has_strace() {
        return None;
    }
    let mut words = vec!["strace".to_owned(), "-o/dev/null".to_owned()];
    words.extend(path.map(|path| format!("-P{path}")));
    words.extend(faults.iter().map(|fault| format!("-einject={fault}")));
    Some(run.through(&words))
}

/// Where SOCKETMASTER_REQUIRE names it, it must be there.
fn has_strace() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|dir| dir.join("strace").is_file());
    let required = env::var("SOCKETMASTER_REQUIRE").unwrap_or_default();
    assert!(
        is_there || !required.split([',', ' ']).any(|name| name == "strace"),
        "SOCKETMASTER_REQUIRE has strace, and it is missing"
    );
    if !is_there {
        skip("strace is not installed");
    }
    is_there
}
