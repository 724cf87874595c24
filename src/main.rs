//! `socketmaster`: which program we are called as, and the exit status. What each program does must
//! be written in its own module.

mod args;
mod clock;
mod config;
mod control;
mod daemon;
#[cfg(feature = "einhorn")]
mod einhorn;
mod listen;
mod log;
mod own_file;
mod poller;
mod startup;
mod supervisor;
mod sys;
mod systemd;
mod text;
mod worker;

use crate::args::CommandLine;
use crate::sys::io::{stderr, stdout, write_all};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// A program takes the words after its name, and returns the exit status.
type Program = fn(Vec<OsString>) -> i32;

/// The programs of this binary beside the supervisor: the name that each is called by, and the first
/// word that chooses it under any other name.
const PROGRAMS: [(&str, &str, Program); 3] = [
    ("socketmaster-ctl", "ctl", control::client::main),
    ("einhorn", "einhorn", einhorn),
    ("einhornsh", "einhornsh", einhornsh),
];

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    let mut words: Vec<OsString> = words.collect();
    let first = words.first().cloned().unwrap_or_default();
    let status = if let Some((.., program)) = PROGRAMS.iter().find(|(name, ..)| called == *name) {
        program(words)
    } else if let Some((.., program)) = PROGRAMS.iter().find(|(_, word, _)| first == *word) {
        words.remove(0);
        program(words)
    } else {
        socketmaster(words)
    };
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// The supervisor under its own name.
fn socketmaster(words: Vec<OsString>) -> i32 {
    let signals = startup::catch_signals(&config::signals());
    match args::parse(words) {
        Ok(CommandLine::Help(text)) => print(&text, 0),
        Ok(CommandLine::Version) => {
            print(concat!("socketmaster ", env!("CARGO_PKG_VERSION"), "\n"), 0)
        }
        Ok(CommandLine::Check(config)) => {
            let (text, status) = startup::check(&config);
            print(&text, status)
        }
        Ok(CommandLine::Run(config)) => startup::run(*config, &[], signals)
            .unwrap_or_else(|reason| complain(&format!("socketmaster: {reason}"), 1)),
        Err(error) => complain(&format!("socketmaster: {error}"), error.status.into()),
    }
}

/// The supervisor by einhorn's command line.
#[cfg(feature = "einhorn")]
fn einhorn(words: Vec<OsString>) -> i32 {
    use crate::einhorn::cli::{Invocation, parse, processors, signals};
    use crate::einhorn::files::default_directory;
    let signals = startup::catch_signals(&signals());
    match parse(words, &default_directory(), processors()) {
        Ok(Invocation::Run { config, warnings }) => startup::run(*config, &warnings, signals)
            .unwrap_or_else(|reason| complain(&format!("einhorn: {reason}"), 1)),
        Ok(Invocation::Say { text, status }) => print(&text, status),
        Err(rejected) => complain(&rejected.message, rejected.status),
    }
}

#[cfg(feature = "einhorn")]
use crate::einhorn::shell::run as einhornsh;

#[cfg(not(feature = "einhorn"))]
fn einhorn(_: Vec<OsString>) -> i32 {
    let reason = "socketmaster: built without einhorn's faces (the cargo feature einhorn)";
    complain(reason, 2)
}

#[cfg(not(feature = "einhorn"))]
use einhorn as einhornsh;

/// That the reader has closed its end changes nothing about the status.
fn print(text: &str, status: i32) -> i32 {
    let _ = write_all(stdout(), text.as_bytes());
    status
}

/// A closed stderr, which cannot be written, is no reason to panic.
fn complain(reason: &str, status: i32) -> i32 {
    let _ = write_all(stderr(), format!("{reason}\n").as_bytes());
    status
}
