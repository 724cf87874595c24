//! `socketmaster ctl`: our own client of the control socket. It sends one command, shows what is
//! answered, and turns the outcome into an exit status. It waits no longer than it was told to, and
//! what workers wrote reaches the terminal escaped.

use super::protocol::{LineReader, MAX_ANSWER, encode_request};
use crate::args::{self, UsageError};
use crate::supervisor::Outcome;
use crate::sys::io::{stderr, stdout, write_all};
use crate::sys::socket::connect;
use crate::text::{duration_text, error_text, integer, printable, printable_lines};
use argh::{ArgsInfo, FromArgs};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// It cannot connect, was refused, or what it wants is not available.
const FAILED: i32 = 1;
/// The reload was rolled back, stopped half-way, or failed with nothing to go back to.
const ROLLED_BACK: i32 = 3;
/// This is what `status` exits with when no worker is ready.
const NOBODY_READY: i32 = 3;
const TIMED_OUT: i32 = 4;
/// The reload was superseded by another one, or abandoned for a stop.
const SUPERSEDED: i32 = 5;

/// How long an answer may take that waits for nothing.
pub const PROMPTLY: Duration = Duration::from_secs(10);
const VARIABLE: &str = "SOCKETMASTER_CONTROL";

/// Talks to a running socketmaster by its control socket.
//
// As in args.rs, a flag's comment is its text in the help, and the last value of an option holds.
#[derive(FromArgs, ArgsInfo)]
struct CtlFlags {
    /// the control socket of the socketmaster that is meant. (default $SOCKETMASTER_CONTROL)
    #[argh(option, arg_name = "PATH", from_str_fn(args::bytes))]
    control: Option<OsString>,
    /// reload: until the new workers are ready or have failed; stop: until all is over. (default off)
    #[argh(switch)]
    wait: bool,
    /// wait so long at most: milliseconds, or as in 30s or 1m30s. (default none)
    #[argh(option, arg_name = "TIME", from_str_fn(timeout))]
    timeout: Option<Duration>,
    /// status: one JSON object instead of a table. (default off)
    #[argh(switch)]
    json: bool,
}

const USAGE: &str = "\
Usage: socketmaster ctl [flags] COMMAND [flags]

Talks to a running socketmaster by its control socket:

  reload     start new workers, then stop the old ones
  status     sockets, workers, the last verdict
  stop       ask the workers to finish, and end
  workers N  have N workers from now on
  ping       say who is there
  upgrade    replace socketmaster itself by what is on disk

Exit status: 0 done (reload -wait: the new generation is live; status: a worker
is ready), 1 failed or no answer, 2 usage, 3 rolled back (status: no worker is
ready), 4 timed out, 5 superseded or stopping.

Flags:
";

/// One command for one socket, in the words of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CtlRequest {
    control: PathBuf,
    command: &'static str,
    args: Vec<String>,
    timeout: Option<Duration>,
}

/// Runs the program with the words after `ctl`; returns the exit status.
pub fn main(words: Vec<OsString>) -> i32 {
    let mut is_status = false;
    let (text, status) = match parse(words, std::env::var_os(VARIABLE)) {
        Ok(None) => (help(), 0),
        Ok(Some(request)) => {
            is_status = request.command == "status";
            run(&request)
        }
        Err(error) => {
            let text = format!("socketmaster ctl: {error}");
            let help = "see socketmaster ctl -help";
            (
                text.replace("see socketmaster -help", help),
                error.status.into(),
            )
        }
    };
    let text = format!("{}\n", printable_lines(text.trim_end()));
    // A status is a result, whether somebody is ready or not.
    let is_result = status == 0 || is_status && status == NOBODY_READY;
    let out = if is_result { stdout() } else { stderr() };
    // A reader that went away changes nothing about what was done.
    let _ = write_all(out, text.as_bytes());
    status
}

// ---- the command line ----

fn help() -> String {
    USAGE.to_owned() + &args::flag_texts(args::table::<CtlFlags>())
}

/// Reads the words after `ctl`: flags may stand before and after the command. `variable`: the socket
/// that the environment names. Returns `None` for the help.
///
/// Errors: all with status 2: an unknown command or flag, a bad or missing value, no socket named.
fn parse(
    words: Vec<OsString>,
    variable: Option<OsString>,
) -> Result<Option<CtlRequest>, UsageError> {
    let (mut given, mut operands, mut rest) = (Vec::new(), Vec::new(), words);
    loop {
        let split = args::split(args::table::<CtlFlags>(), rest)?;
        if split.help {
            return Ok(None);
        }
        given.extend(split.flags);
        rest = split.arguments;
        if rest.is_empty() {
            break;
        }
        operands.push(rest.remove(0).to_string_lossy().into_owned());
    }
    let flags: CtlFlags = args::values(&given)?;
    let (command, args) = wire_words(&operands, &flags).map_err(UsageError::new)?;
    let control = flags.control.or(variable);
    let control = control.filter(|path| !path.is_empty()).ok_or_else(|| {
        UsageError::new(format!(
            "which socketmaster? Name its control socket by -control=PATH or by {VARIABLE}"
        ))
    })?;
    Ok(Some(CtlRequest {
        control: control.into(),
        command,
        args,
        timeout: flags.timeout,
    }))
}

/// The command and its arguments on the wire. Errors: the problem alone.
fn wire_words(
    operands: &[String],
    flags: &CtlFlags,
) -> Result<(&'static str, Vec<String>), String> {
    let words: Vec<&str> = operands.iter().map(String::as_str).collect();
    let name = *words.first().ok_or("no command given")?;
    let count;
    let (command, argument) = match words[..] {
        // With a word, so that einhorn's `reload` is never meant.
        ["reload"] => ("reload", Some(if flags.wait { "wait" } else { "now" })),
        ["stop"] => ("stop", flags.wait.then_some("wait")),
        ["status"] => ("status", flags.json.then_some("json")),
        ["ping"] => ("ping", None),
        // On the wire `upgrade` is einhorn's word for a reload.
        ["upgrade"] => ("self-upgrade", None),
        ["workers", number] => {
            let checked = integer(number, 1..=10_000);
            count = checked
                .map_err(|reason| format!("workers {number}: {reason}"))?
                .to_string();
            ("workers", Some(&*count))
        }
        ["workers"] => return Err("workers needs a number".to_owned()),
        [
            "reload" | "stop" | "status" | "ping" | "upgrade" | "workers",
            ..,
        ] => {
            return Err(format!("{name} takes no such arguments"));
        }
        _ => return Err(format!("{} is no command", printable(OsStr::new(name)))),
    };
    if flags.json && command != "status" {
        return Err(format!("{name} has no -json"));
    }
    if flags.wait && !matches!(command, "reload" | "stop") {
        return Err(format!("{name} has no -wait"));
    }
    Ok((command, argument.map(str::to_owned).into_iter().collect()))
}

fn timeout(text: &str) -> Result<Duration, String> {
    let parsed = args::millis(text).ok().or_else(|| duration(text));
    parsed.ok_or_else(|| "neither milliseconds nor a time as in 30s or 1m30s".to_owned())
}

/// `1h`, `1m30s`, `250ms`: whole numbers with units, as Go's time.ParseDuration has them.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let mut units = UNITS.into_iter();
        let (unit, millis) = units.find(|(unit, _)| after.starts_with(unit))?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

// ---- the conversation ----

/// An answer, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CtlReply {
    message: String,
    wait: bool,
    failed: bool,
    verdict: Option<CtlVerdict>,
    /// How many workers are ready; only a status says it.
    ready: Option<u32>,
    /// As it was written: it is for programs, and may come from a newer socketmaster.
    status: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct CtlVerdict {
    outcome: Outcome,
    text: Option<String>,
    pid: Option<i32>,
    #[serde(default)]
    lines: Vec<String>,
}

/// Carries the request out; returns the text to show and the exit status.
fn run(request: &CtlRequest) -> (String, i32) {
    let waits = request.args.iter().any(|word| word == "wait");
    let limit = request.timeout.or((!waits).then_some(PROMPTLY));
    let (path, command) = (request.control.display(), request.command);
    let late = |error: &io::Error| {
        let text = match (waits, limit) {
            (true, Some(limit)) => {
                let limit = duration_text(limit);
                format!("{command}: not over within {limit}; it goes on by itself")
            }
            _ => format!("{command}: {}", error_text(error)),
        };
        (
            text,
            if command == "status" {
                FAILED
            } else {
                TIMED_OUT
            },
        )
    };
    // Also what takes as long as it likes begins promptly.
    let wire = Wire::connect(&request.control, limit.unwrap_or(PROMPTLY));
    let wire = wire.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => late(&error),
        _ => {
            let is_system = error.raw_os_error().is_some();
            let hint = "; does a socketmaster run with it as its -control?";
            let hint = if is_system { hint } else { "" };
            let reason = error_text(&error);
            (format!("cannot connect to {path}: {reason}{hint}"), FAILED)
        }
    });
    let reply = wire.and_then(|mut wire| {
        if limit.is_none() {
            wire.wait_without_limit();
        }
        converse(wire, request, waits).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => late(&error),
            _ => {
                let reason = error_text(&error);
                (format!("no answer from {path}: {reason}"), FAILED)
            }
        })
    });
    match reply {
        Ok(reply) => conclusion(reply),
        Err((text, status)) => (format!("socketmaster ctl: {text}"), status),
    }
}

/// Sends the request and returns the last answer to it. On a terminal the others are shown.
fn converse(mut wire: Wire, request: &CtlRequest, waits: bool) -> io::Result<CtlReply> {
    wire.send(&encode_request(1, request.command, &request.args))?;
    loop {
        let line = wire.next_line()?;
        let line = line.ok_or_else(|| io::Error::other("the connection was closed"))?;
        let reply: CtlReply = serde_json::from_slice(&line)
            .map_err(|_| io::Error::other("it speaks another language"))?;
        if !reply.wait {
            if request.command == "stop" && waits {
                // The last answer comes just before the end.
                while let Ok(Some(_)) = wire.next_line() {}
            }
            return Ok(reply);
        }
        if waits && stderr().is_terminal() {
            let message = printable_lines(&reply.message);
            let _ = write_all(stderr(), format!("{message}\n").as_bytes());
        }
    }
}

/// What the last answer means.
fn conclusion(reply: CtlReply) -> (String, i32) {
    if let Some(ready) = reply.ready {
        let text = reply.status.map_or(reply.message, |it| it.get().to_owned());
        return (text, if ready == 0 { NOBODY_READY } else { 0 });
    }
    let Some(verdict) = reply.verdict else {
        return (reply.message, if reply.failed { FAILED } else { 0 });
    };
    let status = match verdict.outcome {
        Outcome::Live => 0,
        Outcome::Superseded | Outcome::Abandoned => SUPERSEDED,
        Outcome::RolledBack | Outcome::HalfWay | Outcome::Failed => ROLLED_BACK,
    };
    let Some(mut text) = verdict.text else {
        return (reply.message, status);
    };
    // Below the verdict stands what the worker that decided it had said last.
    if !verdict.lines.is_empty() {
        let pid = verdict.pid.map(|pid| format!("worker {pid}"));
        let who = pid.unwrap_or_else(|| "the worker".to_owned());
        text += &format!("\nlast lines of {who}:\n  {}", verdict.lines.join("\n  "));
    }
    (text, status)
}

/// A connection to a control socket, with one limit for all that is done on it.
pub struct Wire {
    stream: UnixStream,
    reader: LineReader,
    path: PathBuf,
    limit: Duration,
    deadline: Option<Instant>,
}

impl Wire {
    /// Errors: the system's. TimedOut, here and below: with the path and what was waited for.
    pub fn connect(path: &Path, limit: Duration) -> io::Result<Wire> {
        let deadline = Instant::now().checked_add(limit);
        let stream = connect(path, deadline).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => late(path, limit, "a place in the queue of"),
            _ => error,
        })?;
        Ok(Wire {
            stream,
            reader: LineReader::default(),
            path: path.to_owned(),
            limit,
            deadline,
        })
    }

    /// What follows has the whole limit again.
    #[cfg(feature = "einhorn")]
    pub fn restart(&mut self) {
        self.deadline = Instant::now().checked_add(self.limit);
    }

    /// What follows may take as long as it likes.
    pub fn wait_without_limit(&mut self) {
        self.deadline = None;
    }

    pub fn send(&mut self, line: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.left()?)?;
        let sent = self.stream.write_all(line);
        sent.map_err(|error| self.or_late(error))
    }

    /// How long the next call may wait.
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        match self.deadline.map(left) {
            Some(Duration::ZERO) => Err(self.or_late(ErrorKind::TimedOut.into())),
            left => Ok(left),
        }
    }

    fn or_late(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                late(&self.path, self.limit, "an answer from")
            }
            _ => error,
        }
    }

    /// The next line, without its LF; `None`: the connection has ended.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let line = self.reader.next_line(MAX_ANSWER);
            let line = line.map_err(io::Error::other)?;
            if line.is_some() {
                return Ok(line);
            }
            // An answer that comes in small pieces has no more time than one that comes at once.
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.reader.push(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.or_late(error)),
            }
        }
    }
}

fn late(path: &Path, limit: Duration, what: &str) -> io::Error {
    let (path, limit) = (path.display(), duration_text(limit));
    let text = format!("waited {limit} for {what} {path}");
    io::Error::new(ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests;
