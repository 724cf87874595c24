//! Who waits for what on the control socket, and what they are told meanwhile. It decides nothing
//! about workers, and sends nothing itself: it says which connection gets which answer.

use super::protocol::Answer;
use super::verdict::ReloadReport;
#[cfg(feature = "einhorn")]
use crate::einhorn::commands as einhorn;
use crate::supervisor::Outcome;
use crate::text::counted;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// At most so many clients may wait for something; the others have room beside them.
const MAX_WAITING: usize = 24;

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    Reload,
    /// The same, told in einhorn's words.
    #[cfg(feature = "einhorn")]
    Upgrade {
        smooth: bool,
    },
    /// Our own end.
    Exit,
}

/// A step of a reload.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "einhorn"), allow(dead_code))] // einhorn's clients are told more
pub enum ReloadStep {
    /// So many workers are to be started, while generation `live` serves.
    Begun {
        workers: u32,
        live: u64,
    },
    Started {
        pid: i32,
        index: u32,
    },
    /// The worker has lived for so many seconds, or with no `timer` has said that it is ready.
    Ready {
        pid: i32,
        timer: Option<f64>,
        ready: u32,
        wanted: u32,
    },
    /// A worker, perhaps an old one, is asked to stop.
    Asked {
        pid: i32,
        signal: i32,
        old: bool,
    },
    /// `left`: how many others are still there; 0 unless we stop.
    Gone {
        pid: i32,
        was_ready: bool,
        left: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiter {
    connection: u64,
    /// The id of its request.
    id: Option<Value>,
    wait_for: WaitFor,
    /// The generation of the reload that it waits for; `None`: that has not begun yet.
    generation: Option<u64>,
}

impl Waiter {
    /// With `wait`, more answers follow this one.
    fn answer(&self, wait: bool, message: impl Into<String>) -> (u64, Answer) {
        let answer = Answer {
            id: self.id.clone(),
            wait,
            ..Answer::new(message)
        };
        (self.connection, answer)
    }

    /// What it is told about a step on the way to what it waits for.
    fn words(&self, step: &ReloadStep) -> Vec<String> {
        match (self.wait_for, *step) {
            (WaitFor::Reload, ReloadStep::Begun { workers, .. }) => {
                let generation = self.generation.unwrap_or_default();
                let workers = counted(workers as usize, "worker");
                vec![format!("reload {generation}: starting {workers}")]
            }
            (WaitFor::Reload, ReloadStep::Ready { ready, wanted, .. }) => {
                vec![format!("{ready}/{wanted} ready")]
            }
            (WaitFor::Exit, ReloadStep::Gone { left, .. }) if left > 0 => {
                vec![format!("{} left", counted(left, "worker"))]
            }
            (WaitFor::Reload | WaitFor::Exit, _) => Vec::new(),
            #[cfg(feature = "einhorn")]
            (WaitFor::Upgrade { smooth }, step) => einhorn::upgrade_step(step, smooth),
        }
    }
}

/// All who wait, and how far the last reload is. What they are told is returned as answers, each
/// with its connection's number; one without `wait` is the last to its request.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiters {
    waiters: Vec<Waiter>,
    /// The last generation that began to come up.
    pub begun: u64,
    /// How many of its workers were said to be ready.
    ready: u32,
}

impl Waiters {
    /// No more clients may wait.
    pub fn is_crowded(&self) -> bool {
        self.waiters.len() >= MAX_WAITING
    }

    /// A client waits from now on for our end, or for the reload that begins next. The caller has
    /// seen that there is room.
    pub fn add(&mut self, connection: u64, id: Option<Value>, wait_for: WaitFor) {
        self.waiters.push(Waiter {
            connection,
            id,
            wait_for,
            generation: None,
        });
    }

    /// A connection is closed.
    pub fn forget(&mut self, connection: u64) {
        self.waiters
            .retain(|waiter| waiter.connection != connection);
    }

    /// A generation begins to come up. If it is a reload, it is what all those wait for whose reload
    /// had not begun.
    pub fn begin(&mut self, generation: u64, first: bool) {
        (self.begun, self.ready) = (generation, 0);
        if !first {
            for waiter in &mut self.waiters {
                waiter.generation.get_or_insert(generation);
            }
        }
    }

    /// One more worker of the generation that comes up is ready, of `tally` that are by now. Several
    /// may have become ready at once: they are told one after the other. Returns its number.
    pub fn count_ready(&mut self, tally: u32) -> u32 {
        self.ready += 1;
        self.ready.min(tally)
    }

    /// What those are told who wait for our end or for the generation that comes up, or came up last.
    pub fn progress(&self, step: &ReloadStep) -> Vec<(u64, Answer)> {
        let is_concerned =
            |it: &&Waiter| it.wait_for == WaitFor::Exit || it.generation == Some(self.begun);
        let mut answers = Vec::new();
        for waiter in self.waiters.iter().filter(is_concerned) {
            let lines = waiter.words(step).into_iter();
            answers.extend(lines.map(|text| waiter.answer(true, text)));
        }
        answers
    }

    /// A reload has its verdict, which is the last answer to those who waited for it.
    pub fn conclude(&mut self, report: &ReloadReport) -> Vec<(u64, Answer)> {
        // A remembered reload that a stop abandons has a number and never began.
        let bound = (report.generation <= self.begun).then_some(report.generation);
        let mut answers = Vec::new();
        self.waiters.retain_mut(|waiter| {
            if waiter.wait_for == WaitFor::Exit || waiter.generation != bound {
                return true;
            }
            let line = report.line();
            #[cfg(feature = "einhorn")]
            if matches!(waiter.wait_for, WaitFor::Upgrade { .. }) {
                match report.outcome {
                    Outcome::Superseded => {
                        // What begins now is newer still: their upgrade is done when that is.
                        waiter.generation = None;
                        answers.push(waiter.answer(true, line));
                        return true;
                    }
                    Outcome::Live => {
                        let version = report.generation.saturating_sub(1);
                        answers.push(waiter.answer(true, einhorn::upgraded(version)));
                        answers.push(waiter.answer(false, einhorn::UPGRADE_DONE));
                    }
                    _ => answers.push(waiter.answer(false, einhorn::upgrade_failed(&line))),
                }
                return false;
            }
            let (connection, answer) = waiter.answer(false, line);
            let verdict = Some(json!(report));
            answers.push((connection, Answer { verdict, ..answer }));
            false
        });
        answers
    }

    /// We end, and this is the last answer to everybody.
    pub fn conclude_all(&mut self, text: &str) -> Vec<(u64, Answer)> {
        let waiters = std::mem::take(&mut self.waiters);
        let last = |waiter: &Waiter| {
            let (connection, answer) = waiter.answer(false, text);
            let abandoned = json!({"outcome": Outcome::Abandoned});
            let verdict = (waiter.wait_for != WaitFor::Exit).then_some(abandoned);
            (connection, Answer { verdict, ..answer })
        };
        waiters.iter().map(last).collect()
    }
}

#[cfg(test)]
mod tests;
