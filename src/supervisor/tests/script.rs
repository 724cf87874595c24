//! The language of the scripts. A line is a moment, an event, what the core does about it, and
//! what it waits for afterwards:
//!
//! ```text
//! s.at(3005).tick().does("ready 1", "confirm");
//! s.confirm().does("live 1 1/1", "-");
//! ```
//!
//! Actions are words with `; ` between them. Then follows the next deadline in milliseconds (`-`:
//! none), with `confirm` before it where `Event::PromotionConfirmed` is awaited.

use super::kernel::{Kernel, Refuses};
use crate::supervisor::{
    Action, Cause, ChildId, End, Event, Failure, Gate, GivenUp, Instant, Note, Outcome, Policy,
    Style, Supervisor, Verdict,
};

/// One worker that is ready after three seconds and may drain for ever.
pub fn policy() -> Policy {
    Policy::default()
}

/// The same with `workers`.
pub fn fleet(workers: u32) -> Policy {
    Policy {
        workers,
        ..policy()
    }
}

/// N workers that report within three seconds, K beside the old ones.
pub fn rolling(workers: u32, max_extra: u32) -> Policy {
    Policy {
        workers,
        max_extra: Some(max_extra),
        gate: Gate::Report,
        ..policy()
    }
}

pub fn at_ms(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

pub struct Script {
    pub core: Supervisor,
    pub last_verdict: Option<Verdict>,
    now: Instant,
    seen: Vec<String>,
    kernel: Kernel,
}

/// The actions that followed from an event; [`Step::does`] has to check them.
#[must_use]
pub struct Step<'a> {
    script: &'a mut Script,
    event: String,
    did: Vec<String>,
}

impl Step<'_> {
    /// Checks that the event led to these actions, in this order, and what the core waits for.
    #[track_caller]
    pub fn does(self, actions: &str, left: &str) {
        let at = show(self.script.now);
        assert_eq!(self.did.join("; "), actions, "at {at}, {}", self.event);
        assert_eq!(self.script.left(), left, "left at {at} by {}", self.event);
    }
}

impl Script {
    pub fn new(policy: Policy) -> Script {
        Script {
            core: Supervisor::new(policy),
            last_verdict: None,
            now: Instant(0),
            seen: Vec::new(),
            kernel: Kernel::new(Refuses::Nothing),
        }
    }

    /// A script whose kernel refuses signals.
    pub fn under(policy: Policy, refuses: Refuses) -> Script {
        let kernel = Kernel::new(refuses);
        Script {
            kernel,
            ..Script::new(policy)
        }
    }

    /// From now on the kernel refuses signals to these workers with EPERM, and to no others.
    pub fn refuses(&mut self, ids: &[u64]) -> &mut Script {
        self.kernel.refuses = Refuses::These(ids.to_vec());
        self
    }

    /// A service that is up since 3000 ms, with workers 1 … N of generation 1.
    #[track_caller]
    pub fn up(policy: Policy) -> Script {
        let (workers, gate) = (policy.workers, policy.gate);
        let mut script = Script::new(policy);
        script.feed(Event::Start);
        for id in 1..=u64::from(workers) {
            script.feed(Event::Tick);
            script.feed(Event::Running(ChildId(id)));
        }
        script.now = at_ms(3000);
        for id in (1..=u64::from(workers)).filter(|_| gate == Gate::Report) {
            script.feed(Event::Ready(ChildId(id)));
        }
        script.feed(Event::Tick);
        let verdict = script.feed(Event::PromotionConfirmed);
        assert_eq!(verdict, [format!("live 1 {workers}/{workers}")]);
        assert_eq!(script.left(), "-");
        script
    }

    pub fn at(&mut self, ms: u64) -> &mut Script {
        assert!(at_ms(ms) >= self.now, "time does not go back to {ms}");
        self.now = at_ms(ms);
        self
    }

    pub fn step(&mut self, event: Event) -> Step<'_> {
        let told = format!("{event:?}");
        let did = self.feed(event);
        Step {
            script: self,
            event: told,
            did,
        }
    }

    /// Handles an event whose actions another test checks, and returns them.
    pub fn feed(&mut self, event: Event) -> Vec<String> {
        self.core.handle(self.now, event);
        let mut did = Vec::new();
        while let Some(it) = self.core.next_action() {
            did.push(action(&it));
            if let Action::Verdict(verdict) = &it {
                self.last_verdict = Some(verdict.clone());
            }
            if let Some((id, signal)) = sends(&it) {
                let result = self.kernel.send(id);
                let event = Event::Sent { id, signal, result };
                self.core.handle(self.now, event);
            }
        }
        self.seen.extend(did.iter().cloned());
        did
    }

    /// All actions since the beginning.
    pub fn seen(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.seen.iter().map(String::as_str)
    }

    /// Handles an event and returns the line of a script that checks what it led to.
    pub fn tell(&mut self, at: Instant, event: &Event) -> String {
        self.now = at;
        let (line, did) = (line(at, event), self.feed(event.clone()));
        format!("{line}.does({:?}, {:?});", did.join("; "), self.left())
    }

    fn left(&self) -> String {
        let next = self.core.next_deadline(self.now).map(show);
        match (self.core.awaits_confirmation(), next) {
            (true, None) => "confirm".into(),
            (true, Some(next)) => format!("confirm {next}"),
            (false, next) => next.unwrap_or("-".into()),
        }
    }

    pub fn start(&mut self) -> Step<'_> {
        self.step(Event::Start)
    }

    pub fn hup(&mut self) -> Step<'_> {
        self.step(Event::Reload(None))
    }

    pub fn reload(&mut self, style: Style) -> Step<'_> {
        self.step(Event::Reload(Some(style)))
    }

    pub fn rebound(&mut self) -> Step<'_> {
        self.step(Event::Rebound)
    }

    pub fn running(&mut self, id: u64) -> Step<'_> {
        self.step(Event::Running(ChildId(id)))
    }

    pub fn ready(&mut self, id: u64) -> Step<'_> {
        self.step(Event::Ready(ChildId(id)))
    }

    pub fn exits(&mut self, id: u64, status: i32) -> Step<'_> {
        self.step(Event::Gone(ChildId(id), End::Exited(status)))
    }

    pub fn killed(&mut self, id: u64, signal: i32) -> Step<'_> {
        let core_dumped = false;
        self.step(Event::Gone(
            ChildId(id),
            End::Signaled {
                signal,
                core_dumped,
            },
        ))
    }

    pub fn exec_fails(&mut self, id: u64, step: &str, errno: i32) -> Step<'_> {
        let step = step.to_string();
        self.step(Event::Gone(ChildId(id), End::Exec { step, errno }))
    }

    pub fn term(&mut self) -> Step<'_> {
        self.step(Event::Stop(15))
    }

    pub fn int(&mut self) -> Step<'_> {
        self.step(Event::Stop(2))
    }

    pub fn quit(&mut self) -> Step<'_> {
        self.step(Event::Quit)
    }

    pub fn lost(&mut self, id: u64) -> Step<'_> {
        self.step(Event::Lost(ChildId(id)))
    }

    pub fn resize(&mut self, workers: u32) -> Step<'_> {
        self.step(Event::Resize(workers))
    }

    pub fn tick(&mut self) -> Step<'_> {
        self.step(Event::Tick)
    }

    pub fn confirm(&mut self) -> Step<'_> {
        self.step(Event::PromotionConfirmed)
    }
}

/// An event as the line of a script, without the actions that follow.
fn line(at: Instant, event: &Event) -> String {
    let call = match event {
        Event::Start => "start()".into(),
        Event::Reload(None) => "hup()".into(),
        Event::Reload(Some(style)) => format!("reload(Style::{style:?})"),
        Event::Rebound => "rebound()".into(),
        Event::Running(id) => format!("running({})", id.0),
        Event::Ready(id) => format!("ready({})", id.0),
        Event::Gone(id, End::Exited(status)) => format!("exits({}, {status})", id.0),
        Event::Gone(id, End::Signaled { signal, .. }) => format!("killed({}, {signal})", id.0),
        Event::Gone(id, End::Exec { step, errno }) => {
            format!("exec_fails({}, {step:?}, {errno})", id.0)
        }
        Event::Gone(id, End::Untold) => format!("ends_untold({})", id.0),
        Event::Stop(2) => "int()".into(),
        Event::Stop(_) => "term()".into(),
        Event::Quit => "quit()".into(),
        Event::Sent { id, signal, result } => format!("sent({}, {signal}, {result:?})", id.0),
        Event::Lost(id) => format!("lost({})", id.0),
        Event::Resize(workers) => format!("resize({workers})"),
        Event::Tick => "tick()".into(),
        Event::PromotionConfirmed => "confirm()".into(),
    };
    format!("s.at({}).{call}", show(at))
}

/// The worker that an action signals, and the signal.
pub fn sends(action: &Action) -> Option<(ChildId, i32)> {
    match action {
        Action::Signal { id, signal } => Some((*id, *signal)),
        Action::Kill { id } => Some((*id, 9)),
        _ => None,
    }
}

/// A moment in milliseconds.
pub fn show(at: Instant) -> String {
    format!("{}", at.0 as f64 / 1e6)
}

pub fn action(action: &Action) -> String {
    match action {
        Action::Begin {
            generation,
            first: true,
        } => format!("begin {generation} first"),
        Action::Begin { generation, .. } => format!("begin {generation}"),
        Action::Spawn { id, generation, .. } => format!("spawn {} of {generation}", id.0),
        Action::Signal { id, signal } => format!("{} to {}", name(*signal), id.0),
        Action::Kill { id } => format!("KILL to {}", id.0),
        Action::GiveUp { id, why } => match why {
            GivenUp::Refused(_) => format!("giving up {}, refused", id.0),
            GivenUp::Survives => format!("giving up {}", id.0),
            GivenUp::Lost => format!("giving up {}, lost", id.0),
        },
        Action::CloseListeners => "close".into(),
        Action::Verdict(it) => verdict(it),
        Action::Note(it) => note(it),
        Action::Exit(status) => format!("exit {status}"),
    }
}

fn name(signal: i32) -> String {
    match signal {
        2 => "INT".into(),
        3 => "QUIT".into(),
        9 => "KILL".into(),
        12 => "USR2".into(),
        15 => "TERM".into(),
        other => other.to_string(),
    }
}

fn verdict(it: &Verdict) -> String {
    let outcome = match it.outcome {
        Outcome::Live => "live",
        Outcome::RolledBack => "rolled back",
        Outcome::HalfWay => "half-way",
        Outcome::Failed => "failed",
        Outcome::Superseded => "superseded",
        Outcome::Abandoned => "abandoned",
    };
    let (generation, ready, wanted) = (it.generation, it.ready, it.wanted);
    let mut text = format!("{outcome} {generation} {ready}/{wanted}");
    if let Some(it) = &it.failure {
        text += &format!(" ({})", failure(it));
    }
    if let Some(serving) = it.serving {
        text += &format!(" keeping {serving}");
    }
    if let Some(unreached) = it.unreached {
        text += &format!(" but {} unreached", unreached.workers);
    }
    text
}

fn failure(it: &Failure) -> String {
    let cause = match &it.cause {
        Cause::Ended(End::Exec { step, errno }) => format!("{step} {errno}"),
        Cause::Ended(End::Exited(status)) => format!("exited {status}"),
        Cause::Ended(End::Signaled { signal, .. }) => format!("killed {signal}"),
        Cause::Ended(End::Untold) => "untold".into(),
        Cause::Silent => "silent".into(),
        Cause::ExecHung => "hung".into(),
        Cause::NoRoom { wanted, capacity } => return format!("no room, {wanted} of {capacity}"),
    };
    let id = it.worker.map_or(0, |id| id.0);
    format!("{id} {cause} after {}", it.after.as_millis())
}

fn note(it: &Note) -> String {
    match it {
        Note::Ready { id } => format!("ready {}", id.0),
        Note::ReloadRemembered { again: false } => "remembered".into(),
        Note::ReloadRemembered { again: true } => "remembered again".into(),
        Note::ReloadRefused => "refused".into(),
        Note::ReboundAgain => "no second rebound".into(),
        Note::NobodyToQuit => "nobody to quit".into(),
        Note::Killed { id } => format!("killed {}", id.0),
        Note::Refused { id, refusal } => {
            let (signal, then) = (name(refusal.signal), refusal.then);
            format!("{signal} refused by {}, {then:?}", id.0)
        }
        Note::LeftAlone { id, .. } => format!("leaving {} alone", id.0),
        Note::Replacing { id, delay } => format!("replacing {} in {}", id.0, delay.as_millis()),
        Note::NotReplaced { id, ready } => format!("not replacing {}, {ready} ready", id.0),
        Note::ResizeRefused { wanted, capacity } => format!("no room for {wanted} of {capacity}"),
    }
}
