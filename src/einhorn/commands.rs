//! Einhorn's commands on the control socket: what their arguments mean, and what they are answered
//! with, to the letter where a tool may read it. The functions check and word, and change nothing.

use super::SPOKEN_VERSION;
use crate::control::protocol::MAX_DEPTH;
use crate::supervisor::{ChildId, Supervisor};
use crate::text::signal_number;
use serde_json::Value;
use slog::Level;

/// The answer to a request that names no command.
pub const NO_COMMAND: &str = "No \"command\" parameter provided; not sure what you want me to do.";
/// The last answer to `upgrade` and `upgrade_fleet` when all new workers are up.
pub const UPGRADE_DONE: &str = "Upgrade done";
/// The only answer to `reload`.
pub const RELOADING: &str = "Reloading, as commanded";
/// The answer to `die`; the connection ends when we do.
pub const GOING_DOWN: &str = "Einhorn is going down! ";

/// The commands that `help` lists, sorted as einhorn sorts them.
const COMMANDS: &str = "\
config: Merge in a new set of config options (args: YAML-encoded hash)
dec: Decrement the number of Einhorn child processes
die: Send SIGNAL (default: SIGUSR2) to all workers, stop spawning new ones, and exit once all workers die (args: [SIGNAL])
help: Print out available commands
inc: Increment the number of Einhorn child processes
louder: Increase verbosity
quieter: Decrease verbosity
reload: Reload Einhorn
set_workers: Set the number of Einhorn child processes (args: COUNT)
signal: Send one or more signals to all workers (args: SIG1 [SIG2 ...])
state: Get a dump of Einhorn's current state
upgrade: Replace all workers, one by one
upgrade_fleet: Replace all workers at once
";

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

/// `help`.
pub fn help() -> String {
    format!(
        "You are speaking to the Einhorn command socket. You can run the following commands:\n\n{COMMANDS}"
    )
}

/// A command that nobody knows.
pub fn unrecognized(command: &str) -> String {
    format!("Unrecognized command: {command:?}\n\n{COMMANDS}")
}

/// The list of a `help` or `unrecognized` with socketmaster's own commands in place of the one that
/// both have.
pub fn with_own_commands(text: &str, own: &str) -> String {
    text.replace("reload: Reload Einhorn\n", "") + own
}

/// `state`, under einhorn's names, for people and for what greps in it.
pub fn state(
    core: &Supervisor,
    pid: impl Fn(ChildId) -> Option<i32>,
    verbosity: Verbosity,
) -> String {
    let mut text = String::from("---\n:state:\n  :children:\n");
    for (id, worker) in core.workers().iter() {
        text += &format!(
            "    {}:\n      :type: :worker\n      :version: {}\n      :acked: {}\n      \
             :signaled: {}\n      :index: {}\n",
            pid(id).unwrap_or(0),
            worker.generation.saturating_sub(1),
            worker.is_ready(),
            worker.is_stopping(),
            worker.index
        );
    }
    let upgrading = core.rolling_out().is_some() && core.has_been_up();
    text + &format!(
        "  :config:\n    :number: {}\n  :version: {}\n  :upgrading: {upgrading}\n  \
         :respawn: {}\n  :verbosity: {}\n",
        core.policy().workers,
        core.live_generation().saturating_sub(1),
        !core.is_stopping(),
        verbosity.0
    )
}

// ---- arguments ----

/// The arguments, when they are an array of strings; else the answer that einhorn gives.
pub fn strings(args: &Value) -> Result<Vec<&str>, String> {
    match args {
        Value::Null => Err("No args provided".into()),
        Value::Array(values) => values.iter().map(string).collect(),
        _ => Err("Args must be an array".into()),
    }
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| {
        let class = ruby_class(value);
        format!("Argument is a {class}, not a string: {value}")
    })
}

/// What Ruby calls the type, since einhorn's answers name it.
fn ruby_class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NilClass",
        Value::Bool(true) => "TrueClass",
        Value::Bool(false) => "FalseClass",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Integer",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Hash",
    }
}

/// The number that `set_workers` asks for. Errors: the answer that says what is wrong with it.
pub fn wanted_workers(args: &Value) -> Result<u32, String> {
    let args = strings(args)?;
    let given = args.first().copied().unwrap_or_default();
    let count = given
        .parse()
        .ok()
        .filter(|count| (1..=1000).contains(count));
    count.ok_or_else(|| format!("Invalid count: '{given}'. Must be an integer in [1,1000)."))
}

/// The signals that `signal` or `die` names. Errors: the answer that names the first bad one.
pub fn wanted_signals(args: &Value) -> Result<Vec<i32>, String> {
    let number = |given: &str| {
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            other => other,
        };
        signal_number(&format!("SIG{known}")).map_err(|_| format!("Invalid signal: {name:?}"))
    };
    strings(args)?.into_iter().map(number).collect()
}

/// `config`, which may change the verbosity while we run; all else stands on the command line.
/// Errors: the answer that says why nothing is changed.
pub fn wanted_config(args: &Value) -> Result<Verbosity, String> {
    let args = strings(args)?;
    if args.is_empty() {
        return Err("Must pass in a YAML-encoded hash".into());
    }
    // Joined, so that nobody need quote the spaces.
    let map = match super::yaml::parse(&args.join(" "), MAX_DEPTH) {
        Ok(Value::Object(map)) => map,
        Ok(other) => return Err(format!("Parsed argument is {other}, not a hash")),
        Err(_) => return Err("Could not parse argument. Must be a YAML-encoded hash".into()),
    };
    let mut wanted = Err("Must pass in a YAML-encoded hash".to_owned());
    for (key, value) in &map {
        wanted = match (key.strip_prefix(':').unwrap_or(key), value.as_u64()) {
            ("verbosity", Some(number @ 0..=2)) => Ok(Verbosity(number as u8)),
            ("verbosity", _) => return Err("verbosity must be 0, 1 or 2; nothing changed".into()),
            (name, _) => {
                return Err(format!(
                    "{name} cannot be changed while running; nothing changed"
                ));
            }
        };
    }
    wanted
}

/// Einhorn's number for what is said on stderr: 0 everything, 1 what happens, 2 only trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(pub u8);

impl Verbosity {
    /// The least severe level that is logged.
    pub fn level(self) -> Level {
        match self.0 {
            0 => Level::Trace,
            1 => Level::Info,
            _ => Level::Warning,
        }
    }

    /// The opposite of `level`.
    pub fn of(level: Level) -> Verbosity {
        match level {
            Level::Debug | Level::Trace => Verbosity(0),
            Level::Info => Verbosity(1),
            _ => Verbosity(2),
        }
    }

    pub fn quieter(self) -> Verbosity {
        Verbosity((self.0 + 1).min(2))
    }

    pub fn louder(self) -> Verbosity {
        Verbosity(self.0.saturating_sub(1))
    }
}

// ---- answers ----

/// `inc`, when there were `old` workers.
pub fn incremented(old: u32) -> String {
    format!("Incrementing number of workers from {old} -> {}", old + 1)
}

/// `dec`, when there were `old` workers. Errors: the answer that says why not.
pub fn decremented(old: u32, pid: u32) -> Result<String, String> {
    match old {
        0 | 1 => Err(format!(
            "Can't decrease number of workers (already at {old}).  \
             Run kill {pid} if you really want to kill einhorn."
        )),
        _ => Ok(format!(
            "Decrementing number of workers from {old} -> {}",
            old - 1
        )),
    }
}

/// `set_workers`; nothing is said where nothing changes.
pub fn altered(old: u32, new: u32) -> String {
    let will = match old.cmp(&new) {
        std::cmp::Ordering::Equal => return String::new(),
        std::cmp::Ordering::Less => "spin up additional workers",
        std::cmp::Ordering::Greater => "gracefully terminate workers",
    };
    format!("Altering worker count, {old} -> {new}. Will {will}.")
}

/// `quieter` and `louder`.
pub fn verbosity_set(now: Verbosity) -> String {
    format!("Verbosity set to {}", now.0)
}

/// `config`.
pub fn config_merged(now: Verbosity) -> String {
    format!("Successfully merged in config: {{:verbosity=>{}}}", now.0)
}

/// `signal`: einhorn joins one empty result for each signal.
pub fn signalled(signals: usize) -> String {
    "\n".repeat(signals.saturating_sub(1))
}

/// The first answer to `upgrade` and `upgrade_fleet`.
pub fn upgrading(smooth: bool) -> &'static str {
    match smooth {
        true => "Upgrading smoothly, as commanded",
        false => "Upgrading fleet, as commanded",
    }
}

// ---- the lines that an upgrade streams ----

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

/// A worker is up, because it has lived for so many seconds or because it said so, and how many of
/// the new ones are.
pub fn acked(pid: i32, timer: Option<f64>, acked: u32, target: u32) -> [String; 2] {
    match timer {
        Some(seconds) => [
            format!("Worker {pid} has been up for {seconds}s, so we are considering it alive."),
            format!("Up to {acked} / {target} timer ACKs"),
        ],
        None => [
            format!("Received a manual ACK from {pid}"),
            format!("Up to {acked} / {target} manual ACKs"),
        ],
    }
}

/// An old worker has its successor.
pub fn culling(workers: usize) -> String {
    format!("Smooth upgrade: killing off {workers} old workers.")
}

/// A worker is asked to stop; `signal` is the signal's name.
pub fn sending(signal: &str, pid: i32) -> String {
    let signal = signal.strip_prefix("SIG").unwrap_or(signal);
    format!("Sending {signal} to [{pid}]")
}

/// All new workers are up; [`UPGRADE_DONE`] follows.
pub fn upgraded(version: u64) -> String {
    format!("Upgraded successfully to version {version} (Einhorn {SPOKEN_VERSION}).")
}

/// The last answer to an upgrade that came to nothing, where einhorn lets its client wait for ever.
pub fn upgrade_failed(reason: &str) -> String {
    format!("Upgrade failed: {reason}")
}

#[cfg(test)]
mod tests;
