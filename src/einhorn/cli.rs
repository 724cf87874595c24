//! Einhorn's command line, read into the `Config` of the daemon. Nothing is opened or started here.

use super::commands::{level_of, verbosity};
use super::options::{OptionParser, float, split, to_i};
use super::{SPOKEN_VERSION, files};
use crate::config::{Config, Dialect, Nice, Output, ReadyGate, SignalAction};
use crate::listen::uri::{Address, Options, Scheme, Uri};
use crate::supervisor::{Pace, Style};
use crate::text::{self, printable};
use nix::unistd::{SysconfVar, sysconf};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The number of the first socket in a worker.
const FIRST_FD: usize = 3;
/// The most workers that anybody may ask for, as for `-workers`.
const WORKERS_MAX: u32 = 10_000;

/// Every option, as the help shows it. The parser reads them from here.
const OPTIONS: &str = "
    -b, --bind ADDR                  HOST:PORT, [IPV6]:PORT or unix:PATH, flags as in :80,r,n
    -c, --command-name NAME          Names the files: einhorn-NAME.sock, .pid, .lock
    -d, --socket-path PATH           The control socket (default $TMPDIR/einhorn.sock)
    -e, --pidfile PATH               The pid file (default $TMPDIR/einhorn.pid)
    -f, --lockfile PATH              The lock file (default $TMPDIR/einhorn.lock)
    -g, --command-socket-as-fd       Give workers a control connection, EINHORN_SOCK_FD
    -h, --help                       Print this text
    -k, --kill-children-on-exit      Workers get USR2 if the master dies
    -l, --backlog N                  Length of the sockets' queues (default 100)
    -m, --ack-mode MODE              manual: workers say when they are up; a number: seconds
                                     that they must live (default 1)
    -n, --number N                   Number of workers (default 1)
    -p, --preload PATH               Refused: it needs the Ruby einhorn
    -q, --quiet                      Say less
    -s, --seconds N                  Least time between two starts (default 1)
    -v, --verbose                    Say more
        --max-unacked N              Workers starting at a time (default: number of processors)
        --max-upgrade-additional N   Extra workers during an upgrade (default: all)
        --drop-env-var VAR           Leave VAR out of the environment at upgrades
        --reexec-as CMDLINE          What to run in place of einhorn at an upgrade
        --nice MASTER[:WORKER][:RENICE_CMD]  How nice the processes are
        --gc-before-fork             Accepted, without effect
        --with-state-fd N            [Internal] Take over from the einhorn that ran before
        --upgrade-check              [Internal] Say that we can be run, and exit
    -t, --signal-timeout T           SIGKILL workers T seconds after another signal
        --version                    Print the version
";

const HELP: &str = "
### Sockets

Each -b opens one socket. In the program it is the descriptor EINHORN_FD_0, EINHORN_FD_1, ... in
the order of the -b, and EINHORN_FD_COUNT says how many there are. Flags follow a comma:
n (o_nonblock) opens it with O_NONBLOCK; r (so_reuseaddr) is always on.

### Acks

A new worker counts as up when it has lived for one second, or for SECONDS with -m SECONDS. With
-m manual it says so itself, by the line {\"command\":\"worker:ack\",\"pid\":PID} written to the
socket that EINHORN_SOCK_PATH names.

### Upgrades

`einhornsh -e upgrade` or SIGHUP starts new workers; for each that is up an old one gets SIGUSR2,
which asks it to finish what it does and to exit. `einhornsh -e help` lists all commands.
";

const NO_TAKEOVER: &str = "cannot take over from a running einhorn; stop it, then start this one";
const PRELOAD: &str = "-p loads Ruby code into the master, which only the Ruby einhorn can: start the program without it";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    Run {
        config: Box<Config>,
        /// What a person should read in the log at the start.
        warnings: Vec<String>,
    },
    /// Print the text on stdout and exit. Help and usage exit with 1, as einhorn's do.
    Say { text: String, status: i32 },
}

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// One line for stderr, where einhorn prints a Ruby backtrace.
    pub message: String,
    /// 1, but 0 for `-n 0`, as einhorn has it.
    pub status: i32,
}

impl From<String> for Rejected {
    fn from(reason: String) -> Rejected {
        let message = format!("einhorn: {reason}");
        Rejected { message, status: 1 }
    }
}

/// Reads the words after `einhorn`. The files are in `directory` by default, and `processors` is the
/// default of `--max-unacked`.
pub fn parse(
    arguments: Vec<OsString>,
    directory: &Path,
    processors: u32,
) -> Result<Invocation, Rejected> {
    let ours = env!("CARGO_PKG_VERSION");
    let usage = format!(
        "## Usage\n\n    einhorn [options] program [arguments]\n\n\
         socketmaster {ours} as einhorn {SPOKEN_VERSION}: opens sockets, runs copies of the program\n\
         that share them, and replaces the copies without losing a connection.\n\
         `einhorn -h` says more.\n\n### Options\n{OPTIONS}"
    );
    let say = |text, status| Ok(Invocation::Say { text, status });
    let mut draft = Draft::new(processors);
    let mut words = OptionParser::new(OPTIONS, arguments);
    while let Some((option, value)) = words.next_option()? {
        match option {
            "help" => return say(usage + HELP, 1),
            "version" => return say(format!("{SPOKEN_VERSION}\n"), 0),
            // A Ruby master writes this into its log. After a 0 it would exec us, with
            // --with-state-fd.
            "upgrade-check" => {
                let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
                let who = format!("socketmaster {ours} as einhorn {SPOKEN_VERSION}, {os} {arch}");
                return say(format!("{who}: {NO_TAKEOVER}\n"), 1);
            }
            _ => draft.apply(option, &value)?,
        }
    }
    let Some(command) = words.next_operand() else {
        return say(usage, 1);
    };
    draft.config.command = command;
    draft.config.arguments = std::iter::from_fn(|| words.next_operand()).collect();
    draft.finish(directory)
}

/// How many processors there are.
pub fn processors() -> u32 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

/// Einhorn's signals. USR1 killed it, and its workers were orphaned; ALRM kills 1.x.
pub fn signals() -> Vec<(i32, SignalAction)> {
    vec![
        (SIGTERM, SignalAction::Stop(SIGTERM)),
        (SIGINT, SignalAction::Stop(SIGUSR2)),
        (SIGUSR2, SignalAction::Stop(SIGUSR2)),
        (SIGHUP, SignalAction::Reload),
        (SIGALRM, SignalAction::Reload),
        (SIGQUIT, SignalAction::Leave),
        (SIGUSR1, SignalAction::Ignore),
    ]
}

/// A command line that has not been read to its end: some defaults depend on later options.
struct Draft {
    config: Config,
    warnings: Vec<String>,
    name: Option<String>,
    number: i64,
    backlog: u32,
    /// The spin-up throttle.
    pace: Pace,
}

impl Draft {
    /// What einhorn does without options.
    fn new(processors: u32) -> Draft {
        let config = Config {
            listen: Vec::new(),
            shares_terminal: true,
            // Einhorn's everyday upgrade is the smooth one.
            style: Some(Style::Rolling),
            ready: ReadyGate::Timer,
            start: Duration::from_secs(1),
            stop_signal: SIGUSR2,
            respawn: true,
            signals: signals(),
            output: Output::Inherit,
            ..Config::default()
        };
        Draft {
            config,
            warnings: Vec::new(),
            name: None,
            number: 1,
            backlog: 100,
            pace: Pace {
                interval: Duration::from_secs(1),
                max_unready: processors,
            },
        }
    }

    /// Errors are one line each.
    fn apply(&mut self, option: &str, value: &OsStr) -> Result<(), String> {
        let text = &*value.to_string_lossy();
        let config = &mut self.config;
        match option {
            "bind" => {
                let bind = read_bind(value, &mut self.warnings)?;
                add_listener(config, bind);
            }
            "command-name" => self.name = Some(text.to_owned()),
            "socket-path" => config.control = Some(value.to_owned()),
            "pidfile" => config.pidfile = Some(value.to_owned()),
            "lockfile" => config.lockfile = Some(value.to_owned()),
            "command-socket-as-fd" => config.control_fd = true,
            "kill-children-on-exit" => config.die_with_parent = true,
            "backlog" => self.backlog = at_least_1(text),
            "ack-mode" => {
                (config.ready, config.start) = match (text, float(text)) {
                    ("manual", _) => (ReadyGate::Ack, Duration::ZERO),
                    (_, Some(life)) => (ReadyGate::Timer, seconds(life)),
                    _ => {
                        let known = "valid modes: FLOAT or manual";
                        return Err(format!("invalid ack-mode {text:?} ({known})"));
                    }
                }
            }
            "number" => self.number = to_i(text),
            "preload" => return Err(PRELOAD.into()),
            "quiet" => config.level = level_of(verbosity(config.level) + 1),
            "verbose" => config.level = level_of(verbosity(config.level).saturating_sub(1)),
            "seconds" => match float(text) {
                Some(interval) if interval > 0.0 => self.pace.interval = seconds(interval),
                _ => return Err(invalid("-s", text, "is no number of seconds above 0")),
            },
            "max-unacked" => {
                // 0 kills the original at its first respawn.
                let warning = || format!("--max-unacked {text}: taken as 1");
                self.warnings.extend((to_i(text) < 1).then(warning));
                self.pace.max_unready = at_least_1(text);
            }
            // An upgrade without a single extra worker could not begin.
            "max-upgrade-additional" => config.max_extra = Some(at_least_1(text)),
            "drop-env-var" => config.drop_env.push(value.to_owned()),
            // It is checked, and of no use before we can exec another executable.
            "reexec-as" => drop(split(text)?),
            "nice" => config.nice = nice(text)?,
            "gc-before-fork" => self
                .warnings
                .push("--gc-before-fork has no effect here".into()),
            "with-state-fd" => {
                return Err(match integer("--with-state-fd", text)? {
                    0.. => format!("--with-state-fd: {NO_TAKEOVER}"),
                    _ => invalid("--with-state-fd", text, "is no descriptor"),
                });
            }
            "signal-timeout" => config.stop = Some(seconds(integer("-t", text)? as f64)),
            other => return Err(format!("invalid option: --{other}")),
        }
        Ok(())
    }

    fn finish(mut self, directory: &Path) -> Result<Invocation, Rejected> {
        let config = &mut self.config;
        let number = self.number;
        config.workers = match u32::try_from(number) {
            Ok(workers @ 1..=WORKERS_MAX) => workers,
            _ => {
                let reason = format!("-n {number}: it must be 1 to {WORKERS_MAX}");
                let status = i32::from(number >= 1);
                return Err(Rejected {
                    status,
                    ..reason.into()
                });
            }
        };
        config.pace = Some(self.pace);
        replace_srv(config, &mut self.warnings);
        for uri in &mut config.listen {
            uri.options.backlog = Some(self.backlog);
        }
        let name = self.name.as_deref();
        let path = |ending| files::default_path(directory, name, ending).into();
        config.control.get_or_insert_with(|| path("sock"));
        config.pidfile.get_or_insert_with(|| path("pid"));
        config.lockfile.get_or_insert_with(|| path("lock"));
        config.dialect = Dialect::Einhorn(self.name);
        Ok(Invocation::Run {
            config: Box::new(self.config),
            warnings: self.warnings,
        })
    }
}

// ---- values ----

fn invalid(option: &str, text: &str, why: &str) -> String {
    format!("invalid value for {option}: {text:?} {why}")
}

/// `to_i`, or 1 where that is less.
fn at_least_1(text: &str) -> u32 {
    u32::try_from(to_i(text).max(1)).unwrap_or(u32::MAX)
}

/// `Integer()`: the whole text is one number, in any of the usual bases.
fn integer(option: &str, text: &str) -> Result<i64, String> {
    let number = text::integer(text.trim(), i64::MIN..=i64::MAX);
    number.map_err(|_| invalid(option, text, "is no integer"))
}

/// Seconds as a duration: nothing below zero, and no more than a century.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

fn nice(text: &str) -> Result<Nice, String> {
    let mut parts = text.trim_end_matches(':').splitn(3, ':');
    let level = |part| integer("--nice", part).map(|level| level.clamp(-20, 19) as i32);
    Ok(Nice {
        master: parts.next().map(level).transpose()?,
        worker: parts.next().map(level).transpose()?,
        renice: parts.next().map(str::to_owned),
    })
}

// ---- addresses ----

/// Reads `HOST:PORT[,FLAG…]`, and beyond einhorn `[IPv6]:PORT[,FLAG…]` and `unix:PATH[,FLAG…]`: the
/// address, and whether the listener gets O_NONBLOCK. SO_REUSEADDR is always set, so flag `r` changes
/// nothing. What a person should know about it is appended to `warnings`.
fn read_bind(text: &OsStr, warnings: &mut Vec<String>) -> Result<(Uri, bool), String> {
    let (mut place, mut nonblocking) = (text.as_bytes(), false);
    let name = printable(text);
    let is_path = place.starts_with(b"unix:/") || place.starts_with(b"unix:@");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    while let Some(comma) = place.iter().rposition(|&byte| byte == b',') {
        let flag = String::from_utf8_lossy(&place[comma + 1..]).to_ascii_lowercase();
        match flag.as_str() {
            "r" | "so_reuseaddr" => {}
            "n" | "o_nonblock" => nonblocking = true,
            "rn" | "nr" => {
                warnings.push(format!("bind {name}: taking {flag} for r,n"));
                nonblocking = true;
            }
            // A path may have commas, and what follows them is not a flag.
            _ if is_path || flag.is_empty() || !flag.chars().all(is_part) => break,
            _ => warnings.push(format!("bind {name}: unknown flag {flag} ignored")),
        }
        place = &place[..comma];
    }
    let shape = "it must be HOST:PORT, [IPV6]:PORT or unix:PATH, with flags as in 127.0.0.1:80,r,n";
    let text = uri_text(place).ok_or_else(|| shape.to_owned());
    let uri = text.and_then(|text| text.parse::<Uri>());
    let uri = uri.map_err(|reason| format!("cannot bind {name}: {reason}"))?;
    Ok((uri, nonblocking))
}

/// The same place as `-listen` says it.
fn uri_text(place: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(place).unwrap_or_default();
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        if !host.is_empty() && !host.contains(':') {
            return Some(format!("tcp4://{text}"));
        }
        if host.starts_with('[') && host.ends_with(']') {
            return Some(format!("tcp6://{text}"));
        }
    }
    let path = place.strip_prefix(b"unix:")?;
    let path = path.strip_prefix(b"//").unwrap_or(path);
    let address = match path {
        [] => return None,
        [b'@', name @ ..] => Address::Abstract(OsStr::from_bytes(name).to_owned()),
        path => Address::Path(OsStr::from_bytes(path).into()),
    };
    let (scheme, options) = (Scheme::Unix, Options::default());
    Some(
        Uri {
            scheme,
            address,
            options,
        }
        .to_string(),
    )
}

/// Returns the place of the new listener in `listen`.
fn add_listener(config: &mut Config, (uri, nonblocking): (Uri, bool)) -> usize {
    let index = config.listen.len();
    config.nonblocking.extend(nonblocking.then_some(index));
    config.listen.push(uri);
    index
}

/// Replaces each argument `srv:HOST:PORT[,FLAG…]` or `x=srv:…` by the number of its descriptor, and
/// opens what is not opened yet. (Deprecated in einhorn 0.8, passed through unchanged by 1.x.)
fn replace_srv(config: &mut Config, warnings: &mut Vec<String>) {
    let mut arguments = std::mem::take(&mut config.arguments);
    for argument in &mut arguments {
        let text = argument.to_str().unwrap_or_default();
        let start = text.rfind("=srv:").map_or(0, |at| at + 1);
        let address = text[start..].strip_prefix("srv:");
        let bind = address.and_then(|address| read_bind(OsStr::new(address), warnings).ok());
        let Some(bind) = bind.filter(|bind| bind.0.scheme == Scheme::Tcp4) else {
            continue;
        };
        let known = config.listen.iter().position(|uri| *uri == bind.0);
        let index = known.unwrap_or_else(|| add_listener(config, bind));
        warnings.push(format!(
            "{}: srv: arguments are deprecated, EINHORN_FD_{index} says the same",
            printable(argument)
        ));
        *argument = format!("{}{}", &text[..start], FIRST_FD + index).into();
    }
    config.arguments = arguments;
}

#[cfg(test)]
mod tests;
