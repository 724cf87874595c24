//! The witness's own books: what has become of each worker and each reload. They are kept from
//! events and actions, never from what the core remembers.

use crate::supervisor::{ChildId, End, Event, Gate, Instant, Policy, Style};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Starting,
    Running,
    Ready,
    Asked,
}

/// A worker as seen from outside.
#[derive(Debug, Clone)]
pub struct Seen {
    pub generation: u64,
    pub index: u32,
    pub state: Standing,
    /// By when it has to run, to be ready, or to leave.
    pub deadline: Option<Instant>,
    pub is_told_to_quit: bool,
    pub is_killed: bool,
    /// Since when the kernel has refused every signal to it.
    pub refused: Option<Instant>,
    /// When SIGKILL reached it.
    pub killed_at: Option<Instant>,
}

impl Seen {
    pub fn is_unready(&self) -> bool {
        matches!(self.state, Standing::Starting | Standing::Running)
    }
}

/// The reload that is under way.
#[derive(Debug, Clone)]
pub struct Current {
    pub generation: u64,
    pub rolling: bool,
    pub lost: u32,
}

/// A reload that has to begin; `None`: in the configured style.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    pub style: Option<Style>,
}

#[derive(Debug, Default)]
pub struct Books {
    pub workers: BTreeMap<ChildId, Seen>,
    pub last_id: u64,
    pub last_generation: u64,
    pub started: BTreeMap<u64, u32>,
    pub current: Option<Current>,
    /// A reload that was asked for and has not begun.
    pub owed: Option<Owed>,
    pub rebound: Option<u64>,
    /// A stop signal came.
    pub is_stopped: bool,
    pub is_closed: bool,
    /// Since when no worker is started any more.
    pub closed_at: Instant,
    pub gave_up: bool,
    pub exited: Option<i32>,
    pub last_status: Option<i32>,
    pub left_by_quit: bool,
    pub was_quit: bool,
    pub was_resized: bool,
    pub was_superseded: bool,
    pub live: u64,
    pub most_workers: u32,
    /// What was started in the last second: when, how many, and whether a person asked for it.
    pub recent: VecDeque<(Instant, u32, bool)>,
    /// Ticks in a row that left a deadline in the past and started no worker.
    pub idle_ticks: u32,
    /// How many ready workers there must be: N once there were N, less those that died.
    pub due_ready: u32,
}

impl Books {
    pub fn unasked(&self) -> u32 {
        self.count(|seen| seen.state != Standing::Asked)
    }

    pub fn ready(&self) -> u32 {
        self.count(|seen| seen.state == Standing::Ready)
    }

    pub fn ready_of(&self, generation: u64) -> u32 {
        self.count(|seen| seen.state == Standing::Ready && seen.generation == generation)
    }

    /// The ready workers that serve: those of a fleet count only when it is whole.
    pub fn serving(&self) -> u32 {
        self.count(|seen| seen.state == Standing::Ready && self.counts(seen.generation))
    }

    fn counts(&self, generation: u64) -> bool {
        let current = self.current.as_ref();
        !current.is_some_and(|current| !current.rolling && current.generation == generation)
    }

    pub fn count(&self, is_meant: impl Fn(&Seen) -> bool) -> u32 {
        self.workers.values().filter(|seen| is_meant(seen)).count() as u32
    }

    /// Notes what an event means, whatever the core does about it.
    pub fn hear(&mut self, now: Instant, event: &Event, policy: &Policy, live: u64) {
        match event {
            Event::Running(id) => self.hear_running(now, *id, policy),
            Event::Gone(id, end) => self.hear_gone(*id, end),
            Event::Reload(style) if !self.is_closed => self.owed = Some(Owed { style: *style }),
            Event::Rebound if self.rebound != Some(live) => {
                self.rebound = Some(live);
                if !self.is_closed {
                    self.owed = Some(Owed { style: None });
                }
            }
            Event::Stop(_) => self.is_stopped = true,
            Event::Quit => self.was_quit = true,
            Event::Resize(workers) => {
                self.was_resized = true;
                self.due_ready = self.due_ready.min((*workers).max(1));
            }
            _ => {}
        }
    }

    fn hear_running(&mut self, now: Instant, id: ChildId, policy: &Policy) {
        let Some(seen) = self.workers.get_mut(&id) else {
            return;
        };
        if seen.state == Standing::Starting {
            let unlimited = policy.gate == Gate::Report && policy.start.is_zero();
            seen.state = Standing::Running;
            seen.deadline = Some(now + policy.start).filter(|_| !unlimited);
        }
    }

    fn hear_gone(&mut self, id: ChildId, end: &End) {
        let Some(seen) = self.workers.remove(&id) else {
            return;
        };
        if seen.state == Standing::Asked {
            return;
        }
        let quit = matches!(end, End::Exited(0) | End::Signaled { signal: 3, .. });
        self.left_by_quit = seen.is_told_to_quit && quit;
        self.last_status = match end {
            _ if self.left_by_quit => self.last_status,
            End::Exited(status) => Some(*status),
            End::Signaled { signal, .. } => Some(128 + signal),
            End::Exec { .. } | End::Untold => self.last_status,
        };
        self.lose(&seen);
    }

    /// Notes what became of a signal.
    pub fn sent(&mut self, now: Instant, id: ChildId, signal: i32, result: Result<(), i32>) {
        let Some(seen) = self.workers.get_mut(&id) else {
            return;
        };
        match result {
            Err(_) if seen.state == Standing::Asked => drop(seen.refused.get_or_insert(now)),
            Err(_) => {}
            Ok(()) => {
                seen.refused = None;
                if signal == 9 {
                    seen.killed_at = Some(now);
                }
            }
        }
    }

    /// Notes that a worker was lost that had not been asked to stop.
    pub fn lose(&mut self, seen: &Seen) {
        if seen.state == Standing::Ready && self.counts(seen.generation) {
            self.due_ready = self.due_ready.saturating_sub(1);
        }
        if let Some(current) = &mut self.current {
            current.lost += u32::from(current.generation == seen.generation);
        }
    }

    pub fn spawn(&mut self, now: Instant, id: ChildId, generation: u64, policy: &Policy) {
        let limit = match policy.start {
            Duration::ZERO => Duration::from_secs(30),
            start => start,
        };
        let taken = |index| self.workers.values().any(|seen| seen.index == index);
        let seen = Seen {
            generation,
            index: (0..).find(|index| !taken(*index)).unwrap_or(0),
            state: Standing::Starting,
            deadline: Some(now + limit),
            is_told_to_quit: false,
            is_killed: false,
            refused: None,
            killed_at: None,
        };
        self.workers.insert(id, seen);
        self.last_id = id.0;
        *self.started.entry(generation).or_default() += 1;
    }
}
