//! When and where the next worker is started: pending starts with their back-off, the pace, and
//! the bounds on how many workers there may be. It starts workers and asks surplus ones to stop;
//! it must never judge a generation.

use super::types::{ChildId, Instant, Note};
use super::workers::{Phase, Worker};
use super::{Action, Mode, Supervisor};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// How many workers are started before the loop looks at the kernel again.
const BURST: u32 = 16;
/// A worker that was ready for this long has proved itself: the back-off begins anew.
const PROVEN: Duration = Duration::from_secs(10);
/// The delay after the second death in a row; it doubles with each further one …
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// … up to this. The pace's interval grows no further either.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long an exec may take where `-start` sets no limit.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// A worker that is to be started when it is due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PendingStart {
    pub due: Instant,
    generation: u64,
    /// How many workers it replaces, one after the other.
    restarts: u32,
    /// How many deaths in a row led to it.
    deaths_in_row: u32,
}

/// Where the next start is taken from.
#[derive(Debug, Clone, Copy)]
pub(super) enum StartSource {
    /// The pending starts of the live set.
    LiveSet,
    /// The pending starts of the rollout.
    Rollout,
    /// The rollout's quota.
    Quota,
}

impl Supervisor {
    /// Adds pending starts until the live set has N places. A live set that has ended is not
    /// brought back, and one that was never up is the rollout's concern.
    pub(super) fn fill_live_set(&mut self, now: Instant) {
        if self.live == 0 {
            return;
        }
        self.needs_refill = false;
        let staying = self.workers.staying();
        if staying == 0 && self.pending_starts.is_empty() {
            return;
        }
        let missing = self.policy.workers.saturating_sub(staying) as usize;
        self.pending_starts.truncate(missing);
        while self.pending_starts.len() < missing {
            let start = PendingStart {
                due: now,
                generation: self.live,
                ..PendingStart::default()
            };
            add(&mut self.pending_starts, start);
        }
    }

    /// Asks the workers of `group` that exceed N to stop.
    pub(super) fn stop_surplus(&mut self, now: Instant, group: impl Fn(&Worker) -> bool) {
        let mut ids = self.workers.staying_of(group);
        ids.truncate(ids.len().saturating_sub(self.policy.workers as usize));
        self.ask_to_stop(now, &ids, self.policy.stop);
    }

    /// Starts what is due, as far as burst, pace and bounds allow.
    pub(super) fn start_due(&mut self, now: Instant) {
        while self.started_since_tick < BURST {
            let next = self.next_start(now).filter(|(at, _)| *at <= now);
            let Some(start) = next.and_then(|(_, source)| self.take_start(now, source)) else {
                break;
            };
            self.started_since_tick += 1;
            self.last_spawn = Some(now);
            let (generation, index) = (start.generation, self.workers.free_index());
            let exec_by = now + self.policy.start_limit().unwrap_or(EXEC_LIMIT);
            let id = self.workers.insert(Worker {
                generation,
                index,
                phase: Phase::Starting { exec_by },
                spawned: now,
                restarts: start.restarts,
                deaths_in_row: start.deaths_in_row,
                refusal: None,
                told_to_quit: false,
                superseded: false,
            });
            self.outbox.push_back(Action::Spawn {
                id,
                generation,
                index,
            });
        }
    }

    /// When the next worker may be started, and where it is taken from; `None` when none is to be
    /// started, or a worker has to become ready or to leave first.
    pub(super) fn next_start(&self, now: Instant) -> Option<(Instant, StartSource)> {
        let rollout = self.rollout.as_ref();
        let extra = match rollout {
            Some(rollout) if !rollout.is_rolling() => self.policy.workers,
            _ => self.policy.max_extra(),
        };
        let most = self.policy.workers.saturating_add(extra);
        // Draining workers do not count against N + K, but they hold descriptors.
        let is_full = self.workers.len() >= self.policy.capacity as usize;
        if self.mode != Mode::Serving || self.workers.staying() >= most || is_full {
            return None;
        }
        let due = |starts: &VecDeque<PendingStart>| {
            let start = starts.front()?;
            Some(start.due.max(self.paced(now, start.generation)?))
        };
        let live_set = due(&self.pending_starts).map(|at| (at, StartSource::LiveSet));
        let pending = rollout.and_then(|rollout| due(&rollout.pending_starts));
        let pending = pending.map(|at| (at, StartSource::Rollout));
        let quota = rollout.filter(|rollout| rollout.quota > 0);
        // einhorn starts a first generation and a fleet at once.
        let quota = quota.and_then(|rollout| match rollout.generation {
            2.. if rollout.is_rolling() => self.paced(now, rollout.generation),
            _ => Some(now),
        });
        let quota = quota.map(|at| (at, StartSource::Quota));
        let candidates = [live_set, pending, quota];
        candidates.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn take_start(&mut self, now: Instant, source: StartSource) -> Option<PendingStart> {
        match source {
            StartSource::LiveSet => self.pending_starts.pop_front(),
            StartSource::Rollout => self.rollout.as_mut()?.pending_starts.pop_front(),
            StartSource::Quota => {
                let rollout = self.rollout.as_mut()?;
                rollout.quota -= 1;
                Some(PendingStart {
                    due: now,
                    generation: rollout.generation,
                    ..PendingStart::default()
                })
            }
        }
    }

    /// When the pace allows the next start in `generation`; `None`: not before one of its workers
    /// has become ready. (Unready workers of other generations delay nothing, as in einhorn.)
    fn paced(&self, now: Instant, generation: u64) -> Option<Instant> {
        let (Some(pace), Some(last)) = (self.policy.pace, self.last_spawn) else {
            return Some(now);
        };
        if self.workers.tally(generation).unready >= pace.max_unready.max(1) {
            return None;
        }
        let longest = BACKOFF_MAX.max(pace.interval);
        let longer = |it: Duration, _| it.saturating_add(it / 2).min(longest);
        let interval = (0..self.early_deaths.min(30)).fold(pace.interval, longer);
        Some((last + interval).max(now))
    }

    /// A worker died: adds a pending start for it, if it is to be replaced.
    pub(super) fn replace(&mut self, now: Instant, id: ChildId, worker: &Worker) {
        let is_member = self.rolling_out() == Some(worker.generation);
        // These workers are replaced by the rollout, or by the refill when it is over.
        let by_rollout = self.rollout.as_ref().is_some_and(|rollout| {
            worker.superseded && worker.is_unready() || !is_member && rollout.is_rolling()
        });
        let places = match &self.rollout {
            Some(rollout) if is_member => {
                let staying = self.workers.tally(rollout.generation).staying();
                staying + rollout.pending_starts.len() as u32 + rollout.quota
            }
            _ => self.old_workers() + self.pending_starts.len() as u32,
        };
        self.needs_refill |= by_rollout && self.policy.respawn;
        if !self.policy.respawn || by_rollout || places >= self.policy.workers {
            return self.note_not_replaced(id);
        }
        let is_proven = matches!(worker.phase, Phase::Ready { since } if now - since >= PROVEN);
        let deaths_in_row = if is_proven { 0 } else { worker.deaths_in_row };
        // The pace is asked again when the start is due: a worker may have become ready by then.
        let is_paced = (self.policy.pace).is_some_and(|pace| !pace.interval.is_zero());
        let backoff = match deaths_in_row {
            0 => Duration::ZERO,
            _ if is_paced => Duration::ZERO,
            n => (BACKOFF_FIRST * (1 << (n - 1).min(20))).min(BACKOFF_MAX),
        };
        let start = PendingStart {
            due: now + backoff,
            generation: worker.generation,
            restarts: worker.restarts.saturating_add(1),
            deaths_in_row: deaths_in_row.saturating_add(1),
        };
        match &mut self.rollout {
            Some(rollout) if is_member => add(&mut rollout.pending_starts, start),
            _ => add(&mut self.pending_starts, start),
        }
        let by_pace = self.paced(now, worker.generation).map(|at| at - now);
        let delay = backoff.max(by_pace.unwrap_or_default());
        self.note(Note::Replacing { id, delay });
    }

    pub(super) fn note_not_replaced(&mut self, id: ChildId) {
        let ready = self.workers.ready();
        self.note(Note::NotReplaced { id, ready });
    }
}

/// Keeps the soonest first, and those that are due together in the order of their arrival.
fn add(starts: &mut VecDeque<PendingStart>, start: PendingStart) {
    let at = starts.partition_point(|other| other.due <= start.due);
    starts.insert(at, start);
}
