//! The command line: Go's and GNU's spelling normalised, argh, and validation into a `Config`.
//! Pure: it opens nothing and asks the system nothing.

pub use crate::flags::UsageError;
use crate::flags::{self, Flag};
use crate::uri::{Address, Scheme, Uri};
use argh::FromArgs;
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// How a new worker shows that it is ready (`-ready`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It stays alive for `-start`.
    Timer,
    /// It sends `READY=1` to its `NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
    /// It sends einhorn's `worker:ack` to the control socket.
    Ack,
}

/// What becomes of the workers' stdout and stderr (`-output`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Prefix,
    Lossy,
    Inherit,
}

/// How workers are told about their sockets (`-protocol`); any set of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocols {
    pub einhorn: bool,
    pub systemd: bool,
    pub server_starter: bool,
    pub nginx: bool,
    pub php_fpm: bool,
}

/// Where our log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The journal's form is chosen by main when JOURNAL_STREAM matches.
    Stderr,
    /// A syslog daemon's datagram socket, `/dev/log` unless `-syslog-socket` names another.
    Syslog(PathBuf),
}

/// A validated command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As given: resolved in PATH again at every start.
    pub command: OsString,
    pub arguments: Vec<OsString>,
    pub listen: Vec<Uri>,
    pub start: Duration,
    pub user: Option<String>,
    pub log: LogTarget,
    pub workers: u32,
    /// `None`: as many as there are workers, also when their number changes.
    pub max_extra: Option<u32>,
    pub ready: Gate,
    pub stop_signal: i32,
    /// `None`: never killed.
    pub stop: Option<Duration>,
    pub respawn: bool,
    pub protocols: Protocols,
    pub output: Output,
    pub control: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    pub takeover: Option<i32>,
    pub die_with_parent: bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Run(Config),
    Check(Config),
    /// The text for stdout.
    Help(String),
    Version,
}

/// The most workers that anybody may ask for.
const WORKERS_MAX: i64 = 10_000;

/// What fits the original's nanoseconds: 292 years.
const MILLIS_MAX: i64 = i64::MAX / 1_000_000;

/// Reads a command line, without the program's name.
///
/// Errors: status 2 for a flag or a value that will not do, 1 for a missing or empty `-command`.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Call, UsageError> {
    let words = flags::split(words)?;
    if words.help {
        return Ok(Call::Help(flags::help()));
    }
    let mut values = values(&words.flags)?;
    if values.version.pop().unwrap_or(false) {
        return Ok(Call::Version);
    }
    let check = values.check.pop().unwrap_or(false);
    let config = config(values, words.arguments)?;
    Ok(if check {
        Call::Check(config)
    } else {
        Call::Run(config)
    })
}

/// The values as argh collects them. Each flag may repeat and each value is checked; the last wins.
#[derive(FromArgs)]
struct Values {
    #[argh(option, from_str_fn(text))]
    command: Vec<OsString>,
    #[argh(option, from_str_fn(uri))]
    listen: Vec<Uri>,
    #[argh(option, from_str_fn(millis))]
    start: Vec<Duration>,
    #[argh(option, from_str_fn(login))]
    user: Vec<String>,
    #[argh(option, from_str_fn(flags::boolean))]
    syslog: Vec<bool>,
    #[argh(option, from_str_fn(path))]
    syslog_socket: Vec<PathBuf>,
    #[argh(option, from_str_fn(workers))]
    workers: Vec<u32>,
    #[argh(option, from_str_fn(extra))]
    max_extra: Vec<u32>,
    #[argh(option, from_str_fn(gate))]
    ready: Vec<Gate>,
    #[argh(option, from_str_fn(signal))]
    stop_signal: Vec<i32>,
    #[argh(option, from_str_fn(millis))]
    stop: Vec<Duration>,
    #[argh(option, from_str_fn(flags::boolean))]
    respawn: Vec<bool>,
    #[argh(option, from_str_fn(protocols))]
    protocol: Vec<Protocols>,
    #[argh(option, from_str_fn(output))]
    output: Vec<Output>,
    #[argh(option, from_str_fn(path))]
    control: Vec<PathBuf>,
    #[argh(option, from_str_fn(path))]
    pidfile: Vec<PathBuf>,
    #[argh(option, from_str_fn(pid))]
    takeover: Vec<i32>,
    #[argh(option, from_str_fn(flags::boolean))]
    die_with_parent: Vec<bool>,
    #[argh(option, from_str_fn(flags::boolean))]
    check: Vec<bool>,
    #[argh(option, from_str_fn(flags::boolean))]
    version: Vec<bool>,
}

fn values(given: &[(&Flag, OsString)]) -> Result<Values, UsageError> {
    let mut words = Vec::with_capacity(2 * given.len());
    for (flag, value) in given {
        words.push(format!("--{}", flag.name));
        words.push(widen(value));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Values::from_args(&["socketmaster"], &words).map_err(|exit| refusal(given, &exit.output))
}

/// argh's sentence about a bad value in our form.
fn refusal(given: &[(&Flag, OsString)], sentence: &str) -> UsageError {
    let ours = given.iter().find_map(|(flag, value)| {
        let (name, widened) = (flag.name, widen(value));
        let start = format!("Error parsing option '--{name}' with value '{widened}': ");
        let reason = sentence.strip_prefix(&start)?;
        Some(UsageError::value(name, value, reason.trim_end()))
    });
    ours.unwrap_or_else(|| UsageError::new(sentence.trim_end()))
}

/// argh takes only `str`, and a path may be any bytes: each byte travels as the character of the
/// same number (Latin-1). ASCII stays as it is.
fn widen(value: &OsStr) -> String {
    value
        .as_bytes()
        .iter()
        .map(|&byte| char::from(byte))
        .collect()
}

/// The opposite of `widen`.
fn narrow(value: &str) -> OsString {
    OsString::from_vec(value.chars().map(|c| c as u8).collect())
}

fn config(mut values: Values, arguments: Vec<OsString>) -> Result<Config, UsageError> {
    let command = values.command.pop().filter(|command| !command.is_empty());
    let Some(command) = command else {
        let message = match arguments.first() {
            None => "no command given: -command is required; see socketmaster -help".into(),
            Some(word) => format!(
                "no command given: -command is required, before {}, where the flags end; \
                 see socketmaster -help",
                flags::printable(word)
            ),
        };
        return Err(UsageError { message, status: 1 });
    };
    let workers = values.workers.pop().unwrap_or(1);
    let ready = values.ready.pop().unwrap_or(Gate::Timer);
    let control = named(values.control);
    if ready == Gate::Ack && control.is_none() {
        let reason = "needs -control, the socket on which workers report";
        return Err(UsageError::value("ready", OsStr::new("ack"), reason));
    }
    let protocols = values.protocol.pop().unwrap_or(EINHORN);
    if ready == Gate::Ack && !protocols.einhorn {
        let reason = "needs einhorn in -protocol, which tells workers where to report";
        return Err(UsageError::value("ready", OsStr::new("ack"), reason));
    }
    let stop = values.stop.pop().filter(|stop| !stop.is_zero());
    Ok(Config {
        command,
        arguments,
        start: values.start.pop().unwrap_or(Duration::from_secs(3)),
        user: values.user.pop().filter(|login| !login.is_empty()),
        log: log_target(values.syslog.pop(), named(values.syslog_socket)),
        workers,
        max_extra: values.max_extra.pop(),
        ready,
        stop_signal: values.stop_signal.pop().unwrap_or(Signal::SIGTERM as i32),
        stop,
        respawn: values.respawn.pop().unwrap_or(false),
        protocols,
        output: values.output.pop().unwrap_or(Output::Prefix),
        control,
        pidfile: named(values.pidfile),
        takeover: values.takeover.pop(),
        die_with_parent: values.die_with_parent.pop().unwrap_or(false),
        listen: if values.listen.is_empty() {
            vec![everywhere()]
        } else {
            values.listen
        },
    })
}

/// An empty path is none, as an unset variable in a unit file makes it.
fn named(mut given: Vec<PathBuf>) -> Option<PathBuf> {
    given.pop().filter(|path| !path.as_os_str().is_empty())
}

fn log_target(syslog: Option<bool>, socket: Option<PathBuf>) -> LogTarget {
    match syslog {
        Some(true) => LogTarget::Syslog(socket.unwrap_or_else(|| "/dev/log".into())),
        _ => LogTarget::Stderr,
    }
}

const EINHORN: Protocols = Protocols {
    einhorn: true,
    systemd: false,
    server_starter: false,
    nginx: false,
    php_fpm: false,
};

/// `tcp://:8080`
fn everywhere() -> Uri {
    let address = Address::Host {
        host: String::new(),
        port: "8080".into(),
    };
    Uri {
        scheme: Scheme::Tcp,
        address,
        options: Default::default(),
    }
}

// What each kind of value may be. Every `Err` is the reason alone: flag and value are put before it.

fn text(value: &str) -> Result<OsString, String> {
    Ok(narrow(value))
}

fn path(value: &str) -> Result<PathBuf, String> {
    Ok(narrow(value).into())
}

fn login(value: &str) -> Result<String, String> {
    narrow(value).into_string().map_err(|_| "not UTF-8".into())
}

fn uri(value: &str) -> Result<Uri, String> {
    Uri::try_from(narrow(value).as_os_str()).map_err(|error| error.reason)
}

fn millis(value: &str) -> Result<Duration, String> {
    flags::integer(value, 0..=MILLIS_MAX).map(|n| Duration::from_millis(n.unsigned_abs()))
}

fn workers(value: &str) -> Result<u32, String> {
    flags::integer(value, 1..=WORKERS_MAX).map(|n| n as u32)
}

/// More than there are workers is as many as there are.
fn extra(value: &str) -> Result<u32, String> {
    flags::integer(value, 1..=u32::MAX.into()).map(|n| n as u32)
}

fn pid(value: &str) -> Result<i32, String> {
    flags::integer(value, 1..=i32::MAX.into()).map(|n| n as i32)
}

fn gate(value: &str) -> Result<Gate, String> {
    match value {
        "timer" => Ok(Gate::Timer),
        "notify" => Ok(Gate::Notify),
        "ack" => Ok(Gate::Ack),
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
        *match name.trim() {
            "einhorn" => &mut set.einhorn,
            "systemd" => &mut set.systemd,
            "server-starter" => &mut set.server_starter,
            "nginx" => &mut set.nginx,
            "php-fpm" => &mut set.php_fpm,
            _ => return Err("not among einhorn, systemd, server-starter, nginx, php-fpm".into()),
        } = true;
    }
    Ok(set)
}

/// A signal by number or by name, with or without SIG, in any case; also RTMIN+N and RTMAX-N.
fn signal(value: &str) -> Result<i32, String> {
    let name = value.to_ascii_uppercase();
    if name.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        return flags::integer(value, 1..=libc::SIGRTMAX().into()).map(|n| n as i32);
    }
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = Signal::iterator().find(|signal| signal.as_str().strip_prefix("SIG") == Some(name));
    let number = named
        .map(|signal| signal as i32)
        .or_else(|| real_time(name));
    number.ok_or_else(|| "not a signal".into())
}

/// `RTMIN`, `RTMIN+N`, `RTMAX`, `RTMAX-N` as in signal(7).
fn real_time(name: &str) -> Option<i32> {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = match name {
        "RTMIN" => first,
        "RTMAX" => last,
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(above), _) => first + i32::from(above.parse::<u8>().ok()?),
            (_, Some(below)) => last - i32::from(below.parse::<u8>().ok()?),
            _ => return None,
        },
    };
    (first..=last).contains(&number).then_some(number)
}

mod plan;
pub use plan::signal_name;
#[cfg(test)]
mod tests;
