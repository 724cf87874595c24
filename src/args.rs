//! socketmaster's own command line: words by Go's rules, their values by argh, and the whole as a
//! `Config`. `Flags` is the only list of the flags: the parser, `-help` and the tests of the README
//! read it. Nothing is opened here and nothing is asked of the system.

use crate::config::{Config, LogTarget, Output, PROTOCOLS, Protocols, ReadyGate};
use crate::listen::uri::Uri;
use crate::text::{boolean, integer, printable, signal_number};
use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// One flag as argh describes it.
pub type Flag = FlagInfo<'static>;

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    Run(Box<Config>),
    Check(Box<Config>),
    /// The text for stdout.
    Help(String),
    Version,
}

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// One line that names the flag and the value, and points to the help.
    pub message: String,
    /// The exit status: 2, but 1 for a missing command.
    pub status: u8,
}

/// Opens listening sockets and runs the command as workers that inherit them. SIGHUP starts new
/// workers, and stops the old ones when the new ones are ready.
//
// A flag's comment is its text in the help, and ends with its default. An option is a `Vec`, because
// each of its values is checked and the last one holds.
#[derive(FromArgs, ArgsInfo)]
struct Flags {
    /// the program to run as the workers, looked up in $PATH at every start. (required)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    command: Vec<OsString>,
    /// a socket to open: tcp, tcp4, tcp6, udp, udp4 or udp6 with ://HOST:PORT; unix, unixpacket or
    /// unixgram with ://PATH or ://@NAME; fd://N or systemd://NAME for an inherited one. Repeat it
    /// for more sockets: workers have them at descriptors 3, 4, 5 and so on. Options:
    /// ?backlog=N&reuseport&name=NAME&fpm=NAME and, for a path, mode=0660&owner=LOGIN&group=NAME.
    /// (default tcp://:8080)
    #[argh(option, arg_name = "URI", from_str_fn(uri))]
    listen: Vec<Uri>,
    /// how long a new worker may take to boot. With -ready=timer it must stay alive that long,
    /// otherwise it must report within it. 0: no waiting with timer, no limit with the others.
    /// (default 3000)
    #[argh(option, arg_name = "MILLIS", from_str_fn(millis))]
    start: Vec<Duration>,
    /// run the workers as this user, by name or number, with its groups, HOME, USER and LOGNAME.
    /// Only root can. (default none)
    #[argh(option, arg_name = "LOGIN[:GROUP]", from_str_fn(login))]
    user: Vec<String>,
    /// log to syslog instead of stderr. (default off)
    #[argh(switch)]
    syslog: bool,
    /// the syslog daemon's socket; used with -syslog only. (default /dev/log)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    syslog_socket: Vec<OsString>,
    /// workers per generation. (default 1)
    #[argh(option, arg_name = "N", from_str_fn(workers))]
    workers: Vec<u32>,
    /// how many new workers may run beside the old during a reload. K = N: bring up all, then stop
    /// all old ones. K < N: rolling, an old one is asked to stop whenever a new one is ready.
    /// (default N)
    #[argh(option, arg_name = "K", from_str_fn(extra))]
    max_extra: Vec<u32>,
    /// how a new worker shows that it is ready: timer, notify (READY=1 to its NOTIFY_SOCKET) or ack
    /// (worker:ack to the control socket). (default timer)
    #[argh(option, arg_name = "GATE", from_str_fn(gate))]
    ready: Vec<ReadyGate>,
    /// how a worker is asked to stop at a reload. (default TERM)
    #[argh(option, arg_name = "SIG", from_str_fn(signal_number))]
    stop_signal: Vec<i32>,
    /// a worker that is still there so long after it was asked to stop gets SIGKILL, with its whole
    /// process group. 0: never. (default 0)
    #[argh(option, arg_name = "MILLIS", from_str_fn(millis))]
    stop: Vec<Duration>,
    /// replace a worker that dies: at once, then after 0.1 s, doubling to 30 s while they keep
    /// dying. (default off)
    #[argh(switch)]
    respawn: bool,
    /// the workers' working directory, entered by this name at every start, so that a symlink on the
    /// way that is flipped is followed. A relative -command is found from there. (default none)
    #[argh(option, arg_name = "DIR", from_str_fn(bytes))]
    chdir: Vec<OsString>,
    /// how workers are told about the sockets: einhorn, systemd, server-starter, nginx, php-fpm.
    /// (default einhorn)
    #[argh(option, arg_name = "NAME,...", from_str_fn(protocols))]
    protocol: Vec<Protocols>,
    /// what becomes of the workers' stdout and stderr. prefix: logged line by line with the worker's
    /// pid, and a stuck log holds the workers back. lossy: the same, but while the log is stuck lines
    /// are dropped and counted. inherit: the workers have ours. (default prefix)
    #[argh(option, arg_name = "prefix|lossy|inherit", from_str_fn(output))]
    output: Vec<Output>,
    /// open the control socket there. (default none)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    control: Vec<OsString>,
    /// write our pid there and hold a lock on it, so that a second instance fails. (default none)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    pidfile: Vec<OsString>,
    /// copy the listening sockets out of a running process instead of binding them, and stop it when
    /// our workers are ready. (default none)
    #[argh(option, arg_name = "PID", from_str_fn(pid))]
    takeover: Vec<i32>,
    /// workers get the stop signal when socketmaster itself dies. (default off)
    #[argh(switch)]
    die_with_parent: bool,
    /// check the command line, the command and the user, print what would be done, and exit; open
    /// and start nothing. (default off)
    #[argh(switch)]
    check: bool,
    /// print the version and exit.
    #[argh(switch)]
    version: bool,
}

/// Reads a command line, without the program's name.
///
/// Errors: status 2 for a flag or a value that will not do, 1 for a missing or empty `-command`.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<CommandLine, UsageError> {
    let words = split(table::<Flags>(), words)?;
    if words.help {
        return Ok(CommandLine::Help(help()));
    }
    let flags: Flags = values(&words.flags)?;
    if flags.version {
        return Ok(CommandLine::Version);
    }
    let check = flags.check;
    let config = Box::new(config(flags, words.arguments)?);
    Ok(match check {
        true => CommandLine::Check(config),
        false => CommandLine::Run(config),
    })
}

// ---- words ----

/// A command line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// What was given, in order. A switch without a value has the value `true`.
    pub flags: Vec<(&'static Flag, OsString)>,
    /// What follows the flags.
    pub arguments: Vec<OsString>,
    /// `-h`, `-help` or `--help` was met. Nothing after it was looked at, and the rest is void.
    pub help: bool,
}

/// The flags of a command line, without argh's own -help, which comes first: it says nothing of -h.
pub fn table<T: ArgsInfo>() -> &'static [Flag] {
    &T::get_args_info().flags[1..]
}

/// Takes a command line apart by the rules of Go's flag package (flag.FlagSet.Parse), for this table
/// of flags. Errors: a word that is no flag, a flag that is unknown or lacks its value.
pub fn split(
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
        let mut parts = flag.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        if name == "h" || name == "help" {
            help = true;
            break;
        }
        let known = table.iter().find(|flag| name == flag_name(flag));
        let flag = known.ok_or_else(|| {
            let name = printable(name);
            UsageError::new(format!("-{name} is not a flag of socketmaster"))
        })?;
        let value = match (value, &flag.kind) {
            (Some(value), _) => Some(value.to_owned()),
            (None, FlagInfoKind::Switch) => Some("true".into()),
            (None, FlagInfoKind::Option { .. }) => words.next(),
        };
        let missing = || UsageError::new(format_args!("-{} needs a value", flag_name(flag)));
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
        Some(b'-' | b'=') => {
            let problem = format!("{} is not a flag", printable(word));
            Err(UsageError::new(problem))
        }
        Some(_) => Ok(Some(flag)),
    }
}

/// The flag's name without the dashes that argh puts before it.
pub fn flag_name(flag: &Flag) -> &'static str {
    flag.long.trim_start_matches('-')
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
        let shown = match value.is_empty() {
            true => "\"\"".into(),
            false => printable(value),
        };
        UsageError::new(format_args!("-{flag} {shown}: {reason}"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// ---- values ----

/// Has argh read the values. It knows neither `-name=value` nor `-switch=false`, so it is given a
/// plain `--name value` for each option and `--name` for each switch that is on in the end.
pub fn values<T: FromArgs>(given: &[(&'static Flag, OsString)]) -> Result<T, UsageError> {
    let mut words = Vec::new();
    let mut switches = BTreeSet::new();
    for (flag, value) in given {
        if flag.kind != FlagInfoKind::Switch {
            words.extend([flag.long.to_owned(), widen(value)]);
            continue;
        }
        let is_on = boolean(&value.to_string_lossy())
            .map_err(|reason| UsageError::value(flag_name(flag), value, &reason))?;
        match is_on {
            true => switches.insert(flag.long),
            false => switches.remove(flag.long),
        };
    }
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.extend(switches);
    T::from_args(&["socketmaster"], &words).map_err(|exit| refusal(given, &exit.output))
}

/// argh's sentence about a bad value in our form.
fn refusal(given: &[(&Flag, OsString)], sentence: &str) -> UsageError {
    let ours = given.iter().find_map(|(flag, value)| {
        let (name, widened) = (flag.long, widen(value));
        let start = format!("Error parsing option '{name}' with value '{widened}': ");
        let reason = sentence.strip_prefix(&start)?;
        Some(UsageError::value(flag_name(flag), value, reason.trim_end()))
    });
    ours.unwrap_or_else(|| UsageError::new(sentence.trim_end()))
}

/// argh takes only `str`, and a path may be any bytes: each byte travels as the character of the
/// same number (Latin-1). ASCII stays as it is.
fn widen(value: &OsStr) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

// What each kind of value may be. Every `Err` is the reason alone: flag and value are put before it.

/// The opposite of `widen`.
pub fn bytes(value: &str) -> Result<OsString, String> {
    let bytes = value.chars().map(|c| c as u8).collect();
    Ok(OsString::from_vec(bytes))
}

fn login(value: &str) -> Result<String, String> {
    bytes(value)?.into_string().map_err(|_| "not UTF-8".into())
}

fn uri(value: &str) -> Result<Uri, String> {
    Uri::try_from(&*bytes(value)?)
}

/// At most what fits the original's nanoseconds: 292 years.
pub fn millis(value: &str) -> Result<Duration, String> {
    let millis = integer(value, 0..=i64::MAX / 1_000_000)?;
    Ok(Duration::from_millis(millis.unsigned_abs()))
}

fn workers(value: &str) -> Result<u32, String> {
    integer(value, 1..=10_000).map(|number| number as u32)
}

/// More than there are workers is as many as there are.
fn extra(value: &str) -> Result<u32, String> {
    integer(value, 1..=u32::MAX.into()).map(|number| number as u32)
}

fn pid(value: &str) -> Result<i32, String> {
    integer(value, 1..=i32::MAX.into()).map(|number| number as i32)
}

fn gate(value: &str) -> Result<ReadyGate, String> {
    match value {
        "timer" => Ok(ReadyGate::Timer),
        "notify" => Ok(ReadyGate::Notify),
        "ack" => Ok(ReadyGate::Ack),
        _ => Err("not one of timer, notify, ack".into()),
    }
}

fn output(value: &str) -> Result<Output, String> {
    match value {
        "prefix" => Ok(Output::Prefix),
        "lossy" => Ok(Output::Lossy),
        "inherit" => Ok(Output::Inherit),
        _ => Err("not one of prefix, lossy, inherit".into()),
    }
}

fn protocols(value: &str) -> Result<Protocols, String> {
    let mut set = Protocols::default();
    for name in value.split(',') {
        let protocol = set.by_name(name.trim());
        *protocol.ok_or_else(|| format!("not among {}", PROTOCOLS.join(", ")))? = true;
    }
    Ok(set)
}

// ---- the whole ----

fn config(mut flags: Flags, arguments: Vec<OsString>) -> Result<Config, UsageError> {
    let default = Config::default();
    let command = last_name(flags.command).ok_or_else(|| no_command(&arguments))?;
    let ready = flags.ready.pop().unwrap_or(default.ready);
    let protocols = flags.protocol.pop().unwrap_or(default.protocols);
    let control = last_name(flags.control);
    let refused = |reason| UsageError::value("ready", OsStr::new("ack"), reason);
    if ready == ReadyGate::Ack && control.is_none() {
        let reason = "needs -control, the socket on which workers report";
        return Err(refused(reason));
    }
    if ready == ReadyGate::Ack && !protocols.einhorn {
        let reason = "needs einhorn in -protocol, which tells workers where to report";
        return Err(refused(reason));
    }
    let syslog_socket = last_name(flags.syslog_socket).unwrap_or_else(|| "/dev/log".into());
    Ok(Config {
        command,
        arguments,
        user: flags.user.pop().filter(|login| !login.is_empty()),
        listen: match flags.listen.is_empty() {
            true => default.listen,
            false => flags.listen,
        },
        protocols,
        die_with_parent: flags.die_with_parent,
        workers: flags.workers.pop().unwrap_or(default.workers),
        max_extra: flags.max_extra.pop(),
        ready,
        start: flags.start.pop().unwrap_or(default.start),
        stop_signal: flags.stop_signal.pop().unwrap_or(default.stop_signal),
        stop: flags.stop.pop().filter(|stop| !stop.is_zero()),
        respawn: flags.respawn,
        output: flags.output.pop().unwrap_or(default.output),
        log: match flags.syslog {
            true => LogTarget::Syslog(syslog_socket),
            false => LogTarget::Stderr,
        },
        control,
        pidfile: last_name(flags.pidfile),
        chdir: last_name(flags.chdir),
        takeover: flags.takeover.pop(),
        ..default
    })
}

/// An empty name is none, as an unset variable in a unit file makes it.
fn last_name(mut given: Vec<OsString>) -> Option<OsString> {
    given.pop().filter(|name| !name.is_empty())
}

fn no_command(arguments: &[OsString]) -> UsageError {
    let hint = match arguments.first() {
        None => String::new(),
        Some(word) => format!(", before {}, where the flags end", printable(word)),
    };
    UsageError {
        status: 1,
        ..UsageError::new(format_args!("no command given: -command is required{hint}"))
    }
}

// ---- the help ----

/// The text that `-help` prints, at most 80 columns wide.
pub fn help() -> String {
    let info = Flags::get_args_info();
    let mut text = "Usage: socketmaster -command=PATH [flags] [--] [argument ...]\n\n".to_owned();
    wrap(&mut text, 0, info.description);
    text += "\nFlags; -name=value, -name value, --name=value and --name value are the same:\n";
    describe(&mut text, table::<Flags>());
    text += "  -help\n        Print this and exit; -h for short.\n";
    text += "\nOther uses:\n  socketmaster ctl        talk to a running socketmaster\n";
    if cfg!(feature = "einhorn") {
        text += "  socketmaster einhorn    einhorn's command line, also when called einhorn\n";
        text += "  socketmaster einhornsh  einhorn's shell, also when called einhornsh\n";
    }
    text
}

/// Appends these flags, each with what its comment says.
pub fn describe(text: &mut String, table: &[Flag]) {
    for flag in table {
        let _ = match flag.kind {
            FlagInfoKind::Switch => writeln!(text, "  -{}", flag_name(flag)),
            FlagInfoKind::Option { arg_name } => {
                writeln!(text, "  -{}={arg_name}", flag_name(flag))
            }
        };
        wrap(text, 8, flag.description);
    }
}

/// Appends a sentence in lines of at most 80 columns that begin with `indent` spaces. It gets the
/// capital letter that argh does not allow.
fn wrap(text: &mut String, indent: usize, sentence: &str) {
    let (first, rest) = sentence.split_at(sentence.len().min(1));
    let mut line = " ".repeat(indent) + &first.to_uppercase();
    for (index, word) in rest.split(' ').enumerate() {
        if index > 0 && line.len() + 1 + word.len() > 80 {
            *text += &line;
            text.push('\n');
            line = " ".repeat(indent) + word;
        } else {
            line += if index > 0 { " " } else { "" };
            line += word;
        }
    }
    *text += &line;
    text.push('\n');
}

#[cfg(test)]
mod tests;
