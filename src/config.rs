//! What any front end can ask of the daemon. socketmaster's own command line and einhorn's both end
//! in a `Config`, and a later image of the program is handed the same one. It is plain data: this
//! file must never look up, open or decide anything. Paths are `OsString`s, because serde writes a
//! `PathBuf` as text and refuses one that is not UTF-8.

use crate::listen::uri::{Address, Uri};
use crate::supervisor::{self, Pace, Style};
use crate::text::signal_name;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The whole of what the daemon is asked to do. The default is that of our own command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The program as it was given: it is looked up in PATH at every start.
    pub command: OsString,
    pub arguments: Vec<OsString>,
    /// The name or number of the user that the workers run as, with `:GROUP` if one was given.
    pub user: Option<String>,
    pub listen: Vec<Uri>,
    /// The workers' working directory, entered by this name at every start; `None`: see
    /// `command::logical_directory`.
    pub chdir: Option<OsString>,
    /// The listeners, by their place in `listen`, that get O_NONBLOCK when they are opened.
    pub nonblocking: Vec<usize>,
    pub protocols: Protocols,
    /// The variables that workers of later generations than the first are not given.
    pub drop_env: Vec<OsString>,
    /// Each worker gets a connection to the control socket (EINHORN_SOCK_FD).
    pub control_fd: bool,
    /// Workers read our stdin even when it is a terminal.
    pub shares_terminal: bool,
    pub nice: Nice,
    pub die_with_parent: bool,

    pub workers: u32,
    /// How many new workers may run beside the old ones; `None`: as many as there are workers,
    /// also when their number changes.
    pub max_extra: Option<u32>,
    /// `None`: rolling where `max_extra` is less than `workers`.
    pub style: Option<Style>,
    pub ready: ReadyGate,
    /// How long a new worker may take to be ready. Zero: no limit, and no wait with the timer.
    pub start: Duration,
    pub stop_signal: i32,
    /// What the first request to stop us asks the workers with; `None`: SIGTERM or SIGINT, as it came.
    pub first_stop: Option<i32>,
    /// How long a worker that was asked to stop may take until SIGKILL; `None`: for ever.
    pub stop: Option<Duration>,
    pub respawn: bool,
    pub pace: Option<Pace>,

    /// What each signal to us asks for. The program catches these signals and SIGCHLD.
    pub signals: Vec<(i32, SignalAction)>,

    pub output: Output,
    pub log: LogTarget,
    /// The least severe level that is logged.
    #[serde(with = "Level")]
    pub level: slog::Level,

    pub control: Option<OsString>,
    pub dialect: Dialect,
    pub pidfile: Option<OsString>,
    /// The file that is locked while we start, so that of two einhorns only one does.
    pub lockfile: Option<OsString>,
    pub takeover: Option<i32>,
}

/// How a new worker shows that it is ready (`-ready`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadyGate {
    /// It stays alive for `start`.
    Timer,
    /// It sends `READY=1` to its `NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
    /// It sends einhorn's `worker:ack` to the control socket.
    Ack,
}

/// What becomes of the workers' stdout and stderr (`-output`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    Prefix,
    Lossy,
    Inherit,
}

/// How workers are told about their sockets (`-protocol`); any set of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    pub einhorn: bool,
    pub systemd: bool,
    pub server_starter: bool,
    pub nginx: bool,
    pub php_fpm: bool,
}

/// Where our log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTarget {
    Stderr,
    /// The path of a syslog daemon's datagram socket.
    Syslog(OsString),
}

/// Which commands the control socket understands, and by whose rules a client may send them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    Socketmaster,
    /// With the name that einhorn's `-c` gave it.
    #[cfg(feature = "einhorn")]
    Einhorn(Option<String>),
}

/// The niceness of our process and of the workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nice {
    /// In the units of setpriority(2); `None`: as we were started.
    pub master: Option<i32>,
    pub worker: Option<i32>,
    /// The command that is run as `CMD N -p PID`; `None`: setpriority(2).
    pub renice: Option<String>,
}

/// What a signal to us asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalAction {
    /// Send this signal to all workers, start no worker any more, and end with the last of them.
    Stop(i32),
    Reload,
    /// Forward the signal to all workers, and do nothing else.
    Forward,
    /// Forward the signal to all workers and end at once, with status 1.
    Leave,
    SelfUpgrade,
    /// Say in the log that it is ignored.
    Ignore,
}

/// What each signal asks for when the program is called by its own name.
pub fn signals() -> Vec<(i32, SignalAction)> {
    vec![
        (SIGTERM, SignalAction::Stop(SIGTERM)),
        (SIGINT, SignalAction::Stop(SIGINT)),
        (SIGHUP, SignalAction::Reload),
        (SIGUSR2, SignalAction::Reload),
        (SIGQUIT, SignalAction::Forward),
        (SIGUSR1, SignalAction::SelfUpgrade),
    ]
}

impl Default for Config {
    fn default() -> Config {
        let listen = "tcp://:8080".parse().expect("it is an address");
        Config {
            command: OsString::new(),
            arguments: Vec::new(),
            user: None,
            listen: vec![listen],
            chdir: None,
            nonblocking: Vec::new(),
            protocols: Protocols {
                einhorn: true,
                ..Protocols::default()
            },
            drop_env: Vec::new(),
            control_fd: false,
            shares_terminal: false,
            nice: Nice::default(),
            die_with_parent: false,
            workers: 1,
            max_extra: None,
            style: None,
            ready: ReadyGate::Timer,
            start: Duration::from_secs(3),
            stop_signal: SIGTERM,
            first_stop: None,
            stop: None,
            respawn: false,
            pace: None,
            signals: signals(),
            output: Output::Prefix,
            log: LogTarget::Stderr,
            level: slog::Level::Info,
            control: None,
            dialect: Dialect::Socketmaster,
            pidfile: None,
            lockfile: None,
            takeover: None,
        }
    }
}

impl Config {
    /// What a signal asks for: `Ignore` if the table does not name it.
    pub fn action(&self, signal: i32) -> SignalAction {
        let row = self.signals.iter().find(|(number, _)| *number == signal);
        row.map_or(SignalAction::Ignore, |(_, action)| *action)
    }

    /// The part that the core decides by; `capacity` is how many workers our descriptors suffice for.
    pub fn policy(&self, capacity: u32) -> supervisor::Policy {
        supervisor::Policy {
            workers: self.workers,
            max_extra: self.max_extra,
            style: self.style,
            gate: match self.ready {
                ReadyGate::Timer => supervisor::Gate::Timer,
                ReadyGate::Notify | ReadyGate::Ack => supervisor::Gate::Report,
            },
            start: self.start,
            stop: self.stop,
            stop_signal: self.stop_signal,
            respawn: self.respawn,
            pace: self.pace,
            capacity,
        }
    }
}

impl Protocols {
    /// Each protocol under the name that `-protocol` takes, and whether it is asked for.
    pub fn by_name(&mut self) -> [(&'static str, &mut bool); 5] {
        [
            ("einhorn", &mut self.einhorn),
            ("systemd", &mut self.systemd),
            ("server-starter", &mut self.server_starter),
            ("nginx", &mut self.nginx),
            ("php-fpm", &mut self.php_fpm),
        ]
    }
}

impl fmt::Display for Protocols {
    /// The names as `-protocol` takes them, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let asked_for = copy.by_name().into_iter().filter(|(_, is_set)| **is_set);
        let names: Vec<&str> = asked_for.map(|(name, _)| name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Display for Config {
    /// What `-check` prints: one line for each thing that would be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path| Path::new(path).display();
        let mut plan = Vec::new();
        // The listener's number in the workers; unknown from an unnamed `systemd://` on.
        let mut number = Some(3);
        for uri in &self.listen {
            let is_any_number = uri.address == Address::Name(String::new());
            number = number.filter(|_| !is_any_number);
            let place = number.map(|number| format!(", descriptor {number} of the workers"));
            plan.push(format!("listen on {uri}{}", place.unwrap_or_default()));
            number = number.map(|number| number + 1);
        }
        let takeover = |pid| format!("take the sockets over from process {pid}, then stop it");
        plan.extend(self.takeover.map(takeover));
        plan.push(format!("run {:?} {:?}", self.command, self.arguments));
        plan.extend(self.user.iter().map(|user| format!("as user {user}")));
        let chdir = |path| format!("in the directory {}", shown(path));
        plan.extend(self.chdir.as_ref().map(chdir));
        plan.push(format!("tell the workers by {}", self.protocols));
        plan.extend(self.life());
        let output = match self.output {
            Output::Prefix => "log the workers' output line by line",
            Output::Lossy => "log the workers' output, drop it while the log is stuck",
            Output::Inherit => "leave the workers' output alone",
        };
        plan.push(output.into());
        plan.push(match &self.log {
            LogTarget::Stderr => "log to stderr".into(),
            LogTarget::Syslog(socket) => format!("log to syslog at {}", shown(socket)),
        });
        let control = |path| format!("open the control socket {}", shown(path));
        plan.extend(self.control.as_ref().map(control));
        let pidfile = |path| format!("write and lock the pid file {}", shown(path));
        plan.extend(self.pidfile.as_ref().map(pidfile));
        writeln!(f, "{}", plan.join("\n"))
    }
}

impl Config {
    /// How many workers there are, when they are ready, and how they end.
    fn life(&self) -> Vec<String> {
        let workers = self.workers;
        let extra = self.max_extra.map_or(workers, |extra| extra.min(workers));
        let style = if extra < workers {
            "rolling"
        } else {
            "all at once"
        };
        let start = self.start.as_millis();
        let limit = match start {
            0 => "without a limit".into(),
            _ => format!("within {start} ms"),
        };
        let ready = match self.ready {
            ReadyGate::Timer => format!("alive after {start} ms"),
            ReadyGate::Notify => format!("READY=1 to NOTIFY_SOCKET {limit}"),
            ReadyGate::Ack => format!("worker:ack to the control socket {limit}"),
        };
        let kill = self.stop.map_or("never killed".into(), |stop| {
            format!("SIGKILL after {} ms", stop.as_millis())
        });
        let signal = signal_name(self.stop_signal);
        let mut lines = vec![
            format!("keep {workers} of them, at a reload {style} with at most {extra} more"),
            format!("ready: {ready}"),
            format!("an old worker is asked to stop with {signal} and {kill}"),
        ];
        if self.respawn {
            lines.push("a worker that dies is replaced".into());
        }
        if self.die_with_parent {
            lines.push("workers are stopped when socketmaster dies".into());
        }
        lines
    }
}

/// serde's view of slog's levels, which lack it themselves.
#[derive(Serialize, Deserialize)]
#[serde(remote = "slog::Level")]
pub enum Level {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

#[cfg(test)]
mod tests;
