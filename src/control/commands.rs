//! What a request asks for, who may ask it, what it is answered and what the daemon shall do:
//! socketmaster's own commands and einhorn's. Nothing is done here.

use super::peer::Rights;
use super::protocol::{Answer, Request};
use super::server::ControlState;
use super::status::Status;
use super::waiters::WaitFor;
use crate::config::Config;
use crate::listen::Listener;
use crate::supervisor::{ChildId, Instant, Outcome, Style, Supervisor};
use crate::text::{counted, integer};
use crate::worker::Process;
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;
#[cfg(feature = "einhorn")]
use slog::Level;
use std::collections::BTreeMap;

#[cfg(feature = "einhorn")]
use crate::{config::Dialect, einhorn::commands as einhorn, text::signal_name};

/// The most workers that anybody may ask for, as for `-workers`.
const WORKERS_MAX: i64 = 10_000;
const CROWDED: &str = "too many clients wait already";

/// The command list, for whoever says something else and for einhorn's `help`.
const HELP: &str = "\
reload [wait]: Start a new generation of workers and stop the old one when it is ready
self-upgrade: Replace this process by the executable that is on disk now
status [json]: Show sockets, workers and the last verdict
stop [wait]: Ask the workers to finish, and exit
workers N: Have N workers per generation
ping: Say who is there
";

/// What an answer may depend on: the rest of the program as it is at this moment.
pub struct View<'a> {
    pub now: Instant,
    pub config: &'a Config,
    pub core: &'a Supervisor,
    pub processes: &'a BTreeMap<ChildId, Process>,
    /// The living workers by their pids.
    pub by_pid: &'a BTreeMap<i32, ChildId>,
    pub listeners: &'a [Listener],
    /// The least severe level that is logged.
    #[cfg(feature = "einhorn")]
    pub level: Level,
}

impl View<'_> {
    pub fn pid(&self, id: ChildId) -> Option<i32> {
        self.processes.get(&id).map(|process| process.pid)
    }
}

/// What a client wants the daemon to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// `None`: in the configured style.
    Reload(Option<Style>),
    /// Stop with this signal; `name` is what the client said.
    Stop { name: &'static str, signal: i32 },
    /// Have this number of workers per generation from now on.
    Resize(u32),
    /// Send these signals to all workers.
    #[cfg(feature = "einhorn")]
    Signal(Vec<i32>),
    #[cfg(feature = "einhorn")]
    SetLevel(Level),
}

/// What follows from a request.
#[derive(Debug, Default)]
pub struct Response {
    pub answers: Vec<Answer>,
    /// The client gets more answers when this happens.
    pub wait_for: Option<WaitFor>,
    pub order: Option<Order>,
    /// What the log says was asked for.
    pub log: Option<String>,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Response {
        Response {
            answers: vec![answer],
            ..Response::default()
        }
    }
}

fn say(message: impl Into<String>) -> Response {
    Answer::new(message).into()
}

/// What a client must be allowed for a request.
pub fn needs(request: &Request) -> Rights {
    match request.command.as_deref().unwrap_or_default() {
        "worker:ack" | "worker:ping" => Rights::Reports,
        "ping" | "status" | "help" | "ehlo" | "state" => Rights::Questions,
        _ => Rights::Everything,
    }
}

/// What follows from a request of a client with these rights.
pub fn respond(request: &Request, rights: Rights, state: &ControlState, view: &View) -> Response {
    let response = match rights {
        _ if rights >= needs(request) => respond_to_permitted(request, state, view),
        Rights::Questions => {
            Err("You may only ask here: this is for root and the user that we run as.".to_owned())
        }
        _ => Err("You may say worker:ack and worker:ping here, and nothing else.".to_owned()),
    };
    response.unwrap_or_else(|reason| {
        Response::from(Answer {
            failed: true,
            ..Answer::new(reason)
        })
    })
}

/// Errors: the answer that says why nothing is done.
fn respond_to_permitted(
    request: &Request,
    state: &ControlState,
    view: &View,
) -> Result<Response, String> {
    let word = request.command.as_deref().unwrap_or_default();
    let args: Option<Vec<&str>> = match &request.args {
        Value::Null => Some(Vec::new()),
        args => args
            .as_array()
            .and_then(|all| all.iter().map(Value::as_str).collect()),
    };
    match (word, args.as_deref()) {
        // Einhorn's `reload` has no words after it, and reloads the master alone.
        #[cfg(feature = "einhorn")]
        ("reload", Some([])) if matches!(view.config.dialect, Dialect::Einhorn(_)) => {
            Ok(say(einhorn::RELOADING))
        }
        // `now` says nothing, but that socketmaster's reload is meant and not einhorn's.
        ("reload", Some([] | ["now"])) => reload(false, state, view),
        ("reload", Some(["wait"])) => reload(true, state, view),
        ("stop", Some([])) => Ok(stop(false, state, view)),
        ("stop", Some(["wait"])) => Ok(stop(true, state, view)),
        ("status", Some([])) => Ok(say_status(false, state, view)),
        ("status", Some(["json"])) => Ok(say_status(true, state, view)),
        ("workers", Some([number])) => {
            let number = integer(number, 1..=WORKERS_MAX)? as u32;
            let (after, before) = (
                counted(number as usize, "worker"),
                view.core.policy().workers,
            );
            resize(
                number,
                format!("{after} per generation, {before} before"),
                view,
            )
        }
        ("ping", _) => {
            let (version, pid) = (env!("CARGO_PKG_VERSION"), state.pid);
            Ok(say(format!("socketmaster {version}, pid {pid}")))
        }
        ("self-upgrade", _) => Err("self-upgrade is not available".to_owned()),
        ("reload" | "stop" | "status" | "workers", _) => {
            Err(format!("{word} takes other arguments:\n\n{HELP}"))
        }
        #[cfg(feature = "einhorn")]
        _ => respond_to_einhorns(request, state, view),
        #[cfg(not(feature = "einhorn"))]
        _ => Err(format!("Unrecognized command: {word:?}\n\n{HELP}")),
    }
}

fn say_status(json: bool, state: &ControlState, view: &View) -> Response {
    let status = Status::new(state, view);
    let text = if json {
        status.summary.clone()
    } else {
        status.table()
    };
    Response::from(Answer {
        status: json.then_some(status),
        ready: Some(view.core.workers().ready()),
        ..Answer::new(text)
    })
}

/// With `wait`, there is an answer for each new worker that is ready, and one with the verdict.
fn reload(wait: bool, state: &ControlState, view: &View) -> Result<Response, String> {
    if view.core.is_stopping() {
        return Ok(Response::from(Answer {
            verdict: Some(json!({"outcome": Outcome::Abandoned})),
            ..Answer::new("stopping: no reload any more")
        }));
    }
    if wait && state.waiters.is_crowded() {
        return Err(CROWDED.to_owned());
    }
    let answer = match view.core.reload_would_begin() {
        // Who waits is told when it begins.
        Some(_) if wait => None,
        Some(generation) => Some(Answer::new(format!("reload {generation} begins"))),
        None => Some(Answer {
            wait,
            ..Answer::new("a reload is running: this one follows it")
        }),
    };
    Ok(Response {
        answers: answer.into_iter().collect(),
        wait_for: wait.then_some(WaitFor::Reload),
        order: Some(Order::Reload(None)),
        log: Some("reload".to_owned()),
    })
}

/// With `wait`, there is an answer when all workers have gone. A stop is obeyed whoever asks: only
/// the wait needs room.
fn stop(wait: bool, state: &ControlState, view: &View) -> Response {
    let workers = counted(view.core.workers().len(), "worker");
    let is_stopping = view.core.is_stopping();
    let is_crowded = wait && state.waiters.is_crowded();
    let wait = wait && !is_crowded;
    let mut text = match is_stopping {
        true => format!("stopping already, {workers} left"),
        false => format!("stopping, {workers} asked to finish"),
    };
    if is_crowded {
        text += &format!(" (not waiting for the end: {CROWDED})");
    }
    Response {
        answers: vec![Answer {
            wait,
            ..Answer::new(text)
        }],
        wait_for: wait.then_some(WaitFor::Exit),
        order: (!is_stopping).then_some(Order::Stop {
            name: "stop",
            signal: SIGTERM,
        }),
        log: (!is_stopping).then(|| "stop".to_owned()),
    }
}

/// `answer` says that the number of workers is changed.
fn resize(workers: u32, answer: String, view: &View) -> Result<Response, String> {
    let (before, capacity) = (view.core.policy().workers, view.core.policy().capacity);
    if view.core.is_stopping() {
        return Err("stopping: no worker is started any more".to_owned());
    }
    if workers > capacity {
        return Err(format!(
            "cannot run {workers} workers: the limit of descriptors (RLIMIT_NOFILE) suffices for \
             {capacity}"
        ));
    }
    let counted = counted(workers as usize, "worker");
    Ok(Response {
        order: Some(Order::Resize(workers)),
        log: Some(format!("{counted} instead of {before}")),
        ..say(answer)
    })
}

#[cfg(feature = "einhorn")]
fn respond_to_einhorns(
    request: &Request,
    state: &ControlState,
    view: &View,
) -> Result<Response, String> {
    let (args, old, pid) = (&request.args, view.core.policy().workers, state.pid);
    // Under our own command line both lists of commands are shown.
    let (name, own) = match &view.config.dialect {
        Dialect::Einhorn(name) => (name.as_deref(), None),
        Dialect::Socketmaster => (None, Some(HELP)),
    };
    let Some(word) = request.command.as_deref() else {
        return Err(einhorn::NO_COMMAND.to_owned());
    };
    Ok(match word {
        "help" => say(einhorn::list(None, own)),
        "ehlo" => say(einhorn::ehlo(request.user.as_deref(), pid, name)),
        "state" => say(einhorn::state(view.core, |id| view.pid(id), view.level)),
        "upgrade" => upgrade(request, true, state, view)?,
        "upgrade_fleet" => upgrade(request, false, state, view)?,
        "inc" | "dec" | "set_workers" => {
            let (new, answer) = einhorn::resized(word, args, old, pid)?;
            resize(new, answer, view)?
        }
        "signal" => {
            let signals = einhorn::wanted_signals(args)?;
            let names: Vec<_> = signals.iter().map(|it| signal_name(*it)).collect();
            let log = format!("{} to all workers", names.join(", "));
            Response {
                log: Some(log).filter(|_| !names.is_empty()),
                answers: vec![Answer::new(einhorn::signalled(signals.len()))],
                order: Some(Order::Signal(signals)),
                wait_for: None,
            }
        }
        "die" => {
            let signal = einhorn::wanted_signals(args)?.first().copied();
            let signal = signal.unwrap_or(view.core.policy().stop_signal);
            Response {
                order: Some(Order::Stop {
                    name: "die",
                    signal,
                }),
                log: Some("die".to_owned()),
                ..say(einhorn::GOING_DOWN)
            }
        }
        "quieter" | "louder" | "config" => {
            let (level, answer) = einhorn::changed_level(word, args, view.level)?;
            Response {
                order: Some(Order::SetLevel(level)),
                ..say(answer)
            }
        }
        _ => return Err(einhorn::list(Some(word), own)),
    })
}

/// Einhorn's upgrade, which is a reload: when the request has an id, every line about it and
/// `Upgrade done` follow.
#[cfg(feature = "einhorn")]
fn upgrade(
    request: &Request,
    smooth: bool,
    state: &ControlState,
    view: &View,
) -> Result<Response, String> {
    if view.core.is_stopping() {
        return Err(einhorn::upgrade_failed("stopping"));
    }
    let wait = request.id.is_some() && !state.waiters.is_crowded();
    let answer = |text: String| Answer {
        wait,
        ..Answer::new(text)
    };
    let mut answers = vec![answer(einhorn::upgrading(smooth))];
    let is_remembered = view.core.reload_would_begin().is_none();
    if let Some(running) = view.core.rolling_out().filter(|_| wait && is_remembered) {
        let acked = view.core.workers().tally(running).ready;
        let line = einhorn::upgrade_remembered(acked, view.core.policy().workers);
        answers.push(answer(line));
    }
    let style = match (&view.config.dialect, smooth) {
        // Under our own command line the administrator has said how reloads go.
        (Dialect::Socketmaster, _) => None,
        (Dialect::Einhorn(_), true) => Some(Style::Rolling),
        (Dialect::Einhorn(_), false) => Some(Style::Fleet),
    };
    Ok(Response {
        answers,
        wait_for: wait.then_some(WaitFor::Upgrade { smooth }),
        order: Some(Order::Reload(style)),
        log: Some("upgrade".to_owned()),
    })
}

#[cfg(test)]
mod tests;
