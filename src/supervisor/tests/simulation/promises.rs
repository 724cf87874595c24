//! The promises of the README that must hold after each event, one function each.

use super::books::{Seen, Standing};
use super::witness::{Result, Witness, promise};
use crate::supervisor::workers::Tally;
use crate::supervisor::{ChildId, Event, Outcome, Phase, Verdict};
use std::collections::BTreeMap;
use std::time::Duration;

impl Witness {
    pub(super) fn judge(&mut self) -> Result {
        for (id, seen) in std::mem::take(&mut self.turn.asked) {
            self.was_rightly_asked(id, &seen)?;
        }
        self.forwards_to_all()?;
        self.keeps_the_same_books()?;
        self.keeps_serving()?;
        self.owes_no_reload()?;
        self.leaves_when_nobody_serves()?;
        self.misses_no_deadline()?;
        self.cannot_hang()?;
        self.replaces_the_dead()?;
        self.does_not_spin()?;
        self.numbers_the_live()
    }

    /// A worker is asked to stop only for one of the known reasons.
    fn was_rightly_asked(&mut self, id: ChildId, seen: &Seen) -> Result {
        let overdue = seen.deadline.is_some_and(|at| at <= self.now());
        if self.told(&Event::Tick) && seen.is_unready() && overdue {
            self.books.left_by_quit &= seen.is_told_to_quit;
            self.books.lose(seen);
            return Ok(());
        }
        let verdicts = &self.turn.verdicts;
        let is_right = verdicts.iter().any(|it| self.allows(it, seen))
            || self.is_rolled_over(seen)
            || self.is_too_many(seen);
        promise!(is_right, "{id:?} is asked to stop for nothing: {seen:?}");
        Ok(())
    }

    /// Whether this verdict is a reason to ask this worker.
    fn allows(&self, verdict: &Verdict, seen: &Seen) -> bool {
        let current = self.turn.current_before.as_ref();
        let rolling = current.is_some_and(|current| current.rolling);
        let is_member = seen.generation == verdict.generation;
        let others_serve = self.books.ready() > 0;
        match verdict.outcome {
            Outcome::Live => {
                let whole = verdict.ready >= verdict.wanted;
                let known_loss = verdict.failure.is_some() || self.books.was_quit;
                !is_member
                    && self.told(&Event::PromotionConfirmed)
                    && verdict.ready > 0
                    && (whole || known_loss)
            }
            Outcome::RolledBack | Outcome::HalfWay => {
                is_member && others_serve && (!rolling || seen.is_unready())
            }
            Outcome::Superseded if is_member => others_serve && (seen.is_unready() || !rolling),
            Outcome::Superseded => seen.is_unready(),
            Outcome::Failed | Outcome::Abandoned => false,
        }
    }

    /// Whether a rolling reload may ask this worker: one old one for each new one that is ready.
    fn is_rolled_over(&self, seen: &Seen) -> bool {
        let Some(current) = &self.turn.current_before else {
            return false;
        };
        let enough = self.books.ready() >= self.policy().workers;
        current.rolling
            && self.told(&Event::PromotionConfirmed)
            && seen.generation != current.generation
            && self.books.ready_of(current.generation) > 0
            && (enough || seen.is_unready())
    }

    /// Whether it is surplus: N became smaller, or a rolling reload ended before its last step.
    fn is_too_many(&self, seen: &Seen) -> bool {
        let workers = self.policy().workers;
        let enough = self.books.unasked() >= workers;
        match &self.turn.event {
            Some(Event::Resize(_)) => enough,
            Some(Event::PromotionConfirmed) => {
                let before = self.turn.current_before.as_ref().map(|it| it.generation);
                let is_old = |it: &Seen| Some(it.generation) != before;
                let old = |state| self.books.count(|it| is_old(it) && it.state == state);
                let ready = old(Standing::Ready);
                let unready = old(Standing::Starting) + old(Standing::Running);
                let still_ready = ready >= workers || seen.is_unready();
                is_old(seen) && ready + unready >= workers && still_ready
            }
            _ => false,
        }
    }

    /// A stop and a SIGQUIT are forwarded to all workers.
    fn forwards_to_all(&self) -> Result {
        let is_meant = matches!(self.turn.event, Some(Event::Stop(_) | Event::Quit));
        let forwarded = self.turn.forwarded.len();
        let all = self.books.workers.len() - self.turn.spawned as usize;
        promise!(
            !is_meant || forwarded == all,
            "{forwarded} of {all} hear it"
        );
        Ok(())
    }

    /// The core's workers and tallies agree with the books.
    fn keeps_the_same_books(&self) -> Result {
        let mut tallies: BTreeMap<u64, Tally> = BTreeMap::new();
        let workers = self.core.workers();
        promise!(
            workers.len() == self.books.workers.len(),
            "a worker too many or too few"
        );
        for (id, seen) in &self.books.workers {
            let tally = tallies.entry(seen.generation).or_default();
            let phase = workers.find(*id).map(|worker| worker.phase);
            let agrees = match (seen.state, phase) {
                (Standing::Starting, Some(Phase::Starting { .. })) => count(&mut tally.unready),
                (Standing::Running, Some(Phase::Running { .. })) => count(&mut tally.unready),
                (Standing::Ready, Some(Phase::Ready { .. })) => count(&mut tally.ready),
                (Standing::Asked, Some(Phase::Stopping { .. } | Phase::Killed { .. })) => {
                    count(&mut tally.stopping)
                }
                _ => false,
            };
            promise!(agrees, "{id:?} is {:?}, not {phase:?}", seen.state);
        }
        let counted: BTreeMap<_, _> = workers.generations().collect();
        promise!(counted == tallies, "tallies {counted:?}, not {tallies:?}");
        let totals = (workers.staying(), workers.ready());
        let right = (self.books.unasked(), self.books.ready());
        promise!(totals == right, "totals {totals:?}, not {right:?}");
        let current = self.books.current.as_ref().map(|it| it.generation);
        promise!(self.core.rolling_out() == current, "the reload under way");
        Ok(())
    }

    /// As many workers serve as once did, less those that died.
    fn keeps_serving(&mut self) -> Result {
        if self.books.is_stopped {
            return Ok(());
        }
        let (serving, due) = (self.books.serving(), self.books.due_ready);
        promise!(serving >= due, "{serving} serve, {due} could");
        if serving >= self.policy().workers {
            self.books.due_ready = self.policy().workers;
        }
        Ok(())
    }

    /// A remembered reload begins as soon as nothing is in its way.
    fn owes_no_reload(&self) -> Result {
        let owed = self.books.owed.is_some();
        promise!(self.core.has_pending_reload() == owed, "what is remembered");
        let idle = self.books.current.is_none() && self.books.last_generation > 0;
        promise!(
            !owed || !idle,
            "a reload is owed, and nothing is in its way"
        );
        promise!(!owed || !self.books.is_stopped, "a stop leaves a reload");
        Ok(())
    }

    fn leaves_when_nobody_serves(&self) -> Result {
        let books = &self.books;
        let waiting = self.core.backoffs().count();
        let nobody = books.unasked() == 0 && waiting == 0 && books.current.is_none();
        let is_over = nobody && books.owed.is_none() && books.last_generation > 0;
        promise!(!is_over || books.is_closed, "nobody is left, and we stay");
        let leaves = books.is_closed;
        promise!(leaves == self.core.is_stopping(), "we leave and do not");
        promise!(!leaves || waiting == 0, "a back-off while we leave");
        promise!(!leaves || books.unasked() == 0, "somebody was forgotten");
        let is_out = books.exited.is_some();
        promise!(!leaves || is_out == books.workers.is_empty(), "no exit");
        Ok(())
    }

    /// The next deadline is not after that of any worker, and a tick leaves none in the past.
    fn misses_no_deadline(&mut self) -> Result {
        let next = self.core.next_deadline(self.now());
        let due = self.books.workers.values().filter_map(|seen| seen.deadline);
        let soonest = due.min();
        let is_known = soonest.is_none_or(|at| next.is_some_and(|next| next <= at));
        promise!(is_known, "next is {next:?}, but {soonest:?} is due");
        if self.told(&Event::Tick) {
            let is_past = next.is_some_and(|next| next <= self.now());
            let is_idle = is_past && self.turn.spawned == 0;
            self.books.idle_ticks = if is_idle {
                self.books.idle_ticks + 1
            } else {
                0
            };
            promise!(
                self.books.idle_ticks < 2,
                "the deadline {next:?} stays in the past"
            );
        }
        promise!(
            next.is_none() || !self.has_exited(),
            "a deadline after the exit"
        );
        Ok(())
    }

    /// A reload waits for a worker of its own or for a deadline; while another reload is remembered,
    /// it waits for a deadline.
    fn cannot_hang(&self) -> Result {
        let Some(current) = &self.books.current else {
            return Ok(());
        };
        let next = self.core.next_deadline(self.now());
        let is_full = self.books.workers.len() >= self.policy().capacity as usize;
        if next.is_some() || self.core.awaits_confirmation() || is_full {
            return Ok(()); // (in the last case it waits for one of those who drain)
        }
        let is_coming = |seen: &Seen| seen.is_unready() && seen.generation == current.generation;
        promise!(
            self.books.count(is_coming) > 0,
            "a reload that waits for nothing"
        );
        promise!(self.books.owed.is_none(), "a reload that may wait for ever");
        Ok(())
    }

    /// With -respawn the live set is refilled to N, also while a fleet comes up.
    fn replaces_the_dead(&self) -> Result {
        let books = &self.books;
        let by_reload = books.current.as_ref().is_some_and(|it| it.rolling);
        let exempt = books.was_quit || books.is_closed || by_reload || books.was_superseded;
        if exempt || !self.policy().respawn || books.due_ready == 0 {
            return Ok(());
        }
        let waiting = self.core.pending_starts.len();
        let current = books.current.as_ref().map(|it| it.generation);
        let there = books.count(|it| it.state != Standing::Asked && Some(it.generation) != current);
        let (there, workers) = (there as usize + waiting, self.policy().workers);
        let is_resized = books.was_resized && current.is_some();
        promise!(
            is_resized || there >= workers as usize,
            "{there} of {workers}"
        );
        Ok(())
    }

    /// Within a second at most five workers are started for each of the N that serve and the N that
    /// come up: at once, after 0.1, 0.2 and 0.4 s, and once because a person asks for something.
    fn does_not_spin(&mut self) -> Result {
        let (now, second) = (self.now(), Duration::from_secs(1));
        let is_asked = matches!(
            self.turn.event,
            Some(Event::Reload(_) | Event::Rebound | Event::Resize(_) | Event::Start)
        );
        self.books
            .recent
            .push_back((now, self.turn.spawned, is_asked));
        while (self.books.recent.front()).is_some_and(|(at, ..)| *at + second <= now) {
            self.books.recent.pop_front();
        }
        let started: u32 = self
            .books
            .recent
            .iter()
            .map(|(_, started, _)| started)
            .sum();
        let asked = self
            .books
            .recent
            .iter()
            .filter(|(.., asked)| *asked)
            .count() as u32;
        let most = self.books.most_workers * (10 + 3 * asked);
        promise!(started <= most, "{started} starts in a second");
        Ok(())
    }

    fn numbers_the_live(&mut self) -> Result {
        let live = self.core.live_generation();
        let is_known = self.books.live <= live && live <= self.books.last_generation;
        promise!(
            is_known,
            "generation {live} is live after {}",
            self.books.live
        );
        self.books.live = live;
        let is_up = self.core.has_been_up() == (live > 0);
        promise!(is_up, "up without a live generation, or the reverse");
        let is_idle = self.books.current.is_none() && !self.books.is_stopped;
        let serves = is_idle && self.books.ready() > 0;
        promise!(!serves || live > 0, "somebody serves, and we are not up");
        Ok(())
    }

    /// Holds when all workers have behaved well for long enough.
    pub fn is_at_rest(&self) -> Result {
        let books = &self.books;
        // Workers that cannot be signalled may use up our descriptors for as long as they run.
        let is_full = books.workers.len() >= self.policy().capacity as usize;
        let is_idle = books.current.is_none() || is_full;
        promise!(is_idle, "a reload is under way at rest");
        let is_done = books.owed.is_none() || is_full;
        promise!(is_done, "a reload is owed at rest");
        let is_whole = books.ready() == self.policy().workers;
        let exempt = books.is_closed || books.was_quit || !self.policy().respawn || is_full;
        promise!(exempt || is_whole, "{} are ready at rest", books.ready());
        let too_many = books.unasked() > self.policy().workers;
        promise!(!too_many, "{} are there at rest", books.unasked());
        Ok(())
    }

    /// Holds after the final stop.
    pub fn has_ended(&self) -> Result {
        promise!(self.has_exited(), "no exit");
        promise!(self.books.workers.is_empty(), "workers after the exit");
        let next = self.core.next_deadline(self.now());
        promise!(next.is_none(), "a deadline after the exit");
        promise!(
            !self.core.awaits_confirmation(),
            "a confirmation is awaited after the exit"
        );
        Ok(())
    }
}

fn count(slot: &mut u32) -> bool {
    *slot += 1;
    true
}
