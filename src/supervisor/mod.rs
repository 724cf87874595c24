//! Every decision of the program, and nothing else: no descriptor, no pid, no clock. The loop
//! tells it what happened (`Event`), and it says what has to be done (`Action`). It must never do
//! I/O, and never assume that an action has happened before an event says so. All its state is
//! plain data, which a later image of the program can read back and go on with.
//!
//! # The life of a worker
//!
//! ```text
//! Starting ──exec──▶ Running ──gate──▶ Ready ──asked──▶ Stopping ──▶ gone
//!     └───────────────┴──── fails: asked, or already gone ───┘
//! ```
//!
//! * `Starting`: forked, the program not yet running. The worker leaves this phase by `Running`
//!   (exec succeeded), by `Ready` (it spoke before we saw the exec), by `Gone`, or at `exec_by`,
//!   which is a failure.
//! * `Running`: the gate decides. Timer: at its deadline the worker is ready. Report: a worker
//!   that has said nothing by the deadline has failed; without a deadline it may take for ever.
//! * `Ready`: serving. The *live set* is the ready workers, of whatever generation.
//! * `Stopping`: asked by us, once. SIGKILL follows at a deadline, if there is one. Of what the
//!   worker does from now on, only its end matters: we do not exit before it.
//!
//! A worker that the kernel does not let us signal has a `SignalRefusal`: the signal is sent again
//! every second for ten. Then, while we serve, the worker is left alone; at a stop it is given
//! up, as is one that SIGKILL did not end within ten seconds. So a stop always ends.
//!
//! # The life of a generation
//!
//! A `Rollout` is a generation on its way to be live: the first one, or a reload. There is at
//! most one. It ends in exactly one `Verdict`:
//!
//! * *live*: all its workers are ready (or all that remain, where there was nothing to go back
//!   to); all other workers are asked to stop. A rolling one asks old ones on the way.
//! * *rolled back*: one of its workers failed while a ready older one exists. Its workers are
//!   asked to stop; in a rolling one those that are ready stay (*half-way*).
//! * *failed*: it has no worker left, and there was nothing to go back to.
//! * *superseded*: it might have blocked a remembered reload for ever, and gave way. Where no
//!   older worker serves, its workers go on: they may still become something to go back to.
//! * *abandoned*: a stop came, and a stop wins at any moment.
//!
//! A reload asked for meanwhile is remembered, once. One that never begins has a verdict all the
//! same: a stop came, or our descriptors do not suffice.
//!
//! # The live set
//!
//! Outside of a rollout, N workers are ready or on their way. With `-respawn`, a worker that dies
//! leaves a `PendingStart` behind, which becomes a worker when its back-off is over. The rollout
//! has pending starts of its own. A rolling reload replaces the old workers itself; when it ends
//! before it has, the live set needs a refill, and surplus workers are asked to stop.
//!
//! A new worker takes the place of others only by `Event::PromotionConfirmed`: the loop sends it
//! when `awaits_confirmation` says so and a last poll of the kernel has brought no death.
//!
//! # The life of the program
//!
//! `Mode::Serving` until a stop signal (`Stopping`) or until no worker is left that could serve
//! (`Leaving`); then the sockets are closed, and when the last worker has ended we exit.

mod respawn;
mod rollout;
mod types;
mod workers;

pub use types::{
    AfterRefusal, Cause, ChildId, End, Failure, Gate, GivenUp, Instant, Note, Outcome, Pace,
    Policy, SignalRefusal, Style, Unreached, Verdict,
};
pub use workers::{Phase, Worker, Workers};

use respawn::PendingStart;
use rollout::{PendingReload, Rollout};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// A signal that was refused is sent again after this …
const RETRY: Duration = Duration::from_secs(1);
/// … for so long. At a stop, a worker that SIGKILL does not end has as long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first generation is to come up.
    Start,
    /// A reload is asked for; `None`: in the configured style.
    Reload(Option<Style>),
    /// A listener had to be bound anew: the running workers do not hold it.
    Rebound,
    /// The worker's exec succeeded.
    Running(ChildId),
    /// The worker says that it is ready.
    Ready(ChildId),
    /// The worker has ended, or could not be started.
    Gone(ChildId, End),
    /// SIGTERM or SIGINT (or einhorn's equivalents): forward it, and end.
    Stop(i32),
    /// SIGQUIT: forward it, and nothing else.
    Quit,
    /// The last signal to the worker was sent, or refused for this reason (an errno).
    Sent {
        id: ChildId,
        signal: i32,
        result: Result<(), i32>,
    },
    /// For a while the kernel has not told what became of this worker.
    Lost(ChildId),
    /// N has changed.
    Resize(u32),
    /// Time has passed; sent in every turn, after what decisions depend on.
    Tick,
    /// A last poll of the kernel found no death: what is ready may be promoted.
    PromotionConfirmed,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A generation starts to come up; `first`: it is no reload. Exactly one verdict follows.
    Begin { generation: u64, first: bool },
    /// Start a worker.
    Spawn {
        id: ChildId,
        generation: u64,
        index: u32,
    },
    /// Send `signal` to the worker itself; `Event::Sent` says what became of it.
    Signal { id: ChildId, signal: i32 },
    /// SIGKILL to the worker's process group; `Event::Sent` says what became of it.
    Kill { id: ChildId },
    /// We do not wait for this worker any more: it is to be named as left behind.
    GiveUp { id: ChildId, why: GivenUp },
    /// Close our copies of the sockets and remove our unix paths.
    CloseListeners,
    /// Tell what became of a reload.
    Verdict(Verdict),
    /// Log this.
    Note(Note),
    /// End with this status.
    Exit(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Mode {
    #[default]
    Serving,
    /// We were asked to stop.
    Stopping,
    /// No worker is left that could serve; the last ones drain.
    Leaving,
    Ended,
}

/// What Go's, einhorn's and systemd's users call the master: all of its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Supervisor {
    policy: Policy,
    mode: Mode,
    workers: Workers,
    /// The workers that the live set lacks, the soonest first.
    pending_starts: VecDeque<PendingStart>,
    rollout: Option<Rollout>,
    /// The reload to follow.
    pending_reload: Option<PendingReload>,
    /// The generation that began last; 0 before the first.
    last_generation: u64,
    /// The generation that went live last; 0 before the first.
    live: u64,
    /// The generation for which a re-bound listener has had its reload.
    rebound: Option<u64>,
    /// The live set may lack workers for which there is no pending start.
    needs_refill: bool,
    /// The program has run at least once.
    ever_ran: bool,
    /// What we exit with if the workers leave by themselves.
    last_status: Option<i32>,
    /// The worker that left last did so because of a SIGQUIT that we forwarded.
    left_by_quit: bool,
    /// A worker was given up: we leave it behind.
    gave_up: bool,
    started_since_tick: u32,
    last_spawn: Option<Instant>,
    /// Deaths in a row before readiness (einhorn's throttle).
    early_deaths: u32,
    /// What has to be done, first things first.
    outbox: VecDeque<Action>,
}

impl Supervisor {
    /// Nothing runs yet; `Event::Start` brings up the first generation.
    pub fn new(policy: Policy) -> Supervisor {
        Supervisor {
            policy,
            ..Supervisor::default()
        }
    }

    /// Takes in what happened at `now`; [`Self::next_action`] says what has to be done about it.
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
            Event::PromotionConfirmed => self.on_promotion_confirmed(now),
        }
        self.advance(now);
    }

    /// What has to be done next; to be asked again until there is nothing.
    pub fn next_action(&mut self) -> Option<Action> {
        let mut action = self.outbox.pop_front()?;
        if let Action::Verdict(verdict) = &mut action {
            // The signals before it have been sent or refused only now.
            verdict.unreached = self.unreached();
        }
        Some(action)
    }

    /// When `Event::Tick` is needed next; recomputed, so it cannot be stale.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let next_start = self.next_start(now).map(|(at, _)| at);
        let workers = self.workers.next_deadline();
        workers.into_iter().chain(next_start).min()
    }

    /// Whether `Event::PromotionConfirmed` would do something.
    pub fn awaits_confirmation(&self) -> bool {
        let has_surplus = || self.rolling_surplus() > 0;
        let is_overfull = || self.old_workers() > self.policy.workers;
        self.mode == Mode::Serving && (self.is_decided() || has_surplus() || is_overfull())
    }

    // ---- what others may know ----

    /// All workers that exist, draining ones included.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The policy as it holds now: `Event::Resize` changes N.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The generation that is coming up.
    pub fn rolling_out(&self) -> Option<u64> {
        self.rollout.as_ref().map(|rollout| rollout.generation)
    }

    /// The generation that went live last; 0: none yet.
    pub fn live_generation(&self) -> u64 {
        self.live
    }

    /// The generation that a reload would begin now; `None`: it would be remembered, or refused.
    pub fn reload_would_begin(&self) -> Option<u64> {
        let supersedes = !self.awaits_confirmation() && self.may_block_for_ever();
        let is_free = self.rollout.is_none() || supersedes;
        let begins = self.mode == Mode::Serving && self.has_begun() && is_free;
        begins.then_some(self.last_generation + 1)
    }

    /// Whether a reload is remembered.
    pub fn has_pending_reload(&self) -> bool {
        self.pending_reload.is_some()
    }

    /// Whether a generation ever served.
    pub fn has_been_up(&self) -> bool {
        self.live > 0
    }

    /// The workers that were to be stopped and run on because they cannot be signalled.
    pub fn unreached(&self) -> Option<Unreached> {
        let stopping = self.workers.iter().filter(|(_, it)| it.is_stopping());
        let mut errnos = stopping.filter_map(|(_, worker)| Some(worker.refusal?.errno));
        let errno = errnos.next()?;
        let workers = 1 + errnos.count() as u32;
        Some(Unreached { workers, errno })
    }

    /// Whether a worker was left behind at the stop.
    pub fn has_given_up(&self) -> bool {
        self.gave_up
    }

    /// Whether we are about to end: no worker is started any more.
    pub fn is_stopping(&self) -> bool {
        self.mode != Mode::Serving
    }

    /// The moments at which workers that died are to be replaced.
    pub fn backoffs(&self) -> impl Iterator<Item = Instant> + '_ {
        let coming_up = self.rollout.iter().flat_map(|it| &it.pending_starts);
        let starts = self.pending_starts.iter().chain(coming_up);
        starts.map(|start| start.due)
    }

    /// The latest moment at which a worker that is coming up has to run or be ready; `None`: no
    /// limit. Those that replace one that died do not count: a back-off can go on for ever.
    pub fn gate_deadline(&self) -> Option<Instant> {
        self.policy.start_limit()?;
        let unready = self.workers.unready_of(self.rolling_out()?);
        let first_tries = unready.filter(|worker| worker.deaths_in_row == 0);
        first_tries.filter_map(Worker::deadline).max()
    }

    fn has_begun(&self) -> bool {
        self.last_generation > 0
    }

    // ---- events ----

    fn on_reload(&mut self, style: Option<Style>) {
        if self.mode != Mode::Serving {
            return self.note(Note::ReloadRefused);
        }
        if self.rollout.is_some() || !self.has_begun() {
            let again = self.pending_reload.is_some();
            self.note(Note::ReloadRemembered { again });
        }
        self.pending_reload = Some(PendingReload { style });
    }

    fn on_rebound(&mut self) {
        if self.rebound == Some(self.live) {
            return self.note(Note::ReboundAgain);
        }
        self.rebound = Some(self.live);
        self.on_reload(None);
    }

    fn on_running(&mut self, now: Instant, id: ChildId) {
        let gate = match self.policy.gate {
            Gate::Timer => Some(now + self.policy.start),
            Gate::Report => self.policy.start_limit().map(|limit| now + limit),
        };
        match self.workers.get_mut(id) {
            Some(worker) if matches!(worker.phase, Phase::Starting { .. }) => {
                worker.phase = Phase::Running { gate };
            }
            _ => return,
        }
        self.ever_ran = true;
        if self.policy.gate == Gate::Timer && self.policy.start.is_zero() {
            self.become_ready(now, id);
        }
    }

    fn on_ready(&mut self, now: Instant, id: ChildId) {
        let is_unready = self.workers.find(id).is_some_and(Worker::is_unready);
        if is_unready && self.policy.gate == Gate::Report {
            self.become_ready(now, id);
        }
    }

    fn become_ready(&mut self, now: Instant, id: ChildId) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.phase = Phase::Ready { since: now };
        }
        self.ever_ran = true;
        self.early_deaths = 0;
        self.note(Note::Ready { id });
        if self.rollout.is_none() {
            self.update_live_generation();
        }
    }

    fn on_gone(&mut self, now: Instant, id: ChildId, end: End) {
        let Some(worker) = self.workers.remove(id).filter(|it| !it.is_stopping()) else {
            return;
        };
        let may_be_by_quit = match end {
            End::Exec { .. } | End::Untold => false,
            End::Exited(status) => status == 0,
            End::Signaled { signal, .. } => signal == SIGQUIT,
        };
        self.left_by_quit = worker.told_to_quit && may_be_by_quit;
        if !self.left_by_quit {
            self.last_status = end.status().or(self.last_status);
        }
        if self.mode == Mode::Serving {
            self.on_failure(now, id, &worker, Cause::Ended(end));
        }
    }

    /// A worker that was not asked to stop has ended, or has missed a deadline.
    fn on_failure(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
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
        let is_last = self.workers.staying() == 0;
        if let Some(rollout) = self.rollout.as_mut().filter(|_| is_member) {
            // Without a fallback, a failing worker costs only itself.
            rollout.failure = Some(failure);
            if never_became && !self.ever_ran && is_last && rollout.quota == 0 {
                // Nothing has shown that the program can run, and nothing more will.
                rollout.pending_starts.clear();
                return self.note_not_replaced(id);
            }
        }
        self.replace(now, id, worker);
    }

    fn on_stop(&mut self, now: Instant, signal: i32) {
        if self.mode == Mode::Ended {
            return;
        }
        if std::mem::replace(&mut self.mode, Mode::Stopping) == Mode::Serving {
            self.abandon(now);
            self.leave(now);
        }
        let limit = self.policy.stop.map(|stop| now + stop);
        for worker in self.workers.iter_mut().filter(|it| !it.is_stopping()) {
            worker.phase = Phase::Stopping { limit };
        }
        self.signal_all(signal);
    }

    fn on_quit(&mut self) {
        if self.workers.is_empty() {
            self.note(Note::NobodyToQuit);
        }
        for worker in self.workers.iter_mut() {
            worker.told_to_quit = true;
        }
        self.signal_all(SIGQUIT);
    }

    fn signal_all(&mut self, signal: i32) {
        for id in self.workers.ids() {
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.started_since_tick = 0;
        for id in self.workers.ids() {
            // Looked up only now: one that failed may have given others a new deadline.
            let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let worker = self.workers.find(id).filter(|it| is_past(it.deadline()));
            let Some(worker) = worker.cloned() else {
                continue;
            };
            match worker.phase {
                Phase::Starting { .. } => self.on_overdue(now, id, &worker, Cause::ExecHung),
                Phase::Running { .. } if self.policy.gate == Gate::Timer => {
                    self.become_ready(now, id);
                }
                Phase::Running { .. } => self.on_overdue(now, id, &worker, Cause::Silent),
                Phase::Ready { .. } => {}
                Phase::Stopping { limit } if is_past(limit) => self.kill(now, id),
                Phase::Killed { limit } if is_past(limit) => {
                    let refused = worker.refusal.map(|it| GivenUp::Refused(it.errno));
                    self.give_up(id, refused.unwrap_or(GivenUp::Survives));
                }
                Phase::Stopping { .. } | Phase::Killed { .. } => self.retry_signal(now, id),
            }
        }
    }

    /// A worker that did not run or become ready in time is asked to stop, and counts as dead.
    fn on_overdue(&mut self, now: Instant, id: ChildId, worker: &Worker, cause: Cause) {
        self.ask_to_stop(now, &[id], self.policy.rollback_limit());
        self.left_by_quit &= worker.told_to_quit;
        self.on_failure(now, id, worker, cause);
    }

    /// A signal was sent to a worker, or refused.
    fn on_sent(&mut self, now: Instant, id: ChildId, signal: i32, result: Result<(), i32>) {
        let is_serving = self.mode == Mode::Serving;
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        let Err(errno) = result else {
            worker.refusal = None;
            if signal == SIGKILL {
                self.note(Note::Killed { id });
            }
            return;
        };
        let then = match worker.is_stopping() {
            false => AfterRefusal::Nothing,
            true if is_serving => AfterRefusal::RunsOn,
            true => AfterRefusal::GivenUp,
        };
        let before = worker.refusal;
        // Signals that come in between put off neither the next try nor the end of all tries.
        let retry = before.and_then(|it| it.retry).filter(|at| *at > now);
        let refusal = SignalRefusal {
            errno,
            signal,
            then,
            since: before.map_or(now, |it| it.since),
            retry: Some(retry.unwrap_or(now + RETRY)),
        };
        if worker.is_stopping() {
            let kill = before.map(|it| it.signal).filter(|it| *it == SIGKILL);
            let signal = kill.unwrap_or(signal);
            worker.refusal = Some(SignalRefusal { signal, ..refusal });
        }
        if before.is_none_or(|it| (it.errno, it.then) != (errno, then)) {
            self.note(Note::Refused { id, refusal });
        }
    }

    fn on_resize(&mut self, now: Instant, wanted: u32) {
        let capacity = self.policy.capacity;
        if self.mode != Mode::Serving || wanted == 0 {
            return;
        }
        if wanted > capacity {
            return self.note(Note::ResizeRefused { wanted, capacity });
        }
        self.policy.workers = wanted;
        match self.rolling_out() {
            Some(generation) => self.resize_rollout(now, generation),
            None if self.has_begun() => {
                self.fill_live_set(now);
                self.stop_surplus(now, |_| true);
            }
            None => {}
        }
    }

    // ---- what follows ----

    /// What follows from the state, whatever the event was.
    fn advance(&mut self, now: Instant) {
        if self.mode == Mode::Serving {
            self.start_pending_reload(now);
            if self.needs_refill && self.rollout.is_none() {
                self.fill_live_set(now);
            }
            self.start_due(now);
            if self.has_nothing_to_serve_with() {
                self.mode = Mode::Leaving;
                self.leave(now);
            }
        }
        if matches!(self.mode, Mode::Stopping | Mode::Leaving) && self.workers.is_empty() {
            self.outbox.push_back(Action::Exit(self.status()));
            self.mode = Mode::Ended;
        }
    }

    fn has_nothing_to_serve_with(&self) -> bool {
        self.has_begun()
            && self.rollout.is_none()
            && self.pending_reload.is_none()
            && self.workers.staying() == 0
            && (self.pending_starts.is_empty() || self.left_by_quit)
    }

    fn status(&self) -> i32 {
        let left_when_asked = self.left_by_quit && self.has_been_up();
        match (self.gave_up, self.mode == Mode::Stopping || left_when_asked) {
            (true, _) => 1,
            (false, true) => 0,
            (false, false) => self.last_status.unwrap_or(1),
        }
    }

    /// We are about to end. Workers that could not be signalled so far are tried anew, and those
    /// that have had SIGKILL are not waited for much longer.
    fn leave(&mut self, now: Instant) {
        self.pending_starts.clear();
        self.outbox.push_back(Action::CloseListeners);
        for worker in self.workers.iter_mut() {
            if let Phase::Killed { limit } = &mut worker.phase {
                *limit = limit.or(Some(now + GIVE_UP_AFTER));
            }
            if let Some(refusal) = &mut worker.refusal {
                refusal.since = now;
                refusal.retry = Some(now);
            }
        }
    }

    /// Asks workers that have not been asked before to stop; SIGKILL follows after `limit`.
    fn ask_to_stop(&mut self, now: Instant, ids: &[ChildId], limit: Option<Duration>) {
        let signal = self.policy.stop_signal;
        let limit = limit.map(|limit| now + limit);
        for &id in ids {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.phase = Phase::Stopping { limit };
            }
            self.outbox.push_back(Action::Signal { id, signal });
        }
    }

    fn kill(&mut self, now: Instant, id: ChildId) {
        if let Some(worker) = self.workers.get_mut(id) {
            let limit = (self.mode != Mode::Serving).then(|| now + GIVE_UP_AFTER);
            worker.phase = Phase::Killed { limit };
        }
        self.outbox.push_back(Action::Kill { id });
    }

    /// Sends a refused signal once more, or ends the tries.
    fn retry_signal(&mut self, now: Instant, id: ChildId) {
        let is_serving = self.mode == Mode::Serving;
        let worker = self.workers.get_mut(id);
        let Some(refusal) = worker.and_then(|worker| worker.refusal.as_mut()) else {
            return;
        };
        let (errno, signal) = (refusal.errno, refusal.signal);
        if now - refusal.since < GIVE_UP_AFTER {
            self.outbox.push_back(match signal {
                SIGKILL => Action::Kill { id },
                _ => Action::Signal { id, signal },
            });
        } else if is_serving {
            refusal.retry = None;
            self.note(Note::LeftAlone { id, errno });
        } else {
            self.give_up(id, GivenUp::Refused(errno));
        }
    }

    /// We do not wait for this worker any more. Only at a stop: while we serve it stays.
    fn give_up(&mut self, id: ChildId, why: GivenUp) {
        if self.mode != Mode::Serving && self.workers.remove(id).is_some() {
            self.gave_up = true;
            self.outbox.push_back(Action::GiveUp { id, why });
        }
    }

    fn note(&mut self, note: Note) {
        self.outbox.push_back(Action::Note(note));
    }
}

#[cfg(test)]
mod tests;
