//! Each system call that the program makes while it starts, reloads, replaces a dead worker and
//! stops is made to fail: each of the first ones alone, and all of them. A start then fails with
//! its reason and leaves nothing; everything else goes on. `SOCKETMASTER_FAULTS=all` does it all
//! and writes tests/faults/table.txt (some minutes); `SOCKETMASTER_FAULTS=TEXT` does the cases
//! whose names contain it; otherwise some are chosen, by `SOCKETMASTER_FAULTS_SEED`.

mod common;

#[path = "faults/cases.rs"]
mod cases;
#[path = "faults/trial.rs"]
mod trial;

use cases::{Case, Which};
use common::strace::strace_or_skip;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use trial::{Gate, Phase, Trial};

/// As many as are done in a minute.
const SOME: usize = 80;
const BROKEN: &str = "BROKEN";
const HEAD: &str = "\
# What comes of it when a system call fails: the phase and the gate, the call, its error, which of\n\
# the calls in the phase (one alone, or all), and the outcome. Written by SOCKETMASTER_FAULTS=all (tests/faults.rs).\n";
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/table.txt");

#[test]
fn a_system_call_that_fails_stops_a_start_with_its_reason_and_nothing_else() {
    if !strace_or_skip() {
        return;
    }
    let mut cases = Vec::new();
    for phase in [Phase::Start, Phase::Reload, Phase::Death, Phase::Stop] {
        for gate in [Gate::Notify, Gate::Timer] {
            match cases::of(phase, gate) {
                Some(some) => cases.extend(some),
                None => return common::skip("strace may not attach here"),
            }
        }
    }
    let wanted = std::env::var("SOCKETMASTER_FAULTS").unwrap_or_default();
    let all = cases.len();
    let cases = choose(cases, &wanted);
    eprintln!("{} of {all} faults", cases.len());
    let outcomes = prove(cases);
    if wanted == "all" {
        fs::write(TABLE, table(&outcomes)).expect("the table can be written");
    }
    let broken: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome == BROKEN)
        .map(|(case, _)| case.to_string())
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn choose(mut cases: Vec<Case>, wanted: &str) -> Vec<Case> {
    if wanted == "all" {
        return cases;
    }
    if !wanted.is_empty() {
        cases.retain(|case| {
            let name = case.to_string();
            wanted
                .split(',')
                .any(|words| words.split('+').all(|word| name.contains(word)))
        });
        return cases;
    }
    let seed = std::env::var("SOCKETMASTER_FAULTS_SEED").unwrap_or_default();
    cases.sort_by_cached_key(|case| {
        let mut hasher = DefaultHasher::new();
        (&seed, case.to_string()).hash(&mut hasher);
        hasher.finish()
    });
    cases.truncate(SOME);
    cases.sort();
    cases
}

/// Two at a time: what came of each.
fn prove(cases: Vec<Case>) -> Vec<(Case, String)> {
    let left = Mutex::new(cases.into_iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("nobody panics with it").next();
                    let Some(case) = next else { return };
                    let proof =
                        catch_unwind(AssertUnwindSafe(|| Trial::new(case.gate).prove(&case)));
                    let outcome = proof.unwrap_or_else(|_| match case.known() {
                        Some(reason) => format!("known: {reason}"),
                        None => BROKEN.to_owned(),
                    });
                    eprintln!("{case} {outcome}");
                    let mut done = done.lock().expect("nobody panics with it");
                    done.push((case, outcome));
                }
            });
        }
    });
    let mut outcomes = done.into_inner().expect("nobody panics with it");
    outcomes.sort();
    outcomes
}

/// Phase and gate, call, error and outcome.
type Row<'a> = (String, String, &'a str, String);

/// A line for each call, error and outcome, with the numbers of the calls that had it.
fn table(outcomes: &[(Case, String)]) -> String {
    let mut rows: Vec<(Row, Vec<String>)> = Vec::new();
    for (case, outcome) in outcomes {
        let which = match case.which {
            Which::Nth(n) => n.to_string(),
            Which::All => "all".to_owned(),
        };
        let row = (
            case.setting(),
            case.call.clone(),
            case.error,
            outcome.clone(),
        );
        match rows.iter_mut().find(|(other, _)| *other == row) {
            Some((_, numbers)) => numbers.push(which),
            None => rows.push((row, vec![which])),
        }
    }
    let mut text = String::from(HEAD);
    for ((setting, call, error, outcome), numbers) in rows {
        let numbers = numbers.join(" ");
        text += &format!("{setting:<13} {call:<17} {error:<12} {numbers:<22} {outcome}\n");
    }
    text
}
