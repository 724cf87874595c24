//! The words of the core: moments, workers' ids, the configuration that decisions depend on, and
//! what became of a worker and of a reload. Plain data: it never decides, and never makes text
//! for people.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// How long a worker of a generation that failed may drain where `-stop` sets no limit.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(10);

/// A moment on CLOCK_MONOTONIC, in nanoseconds. (std's `Instant` cannot travel through an exec.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Instant(pub u64);

impl Add<Duration> for Instant {
    type Output = Instant;
    /// The far future stands for every moment after it.
    fn add(self, by: Duration) -> Instant {
        let nanoseconds = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanoseconds))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero when `earlier` is the later one.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The core's own name for a worker: never a pid, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChildId(pub u64);

/// How a worker shows that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Gate {
    /// It stays alive for `Policy::start`.
    #[default]
    Timer,
    /// It says so (`Event::Ready`) within `Policy::start`, or at any time if that is zero.
    Report,
}

/// How a reload replaces the old workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// All new workers come up first, then all old ones are asked to stop.
    Fleet,
    /// An old worker is asked to stop whenever a new one is ready.
    Rolling,
}

/// einhorn's spin-up throttle. It holds for rolling reloads and for workers that replace a dead
/// one; a first generation and a fleet start at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// The time between two starts; 1.5 times longer for each death in a row before readiness.
    pub interval: Duration,
    /// How many workers of a generation may be on their way to readiness; 0 means 1.
    pub max_unready: u32,
}

/// The part of the configuration that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// N, at least 1.
    pub workers: u32,
    /// K, at least 1; `None` and more than N mean N.
    pub max_extra: Option<u32>,
    /// `None`: rolling where K < N.
    pub style: Option<Style>,
    pub gate: Gate,
    /// How long the gate takes, from exec; also the limit of an exec. Zero: see [`Gate`].
    pub start: Duration,
    /// How long a worker that was asked to stop may take until SIGKILL; `None`: for ever.
    pub stop: Option<Duration>,
    /// The signal that asks a worker to stop (signal(7)'s number).
    pub stop_signal: i32,
    /// Whether a worker that dies without having been asked to stop is replaced.
    pub respawn: bool,
    pub pace: Option<Pace>,
    /// How many workers our descriptors suffice for, draining ones included.
    pub capacity: u32,
}

impl Default for Policy {
    /// One worker that is ready after three seconds and may drain for ever.
    fn default() -> Policy {
        Policy {
            workers: 1,
            max_extra: None,
            style: None,
            gate: Gate::Timer,
            start: Duration::from_secs(3),
            stop: None,
            stop_signal: 15,
            respawn: false,
            pace: None,
            capacity: 1000,
        }
    }
}

impl Policy {
    /// K as it holds now: at least 1, at most N.
    pub(super) fn max_extra(&self) -> u32 {
        let workers = self.workers.max(1);
        self.max_extra.unwrap_or(workers).clamp(1, workers)
    }

    /// `start`, where it is a limit.
    pub(super) fn start_limit(&self) -> Option<Duration> {
        Some(self.start).filter(|start| !start.is_zero())
    }

    /// How long a worker that failed, or whose generation did, may take until SIGKILL.
    pub(super) fn rollback_limit(&self) -> Option<Duration> {
        self.stop.or(Some(ROLLBACK_LIMIT))
    }

    /// The style of a reload that was asked for in style `asked`.
    pub(super) fn style(&self, asked: Option<Style>) -> Style {
        let by_size = if self.max_extra() < self.workers {
            Style::Rolling
        } else {
            Style::Fleet
        };
        asked.or(self.style).unwrap_or(by_size)
    }
}

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It never became the program: the step that failed, and errno.
    Exec { step: String, errno: i32 },
    /// It exited with this status (exit(3)).
    Exited(i32),
    /// A signal killed it.
    Signaled { signal: i32, core_dumped: bool },
    /// It has ended, and a process that traces it keeps from us how.
    Untold,
}

impl End {
    /// The exit status as a shell shows it; `None` where there is none.
    pub fn status(&self) -> Option<i32> {
        match self {
            End::Exec { .. } | End::Untold => None,
            End::Exited(status) => Some(*status),
            End::Signaled { signal, .. } => Some(128 + signal),
        }
    }
}

/// Why a worker failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It ended without having been asked to stop.
    Ended(End),
    /// It did not say that it is ready within `-start`.
    Silent,
    /// Its exec did not come to an end.
    ExecHung,
    /// No worker was started: `wanted` would have existed, `capacity` are possible.
    NoRoom { wanted: u32, capacity: u32 },
}

/// Which worker failed, why, and how long after its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `None`: no worker was started.
    pub worker: Option<ChildId>,
    pub cause: Cause,
    pub after: Duration,
}

/// What became of a generation that was to go live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Live,
    RolledBack,
    /// A rolling reload failed on its way: `Verdict::ready` new workers stay.
    HalfWay,
    /// The generation has no worker left, and there was no older one to go back to.
    Failed,
    Superseded,
    Abandoned,
}

/// The one answer to a reload (or to the start of the first generation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub generation: u64,
    pub outcome: Outcome,
    /// How many of its workers are ready, of `wanted`.
    pub ready: u32,
    pub wanted: u32,
    /// What decided it; in a live generation: the last of its workers that was lost.
    pub failure: Option<Failure>,
    /// The newest generation that serves now, besides this one.
    pub serving: Option<u64>,
    pub took: Duration,
    /// Whether it is the first generation, not a reload.
    pub first: bool,
    /// The workers that were to be asked to stop and could not be.
    pub unreached: Option<Unreached>,
}

/// Workers that run on because the kernel does not let us signal them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// At least 1.
    pub workers: u32,
    /// The reason (of the oldest of them).
    pub errno: i32,
}

/// Why we do not wait for a worker any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GivenUp {
    /// It cannot be signalled (an errno).
    Refused(i32),
    /// SIGKILL has not ended it.
    Survives,
    /// The kernel does not tell how it ended.
    Lost,
}

/// What follows when the kernel has refused a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterRefusal {
    /// The signal was only forwarded: it is not sent again.
    Nothing,
    /// The signal is sent again for a while, then the worker runs on beside the others.
    RunsOn,
    /// The signal is sent again for a while, then we end without the worker.
    GivenUp,
}

/// The kernel does not let us signal a worker (kill(2), EPERM as a rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRefusal {
    pub errno: i32,
    pub signal: i32,
    pub then: AfterRefusal,
    pub(super) since: Instant,
    /// When the signal is sent again; `None`: the worker is left alone.
    pub(super) retry: Option<Instant>,
}

/// What is worth a line in the log, besides verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The worker has passed its gate.
    Ready { id: ChildId },
    /// `again`: a reload was remembered already, and this request is part of it.
    ReloadRemembered { again: bool },
    /// No reload begins any more: we are about to end.
    ReloadRefused,
    /// A listener was bound anew a second time within one generation: no second reload.
    ReboundAgain,
    /// There is no worker to forward a SIGQUIT to.
    NobodyToQuit,
    /// The worker did not stop in time, and SIGKILL has been sent.
    Killed { id: ChildId },
    /// The kernel refused a signal to the worker.
    Refused { id: ChildId, refusal: SignalRefusal },
    /// The kernel has refused signals for long enough: the worker runs on until a stop tries again.
    LeftAlone { id: ChildId, errno: i32 },
    /// The worker died, and another one is started after `delay`.
    Replacing { id: ChildId, delay: Duration },
    /// The worker died and is not replaced; `ready` workers remain.
    NotReplaced { id: ChildId, ready: u32 },
    /// More workers are wanted than descriptors suffice for: N stays what it is.
    ResizeRefused { wanted: u32, capacity: u32 },
}
