//! The core in random worlds: workers that start, hang, speak, crash and ignore us, people who
//! reload, resize and stop at any moment. After each event a witness that keeps its own books says
//! whether a promise was broken; the events before an objection are reduced to a short script.
//! Now and then the whole state is written as JSON and read back, and the copy goes on.
//!
//! `SOCKETMASTER_SIM_EVENTS` sets how many events there are, `SOCKETMASTER_SIM_SEED` the first
//! seed.

mod books;
mod chance;
mod promises;
mod witness;
mod world;

use super::kernel::Refuses;
use super::script::Script;
use crate::supervisor::{Event, Instant, Policy};
use chance::Chance;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use witness::Witness;
use world::World;

/// The events that the core handled, and when.
type History = Vec<(Instant, Event)>;

/// How often each outcome was seen.
type Seen = BTreeMap<String, u64>;

#[test]
fn a_million_random_events_break_no_promise() {
    let events = from_environment("SOCKETMASTER_SIM_EVENTS", 1_000_000);
    let mut seed = from_environment("SOCKETMASTER_SIM_SEED", 1);
    let (mut told, mut seen) = (0, Seen::new());
    while told < events {
        let (setting, life) = live_through(seed, &mut seen);
        match life {
            Ok(events) => told += events,
            Err((story, objection)) => panic!("{}", report(seed, &setting, story, &objection)),
        }
        seed += 1;
    }
    println!("{told} events in {} lives, {seen:?}", seed - 1);
    covers_all_outcomes(&seen, told);
}

/// A simulation in which an outcome never happens proves nothing about it.
fn covers_all_outcomes(seen: &Seen, told: u64) {
    for outcome in [
        "Live",
        "RolledBack",
        "HalfWay",
        "Failed",
        "Superseded",
        "Abandoned",
        "GivenUp",
        "Unreached",
    ] {
        let times = seen.get(outcome).copied().unwrap_or(0);
        assert!(times >= told / 10_000, "{outcome} only {times} times");
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |it| it.parse().expect("a number"))
}

/// The configuration and the kernel of one life.
#[derive(Debug, Clone)]
struct Setting {
    policy: Policy,
    refuses: Refuses,
    /// Of every 500 events, the one at which the state is written and read back.
    copied_at: u64,
}

/// Simulates one life from the start to the exit. Returns the number of its events, or what went
/// wrong.
fn live_through(seed: u64, seen: &mut Seen) -> (Setting, Result<u64, (History, String)>) {
    let mut chance = Chance::new(seed);
    let setting = Setting {
        policy: world::policy(&mut chance),
        refuses: world::refuses(&mut chance),
        copied_at: seed % 500,
    };
    let mut told = History::new();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(&setting, chance, &mut told);
        let lived = world.live();
        world.add_to(seen);
        lived
    }));
    let objection = match lived {
        Ok(Ok(())) => return (setting, Ok(told.len() as u64)),
        Ok(Err(objection)) => objection,
        Err(_) => "panic".into(),
    };
    (setting, Err((told, objection)))
}

/// The witness's objection when the events of `told` happen and everybody behaves well after that.
fn objection(setting: &Setting, told: &History) -> Option<String> {
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut witness = Witness::new(setting);
        for (at, event) in told {
            witness.tell(*at, event.clone())?;
        }
        world::come_to_an_end(&mut witness, &mut History::new())
    }));
    match lived {
        Ok(result) => result.err(),
        Err(_) => Some("panic".into()),
    }
}

/// Drops events as long as the witness still objects to the remaining ones.
fn shrink(setting: &Setting, mut told: History) -> History {
    let mut chunk = told.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        let mut shrunk = false;
        while at < told.len() {
            let mut shorter = told.clone();
            shorter.drain(at..(at + chunk).min(told.len()));
            if objection(setting, &shorter).is_some() {
                told = shorter;
                shrunk = true;
            } else {
                at += chunk;
            }
        }
        chunk = if shrunk && chunk == 1 { 1 } else { chunk / 2 };
    }
    told
}

fn report(seed: u64, setting: &Setting, told: History, first: &str) -> String {
    let told = shrink(setting, told);
    let objection = objection(setting, &told).unwrap_or("cannot be replayed".into());
    let mut script = Script::under(setting.policy.clone(), setting.refuses.clone());
    let lines: Vec<_> = told.iter().map(|(at, it)| script.tell(*at, it)).collect();
    let script = lines.join("\n");
    format!("seed {seed}: {first}\n{setting:?}\n{script}\nthen: {objection}")
}
