//! Every decision of the program, and nothing else: no descriptor, no pid, no clock. The loop
//! tells it what happened (`Event`), it says what has to be done (`Action`). It must never do
//! I/O, and never assume that an action has happened before an event says so.
//!
//! # The life of a worker
//!
//! ```text
//! Starting ──exec──▶ Running ──gate──▶ Ready ──asked──▶ Stopping ──▶ gone
//!     └───────────────┴──── fails: asked, or already gone ───┘
//! ```
//!
//! * `Starting`: forked, the program not yet running. Left by `Running` (exec succeeded), by
//!   `Ready` (it spoke before we saw the exec), by `Gone`, or at `exec_by`, which is a failure.
//! * `Running`: the gate decides. Timer: at its deadline the worker is ready. Report: at its
//!   deadline it was silent, which is a failure; without a deadline it may take for ever.
//! * `Ready`: serving. The *live set* is the ready workers, of whatever generation.
//! * `Stopping`: asked by us, once. Only it has a deadline for SIGKILL. Nothing that it says or
//!   does changes anything any more, but its end: we do not exit before.
//!
//! # The life of a generation
//!
//! A `Rollout` is a generation on its way to be live: the first one, or a reload. There is at
//! most one. It ends in exactly one `Verdict`:
//!
//! * *live*: all its workers are ready (or all that are left, where there is nothing to go back
//!   to); everybody else is asked to stop. A rolling one asks old ones on the way.
//! * *rolled back*: one of its workers failed while a ready older one exists. Its workers are
//!   asked to stop; in a rolling one those that are ready stay (*half-way*).
//! * *failed*: nothing of it is left, and there was nothing to go back to.
//! * *superseded*: it might block a remembered reload for ever, and gave way.
//! * *abandoned*: a stop came, and a stop wins at any moment.
//!
//! A reload asked for meanwhile is remembered in `pending`, once. A worker that dies leaves a
//! `Vacancy` behind (with `-respawn`), which is a back-off as data: it becomes a worker when due.
//!
//! Nothing is promoted, and nobody asked to stop for a promotion, but by `Event::Settled`: the
//! loop sends it when `awaits_settling` and a last look at the kernel brought no death.
//!
//! # The life of the program
//!
//! `Mode::Serving` until a stop signal (`Stopping`) or until nobody is left who could serve
//! (`Leaving`); then the sockets are closed, and with the last worker's end we exit.

mod rollout;
mod verdict;
mod workers;

#[cfg(test)]
mod tests;

pub use verdict::{Cause, End, Failure, Note, Outcome, Verdict};
pub use workers::{Patience, Phase, Tally, Worker, Workers};

use rollout::Rollout;
use std::collections::VecDeque;
use std::ops::{Add, Sub};
use std::time::Duration;

/// How many workers are started before the loop looks at the kernel again.
const BURST: u32 = 16;
/// How long an exec may take where `-start` sets no limit.
const EXEC_LIMIT: Duration = Duration::from_secs(30);
/// How long a rolled-back worker may drain where `-stop` sets no limit.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(10);
/// A worker that was ready for this long has shown that it can live: its back-off is forgotten.
const PROVEN: Duration = Duration::from_secs(10);
/// The second death in a row waits this long, each further one twice as long …
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const SIGQUIT: i32 = 3;

/// A moment on CLOCK_MONOTONIC, in nanoseconds. (std's `Instant` cannot travel through an exec.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, by: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero when `earlier` is the later one.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The core's own name for a worker: never a pid, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u64);

/// How a worker shows that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It stays alive for `Policy::start`.
    Timer,
    /// It says so (`Event::Ready`) within `Policy::start`, or whenever it likes if that is zero.
    Report,
}

/// How a reload replaces the old workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// All new ones first, then all old ones are asked to stop.
    Fleet,
    /// An old one is asked whenever a new one is ready.
    Rolling,
}

/// einhorn's spin-up throttle: holds for every start but those of the first generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two starts; 1.5 times longer for each death in a row before readiness.
    pub interval: Duration,
    /// At most this many workers may be on their way to readiness.
    pub max_unready: u32,
}

/// The part of the configuration that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// N, at least 1.
    pub workers: u32,
    /// K, at least 1; `None` and more than N mean N.
    pub max_extra: Option<u32>,
    /// `None`: rolling where K < N.
    pub style: Option<Style>,
    pub gate: Gate,
    pub start: Duration,
    pub stop: Option<Duration>,
    pub stop_signal: i32,
    pub respawn: bool,
    pub pace: Option<Pace>,
    /// How many workers our descriptors suffice for, draining ones included.
    pub capacity: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bring up the first generation.
    Start,
    /// A reload is asked for; `None`: in the configured style.
    Reload(Option<Style>),
    /// A listener had to be bound anew: the running workers do not hold it.
    Rebound,
    /// The worker's exec succeeded.
    Running(ChildId),
    /// The worker says that it is ready.
    Ready(ChildId),
    /// The worker is no more, or never came to be.
    Gone(ChildId, End),
    /// SIGTERM or SIGINT (or einhorn's equivalents): forward it, and end.
    Stop(i32),
    /// SIGQUIT: forward it, and nothing else.
    Quit,
    /// N is another number now.
    Resize(u32),
    /// Time has passed; sent at the end of every turn.
    Tick,
    /// A last look at the kernel found no death: what is ready may be promoted.
    Settled,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A generation starts to come up; `first`: nothing was there before.
    Begin {
        generation: u64,
        first: bool,
    },
    Spawn {
        id: ChildId,
        generation: u64,
        index: u32,
    },
    /// Send `signal` to the worker itself.
    Signal {
        id: ChildId,
        signal: i32,
    },
    /// SIGKILL to the worker's process group.
    Kill {
        id: ChildId,
    },
    /// Close our copies of the sockets and remove our unix paths.
    CloseListeners,
    Verdict(Verdict),
    Note(Note),
    /// End with this status.
    Exit(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Asked to stop.
    Stopping,
    /// Nobody is left who could serve; the last ones drain.
    Leaving,
    Ended,
}

/// A place in the live set that waits for its next worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vacancy {
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

/// What the next start fills.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The vacancy at this index.
    Vacancy(usize),
    /// One of the rollout's quota.
    Quota,
}

/// What Go's, einhorn's and systemd's users call the master: all of its state.
#[derive(Debug, Clone)]
pub struct Supervisor {
    policy: Policy,
    mode: Mode,
    workers: Workers,
    vacancies: Vec<Vacancy>,
    rollout: Option<Rollout>,
    /// The reload to follow: `Some(None)` in the configured style.
    pending: Option<Option<Style>>,
    next_generation: u64,
    /// The generation that went live last; 0 before the first.
    live: u64,
    been_up: bool,
    /// The generation for which a re-bound listener has had its reload.
    rebound: Option<u64>,
    resized: bool,
    /// What we exit with if the workers leave by themselves.
    last_status: Option<i32>,
    left_by_quit: bool,
    burst: u32,
    last_spawn: Option<Instant>,
    /// Deaths in a row before readiness (einhorn's throttle).
    early_deaths: u32,
    last_verdict: Option<Verdict>,
    pub outbox: VecDeque<Action>,
}

impl Supervisor {
    pub fn new(policy: Policy) -> Supervisor {
        Supervisor {
            policy,
            mode: Mode::Serving,
            workers: Workers::default(),
            vacancies: Vec::new(),
            rollout: None,
            pending: None,
            next_generation: 1,
            live: 0,
            been_up: false,
            rebound: None,
            resized: false,
            last_status: None,
            left_by_quit: false,
            burst: BURST,
            last_spawn: None,
            early_deaths: 0,
            last_verdict: None,
            outbox: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`; what has to be done is in `outbox` afterwards.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Start if self.mode == Mode::Serving => self.begin(now, None),
            Event::Start => {}
            Event::Reload(style) => self.on_reload(style),
            Event::Rebound => self.on_rebound(),
            Event::Running(id) => self.on_running(now, id),
            Event::Ready(id) => self.on_ready(now, id),
            Event::Gone(id, end) => self.on_gone(now, id, end),
            Event::Stop(signal) => self.on_stop(now, signal),
            Event::Quit => self.on_quit(),
            Event::Resize(workers) => self.on_resize(now, workers),
            Event::Tick => self.on_tick(now),
            Event::Settled => self.on_settled(now),
        }
        self.advance(now);
    }

    /// When `Event::Tick` is needed next; recomputed, so it cannot be stale.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let workers = self
            .workers
            .iter()
            .filter_map(|(_, worker)| worker.deadline());
        workers.chain(self.next_place(now).map(|(at, _)| at)).min()
    }

    /// Whether `Event::Settled` would do something.
    pub fn awaits_settling(&self) -> bool {
        self.mode == Mode::Serving && (self.is_decided() || self.rolling_excess())
    }

    // ---- what others may know ----

    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn last_verdict(&self) -> Option<&Verdict> {
        self.last_verdict.as_ref()
    }

    /// The generation that is coming up.
    pub fn rolling_out(&self) -> Option<u64> {
        self.rollout.as_ref().map(|rollout| rollout.generation)
    }

    /// The generation that went live last; 0: none yet.
    pub fn live_generation(&self) -> u64 {
        self.live
    }

    pub fn has_pending_reload(&self) -> bool {
        self.pending.is_some()
    }

    pub fn has_been_up(&self) -> bool {
        self.been_up
    }

    /// No worker is started any more.
    pub fn is_stopping(&self) -> bool {
        self.mode != Mode::Serving
    }

    /// The moments at which places that stand empty are filled again.
    pub fn backoffs(&self) -> impl Iterator<Item = Instant> + '_ {
        self.vacancies.iter().map(|vacancy| vacancy.due)
    }

    /// The latest moment at which a worker that is coming up has to be ready; `None` when nothing
    /// is coming up or it has no limit. Back-off does not count: it can go on for ever.
    pub fn gate_deadline(&self) -> Option<Instant> {
        let rollout = self.rollout.as_ref()?;
        let members = self
            .workers
            .iter()
            .filter(|(_, w)| w.generation == rollout.generation);
        members
            .filter(|(_, worker)| !worker.is_asked())
            .filter_map(|(_, w)| w.deadline())
            .max()
    }

    // ---- events ----

    fn on_reload(&mut self, style: Option<Style>) {
        if self.mode != Mode::Serving {
            return self.note(Note::ReloadRefused);
        }
        if self.rollout.is_some() {
            self.note(Note::ReloadRemembered {
                again: self.pending.is_some(),
            });
        }
        self.pending = Some(style);
    }

    fn on_rebound(&mut self) {
        if self.rebound == Some(self.live) {
            return self.note(Note::ReboundAgain);
        }
        self.rebound = Some(self.live);
        self.on_reload(None);
    }

    fn on_running(&mut self, now: Instant, id: ChildId) {
        let Some(worker) = self.workers.find(id) else {
            return;
        };
        if !matches!(worker.phase, Phase::Starting { .. }) {
            return;
        }
        let limit = match self.policy.gate {
            Gate::Timer => Some(now + self.policy.start),
            Gate::Report => self.start_limit().map(|limit| now + limit),
        };
        self.workers.set_phase(
            id,
            Phase::Running {
                since: now,
                gate: limit,
            },
        );
        if self.policy.gate == Gate::Timer && self.policy.start.is_zero() {
            self.become_ready(now, id);
        }
    }

    fn on_ready(&mut self, now: Instant, id: ChildId) {
        let on_its_way = self.workers.find(id).is_some_and(Worker::is_unready);
        if on_its_way && self.policy.gate == Gate::Report {
            self.become_ready(now, id);
        }
    }

    fn become_ready(&mut self, now: Instant, id: ChildId) {
        self.workers.set_phase(id, Phase::Ready { since: now });
        self.early_deaths = 0;
        self.note(Note::Ready { id });
    }

    fn on_gone(&mut self, now: Instant, id: ChildId, end: End) {
        let Some(worker) = self.workers.remove(id) else {
            return;
        };
        if worker.is_asked() {
            return;
        }
        if worker.quit
            && matches!(
                end,
                End::Exited(0)
                    | End::Signaled {
                        signal: SIGQUIT,
                        ..
                    }
            )
        {
            self.left_by_quit = true;
            return;
        }
        self.left_by_quit = false;
        self.last_status = end.status().or(self.last_status);
        if self.mode == Mode::Serving {
            self.on_death(now, id, &worker, Cause::Ended(end));
        }
    }

    /// A worker that nobody asked to stop is dead, or as good as dead.
    fn on_death(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
        if worker.is_unready() {
            self.early_deaths = self.early_deaths.saturating_add(1);
        }
        let failure = Failure {
            worker: Some(id),
            cause,
            after: worker.age(now),
        };
        let is_member = self.rolling_out() == Some(worker.generation);
        if is_member && self.has_fallback() {
            return self.roll_back(now, failure);
        }
        if is_member {
            self.lose_member(failure);
        }
        self.refill(now, id, worker);
    }

    fn on_stop(&mut self, now: Instant, signal: i32) {
        if self.mode == Mode::Serving {
            self.abandon(now);
            self.vacancies.clear();
            self.outbox.push_back(Action::CloseListeners);
        }
        if self.mode != Mode::Ended {
            self.mode = Mode::Stopping;
        }
        for id in self.workers.ids() {
            self.mark_asked(now, id, self.policy.stop);
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    fn on_quit(&mut self) {
        let ids = self.workers.ids();
        if ids.is_empty() {
            self.note(Note::NobodyToQuit);
        }
        for id in ids {
            self.workers.mark_quit(id);
            self.outbox.push_back(Action::Signal {
                id,
                signal: SIGQUIT,
            });
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.burst = BURST;
        for id in self.workers.due(now) {
            let Some(worker) = self.workers.find(id).cloned() else {
                continue;
            };
            match worker.phase {
                Phase::Starting { .. } => self.on_silence(now, id, &worker, Cause::ExecHung),
                Phase::Running { .. } if self.policy.gate == Gate::Timer => {
                    self.become_ready(now, id);
                }
                Phase::Running { .. } => self.on_silence(now, id, &worker, Cause::Silent),
                Phase::Stopping { .. } => self.kill(id),
                Phase::Ready { .. } => {}
            }
        }
    }

    /// A worker that did not make it in time: it is asked to leave, and counts as dead.
    fn on_silence(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
        self.dismiss(now, id);
        self.on_death(now, id, worker, cause);
    }

    fn on_resize(&mut self, now: Instant, workers: u32) {
        if self.mode != Mode::Serving || workers == 0 {
            return;
        }
        self.policy.workers = workers;
        self.resized = self.rollout.is_some();
        if let Some(rollout) = &mut self.rollout {
            let here = self.workers.tally(rollout.generation).unasked();
            rollout.quota = workers.saturating_sub(here);
            let generation = rollout.generation;
            self.vacancies
                .retain(|vacancy| vacancy.generation != generation);
            self.trim(now, |worker| worker.generation == generation);
            self.trim(now, |worker| worker.generation != generation);
        } else {
            self.fit(now);
        }
    }

    // ---- doing ----

    /// Brings the live set to N: with fresh vacancies, or by asking those who are too many.
    fn fit(&mut self, now: Instant) {
        self.resized = false;
        let room = self.policy.workers.saturating_sub(self.workers.unasked()) as usize;
        self.vacancies.truncate(room);
        while self.vacancies.len() < room {
            self.vacancies.push(Vacancy::fresh(now, self.live));
        }
        self.trim(now, |_| true);
    }

    /// Asks those of `group` beyond N to stop: who is not ready first, then the oldest.
    fn trim(&mut self, now: Instant, group: impl Fn(&Worker) -> bool) {
        let mut ids: Vec<_> = (self.workers.iter())
            .filter(|(_, worker)| !worker.is_asked() && group(worker))
            .map(|(id, worker)| (!worker.is_unready(), id))
            .collect();
        ids.sort();
        let excess = ids.len().saturating_sub(self.policy.workers as usize);
        for &(_, id) in &ids[..excess] {
            self.ask(now, id);
        }
    }

    /// What follows from the state, whatever the event was.
    fn advance(&mut self, now: Instant) {
        if self.mode == Mode::Serving {
            self.start_pending(now);
            self.start_due(now);
            if self.has_nobody() {
                self.mode = Mode::Leaving;
                self.outbox.push_back(Action::CloseListeners);
            }
        }
        if matches!(self.mode, Mode::Stopping | Mode::Leaving) && self.workers.is_empty() {
            self.outbox.push_back(Action::Exit(self.status()));
            self.mode = Mode::Ended;
        }
    }

    fn has_nobody(&self) -> bool {
        self.next_generation > 1
            && self.rollout.is_none()
            && self.pending.is_none()
            && self.workers.unasked() == 0
            && (self.vacancies.is_empty() || self.left_by_quit)
    }

    fn status(&self) -> i32 {
        let asked = self.mode == Mode::Stopping || self.left_by_quit;
        if asked && self.been_up {
            0
        } else {
            self.last_status.unwrap_or(1)
        }
    }

    /// Starts what is due, as far as burst, pace and the bound of N + K allow.
    fn start_due(&mut self, now: Instant) {
        while self.burst > 0 {
            let Some((at, place)) = self.next_place(now) else {
                break;
            };
            if at > now {
                break;
            }
            self.burst -= 1;
            let vacancy = self.take(now, place);
            self.spawn(now, vacancy);
        }
    }

    /// When the next worker may be started, and where; `None` when none is to be, or somebody has
    /// to become ready or to leave before.
    fn next_place(&self, now: Instant) -> Option<(Instant, Place)> {
        if self.mode != Mode::Serving || self.room() == 0 {
            return None;
        }
        let vacancies = self.vacancies.iter().enumerate();
        let vacancy = vacancies.min_by_key(|(_, vacancy)| vacancy.due);
        let refill = vacancy.and_then(|(index, vacancy)| {
            Some((vacancy.due.max(self.paced(now)?), Place::Vacancy(index)))
        });
        let rollout = self.rollout.as_ref().filter(|rollout| rollout.quota > 0);
        let quota = rollout.and_then(|rollout| {
            let at = if rollout.is_paced() {
                self.paced(now)?
            } else {
                now
            };
            Some((at, Place::Quota))
        });
        refill.into_iter().chain(quota).min_by_key(|(at, _)| *at)
    }

    fn take(&mut self, now: Instant, place: Place) -> Vacancy {
        match (place, &mut self.rollout) {
            (Place::Vacancy(index), _) => self.vacancies.swap_remove(index),
            (Place::Quota, Some(rollout)) => {
                rollout.quota -= 1;
                Vacancy::fresh(now, rollout.generation)
            }
            (Place::Quota, None) => unreachable!("a quota belongs to a rollout"),
        }
    }

    /// When the pace allows the next start; `None`: when somebody has become ready.
    fn paced(&self, now: Instant) -> Option<Instant> {
        let (Some(pace), Some(last)) = (self.policy.pace, self.last_spawn) else {
            return Some(now);
        };
        if self.workers.unready() >= pace.max_unready {
            return None;
        }
        let factor = 1.5f64.powi(self.early_deaths.min(30) as i32);
        let interval = pace
            .interval
            .mul_f64(factor)
            .min(BACKOFF_MAX.max(pace.interval));
        Some((last + interval).max(now))
    }

    /// How many more workers may be there that nobody has asked to stop.
    fn room(&self) -> u32 {
        (self.policy.workers + self.max_extra()).saturating_sub(self.workers.unasked())
    }

    fn max_extra(&self) -> u32 {
        let workers = self.policy.workers;
        // Nobody old goes before all of a fleet are there: with less room it could not be.
        let fleet = |rollout: &Rollout| !rollout.is_rolling();
        if self.rollout.as_ref().is_some_and(fleet) {
            return workers;
        }
        self.policy.max_extra.unwrap_or(workers).clamp(1, workers)
    }

    fn spawn(&mut self, now: Instant, place: Vacancy) {
        let exec_by = now + self.start_limit().unwrap_or(EXEC_LIMIT);
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

    fn start_limit(&self) -> Option<Duration> {
        Some(self.policy.start).filter(|start| !start.is_zero())
    }

    /// Leaves a vacancy where a worker died, if its place is to be filled again.
    fn refill(&mut self, now: Instant, id: ChildId, worker: &Worker) {
        let taken = self.workers.unasked() as usize + self.vacancies.len();
        let members = self.rolling_out() == Some(worker.generation);
        let here = match (members, &self.rollout) {
            (true, Some(rollout)) => self.seats_of(rollout.generation) + rollout.quota as usize,
            (false, Some(rollout)) => taken - self.seats_of(rollout.generation),
            (_, None) => taken,
        };
        let by_reload = !members && self.rollout.as_ref().is_some_and(Rollout::is_rolling);
        let full = here >= self.policy.workers as usize;
        if !self.policy.respawn || worker.superseded || by_reload || full {
            return self.note(Note::NotReplaced {
                id,
                ready: self.workers.ready(),
            });
        }
        let proven = matches!(worker.phase, Phase::Ready { since } if now - since >= PROVEN);
        let streak = if proven { 0 } else { worker.streak };
        let delay = if self.policy.pace.is_some() {
            Duration::ZERO
        } else {
            backoff(streak)
        };
        self.vacancies.push(Vacancy {
            due: now + delay,
            generation: worker.generation,
            restarts: worker.restarts + 1,
            streak: streak + 1,
        });
        self.note(Note::Replacing { id, delay });
    }

    fn seats_of(&self, generation: u64) -> usize {
        let waiting = self
            .vacancies
            .iter()
            .filter(|vacancy| vacancy.generation == generation);
        self.workers.tally(generation).unasked() as usize + waiting.count()
    }

    /// Asks a worker to stop, once.
    fn ask(&mut self, now: Instant, id: ChildId) {
        if self.mark_asked(now, id, self.policy.stop) {
            let signal = self.policy.stop_signal;
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    /// Asks a worker that failed, or whose generation did: it does not get for ever.
    fn dismiss(&mut self, now: Instant, id: ChildId) {
        if self.mark_asked(now, id, self.policy.stop.or(Some(ROLLBACK_PATIENCE))) {
            let signal = self.policy.stop_signal;
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    fn mark_asked(&mut self, now: Instant, id: ChildId, stop: Option<Duration>) -> bool {
        let fresh = self
            .workers
            .find(id)
            .is_some_and(|worker| !worker.is_asked());
        if fresh {
            let patience = stop.map_or(Patience::Forever, |stop| Patience::Until(now + stop));
            self.workers.set_phase(
                id,
                Phase::Stopping {
                    since: now,
                    patience,
                },
            );
        }
        fresh
    }

    fn kill(&mut self, id: ChildId) {
        if let Some(Worker {
            phase: Phase::Stopping { since, .. },
            ..
        }) = self.workers.find(id)
        {
            let phase = Phase::Stopping {
                since: *since,
                patience: Patience::Exhausted,
            };
            self.workers.set_phase(id, phase);
            self.note(Note::Killing { id });
            self.outbox.push_back(Action::Kill { id });
        }
    }
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
