//! Which programs are here. A test whose program is missing says so and passes; it must never pass
//! silently where the program was promised.

use crate::common::skip;
use std::env;
use std::path::{Path, PathBuf};

/// Programs, by their names, that must be here: separated by commas or blanks.
const REQUIRED: &str = "SOCKETMASTER_REQUIRE";

/// Whether every one of them is here. Panics when a missing one was promised.
pub fn all_there(names: &[&str]) -> bool {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| find(name).is_none())
        .collect();
    let promised = env::var(REQUIRED).unwrap_or_default();
    for name in &missing {
        let is_promised = promised.split([',', ' ']).any(|word| word == *name);
        assert!(!is_promised, "{REQUIRED} promises {name}, which is missing");
    }
    if !missing.is_empty() {
        skip(&format!("{} is not installed", missing.join(", ")));
    }
    missing.is_empty()
}

/// The program in `PATH`, or where Debian keeps those of the administrator.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
