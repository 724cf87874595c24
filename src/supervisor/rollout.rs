//! A generation on its way to be live, and the six ways in which that ends. It begins, promotes,
//! rolls back and supersedes generations; it must never start a worker by itself.

use super::respawn::PendingStart;
use super::types::{Cause, Failure, Gate, Instant, Outcome, Style, Verdict};
use super::workers::{Phase, Worker};
use super::{Action, Mode, Supervisor};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// The generation that is coming up. There is at most one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub generation: u64,
    style: Style,
    /// How many of its workers have not been started for the first time.
    pub quota: u32,
    /// Replacements for its workers that died, the soonest first.
    #[serde(default)]
    pub pending_starts: VecDeque<PendingStart>,
    /// The last of its workers that was lost.
    pub failure: Option<Failure>,
    began: Instant,
}

impl Rollout {
    pub fn is_rolling(&self) -> bool {
        self.style == Style::Rolling
    }
}

/// A reload that follows as soon as nothing is in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingReload {
    /// `None`: in the configured style.
    pub style: Option<Style>,
}

impl Supervisor {
    /// A new generation starts to come up; `None`: in the configured style. One that exceeds our
    /// descriptors has only its verdict.
    pub(super) fn begin(&mut self, now: Instant, style: Option<Style>) {
        self.last_generation += 1;
        let generation = self.last_generation;
        let style = self.policy.style(style);
        if let Some(failure) = self.lack_of_room(style, generation) {
            let outcome = match self.workers.ready() {
                0 => Outcome::Failed,
                _ => Outcome::RolledBack,
            };
            let verdict = self.verdict_on(generation, outcome, Some(failure));
            return self.outbox.push_back(Action::Verdict(verdict));
        }
        let first = generation == 1;
        self.outbox.push_back(Action::Begin { generation, first });
        self.rollout = Some(Rollout {
            generation,
            style,
            quota: self.policy.workers,
            pending_starts: VecDeque::new(),
            failure: None,
            began: now,
        });
    }

    /// Why a generation need not begin: what it starts with exceeds our descriptors.
    fn lack_of_room(&self, style: Style, generation: u64) -> Option<Failure> {
        let added = match style {
            Style::Rolling if generation > 1 => self.policy.max_extra(),
            _ => self.policy.workers,
        };
        let capacity = self.policy.capacity;
        let wanted = (self.workers.len() as u32).saturating_add(added);
        (wanted > capacity).then_some(Failure {
            worker: None,
            cause: Cause::NoRoom { wanted, capacity },
            after: Duration::ZERO,
        })
    }

    /// Begins the remembered reload, if nothing is in its way.
    pub(super) fn start_pending_reload(&mut self, now: Instant) {
        let (Some(PendingReload { style }), Some(generation)) =
            (self.pending_reload, self.reload_would_begin())
        else {
            return;
        };
        let asked = self.policy.style(style);
        // A reload that cannot begin must not end a rollout that may still succeed.
        if self.rollout.is_some() && self.lack_of_room(asked, generation).is_none() {
            self.supersede(now);
        }
        self.pending_reload = None;
        if self.needs_refill && self.rollout.is_none() && asked == Style::Fleet {
            self.fill_live_set(now);
        }
        self.begin(now, style);
    }

    /// Whether the rollout may never come to an end: a worker may take as long as it likes, or
    /// each that is on its way follows one that died, and others have died again.
    pub(super) fn may_block_for_ever(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let has_no_limit = self.policy.gate == Gate::Report && self.policy.start.is_zero();
        let is_running = |worker: &Worker| matches!(worker.phase, Phase::Running { .. });
        let unready = || self.workers.unready_of(rollout.generation);
        if has_no_limit && unready().any(is_running) {
            return true;
        }
        let has_ready = self.workers.tally(rollout.generation).ready > 0;
        !has_ready
            && !rollout.pending_starts.is_empty()
            && unready().all(|worker| worker.deaths_in_row > 0)
    }

    /// Whether an older generation serves, so that there is something to go back to.
    pub(super) fn has_fallback(&self) -> bool {
        let coming_up = self.rolling_out().unwrap_or(0);
        let mut generations = self.workers.generations();
        generations.any(|(generation, tally)| generation < coming_up && tally.ready > 0)
    }

    /// Whether the rollout has nothing more to wait for. Every place has two tries; where there is
    /// nothing to go back to, a place that needs more of them is not waited for.
    pub(super) fn is_decided(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let tally = self.workers.tally(rollout.generation);
        if tally.ready >= self.policy.workers || rollout.quota > 0 {
            return tally.ready >= self.policy.workers;
        }
        let is_waited_for = |worker: &Worker| worker.deaths_in_row < 2;
        match (tally.ready, tally.unready) {
            (0, 0) => rollout.pending_starts.is_empty(),
            (0, _) => false,
            (_, 0) => true,
            _ if rollout.failure.is_none() => false,
            _ => !(self.workers.unready_of(rollout.generation)).any(is_waited_for),
        }
    }

    /// How many old workers a rolling reload has made dispensable.
    pub(super) fn rolling_surplus(&self) -> u32 {
        let Some(rollout) = self.rollout.as_ref().filter(|it| it.is_rolling()) else {
            return 0;
        };
        let old = self.old_workers();
        match self.workers.tally(rollout.generation).ready {
            0 => 0,
            ready => (ready + old).saturating_sub(self.policy.workers).min(old),
        }
    }

    /// How many workers have not been asked to stop, besides those of the rollout. They are more
    /// than N after a rolling reload that ended half-way before its last step was taken.
    pub(super) fn old_workers(&self) -> u32 {
        let rollout = self.rolling_out().map(|it| self.workers.tally(it));
        self.workers.staying() - rollout.map_or(0, |tally| tally.staying())
    }

    /// What is ready was alive a moment ago: it may take the place of others.
    pub(super) fn on_promotion_confirmed(&mut self, now: Instant) {
        if self.mode != Mode::Serving {
            return;
        }
        let coming_up = self.rolling_out();
        if self.old_workers() > self.policy.workers {
            self.stop_surplus(now, |worker| Some(worker.generation) != coming_up);
        }
        let Some(generation) = coming_up else {
            return;
        };
        let mut old = self.workers.staying_of(|it| it.generation != generation);
        old.truncate(self.rolling_surplus() as usize);
        self.ask_to_stop(now, &old, self.policy.stop);
        if !self.is_decided() {
            return;
        }
        let failure = self.last_failure();
        let outcome = match failure {
            _ if self.workers.tally(generation).ready > 0 => return self.go_live(now, generation),
            None => Outcome::Abandoned, // all its workers left because of SIGQUIT
            Some(_) if self.has_fallback() => Outcome::RolledBack,
            Some(_) => Outcome::Failed,
        };
        self.conclude(now, outcome, failure);
    }

    fn go_live(&mut self, now: Instant, generation: u64) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        self.pending_starts = std::mem::take(&mut rollout.pending_starts);
        self.needs_refill = false;
        let old = self.workers.staying_of(|it| it.generation != generation);
        self.ask_to_stop(now, &old, self.policy.stop);
        let is_whole = self.workers.tally(generation).ready >= self.policy.workers;
        let failure = self.last_failure().filter(|_| !is_whole);
        self.conclude(now, Outcome::Live, failure);
    }

    /// A new worker failed while older ones serve.
    pub(super) fn roll_back(&mut self, now: Instant, failure: Failure) {
        let Some(rollout) = &self.rollout else { return };
        let (generation, is_rolling) = (rollout.generation, rollout.is_rolling());
        self.stop_generation(now, generation, is_rolling);
        self.needs_refill |= is_rolling && self.policy.respawn;
        let outcome = match self.workers.tally(generation).ready {
            0 => Outcome::RolledBack,
            _ => Outcome::HalfWay,
        };
        self.conclude(now, outcome, Some(failure));
    }

    /// Asks the workers of a failed generation to stop, ready ones only if not `keep_ready`.
    fn stop_generation(&mut self, now: Instant, generation: u64, keep_ready: bool) {
        let is_meant = |it: &Worker| it.generation == generation && !(keep_ready && it.is_ready());
        let ids = self.workers.staying_of(is_meant);
        self.ask_to_stop(now, &ids, self.policy.rollback_limit());
    }

    /// N has changed in the middle of a rollout: it goes on with the new N. What the live set
    /// lacks is started when the rollout is over.
    pub(super) fn resize_rollout(&mut self, now: Instant, generation: u64) {
        let workers = self.policy.workers;
        let present = self.workers.tally(generation).staying();
        if let Some(rollout) = &mut self.rollout {
            rollout.quota = workers.saturating_sub(present);
            rollout.pending_starts.clear();
        }
        self.needs_refill = true;
        self.stop_surplus(now, |worker| worker.generation == generation);
        self.stop_surplus(now, |worker| worker.generation != generation);
        let missing = workers.saturating_sub(self.old_workers());
        self.pending_starts.truncate(missing as usize);
    }

    /// The rollout gives way to the remembered reload.
    fn supersede(&mut self, now: Instant) {
        let Some(rollout) = &self.rollout else { return };
        let (generation, is_rolling) = (rollout.generation, rollout.is_rolling());
        if self.has_fallback() {
            self.stop_generation(now, generation, is_rolling);
        } else {
            // Without an older worker that serves, those of the rollout that are ready serve; if
            // there are none, those on their way go on: they may still become ready.
            let has_ready = self.workers.tally(generation).ready > 0;
            let old = self.workers.staying_of(|it| it.generation != generation);
            self.ask_to_stop(now, &old, self.policy.rollback_limit());
            if has_ready {
                self.stop_generation(now, generation, true);
            }
            self.pending_starts.clear();
            for worker in self.workers.iter_mut().filter(|it| it.is_unready()) {
                worker.superseded = true;
            }
        }
        self.needs_refill |= self.policy.respawn;
        let failure = self.last_failure();
        self.conclude(now, Outcome::Superseded, failure);
    }

    /// A stop wins over the rollout and over the remembered reload.
    pub(super) fn abandon(&mut self, now: Instant) {
        if self.rollout.is_some() {
            self.conclude(now, Outcome::Abandoned, None);
        }
        if self.pending_reload.take().is_some() {
            self.last_generation += 1;
            let verdict = self.verdict_on(self.last_generation, Outcome::Abandoned, None);
            // It is a reload, also where the first generation was never begun.
            let first = false;
            self.outbox
                .push_back(Action::Verdict(Verdict { first, ..verdict }));
        }
    }

    /// The rollout ends, in its one verdict.
    fn conclude(&mut self, now: Instant, outcome: Outcome, failure: Option<Failure>) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        if outcome != Outcome::Abandoned {
            self.update_live_generation();
        }
        let took = now - rollout.began;
        let verdict = self.verdict_on(rollout.generation, outcome, failure);
        self.outbox
            .push_back(Action::Verdict(Verdict { took, ..verdict }));
    }

    /// Outside of a rollout, the newest generation with a ready worker is live.
    pub(super) fn update_live_generation(&mut self) {
        let mut generations = self.workers.generations();
        if let Some((generation, _)) = generations.rfind(|(_, tally)| tally.ready > 0) {
            self.live = self.live.max(generation);
        }
    }

    fn last_failure(&self) -> Option<Failure> {
        self.rollout.as_ref().and_then(|it| it.failure.clone())
    }

    fn verdict_on(&self, generation: u64, outcome: Outcome, failure: Option<Failure>) -> Verdict {
        let mut others = (self.workers.generations()).filter(|(other, _)| *other != generation);
        let serving = others.rfind(|(_, tally)| tally.ready > 0);
        Verdict {
            generation,
            outcome,
            ready: self.workers.tally(generation).ready,
            wanted: self.policy.workers,
            failure,
            serving: serving.map(|(other, _)| other),
            took: Duration::ZERO,
            first: generation == 1,
            unreached: None,
        }
    }
}
