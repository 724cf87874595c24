//! What became of workers and of reloads, in words for people and as data for programs. Everything
//! that is said here was decided by the core.

use crate::supervisor::{
    AfterRefusal, Cause, End, Failure, GivenUp, Note, Outcome, Unreached, Verdict,
};
use crate::text::{counted, duration_text, errno_text, printable_lines, signal_name, signal_words};
use serde::{Deserialize, Serialize};

/// What a person wants to know about the worker that decided a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedWorker {
    pub pid: Option<i32>,
    /// Its last lines of output, oldest first.
    pub last_lines: Vec<String>,
}

/// A verdict that was given, with the words for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    pub generation: u64,
    pub outcome: Outcome,
    /// How many of its workers are ready, of how many that were wanted.
    pub ready: u32,
    pub wanted: u32,
    /// The newest generation that serves after it.
    pub serving: Option<u64>,
    pub took_ms: u64,
    /// How many old workers could not be asked to stop.
    pub could_not_be_asked: u32,
    /// What happened, to which worker, why, and what happens next, in one line.
    pub text: String,
    /// The part of `text` that says why.
    pub reason: Option<String>,
    /// The worker that decided it, and its last lines of output, oldest first.
    pub pid: Option<i32>,
    pub lines: Vec<String>,
}

impl ReloadReport {
    pub fn new(verdict: &Verdict, failed: FailedWorker) -> ReloadReport {
        let is_live = verdict.outcome == Outcome::Live;
        let failure = verdict.failure.as_ref();
        let reason = failure.map(|failure| failure_text(failure, failed.pid));
        let mut text = headline(verdict);
        if let Some(reason) = &reason {
            text += &format!(": {reason}");
        }
        text += &consequence(verdict);
        ReloadReport {
            generation: verdict.generation,
            outcome: verdict.outcome,
            ready: verdict.ready,
            wanted: verdict.wanted,
            serving: is_live.then_some(verdict.generation).or(verdict.serving),
            took_ms: verdict.took.as_millis() as u64,
            could_not_be_asked: verdict.unreached.map_or(0, |unreached| unreached.workers),
            text,
            reason,
            pid: failed.pid,
            lines: failed.last_lines,
        }
    }

    /// The text and the worker's last lines, in one line.
    pub fn line(&self) -> String {
        if self.lines.is_empty() {
            return self.text.clone();
        }
        let lines = printable_lines(&self.lines.join(" | "));
        format!("{}; its last lines: {lines}", self.text)
    }
}

fn headline(verdict: &Verdict) -> String {
    let (generation, ready, wanted) = (verdict.generation, verdict.ready, verdict.wanted);
    let kind = if verdict.first {
        "generation"
    } else {
        "reload"
    };
    let name = format!("{kind} {generation}");
    let took = duration_text(verdict.took);
    let up = format!("{ready} of {wanted} workers ready after {took}");
    match verdict.outcome {
        Outcome::Live if verdict.first => format!("{name}: live, {up}"),
        Outcome::Live => format!("{name}: generation {generation} is live, {up}"),
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
    let serving = verdict.serving;
    let old = serving.map(|serving| format!("generation {serving}"));
    let next = match (verdict.outcome, old) {
        (Outcome::Live, _) if !verdict.first => "; older workers are asked to stop".to_owned(),
        (Outcome::RolledBack, Some(old)) => format!("; keeping {old} ({CAVEAT})"),
        (Outcome::HalfWay, Some(old)) => {
            format!("; the others stay as they are, keeping {old} ({CAVEAT})")
        }
        (Outcome::Superseded, Some(old)) => format!("; {old} serves meanwhile"),
        (Outcome::Failed, _) => "; no older worker to go back to".to_owned(),
        _ => String::new(),
    };
    let Some(Unreached { workers, errno }) = verdict.unreached else {
        return next;
    };
    let they = if workers == 1 { "it goes" } else { "they go" };
    let (workers, reason) = (counted(workers as usize, "worker"), errno_text(errno));
    format!("{next}; {workers} could not be asked to stop: {reason}; {they} on serving beside it")
}

/// `worker 815`, or `a worker` where its pid is not known.
fn worker_text(pid: Option<i32>) -> String {
    pid.map_or_else(|| "a worker".to_owned(), |pid| format!("worker {pid}"))
}

/// `worker 815 exited with status 7 after 12 ms`.
pub fn failure_text(failure: &Failure, pid: Option<i32>) -> String {
    let who = worker_text(pid);
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
            let words = signal_words(*signal);
            format!("{who} died of signal {signal} ({words}){dumped} after {after}")
        }
        Cause::Ended(End::Untold) => format!(
            "{who} ended after {after}, and a process that traces it keeps its status from us"
        ),
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
        End::Untold => "ended: a process that traces it keeps its status from us".to_owned(),
    }
}

/// `cannot start worker: changing user to web: Operation not permitted`; with errno 0 the step says
/// it all.
fn exec_text(step: &str, errno: i32) -> String {
    match errno {
        0 => format!("cannot start worker: {step}"),
        errno => format!("cannot start worker: {step}: {}", errno_text(errno)),
    }
}

/// A worker that nobody waits for any more.
pub fn given_up_text(pid: i32, why: GivenUp) -> String {
    let why = match why {
        GivenUp::Refused(errno) => format!(
            "it cannot be signalled ({}), so it is left behind, running",
            errno_text(errno)
        ),
        GivenUp::Survives => "SIGKILL has not ended it in 10 s, so it is left behind \
                              (a sleep in the kernel that nothing interrupts?)"
            .to_owned(),
        GivenUp::Lost => "it has ended, and the system does not say how".to_owned(),
    };
    format!("giving up worker {pid}: {why}")
}

/// A note of the core in words; `pid` is that of the worker that it is about.
pub fn note_text(note: &Note, pid: Option<i32>) -> String {
    let who = worker_text(pid);
    match note {
        Note::Ready { .. } => format!("{who} is ready"),
        Note::ReloadRemembered { .. } => "a reload is running: one more will follow it".to_owned(),
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
        Note::Refused { refusal, .. } => {
            let (signal, errno) = (signal_name(refusal.signal), errno_text(refusal.errno));
            let then = match refusal.then {
                AfterRefusal::Nothing => "",
                AfterRefusal::RunsOn => "; trying for 10 s more, then it is left to run on",
                AfterRefusal::GivenUp => "; trying for 10 s more, then we end without it",
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
