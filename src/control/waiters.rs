//! Who waits for what on the control socket, and what they are told meanwhile. It decides nothing
//! about workers, and sends nothing itself: it says which connection gets which answer.

use super::protocol::Answer;
use super::verdict::ReloadReport;
#[cfg(feature = "einhorn")]
use crate::einhorn::commands as einhorn;
use crate::supervisor::Outcome;
use crate::text::counted;
#[cfg(feature = "einhorn")]
use crate::text::signal_name;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// At most so many clients may wait for something; the others have room beside them.
const MAX_WAITING: usize = 24;

/// What a client waits for. A reload that has not begun yet has no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    Reload {
        generation: Option<u64>,
    },
    /// The same, told in einhorn's words.
    #[cfg(feature = "einhorn")]
    Upgrade {
        generation: Option<u64>,
        smooth: bool,
    },
    /// Our own end.
    Exit,
}

impl WaitFor {
    fn generation(&mut self) -> Option<&mut Option<u64>> {
        match self {
            WaitFor::Reload { generation } => Some(generation),
            #[cfg(feature = "einhorn")]
            WaitFor::Upgrade { generation, .. } => Some(generation),
            WaitFor::Exit => None,
        }
    }

    fn is_for(mut self, reload: Option<u64>) -> bool {
        self.generation().is_some_and(|bound| *bound == reload)
    }

    /// What a client that waits for this is told about a step on the way there.
    fn words(self, step: &ReloadStep) -> Vec<String> {
        match self {
            WaitFor::Reload { generation } => {
                let generation = generation.unwrap_or_default();
                match *step {
                    ReloadStep::Begun { workers, .. } => {
                        let workers = counted(workers as usize, "worker");
                        vec![format!("reload {generation}: starting {workers}")]
                    }
                    ReloadStep::Ready { ready, wanted, .. } => {
                        vec![format!("{ready}/{wanted} ready")]
                    }
                    _ => Vec::new(),
                }
            }
            #[cfg(feature = "einhorn")]
            WaitFor::Upgrade { smooth, .. } => match *step {
                ReloadStep::Begun { live, .. } => {
                    vec![einhorn::upgrade_starts(smooth, live.saturating_sub(1))]
                }
                ReloadStep::Started { pid, index } => vec![einhorn::launched(pid, index)],
                ReloadStep::Ready {
                    pid,
                    timer,
                    ready,
                    wanted,
                } => einhorn::acked(pid, timer, ready, wanted).to_vec(),
                ReloadStep::Asked { pid, signal, old } => {
                    let culling = (smooth && old).then(|| einhorn::culling(1));
                    let sending = einhorn::sending(&signal_name(signal), pid);
                    culling.into_iter().chain([sending]).collect()
                }
                ReloadStep::Gone { pid, was_ready } => vec![einhorn::exited(pid, was_ready)],
            },
            WaitFor::Exit => Vec::new(),
        }
    }
}

/// A step of a reload.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "einhorn"),
    allow(dead_code, reason = "einhorn's clients are told more")
)]
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
    Gone {
        pid: i32,
        was_ready: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiter {
    connection: u64,
    /// The id of its request.
    id: Option<Value>,
    wait_for: WaitFor,
}

/// One answer for one of those who wait.
#[derive(Debug, Clone, PartialEq)]
pub struct WaiterMessage {
    pub connection: u64,
    id: Option<Value>,
    text: String,
    /// It is the last answer to its request.
    pub is_last: bool,
    verdict: Option<Value>,
}

impl WaiterMessage {
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            message: &self.text,
            id: self.id.as_ref(),
            wait: !self.is_last,
            verdict: self.verdict.as_ref(),
            ..Answer::default()
        }
    }
}

/// All who wait, and how far the last reload is.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiters {
    waiters: Vec<Waiter>,
    /// The last generation that began to come up.
    begun: u64,
    /// How many of its workers were said to be ready.
    ready: u32,
}

impl Waiters {
    /// No more clients may wait.
    pub fn is_crowded(&self) -> bool {
        self.waiters.len() >= MAX_WAITING
    }

    /// The last generation that began to come up.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// A client waits from now on. The caller has seen that there is room.
    pub fn add(&mut self, connection: u64, id: Option<Value>, wait_for: WaitFor) {
        self.waiters.push(Waiter {
            connection,
            id,
            wait_for,
        });
    }

    /// A connection is closed.
    pub fn forget(&mut self, connection: u64) {
        self.waiters
            .retain(|waiter| waiter.connection != connection);
    }

    /// A generation begins to come up. If it is a reload, it is what all those wait for that have
    /// none yet.
    pub fn begin(&mut self, generation: u64, first: bool, step: &ReloadStep) -> Vec<WaiterMessage> {
        (self.begun, self.ready) = (generation, 0);
        if first {
            return Vec::new();
        }
        for waiter in &mut self.waiters {
            if let Some(bound) = waiter.wait_for.generation() {
                bound.get_or_insert(generation);
            }
        }
        self.progress(generation, step)
    }

    /// One more worker of the generation that comes up is ready, of `tally` that are by now. Several
    /// may have become ready at once: they are told one after the other. Returns its number.
    pub fn count_ready(&mut self, tally: u32) -> u32 {
        self.ready += 1;
        self.ready.min(tally)
    }

    /// What those are told who wait for this generation.
    pub fn progress(&self, generation: u64, step: &ReloadStep) -> Vec<WaiterMessage> {
        let mut messages = Vec::new();
        let concerned = |waiter: &&Waiter| waiter.wait_for.is_for(Some(generation));
        for waiter in self.waiters.iter().filter(concerned) {
            let words = waiter.wait_for.words(step).into_iter();
            messages.extend(words.map(|text| message(waiter, text, false, None)));
        }
        messages
    }

    /// Workers are still there while we stop.
    pub fn workers_left(&self, count: usize) -> Vec<WaiterMessage> {
        let text = format!("{} left", counted(count, "worker"));
        let all = self.waiters.iter();
        let concerned = all.filter(|waiter| waiter.wait_for == WaitFor::Exit);
        concerned
            .map(|waiter| message(waiter, text.clone(), false, None))
            .collect()
    }

    /// A reload has its verdict, which is the last answer to those who waited for it.
    pub fn conclude(&mut self, report: &ReloadReport) -> Vec<WaiterMessage> {
        // A remembered reload that a stop abandons has a number and never began.
        let bound = (report.generation <= self.begun).then_some(report.generation);
        let mut messages = Vec::new();
        self.waiters.retain_mut(|waiter| {
            if !waiter.wait_for.is_for(bound) {
                return true;
            }
            let line = report.line();
            match &mut waiter.wait_for {
                #[cfg(feature = "einhorn")]
                WaitFor::Upgrade { generation, .. } => match report.outcome {
                    Outcome::Superseded => {
                        // What begins now is newer still: their upgrade is done when that is.
                        *generation = None;
                        messages.push(message(waiter, line, false, None));
                        return true;
                    }
                    Outcome::Live => {
                        let upgraded = einhorn::upgraded(report.generation.saturating_sub(1));
                        let done = einhorn::UPGRADE_DONE.to_owned();
                        messages.push(message(waiter, upgraded, false, None));
                        messages.push(message(waiter, done, true, None));
                    }
                    _ => {
                        let failed = einhorn::upgrade_failed(&line);
                        messages.push(message(waiter, failed, true, None));
                    }
                },
                _ => messages.push(message(waiter, line, true, Some(json!(report)))),
            }
            false
        });
        messages
    }

    /// We end, and this is the last answer to everybody.
    pub fn conclude_all(&mut self, text: &str) -> Vec<WaiterMessage> {
        let waiters = std::mem::take(&mut self.waiters);
        let last = |waiter: &Waiter| {
            let abandoned = json!({"outcome": Outcome::Abandoned});
            let verdict = (waiter.wait_for != WaitFor::Exit).then_some(abandoned);
            message(waiter, text.to_owned(), true, verdict)
        };
        waiters.iter().map(last).collect()
    }
}

fn message(waiter: &Waiter, text: String, is_last: bool, verdict: Option<Value>) -> WaiterMessage {
    WaiterMessage {
        connection: waiter.connection,
        id: waiter.id.clone(),
        text,
        is_last,
        verdict,
    }
}

#[cfg(test)]
mod tests;
