//! Programs that may be missing. A test without its program says so and passes, but where
//! SOCKETMASTER_REQUIRE names it, it fails.

use super::common::skip;
use std::env;

/// Whether a program can be found in PATH.
pub fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return true;
    }
    let required = env::var("SOCKETMASTER_REQUIRE").unwrap_or_default();
    let is_required = required.split([',', ' ']).any(|name| name == program);
    assert!(
        !is_required,
        "SOCKETMASTER_REQUIRE has {program}, and it is missing"
    );
    skip(&format!("{program} is not installed"));
    false
}
