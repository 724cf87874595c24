//! One look at everything: a table for a person's screen, one JSON object for programs. A `Status`
//! is what the core and the daemon knew at one moment; it is never kept.

use super::commands::View;
use super::server::ControlState;
use super::verdict::ReloadReport;
use crate::supervisor::{Phase, Supervisor};
use crate::text::{counted, duration_text, errno_text, printable_lines};
use serde::Serialize;
use std::time::Duration;

/// The object of `status -json`: the names and the order of its fields are a promise. Durations are
/// in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    version: &'static str,
    pid: u32,
    uptime_ms: u64,
    command: String,
    workers_wanted: u32,
    live_generation: u64,
    reload_generation: Option<u64>,
    reload_pending: bool,
    stopping: bool,
    sockets: Vec<SocketStatus>,
    generations: Vec<GenerationStatus>,
    workers: Vec<WorkerStatus>,
    /// When those who died are replaced, from now on.
    replacements_due_ms: Vec<u64>,
    last_verdict: Option<LastVerdict>,
    /// The line for `systemctl status`, without the last verdict.
    #[serde(skip)]
    pub summary: String,
}

#[derive(Debug, Clone, Serialize)]
struct SocketStatus {
    /// What `-listen` said.
    uri: String,
    /// The address that it is bound to.
    address: String,
    name: String,
    /// How many clients wait, and how many may.
    queue: Option<u32>,
    backlog: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct GenerationStatus {
    generation: u64,
    starting: u32,
    ready: u32,
    stopping: u32,
}

#[derive(Debug, Clone, Serialize)]
struct WorkerStatus {
    pid: Option<i32>,
    generation: u64,
    index: u32,
    state: &'static str,
    age_ms: u64,
    restarts: u32,
    /// What it says of itself.
    status: Option<String>,
    cannot_be_signalled: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct LastVerdict {
    #[serde(flatten)]
    report: ReloadReport,
    ago_ms: u64,
}

impl Status {
    pub fn new(state: &ControlState, view: &View) -> Status {
        let (core, now) = (view.core, view.now);
        let generations = core.workers().generations();
        let generations = generations.map(|(generation, tally)| GenerationStatus {
            generation,
            starting: tally.unready,
            ready: tally.ready,
            stopping: tally.stopping,
        });
        let workers = core.workers().iter().map(|(id, worker)| WorkerStatus {
            pid: view.pid(id),
            generation: worker.generation,
            index: worker.index,
            state: match worker.phase {
                Phase::Starting { .. } => "starting",
                Phase::Running { .. } => "running",
                Phase::Ready { .. } => "ready",
                Phase::Stopping { .. } | Phase::Killed { .. } => "stopping",
            },
            age_ms: millis(worker.age(now)),
            restarts: worker.restarts,
            status: view.processes.get(&id).and_then(|it| it.status.clone()),
            cannot_be_signalled: worker.refusal.map(|refusal| errno_text(refusal.errno)),
        });
        let sockets = view.listeners.iter().map(|listener| {
            let (queue, backlog) = listener.queue().unzip();
            SocketStatus {
                uri: listener.uri.to_string(),
                address: listener.address(),
                name: listener.name.to_owned(),
                queue,
                backlog,
            }
        });
        let last_verdict = state.last_verdict.as_ref();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: state.pid,
            uptime_ms: millis(now - state.began),
            command: view.config.command.to_string_lossy().into_owned(),
            workers_wanted: core.policy().workers,
            live_generation: core.live_generation(),
            reload_generation: core.rolling_out(),
            reload_pending: core.has_pending_reload(),
            stopping: core.is_stopping(),
            sockets: sockets.collect(),
            generations: generations.collect(),
            workers: workers.collect(),
            replacements_due_ms: core.backoffs().map(|due| millis(due - now)).collect(),
            last_verdict: last_verdict.map(|(report, at)| LastVerdict {
                report: report.clone(),
                ago_ms: millis(now - *at),
            }),
            summary: summary(core, ""),
        }
    }

    /// For people: each line ends with a newline, and what workers wrote is escaped.
    pub fn table(&self) -> String {
        let (version, pid, command) = (self.version, self.pid, &self.command);
        let up = ms_text(self.uptime_ms);
        let mut text = format!("socketmaster {version} (pid {pid}), up {up}, runs {command}\n");
        text += &format!("{}\n", self.summary);
        if let Some(LastVerdict { report, ago_ms }) = &self.last_verdict {
            text += &format!("{} ago: {}\n", ms_text(*ago_ms), report.text);
            for line in &report.lines {
                text += &format!("  | {}\n", printable_lines(line));
            }
        }
        if self.reload_pending {
            text += "one more reload will follow\n";
        }
        if let Some(longest) = self.replacements_due_ms.iter().max() {
            let workers = counted(self.replacements_due_ms.len(), "worker");
            text += &format!("{workers} to be started within {}\n", ms_text(*longest));
        }
        let sockets = self.sockets.iter().map(|socket| {
            let queue = match (socket.queue, socket.backlog) {
                (Some(waits), Some(may)) => format!("{waits}/{may}"),
                _ => "-".to_owned(),
            };
            [socket.address.clone(), queue]
        });
        let workers = self.workers.iter().map(|worker| {
            let pid = worker.pid.map(|pid| pid.to_string());
            let refused = worker.cannot_be_signalled.as_ref();
            let refused = refused.map(|reason| format!("cannot be signalled: {reason}"));
            let says = || printable_lines(worker.status.as_deref().unwrap_or_default());
            [
                pid.unwrap_or_else(|| "-".to_owned()),
                worker.generation.to_string(),
                worker.state.to_owned(),
                ms_text(worker.age_ms),
                worker.restarts.to_string(),
                refused.unwrap_or_else(says),
            ]
        });
        text += "\n";
        text += &columns(["SOCKET", "QUEUE"], sockets);
        text += "\n";
        let heads = ["PID", "GENERATION", "STATE", "AGE", "RESTARTS", ""];
        text + &columns(heads, workers)
    }
}

/// The line for `systemctl status`: what serves, and what became of the last reload.
pub fn summary(core: &Supervisor, last_verdict: &str) -> String {
    let tally = core.workers();
    let (ready, wanted) = (tally.ready(), core.policy().workers);
    let mut line = match core.live_generation() {
        0 => format!("starting: {ready} of {wanted} workers ready"),
        live => format!("generation {live}: {ready} of {wanted} workers ready"),
    };
    let draining = tally.len() as u32 - tally.staying();
    let unreached = core.unreached().map_or(0, |unreached| unreached.workers);
    if draining > unreached {
        line += &format!(", {} draining", draining - unreached);
    }
    if unreached > 0 {
        line += &format!(", {unreached} not to be stopped by us");
    }
    if core.is_stopping() {
        line = format!("stopping: waiting for {}", counted(tally.len(), "worker"));
    } else if let Some(generation) = core.rolling_out().filter(|_| core.has_been_up()) {
        line += &format!(", reload {generation} under way");
    }
    if !last_verdict.is_empty() {
        line += &format!("; {last_verdict}");
    }
    line
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn ms_text(millis: u64) -> String {
    duration_text(Duration::from_millis(millis))
}

/// A table below its heads, each column as wide as it has to be, the last one as it is.
fn columns<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = [heads.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text += &format!("{}\n", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests;
