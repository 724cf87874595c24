//! Einhorn's commands on the control socket: what their arguments mean, and what they are answered
//! with, to the letter where a tool may read it. The functions check and word, and change nothing.

use super::SPOKEN_VERSION;
use crate::control::protocol::MAX_DEPTH;
use crate::control::waiters::ReloadStep;
use crate::supervisor::{ChildId, Supervisor};
use crate::text::{signal_name, signal_number};
use serde_json::Value;
use slog::Level;
use std::cmp::Ordering;

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

/// The answer to `help`, or to a command that is `unknown`. With socketmaster's `own` commands, the
/// one that both have is listed as socketmaster's.
pub fn list(unknown: Option<&str>, own: Option<&str>) -> String {
    let head = match unknown {
        Some(command) => format!("Unrecognized command: {command:?}"),
        None => {
            "You are speaking to the Einhorn command socket. You can run the following commands:"
                .to_owned()
        }
    };
    let commands = match own {
        Some(own) => COMMANDS.replace("reload: Reload Einhorn\n", "") + own,
        None => COMMANDS.to_owned(),
    };
    format!("{head}\n\n{commands}")
}

/// `state`, under einhorn's names, for people and for what greps in it.
pub fn state(core: &Supervisor, pid: impl Fn(ChildId) -> Option<i32>, level: Level) -> String {
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
        verbosity(level)
    )
}

/// The arguments, when they are an array of strings. Errors: the answer that einhorn gives.
fn strings<'a>(args: &'a Value) -> Result<Vec<&'a str>, String> {
    let string = |value: &'a Value| {
        let class = match value {
            Value::String(text) => return Ok(text.as_str()),
            Value::Null => "NilClass",
            Value::Bool(true) => "TrueClass",
            Value::Bool(false) => "FalseClass",
            Value::Number(number) if number.is_f64() => "Float",
            Value::Number(_) => "Integer",
            Value::Array(_) => "Array",
            Value::Object(_) => "Hash",
        };
        Err(format!("Argument is a {class}, not a string: {value}"))
    };
    match args {
        Value::Null => Err("No args provided".into()),
        Value::Array(values) => values.iter().map(string).collect(),
        _ => Err("Args must be an array".into()),
    }
}

/// `inc`, `dec` and `set_workers`: the number of workers that is wanted in place of `old`, and the
/// answer. Errors: the answer that says why nothing changes.
pub fn resized(command: &str, args: &Value, old: u32, pid: u32) -> Result<(u32, String), String> {
    let (new, doing) = match command {
        "inc" => (old + 1, "Incrementing"),
        "dec" if old > 1 => (old - 1, "Decrementing"),
        "dec" => {
            return Err(format!(
                "Can't decrease number of workers (already at {old}).  \
                 Run kill {pid} if you really want to kill einhorn."
            ));
        }
        _ => {
            let given = strings(args)?.first().copied().unwrap_or_default();
            let new = given.parse().ok().filter(|new| (1..=1000).contains(new));
            let bad = || format!("Invalid count: '{given}'. Must be an integer in [1,1000).");
            let new: u32 = new.ok_or_else(bad)?;
            let will = match new.cmp(&old) {
                Ordering::Equal => return Ok((new, String::new())),
                Ordering::Greater => "spin up additional workers",
                Ordering::Less => "gracefully terminate workers",
            };
            let answer = format!("Altering worker count, {old} -> {new}. Will {will}.");
            return Ok((new, answer));
        }
    };
    let answer = format!("{doing} number of workers from {old} -> {new}");
    Ok((new, answer))
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

/// `signal`: einhorn joins one empty result for each signal.
pub fn signalled(signals: usize) -> String {
    "\n".repeat(signals.saturating_sub(1))
}

// ---- verbosity ----

/// The least severe level that is logged with each of einhorn's verbosities: 0 is everything, 1 what
/// happens, 2 only trouble.
const LEVELS: [Level; 3] = [Level::Trace, Level::Info, Level::Warning];

pub fn verbosity(level: Level) -> usize {
    let has_level = |least: &Level| level.is_at_least(*least);
    LEVELS.iter().rposition(has_level).unwrap_or(0)
}

/// A verbosity above 2 is taken as 2.
pub fn level_of(verbosity: usize) -> Level {
    LEVELS[verbosity.min(2)]
}

/// `quieter`, `louder` and `config`, which changes nothing but the verbosity: the level that is
/// wanted in place of `old`, and the answer. Errors: the answer that says why nothing changes.
pub fn changed_level(command: &str, args: &Value, old: Level) -> Result<(Level, String), String> {
    let new = match command {
        "quieter" => level_of(verbosity(old) + 1),
        "louder" => level_of(verbosity(old).saturating_sub(1)),
        _ => {
            let wanted = wanted_verbosity(args)?;
            let answer = format!("Successfully merged in config: {{:verbosity=>{wanted}}}");
            return Ok((level_of(wanted), answer));
        }
    };
    Ok((new, format!("Verbosity set to {}", verbosity(new))))
}

fn wanted_verbosity(args: &Value) -> Result<usize, String> {
    let args = strings(args)?;
    if args.is_empty() {
        return Err("Must pass in a YAML-encoded hash".into());
    }
    // Joined, because einhornsh splits at spaces that are not quoted.
    let map = match super::yaml::parse(&args.join(" "), MAX_DEPTH) {
        Ok(Value::Object(map)) => map,
        Ok(other) => return Err(format!("Parsed argument is {other}, not a hash")),
        Err(_) => return Err("Could not parse argument. Must be a YAML-encoded hash".into()),
    };
    let mut names = map.keys().map(|key| key.strip_prefix(':').unwrap_or(key));
    if let Some(name) = names.find(|name| *name != "verbosity") {
        let answer = format!("{name} cannot be changed while running; nothing changed");
        return Err(answer);
    }
    match map.values().next().map(Value::as_u64) {
        Some(Some(number @ 0..=2)) => Ok(number as usize),
        Some(_) => Err("verbosity must be 0, 1 or 2; nothing changed".into()),
        None => Err("Must pass in a YAML-encoded hash".into()),
    }
}

// ---- upgrades ----

/// The first answer to `upgrade` and `upgrade_fleet`.
pub fn upgrading(smooth: bool) -> String {
    let how = if smooth { "smoothly" } else { "fleet" };
    format!("Upgrading {how}, as commanded")
}

/// Another upgrade is asked for while one is running.
pub fn upgrade_remembered(acked: u32, target: u32) -> String {
    format!("Currently upgrading ({acked} / {target} ACKs); another upgrade follows this one")
}

/// The lines that a step of an upgrade streams. Versions count the upgrades from 0.
pub fn upgrade_step(step: ReloadStep, smooth: bool) -> Vec<String> {
    match step {
        ReloadStep::Begun { live, .. } => {
            let kind = if smooth { "smooth" } else { "fleet" };
            let version = live.saturating_sub(1);
            vec![format!("Starting {kind} upgrade from version {version}...")]
        }
        ReloadStep::Started { pid, index } => {
            vec![format!("===> Launched {pid} (index: {index})")]
        }
        ReloadStep::Ready {
            pid,
            timer,
            ready,
            wanted,
        } => {
            let (line, kind) = match timer {
                Some(life) => (
                    format!(
                        "Worker {pid} has been up for {life}s, so we are considering it alive."
                    ),
                    "timer",
                ),
                None => (format!("Received a manual ACK from {pid}"), "manual"),
            };
            vec![line, format!("Up to {ready} / {wanted} {kind} ACKs")]
        }
        ReloadStep::Asked { pid, signal, old } => {
            let culling = "Smooth upgrade: killing off 1 old workers.".to_owned();
            let signal = signal_name(signal);
            let signal = signal.strip_prefix("SIG").unwrap_or(&signal);
            let sending = format!("Sending {signal} to [{pid}]");
            let culling = Some(culling).filter(|_| smooth && old);
            culling.into_iter().chain([sending]).collect()
        }
        ReloadStep::Gone { pid, was_ready, .. } => {
            let early = if was_ready {
                ""
            } else {
                " before it was ACKed"
            };
            vec![format!("===> Exited worker {pid}{early}")]
        }
    }
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
