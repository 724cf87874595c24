//! The command line: Go's and GNU's spelling normalised, argh, and validation into a `Config`.
//! Pure: it opens nothing and asks the system nothing.

use crate::uri::Uri;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How a new worker shows that it is ready (`-ready`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It stays alive for `-start`.
    Timer,
    /// It sends `READY=1` to its `NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
    /// It sends einhorn's `worker:ack` to the control socket.
    Ack,
}

/// What becomes of the workers' stdout and stderr (`-output`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Prefix,
    Lossy,
    Inherit,
}

/// How workers are told about their sockets (`-protocol`); any set of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocols {
    pub einhorn: bool,
    pub systemd: bool,
    pub server_starter: bool,
    pub nginx: bool,
    pub php_fpm: bool,
}

/// Where our log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The journal's form is chosen by main when JOURNAL_STREAM matches.
    Stderr,
    /// A syslog daemon's datagram socket, `/dev/log` unless `-syslog-socket` names another.
    Syslog(PathBuf),
}

/// A validated command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As given: resolved in PATH again at every start.
    pub command: OsString,
    pub arguments: Vec<OsString>,
    pub listen: Vec<Uri>,
    pub start: Duration,
    pub user: Option<String>,
    pub log: LogTarget,
    pub workers: u32,
    pub max_extra: u32,
    pub ready: Gate,
    pub stop_signal: i32,
    /// `None`: never killed.
    pub stop: Option<Duration>,
    pub respawn: bool,
    pub protocols: Protocols,
    pub output: Output,
    pub control: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    pub takeover: Option<i32>,
    pub die_with_parent: bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Run(Config),
    Check(Config),
    /// The text for stdout.
    Help(String),
    Version,
}
