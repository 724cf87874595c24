//! What the log says of workers as a group: for whom a long wait waits, and who was starting or
//! stopping when a listener was harmed. It only reads the core and the processes.

use super::processes::Processes;
use crate::supervisor::{Instant, Phase, Supervisor};
use crate::text::counted;
use std::time::Duration;

/// While we wait for workers to be ready or to leave, the log says this often for whom.
const EVERY: Duration = Duration::from_secs(30);
/// At most so many suspects are named.
const MAX_SUSPECTS: usize = 8;

/// When a wait is to be said next.
#[derive(Debug, Default)]
pub struct Reminder(Option<Instant>);

impl Reminder {
    pub fn deadline(&self) -> Option<Instant> {
        self.0
    }

    /// The line that is due now; each wait is timed from its beginning.
    pub fn line(
        &mut self,
        now: Instant,
        core: &Supervisor,
        processes: &Processes,
    ) -> Option<String> {
        let coming = core.rolling_out();
        if !core.is_stopping() && coming.is_none() {
            self.0 = None;
            return None;
        }
        let due = *self.0.get_or_insert(now + EVERY);
        if due > now {
            return None;
        }
        self.0 = Some(now + EVERY);
        let mut pids = Vec::new();
        for (id, worker) in core.workers().iter() {
            if coming.is_none() || worker.is_unready() {
                pids.extend(processes.pid(id).map(|pid| pid.to_string()));
            }
        }
        let (workers, pids) = (counted(pids.len(), "worker"), pids.join(", "));
        Some(match coming {
            None => format!("waiting for {workers} to finish: {pids}"),
            Some(generation) if pids.is_empty() => {
                format!("generation {generation}: no worker is up, backing off")
            }
            Some(generation) => {
                format!("generation {generation}: waiting for {workers} to be ready: {pids}")
            }
        })
    }
}

/// Names the workers that are starting or stopping.
pub fn suspects(core: &Supervisor, processes: &Processes) -> String {
    let mut pids = Vec::new();
    for (id, worker) in core.workers().iter() {
        let verb = match worker.phase {
            Phase::Starting { .. } | Phase::Running { .. } => "starting",
            Phase::Ready { .. } => continue,
            Phase::Stopping { .. } | Phase::Killed { .. } => "stopping",
        };
        if pids.len() < MAX_SUSPECTS {
            pids.extend(processes.pid(id).map(|pid| format!("{pid} ({verb})")));
        }
    }
    match pids.is_empty() {
        true => " while no worker was starting or stopping".to_owned(),
        false => format!(" while these workers came or went: {}", pids.join(", ")),
    }
}
