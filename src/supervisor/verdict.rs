//! The words in which the core speaks of what became of a worker and of a reload. Plain data;
//! turning it into text for people is not done here.

use super::ChildId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It never became the program: the step that failed, and errno.
    Exec { step: String, errno: i32 },
    /// exit(3) status.
    Exited(i32),
    /// Killed by a signal.
    Signaled { signal: i32, core_dumped: bool },
    /// It has ended, and a process that traces it keeps from us how.
    Untold,
}

impl End {
    /// As a shell shows it; `None` for a worker that never became the program.
    pub fn status(&self) -> Option<i32> {
        match self {
            End::Exec { .. } | End::Untold => None,
            End::Exited(status) => Some(*status),
            End::Signaled { signal, .. } => Some(128 + signal),
        }
    }
}

/// Why a worker failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Ended(End),
    /// It did not say that it is ready within `-start`.
    Silent,
    /// Its exec did not come to an end.
    ExecHung,
    /// It was not started: that many would have been there, that many are possible.
    NoRoom {
        wanted: u32,
        capacity: u32,
    },
}

/// Which worker failed, why, and how long after its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `None`: it did not come to that.
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
    /// A rolling reload that stopped: `Verdict::ready` new workers stay.
    HalfWay,
    /// Nothing of it is left, and there was nothing to go back to.
    Failed,
    Superseded,
    Abandoned,
}

/// The one answer to a reload (or to the start of the first generation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub generation: u64,
    pub outcome: Outcome,
    /// Its workers that are ready, of `wanted`.
    pub ready: u32,
    pub wanted: u32,
    /// What decided it; in a live generation: the last of its workers that was lost.
    pub failure: Option<Failure>,
    /// The newest generation that serves now, besides this one.
    pub serving: Option<u64>,
    pub took: Duration,
    /// The first generation, not a reload.
    pub first: bool,
    /// The workers that were to be asked to stop and could not be.
    pub unreached: Option<Unreached>,
}

/// Workers that run on because the kernel does not let us signal them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreached {
    /// At least 1.
    pub workers: u32,
    /// The reason (of the oldest of them).
    pub errno: i32,
}

/// Why nobody waits for a worker any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// It cannot be signalled (an errno).
    Refused(i32),
    /// SIGKILL has not ended it.
    Survives,
    /// The kernel does not tell how it ended.
    Lost,
}

/// What comes after a signal that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It was only forwarded.
    Nothing,
    /// It is tried again for a while, then the worker runs on beside the others.
    RunsOn,
    /// It is tried again for a while, then we end without the worker.
    GivenUp,
}

/// Things worth a line in the log, besides verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Ready {
        id: ChildId,
    },
    ReloadRemembered {
        again: bool,
    },
    ReloadRefused,
    /// A listener was bound anew a second time within one generation: no second reload.
    ReboundAgain,
    /// SIGQUIT, and no worker to forward it to.
    NobodyToQuit,
    /// It did not stop in time, and SIGKILL has been sent.
    Killed {
        id: ChildId,
    },
    /// A signal to it was refused. What follows if it has been asked to stop: we try again, then
    /// a stop ends without it.
    Refused {
        id: ChildId,
        signal: i32,
        errno: i32,
        then: Then,
    },
    /// It has refused signals for long enough: it runs on, until a stop tries again.
    LeftAlone {
        id: ChildId,
        errno: i32,
    },
    Replacing {
        id: ChildId,
        delay: Duration,
    },
    NotReplaced {
        id: ChildId,
        ready: u32,
    },
    /// More workers are wanted than descriptors suffice for: N stays what it is.
    ResizeRefused {
        wanted: u32,
        capacity: u32,
    },
}
