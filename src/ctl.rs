//! `socketmaster ctl`: our own client of the control socket. It sends one command, shows what is
//! answered, and turns the outcome into an exit status. It waits no longer than it was told to.

use crate::args::{self, UsageError};
use crate::protocol::{LineReader, MAX_ANSWER, Value, encode_request, json};
use crate::sys::io::{stderr, stdout, write_all};
use crate::sys::socket::connect;
use crate::text::{boolean, duration_text, error_text, integer, printable};
use argh::ArgsInfo;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Rolled back, stopped half-way, or failed with nothing to go back to.
const ROLLED_BACK: i32 = 3;
const TIMED_OUT: i32 = 4;
/// Superseded by another reload, or abandoned for a stop.
const SUPERSEDED: i32 = 5;
/// Cannot connect, was refused, is not available.
const FAILED: i32 = 1;

/// How long an answer may take that waits for nothing.
const PROMPTLY: Duration = Duration::from_secs(10);
const VARIABLE: &str = "SOCKETMASTER_CONTROL";

/// Every flag of `ctl`. The command line is read by hand: flags and operands may be mixed.
#[derive(ArgsInfo)]
#[allow(dead_code, reason = "only the table is needed")]
struct Flags {
    /// the control socket of the socketmaster that is meant. (default $SOCKETMASTER_CONTROL)
    #[argh(option, arg_name = "PATH")]
    control: Option<String>,
    /// reload: until the new workers are ready or have failed; stop: until all is over. (default off)
    #[argh(switch)]
    wait: bool,
    /// wait so long at most: milliseconds, or as in 30s or 1m30s. (default none)
    #[argh(option, arg_name = "TIME")]
    timeout: Option<String>,
    /// status: one JSON object instead of a table. (default off)
    #[argh(switch)]
    json: bool,
}

const HELP: &str = "\
Usage: socketmaster ctl [-control=PATH] COMMAND

Talks to a running socketmaster by its control socket: -control names it, else
SOCKETMASTER_CONTROL in the environment.

  reload [-wait] [-timeout=TIME]  start new workers, then stop the old ones
  status [-json]                  sockets, workers, the last verdict
  stop [-wait] [-timeout=TIME]    ask the workers to finish, and end
  workers N                       have N workers from now on
  ping                            say who is there
  upgrade                         replace socketmaster itself by what is on disk

TIME is in milliseconds, or as in 30s or 1m30s.
Exit status: 0 done (reload -wait: the new generation is live), 1 failed,
2 usage, 3 rolled back, 4 timed out, 5 superseded or stopping.
";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Help,
    Send(Order),
}

/// One command for one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub control: PathBuf,
    pub command: &'static str,
    pub args: Vec<String>,
    pub timeout: Option<Duration>,
}

/// Runs the program with the words after `ctl`; returns the exit status.
pub fn main(words: Vec<OsString>) -> i32 {
    match parse(words, std::env::var_os(VARIABLE)) {
        Ok(Call::Help) => {
            let _ = write_all(stdout(), HELP.as_bytes());
            0
        }
        Ok(Call::Send(order)) => {
            let (text, status) = run(&order);
            tell(&text, status);
            status
        }
        Err(error) => {
            let status = i32::from(error.status);
            tell(&format!("socketmaster ctl: {error}"), status);
            status
        }
    }
}

fn tell(text: &str, status: i32) {
    let text = format!("{}\n", text.trim_end());
    // A reader that went away changes nothing about what was done.
    let _ = match status {
        0 => write_all(stdout(), text.as_bytes()),
        _ => write_all(stderr(), text.as_bytes()),
    };
}

// ---- the command line ----

/// Reads the words after `ctl`; `variable`: the socket that the environment names.
///
/// # Errors
/// All with status 2: an unknown command or flag, a bad or missing value, no socket named.
pub fn parse(words: Vec<OsString>, variable: Option<OsString>) -> Result<Call, UsageError> {
    read(words, variable).map_err(of_ctl)
}

/// A usage error points to this face's help.
fn of_ctl(error: UsageError) -> UsageError {
    match error.message.strip_suffix("socketmaster -help") {
        Some(problem) => UsageError {
            message: format!("{problem}socketmaster ctl -help"),
            ..error
        },
        None => error,
    }
}

fn read(words: Vec<OsString>, variable: Option<OsString>) -> Result<Call, UsageError> {
    let mut rest = words;
    let (mut given, mut operands) = (Vec::new(), Vec::new());
    loop {
        let split = args::split(args::table::<Flags>(), rest)?;
        if split.help {
            return Ok(Call::Help);
        }
        given.extend(split.flags);
        rest = split.arguments;
        if rest.is_empty() {
            break;
        }
        operands.push(rest.remove(0).to_string_lossy().into_owned());
    }
    let value = |name: &str| {
        let flag = given
            .iter()
            .rev()
            .find(|(flag, _)| args::flag_name(flag) == name);
        flag.map(|(_, value)| value)
    };
    let (word, command, flag) = find(&operands)?;
    let args = arguments(word, &operands[1..], flag, value(flag))?;
    for name in ["wait", "json"] {
        if value(name).is_some() && name != flag {
            return Err(usage(&format!("{command} has no -{name}")));
        }
    }
    let control = match value("control") {
        Some(control) => control.clone(),
        None => variable.unwrap_or_default(),
    };
    if control.is_empty() {
        return Err(usage(&format!(
            "which socketmaster? Name its control socket by -control=PATH or by {VARIABLE}"
        )));
    }
    Ok(Call::Send(Order {
        control: control.into(),
        command,
        args,
        timeout: match value("timeout") {
            Some(value) => Some(timeout(value)?),
            None => None,
        },
    }))
}

fn usage(problem: &str) -> UsageError {
    UsageError::new(problem)
}

/// A command: its word, its word on the wire, and the flag that it may have. The flag, given, is
/// its argument on the wire.
type Command = (&'static str, &'static str, &'static str);

const COMMANDS: [Command; 6] = [
    ("reload", "reload", "wait"),
    ("status", "status", "json"),
    ("stop", "stop", "wait"),
    ("ping", "ping", ""),
    ("workers", "workers", ""),
    // `upgrade` is einhorn's word for a reload.
    ("upgrade", "self-upgrade", ""),
];

fn find(operands: &[String]) -> Result<Command, UsageError> {
    let Some(word) = operands.first() else {
        return Err(usage("no command given"));
    };
    let known = COMMANDS.iter().find(|command| command.0 == word);
    known.copied().ok_or_else(|| {
        let word = printable(OsStr::new(word));
        usage(&format!("{word} is no command"))
    })
}

/// What goes with the command; `flag` and `value`: its flag, and what was given for it.
fn arguments(
    command: &str,
    operands: &[String],
    flag: &str,
    value: Option<&OsString>,
) -> Result<Vec<String>, UsageError> {
    let problem = match (command, operands) {
        ("workers", []) => "workers needs a number".to_owned(),
        ("workers", [number]) => match integer(number, 1..=10_000) {
            Ok(number) => return Ok(vec![number.to_string()]),
            Err(reason) => format!("workers {number}: {reason}"),
        },
        (_, []) if is_on(flag, value)? => return Ok(vec![flag.to_owned()]),
        // With a word, so that einhorn's `reload` is never meant.
        ("reload", []) => return Ok(vec!["now".to_owned()]),
        (_, []) => return Ok(Vec::new()),
        _ => format!("{command} takes no such arguments"),
    };
    Err(usage(&problem))
}

fn is_on(name: &str, value: Option<&OsString>) -> Result<bool, UsageError> {
    let Some(value) = value else { return Ok(false) };
    let read = boolean(&value.to_string_lossy());
    read.map_err(|reason| UsageError::value(name, value, &reason))
}

fn timeout(value: &OsStr) -> Result<Duration, UsageError> {
    let text = value.to_string_lossy();
    let parsed = match integer(&text, 0..=i64::MAX / 1_000_000) {
        Ok(millis) => Some(Duration::from_millis(millis.unsigned_abs())),
        Err(_) => duration(&text),
    };
    let reason = "neither milliseconds nor a time as in 30s or 1m30s";
    parsed.ok_or_else(|| UsageError::value("timeout", value, reason))
}

/// `1h`, `1m30s`, `250ms`: whole numbers with units, as Go's time.ParseDuration has them.
fn duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_digits(rest, true);
        let (unit, after) = split_digits(after, false);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        let millis = number.parse::<u64>().ok()?.checked_mul(millis)?;
        total = total.checked_add(millis)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

/// The digits that the text begins with and the rest of it, or what is no digit and the rest.
fn split_digits(text: &str, digits: bool) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| byte.is_ascii_digit() != digits);
    text.split_at(end.unwrap_or(text.len()))
}

// ---- the conversation ----

/// Carries the order out; returns the text to show and the exit status.
fn run(order: &Order) -> (String, i32) {
    let waits = order.args.iter().any(|word| word == "wait");
    let limit = order.timeout.or((!waits).then_some(PROMPTLY));
    let path = order.control.display();
    let mut line = match Line::open(order, limit) {
        Ok(line) => line,
        Err(error) => {
            let word = error_text(&error);
            let hint = match error.raw_os_error() {
                Some(_) => "; does a socketmaster run with it as its -control?",
                None => "",
            };
            let text = format!("socketmaster ctl: cannot connect to {path}: {word}{hint}");
            return (text, FAILED);
        }
    };
    let shows_progress = waits && stderr().is_terminal();
    loop {
        let answer = match line.next() {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let text = format!("no answer from {path}: the connection was closed");
                return (text, FAILED);
            }
            Err(error) if is_timeout(&error) => return (late(order, limit), TIMED_OUT),
            Err(error) => {
                let text = format!("no answer from {path}: {}", error_text(&error));
                return (text, FAILED);
            }
        };
        if is_true(&answer, "wait") {
            if shows_progress {
                let message = text_of(&answer, "message");
                let _ = write_all(stderr(), format!("{message}\n").as_bytes());
            }
            continue;
        }
        if order.command == "stop" && waits {
            // The last answer comes just before the end.
            while let Ok(Some(_)) = line.next() {}
        }
        return conclusion(&answer);
    }
}

fn late(order: &Order, limit: Option<Duration>) -> String {
    let limit = duration_text(limit.unwrap_or_default());
    let goes_on = match order.args.iter().any(|word| word == "wait") {
        true => "; it goes on by itself",
        false => "",
    };
    format!("{}: not over within {limit}{goes_on}", order.command)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What the last answer means.
fn conclusion(answer: &Value) -> (String, i32) {
    let message = text_of(answer, "message").to_owned();
    if let Some(status) = answer.get("status") {
        return (json::text(status), 0);
    }
    match answer.get("verdict") {
        Some(verdict) => {
            let status = match text_of(verdict, "outcome") {
                "live" => 0,
                "superseded" | "abandoned" => SUPERSEDED,
                _ => ROLLED_BACK,
            };
            (paragraph(verdict).unwrap_or(message), status)
        }
        None if is_true(answer, "failed") => (message, FAILED),
        None => (message, 0),
    }
}

/// The verdict's sentence, and below it what the worker that decided it had said last.
fn paragraph(verdict: &Value) -> Option<String> {
    let mut text = verdict.get("text")?.as_str()?.to_owned();
    let lines = verdict.get("lines").map_or(&[][..], Value::elements);
    if !lines.is_empty() {
        let pid = verdict.get("pid").and_then(Value::as_i64);
        let who = pid.map_or_else(|| "the worker".to_owned(), |pid| format!("worker {pid}"));
        let _ = write!(text, "\nlast lines of {who}:");
        for line in lines {
            let _ = write!(text, "\n  {}", line.as_str().unwrap_or_default());
        }
    }
    Some(text)
}

fn text_of<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(answer: &Value, key: &str) -> bool {
    answer.get(key) == Some(&Value::Bool(true))
}

/// The connection, with one limit for all of it.
struct Line {
    stream: UnixStream,
    reader: LineReader,
    deadline: Option<Instant>,
}

impl Line {
    fn open(order: &Order, limit: Option<Duration>) -> io::Result<Line> {
        let mut stream = connect(&order.control)?;
        let args: Vec<&str> = order.args.iter().map(String::as_str).collect();
        stream.write_all(&encode_request(1, order.command, &args))?;
        Ok(Line {
            stream,
            reader: LineReader::new(MAX_ANSWER),
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
        })
    }

    /// The next answer; `None`: the connection has ended.
    fn next(&mut self) -> io::Result<Option<Value>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let line = self.reader.next_line().map_err(io::Error::other)?;
            if let Some(line) = line {
                let text = std::str::from_utf8(&line).ok();
                return match text.and_then(|text| Value::parse(text).ok()) {
                    Some(answer) => Ok(Some(answer)),
                    None => Err(io::Error::other("it speaks another language")),
                };
            }
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.reader.push(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(Some(left)),
        }
    }
}

#[cfg(test)]
mod tests;
