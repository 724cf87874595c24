//! Einhorn's command line, read into the `Config` of the daemon. Nothing is opened or started here.

use super::commands::Verbosity;
use super::options::{OptionParser, Parsed, float, integer, seconds, split, to_i};
use super::{SPOKEN_VERSION, files};
use crate::config::{Config, Dialect, Nice, Output, ReadyGate, SignalAction};
use crate::listen::uri::{Scheme, Uri};
use crate::supervisor::{Pace, Style};
use crate::text::printable;
use nix::unistd::{SysconfVar, sysconf};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// The number of the first socket in a worker.
const FIRST_FD: usize = 3;
/// The most workers that anybody may ask for, as for `-workers`.
const WORKERS_MAX: u32 = 10_000;

/// Every option, as the help shows it. The parser reads them from here.
const OPTIONS: &str = "
    -b, --bind ADDR
            A socket for the workers: HOST:PORT, [IPV6]:PORT or unix:PATH, with flags as in :80,r,n
    -c, --command-name NAME
            Names the files: einhorn-NAME.sock, .pid, .lock
    -d, --socket-path PATH
            The control socket (default $TMPDIR/einhorn.sock)
    -e, --pidfile PATH
            The pid file (default $TMPDIR/einhorn.pid)
    -f, --lockfile PATH
            The lock file (default $TMPDIR/einhorn.lock)
    -g, --command-socket-as-fd
            Give workers a control connection, EINHORN_SOCK_FD
    -h, --help
            Print this text
    -k, --kill-children-on-exit
            Workers get USR2 if the master dies
    -l, --backlog N
            Length of the sockets' queues (default 100)
    -m, --ack-mode MODE
            manual: workers say when they are up; a number: seconds that they must live (default 1)
    -n, --number N
            Number of workers (default 1)
    -p, --preload PATH
            Refused: it needs the Ruby einhorn
    -q, --quiet
            Say less
    -s, --seconds N
            Least time between two starts (default 1)
    -v, --verbose
            Say more
        --max-unacked N
            Workers starting at a time (default: number of processors)
        --max-upgrade-additional N
            Extra workers during an upgrade (default: all)
        --drop-env-var VAR
            Leave VAR out of the environment at upgrades
        --reexec-as CMDLINE
            What to run in place of einhorn at an upgrade
        --nice MASTER[:WORKER][:RENICE_CMD]
            How nice the processes are
        --gc-before-fork
            Accepted, without effect
        --with-state-fd N
            [Internal] Take over from the einhorn that ran before
        --upgrade-check
            [Internal] Say that we can be run, and exit
    -t, --signal-timeout T
            SIGKILL workers T seconds after another signal
        --version
            Print the version
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

const STATE_FD: &str =
    "--with-state-fd: cannot take over from a running einhorn; stop it, then start this one";
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
    fn from(message: String) -> Rejected {
        Rejected {
            message: format!("einhorn: {message}"),
            status: 1,
        }
    }
}

/// What the options' defaults depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Where einhorn's files are by default.
    pub directory: PathBuf,
    /// The default of `--max-unacked`.
    pub processors: u32,
}

impl Defaults {
    /// Those of this process.
    pub fn look() -> Defaults {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        Defaults {
            directory: files::default_directory(),
            processors: online.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        }
    }
}

/// Reads the words after `einhorn`.
pub fn parse(arguments: Vec<OsString>, defaults: &Defaults) -> Result<Invocation, Rejected> {
    let mut draft = Draft::new(defaults);
    let mut words = OptionParser::new(OPTIONS, arguments, false);
    while let Some(item) = words.next_item()? {
        let Parsed::Option(option, value) = item else {
            continue;
        };
        let (text, status) = match option {
            "help" => (format!("{}{HELP}", usage()), 1),
            "version" => (format!("{SPOKEN_VERSION}\n"), 0),
            // To a Ruby master 0 would mean that it may exec us, with --with-state-fd.
            "upgrade-check" => (upgrade_check(), 1),
            _ => {
                draft.apply(option, &value)?;
                continue;
            }
        };
        return Ok(Invocation::Say { text, status });
    }
    let mut rest = words.rest();
    if rest.is_empty() {
        let (text, status) = (usage(), 1);
        return Ok(Invocation::Say { text, status });
    }
    draft.config.command = rest.remove(0);
    draft.config.arguments = rest;
    draft.finish(defaults)
}

/// What a command line without a command is answered with.
fn usage() -> String {
    format!(
        "## Usage\n\n    einhorn [options] program [arguments]\n\n\
         socketmaster {} as einhorn {SPOKEN_VERSION}: opens sockets, runs copies of the program\n\
         that share them, and replaces the copies without losing a connection.\n\
         `einhorn -h` says more.\n\n### Options\n{OPTIONS}",
        env!("CARGO_PKG_VERSION")
    )
}

/// What a master that thinks of running us writes into its log.
fn upgrade_check() -> String {
    format!(
        "socketmaster {} as einhorn {SPOKEN_VERSION}, {} {}: cannot take over from a running \
         einhorn; stop it, then start this one\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// Einhorn's signals. USR1 killed it, and its workers were orphaned; ALRM kills 1.x.
pub fn signals() -> Vec<(i32, SignalAction)> {
    vec![
        (libc::SIGTERM, SignalAction::Stop(libc::SIGTERM)),
        (libc::SIGINT, SignalAction::Stop(libc::SIGUSR2)),
        (libc::SIGUSR2, SignalAction::Stop(libc::SIGUSR2)),
        (libc::SIGHUP, SignalAction::Reload),
        (libc::SIGALRM, SignalAction::Reload),
        (libc::SIGQUIT, SignalAction::Leave),
        (libc::SIGUSR1, SignalAction::Ignore),
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
    takes_over: bool,
}

impl Draft {
    /// What einhorn does without options.
    fn new(defaults: &Defaults) -> Draft {
        let config = Config {
            listen: Vec::new(),
            shares_terminal: true,
            // Einhorn's everyday upgrade is the smooth one.
            style: Some(Style::Rolling),
            ready: ReadyGate::Timer,
            start: Duration::from_secs(1),
            stop_signal: libc::SIGUSR2,
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
                max_unready: defaults.processors.max(1),
            },
            takes_over: false,
        }
    }

    /// Errors are one line each.
    fn apply(&mut self, option: &str, value: &OsStr) -> Result<(), String> {
        let text = &*value.to_string_lossy();
        let config = &mut self.config;
        let verbosity = Verbosity::of(config.level);
        match option {
            "bind" => {
                let (uri, nonblocking) = bind(value, &mut self.warnings)?;
                config
                    .nonblocking
                    .extend(nonblocking.then_some(config.listen.len()));
                config.listen.push(uri);
            }
            "command-name" => self.name = Some(text.to_owned()),
            "socket-path" => config.control = Some(value.to_owned()),
            "pidfile" => config.pidfile = Some(value.to_owned()),
            "lockfile" => config.lockfile = Some(value.to_owned()),
            "command-socket-as-fd" => config.control_fd = true,
            "kill-children-on-exit" => config.die_with_parent = true,
            "backlog" => self.backlog = count(text, 1),
            "ack-mode" => (config.ready, config.start) = ack_mode(text)?,
            "number" => self.number = to_i(text),
            "preload" => return Err(PRELOAD.into()),
            "quiet" => config.level = verbosity.quieter().level(),
            "verbose" => config.level = verbosity.louder().level(),
            "seconds" => match float(text) {
                Some(interval) if interval > 0.0 => self.pace.interval = seconds(interval),
                _ => return Err(invalid("-s", text, "is no number of seconds above 0")),
            },
            "max-unacked" => {
                // 0 kills the original at its first respawn.
                if to_i(text) < 1 {
                    let warning = format!("--max-unacked {text}: taken as 1");
                    self.warnings.push(warning);
                }
                self.pace.max_unready = count(text, 1);
            }
            // An upgrade without a single extra worker could not begin.
            "max-upgrade-additional" => config.max_extra = Some(count(text, 1)),
            "drop-env-var" => config.drop_env.push(value.to_owned()),
            // It is checked, and of no use before we can exec another executable.
            "reexec-as" => drop(split(text)?),
            "nice" => config.nice = nice(text)?,
            "gc-before-fork" => {
                let warning = "--gc-before-fork has no effect here";
                self.warnings.push(warning.to_owned());
            }
            "with-state-fd" => match i32::try_from(whole("--with-state-fd", text)?) {
                Ok(0..) => self.takes_over = true,
                _ => return Err(invalid("--with-state-fd", text, "is no descriptor")),
            },
            "signal-timeout" => {
                let limit = whole("-t", text)?;
                config.stop = Some(seconds(limit as f64));
            }
            other => return Err(format!("invalid option: --{other}")),
        }
        Ok(())
    }

    fn finish(mut self, defaults: &Defaults) -> Result<Invocation, Rejected> {
        let config = &mut self.config;
        config.workers = match u32::try_from(self.number) {
            Ok(number @ 1..=WORKERS_MAX) => number,
            _ => {
                let message = format!("-n {}: it must be 1 to {WORKERS_MAX}", self.number);
                let status = if self.number < 1 { 0 } else { 1 };
                return Err(Rejected {
                    status,
                    ..message.into()
                });
            }
        };
        if self.takes_over {
            return Err(STATE_FD.to_owned().into());
        }
        config.pace = Some(self.pace);
        replace_srv(config, &mut self.warnings);
        for uri in &mut config.listen {
            uri.options.backlog = Some(self.backlog);
        }
        let name = self.name.as_deref();
        let path = |ending| files::default_path(&defaults.directory, name, ending).into();
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

/// `to_i` within `least` and what the type holds.
fn count(text: &str, least: u32) -> u32 {
    u32::try_from(to_i(text).max(least.into())).unwrap_or(u32::MAX)
}

fn whole(option: &str, text: &str) -> Result<i64, String> {
    integer(text).ok_or_else(|| invalid(option, text, "is no integer"))
}

fn ack_mode(text: &str) -> Result<(ReadyGate, Duration), String> {
    match (text, float(text)) {
        ("manual", _) => Ok((ReadyGate::Ack, Duration::ZERO)),
        (_, Some(life)) => Ok((ReadyGate::Timer, seconds(life))),
        _ => Err(format!(
            "invalid ack-mode {text:?} (valid modes: FLOAT or manual)"
        )),
    }
}

fn nice(text: &str) -> Result<Nice, String> {
    let mut parts = text.trim_end_matches(':').splitn(3, ':');
    let level = |part| whole("--nice", part).map(|level| level.clamp(-20, 19) as i32);
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
fn bind(text: &OsStr, warnings: &mut Vec<String>) -> Result<(Uri, bool), String> {
    let (place, flags) = split_flags(text.as_bytes());
    let name = printable(text);
    let uri = uri_text(place).ok_or_else(|| {
        format!(
            "cannot bind {name}: it must be HOST:PORT, [IPV6]:PORT or unix:PATH, with flags as in \
             127.0.0.1:80,r,n"
        )
    })?;
    let uri = Uri::try_from(OsStr::from_bytes(&uri))
        .map_err(|reason| format!("cannot bind {name}: {reason}"))?;
    let mut nonblocking = false;
    for flag in flags {
        match flag.as_str() {
            "r" | "so_reuseaddr" => {}
            "n" | "o_nonblock" => nonblocking = true,
            "rn" | "nr" => {
                warnings.push(format!("bind {name}: taking {flag} for r,n"));
                nonblocking = true;
            }
            _ => warnings.push(format!("bind {name}: unknown flag {flag} ignored")),
        }
    }
    Ok((uri, nonblocking))
}

/// The same place as `-listen` says it.
fn uri_text(place: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(place).unwrap_or_default();
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port && !host.is_empty() && !host.contains(':') {
        return Some(format!("tcp4://{text}").into_bytes());
    }
    if is_port && host.starts_with('[') && host.ends_with(']') {
        return Some(format!("tcp6://{text}").into_bytes());
    }
    let path = place.strip_prefix(b"unix:")?;
    let path = path.strip_prefix(b"//").unwrap_or(path);
    let mut uri = b"unix://".to_vec();
    for &byte in path {
        match byte {
            b'%' => uri.extend_from_slice(b"%25"),
            b'?' => uri.extend_from_slice(b"%3F"),
            other => uri.push(other),
        }
    }
    (!path.is_empty()).then_some(uri)
}

/// Cuts `,word,word` off the end; off a path only words that are flags, for it may have commas.
fn split_flags(text: &[u8]) -> (&[u8], Vec<String>) {
    const FLAGS: [&str; 6] = ["r", "so_reuseaddr", "n", "o_nonblock", "rn", "nr"];
    let is_path = text.starts_with(b"unix:/") || text.starts_with(b"unix:@");
    let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let (mut place, mut flags) = (text, Vec::new());
    while let Some(comma) = place.iter().rposition(|&byte| byte == b',') {
        let flag = String::from_utf8_lossy(&place[comma + 1..]).to_ascii_lowercase();
        let is_known = FLAGS.contains(&flag.as_str());
        if !is_known && (is_path || flag.is_empty() || !is_word(&flag)) {
            break;
        }
        flags.push(flag);
        place = &place[..comma];
    }
    (place, flags)
}

/// Replaces each argument `srv:HOST:PORT[,FLAG…]` or `x=srv:…` by the number of its descriptor, and
/// opens what is not opened yet. (Deprecated in einhorn 0.8, passed through unchanged by 1.x.)
fn replace_srv(config: &mut Config, warnings: &mut Vec<String>) {
    for argument in &mut config.arguments {
        let bytes = argument.as_bytes();
        let start = match bytes.windows(5).rposition(|window| window == b"=srv:") {
            Some(at) => at + 1,
            None if bytes.starts_with(b"srv:") => 0,
            None => continue,
        };
        let address = &bytes[start + b"srv:".len()..];
        let (uri, nonblocking) = match bind(OsStr::from_bytes(address), warnings) {
            Ok((uri, nonblocking)) if uri.scheme == Scheme::Tcp4 => (uri, nonblocking),
            _ => continue,
        };
        let known = config.listen.iter().position(|other| *other == uri);
        let index = known.unwrap_or_else(|| {
            config
                .nonblocking
                .extend(nonblocking.then_some(config.listen.len()));
            config.listen.push(uri);
            config.listen.len() - 1
        });
        warnings.push(format!(
            "{}: srv: arguments are deprecated, EINHORN_FD_{index} says the same",
            printable(argument)
        ));
        let mut replaced = OsString::from_vec(bytes[..start].to_vec());
        replaced.push((FIRST_FD + index).to_string());
        *argument = replaced;
    }
}

#[cfg(test)]
mod tests;
