//! The workers that exist, by `ChildId`. It knows phases and counts; it must never decide what
//! follows from them.

use super::types::{ChildId, Instant, SignalRefusal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where in its life a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Starting {
        exec_by: Instant,
    },
    /// `gate`: with a timer the moment at which it is ready, else the last moment to say so.
    Running {
        gate: Option<Instant>,
    },
    Ready {
        since: Instant,
    },
    /// We asked it to stop; SIGKILL follows at `limit`, or never.
    Stopping {
        limit: Option<Instant>,
    },
    /// We sent SIGKILL. At our own stop, we end at `limit` without the worker.
    Killed {
        limit: Option<Instant>,
    },
}

/// A process of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub generation: u64,
    /// The smallest number that no other worker had when it was started (EINHORN_CHILD_INDEX).
    pub index: u32,
    pub phase: Phase,
    pub spawned: Instant,
    /// How many workers this one replaces, one after the other.
    #[serde(default)]
    pub restarts: u32,
    /// How many of those died in a row without having proved themselves.
    #[serde(default)]
    pub(super) deaths_in_row: u32,
    /// Why our last signal did not reach it.
    pub refusal: Option<SignalRefusal>,
    /// SIGQUIT was forwarded to it.
    #[serde(default)]
    pub(super) told_to_quit: bool,
    /// Its generation was superseded before it was ready: until it is, its death is not replaced.
    #[serde(default)]
    pub(super) superseded: bool,
}

impl Worker {
    /// Asked to stop, or killed.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Killed { .. })
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Neither ready yet nor asked to stop.
    pub fn is_unready(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. })
    }

    /// The time since its start.
    pub fn age(&self, now: Instant) -> Duration {
        now - self.spawned
    }

    /// When its phase runs out, or a refused signal is sent again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Starting { exec_by } => Some(exec_by),
            Phase::Ready { .. } => None,
            Phase::Running { gate: at } => at,
            Phase::Stopping { limit } | Phase::Killed { limit } => limit,
        };
        let retry = self.refusal.and_then(|refusal| refusal.retry);
        phase.into_iter().chain(retry).min()
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
    /// How many have not been asked to stop.
    pub fn staying(&self) -> u32 {
        self.unready + self.ready
    }
}

/// All workers that exist. They are counted whenever a number is asked for: there are some dozens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
        let mut generations = self.generations();
        let found = generations.find(|(number, _)| *number == generation);
        found.map(|(_, tally)| tally).unwrap_or_default()
    }

    /// The generations that have workers, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (u64, Tally)> + use<> {
        let mut tallies: Vec<(u64, Tally)> = Vec::new();
        for worker in self.map.values() {
            // A worker started later may be of an older generation: one that replaces another.
            let place = tallies.partition_point(|(number, _)| *number < worker.generation);
            if tallies
                .get(place)
                .is_none_or(|(number, _)| *number != worker.generation)
            {
                tallies.insert(place, (worker.generation, Tally::default()));
            }
            let (_, tally) = &mut tallies[place];
            match worker.phase {
                Phase::Starting { .. } | Phase::Running { .. } => tally.unready += 1,
                Phase::Ready { .. } => tally.ready += 1,
                Phase::Stopping { .. } | Phase::Killed { .. } => tally.stopping += 1,
            }
        }
        tallies.into_iter()
    }

    /// How many have not been asked to stop.
    pub fn staying(&self) -> u32 {
        let staying = self.map.values().filter(|worker| !worker.is_stopping());
        staying.count() as u32
    }

    pub fn ready(&self) -> u32 {
        self.map.values().filter(|worker| worker.is_ready()).count() as u32
    }

    /// Those of `group` that have not been asked to stop, in the order in which we ask when there
    /// are too many: first those that are not ready, then the oldest.
    pub(super) fn staying_of(&self, group: impl Fn(&Worker) -> bool) -> Vec<ChildId> {
        let staying = self.iter().filter(|(_, worker)| !worker.is_stopping());
        let members = staying.filter(|(_, worker)| group(worker));
        let (ready, mut unready): (Vec<_>, Vec<_>) = members.partition(|(_, it)| it.is_ready());
        unready.extend(ready);
        unready.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) fn unready_of(&self, generation: u64) -> impl Iterator<Item = &Worker> {
        let unready = self.map.values().filter(|worker| worker.is_unready());
        unready.filter(move |worker| worker.generation == generation)
    }

    /// The soonest moment at which a worker is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.map.values().filter_map(Worker::deadline).min()
    }

    /// Adds a worker under an id that no worker ever had.
    pub(super) fn insert(&mut self, worker: Worker) -> ChildId {
        self.last_id += 1;
        let id = ChildId(self.last_id);
        self.map.insert(id, worker);
        id
    }

    /// The smallest index that no worker has.
    pub(super) fn free_index(&self) -> u32 {
        let mut is_taken = vec![false; self.map.len() + 1];
        for worker in self.map.values() {
            if let Some(place) = is_taken.get_mut(worker.index as usize) {
                *place = true;
            }
        }
        let free = is_taken.iter().position(|is_taken| !is_taken);
        free.expect("there is one place more than workers") as u32
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.map.values_mut()
    }

    pub(super) fn get_mut(&mut self, id: ChildId) -> Option<&mut Worker> {
        self.map.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: ChildId) -> Option<Worker> {
        self.map.remove(&id)
    }
}
