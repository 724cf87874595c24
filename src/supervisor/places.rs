//! Places that stand empty, and what comes into them: the back-off, the pace and the bounds on
//! how many workers there may be. It starts workers and asks those who are too many to leave; it
//! must never judge a generation.

use super::{Action, Cause, ChildId, Failure, Instant, Mode, Note, Phase, Supervisor, Worker};
use std::collections::VecDeque;
use std::time::Duration;

/// A worker that was ready for this long has shown that it can live: its back-off is forgotten.
const PROVEN: Duration = Duration::from_secs(10);
/// The second death in a row waits this long, each further one twice as long …
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// … up to this. The pace's interval grows no further either.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long an exec may take where `-start` sets no limit.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// A place that waits for its next worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vacancy {
    due: Instant,
    generation: u64,
    restarts: u32,
    streak: u32,
}

impl Vacancy {
    fn fresh(due: Instant, generation: u64) -> Vacancy {
        Vacancy {
            due,
            generation,
            restarts: 0,
            streak: 0,
        }
    }
}

/// Places that wait, the soonest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vacancies(VecDeque<Vacancy>);

impl Vacancies {
    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn dues(&self) -> impl Iterator<Item = Instant> + '_ {
        self.0.iter().map(|vacancy| vacancy.due)
    }

    /// Forgets those that would be filled last.
    pub fn truncate(&mut self, len: u32) {
        self.0.truncate(len as usize);
    }

    fn add(&mut self, vacancy: Vacancy) {
        let at = self.0.partition_point(|other| other.due <= vacancy.due);
        self.0.insert(at, vacancy);
    }
}

/// What the next start fills.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The soonest vacancy of those who serve.
    Serving,
    /// The soonest vacancy of the generation that is coming up.
    ComingUp,
    /// One of the rollout's quota.
    Quota,
}

impl Supervisor {
    /// Fills the live set up to N with fresh vacancies. It must have somebody in it: a service
    /// that has ended is not resurrected, and one that was never up has nothing to be filled.
    pub(super) fn fill(&mut self, now: Instant) {
        if self.live == 0 {
            return;
        }
        self.unfilled = false;
        let unasked = self.workers.unasked();
        if unasked == 0 && self.vacancies.is_empty() {
            return;
        }
        let room = self.policy.workers.saturating_sub(unasked);
        self.vacancies.truncate(room);
        while self.vacancies.len() < room {
            self.vacancies.add(Vacancy::fresh(now, self.live));
        }
    }

    /// Asks those of `group` beyond N to stop: who is not ready first, then the oldest.
    pub(super) fn trim(&mut self, now: Instant, group: &dyn Fn(&Worker) -> bool) {
        let ids = self.unasked_where(group);
        let excess = ids.len().saturating_sub(self.policy.workers as usize);
        for &id in &ids[..excess] {
            self.ask(now, id);
        }
    }

    /// Starts what is due, as far as burst, pace and bounds allow.
    pub(super) fn start_due(&mut self, now: Instant) {
        while self.burst > 0 {
            let Some((at, place)) = self.next_place(now) else {
                break;
            };
            if at > now {
                break;
            }
            let Some(vacancy) = self.take(now, place) else {
                break;
            };
            self.burst -= 1;
            self.spawn(now, vacancy);
        }
    }

    /// When the next worker may be started.
    pub(super) fn next_start(&self, now: Instant) -> Option<Instant> {
        self.next_place(now).map(|(at, _)| at)
    }

    /// When the next worker may be started, and where; `None` when none is to be, or somebody has
    /// to become ready or to leave before.
    fn next_place(&self, now: Instant) -> Option<(Instant, Place)> {
        if self.mode != Mode::Serving || self.room() == 0 || self.is_full() {
            return None;
        }
        let rollout = self.rollout.as_ref();
        let serving = self.due(now, Some(&self.vacancies), Place::Serving);
        let coming_up = self.due(now, rollout.map(|r| &r.vacancies), Place::ComingUp);
        let quota = rollout.filter(|r| r.quota > 0).and_then(|rollout| {
            let paced = rollout.is_paced();
            let at = if paced {
                self.paced(now, rollout.generation)?
            } else {
                now
            };
            Some((at, Place::Quota))
        });
        let candidates = [serving, coming_up, quota];
        candidates.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When the soonest of `vacancies` may be filled.
    fn due(
        &self,
        now: Instant,
        vacancies: Option<&Vacancies>,
        place: Place,
    ) -> Option<(Instant, Place)> {
        let vacancy = vacancies?.0.front()?;
        let at = vacancy.due.max(self.paced(now, vacancy.generation)?);
        Some((at, place))
    }

    fn take(&mut self, now: Instant, place: Place) -> Option<Vacancy> {
        match (place, &mut self.rollout) {
            (Place::Serving, _) => self.vacancies.0.pop_front(),
            (Place::ComingUp, rollout) => rollout.as_mut()?.vacancies.0.pop_front(),
            (Place::Quota, rollout) => {
                let rollout = rollout.as_mut()?;
                rollout.quota -= 1;
                Some(Vacancy::fresh(now, rollout.generation))
            }
        }
    }

    /// When the pace allows the next start in `generation`; `None`: when one of it has become
    /// ready. (Unready workers of other generations hold nobody up, as in einhorn.)
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

    fn delay_by_pace(&self, now: Instant, generation: u64) -> Duration {
        self.paced(now, generation)
            .map_or(Duration::ZERO, |at| at - now)
    }

    /// How many more workers may be there that nobody has asked to stop.
    pub(super) fn room(&self) -> u32 {
        let workers = self.policy.workers;
        let extra = match &self.rollout {
            Some(rollout) if !rollout.is_rolling() => workers,
            _ => self.policy.max_extra(),
        };
        workers
            .saturating_add(extra)
            .saturating_sub(self.workers.unasked())
    }

    /// Whether our descriptors suffice for no further worker: then the next start waits until one
    /// of those who drain has left.
    fn is_full(&self) -> bool {
        self.workers.len() >= self.policy.capacity as usize
    }

    pub(super) fn no_room(&self, wanted: u32) -> Failure {
        let capacity = self.policy.capacity;
        Failure {
            worker: None,
            cause: Cause::NoRoom { wanted, capacity },
            after: Duration::ZERO,
        }
    }

    fn spawn(&mut self, now: Instant, place: Vacancy) {
        let exec_by = now + self.policy.start_limit().unwrap_or(EXEC_LIMIT);
        let generation = place.generation;
        let worker = Worker::new(generation, now, exec_by, place.restarts, place.streak);
        let (id, index) = self.workers.insert(worker);
        self.last_spawn = Some(now);
        self.outbox.push_back(Action::Spawn {
            id,
            generation,
            index,
        });
    }

    /// Leaves a vacancy where a worker died, if its place is to be filled again.
    pub(super) fn refill(&mut self, now: Instant, id: ChildId, worker: &Worker) {
        let is_member = self.rolling_out() == Some(worker.generation);
        let by_reload = match &self.rollout {
            Some(rollout) => worker.superseded || !is_member && rollout.is_rolling(),
            None => false,
        };
        let is_full = self.seats(is_member) >= self.policy.workers;
        self.unfilled |= by_reload && self.policy.respawn;
        if !self.policy.respawn || by_reload || is_full {
            return self.not_replaced(id);
        }
        let streak = if is_proven(now, worker) {
            0
        } else {
            worker.streak
        };
        // The pace is asked again when the place is filled: somebody may have become ready.
        let paced = (self.policy.pace).is_some_and(|pace| !pace.interval.is_zero());
        let (due, delay) = match (paced, backoff(streak)) {
            (true, _) => (now, self.delay_by_pace(now, worker.generation)),
            (false, delay) => (now + delay, delay),
        };
        let vacancy = Vacancy {
            due,
            generation: worker.generation,
            restarts: worker.restarts.saturating_add(1),
            streak: streak.saturating_add(1),
        };
        match &mut self.rollout {
            Some(rollout) if is_member => rollout.vacancies.add(vacancy),
            _ => self.vacancies.add(vacancy),
        }
        let pace = self.paced(now, worker.generation).map(|at| at - now);
        let delay = delay.max(pace.unwrap_or_default());
        self.note(Note::Replacing { id, delay });
    }

    pub(super) fn not_replaced(&mut self, id: ChildId) {
        let ready = self.workers.ready();
        self.note(Note::NotReplaced { id, ready });
    }

    /// The workers nobody has asked and the places that wait for one: of the generation that is
    /// coming up, or of all others.
    fn seats(&self, coming_up: bool) -> u32 {
        let (unasked, vacancies, quota) = match &self.rollout {
            Some(rollout) => {
                let unasked = self.workers.tally(rollout.generation).unasked();
                (unasked, rollout.vacancies.len(), rollout.quota)
            }
            None => (0, 0, 0),
        };
        match coming_up {
            true => unasked + vacancies + quota,
            false => self.workers.unasked() - unasked + self.vacancies.len(),
        }
    }
}

fn is_proven(now: Instant, worker: &Worker) -> bool {
    matches!(worker.phase, Phase::Ready { since } if now - since >= PROVEN)
}

/// The delay before the next start after `streak` deaths in a row went before this one.
fn backoff(streak: u32) -> Duration {
    match streak {
        0 => Duration::ZERO,
        n => BACKOFF_FIRST
            .saturating_mul(1 << (n - 1).min(20))
            .min(BACKOFF_MAX),
    }
}
