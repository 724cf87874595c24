//! The words in which the core speaks of what became of a worker and of a reload. Plain data;
//! turning it into text for people is not done here.

use super::ChildId;
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
}

impl End {
    /// As a shell shows it; `None` for a worker that never became the program.
    pub fn status(&self) -> Option<i32> {
        match self {
            End::Exec { .. } => None,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Killing {
        id: ChildId,
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
