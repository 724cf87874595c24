//! What the linker leaves out of a release build. It changes nothing of what the program does.

use std::path::Path;
use std::{env, fs};

/// The tables for unwinding the stack, a tenth of the program: a panic ends the process, and in a
/// stripped program a backtrace has nothing to name.
const WITHOUT_UNWINDING: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame.*) *(.gcc_except_table .gcc_except_table.*) } }
INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let is = |name, value| env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("DEBUG", "false") && is("CARGO_CFG_TARGET_OS", "linux") {
        let directory = env::var("OUT_DIR").expect("set by cargo");
        let script = Path::new(&directory).join("without-unwinding.ld");
        fs::write(&script, WITHOUT_UNWINDING).expect("cargo's own directory is writable");
        println!(
            "cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}",
            script.display()
        );
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
