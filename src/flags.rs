//! The flags' table and Go's flag grammar: which words are flags, which value belongs to which, and
//! the help. Pure; what a value means is decided in `args`, this file never looks into one.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;

/// One flag, as the help and the README show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What to call its value; `None` for a boolean.
    pub value: Option<&'static str>,
    /// The value that holds when it is not given, or `required`, `none`, `off`, or nothing to say.
    pub default: &'static str,
    /// One or two sentences.
    pub help: &'static str,
}

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// One line, naming the flag and the value.
    pub message: String,
    /// The exit status: 2, but 1 for a missing command.
    pub status: u8,
}

/// A command line taken apart: what was given, in order, and the command's arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    pub flags: Vec<(&'static Flag, OsString)>,
    pub arguments: Vec<OsString>,
    /// `-h`, `-help` or `--help` was met, and nothing after it was looked at: the rest is void.
    pub help: bool,
}

/// Every flag, in the order in which people look for them.
pub const FLAGS: &[Flag] = &[
    option(
        "command",
        "PATH",
        "required",
        "The program to run as the workers, looked up in $PATH at every start.",
    ),
    option(
        "listen",
        "URI",
        "tcp://:8080",
        "A socket to open: tcp, tcp4, tcp6, udp, udp4 or udp6 with ://HOST:PORT; unix, unixpacket \
         or unixgram with ://PATH or ://@NAME; fd://N or systemd://NAME for an inherited one. \
         Repeat it for more sockets: workers have them at descriptors 3, 4, 5 and so on. Options: \
         ?backlog=N&reuseport&name=NAME&fpm=NAME and, for a path, \
         mode=0660&owner=LOGIN&group=NAME.",
    ),
    option(
        "start",
        "MILLIS",
        "3000",
        "How long a new worker may take to boot. With -ready=timer it must stay alive that long, \
         otherwise it must report within it. 0: no waiting with timer, no limit with the others.",
    ),
    option(
        "user",
        "LOGIN[:GROUP]",
        "none",
        "Run the workers as this user, by name or number, with its groups, HOME, USER and \
         LOGNAME. Only root can.",
    ),
    switch("syslog", "Log to syslog instead of stderr."),
    option(
        "syslog-socket",
        "PATH",
        "/dev/log",
        "The syslog daemon's socket; used with -syslog only.",
    ),
    option("workers", "N", "1", "Workers per generation."),
    option(
        "max-extra",
        "K",
        "N",
        "How many new workers may run beside the old during a reload. K = N: bring up all, then \
         stop all old ones. K < N: rolling, an old one is asked to stop whenever a new one is \
         ready.",
    ),
    option(
        "ready",
        "GATE",
        "timer",
        "How a new worker shows that it is ready: timer, notify (READY=1 to its NOTIFY_SOCKET) or \
         ack (worker:ack to the control socket).",
    ),
    option(
        "stop-signal",
        "SIG",
        "TERM",
        "How a worker is asked to stop at a reload.",
    ),
    option(
        "stop",
        "MILLIS",
        "0",
        "A worker that is still there so long after it was asked to stop gets SIGKILL, with its \
         whole process group. 0: never.",
    ),
    switch(
        "respawn",
        "Replace a worker that dies: at once, then after 0.1 s, doubling to 30 s while they keep \
         dying.",
    ),
    option(
        "protocol",
        "NAME,...",
        "einhorn",
        "How workers are told about the sockets: einhorn, systemd, server-starter, nginx, \
         php-fpm.",
    ),
    option(
        "output",
        "prefix|lossy|inherit",
        "prefix",
        "What becomes of the workers' stdout and stderr. prefix: logged line by line with the \
         worker's pid, and a stuck log holds the workers back. lossy: the same, but while the log \
         is stuck lines are dropped and counted. inherit: the workers have ours.",
    ),
    option("control", "PATH", "none", "Open the control socket there."),
    option(
        "pidfile",
        "PATH",
        "none",
        "Write our pid there and hold a lock on it, so that a second instance fails.",
    ),
    option(
        "takeover",
        "PID",
        "none",
        "Copy the listening sockets out of a running process instead of binding them, and stop it \
         when our workers are ready.",
    ),
    switch(
        "die-with-parent",
        "Workers get the stop signal when socketmaster itself dies.",
    ),
    switch(
        "check",
        "Check the command line, the command and the user, print what would be done, and exit; \
         open and start nothing.",
    ),
    action("version", "Print the version and exit."),
    action("help", "Print this and exit; -h for short."),
];

const fn option(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        value: Some(value),
        default,
        help,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: None,
        default: "off",
        help,
    }
}

/// A switch that nobody thinks of as being off.
const fn action(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: None,
        default: "",
        help,
    }
}

impl UsageError {
    /// Something about the words themselves: exit status 2.
    pub fn new(problem: impl fmt::Display) -> UsageError {
        UsageError {
            message: format!("{problem}; see socketmaster -help"),
            status: 2,
        }
    }

    /// A flag's value that will not do.
    pub fn value(flag: &str, value: &OsStr, reason: &str) -> UsageError {
        let value = if value.is_empty() {
            OsStr::new("\"\"")
        } else {
            value
        };
        UsageError::new(format_args!("-{flag} {}: {reason}", printable(value)))
    }
}

impl std::error::Error for UsageError {}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Takes a command line apart by the rules of Go's flag package (flag.FlagSet.Parse). A boolean
/// without a value is given `true`. Errors: a flag that is none, is unknown, or lacks its value.
pub fn split(words: impl IntoIterator<Item = OsString>) -> Result<Words, UsageError> {
    split_by(FLAGS, words)
}

/// The same for a table of flags of another face.
pub fn split_by(
    table: &'static [Flag],
    words: impl IntoIterator<Item = OsString>,
) -> Result<Words, UsageError> {
    let mut words = words.into_iter();
    let (mut flags, mut arguments, mut help) = (Vec::new(), Vec::new(), false);
    while let Some(word) = words.next() {
        let Some(flag) = without_dashes(&word)? else {
            if word != "--" {
                arguments.push(word);
            }
            break;
        };
        let (name, value) = match flag.iter().position(|&b| b == b'=') {
            Some(mark) => (
                &flag[..mark],
                Some(OsStr::from_bytes(&flag[mark + 1..]).to_owned()),
            ),
            None => (flag, None),
        };
        if name == b"h" || name == b"help" {
            help = true;
            break;
        }
        let flag = find(table, name)?;
        let value = match (value, flag.value) {
            (Some(value), _) => Some(value),
            (None, None) => Some("true".into()),
            (None, Some(_)) => words.next(),
        };
        let missing = || UsageError::new(format_args!("-{} needs a value", flag.name));
        flags.push((flag, value.ok_or_else(missing)?));
    }
    arguments.extend(words);
    Ok(Words {
        flags,
        arguments,
        help,
    })
}

/// What follows the dashes, or `None` when the flags end here.
fn without_dashes(word: &OsStr) -> Result<Option<&[u8]>, UsageError> {
    let Some(flag) = word.as_bytes().strip_prefix(b"-") else {
        return Ok(None);
    };
    let flag = flag.strip_prefix(b"-").unwrap_or(flag);
    match flag.first() {
        None => Ok(None),
        Some(b'-' | b'=') => Err(UsageError::new(format_args!(
            "{} is not a flag",
            printable(word)
        ))),
        Some(_) => Ok(Some(flag)),
    }
}

fn find(table: &'static [Flag], name: &[u8]) -> Result<&'static Flag, UsageError> {
    table
        .iter()
        .find(|flag| flag.name.as_bytes() == name)
        .ok_or_else(|| {
            let name = printable(OsStr::from_bytes(name));
            UsageError::new(format_args!("-{name} is not a flag of socketmaster"))
        })
}

/// Text from outside as one line that a terminal survives, for messages only.
pub fn printable(text: &OsStr) -> String {
    let mut line = String::new();
    for c in text.to_string_lossy().chars() {
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A Go integer literal (strconv.ParseInt with base 0): sign, `0x`, `0o`, `0b`, a leading `0` for
/// octal, `_` between digits. Errors: the reason alone.
pub fn integer(text: &str, limits: RangeInclusive<i64>) -> Result<i64, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', _, ..] => (16, &lower[2..]),
        [b'0', b'o', _, ..] => (8, &lower[2..]),
        [b'0', b'b', _, ..] => (2, &lower[2..]),
        [b'0', ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // Only after a prefix may the first group be empty: `0x_1f`, and `0`, which is octal's prefix.
    let prefixed = base != 10;
    let well_formed = digits.split('_').enumerate().all(|(i, group)| {
        (!group.is_empty() || (i == 0 && prefixed)) && group.chars().all(|c| c.is_digit(base))
    });
    if !well_formed {
        return Err("not a number".into());
    }
    let number = digits
        .chars()
        .filter_map(|c| c.to_digit(base))
        .try_fold(0_i64, |sum, digit| {
            sum.checked_mul(base.into())?.checked_add(digit.into())
        });
    let number = if text.starts_with('-') {
        number.map(|n| -n)
    } else {
        number
    };
    number
        .filter(|n| limits.contains(n))
        .ok_or_else(|| format!("out of range, {} to {}", limits.start(), limits.end()))
}

/// A Go boolean (strconv.ParseBool). Errors: the reason alone.
pub fn boolean(text: &str) -> Result<bool, String> {
    const YES: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];
    const NO: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];
    match (YES.contains(&text), NO.contains(&text)) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err("neither true nor false".into()),
    }
}

const WIDTH: usize = 80;

/// The text that `-help` prints, at most 80 columns wide.
pub fn help() -> String {
    let mut text =
        String::from("Usage: socketmaster -command=PATH [flags] [--] [argument ...]\n\n");
    wrap(
        &mut text,
        0,
        "Opens listening sockets and runs the command as workers that inherit them. \
        SIGHUP starts new workers, and stops the old ones when the new ones are ready.",
    );
    text.push_str(
        "\nFlags; -name=value, -name value, --name=value and --name value are the same:\n",
    );
    for flag in FLAGS {
        let value = flag
            .value
            .map(|value| format!("={value}"))
            .unwrap_or_default();
        let _ = writeln!(text, "  -{}{value}", flag.name);
        let default = match flag.default {
            "" => String::new(),
            "required" => " (required)".into(),
            default => format!(" (default {default})"),
        };
        wrap(&mut text, 8, &format!("{}{default}", flag.help));
    }
    text.push_str("\nOther uses:\n");
    text.push_str("  socketmaster ctl        talk to a running socketmaster\n");
    if cfg!(feature = "einhorn") {
        text.push_str(
            "  socketmaster einhorn    einhorn's command line, also when called einhorn\n",
        );
        text.push_str("  socketmaster einhornsh  einhorn's shell, also when called einhornsh\n");
    }
    text
}

/// Appends `text` in lines of at most `WIDTH` columns that begin with `indent` spaces.
fn wrap(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        let fits = column > 0 && column + 1 + word.len() <= WIDTH;
        match (column, fits) {
            (0, _) => out.extend(std::iter::repeat_n(' ', indent)),
            (_, true) => out.push(' '),
            (_, false) => {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
            }
        }
        column = if fits { column + 1 } else { indent } + word.len();
        out.push_str(word);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests;
