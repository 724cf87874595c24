//! The command line: Go's and GNU's spelling normalised, argh, and validation into a `Config`.
//! Pure: it opens nothing and asks the system nothing.

use crate::flags::{self, Flag};
pub use crate::flags::{FLAGS, UsageError};
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
    pub max_extra: u32,
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
    let mut asked = Asked::nothing(words.arguments);
    for setting in settings(&words.flags)? {
        asked.set(setting);
    }
    if asked.version {
        return Ok(Call::Version);
    }
    let check = asked.check;
    let config = config(asked)?;
    Ok(if check {
        Call::Check(config)
    } else {
        Call::Run(config)
    })
}

/// What argh reads: `--flag NAME=VALUE` for each flag, in their order.
#[derive(FromArgs)]
struct Given {
    #[argh(option, from_str_fn(setting))]
    flag: Vec<Setting>,
}

/// One flag with its value, which is checked.
enum Setting {
    Command(OsString),
    Listen(Uri),
    Start(Duration),
    User(String),
    Syslog(bool),
    SyslogSocket(PathBuf),
    Workers(u32),
    MaxExtra(u32),
    Ready(Gate),
    StopSignal(i32),
    Stop(Duration),
    Respawn(bool),
    Protocol(Protocols),
    Output(Output),
    Control(PathBuf),
    Pidfile(PathBuf),
    Takeover(i32),
    DieWithParent(bool),
    Check(bool),
    Version(bool),
}

fn setting(given: &str) -> Result<Setting, String> {
    let (name, value) = given.split_once('=').unwrap_or((given, ""));
    Ok(match name {
        "command" => Setting::Command(narrow(value)),
        "listen" => Setting::Listen(uri(value)?),
        "start" => Setting::Start(millis(value)?),
        "user" => Setting::User(login(value)?),
        "syslog" => Setting::Syslog(flags::boolean(value)?),
        "syslog-socket" => Setting::SyslogSocket(narrow(value).into()),
        "workers" => Setting::Workers(workers(value)?),
        "max-extra" => Setting::MaxExtra(extra(value)?),
        "ready" => Setting::Ready(gate(value)?),
        "stop-signal" => Setting::StopSignal(signal(value)?),
        "stop" => Setting::Stop(millis(value)?),
        "respawn" => Setting::Respawn(flags::boolean(value)?),
        "protocol" => Setting::Protocol(protocols(value)?),
        "output" => Setting::Output(output(value)?),
        "control" => Setting::Control(narrow(value).into()),
        "pidfile" => Setting::Pidfile(narrow(value).into()),
        "takeover" => Setting::Takeover(pid(value)?),
        "die-with-parent" => Setting::DieWithParent(flags::boolean(value)?),
        "check" => Setting::Check(flags::boolean(value)?),
        "version" => Setting::Version(flags::boolean(value)?),
        _ => return Err(UNKNOWN.into()),
    })
}

/// Of a flag that stands in the table and not in `setting`: there is none.
const UNKNOWN: &str = "not a flag";

fn settings(given: &[(&Flag, OsString)]) -> Result<Vec<Setting>, UsageError> {
    let mut words = Vec::with_capacity(2 * given.len());
    for (flag, value) in given {
        words.push("--flag".to_owned());
        words.push(format!("{}={}", flag.name, widen(value)));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Given::from_args(&["socketmaster"], &words) {
        Ok(settings) => Ok(settings.flag),
        Err(exit) => Err(refusal(given, &exit.output)),
    }
}

/// argh's sentence about a bad value in our form.
fn refusal(given: &[(&Flag, OsString)], sentence: &str) -> UsageError {
    for (flag, value) in given {
        let (name, widened) = (flag.name, widen(value));
        let start = format!("Error parsing option '--flag' with value '{name}={widened}': ");
        if let Some(reason) = sentence.strip_prefix(&start) {
            return UsageError::value(name, value, reason.trim_end());
        }
    }
    UsageError::new(sentence.trim_end())
}

/// The flags put together: what is given again replaces what was given, but for `-listen`.
struct Asked {
    config: Config,
    max_extra: Option<u32>,
    syslog: bool,
    syslog_socket: Option<PathBuf>,
    check: bool,
    version: bool,
}

impl Asked {
    fn nothing(arguments: Vec<OsString>) -> Asked {
        Asked {
            config: Config {
                command: OsString::new(),
                arguments,
                listen: Vec::new(),
                start: Duration::from_secs(3),
                user: None,
                log: LogTarget::Stderr,
                workers: 1,
                max_extra: 1,
                ready: Gate::Timer,
                stop_signal: Signal::SIGTERM as i32,
                stop: None,
                respawn: false,
                protocols: EINHORN,
                output: Output::Prefix,
                control: None,
                pidfile: None,
                takeover: None,
                die_with_parent: false,
            },
            max_extra: None,
            syslog: false,
            syslog_socket: None,
            check: false,
            version: false,
        }
    }

    fn set(&mut self, setting: Setting) {
        let config = &mut self.config;
        match setting {
            Setting::Command(command) => config.command = command,
            Setting::Listen(uri) => config.listen.push(uri),
            Setting::Start(start) => config.start = start,
            Setting::User(login) => config.user = Some(login).filter(|login| !login.is_empty()),
            Setting::Syslog(syslog) => self.syslog = syslog,
            Setting::SyslogSocket(path) => self.syslog_socket = named(path),
            Setting::Workers(workers) => config.workers = workers,
            Setting::MaxExtra(extra) => self.max_extra = Some(extra),
            Setting::Ready(gate) => config.ready = gate,
            Setting::StopSignal(signal) => config.stop_signal = signal,
            Setting::Stop(stop) => config.stop = Some(stop).filter(|stop| !stop.is_zero()),
            Setting::Respawn(respawn) => config.respawn = respawn,
            Setting::Protocol(protocols) => config.protocols = protocols,
            Setting::Output(output) => config.output = output,
            Setting::Control(path) => config.control = named(path),
            Setting::Pidfile(path) => config.pidfile = named(path),
            Setting::Takeover(pid) => config.takeover = Some(pid),
            Setting::DieWithParent(die) => config.die_with_parent = die,
            Setting::Check(check) => self.check = check,
            Setting::Version(version) => self.version = version,
        }
    }
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

fn config(asked: Asked) -> Result<Config, UsageError> {
    let mut config = asked.config;
    if config.command.is_empty() {
        let message = match config.arguments.first() {
            None => "no command given: -command is required; see socketmaster -help".into(),
            Some(word) => format!(
                "no command given: -command is required, before {}, where the flags end; \
                 see socketmaster -help",
                flags::printable(word)
            ),
        };
        return Err(UsageError { message, status: 1 });
    }
    if config.ready == Gate::Ack {
        let reason = match (&config.control, config.protocols.einhorn) {
            (None, _) => "needs -control, the socket on which workers report",
            (_, false) => "needs einhorn in -protocol, which tells workers where to report",
            _ => "",
        };
        if !reason.is_empty() {
            return Err(UsageError::value("ready", OsStr::new("ack"), reason));
        }
    }
    config.max_extra = asked
        .max_extra
        .unwrap_or(config.workers)
        .min(config.workers);
    if asked.syslog {
        let socket = asked.syslog_socket.unwrap_or_else(|| "/dev/log".into());
        config.log = LogTarget::Syslog(socket);
    }
    if config.listen.is_empty() {
        config.listen.push(everywhere());
    }
    Ok(config)
}

/// An empty path is none, as an unset variable in a unit file makes it.
fn named(path: PathBuf) -> Option<PathBuf> {
    Some(path).filter(|path| !path.as_os_str().is_empty())
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
