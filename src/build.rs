//! What the linker leaves out of a release build. It changes nothing of what the program does.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The tables for unwinding the stack, a tenth of the program: a panic ends the process, and in a
/// stripped program a backtrace has nothing to name.
const WITHOUT_UNWINDING: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame.*) *(.gcc_except_table .gcc_except_table.*) } }
INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    if !(is("PROFILE", "release") && is("DEBUG", "false") && is("CARGO_CFG_TARGET_OS", "linux")) {
        return;
    }
    let script = Path::new(&variable("OUT_DIR")).join("without-unwinding.ld");
    fs::write(&script, WITHOUT_UNWINDING).expect("cargo's own directory is writable");
    link(&format!("--no-eh-frame-hdr,-T,{}", script.display()));
    if loader_takes_packed_relocations() {
        link("-z,pack-relative-relocs");
    }
}

/// Addresses that the loader must adjust: a bit each instead of 24 bytes. glibc's can since 2.36,
/// and what is built here will at best run with what is here.
fn loader_takes_packed_relocations() -> bool {
    let asked = || {
        Command::new("getconf")
            .arg("GNU_LIBC_VERSION")
            .output()
            .ok()
    };
    let native = variable("HOST") == variable("TARGET") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let Some(answer) = native.then(asked).flatten() else {
        return false;
    };
    let answer = String::from_utf8_lossy(&answer.stdout);
    let minor = answer
        .trim()
        .strip_prefix("glibc 2.")
        .and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| minor >= 36)
}

fn link(words: &str) {
    println!("cargo::rustc-link-arg-bins=-Wl,{words}");
}

fn is(name: &str, value: &str) -> bool {
    variable(name) == value
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
