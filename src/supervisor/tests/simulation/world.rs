//! The world around the core: what workers and people do, in a random order, and an end in which
//! everybody behaves well.

use super::{History, Seen, Setting, chance::Chance, witness::Witness};
use crate::supervisor::tests::kernel::Refuses;
use crate::supervisor::{ChildId, End, Event, Gate, Instant, Pace, Phase, Policy, Style};
use std::time::Duration;

/// After this many turns in which everybody behaves well, nothing may be under way.
const PATIENCE: u32 = 2000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn policy(chance: &mut Chance) -> Policy {
    let workers = chance.one_of(&[1, 1, 1, 2, 2, 3, 4, 9]);
    Policy {
        workers,
        max_extra: chance.one_of(&[None, None, Some(1), Some(2), Some(workers)]),
        style: chance.one_of(&[None, None, None, Some(Style::Fleet), Some(Style::Rolling)]),
        gate: chance.one_of(&[Gate::Timer, Gate::Report]),
        start: ms(chance.one_of(&[0, 100, 3000, 3000])),
        stop: chance.one_of(&[None, Some(ms(200)), Some(ms(5000))]),
        stop_signal: chance.one_of(&[15, 3, 12]),
        respawn: chance.permille(500),
        pace: Some(Pace {
            interval: ms(chance.one_of(&[0, 1000])),
            max_unready: chance.one_of(&[0, 1, 2]),
        })
        .filter(|_| chance.permille(200)),
        capacity: chance.one_of(&[1000, 1000, 1000, 12]),
    }
}

/// Which signals the kernel refuses: in most worlds none.
pub fn refuses(chance: &mut Chance) -> Refuses {
    let rare = chance.one_of(&[0, 1, 2]);
    match (chance.permille(200), rare) {
        (false, _) => Refuses::Nothing,
        (true, 0) => Refuses::Everything,
        (true, 1) => Refuses::EveryThirdWorker,
        (true, _) => Refuses::TheFirst,
    }
}

/// How often each event happens, per thousand steps of a worker's life.
struct Temper {
    crash: u64,
    exec_fails: u64,
    silent: u64,
    busy: u64,
}

pub struct World<'a> {
    chance: Chance,
    witness: Witness,
    told: &'a mut History,
    now: Instant,
    temper: Temper,
}

type Result = std::result::Result<(), String>;

impl<'a> World<'a> {
    pub fn new(setting: &Setting, mut chance: Chance, told: &'a mut History) -> World<'a> {
        let temper = Temper {
            crash: chance.one_of(&[0, 0, 2, 5, 30, 200]),
            exec_fails: chance.one_of(&[0, 0, 0, 20, 200, 900]),
            silent: chance.one_of(&[0, 0, 100, 500]),
            busy: chance.one_of(&[20, 60, 200]),
        };
        World {
            chance,
            witness: Witness::new(setting),
            told,
            now: Instant(1_000_000),
            temper,
        }
    }

    pub fn live(&mut self) -> Result {
        if self.chance.permille(50) {
            self.people()?; // before anything was started
        }
        self.tell(Event::Start)?;
        for _ in 0..self.chance.one_of(&[20, 60, 150, 300]) {
            self.turn()?;
            if self.witness.has_exited() && self.chance.permille(200) {
                break;
            }
        }
        come_to_an_end(&mut self.witness, self.told)
    }

    /// Adds the outcomes of this world to `seen`.
    pub fn add_to(&self, seen: &mut Seen) {
        for (what, times) in &self.witness.seen {
            *seen.entry(what.clone()).or_default() += times;
        }
    }

    fn tell(&mut self, event: Event) -> Result {
        self.told.push((self.now, event.clone()));
        self.witness.tell(self.now, event)
    }

    /// What the loop does between two polls.
    fn turn(&mut self) -> Result {
        self.time_passes();
        let deeds = 4 + 2 * u64::from(self.witness.policy().workers);
        for _ in 0..self.chance.below(deeds) {
            self.workers_act()?;
        }
        if self.chance.permille(self.temper.busy) {
            self.people()?;
        }
        if self.chance.permille(5) {
            return self.nonsense();
        }
        self.tell(Event::Tick)?;
        let mut looks = 0;
        while self.witness.core.awaits_confirmation() {
            looks += 1;
            if looks > 100 {
                return Err("the confirmations never end".into());
            }
            let event = match self.chance.permille(50) {
                true => self.a_death().unwrap_or(Event::PromotionConfirmed),
                false => Event::PromotionConfirmed,
            };
            self.tell(event)?;
        }
        Ok(())
    }

    fn time_passes(&mut self) {
        let next = self.witness.core.next_deadline(self.now);
        self.now = match (self.chance.below(10), next) {
            (0..=4, Some(next)) => in_whole_ms(next.max(self.now)),
            (5, _) => self.now + ms(self.chance.below(40_000)),
            (6, _) => self.now,
            _ => self.now + ms(self.chance.below(50)),
        };
    }

    fn workers_act(&mut self) -> Result {
        let ids = self.witness.core.workers().ids();
        if ids.is_empty() {
            return Ok(());
        }
        let id = self.chance.one_of(&ids);
        match self.deed(id) {
            Some(event) => self.tell(event),
            None => Ok(()),
        }
    }

    /// What this worker does next, if anything.
    fn deed(&mut self, id: ChildId) -> Option<Event> {
        let worker = self.witness.core.workers().find(id)?;
        let (phase, is_stopping) = (worker.phase, worker.is_stopping());
        let (crash, silent) = (self.temper.crash, self.temper.silent);
        let is_stubborn = (id.0 % 7 == 0) && self.witness.policy().stop.is_some();
        match phase {
            Phase::Starting { .. } if self.chance.permille(self.temper.exec_fails) => {
                let errno = self.chance.one_of(&[2, 13]);
                let step = "executing".into();
                Some(Event::Gone(id, End::Exec { step, errno }))
            }
            Phase::Starting { .. } if self.chance.permille(30) => Some(Event::Ready(id)),
            Phase::Starting { .. } if id.0 % 11 == 0 && silent > 0 => None, // hangs
            Phase::Starting { .. } => Some(Event::Running(id)),
            _ if is_stopping && is_unbreakable(id) => None,
            _ if is_stopping && self.witness.was_killed(id) => Some(killed(id, 9)),
            _ if is_stopping && self.witness.is_unreached(id) => match self.chance.below(50) {
                0 => Some(self.end_of(id)),
                _ => None,
            },
            _ if is_stopping && is_stubborn => None,
            Phase::Stopping { .. } | Phase::Killed { .. } => match self.chance.below(4) {
                0 => Some(Event::Ready(id)),
                1 => Some(Event::Running(id)),
                _ => Some(self.end_of(id)),
            },
            _ if self.chance.permille(crash) => Some(self.end_of(id)),
            Phase::Running { .. } if self.chance.permille(silent) => None,
            _ if self.witness.was_told_to_quit(id) && self.chance.permille(300) => {
                Some(self.chance.one_of(&[true, false])).map(|by_exit| match by_exit {
                    true => Event::Gone(id, End::Exited(0)),
                    false => killed(id, 3),
                })
            }
            Phase::Running { .. } | Phase::Ready { .. } => Some(Event::Ready(id)),
        }
    }

    fn end_of(&mut self, id: ChildId) -> Event {
        match self.chance.below(4) {
            0 => Event::Gone(id, End::Exited(0)),
            1 => killed(id, 11),
            _ => Event::Gone(id, End::Exited(1 + (id.0 % 5) as i32)),
        }
    }

    fn a_death(&mut self) -> Option<Event> {
        let id = self.anybody()?;
        Some(self.end_of(id))
    }

    fn anybody(&mut self) -> Option<ChildId> {
        let ids = self.witness.core.workers().ids();
        (!ids.is_empty()).then(|| self.chance.one_of(&ids))
    }

    fn people(&mut self) -> Result {
        let event = match self.chance.below(100) {
            0..=59 => Event::Reload(None),
            60..=69 => Event::Reload(Some(Style::Fleet)),
            70..=79 => Event::Reload(Some(Style::Rolling)),
            80..=84 => Event::Rebound,
            85..=91 => Event::Resize(self.chance.below(7) as u32),
            92 => Event::Resize(2000),
            93..=95 => Event::Quit,
            _ => Event::Stop(self.chance.one_of(&[2, 15])),
        };
        self.tell(event)
    }

    /// An event that the loop would not send, or not now.
    fn nonsense(&mut self) -> Result {
        let id = ChildId(self.chance.below(2000));
        let stranger = self.witness.core.workers().find(id).is_none();
        let event = match self.chance.below(7) {
            0 => Event::PromotionConfirmed,
            6 => Event::Lost(self.anybody().unwrap_or(id)),
            1 => Event::Start,
            2 => Event::Running(id),
            3 if stranger => Event::Gone(id, End::Exited(9)),
            4 if stranger => Event::Ready(id),
            _ => Event::Resize(0),
        };
        self.tell(event)
    }
}

fn killed(id: ChildId, signal: i32) -> Event {
    let core_dumped = false;
    Event::Gone(
        id,
        End::Signaled {
            signal,
            core_dumped,
        },
    )
}

/// Whether the worker is in a sleep that not even SIGKILL interrupts.
fn is_unbreakable(id: ChildId) -> bool {
    id.0 % 23 == 0
}

fn in_whole_ms(at: Instant) -> Instant {
    Instant(at.0.div_ceil(1_000_000) * 1_000_000)
}

/// From here on everybody behaves well: what was under way ends, then a stop ends everything.
pub fn come_to_an_end(witness: &mut Witness, told: &mut History) -> Result {
    let mut now = witness.now();
    if !witness.has_exited() {
        tell(witness, told, now, Event::Start)?;
    }
    for turn in 0.. {
        if turn > PATIENCE {
            return Err("it does not come to rest though everybody behaves".into());
        }
        let is_quiet = behave(witness, told, now)?;
        match witness.core.next_deadline(now) {
            Some(next) => now = in_whole_ms(next.max(now)),
            None if is_quiet => break,
            None => {}
        }
    }
    witness.is_at_rest()?;
    tell(witness, told, now, Event::Stop(15))?;
    tell(witness, told, now, Event::Stop(15))?;
    for id in witness.core.workers().ids() {
        now = now + ms(1);
        if !is_unbreakable(id) && !witness.is_unreached(id) {
            tell(witness, told, now, Event::Gone(id, End::Exited(0)))?;
        }
    }
    tell(witness, told, now, Event::Tick)?;
    let stop = witness.policy().stop;
    if stop.is_none() {
        // Without a limit, only workers that were asked and not killed may take for ever.
        for id in witness.core.workers().ids() {
            if !witness.is_unreached(id) && !witness.was_killed(id) {
                tell(witness, told, now, Event::Gone(id, End::Exited(0)))?;
            }
        }
    }
    let limit = now + stop.unwrap_or_default() + Duration::from_secs(22);
    while let Some(next) = witness
        .core
        .next_deadline(now)
        .filter(|_| !witness.has_exited())
    {
        now = in_whole_ms(next.max(now));
        if now > limit {
            return Err("the stop does not end".into());
        }
        tell(witness, told, now, Event::Tick)?;
        for id in witness.core.workers().ids() {
            let ends = !is_unbreakable(id) && !witness.is_unreached(id);
            if ends {
                tell(witness, told, now, Event::Gone(id, End::Exited(0)))?;
            }
        }
    }
    witness.has_ended()
}

fn tell(witness: &mut Witness, told: &mut History, now: Instant, event: Event) -> Result {
    told.push((now, event.clone()));
    witness.tell(now, event)
}

/// A turn in which each worker does what it should. Returns whether there was nothing to do.
fn behave(
    witness: &mut Witness,
    told: &mut History,
    now: Instant,
) -> std::result::Result<bool, String> {
    let mut is_quiet = true;
    for id in witness.core.workers().ids() {
        let Some(worker) = witness.core.workers().find(id) else {
            continue;
        };
        let deed = match worker.phase {
            Phase::Starting { .. } => Event::Running(id),
            Phase::Running { .. } if witness.policy().gate == Gate::Report => Event::Ready(id),
            _ if is_unbreakable(id) || witness.is_unreached(id) => continue,
            Phase::Stopping { .. } | Phase::Killed { .. } => Event::Gone(id, End::Exited(0)),
            _ => continue,
        };
        is_quiet = false;
        tell(witness, told, now, deed)?;
    }
    tell(witness, told, now, Event::Tick)?;
    for look in 0.. {
        if look > 100 {
            return Err("the confirmations never end".into());
        }
        if !witness.core.awaits_confirmation() {
            break;
        }
        is_quiet = false;
        tell(witness, told, now, Event::PromotionConfirmed)?;
    }
    Ok(is_quiet)
}
