//! What einhorn's commands are answered with, to the letter where a tool may read it. Pure: the
//! functions check and word, they change nothing.

use super::{SPOKEN_VERSION, Verbosity};
use crate::protocol::{Args, Value, json};
use nix::sys::signal::Signal;
use std::fmt::Display;
use std::str::FromStr;

/// The answer to a request that names no command.
pub const NO_COMMAND: &str = "No \"command\" parameter provided; not sure what you want me to do.";
/// The first answer to `upgrade`; `wait` is set.
pub const UPGRADING_SMOOTHLY: &str = "Upgrading smoothly, as commanded";
/// The first answer to `upgrade_fleet`; `wait` is set.
pub const UPGRADING_FLEET: &str = "Upgrading fleet, as commanded";
/// The last answer to both when all new workers are up; without `wait`.
pub const UPGRADE_DONE: &str = "Upgrade done";
/// The only answer to `reload`.
pub const RELOADING: &str = "Reloading, as commanded";
/// The answer to `signal` without a signal, and to `set_workers` without a change.
pub const NOTHING: &str = "";

/// The commands that `help` lists, sorted as einhorn sorts them.
pub const COMMANDS: [(&str, &str); 13] = [
    (
        "config",
        "Merge in a new set of config options (args: YAML-encoded hash)",
    ),
    ("dec", "Decrement the number of Einhorn child processes"),
    (
        "die",
        "Send SIGNAL (default: SIGUSR2) to all workers, stop spawning new ones, and exit once all workers die (args: [SIGNAL])",
    ),
    ("help", "Print out available commands"),
    ("inc", "Increment the number of Einhorn child processes"),
    ("louder", "Increase verbosity"),
    ("quieter", "Decrease verbosity"),
    ("reload", "Reload Einhorn"),
    (
        "set_workers",
        "Set the number of Einhorn child processes (args: COUNT)",
    ),
    (
        "signal",
        "Send one or more signals to all workers (args: SIG1 [SIG2 ...])",
    ),
    ("state", "Get a dump of Einhorn's current state"),
    ("upgrade", "Replace all workers, one by one"),
    ("upgrade_fleet", "Replace all workers at once"),
];

/// `ehlo`.
pub fn ehlo(user: Option<&str>, pid: u32, name: Option<&str>) -> String {
    let name = name.map_or(String::new(), |name| format!(" ({name})"));
    format!(
        "Welcome, {}! You are speaking to Einhorn Master Process {pid}{name}.\n\
         This is Einhorn {SPOKEN_VERSION} (socketmaster {}).\n",
        user.unwrap_or_default(),
        env!("CARGO_PKG_VERSION")
    )
}

fn command_list() -> String {
    COMMANDS
        .iter()
        .map(|(name, what)| format!("{name}: {what}\n"))
        .collect()
}

/// `help`.
pub fn help() -> String {
    format!(
        "You are speaking to the Einhorn command socket. You can run the following commands:\n\n{}",
        command_list()
    )
}

/// A command that nobody knows.
pub fn unrecognized(command: &str) -> String {
    format!("Unrecognized command: {command:?}\n\n{}", command_list())
}

/// `inc`, when there were `old` workers.
pub fn incremented(old: u32) -> String {
    format!("Incrementing number of workers from {old} -> {}", old + 1)
}

/// `dec`, when there were `old` workers: the new number, or why not.
pub fn decremented(old: u32, pid: u32) -> (Option<u32>, String) {
    if old <= 1 {
        let text = format!(
            "Can't decrease number of workers (already at {old}).  \
             Run kill {pid} if you really want to kill einhorn."
        );
        return (None, text);
    }
    (
        Some(old - 1),
        format!("Decrementing number of workers from {old} -> {}", old - 1),
    )
}

/// The number that `set_workers` asks for.
///
/// # Errors
/// The answer that says what is wrong with it.
pub fn wanted_workers(args: &Args) -> Result<u32, String> {
    let args = args.strings()?;
    let given = args.first().copied().unwrap_or_default();
    match given.parse::<u32>() {
        Ok(count @ 1..=1000) => Ok(count),
        _ => Err(format!(
            "Invalid count: '{given}'. Must be an integer in [1,1000)."
        )),
    }
}

/// `set_workers`, from `old` to `new`.
pub fn altered(old: u32, new: u32) -> String {
    let will = match old.cmp(&new) {
        std::cmp::Ordering::Equal => return NOTHING.into(),
        std::cmp::Ordering::Less => "spin up additional workers",
        std::cmp::Ordering::Greater => "gracefully terminate workers",
    };
    format!("Altering worker count, {old} -> {new}. Will {will}.")
}

/// `quieter` and `louder`.
pub fn verbosity(now: Verbosity) -> String {
    format!("Verbosity set to {}", now.number())
}

/// The signals that `signal` or `die` names, all of them valid: number and name without `SIG`.
///
/// # Errors
/// The answer that names the first bad one.
pub fn wanted_signals(args: &Args) -> Result<Vec<(i32, String)>, String> {
    args.strings()?.into_iter().map(wanted_signal).collect()
}

fn wanted_signal(given: &str) -> Result<(i32, String), String> {
    let upper = given.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    match Signal::from_str(&format!("SIG{known}")) {
        Ok(signal) => Ok((signal as i32, name.to_owned())),
        Err(_) => Err(format!("Invalid signal: {name:?}")),
    }
}

/// `signal`: einhorn joins one empty result for each signal.
pub fn signalled(signals: usize) -> String {
    "\n".repeat(signals.saturating_sub(1))
}

/// `die`: the signal (USR2 if none is named).
///
/// # Errors
/// The answer that names a bad one.
pub fn wanted_death(args: &Args) -> Result<(i32, String), String> {
    let first = wanted_signals(args)?.into_iter().next();
    Ok(first.unwrap_or_else(|| (libc::SIGUSR2, "USR2".into())))
}

/// The answer to `die`; the connection ends when we do.
pub const GOING_DOWN: &str = "Einhorn is going down! ";

/// What `config` may change while we run; all else stands on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub verbosity: Verbosity,
}

/// `config`: the change and its answer, or only the answer. Nothing is changed by half.
pub fn config(args: &Args) -> (Option<Change>, String) {
    match wanted_change(args) {
        Ok((change, answer)) => (Some(change), answer),
        Err(answer) => (None, answer),
    }
}

fn wanted_change(args: &Args) -> Result<(Change, String), String> {
    let args = args.strings()?;
    if args.is_empty() {
        return Err("Must pass in a YAML-encoded hash".into());
    }
    // Joined, so that nobody need quote the spaces.
    let parsed = crate::protocol::yaml::parse(&args.join(" "))
        .map_err(|_| "Could not parse argument. Must be a YAML-encoded hash")?;
    let Value::Object(map) = parsed else {
        return Err(format!(
            "Parsed argument is {}, not a hash",
            json::text(&parsed)
        ));
    };
    let mut change = None;
    for (key, value) in &map {
        let name = key.strip_prefix(':').unwrap_or(key);
        change = match (name, value.as_i64()) {
            ("verbosity", Some(0)) => Some(Verbosity::Debug),
            ("verbosity", Some(1)) => Some(Verbosity::Info),
            ("verbosity", Some(2)) => Some(Verbosity::Errors),
            ("verbosity", _) => return Err("verbosity must be 0, 1 or 2; nothing changed".into()),
            _ => {
                return Err(format!(
                    "{name} cannot be changed while running; nothing changed"
                ));
            }
        };
    }
    let verbosity = change.ok_or("Must pass in a YAML-encoded hash")?;
    let answer = format!(
        "Successfully merged in config: {{:verbosity=>{}}}",
        verbosity.number()
    );
    Ok((Change { verbosity }, answer))
}

// ---- the lines that an upgrade streams, and the log has too ----

/// The upgrade begins; `version` counts the upgrades from 0.
pub fn upgrade_starts(smooth: bool, version: u64) -> String {
    let kind = if smooth { "smooth" } else { "fleet" };
    format!("Starting {kind} upgrade from version {version}...")
}

/// Another upgrade is asked for while one is running.
pub fn upgrade_remembered(acked: u32, target: u32) -> String {
    format!("Currently upgrading ({acked} / {target} ACKs); another upgrade follows this one")
}

/// A worker has been started.
pub fn launched(pid: i32, index: u32) -> String {
    format!("===> Launched {pid} (index: {index})")
}

/// A worker is gone.
pub fn exited(pid: i32, acked: bool) -> String {
    let early = if acked { "" } else { " before it was ACKed" };
    format!("===> Exited worker {pid}{early}")
}

/// A worker has been up for its `-m` seconds.
pub fn timer_ack(pid: i32, seconds: impl Display) -> String {
    format!("Worker {pid} has been up for {seconds}s, so we are considering it alive.")
}

/// A worker said `worker:ack`.
pub fn manual_ack(pid: i32) -> String {
    format!("Received a manual ACK from {pid}")
}

/// How far the new workers are, and how many had died before.
pub fn acks(acked: u32, target: u32, manual: bool, deaths: u32) -> String {
    let kind = if manual { "manual" } else { "timer" };
    let streak = match deaths {
        0 => String::new(),
        n => format!(", breaking the streak of {n} consecutive unacked workers dying"),
    };
    format!("Up to {acked} / {target} {kind} ACKs{streak}")
}

/// A smooth upgrade has so many more workers than it needs.
pub fn culling_smoothly(excess: usize) -> String {
    format!("Smooth upgrade: killing off {excess} old workers.")
}

/// `signal` without its `SIG`.
pub fn sending(signal: &str, pids: &[i32]) -> String {
    format!("Sending {signal} to {pids:?}")
}

/// All new workers are up; [`UPGRADE_DONE`] follows.
pub fn upgraded(version: u64) -> String {
    format!("Upgraded successfully to version {version} (Einhorn {SPOKEN_VERSION}).")
}

/// The last answer to an upgrade that came to nothing, where einhorn lets its client wait for ever.
pub fn upgrade_failed(reason: &str) -> String {
    format!("Upgrade failed: {reason}")
}
