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
//! A worker that the kernel does not let us signal has a `Refusal`: the signal is tried again
//! every second for ten. Then, while we serve, the worker is left alone; at a stop it is given
//! up, as is one that SIGKILL did not end within ten seconds. So a stop always ends.
//!
//! # The life of a generation
//!
//! A `Rollout` is a generation on its way to be live: the first one, or a reload. There is at
//! most one. It ends in exactly one `Verdict`:
//!
//! * *live*: all its workers are ready (or all that are left, where there was nothing to go back
//!   to); everybody else is asked to stop. A rolling one asks old ones on the way.
//! * *rolled back*: one of its workers failed while a ready older one exists. Its workers are
//!   asked to stop; in a rolling one those that are ready stay (*half-way*).
//! * *failed*: nothing of it is left, and there was nothing to go back to.
//! * *superseded*: it might block a remembered reload for ever, and gave way. Its workers go on
//!   where nobody else serves: they may still become something to go back to.
//! * *abandoned*: a stop came, and a stop wins at any moment.
//!
//! A reload asked for meanwhile is remembered in `pending`, once. One for which our descriptors
//! do not suffice has its verdict without having begun.
//!
//! # The live set
//!
//! Who is ready and not asked, of whatever generation; outside of a reload N of them. A worker
//! that dies leaves a `Vacancy` behind (with `-respawn`), which is a back-off as data: it becomes
//! a worker when due. Those of the rollout are the rollout's, and share its fate. What a rolling
//! reload did not replace is `unfilled`, and filled when it is over; who is too many then is asked.
//!
//! Nothing is promoted, and nobody asked to stop for a promotion, but by `Event::Settled`: the
//! loop sends it when `awaits_settling` and a last look at the kernel brought no death.
//!
//! # The life of the program
//!
//! `Mode::Serving` until a stop signal (`Stopping`) or until nobody is left who could serve
//! (`Leaving`); then the sockets are closed, and with the last worker's end we exit.

mod places;
mod policy;
mod rollout;
mod verdict;
mod workers;

#[cfg(test)]
mod tests;

pub use policy::{ChildId, Gate, Instant, Pace, Policy, Style};
pub use verdict::{Cause, End, Failure, GivenUp, Note, Outcome, Then, Unreached, Verdict};
pub use workers::{Patience, Phase, Refusal, Worker, Workers};

use places::Vacancies;
use rollout::Rollout;
use std::collections::VecDeque;
use std::time::Duration;

/// How many workers are started before the loop looks at the kernel again.
const BURST: u32 = 16;
/// How long a rolled-back worker may drain where `-stop` sets no limit.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(10);
/// A signal that was refused is tried again after this …
const RETRY: Duration = Duration::from_secs(1);
/// … for so long; a worker that SIGKILL does not end has as long at a stop.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;

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
    /// What became of the last signal to it: sent, or refused for this reason (an errno).
    Sent {
        id: ChildId,
        signal: i32,
        result: Result<(), i32>,
    },
    /// The kernel does not tell what became of this worker, and has not for a while.
    Lost(ChildId),
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
    /// A generation starts to come up; `first`: nothing was there before. Exactly one verdict
    /// follows. (A reload that never begins has only that: a stop came, or there was no room.)
    Begin {
        generation: u64,
        first: bool,
    },
    Spawn {
        id: ChildId,
        generation: u64,
        index: u32,
    },
    /// Send `signal` to the worker itself; `Event::Sent` says what became of it.
    Signal {
        id: ChildId,
        signal: i32,
    },
    /// SIGKILL to the worker's process group; `Event::Sent` says what became of it.
    Kill {
        id: ChildId,
    },
    /// Nobody waits for this worker any more: it is to be named as left behind.
    GiveUp {
        id: ChildId,
        why: GivenUp,
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

/// What Go's, einhorn's and systemd's users call the master: all of its state.
#[derive(Debug, Clone)]
pub struct Supervisor {
    policy: Policy,
    mode: Mode,
    workers: Workers,
    /// The places of the live set that stand empty.
    vacancies: Vacancies,
    rollout: Option<Rollout>,
    /// The reload to follow: `Some(None)` in the configured style.
    pending: Option<Option<Style>>,
    next_generation: u64,
    /// The generation that went live last; 0 before the first.
    live: u64,
    been_up: bool,
    /// The generation for which a re-bound listener has had its reload.
    rebound: Option<u64>,
    /// The live set may lack workers that no vacancy stands for.
    unfilled: bool,
    /// The program has run at least once.
    ever_ran: bool,
    /// What we exit with if the workers leave by themselves.
    last_status: Option<i32>,
    left_by_quit: bool,
    /// A worker was given up: we leave it behind.
    gave_up: bool,
    burst: u32,
    last_spawn: Option<Instant>,
    /// Deaths in a row before readiness (einhorn's throttle).
    early_deaths: u32,
    last_verdict: Option<Verdict>,
    /// What has to be done, first things first.
    outbox: VecDeque<Action>,
}

impl Supervisor {
    /// Nothing runs yet; `Event::Start` brings up the first generation.
    pub fn new(policy: Policy) -> Supervisor {
        Supervisor {
            policy,
            mode: Mode::Serving,
            workers: Workers::default(),
            vacancies: Vacancies::default(),
            rollout: None,
            pending: None,
            next_generation: 1,
            live: 0,
            been_up: false,
            rebound: None,
            unfilled: false,
            ever_ran: false,
            last_status: None,
            left_by_quit: false,
            gave_up: false,
            burst: BURST,
            last_spawn: None,
            early_deaths: 0,
            last_verdict: None,
            outbox: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`; what has to be done is what [`Self::next_action`] returns.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Start if self.mode == Mode::Serving && !self.has_begun() => {
                self.begin(now, None);
            }
            Event::Start => {}
            Event::Reload(style) => self.on_reload(style),
            Event::Rebound => self.on_rebound(),
            Event::Running(id) => self.on_running(now, id),
            Event::Ready(id) => self.on_ready(now, id),
            Event::Gone(id, end) => self.on_gone(now, id, end),
            Event::Stop(signal) => self.on_stop(now, signal),
            Event::Quit => self.on_quit(),
            Event::Sent { id, signal, result } => self.on_sent(now, id, signal, result),
            Event::Lost(id) => self.give_up(id, GivenUp::Lost),
            Event::Resize(workers) => self.on_resize(now, workers),
            Event::Tick => self.on_tick(now),
            Event::Settled => self.on_settled(now),
        }
        self.advance(now);
    }

    /// What has to be done next; to be asked again until there is nothing. A verdict says what
    /// became of the signals before it, so it is completed when it is its turn.
    pub fn next_action(&mut self) -> Option<Action> {
        let mut action = self.outbox.pop_front()?;
        if let Action::Verdict(verdict) = &mut action {
            verdict.unreached = self.unreached();
            self.last_verdict = Some(verdict.clone());
        }
        Some(action)
    }

    /// When `Event::Tick` is needed next; recomputed, so it cannot be stale.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let workers = self.workers.next_deadline();
        workers.into_iter().chain(self.next_start(now)).min()
    }

    /// Whether `Event::Settled` would do something.
    pub fn awaits_settling(&self) -> bool {
        self.mode == Mode::Serving
            && (self.is_decided() || self.rolling_excess() > 0 || self.is_overfull())
    }

    // ---- what others may know ----

    /// All that exist, those who drain included.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// As it holds now: `Event::Resize` changes N.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What became of the reload that ended last.
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

    /// The generation that a reload asked for now would begin at once; `None`: it would be
    /// remembered, or refused.
    pub fn reload_would_begin(&self) -> Option<u64> {
        let supersedes = !self.awaits_settling() && self.may_block_for_ever();
        let is_free = self.rollout.is_none() || supersedes;
        let begins = self.mode == Mode::Serving && self.has_begun() && is_free;
        begins.then_some(self.next_generation)
    }

    /// Whether a reload is remembered.
    pub fn has_pending_reload(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether a generation ever served: the first was live, or what was left of it went on.
    pub fn has_been_up(&self) -> bool {
        self.been_up
    }

    /// The workers that were to be asked to stop, or killed, and run on because they cannot be
    /// signalled.
    pub fn unreached(&self) -> Option<Unreached> {
        let asked = self.workers.iter().filter(|(_, worker)| worker.is_asked());
        let mut errnos = asked.filter_map(|(_, worker)| Some(worker.refusal?.errno));
        let errno = errnos.next()?;
        let workers = 1 + errnos.count() as u32;
        Some(Unreached { workers, errno })
    }

    /// Whether a worker was left behind at the stop.
    pub fn has_given_up(&self) -> bool {
        self.gave_up
    }

    /// No worker is started any more.
    pub fn is_stopping(&self) -> bool {
        self.mode != Mode::Serving
    }

    /// The moments at which places that stand empty are filled again.
    pub fn backoffs(&self) -> impl Iterator<Item = Instant> + '_ {
        let coming_up = self.rollout.iter().flat_map(|r| r.vacancies.dues());
        self.vacancies.dues().chain(coming_up)
    }

    /// The latest moment at which a worker that is coming up has to run or be ready; `None` when
    /// nothing is coming up or `-start` sets no limit. Those that follow one that died do not
    /// count: a back-off can go on for ever.
    pub fn gate_deadline(&self) -> Option<Instant> {
        self.policy.start_limit()?;
        let generation = self.rolling_out()?;
        let coming_up = self.workers.unready_of(generation);
        let first_tries = coming_up.filter(|worker| worker.streak == 0);
        first_tries.filter_map(Worker::deadline).max()
    }

    fn has_begun(&self) -> bool {
        self.next_generation > 1
    }

    // ---- events ----

    fn on_reload(&mut self, style: Option<Style>) {
        if self.mode != Mode::Serving {
            return self.note(Note::ReloadRefused);
        }
        if self.rollout.is_some() || !self.has_begun() {
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
            Gate::Report => self.policy.start_limit().map(|limit| now + limit),
        };
        self.ever_ran = true;
        let since = now;
        self.workers
            .set_phase(id, Phase::Running { since, gate: limit });
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
        self.ever_ran = true;
        self.early_deaths = 0;
        self.note(Note::Ready { id });
        if self.rollout.is_none() {
            self.take_stock();
        }
    }

    fn on_gone(&mut self, now: Instant, id: ChildId, end: End) {
        let Some(worker) = self.workers.remove(id) else {
            return;
        };
        if worker.is_asked() {
            return;
        }
        self.left_by_quit = worker.quit && is_leaving(&end);
        if !self.left_by_quit {
            self.last_status = end.status().or(self.last_status);
        }
        if self.mode == Mode::Serving {
            self.on_death(now, id, &worker, Cause::Ended(end));
        }
    }

    /// A worker that nobody asked to stop is dead, or as good as dead.
    fn on_death(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
        let is_member = self.rolling_out() == Some(worker.generation);
        let never_became = matches!(cause, Cause::Ended(End::Exec { .. }));
        let failure = Failure {
            worker: Some(id),
            cause,
            after: worker.age(now),
        };
        let rolls_back = is_member && self.has_fallback();
        if self.left_by_quit && !rolls_back {
            return;
        }
        if worker.is_unready() {
            self.early_deaths = self.early_deaths.saturating_add(1);
        }
        if rolls_back {
            return self.roll_back(now, failure);
        }
        if is_member {
            self.lose_member(failure);
        }
        if is_member && never_became && self.is_unstartable() {
            self.forget_coming_up();
            return self.not_replaced(id);
        }
        self.refill(now, id, worker);
    }

    fn on_stop(&mut self, now: Instant, signal: i32) {
        if self.mode == Mode::Ended {
            return;
        }
        if std::mem::replace(&mut self.mode, Mode::Stopping) == Mode::Serving {
            self.abandon(now);
            self.vacancies.clear();
            self.outbox.push_back(Action::CloseListeners);
            self.give_last_chances(now);
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
            // One that failed may have taken others with it, and those have a new deadline now.
            let due = |worker: &&Worker| worker.deadline().is_some_and(|at| at <= now);
            let Some(worker) = self.workers.find(id).filter(due).cloned() else {
                continue;
            };
            match worker.phase {
                Phase::Starting { .. } => self.on_silence(now, id, &worker, Cause::ExecHung),
                Phase::Running { .. } if self.policy.gate == Gate::Timer => {
                    self.become_ready(now, id);
                }
                Phase::Running { .. } => self.on_silence(now, id, &worker, Cause::Silent),
                Phase::Stopping { since, patience } => match patience {
                    Patience::Until(at) if at <= now => self.kill(now, id, since),
                    Patience::GiveUp(at) if at <= now => {
                        let refused = worker.refusal.map(|it| GivenUp::Refused(it.errno));
                        self.give_up(id, refused.unwrap_or(GivenUp::Survives));
                    }
                    _ => self.try_again(now, id, &worker),
                },
                Phase::Ready { .. } => {}
            }
        }
    }

    /// A signal reached its worker, or was refused.
    fn on_sent(&mut self, now: Instant, id: ChildId, signal: i32, result: Result<(), i32>) {
        let Some(worker) = self.workers.find(id) else {
            return;
        };
        let (before, is_asked) = (worker.refusal, worker.is_asked());
        let Err(errno) = result else {
            if before.is_some() {
                self.workers.set_refusal(id, None);
            }
            if signal == SIGKILL {
                self.note(Note::Killed { id });
            }
            return;
        };
        let then = match (is_asked, self.mode) {
            (false, _) => Then::Nothing,
            (true, Mode::Serving) => Then::RunsOn,
            (true, _) => Then::GivenUp,
        };
        if before.is_none_or(|before| (before.errno, before.then) != (errno, then)) {
            self.note(Note::Refused {
                id,
                signal,
                errno,
                then,
            });
        }
        if is_asked {
            // Signals that come in between must not put off the next try, nor the end of all tries.
            let retry = before.and_then(|before| before.retry);
            let retry = retry.filter(|at| *at > now).unwrap_or(now + RETRY);
            let was_kill = before.is_some_and(|before| before.signal == SIGKILL);
            let refusal = Refusal {
                errno,
                signal: if was_kill { SIGKILL } else { signal },
                then,
                since: before.map_or(now, |before| before.since),
                retry: Some(retry),
            };
            self.workers.set_refusal(id, Some(refusal));
        }
    }

    /// The refused signal once more, or no more.
    fn try_again(&mut self, now: Instant, id: ChildId, worker: &Worker) {
        let Some(refusal) = worker.refusal else {
            return;
        };
        if now - refusal.since < LAST_PATIENCE {
            return self.send(id, refusal.signal);
        }
        if self.mode != Mode::Serving {
            return self.give_up(id, GivenUp::Refused(refusal.errno));
        }
        let left_alone = Refusal {
            retry: None,
            ..refusal
        };
        self.workers.set_refusal(id, Some(left_alone));
        let errno = refusal.errno;
        self.note(Note::LeftAlone { id, errno });
    }

    /// We are about to end: whoever could not be signalled so far is tried anew, and nobody is
    /// waited for much longer who has had SIGKILL.
    fn give_last_chances(&mut self, now: Instant) {
        for id in self.workers.ids() {
            let Some(worker) = self.workers.find(id) else {
                continue;
            };
            let (phase, refusal) = (worker.phase, worker.refusal);
            let exhausted = Patience::Exhausted;
            match phase {
                Phase::Stopping { since, patience } if patience == exhausted => {
                    let patience = Patience::GiveUp(now + LAST_PATIENCE);
                    self.workers
                        .set_phase(id, Phase::Stopping { since, patience });
                }
                _ => {}
            }
            if let Some(refusal) = refusal {
                let anew = Refusal {
                    since: now,
                    retry: Some(now),
                    ..refusal
                };
                self.workers.set_refusal(id, Some(anew));
            }
        }
    }

    /// Nobody waits for this worker any more. Only on the way out: while we serve it stays.
    fn give_up(&mut self, id: ChildId, why: GivenUp) {
        if self.mode != Mode::Serving && self.workers.remove(id).is_some() {
            self.gave_up = true;
            self.outbox.push_back(Action::GiveUp { id, why });
        }
    }

    /// A worker that did not make it in time: it is asked to leave, and counts as dead.
    fn on_silence(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
        self.dismiss(now, id);
        self.left_by_quit &= worker.quit;
        self.on_death(now, id, worker, cause);
    }

    fn on_resize(&mut self, now: Instant, workers: u32) {
        let capacity = self.policy.capacity;
        if self.mode != Mode::Serving || workers == 0 {
            return;
        }
        if workers > capacity {
            let wanted = workers;
            return self.note(Note::ResizeRefused { wanted, capacity });
        }
        self.policy.workers = workers;
        match self.rolling_out() {
            Some(generation) => self.resize_rollout(now, generation),
            None if self.has_begun() => {
                self.fill(now);
                self.trim(now, &|_| true);
            }
            None => {}
        }
    }

    // ---- doing ----

    /// What follows from the state, whatever the event was.
    fn advance(&mut self, now: Instant) {
        if self.mode == Mode::Serving {
            self.start_pending(now);
            if self.unfilled && self.rollout.is_none() {
                self.fill(now);
            }
            self.start_due(now);
            if self.has_nobody() {
                self.mode = Mode::Leaving;
                self.vacancies.clear();
                self.outbox.push_back(Action::CloseListeners);
                self.give_last_chances(now);
            }
        }
        if matches!(self.mode, Mode::Stopping | Mode::Leaving) && self.workers.is_empty() {
            self.outbox.push_back(Action::Exit(self.status()));
            self.mode = Mode::Ended;
        }
    }

    fn has_nobody(&self) -> bool {
        self.has_begun()
            && self.rollout.is_none()
            && self.pending.is_none()
            && self.workers.unasked() == 0
            && (self.vacancies.is_empty() || self.left_by_quit)
    }

    fn status(&self) -> i32 {
        let asked = self.mode == Mode::Stopping || self.left_by_quit;
        match (self.gave_up, asked && self.been_up) {
            (true, _) => 1,
            (false, true) => 0,
            (false, false) => self.last_status.unwrap_or(1),
        }
    }

    /// Asks a worker to stop, once.
    fn ask(&mut self, now: Instant, id: ChildId) {
        self.ask_within(now, id, self.policy.stop);
    }

    /// Asks a worker that failed, or whose generation did: it does not get for ever.
    fn dismiss(&mut self, now: Instant, id: ChildId) {
        self.ask_within(now, id, self.policy.stop.or(Some(ROLLBACK_PATIENCE)));
    }

    fn ask_within(&mut self, now: Instant, id: ChildId, stop: Option<Duration>) {
        if self.mark_asked(now, id, stop) {
            let signal = self.policy.stop_signal;
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    /// Says whether it was not asked before; its first deadline stands.
    fn mark_asked(&mut self, now: Instant, id: ChildId, stop: Option<Duration>) -> bool {
        if self.workers.find(id).is_none_or(Worker::is_asked) {
            return false;
        }
        let patience = stop.map_or(Patience::Forever, |stop| Patience::Until(now + stop));
        let since = now;
        self.workers
            .set_phase(id, Phase::Stopping { since, patience });
        true
    }

    fn kill(&mut self, now: Instant, id: ChildId, since: Instant) {
        let patience = match self.mode {
            Mode::Serving => Patience::Exhausted,
            _ => Patience::GiveUp(now + LAST_PATIENCE),
        };
        self.workers
            .set_phase(id, Phase::Stopping { since, patience });
        self.outbox.push_back(Action::Kill { id });
    }

    fn send(&mut self, id: ChildId, signal: i32) {
        self.outbox.push_back(match signal {
            SIGKILL => Action::Kill { id },
            _ => Action::Signal { id, signal },
        });
    }

    /// For notes that concern nobody in particular, too.
    fn note(&mut self, note: Note) {
        self.outbox.push_back(Action::Note(note));
    }
}

/// Whether a worker that was told to quit did so.
fn is_leaving(end: &End) -> bool {
    match end {
        End::Exited(status) => *status == 0,
        End::Signaled { signal, .. } => *signal == SIGQUIT,
        End::Exec { .. } | End::Untold => false,
    }
}
