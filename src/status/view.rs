//! One look at everything: a table for a person's screen, an object for programs. Pure.

use super::{
    Culprit, duration_text, failure_text, outcome_word, summary, verdict_sentence, verdict_text,
    workers_text,
};
use crate::protocol::json::write_string;
use crate::supervisor::{ChildId, Instant, Outcome, Phase, Supervisor, Verdict, Worker};
use std::fmt::{Display, Write};
use std::time::Duration;

/// A verdict that was given.
#[derive(Debug, Clone)]
pub struct Told {
    pub verdict: Verdict,
    pub culprit: Culprit,
    pub at: Instant,
}

/// A listening socket as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketView {
    /// What `-listen` said.
    pub uri: String,
    /// Where it is bound.
    pub address: String,
    pub name: String,
    /// How many clients wait, and how many may.
    pub queue: Option<(u32, u32)>,
}

/// What is known of a worker's process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process<'a> {
    pub pid: Option<i32>,
    /// What it says of itself.
    pub says: Option<&'a str>,
}

/// What a status is made of.
pub struct View<'a> {
    pub core: &'a Supervisor,
    pub now: Instant,
    /// When we started, and who we are.
    pub began: Instant,
    pub pid: u32,
    pub command: &'a str,
    pub sockets: &'a [SocketView],
    pub process: &'a dyn Fn(ChildId) -> Process<'a>,
    pub last: Option<&'a Told>,
}

impl View<'_> {
    /// For people; each line ends with a newline.
    pub fn table(&self) -> String {
        let mut text = format!(
            "socketmaster {} (pid {}), up {}, runs {}\n{}\n",
            env!("CARGO_PKG_VERSION"),
            self.pid,
            duration_text(self.now - self.began),
            self.command,
            summary(self.core, "")
        );
        if let Some(told) = self.last {
            self.write_last(&mut text, told);
        }
        self.write_coming(&mut text);
        text.push('\n');
        columns(&mut text, ["SOCKET", "QUEUE"], &self.socket_rows());
        text.push('\n');
        let heads = ["PID", "GENERATION", "STATE", "AGE", "RESTARTS", ""];
        columns(&mut text, heads, &self.worker_rows());
        text
    }

    fn write_last(&self, text: &mut String, told: &Told) {
        let ago = duration_text(self.now - told.at);
        let sentence = verdict_sentence(&told.verdict, told.culprit.pid);
        let _ = writeln!(text, "{ago} ago: {sentence}");
        for line in &told.culprit.last_lines {
            let _ = writeln!(text, "  | {line}");
        }
    }

    fn write_coming(&self, text: &mut String) {
        if self.core.has_pending_reload() {
            text.push_str("one more reload will follow\n");
        }
        let waits = self.core.backoffs().map(|due| due - self.now);
        if let Some(longest) = waits.max() {
            let count = self.core.backoffs().count();
            let (count, longest) = (workers_text(count), duration_text(longest));
            let _ = writeln!(text, "{count} to be started within {longest}");
        }
    }

    fn socket_rows(&self) -> Vec<[String; 2]> {
        let queue = |socket: &SocketView| {
            let shown = socket.queue.map(|(waits, may)| format!("{waits}/{may}"));
            shown.unwrap_or_else(|| "-".to_owned())
        };
        let sockets = self.sockets.iter();
        sockets
            .map(|socket| [socket.address.clone(), queue(socket)])
            .collect()
    }

    fn worker_rows(&self) -> Vec<[String; 6]> {
        let row = |(id, worker): (ChildId, &Worker)| {
            let process = (self.process)(id);
            [
                process
                    .pid
                    .map_or_else(|| "-".to_owned(), |p| p.to_string()),
                worker.generation.to_string(),
                state_word(worker).to_owned(),
                duration_text(worker.age(self.now)),
                worker.restarts.to_string(),
                process.says.unwrap_or_default().to_owned(),
            ]
        };
        self.core.workers().iter().map(row).collect()
    }

    /// For programs: one object on one line. Durations are milliseconds.
    pub fn json(&self) -> String {
        let core = self.core;
        let mut object = Object::new();
        object.text("version", env!("CARGO_PKG_VERSION"));
        object.plain("pid", self.pid);
        object.plain("uptime_ms", millis(self.now - self.began));
        object.text("command", self.command);
        object.plain("workers_wanted", core.policy().workers);
        object.plain("live_generation", core.live_generation());
        object.option("reload_generation", core.rolling_out());
        object.plain("reload_pending", core.has_pending_reload());
        object.plain("stopping", core.is_stopping());
        object.list("sockets", self.sockets.iter().map(socket_json));
        let generations = core.workers().generations();
        object.list(
            "generations",
            generations.map(|(generation, tally)| {
                let mut object = Object::new();
                object.plain("generation", generation);
                object.plain("starting", tally.unready);
                object.plain("ready", tally.ready);
                object.plain("stopping", tally.stopping);
                object.end()
            }),
        );
        let workers = core.workers().iter();
        object.list(
            "workers",
            workers.map(|(id, worker)| self.worker_json(id, worker)),
        );
        let backoffs = core
            .backoffs()
            .map(|due| millis(due - self.now).to_string());
        object.list("replacements_due_ms", backoffs);
        object.option("last_verdict", self.last.map(|told| self.last_json(told)));
        object.end()
    }

    fn worker_json(&self, id: ChildId, worker: &Worker) -> String {
        let process = (self.process)(id);
        let mut object = Object::new();
        object.option("pid", process.pid);
        object.plain("generation", worker.generation);
        object.plain("index", worker.index);
        object.text("state", state_word(worker));
        object.plain("age_ms", millis(worker.age(self.now)));
        object.plain("restarts", worker.restarts);
        match process.says {
            Some(says) => object.text("status", says),
            None => object.plain("status", "null"),
        }
        object.end()
    }

    fn last_json(&self, told: &Told) -> String {
        let mut json = told.json();
        json.pop();
        let _ = write!(json, ", \"ago_ms\": {}}}", millis(self.now - told.at));
        json
    }
}

impl Told {
    /// The whole verdict in one line, the last lines of output too.
    pub fn text(&self) -> String {
        verdict_text(&self.verdict, &self.culprit)
    }

    /// For programs: one object.
    pub fn json(&self) -> String {
        let Told {
            verdict, culprit, ..
        } = self;
        let mut object = Object::new();
        object.plain("generation", verdict.generation);
        object.text("outcome", outcome_word(verdict.outcome));
        object.plain("ready", verdict.ready);
        object.plain("wanted", verdict.wanted);
        object.option("serving", self.serving());
        object.plain("took_ms", millis(verdict.took));
        object.text("text", &verdict_sentence(verdict, culprit.pid));
        match &verdict.failure {
            Some(failure) => object.text("reason", &failure_text(failure, culprit.pid)),
            None => object.plain("reason", "null"),
        }
        object.option("pid", culprit.pid);
        object.list("lines", culprit.last_lines.iter().map(|line| quoted(line)));
        object.end()
    }

    /// The newest generation that serves after it.
    fn serving(&self) -> Option<u64> {
        let this = (self.verdict.outcome == Outcome::Live).then_some(self.verdict.generation);
        this.or(self.verdict.serving)
    }
}

fn socket_json(socket: &SocketView) -> String {
    let mut object = Object::new();
    object.text("uri", &socket.uri);
    object.text("address", &socket.address);
    object.text("name", &socket.name);
    object.option("queue", socket.queue.map(|(waits, _)| waits));
    object.option("backlog", socket.queue.map(|(_, may)| may));
    object.end()
}

/// A worker's phase in one word.
fn state_word(worker: &Worker) -> &'static str {
    match worker.phase {
        Phase::Starting { .. } => "starting",
        Phase::Running { .. } => "running",
        Phase::Ready { .. } => "ready",
        Phase::Stopping { .. } => "stopping",
    }
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    write_string(&mut out, text);
    out
}

/// A table with its heads, each column as wide as it has to be, the last one as it is.
fn columns<const N: usize>(text: &mut String, heads: [&str; N], rows: &[[String; N]]) {
    let heads = heads.map(str::to_owned);
    let all = || std::iter::once(&heads).chain(rows);
    let widths: Vec<usize> = (0..N)
        .map(|n| all().map(|row| row[n].chars().count()).max().unwrap_or(0))
        .collect();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// A JSON object in the making, its keys in the order in which they come.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        let comma = if self.0.len() > 1 { ", " } else { "" };
        let _ = write!(self.0, "{comma}\"{key}\": ");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        write_string(&mut self.0, value);
    }

    /// What is JSON already.
    fn plain(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _ = write!(self.0, "{value}");
    }

    fn option(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.plain(key, value),
            None => self.plain(key, "null"),
        }
    }

    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        self.key(key);
        self.0.push('[');
        for (n, value) in values.enumerate() {
            self.0.push_str(if n == 0 { "" } else { ", " });
            self.0.push_str(&value);
        }
        self.0.push(']');
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests;
