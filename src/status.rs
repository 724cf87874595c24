//! What the core knows, in words for people and in JSON for programs. Pure: everything that it
//! says is handed to it.

mod view;

pub use view::{Process, SocketView, Told, View};

use crate::supervisor::{
    Cause, End, Failure, GivenUp, Note, Outcome, Supervisor, Then, Unreached, Verdict,
};
use crate::text::{counted, duration_text, errno_text, signal_name, signal_words};
use std::fmt::Write;

/// What a person wants to know about the worker that decided a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Culprit {
    pub pid: Option<i32>,
    /// Its last lines of output, oldest first.
    pub last_lines: Vec<String>,
}

/// `exit status 3`, `signal: killed (core dumped)`: as Go's os.ProcessState, which the original
/// printed.
pub fn end_text(end: &End) -> String {
    match end {
        End::Exec { step, errno } => exec_text(step, *errno),
        End::Exited(status) => format!("exit status {status}"),
        End::Signaled {
            signal,
            core_dumped,
        } => {
            let dumped = if *core_dumped { " (core dumped)" } else { "" };
            format!("signal: {}{dumped}", signal_words(*signal))
        }
    }
}

/// `cannot start worker: changing user to web: Operation not permitted`; errno 0: the step says
/// it all.
fn exec_text(step: &str, errno: i32) -> String {
    match errno {
        0 => format!("cannot start worker: {step}"),
        errno => format!("cannot start worker: {step}: {}", errno_text(errno)),
    }
}

/// `worker 815 exited with status 7 after 12 ms`.
pub fn failure_text(failure: &Failure, pid: Option<i32>) -> String {
    let who = match pid {
        Some(pid) => format!("worker {pid}"),
        None => "a worker".to_owned(),
    };
    let after = duration_text(failure.after);
    match &failure.cause {
        Cause::Ended(End::Exec { step, errno }) => exec_text(step, *errno),
        Cause::Ended(End::Exited(status)) => {
            format!("{who} exited with status {status} after {after}")
        }
        Cause::Ended(End::Signaled {
            signal,
            core_dumped,
        }) => {
            let dumped = if *core_dumped { ", core dumped," } else { "" };
            format!(
                "{who} died of signal {signal} ({}){dumped} after {after}",
                signal_words(*signal)
            )
        }
        Cause::Silent => format!(
            "{who} did not say that it is ready within {after} (-ready=timer asks for no word)"
        ),
        Cause::ExecHung => {
            format!("{who} did not get to run within {after} (a busy machine, or its exec hangs)")
        }
        Cause::NoRoom { wanted, capacity } => format!(
            "{wanted} workers at once would need more descriptors than the limit allows \
             ({capacity} workers): raise RLIMIT_NOFILE, or wait until old workers have drained"
        ),
    }
}

/// The verdict in one line: what happened, to which worker, why, and what happens next.
pub fn verdict_text(verdict: &Verdict, culprit: &Culprit) -> String {
    let mut line = verdict_sentence(verdict, culprit.pid);
    if !culprit.last_lines.is_empty() {
        let _ = write!(line, "; its last lines: {}", culprit.last_lines.join(" | "));
    }
    line
}

/// The same without the worker's last lines; `pid`: the worker's.
pub fn verdict_sentence(verdict: &Verdict, pid: Option<i32>) -> String {
    let mut line = headline(verdict);
    if let Some(failure) = &verdict.failure {
        let _ = write!(line, ": {}", failure_text(failure, pid));
    }
    line.push_str(&consequence(verdict));
    if let Some(unreached) = &verdict.unreached {
        line.push_str(&unreached_text(unreached));
    }
    line
}

fn unreached_text(unreached: &Unreached) -> String {
    let they = if unreached.workers == 1 {
        "it goes"
    } else {
        "they go"
    };
    format!(
        "; {} could not be asked to stop: {}; {they} on serving beside it",
        counted(unreached.workers as usize, "worker"),
        errno_text(unreached.errno)
    )
}

/// A worker that nobody waits for any more.
pub fn given_up_text(pid: i32, why: GivenUp) -> String {
    match why {
        GivenUp::Refused(errno) => format!(
            "giving up worker {pid}: it cannot be signalled ({}), so it is left behind, running",
            errno_text(errno)
        ),
        GivenUp::Survives => format!(
            "giving up worker {pid}: SIGKILL has not ended it in 10 s, so it is left behind \
             (a sleep in the kernel that nothing interrupts?)"
        ),
        GivenUp::Lost => {
            format!("giving up worker {pid}: it has ended, and the system does not say how")
        }
    }
}

/// The outcome in one word, for programs.
pub fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Live => "live",
        Outcome::RolledBack => "rolled-back",
        Outcome::HalfWay => "half-way",
        Outcome::Failed => "failed",
        Outcome::Superseded => "superseded",
        Outcome::Abandoned => "abandoned",
    }
}

fn headline(verdict: &Verdict) -> String {
    let Verdict {
        generation,
        ready,
        wanted,
        ..
    } = verdict;
    let name = match verdict.first {
        true => format!("generation {generation}"),
        false => format!("reload {generation}"),
    };
    let took = duration_text(verdict.took);
    match verdict.outcome {
        Outcome::Live => {
            let is_live = match verdict.first {
                true => "live".to_owned(),
                false => format!("generation {generation} is live"),
            };
            format!("{name}: {is_live}, {ready} of {wanted} workers ready after {took}")
        }
        Outcome::RolledBack => format!("{name} rolled back"),
        Outcome::HalfWay => format!("{name} stopped half-way, {ready} of {wanted} workers are new"),
        Outcome::Failed => format!("{name} failed"),
        Outcome::Superseded => format!("{name} superseded by the next after {took}"),
        Outcome::Abandoned => format!("{name} abandoned because of a stop"),
    }
}

/// What happens next.
fn consequence(verdict: &Verdict) -> String {
    const CAVEAT: &str = "what the failed workers had accepted is lost, and a worker respawned \
                          later runs what is on disk";
    let others = verdict
        .serving
        .map(|serving| format!("generation {serving}"));
    match (verdict.outcome, others) {
        (Outcome::Live, _) if verdict.first => String::new(),
        (Outcome::Live, _) => "; older workers are asked to stop".to_owned(),
        (Outcome::RolledBack, Some(old)) => format!("; keeping {old} ({CAVEAT})"),
        (Outcome::HalfWay, Some(old)) => {
            format!("; the others stay as they are, keeping {old} ({CAVEAT})")
        }
        (Outcome::Superseded, Some(old)) => format!("; {old} serves meanwhile"),
        (Outcome::Failed, _) => "; no older worker to go back to".to_owned(),
        _ => String::new(),
    }
}

/// A note of the core in words; `pid`: of the worker that it is about.
pub fn note_text(note: &Note, pid: Option<i32>) -> String {
    let who = pid.map_or_else(|| "a worker".to_owned(), |pid| format!("worker {pid}"));
    match note {
        Note::Ready { .. } => format!("{who} is ready"),
        Note::ReloadRemembered { again: false } => {
            "a reload is running: one more will follow it".to_owned()
        }
        Note::ReloadRemembered { again: true } => {
            "a reload is running and one more will follow it, this request is part of that one"
                .to_owned()
        }
        Note::ResizeRefused { wanted, capacity } => {
            format!("cannot run {wanted} workers: the limit of descriptors suffices for {capacity}")
        }
        Note::ReloadRefused => "stopping: the reload is ignored".to_owned(),
        Note::ReboundAgain => "a listener had to be bound anew again within one generation: \
             no second reload by ourselves; send SIGHUP when its cause is mended"
            .to_owned(),
        Note::NobodyToQuit => {
            "SIGQUIT: no worker to forward it to (SIGTERM stops socketmaster)".to_owned()
        }
        Note::Killed { .. } => format!("{who} did not stop in time: SIGKILL to its process group"),
        Note::Refused {
            signal,
            errno,
            then,
            ..
        } => {
            let (signal, errno) = (signal_name(*signal), errno_text(*errno));
            let then = match then {
                Then::Nothing => "",
                Then::RunsOn => "; trying for 10 s more, then it is left to run on",
                Then::GivenUp => "; trying for 10 s more, then we end without it",
            };
            format!("cannot send {signal} to {who}: {errno}{then}")
        }
        Note::LeftAlone { errno, .. } => format!(
            "{who} cannot be signalled: {}; it runs on beside the others until somebody ends it",
            errno_text(*errno)
        ),
        Note::Replacing { delay, .. } if delay.is_zero() => {
            format!("{who} died: starting another at once")
        }
        Note::Replacing { delay, .. } => {
            format!("{who} died: starting another in {}", duration_text(*delay))
        }
        Note::NotReplaced { ready, .. } => {
            let left = counted(*ready as usize, "ready worker");
            format!("{who} is not replaced, {left} left")
        }
    }
}

/// The line for `systemctl status`: what serves, and what became of the last reload.
pub fn summary(core: &Supervisor, last_verdict: &str) -> String {
    let tally = core.workers();
    let wanted = core.policy().workers;
    let mut line = match core.live_generation() {
        0 => format!("starting: {} of {wanted} workers ready", tally.ready()),
        live => format!(
            "generation {live}: {} of {wanted} workers ready",
            tally.ready()
        ),
    };
    let draining = tally.len() as u32 - tally.unasked();
    let unreached = core.unreached().map_or(0, |unreached| unreached.workers);
    if draining > unreached {
        let _ = write!(line, ", {} draining", draining - unreached);
    }
    if unreached > 0 {
        let _ = write!(line, ", {unreached} not to be stopped by us");
    }
    if core.is_stopping() {
        line = format!("stopping: waiting for {}", counted(tally.len(), "worker"));
    } else if let Some(generation) = core.rolling_out().filter(|_| core.has_been_up()) {
        let _ = write!(line, ", reload {generation} under way");
    }
    if !last_verdict.is_empty() {
        let _ = write!(line, "; {last_verdict}");
    }
    line
}
