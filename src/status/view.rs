//! One look at everything: a table for a person's screen, an object for programs. Pure.

use super::{Culprit, failure_text, outcome_word, summary, verdict_sentence, verdict_text};
use crate::protocol::json::write_string;
use crate::supervisor::{ChildId, Instant, Outcome, Phase, Supervisor, Verdict, Worker};
use crate::text::{counted, duration_text, errno_text};
use std::fmt::Write;
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
        columns(&mut text, &self.socket_rows());
        text.push('\n');
        columns(&mut text, &self.worker_rows());
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
        let (mut count, mut longest) = (0, Duration::ZERO);
        for due in self.core.backoffs() {
            count += 1;
            longest = longest.max(due - self.now);
        }
        if count > 0 {
            let (count, longest) = (counted(count, "worker"), duration_text(longest));
            let _ = writeln!(text, "{count} to be started within {longest}");
        }
    }

    fn socket_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![heads(&["SOCKET", "QUEUE"])];
        for socket in self.sockets {
            let queue = match socket.queue {
                Some((waits, may)) => format!("{waits}/{may}"),
                None => "-".to_owned(),
            };
            rows.push(vec![socket.address.clone(), queue]);
        }
        rows
    }

    fn worker_rows(&self) -> Vec<Vec<String>> {
        let all = ["PID", "GENERATION", "STATE", "AGE", "RESTARTS", ""];
        let mut rows = vec![heads(&all)];
        for (id, worker) in self.core.workers().iter() {
            let process = (self.process)(id);
            rows.push(vec![
                match process.pid {
                    Some(pid) => pid.to_string(),
                    None => "-".to_owned(),
                },
                worker.generation.to_string(),
                state_word(worker).to_owned(),
                duration_text(worker.age(self.now)),
                worker.restarts.to_string(),
                match worker.refusal {
                    Some(refusal) => {
                        format!("cannot be signalled: {}", errno_text(refusal.errno))
                    }
                    None => process.says.unwrap_or_default().to_owned(),
                },
            ]);
        }
        rows
    }

    /// For programs: one object on one line. Durations are milliseconds.
    pub fn json(&self) -> String {
        let core = self.core;
        let mut json = Json::default();
        json.begin('{');
        json.text("version", env!("CARGO_PKG_VERSION"));
        json.number("pid", self.pid.into());
        json.number("uptime_ms", millis(self.now - self.began));
        json.text("command", self.command);
        json.number("workers_wanted", core.policy().workers.into());
        json.number("live_generation", core.live_generation());
        json.option("reload_generation", core.rolling_out());
        json.truth("reload_pending", core.has_pending_reload());
        json.truth("stopping", core.is_stopping());
        self.write_sockets(&mut json);
        self.write_generations(&mut json);
        self.write_workers(&mut json);
        json.list("replacements_due_ms");
        for due in core.backoffs() {
            json.plain(&millis(due - self.now).to_string());
        }
        json.end(']');
        json.key("last_verdict");
        match self.last {
            Some(told) => {
                told.write(&mut json);
                json.number("ago_ms", millis(self.now - told.at));
                json.end('}');
            }
            None => json.plain("null"),
        }
        json.end('}');
        json.0
    }

    fn write_sockets(&self, json: &mut Json) {
        json.list("sockets");
        for socket in self.sockets {
            json.begin('{');
            json.text("uri", &socket.uri);
            json.text("address", &socket.address);
            json.text("name", &socket.name);
            json.option("queue", socket.queue.map(|(waits, _)| waits.into()));
            json.option("backlog", socket.queue.map(|(_, may)| may.into()));
            json.end('}');
        }
        json.end(']');
    }

    fn write_generations(&self, json: &mut Json) {
        json.list("generations");
        for (generation, tally) in self.core.workers().generations() {
            json.begin('{');
            json.number("generation", generation);
            json.number("starting", tally.unready.into());
            json.number("ready", tally.ready.into());
            json.number("stopping", tally.stopping.into());
            json.end('}');
        }
        json.end(']');
    }

    fn write_workers(&self, json: &mut Json) {
        json.list("workers");
        for (id, worker) in self.core.workers().iter() {
            let process = (self.process)(id);
            json.begin('{');
            json.option("pid", process.pid.map(pid_number));
            json.number("generation", worker.generation);
            json.number("index", worker.index.into());
            json.text("state", state_word(worker));
            json.number("age_ms", millis(worker.age(self.now)));
            json.number("restarts", worker.restarts.into());
            json.optional_text("status", process.says);
            let refusal = worker.refusal.map(|refusal| errno_text(refusal.errno));
            json.optional_text("cannot_be_signalled", refusal.as_deref());
            json.end('}');
        }
        json.end(']');
    }
}

impl Told {
    /// The whole verdict in one line, the last lines of output too.
    pub fn text(&self) -> String {
        verdict_text(&self.verdict, &self.culprit)
    }

    /// For programs: one object.
    pub fn json(&self) -> String {
        let mut json = Json::default();
        self.write(&mut json);
        json.end('}');
        json.0
    }

    /// The object without its end.
    fn write(&self, json: &mut Json) {
        let Told {
            verdict, culprit, ..
        } = self;
        let reason = verdict.failure.as_ref();
        let reason = reason.map(|failure| failure_text(failure, culprit.pid));
        json.begin('{');
        json.number("generation", verdict.generation);
        json.text("outcome", outcome_word(verdict.outcome));
        json.number("ready", verdict.ready.into());
        json.number("wanted", verdict.wanted.into());
        json.option("serving", self.serving());
        json.number("took_ms", millis(verdict.took));
        let unreached = verdict.unreached.map_or(0, |unreached| unreached.workers);
        json.number("could_not_be_asked", unreached.into());
        json.text("text", &verdict_sentence(verdict, culprit.pid));
        json.optional_text("reason", reason.as_deref());
        json.option("pid", culprit.pid.map(pid_number));
        json.list("lines");
        for line in &culprit.last_lines {
            json.string(line);
        }
        json.end(']');
    }

    /// The newest generation that serves after it.
    fn serving(&self) -> Option<u64> {
        let this = (self.verdict.outcome == Outcome::Live).then_some(self.verdict.generation);
        this.or(self.verdict.serving)
    }
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

fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1000 + u64::from(duration.subsec_millis())
}

fn pid_number(pid: i32) -> u64 {
    pid as u64
}

fn heads(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A table whose first row are its heads, each column as wide as it has to be, the last one as
/// it is.
fn columns(text: &mut String, rows: &[Vec<String>]) {
    let mut widths = [0; 6];
    for row in rows {
        for (cell, width) in row.iter().zip(&mut widths) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// JSON in the making, on one line, the keys in the order in which they come.
#[derive(Default)]
struct Json(String);

impl Json {
    /// Whatever comes next is parted from what came before it.
    fn separate(&mut self) {
        if !matches!(self.0.as_bytes().last(), None | Some(b'{' | b'[' | b' ')) {
            self.0.push_str(", ");
        }
    }

    /// A value, or what a key has.
    fn plain(&mut self, json: &str) {
        self.separate();
        self.0.push_str(json);
    }

    fn string(&mut self, text: &str) {
        self.separate();
        write_string(&mut self.0, text);
    }

    fn begin(&mut self, bracket: char) {
        self.separate();
        self.0.push(bracket);
    }

    fn end(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn key(&mut self, key: &str) {
        self.string(key);
        self.0.push_str(": ");
    }

    fn list(&mut self, key: &str) {
        self.key(key);
        self.begin('[');
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.string(value);
    }

    fn optional_text(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.option(key, None),
        }
    }

    fn truth(&mut self, key: &str, value: bool) {
        self.key(key);
        self.plain(if value { "true" } else { "false" });
    }

    fn number(&mut self, key: &str, value: u64) {
        self.option(key, Some(value));
    }

    fn option(&mut self, key: &str, value: Option<u64>) {
        self.key(key);
        match value {
            Some(value) => self.plain(&value.to_string()),
            None => self.plain("null"),
        }
    }
}

#[cfg(test)]
mod tests;
