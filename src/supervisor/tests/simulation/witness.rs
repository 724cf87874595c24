//! Watches the core: it keeps the books after each event, and objects to each action that was not
//! allowed. What must hold for all workers together is in `promises`.

use super::Setting;
use super::books::{Books, Current, Seen, Standing};
use crate::supervisor::tests::kernel::Kernel;
use crate::supervisor::tests::script::sends;
use crate::supervisor::tests::state::read_back;
use crate::supervisor::{
    Action, Cause, ChildId, Event, Gate, GivenUp, Instant, Note, Outcome, Phase, Policy, Style,
    Supervisor, Verdict,
};
use std::time::Duration;

pub struct Witness {
    pub core: Supervisor,
    /// How often each outcome was seen.
    pub seen: super::Seen,
    pub(super) books: Books,
    /// The actions that followed from this event.
    pub(super) turn: Turn,
    events: u64,
    copied_at: u64,
    now: Instant,
    kernel: Kernel,
}

/// The actions of one event that can only be judged together.
#[derive(Default)]
pub struct Turn {
    pub event: Option<Event>,
    /// The workers that were asked to stop, as they were before.
    pub asked: Vec<(ChildId, Seen)>,
    pub forwarded: Vec<ChildId>,
    pub verdicts: Vec<Verdict>,
    pub spawned: u32,
    pub current_before: Option<Current>,
}

/// How long a stop waits for a worker that nothing ends.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

pub type Result = std::result::Result<(), String>;

/// Objects if the condition does not hold.
macro_rules! promise {
    ($holds:expr, $($word:tt)+) => {
        if !$holds {
            return Err(format!($($word)+));
        }
    };
}
pub(super) use promise;

impl Witness {
    pub fn new(setting: &Setting) -> Witness {
        Witness {
            core: Supervisor::new(setting.policy.clone()),
            kernel: Kernel::new(setting.refuses.clone()),
            seen: super::Seen::new(),
            books: Books::default(),
            turn: Turn::default(),
            events: 0,
            copied_at: setting.copied_at,
            now: Instant(1_000_000),
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn policy(&self) -> &Policy {
        self.core.policy()
    }

    pub fn has_exited(&self) -> bool {
        self.books.exited.is_some()
    }

    pub fn was_killed(&self, id: ChildId) -> bool {
        let seen = self.books.workers.get(&id);
        seen.is_some_and(|it| it.killed_at.is_some())
    }

    /// Whether the kernel has refused every signal to it since it was to be asked to stop.
    pub fn is_unreached(&self, id: ChildId) -> bool {
        let seen = self.books.workers.get(&id);
        seen.is_some_and(|it| it.refused.is_some())
    }

    pub fn was_told_to_quit(&self, id: ChildId) -> bool {
        let seen = self.books.workers.get(&id);
        seen.is_some_and(|it| it.is_told_to_quit)
    }

    pub fn tell(&mut self, now: Instant, event: Event) -> Result {
        self.now = self.now.max(now);
        self.turn = Turn {
            event: Some(event.clone()),
            ..Turn::default()
        };
        let live = self.core.live_generation();
        let policy = self.core.policy().clone();
        self.books.hear(self.now, &event, &policy, live);
        self.turn.current_before = self.books.current.clone();
        self.core.handle(self.now, event);
        if self.events % 500 == self.copied_at {
            let copy = read_back(&self.core);
            promise!(copy == self.core, "read back as {copy:?}");
            self.core = copy;
        }
        self.events += 1;
        let workers = self.core.policy().workers;
        self.books.most_workers = self.books.most_workers.max(workers);
        while let Some(action) = self.core.next_action() {
            let sent = sends(&action);
            self.see(action)?;
            if let Some((id, signal)) = sent {
                let result = self.kernel.send(id);
                self.books.sent(self.now, id, signal, result);
                self.core
                    .handle(self.now, Event::Sent { id, signal, result });
            }
        }
        self.judge()
    }

    pub(super) fn told(&self, event: &Event) -> bool {
        self.turn.event.as_ref() == Some(event)
    }

    fn see(&mut self, action: Action) -> Result {
        let is_note = matches!(action, Action::Note(_));
        promise!(is_note || !self.has_exited(), "{action:?} after the exit");
        match action {
            Action::Begin { generation, first } => self.see_begin(generation, first),
            Action::Spawn {
                id,
                generation,
                index,
            } => self.see_spawn(id, generation, index),
            Action::Signal { id, signal } => self.see_signal(id, signal),
            Action::Kill { id } => self.see_kill(id),
            Action::CloseListeners => {
                promise!(!self.books.is_closed, "closed twice");
                self.books.is_closed = true;
                self.books.closed_at = self.now;
                Ok(())
            }
            Action::GiveUp { id, why } => self.see_given_up(id, why),
            Action::Verdict(verdict) => self.see_verdict(verdict),
            Action::Note(Note::Ready { id }) => self.see_ready(id),
            Action::Note(_) => Ok(()),
            Action::Exit(status) => self.see_exit(status),
        }
    }

    fn see_begin(&mut self, generation: u64, first: bool) -> Result {
        let books = &mut self.books;
        promise!(!books.is_closed, "a reload begins while we leave");
        promise!(books.current.is_none(), "two reloads at once");
        promise!(generation == books.last_generation + 1, "numbers go on");
        promise!(first == (generation == 1), "only one is the first");
        promise!(first || books.owed.is_some(), "nobody asked for a reload");
        let owed = if first { None } else { books.owed.take() };
        let style = owed.and_then(|owed| owed.style);
        let policy = self.core.policy();
        let default = match policy.max_extra() < policy.workers {
            true => Style::Rolling,
            false => Style::Fleet,
        };
        let style = style.or(policy.style).unwrap_or(default);
        books.last_generation = generation;
        books.current = Some(Current {
            generation,
            rolling: style == Style::Rolling,
            lost: 0,
        });
        Ok(())
    }

    /// How many workers that have not been asked to stop there may be.
    pub(super) fn bound(&self) -> u32 {
        let policy = self.core.policy();
        let is_fleet = self.books.current.as_ref().is_some_and(|it| !it.rolling);
        policy.workers
            + match is_fleet {
                true => policy.workers,
                false => policy.max_extra(),
            }
    }

    fn see_spawn(&mut self, id: ChildId, generation: u64, index: u32) -> Result {
        let policy = self.core.policy().clone();
        let books = &mut self.books;
        promise!(!books.is_closed, "a start while we leave");
        promise!(id.0 > books.last_id, "{id:?} was used before");
        let is_known = (1..=books.last_generation).contains(&generation);
        promise!(is_known, "a worker of generation {generation}");
        books.spawn(self.now, id, generation, &policy);
        let lowest = books.workers[&id].index;
        promise!(lowest == index, "index {index}, but {lowest} is free");
        let started = books.started[&generation];
        let at_most = match policy.respawn || books.was_resized {
            true => u32::MAX,
            false => policy.workers,
        };
        promise!(started <= at_most, "{started} starts in {generation}");
        self.turn.spawned += 1;
        let (unasked, bound) = (self.books.unasked(), self.bound());
        promise!(unasked <= bound, "{unasked} workers, {bound} may be there");
        let (len, capacity) = (self.books.workers.len(), policy.capacity as usize);
        promise!(len <= capacity, "{len} workers, room for {capacity}");
        Ok(())
    }

    fn see_signal(&mut self, id: ChildId, signal: i32) -> Result {
        let policy = self.core.policy().clone();
        let is_stop = self.told(&Event::Stop(signal));
        let is_quit = self.told(&Event::Quit) && signal == 3;
        let is_new = !self.turn.forwarded.contains(&id);
        let now = self.now;
        let is_closing = self.books.is_closed && self.books.closed_at == now;
        let Some(seen) = self.books.workers.get_mut(&id) else {
            return Err(format!("signal {signal} to nobody, {id:?}"));
        };
        if (is_stop || is_quit) && is_new {
            self.turn.forwarded.push(id);
            seen.is_told_to_quit |= is_quit;
            if is_stop && seen.state != Standing::Asked {
                seen.state = Standing::Asked;
                seen.deadline = policy.stop.map(|stop| now + stop);
            }
            return Ok(());
        }
        if seen.state == Standing::Asked && seen.refused.is_some() {
            let is_time = self.told(&Event::Tick) || is_closing;
            promise!(is_time, "{id:?} is tried again at a strange moment");
            return Ok(());
        }
        let Some(seen) = self.books.workers.get_mut(&id) else {
            return Ok(());
        };
        promise!(
            signal == policy.stop_signal,
            "{signal} is not the stop signal"
        );
        promise!(seen.state != Standing::Asked, "{id:?} is asked twice");
        self.turn.asked.push((id, seen.clone()));
        seen.state = Standing::Asked;
        self.see_kill_deadline(id)
    }

    /// Checks how long a worker that was asked to stop may take.
    fn see_kill_deadline(&mut self, id: ChildId) -> Result {
        let stop = self.core.policy().stop;
        let phase = self.core.workers().find(id).map(|worker| worker.phase);
        let Some(Phase::Stopping { limit: kill_at }) = phase else {
            return Err(format!("{id:?} was asked, but is {phase:?}"));
        };
        let ten = self.now + Duration::from_secs(10);
        let is_right = match (stop, kill_at) {
            (Some(stop), kill_at) => kill_at == Some(self.now + stop),
            (None, Some(at)) => at == ten,
            (None, None) => true,
        };
        promise!(is_right, "{id:?} has until {kill_at:?}");
        if let Some(seen) = self.books.workers.get_mut(&id) {
            seen.deadline = kill_at;
        }
        Ok(())
    }

    fn see_kill(&mut self, id: ChildId) -> Result {
        let now = self.now;
        let is_closing = self.books.is_closed && self.books.closed_at == now;
        let is_time = self.told(&Event::Tick) || is_closing;
        promise!(is_time, "a kill without its time");
        let is_closed = self.books.is_closed;
        let Some(seen) = self.books.workers.get_mut(&id) else {
            return Err(format!("a kill of nobody, {id:?}"));
        };
        if seen.is_killed && seen.refused.is_some() {
            return Ok(()); // once more
        }
        let is_due = seen.deadline.is_some_and(|at| at <= now);
        let is_asked = seen.state == Standing::Asked;
        promise!(is_asked && is_due, "{id:?} is killed before its time");
        promise!(!seen.is_killed, "{id:?} is killed twice");
        seen.is_killed = true;
        seen.deadline = is_closed.then(|| now + LAST_PATIENCE);
        Ok(())
    }

    /// Only a stop gives workers up, ten seconds after SIGKILL or after the first refusal.
    fn see_given_up(&mut self, id: ChildId, why: GivenUp) -> Result {
        promise!(self.books.is_closed, "given up while we serve");
        let closed_at = self.books.closed_at;
        let Some(seen) = self.books.workers.remove(&id) else {
            return Err(format!("nobody is given up, {id:?}"));
        };
        let since = seen.refused.or(seen.killed_at);
        let patience = since.map(|since| self.now - since.max(closed_at));
        let is_time = patience.is_some_and(|it| it >= LAST_PATIENCE);
        let is_right = match why {
            GivenUp::Refused(_) => is_time && seen.refused.is_some(),
            GivenUp::Survives => is_time && seen.refused.is_none(),
            GivenUp::Lost => self.told(&Event::Lost(id)),
        };
        promise!(is_right, "{id:?} is given up after {patience:?}: {why:?}");
        self.books.gave_up = true;
        *self.seen.entry("GivenUp".into()).or_default() += 1;
        Ok(())
    }

    fn see_ready(&mut self, id: ChildId) -> Result {
        let policy = self.core.policy().clone();
        let now = self.now;
        let said_so = self.told(&Event::Ready(id));
        let Some(seen) = self.books.workers.get_mut(&id) else {
            return Err(format!("{id:?} is ready, and nobody"));
        };
        let is_due = match policy.gate {
            Gate::Report => said_so && seen.is_unready(),
            Gate::Timer => {
                seen.state == Standing::Running && seen.deadline.is_some_and(|at| at <= now)
            }
        };
        promise!(is_due, "{id:?} is not ready");
        seen.state = Standing::Ready;
        seen.deadline = None;
        Ok(())
    }

    fn see_verdict(&mut self, verdict: Verdict) -> Result {
        let books = &mut self.books;
        let ready = books.ready_of(verdict.generation);
        promise!(verdict.ready == ready, "{ready} are ready: {verdict:?}");
        let unreached = books.count(|it| it.state == Standing::Asked && it.refused.is_some());
        let said = verdict.unreached.map_or(0, |it| it.workers);
        promise!(said == unreached, "{unreached} unreached: {verdict:?}");
        if unreached > 0 {
            *self.seen.entry("Unreached".into()).or_default() += 1;
        }
        if books.current.as_ref().map(|it| it.generation) == Some(verdict.generation) {
            books.current = None;
        } else {
            let is_next = verdict.generation == books.last_generation + 1;
            let is_abandoned = verdict.outcome == Outcome::Abandoned && books.is_stopped;
            let cause = verdict.failure.as_ref().map(|it| &it.cause);
            let is_refused = matches!(cause, Some(Cause::NoRoom { .. }));
            let was_owed = books.owed.take().is_some() || verdict.first;
            promise!(
                is_next && was_owed && (is_abandoned || is_refused),
                "a verdict on nothing: {verdict:?}"
            );
            books.last_generation += 1;
        }
        books.was_superseded |= verdict.outcome == Outcome::Superseded;
        if verdict.outcome == Outcome::Live {
            books.due_ready = books.due_ready.min(ready);
        }
        let what = format!("{:?}", verdict.outcome);
        *self.seen.entry(what).or_default() += 1;
        self.turn.verdicts.push(verdict);
        Ok(())
    }

    fn see_exit(&mut self, status: i32) -> Result {
        let books = &mut self.books;
        promise!(books.workers.is_empty(), "an exit before the last worker's");
        promise!(books.is_closed, "an exit with open sockets");
        let left_when_asked = books.left_by_quit && self.core.has_been_up();
        let due = match (books.gave_up, books.is_stopped || left_when_asked) {
            (true, _) => 1,
            (false, true) => 0,
            (false, false) => books.last_status.unwrap_or(1),
        };
        promise!(status == due, "exit status {status}, not {due}");
        books.exited = Some(status);
        Ok(())
    }
}
