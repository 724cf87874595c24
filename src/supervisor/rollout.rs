//! A generation on its way to be live, and the six ways in which that ends.

use super::{
    Action, Cause, ChildId, Failure, Gate, Instant, Mode, Note, Outcome, Phase, Style, Supervisor,
    Verdict, Worker,
};

/// The generation that is coming up. There is at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rollout {
    pub generation: u64,
    style: Style,
    first: bool,
    /// How many of its workers are still to be started.
    pub quota: u32,
    /// The last of its workers that was lost.
    failure: Option<Failure>,
    began: Instant,
}

impl Rollout {
    pub fn is_rolling(&self) -> bool {
        self.style == Style::Rolling
    }

    /// einhorn starts a first generation and a fleet at once, everything else at its pace.
    pub fn is_paced(&self) -> bool {
        self.is_rolling() && !self.first
    }
}

impl Supervisor {
    /// A new generation starts to come up; `None`: in the configured style.
    pub(super) fn begin(&mut self, now: Instant, style: Option<Style>) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let by_size = match self.max_extra() < self.policy.workers {
            true => Style::Rolling,
            false => Style::Fleet,
        };
        let rollout = Rollout {
            generation,
            style: style.or(self.policy.style).unwrap_or(by_size),
            first: generation == 1,
            quota: self.policy.workers,
            failure: None,
            began: now,
        };
        self.outbox.push_back(Action::Begin {
            generation,
            first: rollout.first,
        });
        self.rollout = Some(rollout);
        let wanted = self.workers.len() as u32 + self.policy.workers.min(self.room());
        if wanted > self.policy.capacity {
            let cause = Cause::NoRoom {
                wanted,
                capacity: self.policy.capacity,
            };
            let failure = Failure {
                worker: None,
                cause,
                after: Default::default(),
            };
            self.conclude(now, Outcome::RolledBack, Some(failure));
        }
    }

    /// Starts the remembered reload, if nothing is in its way.
    pub(super) fn start_pending(&mut self, now: Instant) {
        let Some(style) = self.pending else { return };
        if self.rollout.is_some() {
            if self.awaits_settling() || !self.may_block_for_ever() {
                return;
            }
            self.supersede(now);
        }
        self.pending = None;
        self.begin(now, style);
    }

    /// Whether the rollout may never come to an end: a worker may take as long as it likes, or
    /// each that is left of it has died at least once and there is nothing to go back to.
    fn may_block_for_ever(&self) -> bool {
        let Some(generation) = self.rolling_out() else {
            return false;
        };
        let mut members = self
            .members(generation)
            .filter(|(_, worker)| worker.is_unready());
        let unlimited = self.policy.gate == Gate::Report && self.policy.start.is_zero();
        if unlimited && members.any(|(_, w)| matches!(w.phase, Phase::Running { .. })) {
            return true;
        }
        let mut members = self
            .members(generation)
            .filter(|(_, worker)| !worker.is_asked());
        self.seats_of(generation) > self.workers.tally(generation).unasked() as usize
            && members.all(|(_, worker)| worker.is_unready() && worker.streak > 0)
    }

    /// Whether an older generation serves, so that there is something to go back to.
    pub(super) fn has_fallback(&self) -> bool {
        let Some(generation) = self.rolling_out() else {
            return false;
        };
        let mut older = self
            .workers
            .generations()
            .take_while(|(older, _)| *older < generation);
        older.any(|(_, tally)| tally.ready > 0)
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_decided(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let tally = self.workers.tally(rollout.generation);
        let all_tried = rollout.quota == 0 && tally.unready == 0;
        let crash_looping = self.seats_of(rollout.generation) > 0;
        tally.ready >= self.policy.workers || all_tried && (tally.ready > 0 || !crash_looping)
    }

    /// Whether a rolling reload has made an old worker dispensable.
    pub(super) fn rolling_excess(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let tally = self.workers.tally(rollout.generation);
        let old = self.workers.unasked() - tally.unasked();
        rollout.is_rolling()
            && old > 0
            && tally.ready > 0
            && tally.ready + old > self.policy.workers
    }

    /// Promotes: what is ready was alive a moment ago.
    pub(super) fn on_settled(&mut self, now: Instant) {
        while self.mode == Mode::Serving && self.rolling_excess() {
            let Some(id) = self.dispensable() else { break };
            self.ask(now, id);
        }
        let Some(generation) = self.rolling_out() else {
            return;
        };
        if self.mode != Mode::Serving || !self.is_decided() {
            return;
        }
        if self.workers.tally(generation).ready > 0 {
            self.go_live(now, generation);
        } else {
            let failure = self
                .rollout
                .as_ref()
                .and_then(|rollout| rollout.failure.clone());
            let left = failure.is_none(); // asked by SIGQUIT, all of them
            let outcome = if left {
                Outcome::Abandoned
            } else {
                Outcome::Failed
            };
            self.conclude(now, outcome, failure);
        }
    }

    /// The old worker that a rolling reload asks next: one that does not serve yet, else the
    /// oldest.
    fn dispensable(&self) -> Option<ChildId> {
        let generation = self.rolling_out()?;
        let old = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.generation != generation && !worker.is_asked());
        old.min_by_key(|(id, worker)| (worker.is_ready(), *id))
            .map(|(id, _)| id)
    }

    fn go_live(&mut self, now: Instant, generation: u64) {
        self.live = generation;
        self.been_up = true;
        self.vacancies
            .retain(|vacancy| vacancy.generation == generation);
        for id in self.unasked_where(|worker| worker.generation != generation) {
            self.ask(now, id);
        }
        let failure = self
            .rollout
            .as_ref()
            .and_then(|rollout| rollout.failure.clone());
        let whole = self.workers.tally(generation).ready >= self.policy.workers;
        self.conclude(now, Outcome::Live, failure.filter(|_| !whole));
    }

    /// A new worker failed while older ones serve.
    pub(super) fn roll_back(&mut self, now: Instant, failure: Failure) {
        let Some(rollout) = &self.rollout else { return };
        let (generation, rolling) = (rollout.generation, rollout.is_rolling());
        self.withdraw(now, generation, rolling);
        let halfway = self.workers.tally(generation).ready > 0;
        if halfway {
            self.live = generation;
        }
        let outcome = if halfway {
            Outcome::HalfWay
        } else {
            Outcome::RolledBack
        };
        self.conclude(now, outcome, Some(failure));
        if rolling && self.policy.respawn {
            self.fit(now);
        } else if rolling {
            self.trim(now, |_| true);
        }
    }

    /// Asks the workers of a generation to stop, those that are ready only if not `keep_ready`.
    fn withdraw(&mut self, now: Instant, generation: u64, keep_ready: bool) {
        self.vacancies
            .retain(|vacancy| vacancy.generation != generation);
        for id in self.unasked_where(|worker| {
            worker.generation == generation && !(keep_ready && worker.is_ready())
        }) {
            self.dismiss(now, id);
        }
    }

    /// One of the new workers is lost, and costs only itself: there is nothing to go back to.
    pub(super) fn lose_member(&mut self, failure: Failure) {
        if let Some(rollout) = &mut self.rollout {
            rollout.failure = Some(failure);
        }
    }

    /// The rollout gives way to the remembered reload.
    fn supersede(&mut self, now: Instant) {
        let Some(rollout) = &self.rollout else { return };
        let (generation, rolling) = (rollout.generation, rollout.is_rolling());
        let has_ready = self.workers.tally(generation).ready > 0;
        if self.has_fallback() {
            self.withdraw(now, generation, rolling);
        } else {
            // Nobody older serves: who does not serve yet of older ones never will be needed.
            for id in self.unasked_where(|worker| worker.generation != generation) {
                self.dismiss(now, id);
            }
            if has_ready {
                self.withdraw(now, generation, true);
            }
            self.vacancies.clear();
            for id in self.unasked_where(Worker::is_unready) {
                self.workers.mark_superseded(id);
            }
        }
        let failure = self
            .rollout
            .as_ref()
            .and_then(|rollout| rollout.failure.clone());
        self.conclude(now, Outcome::Superseded, failure);
    }

    /// A stop wins over everything that was to come.
    pub(super) fn abandon(&mut self, now: Instant) {
        if self.rollout.is_some() {
            self.conclude(now, Outcome::Abandoned, None);
        }
        if self.pending.take().is_some() {
            let generation = self.next_generation;
            self.next_generation += 1;
            let verdict = self.verdict_on(generation, Outcome::Abandoned, None);
            self.announce(verdict);
        }
    }

    /// The rollout ends, in its one verdict.
    fn conclude(&mut self, now: Instant, outcome: Outcome, failure: Option<Failure>) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        let verdict = self.verdict_on(rollout.generation, outcome, failure);
        self.announce(Verdict {
            took: now - rollout.began,
            first: rollout.first,
            ..verdict
        });
        // What supersedes it brings as many as are wanted.
        if self.resized && self.mode == Mode::Serving && outcome != Outcome::Superseded {
            self.fit(now);
        }
    }

    fn verdict_on(&self, generation: u64, outcome: Outcome, failure: Option<Failure>) -> Verdict {
        let others = self
            .workers
            .generations()
            .filter(|(other, _)| *other != generation);
        Verdict {
            generation,
            outcome,
            ready: self.workers.tally(generation).ready,
            wanted: self.policy.workers,
            failure,
            serving: others
                .filter(|(_, tally)| tally.ready > 0)
                .map(|(other, _)| other)
                .last(),
            took: Default::default(),
            first: false,
        }
    }

    fn announce(&mut self, verdict: Verdict) {
        self.last_verdict = Some(verdict.clone());
        self.outbox.push_back(Action::Verdict(verdict));
    }

    fn members(&self, generation: u64) -> impl Iterator<Item = (ChildId, &Worker)> {
        self.workers
            .iter()
            .filter(move |(_, worker)| worker.generation == generation)
    }

    fn unasked_where(&self, is_meant: impl Fn(&Worker) -> bool) -> Vec<ChildId> {
        let unasked = self.workers.iter().filter(|(_, worker)| !worker.is_asked());
        unasked
            .filter(|(_, worker)| is_meant(worker))
            .map(|(id, _)| id)
            .collect()
    }

    /// For notes that concern nobody in particular.
    pub(super) fn note(&mut self, note: Note) {
        self.outbox.push_back(Action::Note(note));
    }
}
