//! The workers that exist, by `ChildId`. Inserted in one place, removed in one place.

use super::{ChildId, Instant, Then};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a worker that was asked to stop may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Forever,
    Until(Instant),
    /// SIGKILL has been sent.
    Exhausted,
    /// The same at a stop, which ends without a worker that is still there then.
    GiveUp(Instant),
}

/// A worker that the kernel does not let us signal (kill(2), EPERM as a rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub errno: i32,
    pub(super) signal: i32,
    /// What we said would follow.
    pub(super) then: Then,
    pub(super) since: Instant,
    /// When to try again; `None`: it has been left alone.
    pub(super) retry: Option<Instant>,
}

/// Where in its life a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting {
        exec_by: Instant,
    },
    /// `gate`: with a timer the moment it is ready, else the last moment to say so.
    Running {
        since: Instant,
        gate: Option<Instant>,
    },
    Ready {
        since: Instant,
    },
    Stopping {
        since: Instant,
        patience: Patience,
    },
}

impl Phase {
    fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Starting { exec_by } => Some(exec_by),
            Phase::Running { gate, .. } => gate,
            Phase::Ready { .. } => None,
            Phase::Stopping { patience, .. } => match patience {
                Patience::Until(at) | Patience::GiveUp(at) => Some(at),
                Patience::Forever | Patience::Exhausted => None,
            },
        }
    }
}

/// A process of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub generation: u64,
    /// The smallest number that no living worker had (EINHORN_CHILD_INDEX).
    pub index: u32,
    pub phase: Phase,
    pub spawned: Instant,
    /// How many workers had this place before.
    pub restarts: u32,
    /// Deaths in a row in this place.
    pub(super) streak: u32,
    /// Why our last signal did not reach it.
    pub refusal: Option<Refusal>,
    /// SIGQUIT was forwarded to it.
    pub(super) quit: bool,
    /// Of a generation that gave way, and not ready yet: not replaced.
    pub(super) superseded: bool,
}

impl Worker {
    pub(super) fn new(
        generation: u64,
        now: Instant,
        exec_by: Instant,
        restarts: u32,
        streak: u32,
    ) -> Worker {
        Worker {
            generation,
            index: 0,
            phase: Phase::Starting { exec_by },
            spawned: now,
            restarts,
            streak,
            refusal: None,
            quit: false,
            superseded: false,
        }
    }

    pub fn is_asked(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// On its way: neither ready nor asked to stop.
    pub fn is_unready(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. })
    }

    /// Since its start.
    pub fn age(&self, now: Instant) -> Duration {
        now - self.spawned
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let retry = self.refusal.and_then(|refusal| refusal.retry);
        self.phase.deadline().into_iter().chain(retry).min()
    }
}

/// How many workers of a generation are in which phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub unready: u32,
    pub ready: u32,
    pub stopping: u32,
}

impl Tally {
    /// Those that nobody has asked to stop.
    pub fn unasked(&self) -> u32 {
        self.unready + self.ready
    }

    fn count(&mut self, phase: Phase) {
        *match phase {
            Phase::Starting { .. } | Phase::Running { .. } => &mut self.unready,
            Phase::Ready { .. } => &mut self.ready,
            Phase::Stopping { .. } => &mut self.stopping,
        } += 1;
    }
}

/// All workers that exist. What can be counted is counted when it is asked for: there are some
/// dozens of them.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    map: BTreeMap<ChildId, Worker>,
    last_id: u64,
}

impl Workers {
    pub fn find(&self, id: ChildId) -> Option<&Worker> {
        self.map.get(&id)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (ChildId, &Worker)> {
        self.map.iter().map(|(id, worker)| (*id, worker))
    }

    /// Oldest first.
    pub fn ids(&self) -> Vec<ChildId> {
        self.map.keys().copied().collect()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn tally(&self, generation: u64) -> Tally {
        let mut tally = Tally::default();
        let members = self.map.values().filter(|it| it.generation == generation);
        members.for_each(|worker| tally.count(worker.phase));
        tally
    }

    /// The generations that have workers, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (u64, Tally)> + use<> {
        let mut tallies: BTreeMap<u64, Tally> = BTreeMap::new();
        for worker in self.map.values() {
            tallies
                .entry(worker.generation)
                .or_default()
                .count(worker.phase);
        }
        tallies.into_iter()
    }

    pub fn unasked(&self) -> u32 {
        self.map
            .values()
            .filter(|worker| !worker.is_asked())
            .count() as u32
    }

    pub fn ready(&self) -> u32 {
        self.map.values().filter(|worker| worker.is_ready()).count() as u32
    }

    /// Those that nobody has asked to stop: first those who are not ready, then the oldest.
    pub(super) fn unasked_in_order(&self) -> impl Iterator<Item = (ChildId, &Worker)> {
        let unready = self.iter().filter(|(_, worker)| worker.is_unready());
        unready.chain(self.iter().filter(|(_, worker)| worker.is_ready()))
    }

    /// Those on their way in `generation`.
    pub(super) fn unready_of(&self, generation: u64) -> impl Iterator<Item = &Worker> {
        let members = self
            .map
            .values()
            .filter(move |it| it.generation == generation);
        members.filter(|worker| worker.is_unready())
    }

    /// The soonest moment at which a worker's phase runs out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.map.values().filter_map(Worker::deadline).min()
    }

    /// Those whose phase has run out, oldest first.
    pub(super) fn due(&self, now: Instant) -> Vec<ChildId> {
        let is_due = |worker: &Worker| worker.deadline().is_some_and(|at| at <= now);
        let due = self.iter().filter(|(_, worker)| is_due(worker));
        due.map(|(id, _)| id).collect()
    }

    pub(super) fn insert(&mut self, mut worker: Worker) -> (ChildId, u32) {
        self.last_id += 1;
        let id = ChildId(self.last_id);
        let taken: BTreeSet<u32> = self.map.values().map(|worker| worker.index).collect();
        worker.index = (0..)
            .find(|index| !taken.contains(index))
            .unwrap_or_default();
        let index = worker.index;
        self.map.insert(id, worker);
        (id, index)
    }

    pub(super) fn remove(&mut self, id: ChildId) -> Option<Worker> {
        self.map.remove(&id)
    }

    pub(super) fn set_phase(&mut self, id: ChildId, phase: Phase) {
        if let Some(worker) = self.map.get_mut(&id) {
            worker.phase = phase;
            worker.superseded &= worker.is_unready();
        }
    }

    pub(super) fn set_refusal(&mut self, id: ChildId, refusal: Option<Refusal>) {
        if let Some(worker) = self.map.get_mut(&id) {
            worker.refusal = refusal;
        }
    }

    pub(super) fn mark_quit(&mut self, id: ChildId) {
        if let Some(worker) = self.map.get_mut(&id) {
            worker.quit = true;
        }
    }

    pub(super) fn mark_superseded(&mut self, id: ChildId) {
        if let Some(worker) = self.map.get_mut(&id) {
            worker.superseded = true;
        }
    }
}
