//! What a request asks for, and who may ask it: socketmaster's own commands and einhorn's. Nothing is
//! done here; what can be answered at once is.

use super::Rights;
use super::protocol::Request;
use crate::config::Dialect;
use crate::text::counted;
use serde_json::Value;
use slog::Level;

/// The most workers that anybody may ask for, as for `-workers`.
const WORKERS_MAX: u32 = 10_000;

/// A request that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `worker:ack`: a worker is ready.
    Ack,
    /// `worker:ping`: a worker is there.
    WorkerPing,
    /// Nothing but this answer was asked for.
    Say { answer: String, needs: Rights },
    /// With `json`, as an object in the field `status`, else as a table in the message.
    Status { json: bool },
    /// With `wait`, there is an answer for each new worker that is ready, and one with the verdict.
    Reload { wait: bool },
    /// With `wait`, there is an answer when all workers have gone.
    Stop { wait: bool },
    /// Have this number of workers from now on; `answer` says that it will be so.
    Resize { workers: u32, answer: String },
    /// Another executable of socketmaster takes the place of this process.
    SelfUpgrade,
    /// Einhorn's upgrade, which is a reload.
    #[cfg(feature = "einhorn")]
    Upgrade { smooth: bool },
    /// Einhorn's dump of what it knows.
    #[cfg(feature = "einhorn")]
    State,
    /// Send these signals to all workers.
    #[cfg(feature = "einhorn")]
    Signal { signals: Vec<i32>, answer: String },
    /// Stop with this signal; `None`: with the one that workers are asked to stop with.
    #[cfg(feature = "einhorn")]
    Die { signal: Option<i32> },
    #[cfg(feature = "einhorn")]
    SetLevel { level: Level, answer: String },
}

/// What an answer may depend on.
#[cfg_attr(
    not(feature = "einhorn"),
    allow(dead_code, reason = "einhorn's depend on more")
)]
pub struct Facts<'a> {
    pub dialect: &'a Dialect,
    pub pid: u32,
    /// The number of workers that a generation has now.
    pub workers: u32,
    /// The least severe level that is logged now.
    pub level: Level,
}

/// The command list, for `help` and for whoever says something else.
const HELP: &str = "\
reload [wait]: Start a new generation of workers and stop the old one when it is ready
self-upgrade: Replace this process by the executable that is on disk now
status [json]: Show sockets, workers and the last verdict
stop [wait]: Ask the workers to finish, and exit
workers N: Have N workers per generation
ping: Say who is there
";

impl Command {
    /// Reads a request.
    ///
    /// Errors: the answer that says what is wrong with it.
    pub fn parse(request: &Request, facts: &Facts) -> Result<Command, String> {
        let flag = |allowed| flag(&request.args, allowed);
        let word = request.command.as_deref().unwrap_or_default();
        Ok(match word {
            "worker:ack" => Command::Ack,
            "worker:ping" => Command::WorkerPing,
            #[cfg(feature = "einhorn")]
            "reload" if is_einhorns_reload(request, facts) => Command::Say {
                answer: crate::einhorn::commands::RELOADING.to_owned(),
                needs: Rights::Everything,
            },
            // `now` says nothing, but that socketmaster's reload is meant and not einhorn's.
            "reload" => Command::Reload {
                wait: flag("now") != Ok(true) && flag("wait")?,
            },
            "status" => Command::Status {
                json: flag("json")?,
            },
            "stop" => Command::Stop {
                wait: flag("wait")?,
            },
            "workers" => {
                let number = number(&request.args)?;
                let (after, before) = (counted(number as usize, "worker"), facts.workers);
                Command::Resize {
                    workers: number,
                    answer: format!("{after} per generation, {before} before"),
                }
            }
            "ping" => Command::Say {
                answer: format!(
                    "socketmaster {}, pid {}",
                    env!("CARGO_PKG_VERSION"),
                    facts.pid
                ),
                needs: Rights::Questions,
            },
            "self-upgrade" => Command::SelfUpgrade,
            #[cfg(feature = "einhorn")]
            _ => return parse_einhorns(request, facts),
            #[cfg(not(feature = "einhorn"))]
            _ => return Err(format!("Unrecognized command: {word:?}\n\n{HELP}")),
        })
    }

    /// What a client must be allowed for it.
    pub fn needs(&self) -> Rights {
        match self {
            Command::Ack | Command::WorkerPing => Rights::Reports,
            Command::Say { needs, .. } => *needs,
            Command::Status { .. } => Rights::Questions,
            #[cfg(feature = "einhorn")]
            Command::State => Rights::Questions,
            _ => Rights::Everything,
        }
    }
}

fn words(args: &Value) -> Result<Vec<&str>, String> {
    let words = match args {
        Value::Null => Some(Vec::new()),
        Value::Array(values) => values.iter().map(Value::as_str).collect(),
        _ => None,
    };
    words.ok_or_else(|| "the arguments must be an array of strings".to_owned())
}

/// Whether the one word that is allowed was given.
fn flag(args: &Value, allowed: &str) -> Result<bool, String> {
    match words(args)?[..] {
        [] => Ok(false),
        [word] if word == allowed => Ok(true),
        _ => Err(format!("nothing but {allowed:?} can be said here")),
    }
}

fn number(args: &Value) -> Result<u32, String> {
    let number = match words(args)?[..] {
        [word] => word.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (1..=WORKERS_MAX).contains(number));
    number.ok_or_else(|| format!("say how many workers: one number from 1 to {WORKERS_MAX}"))
}

/// Einhorn's `reload` has no words after it, and reloads the master alone.
#[cfg(feature = "einhorn")]
fn is_einhorns_reload(request: &Request, facts: &Facts) -> bool {
    let bare = !matches!(&request.args, Value::Array(words) if !words.is_empty());
    bare && matches!(facts.dialect, Dialect::Einhorn(_))
}

#[cfg(feature = "einhorn")]
fn parse_einhorns(request: &Request, facts: &Facts) -> Result<Command, String> {
    use crate::einhorn::commands::{self as einhorn, Verbosity};
    let (args, old) = (&request.args, facts.workers);
    let resize = |workers, answer| Command::Resize { workers, answer };
    let set_level = |now: Verbosity, answer: fn(Verbosity) -> String| Command::SetLevel {
        level: now.level(),
        answer: answer(now),
    };
    let ask = |answer| Command::Say {
        answer,
        needs: Rights::Questions,
    };
    let name = match facts.dialect {
        Dialect::Einhorn(name) => Some(name.as_deref()),
        Dialect::Socketmaster => None,
    };
    let list = |text: String| match name {
        Some(_) => text,
        None => einhorn::with_own_commands(&text, HELP),
    };
    let verbosity = Verbosity::of(facts.level);
    let Some(word) = request.command.as_deref() else {
        return Err(einhorn::NO_COMMAND.to_owned());
    };
    Ok(match word {
        "help" => ask(list(einhorn::help())),
        "ehlo" => ask(einhorn::ehlo(
            request.user.as_deref(),
            facts.pid,
            name.flatten(),
        )),
        "state" => Command::State,
        "upgrade" => Command::Upgrade { smooth: true },
        "upgrade_fleet" => Command::Upgrade { smooth: false },
        "inc" => resize(old + 1, einhorn::incremented(old)),
        "dec" => resize(old - 1, einhorn::decremented(old, facts.pid)?),
        "set_workers" => {
            let new = einhorn::wanted_workers(args)?;
            resize(new, einhorn::altered(old, new))
        }
        "signal" => {
            let signals = einhorn::wanted_signals(args)?;
            let answer = einhorn::signalled(signals.len());
            Command::Signal { signals, answer }
        }
        "die" => Command::Die {
            signal: einhorn::wanted_signals(args)?.first().copied(),
        },
        "quieter" => set_level(verbosity.quieter(), einhorn::verbosity_set),
        "louder" => set_level(verbosity.louder(), einhorn::verbosity_set),
        "config" => set_level(einhorn::wanted_config(args)?, einhorn::config_merged),
        _ => return Err(list(einhorn::unrecognized(word))),
    })
}

#[cfg(test)]
mod tests;
