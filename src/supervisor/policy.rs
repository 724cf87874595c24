//! What decisions are measured against: moments, names of workers, and the part of the
//! configuration that matters to them. Plain data, never a decision.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on CLOCK_MONOTONIC, in nanoseconds. (std's `Instant` cannot travel through an exec.)
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Instant(pub u64);

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, by: Duration) -> Instant {
        let nanoseconds = by.as_secs().saturating_mul(1_000_000_000);
        let nanoseconds = nanoseconds.saturating_add(u64::from(by.subsec_nanos()));
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It stays alive for `Policy::start`.
    Timer,
    /// It says so (`Event::Ready`) within `Policy::start`, or whenever it likes if that is zero.
    Report,
}

/// How a reload replaces the old workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// All new ones first, then all old ones are asked to stop.
    Fleet,
    /// An old one is asked whenever a new one is ready.
    Rolling,
}

/// einhorn's spin-up throttle: holds for rolling reloads and for workers that follow a dead one. A
/// first generation and a fleet start at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Between two starts; 1.5 times longer for each death in a row before readiness.
    pub interval: Duration,
    /// At most this many workers of a generation may be on their way to readiness; at least 1.
    pub max_unready: u32,
}

/// The part of the configuration that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// How we ask (signal(7)'s number).
    pub stop_signal: i32,
    /// Whether a worker that dies unasked is replaced.
    pub respawn: bool,
    pub pace: Option<Pace>,
    /// How many workers our descriptors suffice for, draining ones included.
    pub capacity: u32,
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
}
