//! The workers that exist, by `ChildId`, with counts per generation kept beside them so that no
//! question costs a walk over all. Inserted in one place, removed in one place.

use super::{ChildId, Instant, Then};
use crate::table::{Key, Raw, Set, Table};
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

    /// Its place among those that nobody has asked: not ready before ready.
    fn rank(self) -> Option<bool> {
        match self {
            Phase::Starting { .. } | Phase::Running { .. } => Some(false),
            Phase::Ready { .. } => Some(true),
            Phase::Stopping { .. } => None,
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

    fn slot(&mut self, phase: Phase) -> &mut u32 {
        match phase {
            Phase::Starting { .. } | Phase::Running { .. } => &mut self.unready,
            Phase::Ready { .. } => &mut self.ready,
            Phase::Stopping { .. } => &mut self.stopping,
        }
    }
}

/// Not ready before ready, then the oldest.
impl Key for (bool, ChildId) {
    fn to_raw(self) -> Raw {
        (u64::from(self.0), self.1.0)
    }

    fn from_raw((ready, id): Raw) -> (bool, ChildId) {
        (ready != 0, ChildId(id))
    }
}

/// The soonest first.
impl Key for (Instant, ChildId) {
    fn to_raw(self) -> Raw {
        (self.0.0, self.1.0)
    }

    fn from_raw((at, id): Raw) -> (Instant, ChildId) {
        (Instant(at), ChildId(id))
    }
}

/// All workers that exist.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    map: Table<ChildId, Worker>,
    /// Of each generation that has workers, oldest first.
    tallies: Vec<(u64, Tally)>,
    total: Tally,
    /// Those that nobody has asked, in the order in which they would be: not ready before ready,
    /// then the oldest.
    unasked: Set<(bool, ChildId)>,
    /// Whose time runs out when, soonest first.
    deadlines: Set<(Instant, ChildId)>,
    last_id: u64,
    /// Indexes below `indexes` that nobody has.
    free: Set<u32>,
    indexes: u32,
}

impl Workers {
    pub fn find(&self, id: ChildId) -> Option<&Worker> {
        self.map.get(&id)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (ChildId, &Worker)> {
        self.map.iter()
    }

    /// Oldest first.
    pub fn ids(&self) -> Vec<ChildId> {
        self.map.keys()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn tally(&self, generation: u64) -> Tally {
        match self.place(generation) {
            Ok(at) => self.tallies[at].1,
            Err(_) => Tally::default(),
        }
    }

    /// The generations that have workers, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (u64, Tally)> {
        self.tallies.iter().copied()
    }

    /// Where the generation's tally is, or belongs.
    fn place(&self, generation: u64) -> Result<usize, usize> {
        self.tallies
            .binary_search_by_key(&generation, |(generation, _)| *generation)
    }

    pub fn unasked(&self) -> u32 {
        self.total.unasked()
    }

    pub fn ready(&self) -> u32 {
        self.total.ready
    }

    pub fn unready(&self) -> u32 {
        self.total.unready
    }

    /// Those that nobody has asked to stop: first those who are not ready, then the oldest.
    pub(super) fn unasked_in_order(&self) -> impl Iterator<Item = (ChildId, &Worker)> {
        let ids = self.unasked.iter().map(|(_, id)| id);
        ids.filter_map(|id| Some((id, self.map.get(&id)?)))
    }

    /// Those on their way in `generation`.
    pub(super) fn unready_of(&self, generation: u64) -> impl Iterator<Item = &Worker> {
        let unready = self.unasked_in_order().map(|(_, worker)| worker);
        unready
            .take_while(|worker| worker.is_unready())
            .filter(move |worker| worker.generation == generation)
    }

    /// The soonest moment at which a worker's phase runs out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// Those whose phase has run out, oldest first.
    pub(super) fn due(&self, now: Instant) -> Vec<ChildId> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        let ids: Set<ChildId> = due.map(|(_, id)| id).collect();
        ids.to_vec()
    }

    pub(super) fn insert(&mut self, mut worker: Worker) -> (ChildId, u32) {
        self.last_id += 1;
        let id = ChildId(self.last_id);
        worker.index = self.free.pop_first().unwrap_or_else(|| {
            self.indexes += 1;
            self.indexes - 1
        });
        let index = worker.index;
        self.enter(id, &worker);
        self.map.insert(id, worker);
        (id, index)
    }

    pub(super) fn remove(&mut self, id: ChildId) -> Option<Worker> {
        let worker = self.map.remove(&id)?;
        self.leave(id, &worker);
        self.free.insert(worker.index);
        Some(worker)
    }

    pub(super) fn set_phase(&mut self, id: ChildId, phase: Phase) {
        self.change(id, |worker| {
            worker.phase = phase;
            worker.superseded &= worker.is_unready();
        });
    }

    pub(super) fn set_refusal(&mut self, id: ChildId, refusal: Option<Refusal>) {
        self.change(id, |worker| worker.refusal = refusal);
    }

    fn change(&mut self, id: ChildId, change: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.map.get_mut(&id) else {
            return;
        };
        let before = worker.clone();
        change(worker);
        let after = worker.clone();
        self.leave(id, &before);
        self.enter(id, &after);
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

    fn enter(&mut self, id: ChildId, worker: &Worker) {
        self.count(worker.generation, worker.phase, 1);
        self.unasked
            .extend(worker.phase.rank().map(|rank| (rank, id)));
        self.deadlines.extend(worker.deadline().map(|at| (at, id)));
    }

    fn leave(&mut self, id: ChildId, worker: &Worker) {
        self.count(worker.generation, worker.phase, -1);
        if let Some(rank) = worker.phase.rank() {
            self.unasked.remove(&(rank, id));
        }
        if let Some(at) = worker.deadline() {
            self.deadlines.remove(&(at, id));
        }
    }

    fn count(&mut self, generation: u64, phase: Phase, by: i32) {
        let at = match self.place(generation) {
            Ok(at) => at,
            Err(at) => {
                self.tallies.insert(at, (generation, Tally::default()));
                at
            }
        };
        let tally = &mut self.tallies[at].1;
        for slot in [tally.slot(phase), self.total.slot(phase)] {
            *slot = slot.wrapping_add_signed(by);
        }
        if *tally == Tally::default() {
            self.tallies.remove(at);
        }
    }
}
