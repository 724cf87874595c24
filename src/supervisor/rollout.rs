//! A generation on its way to be live, and the six ways in which that ends.

use super::{
    Action, ChildId, Failure, Gate, Instant, Mode, Outcome, Phase, Style, Supervisor, Verdict,
    Worker, places::Vacancies,
};
use std::time::Duration;

/// The generation that is coming up. There is at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rollout {
    pub generation: u64,
    style: Style,
    first: bool,
    /// How many of its workers are still to be started.
    pub quota: u32,
    /// Places of its workers that died and are to be replaced.
    pub vacancies: Vacancies,
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
    /// A new generation starts to come up; `None`: in the configured style. One that would not
    /// fit has only its verdict, and whatever is under way goes on.
    pub(super) fn begin(&mut self, now: Instant, style: Option<Style>) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let first = generation == 1;
        let style = self.style(style);
        if let Some(failure) = self.lack_of_room(style, first) {
            return self.refuse(generation, failure);
        }
        self.outbox.push_back(Action::Begin { generation, first });
        self.rollout = Some(Rollout {
            generation,
            style,
            first,
            quota: self.policy.workers,
            vacancies: Vacancies::default(),
            failure: None,
            began: now,
        });
    }

    fn style(&self, asked: Option<Style>) -> Style {
        let by_size = match self.policy.max_extra() < self.policy.workers {
            true => Style::Rolling,
            false => Style::Fleet,
        };
        asked.or(self.policy.style).unwrap_or(by_size)
    }

    /// Why a generation need not begin: what it starts with exceeds our descriptors.
    fn lack_of_room(&self, style: Style, first: bool) -> Option<Failure> {
        let beside = match style {
            Style::Rolling if !first => self.policy.max_extra(),
            _ => self.policy.workers,
        };
        let wanted = (self.workers.len() as u32).saturating_add(beside);
        (wanted > self.policy.capacity).then(|| self.no_room(wanted))
    }

    fn refuse(&mut self, generation: u64, failure: Failure) {
        let outcome = match self.workers.ready() {
            0 => Outcome::Failed,
            _ => Outcome::RolledBack,
        };
        let verdict = self.verdict_on(generation, outcome, Some(failure));
        self.announce(Verdict {
            first: generation == 1,
            ..verdict
        });
    }

    /// Starts the remembered reload, if nothing is in its way.
    pub(super) fn start_pending(&mut self, now: Instant) {
        let Some(style) = self.pending.filter(|_| self.has_begun()) else {
            return;
        };
        if self.rollout.is_some() {
            if self.awaits_settling() || !self.may_block_for_ever() {
                return;
            }
            if self.lack_of_room(self.style(style), false).is_none() {
                self.supersede(now);
            }
        }
        self.pending = None;
        if self.unfilled && self.rollout.is_none() && self.style(style) == Style::Fleet {
            self.fill(now);
        }
        self.begin(now, style);
    }

    /// Whether the rollout may never come to an end: a worker may take as long as it likes, or
    /// each that is left of it follows one that died, and some have died again.
    pub(super) fn may_block_for_ever(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let unlimited = self.policy.gate == Gate::Report && self.policy.start.is_zero();
        let is_running = |worker: &Worker| matches!(worker.phase, Phase::Running { .. });
        let mut unready = self.workers.unready_of(rollout.generation);
        if unlimited && unready.any(is_running) {
            return true;
        }
        let is_ready = self.workers.tally(rollout.generation).ready > 0;
        let mut unready = self.workers.unready_of(rollout.generation);
        !rollout.vacancies.is_empty() && !is_ready && unready.all(|worker| worker.streak > 0)
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

    /// Whether nothing is left to wait for. Every place has two tries; where there is nothing to
    /// go back to, one that needs more costs only itself.
    pub(super) fn is_decided(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return false;
        };
        let tally = self.workers.tally(rollout.generation);
        if tally.ready >= self.policy.workers || rollout.quota > 0 {
            return tally.ready >= self.policy.workers;
        }
        let is_waited_for = |worker: &Worker| worker.streak < 2;
        match (tally.ready, tally.unready) {
            (0, 0) => rollout.vacancies.is_empty(),
            (0, _) => false,
            (_, 0) => true,
            _ if rollout.failure.is_none() => false,
            _ => !(self.workers.unready_of(rollout.generation)).any(is_waited_for),
        }
    }

    /// How many old workers a rolling reload has made dispensable.
    pub(super) fn rolling_excess(&self) -> u32 {
        let Some(rollout) = self.rollout.as_ref().filter(|it| it.is_rolling()) else {
            return 0;
        };
        match (self.workers.tally(rollout.generation).ready, self.old()) {
            (0, _) => 0,
            (ready, old) => (ready + old).saturating_sub(self.policy.workers).min(old),
        }
    }

    /// Whether more than N are there besides those that come up: a rolling reload ended half-way
    /// before its last step was taken.
    pub(super) fn is_overfull(&self) -> bool {
        self.old() > self.policy.workers
    }

    /// How many workers nobody has asked, besides those of the generation that is coming up.
    fn old(&self) -> u32 {
        let members = self.rolling_out().map(|it| self.workers.tally(it));
        self.workers.unasked() - members.map_or(0, |it| it.unasked())
    }

    /// Promotes: what is ready was alive a moment ago.
    pub(super) fn on_settled(&mut self, now: Instant) {
        if self.mode == Mode::Serving {
            let coming_up = self.rolling_out();
            if self.is_overfull() {
                self.trim(now, &|worker| Some(worker.generation) != coming_up);
            }
            self.ask_dispensable(now);
            self.promote(now);
        }
    }

    /// A rolling reload asks old workers: those that do not serve yet first, then the oldest.
    fn ask_dispensable(&mut self, now: Instant) {
        let excess = self.rolling_excess();
        let Some(generation) = self.rolling_out().filter(|_| excess > 0) else {
            return;
        };
        let old = self.workers.unasked_in_order();
        let old = old.filter(|(_, worker)| worker.generation != generation);
        let ids: Vec<_> = old.take(excess as usize).map(|(id, _)| id).collect();
        for id in ids {
            self.ask(now, id);
        }
    }

    fn promote(&mut self, now: Instant) {
        let Some(generation) = self.rolling_out().filter(|_| self.is_decided()) else {
            return;
        };
        match self.workers.tally(generation).ready {
            0 => self.end_without_workers(now),
            _ => self.go_live(now, generation),
        }
    }

    /// Nothing of the rollout is left.
    fn end_without_workers(&mut self, now: Instant) {
        let failure = self.last_loss();
        let outcome = match failure {
            None => Outcome::Abandoned, // by SIGQUIT
            Some(_) if self.has_fallback() => Outcome::RolledBack,
            Some(_) => Outcome::Failed,
        };
        self.conclude(now, outcome, failure);
    }

    fn go_live(&mut self, now: Instant, generation: u64) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        self.vacancies = std::mem::take(&mut rollout.vacancies);
        self.unfilled = false;
        for id in self.unasked_where(&|worker| worker.generation != generation) {
            self.ask(now, id);
        }
        let whole = self.workers.tally(generation).ready >= self.policy.workers;
        let failure = self.last_loss().filter(|_| !whole);
        self.conclude(now, Outcome::Live, failure);
    }

    /// A new worker failed while older ones serve.
    pub(super) fn roll_back(&mut self, now: Instant, failure: Failure) {
        let Some(rollout) = &self.rollout else { return };
        let (generation, rolling) = (rollout.generation, rollout.is_rolling());
        self.withdraw(now, generation, rolling);
        self.unfilled |= rolling && self.policy.respawn;
        let outcome = match self.workers.tally(generation).ready {
            0 => Outcome::RolledBack,
            _ => Outcome::HalfWay,
        };
        self.conclude(now, outcome, Some(failure));
    }

    /// Asks the workers of a generation to stop, those that are ready only if not `keep_ready`.
    fn withdraw(&mut self, now: Instant, generation: u64, keep_ready: bool) {
        for id in self.unasked_where(&|worker| {
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

    /// Whether the program has never run, and nobody is left who could still show that it does.
    pub(super) fn is_unstartable(&self) -> bool {
        let is_tried = self.rollout.as_ref().is_some_and(|r| r.quota == 0);
        is_tried && !self.ever_ran && self.workers.unasked() == 0
    }

    /// Nobody follows those of the rollout that have died.
    pub(super) fn forget_coming_up(&mut self) {
        if let Some(rollout) = &mut self.rollout {
            rollout.vacancies.clear();
        }
    }

    /// N is another number now, in the middle of a rollout: it goes on with that, and what the
    /// old ones lack follows when it is over.
    pub(super) fn resize_rollout(&mut self, now: Instant, generation: u64) {
        let workers = self.policy.workers;
        let here = self.workers.tally(generation).unasked();
        if let Some(rollout) = &mut self.rollout {
            rollout.quota = workers.saturating_sub(here);
            rollout.vacancies.clear();
        }
        self.unfilled = true;
        self.trim(now, &|worker| worker.generation == generation);
        self.trim(now, &|worker| worker.generation != generation);
        self.vacancies.truncate(workers.saturating_sub(self.old()));
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
            for id in self.unasked_where(&|worker| worker.generation != generation) {
                self.dismiss(now, id);
            }
            if has_ready {
                self.withdraw(now, generation, true);
            }
            self.vacancies.clear();
            for id in self.unasked_where(&Worker::is_unready) {
                self.workers.mark_superseded(id);
            }
        }
        self.unfilled |= self.policy.respawn;
        let failure = self.last_loss();
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
        if outcome != Outcome::Abandoned {
            self.take_stock();
        }
        let verdict = self.verdict_on(rollout.generation, outcome, failure);
        self.announce(Verdict {
            took: now - rollout.began,
            first: rollout.first,
            ..verdict
        });
    }

    /// Who is ready outside of a rollout serves for good.
    pub(super) fn take_stock(&mut self) {
        let serving = (self.workers.generations()).rfind(|(_, tally)| tally.ready > 0);
        if let Some((generation, _)) = serving {
            self.live = self.live.max(generation);
            self.been_up = true;
        }
    }

    fn last_loss(&self) -> Option<Failure> {
        self.rollout.as_ref().and_then(|r| r.failure.clone())
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
            first: false,
            unreached: None,
        }
    }

    fn announce(&mut self, verdict: Verdict) {
        self.outbox.push_back(Action::Verdict(verdict));
    }

    pub(super) fn unasked_where(&self, is_meant: &dyn Fn(&Worker) -> bool) -> Vec<ChildId> {
        let unasked = self.workers.unasked_in_order();
        let meant = unasked.filter(|(_, worker)| is_meant(worker));
        meant.map(|(id, _)| id).collect()
    }
}
