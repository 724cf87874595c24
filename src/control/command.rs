//! What a request asks for, in socketmaster's own words, which do not need the feature `einhorn`.
//! Pure. `worker:ack`, `worker:ping` and the form of requests and answers are einhorn's.

use super::Rights;
use crate::protocol::{Args, Request};

/// The most workers that anybody may ask for, as for `-workers`.
const WORKERS_MAX: u32 = 10_000;

/// A request that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `wait`: with an answer for each new worker that is ready, and one with the verdict.
    Reload {
        wait: bool,
    },
    /// `json`: as an object in the field `status`, else as a table in the message.
    Status {
        json: bool,
    },
    /// `wait`: with an answer when all workers have gone.
    Stop {
        wait: bool,
    },
    /// N is another number from now on.
    Workers(u32),
    Ping,
    /// Another executable of socketmaster in place of this process (einhorn's `upgrade` is a
    /// reload).
    SelfUpgrade,
    Ack,
    WorkerPing,
}

/// The command list, for `help` and for whoever says something else.
pub const HELP: &str = "\
reload [wait]: Start a new generation of workers and stop the old one when it is ready
self-upgrade: Replace this process by the executable that is on disk now
status [json]: Show sockets, workers and the last verdict
stop [wait]: Ask the workers to finish, and exit
workers N: Have N workers per generation
ping: Say who is there
";

impl Command {
    /// Reads a request; `None`: the command is none of ours.
    ///
    /// # Errors
    /// The answer that says what is wrong with its arguments.
    pub fn of(request: &Request) -> Result<Option<Command>, String> {
        let word = |allowed: &str| flag(&request.args, allowed);
        Ok(Some(match request.command.as_deref().unwrap_or_default() {
            // `now` says nothing, but that socketmaster's reload is meant and not einhorn's.
            "reload" => Command::Reload {
                wait: word("now") != Ok(true) && word("wait")?,
            },
            "status" => Command::Status {
                json: word("json")?,
            },
            "stop" => Command::Stop {
                wait: word("wait")?,
            },
            "workers" => Command::Workers(number(&request.args)?),
            "ping" => Command::Ping,
            "self-upgrade" => Command::SelfUpgrade,
            "worker:ack" => Command::Ack,
            "worker:ping" => Command::WorkerPing,
            _ => return Ok(None),
        }))
    }

    /// What a client must be allowed for it.
    pub fn needs(&self) -> Rights {
        match self {
            Command::Ack | Command::WorkerPing => Rights::Reports,
            Command::Status { .. } | Command::Ping => Rights::Questions,
            _ => Rights::Everything,
        }
    }
}

fn words(args: &Args) -> Result<Vec<&str>, String> {
    match args {
        Args::Absent => Ok(Vec::new()),
        given => given.strings(),
    }
}

/// Whether the one word that is allowed was given.
fn flag(args: &Args, allowed: &str) -> Result<bool, String> {
    match words(args)?[..] {
        [] => Ok(false),
        [word] if word == allowed => Ok(true),
        _ => Err(format!("nothing but {allowed:?} can be said here")),
    }
}

fn number(args: &Args) -> Result<u32, String> {
    let words = words(args)?;
    let number = match words[..] {
        [word] => word.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (1..=WORKERS_MAX).contains(number));
    number.ok_or_else(|| format!("say how many workers: one number from 1 to {WORKERS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::parse_request;

    fn of(line: &str) -> Result<Option<Command>, String> {
        Command::of(&parse_request(line.as_bytes()).unwrap())
    }

    #[test]
    fn own_commands_take_one_word_or_none() {
        assert_eq!(
            of(r#"{"command":"reload"}"#),
            Ok(Some(Command::Reload { wait: false }))
        );
        assert_eq!(
            of(r#"{"command":"reload","args":["wait"]}"#),
            Ok(Some(Command::Reload { wait: true }))
        );
        assert_eq!(
            of(r#"{"command":"status","args":["json"]}"#),
            Ok(Some(Command::Status { json: true }))
        );
        assert!(of(r#"{"command":"stop","args":["now"]}"#).is_err());
        assert!(of(r#"{"command":"stop","args":["wait","wait"]}"#).is_err());
        assert!(of(r#"{"command":"stop","args":"wait"}"#).is_err());
    }

    #[test]
    fn a_number_of_workers_is_checked() {
        let workers = |n: &str| of(&format!(r#"{{"command":"workers","args":[{n}]}}"#));
        assert_eq!(workers("\"8\""), Ok(Some(Command::Workers(8))));
        for bad in ["\"0\"", "\"10001\"", "\"-1\"", "\"x\"", "8", ""] {
            assert!(workers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_ours_is_for_others_to_know() {
        assert_eq!(of(r#"{"command":"upgrade"}"#), Ok(None));
        assert_eq!(of("{}"), Ok(None));
    }

    #[test]
    fn workers_may_report_and_nothing_else() {
        let ack = of(r#"{"command":"worker:ack","pid":1}"#).unwrap().unwrap();
        assert_eq!(ack.needs(), Rights::Reports);
        assert_eq!(Command::Ping.needs(), Rights::Questions);
        assert_eq!(Command::Workers(1).needs(), Rights::Everything);
    }
}
