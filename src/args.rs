//! socketmaster's own command line: words by Go's rules, their values by argh, and the whole as a
//! `Config`. `Flags` is the only list of the flags: the parser, `-help` and the tests of the README
//! read it. This file must never open anything or ask the system.

use crate::config::{Config, LogTarget, Output, Protocols, ReadyGate};
use crate::listen::uri::Uri;
use crate::text::{boolean, integer, printable, signal_number};
use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, Optionality};
use std::ffi::{OsStr, OsString};
use std::fmt;
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
// A flag's comment is its text in the help, and ends with its default.
#[derive(FromArgs, ArgsInfo)]
struct Flags {
    /// the program to run as the workers, looked up in $PATH at every start. (required)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    command: Option<OsString>,
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
    start: Option<Duration>,
    /// run the workers as this user, by name or number, with its groups, HOME, USER and LOGNAME.
    /// Only root can. (default none)
    #[argh(option, arg_name = "LOGIN[:GROUP]", from_str_fn(login))]
    user: Option<String>,
    /// log to syslog instead of stderr. (default off)
    #[argh(switch)]
    syslog: bool,
    /// the syslog daemon's socket; used with -syslog only. (default /dev/log)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    syslog_socket: Option<OsString>,
    /// workers per generation. (default 1)
    #[argh(option, arg_name = "N", from_str_fn(workers))]
    workers: Option<u32>,
    /// how many new workers may run beside the old during a reload. K = N: bring up all, then stop
    /// all old ones. K < N: rolling, an old one is asked to stop whenever a new one is ready.
    /// (default N)
    #[argh(option, arg_name = "K", from_str_fn(extra))]
    max_extra: Option<u32>,
    /// how a new worker shows that it is ready: timer, notify (READY=1 to its NOTIFY_SOCKET) or ack
    /// (worker:ack to the control socket). (default timer)
    #[argh(option, arg_name = "GATE", from_str_fn(gate))]
    ready: Option<ReadyGate>,
    /// how a worker is asked to stop: at a reload, by `ctl stop`, and, when this is given, by the first
    /// SIGTERM or SIGINT to us. Each further one is forwarded as it is. (default TERM)
    #[argh(option, arg_name = "SIG", from_str_fn(signal_number))]
    stop_signal: Option<i32>,
    /// a worker that is still there so long after it was asked to stop gets SIGKILL, with its whole
    /// process group. 0: never. (default 0)
    #[argh(option, arg_name = "MILLIS", from_str_fn(millis))]
    stop: Option<Duration>,
    /// replace a worker that dies: at once, then after 0.1 s, doubling to 30 s while they keep
    /// dying. (default off)
    #[argh(switch)]
    respawn: bool,
    /// the workers' working directory, entered by this name at every start, so that a symlink on the
    /// way that is flipped is followed. A relative -command is found from there. (default none)
    #[argh(option, arg_name = "DIR", from_str_fn(bytes))]
    chdir: Option<OsString>,
    /// how workers are told about the sockets: einhorn, systemd, server-starter, nginx, php-fpm.
    /// (default einhorn)
    #[argh(option, arg_name = "NAME,...", from_str_fn(protocols))]
    protocol: Option<Protocols>,
    /// what becomes of the workers' stdout and stderr. prefix: logged line by line with the worker's
    /// pid, and a stuck log holds the workers back. lossy: the same, but while the log is stuck lines
    /// are dropped and counted. inherit: the workers have ours. (default prefix)
    #[argh(option, arg_name = "prefix|lossy|inherit", from_str_fn(output))]
    output: Option<Output>,
    /// open the control socket there. (default none)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    control: Option<OsString>,
    /// write our pid there and hold a lock on it, so that a second instance fails. (default none)
    #[argh(option, arg_name = "PATH", from_str_fn(bytes))]
    pidfile: Option<OsString>,
    /// copy the listening sockets out of a running process instead of binding them, and stop it when
    /// our workers are ready. (default none)
    #[argh(option, arg_name = "PID", from_str_fn(pid))]
    takeover: Option<i32>,
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
    let is_check = flags.check;
    let config = Box::new(config(flags, words.arguments)?);
    Ok(if is_check {
        CommandLine::Check(config)
    } else {
        CommandLine::Run(config)
    })
}

// ---- words ----

/// A command line taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
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
    let mut taken = Words::default();
    while let Some(word) = words.next() {
        let flag = word.as_bytes().strip_prefix(b"-");
        let flag = match flag.map(|flag| flag.strip_prefix(b"-").unwrap_or(flag)) {
            None | Some([]) => {
                // The flags end here. Only `--` is not itself an argument.
                taken.arguments.extend((word != "--").then_some(word));
                break;
            }
            Some([b'-' | b'=', ..]) => {
                let word = printable(&word);
                return Err(UsageError::new(format_args!("{word} is not a flag")));
            }
            Some(flag) => flag,
        };
        let mut parts = flag.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        if name == "h" || name == "help" {
            taken.help = true;
            return Ok(taken);
        }
        let known = table.iter().find(|flag| name == flag_name(flag));
        let flag = known.ok_or_else(|| {
            let name = printable(name);
            UsageError::new(format_args!("-{name} is not a flag of socketmaster"))
        })?;
        let value = match (value, &flag.kind) {
            (Some(value), _) => Some(value.to_owned()),
            (None, FlagInfoKind::Switch) => Some("true".into()),
            (None, FlagInfoKind::Option { .. }) => words.next(),
        };
        let missing = || UsageError::new(format_args!("-{} needs a value", flag_name(flag)));
        taken.flags.push((flag, value.ok_or_else(missing)?));
    }
    taken.arguments.extend(words);
    Ok(taken)
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
        let shown = if value.is_empty() {
            "\"\"".into()
        } else {
            printable(value)
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

/// Has argh read the values. argh has no `-switch=false`, and refuses an option that is given twice,
/// where Go takes the last one. So each value is checked alone, and then argh gets those that hold.
pub fn values<T: FromArgs>(given: &[(&'static Flag, OsString)]) -> Result<T, UsageError> {
    let mut words: Vec<(&str, Option<String>)> = Vec::new();
    for (flag, value) in given {
        let name = flag.long;
        let refused = |reason: &str| UsageError::value(flag_name(flag), value, reason);
        if flag.optionality != Optionality::Repeating {
            words.retain(|(other, _)| *other != name);
        }
        if flag.kind == FlagInfoKind::Switch {
            if boolean(&value.to_string_lossy()).map_err(|reason| refused(&reason))? {
                words.push((name, None));
            }
            continue;
        }
        let text = widen(value);
        T::from_args(&["socketmaster"], &[name, &text]).map_err(|exit| {
            let start = format!("Error parsing option '{name}' with value '{text}': ");
            let reason = exit.output.strip_prefix(&start);
            refused(reason.unwrap_or(&exit.output).trim_end())
        })?;
        words.push((name, Some(text)));
    }
    let words = words.iter();
    let words: Vec<&str> = words
        .flat_map(|(name, value)| [Some(*name), value.as_deref()])
        .flatten()
        .collect();
    T::from_args(&["socketmaster"], &words).map_err(|exit| UsageError::new(exit.output.trim_end()))
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
    let mut protocols = Protocols::default();
    for name in value.split(',') {
        let mut all = protocols.by_name();
        let known = all.iter_mut().find(|(known, _)| *known == name.trim());
        match known {
            Some((_, is_asked_for)) => **is_asked_for = true,
            None => {
                return Err(format!(
                    "not among {}",
                    all.map(|(name, _)| name).join(", ")
                ));
            }
        }
    }
    Ok(protocols)
}

// ---- the whole ----

fn config(flags: Flags, arguments: Vec<OsString>) -> Result<Config, UsageError> {
    // An empty name is none, as an unset variable in a unit file makes it.
    let named = |name: Option<OsString>| name.filter(|name| !name.is_empty());
    let Some(command) = named(flags.command) else {
        let hint = arguments.first().map_or(String::new(), |word| {
            format!(", before {}, where the flags end", printable(word))
        });
        return Err(UsageError {
            status: 1,
            ..UsageError::new(format_args!("no command given: -command is required{hint}"))
        });
    };
    let default = Config::default();
    let ready = flags.ready.unwrap_or(default.ready);
    let protocols = flags.protocol.unwrap_or(default.protocols);
    let control = named(flags.control);
    let lacks = match ready {
        ReadyGate::Ack if control.is_none() => "-control, the socket on which workers report",
        ReadyGate::Ack if !protocols.einhorn => {
            "einhorn in -protocol, which tells workers where to report"
        }
        _ => "",
    };
    if !lacks.is_empty() {
        let ack = OsStr::new("ack");
        return Err(UsageError::value("ready", ack, &format!("needs {lacks}")));
    }
    let syslog_socket = named(flags.syslog_socket).unwrap_or_else(|| "/dev/log".into());
    Ok(Config {
        command,
        arguments,
        user: flags.user.filter(|login| !login.is_empty()),
        listen: if flags.listen.is_empty() {
            default.listen
        } else {
            flags.listen
        },
        chdir: named(flags.chdir),
        protocols,
        die_with_parent: flags.die_with_parent,
        workers: flags.workers.unwrap_or(default.workers),
        max_extra: flags.max_extra,
        ready,
        start: flags.start.unwrap_or(default.start),
        first_stop: flags.stop_signal,
        stop_signal: flags.stop_signal.unwrap_or(default.stop_signal),
        stop: flags.stop.filter(|stop| !stop.is_zero()),
        respawn: flags.respawn,
        output: flags.output.unwrap_or(default.output),
        log: if flags.syslog {
            LogTarget::Syslog(syslog_socket)
        } else {
            LogTarget::Stderr
        },
        control,
        pidfile: named(flags.pidfile),
        takeover: flags.takeover,
        ..default
    })
}

// ---- the help ----

/// The text that `-help` prints, at most 80 columns wide.
pub fn help() -> String {
    let mut text = "Usage: socketmaster -command=PATH [flags] [--] [argument ...]\n\n".to_owned();
    text += &wrapped(0, Flags::get_args_info().description);
    text += "\nFlags; -name=value, -name value, --name=value and --name value are the same:\n";
    text += &flag_texts(table::<Flags>());
    text += "\nOther uses:\n  socketmaster ctl        talk to a running socketmaster\n";
    if cfg!(feature = "einhorn") {
        text += "  socketmaster einhorn    einhorn's command line, also when called einhorn\n";
        text += "  socketmaster einhornsh  einhorn's shell, also when called einhornsh\n";
    }
    text
}

/// Each flag and its text, for a help; -help is the last.
pub fn flag_texts(table: &[Flag]) -> String {
    let mut text = String::new();
    for flag in table {
        let name = flag_name(flag);
        text += &match flag.kind {
            FlagInfoKind::Switch => format!("  -{name}\n"),
            FlagInfoKind::Option { arg_name } => format!("  -{name}={arg_name}\n"),
        };
        text += &wrapped(8, flag.description);
    }
    text + "  -help\n        Print this and exit; -h for short.\n"
}

/// A sentence in lines of at most 80 columns that begin with `indent` spaces. It gets the capital
/// letter that argh does not allow.
fn wrapped(indent: usize, sentence: &str) -> String {
    let (first, rest) = sentence.split_at(1);
    let mut lines: Vec<String> = Vec::new();
    for word in (first.to_uppercase() + rest).split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 80 => *line += &format!(" {word}"),
            _ => lines.push(" ".repeat(indent) + word),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests;
