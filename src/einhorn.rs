//! The `einhorn` face: its command line, and what our own parts are told in its place. It asks the
//! system nothing and starts nothing; what the answers on the control socket say is in `answers`.

pub mod answers;
pub mod binds;
pub mod files;
mod help;
pub mod options;
pub mod words;

#[cfg(test)]
mod tests;

pub use binds::Bind;

use crate::config::{Config, Dialect, Nice, Output, ReadyGate, SignalAction};
use crate::supervisor::{Pace, Style};
pub use help::SWITCHES;
use nix::unistd::{SysconfVar, sysconf};
use options::{Item, Words};
use slog::Level;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// The einhorn whose words and commands we speak; `--version` prints it alone, as scripts expect.
pub const SPOKEN_VERSION: &str = "1.1.1";

/// Where the first socket is in a worker.
pub const FIRST_FD: usize = 3;

/// When a new worker counts as up (`-m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// It sends `worker:ack`, however long that takes.
    Manual,
    /// It has lived that long.
    Timer(Duration),
}

/// What is said on stderr, and `quieter` and `louder` change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Debug,
    Info,
    Errors,
}

impl Verbosity {
    /// The least that is logged.
    pub fn level(self) -> Level {
        match self {
            Verbosity::Debug => Level::Trace,
            Verbosity::Info => Level::Info,
            Verbosity::Errors => Level::Warning,
        }
    }

    /// The opposite of `level`.
    pub fn of(level: Level) -> Verbosity {
        match level {
            Level::Debug | Level::Trace => Verbosity::Debug,
            Level::Info => Verbosity::Info,
            _ => Verbosity::Errors,
        }
    }

    /// einhorn's number for it: 0, 1 or 2.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// One step less talk; `Errors` stays.
    pub fn quieter(self) -> Verbosity {
        match self {
            Verbosity::Debug => Verbosity::Info,
            _ => Verbosity::Errors,
        }
    }

    /// One step more; `Debug` stays.
    pub fn louder(self) -> Verbosity {
        match self {
            Verbosity::Errors => Verbosity::Info,
            _ => Verbosity::Debug,
        }
    }
}

/// A validated command line of einhorn's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// As given: resolved in PATH at every start.
    pub command: OsString,
    /// `srv:` arguments are replaced by numbers already.
    pub arguments: Vec<OsString>,
    /// In the order in which workers have them, at `FIRST_FD` and up; `srv:` ones last.
    pub binds: Vec<Bind>,
    pub backlog: u32,
    /// `-c`.
    pub name: Option<String>,
    /// As given, relative or not: EINHORN_SOCK_PATH is this text.
    pub socket: PathBuf,
    pub pidfile: PathBuf,
    pub lockfile: PathBuf,
    /// `-g`: each worker gets a connection to the control socket, EINHORN_SOCK_FD.
    pub command_socket_as_fd: bool,
    pub kill_children_on_exit: bool,
    pub ack: Ack,
    pub number: u32,
    pub verbosity: Verbosity,
    /// `-s`: at least this long between two starts, other than those of the beginning.
    pub spin_up: Duration,
    /// `-t`: SIGKILL this long after a signal that asked to stop.
    pub signal_timeout: Option<Duration>,
    /// How many workers may be on their way to their ack at the same time; at least 1.
    pub max_unacked: u32,
    /// How many workers an upgrade may run beside the N.
    pub max_upgrade_additional: Option<u32>,
    /// To be taken out of the environment when the workers are replaced.
    pub drop_env: Vec<OsString>,
    /// `--reexec-as`, in words; empty: ourselves.
    pub reexec_as: Vec<String>,
    pub nice: Nice,
    /// `--with-state-fd`: a Ruby einhorn has exec'ed us and hands over its state there.
    pub state_fd: Option<i32>,
    /// What a person should read in the log at the start.
    pub warnings: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Run(Box<Face>),
    /// Print the text on stdout and exit: help and usage exit 1, as einhorn does.
    Say {
        text: String,
        status: i32,
    },
}

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One line for stderr.
    pub message: String,
    /// 1, but 0 for `-n 0`: so einhorn does.
    pub status: i32,
}

/// What the options' defaults depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Where einhorn's files are by default.
    pub directory: PathBuf,
    /// The default of `--max-unacked`.
    pub processors: u32,
}

impl Surroundings {
    /// Those of this process.
    pub fn look() -> Surroundings {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let processors = online.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        Surroundings {
            directory: files::default_directory(),
            processors,
        }
    }
}

/// Reads the words after `einhorn`.
///
/// # Errors
/// A [`Refusal`]: one line, where einhorn prints a Ruby backtrace.
pub fn parse(arguments: Vec<OsString>, around: &Surroundings) -> Result<Call, Refusal> {
    let mut draft = Draft::new(around);
    let mut words = Words::in_order(SWITCHES, arguments);
    while let Some(item) = words.next_item().map_err(refuse)? {
        let Item::Option(switch, value) = item else {
            continue;
        };
        if let Some(call) = informs(switch.long) {
            return Ok(call);
        }
        draft.apply(switch.long, &value).map_err(refuse)?;
    }
    let mut rest = words.rest();
    if rest.is_empty() {
        return Ok(Call::Say {
            text: help::usage(),
            status: 1,
        });
    }
    let command = rest.remove(0);
    draft
        .finish(command, rest)
        .map(|face| Call::Run(Box::new(face)))
}

fn refuse(message: String) -> Refusal {
    Refusal {
        message: format!("einhorn: {message}"),
        status: 1,
    }
}

fn informs(long: &str) -> Option<Call> {
    let (text, status) = match long {
        "help" => (help::long(), 1),
        "version" => (format!("{SPOKEN_VERSION}\n"), 0),
        // To a Ruby master 0 would mean that it may exec us, with --with-state-fd.
        "upgrade-check" => (help::environment(), 1),
        _ => return None,
    };
    Some(Call::Say { text, status })
}

/// A command line that has not been read to its end: defaults that depend on later options are open.
struct Draft {
    face: Face,
    directory: PathBuf,
    socket: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    lockfile: Option<PathBuf>,
    number: i64,
}

impl Draft {
    fn new(around: &Surroundings) -> Draft {
        Draft {
            face: Face {
                command: OsString::new(),
                arguments: Vec::new(),
                binds: Vec::new(),
                backlog: 100,
                name: None,
                socket: PathBuf::new(),
                pidfile: PathBuf::new(),
                lockfile: PathBuf::new(),
                command_socket_as_fd: false,
                kill_children_on_exit: false,
                ack: Ack::Timer(Duration::from_secs(1)),
                number: 1,
                verbosity: Verbosity::Info,
                spin_up: Duration::from_secs(1),
                signal_timeout: None,
                max_unacked: around.processors.max(1),
                max_upgrade_additional: None,
                drop_env: Vec::new(),
                reexec_as: Vec::new(),
                nice: Nice::default(),
                state_fd: None,
                warnings: Vec::new(),
            },
            directory: around.directory.clone(),
            socket: None,
            pidfile: None,
            lockfile: None,
            number: 1,
        }
    }

    /// Errors are one line each.
    fn apply(&mut self, long: &str, value: &OsStr) -> Result<(), String> {
        let text = &*value.to_string_lossy();
        let face = &mut self.face;
        match long {
            "bind" => face.binds.push(Bind::parse(value, &mut face.warnings)?),
            "command-name" => face.name = Some(text.to_owned()),
            "socket-path" => self.socket = Some(value.into()),
            "pidfile" => self.pidfile = Some(value.into()),
            "lockfile" => self.lockfile = Some(value.into()),
            "command-socket-as-fd" => face.command_socket_as_fd = true,
            "kill-children-on-exit" => face.kill_children_on_exit = true,
            "backlog" => face.backlog = count(text, 1),
            "ack-mode" => face.ack = ack(text)?,
            "number" => self.number = words::to_i(text),
            "preload" => return Err(PRELOAD.into()),
            "quiet" => face.verbosity = face.verbosity.quieter(),
            "verbose" => face.verbosity = face.verbosity.louder(),
            "seconds" => face.spin_up = spin_up(text)?,
            "max-unacked" => face.max_unacked = max_unacked(text, &mut face.warnings),
            "max-upgrade-additional" => face.max_upgrade_additional = Some(count(text, 0)),
            "drop-env-var" => face.drop_env.push(value.to_owned()),
            "reexec-as" => face.reexec_as = words::split(text)?,
            "nice" => face.nice = nice(text)?,
            "gc-before-fork" => face
                .warnings
                .push("--gc-before-fork has no effect here".into()),
            "with-state-fd" => face.state_fd = Some(descriptor(text)?),
            "signal-timeout" => {
                let seconds = u64::try_from(integer("-t", text)?).unwrap_or(0);
                face.signal_timeout = Some(words::seconds(seconds as f64));
            }
            other => return Err(format!("invalid option: --{other}")),
        }
        Ok(())
    }

    fn finish(self, command: OsString, arguments: Vec<OsString>) -> Result<Face, Refusal> {
        let mut face = self.face;
        face.number = match u32::try_from(self.number) {
            Ok(number @ 1..=WORKERS_MAX) => number,
            Ok(_) | Err(_) => {
                let message = format!("einhorn: -n {}: it must be 1 to {WORKERS_MAX}", self.number);
                let status = if self.number < 1 { 0 } else { 1 };
                return Err(Refusal { message, status });
            }
        };
        if face.state_fd.is_some() {
            return Err(refuse(STATE_FD.into()));
        }
        face.command = command;
        face.arguments = arguments;
        binds::take_srv(
            &mut face.arguments,
            &mut face.binds,
            FIRST_FD,
            &mut face.warnings,
        );
        let default =
            |ending: &str| files::default_path(&self.directory, face.name.as_deref(), ending);
        face.socket = self.socket.unwrap_or_else(|| default("sock"));
        face.pidfile = self.pidfile.unwrap_or_else(|| default("pid"));
        face.lockfile = self.lockfile.unwrap_or_else(|| default("lock"));
        Ok(face)
    }
}

/// As for `-workers`.
const WORKERS_MAX: u32 = 10_000;

const STATE_FD: &str =
    "--with-state-fd: cannot take over from a running einhorn; stop it, then start this one";

const PRELOAD: &str = "-p loads Ruby code into the master, which only the Ruby einhorn can: start the program without it";

/// `to_i` within `least` and what the type holds.
fn count(text: &str, least: u32) -> u32 {
    u32::try_from(words::to_i(text).max(least.into())).unwrap_or(u32::MAX)
}

/// 0 kills the original at its first respawn.
fn max_unacked(text: &str, warnings: &mut Vec<String>) -> u32 {
    if words::to_i(text) < 1 {
        warnings.push(format!("--max-unacked {text}: taken as 1"));
    }
    count(text, 1)
}

fn integer(option: &str, text: &str) -> Result<i64, String> {
    words::integer(text)
        .ok_or_else(|| format!("invalid value for {option}: {text:?} is no integer"))
}

fn descriptor(text: &str) -> Result<i32, String> {
    let number = integer("--with-state-fd", text)?;
    let fd = i32::try_from(number).ok().filter(|fd| *fd >= 0);
    fd.ok_or_else(|| format!("invalid value for --with-state-fd: {text:?} is no descriptor"))
}

fn ack(text: &str) -> Result<Ack, String> {
    if text == "manual" {
        return Ok(Ack::Manual);
    }
    match words::float(text) {
        Some(seconds) => Ok(Ack::Timer(words::seconds(seconds))),
        None => Err(format!(
            "invalid ack-mode {text:?} (valid modes: FLOAT or manual)"
        )),
    }
}

fn spin_up(text: &str) -> Result<Duration, String> {
    match words::float(text) {
        Some(seconds) if seconds > 0.0 => Ok(words::seconds(seconds)),
        _ => Err(format!(
            "invalid value for -s: {text:?} is no number of seconds above 0"
        )),
    }
}

fn nice(text: &str) -> Result<Nice, String> {
    let mut parts = text.trim_end_matches(':').splitn(3, ':');
    let mut level = || match parts.next() {
        Some(part) => integer("--nice", part).map(|level| Some(level.clamp(-20, 19) as i32)),
        None => Ok(None),
    };
    let (master, worker) = (level()?, level()?);
    Ok(Nice {
        master,
        worker,
        renice: parts.next().map(str::to_owned),
    })
}

impl Face {
    /// The same for the daemon. `-listen` may be empty, `control` and `pidfile` never are.
    ///
    /// # Errors
    /// One line, for an address that cannot be.
    pub fn config(&self) -> Result<Config, String> {
        let binds = self.binds.iter();
        let listen: Result<_, _> = binds.map(|bind| bind.uri(self.backlog)).collect();
        let is_nonblocking = |index: &usize| self.binds[*index].nonblocking;
        let (ready, start) = match self.ack {
            Ack::Manual => (ReadyGate::Ack, Duration::ZERO),
            Ack::Timer(time) => (ReadyGate::Timer, time),
        };
        Ok(Config {
            command: self.command.clone(),
            arguments: self.arguments.clone(),
            listen: listen?,
            nonblocking: (0..self.binds.len()).filter(is_nonblocking).collect(),
            drop_env: self.drop_env.clone(),
            control_fd: self.command_socket_as_fd,
            shares_terminal: true,
            nice: self.nice.clone(),
            die_with_parent: self.kill_children_on_exit,
            workers: self.number,
            // An upgrade without a single extra worker could not begin.
            max_extra: self.max_upgrade_additional.map(|extra| extra.max(1)),
            // einhorn's everyday upgrade is the smooth one.
            style: Some(Style::Rolling),
            ready,
            start,
            stop_signal: libc::SIGUSR2,
            stop: self.signal_timeout,
            respawn: true,
            // The spin-up throttle.
            pace: Some(Pace {
                interval: self.spin_up,
                max_unready: self.max_unacked,
            }),
            signals: signals(),
            stop_is_success: true,
            output: Output::Inherit,
            level: self.verbosity.level(),
            control: Some(self.socket.clone().into()),
            dialect: Dialect::Einhorn(self.name.clone()),
            pidfile: Some(self.pidfile.clone().into()),
            lockfile: Some(self.lockfile.clone().into()),
            ..Config::default()
        })
    }
}

/// einhorn's signals. USR1 killed it, and its workers were orphaned; ALRM kills 1.x.
pub fn signals() -> BTreeMap<i32, SignalAction> {
    BTreeMap::from([
        (libc::SIGTERM, SignalAction::Stop(libc::SIGTERM)),
        (libc::SIGINT, SignalAction::Stop(libc::SIGUSR2)),
        (libc::SIGUSR2, SignalAction::Stop(libc::SIGUSR2)),
        (libc::SIGHUP, SignalAction::Reload),
        (libc::SIGALRM, SignalAction::Reload),
        (libc::SIGQUIT, SignalAction::Leave),
        (libc::SIGUSR1, SignalAction::Ignore),
    ])
}
