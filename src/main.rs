//! `socketmaster`: arguments, log, sockets, loop, exit status; the faces by the name we are called.

use slog::{error, info, warn};
use socketmaster::args::{self, Call, Config};
use socketmaster::daemon::{self, Daemon, Setup};
use socketmaster::listen::{self, Inherited, Opened};
use socketmaster::log::Log;
use socketmaster::notify::Systemd;
use socketmaster::pidfile::PidFile;
use socketmaster::user::User;
use socketmaster::{program, sys, user};
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

/// How long the reason for not starting may take to be written.
const FINAL_FLUSH: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let status = face(std::env::args_os().collect());
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// Chooses by the name that we are called by, or by the first word.
fn face(mut words: Vec<OsString>) -> i32 {
    if !words.is_empty() {
        words.remove(0);
    }
    serve(words)
}

/// The supervisor itself.
fn serve(words: Vec<OsString>) -> i32 {
    // Before anything else, so that no signal finds us without a handler; those that our parent
    // had blocked come in now.
    let signals = daemon::install_signals();
    let _ = sys::process::unblock_signals();
    match args::parse(words) {
        Ok(Call::Help(text)) => print(&text),
        Ok(Call::Version) => print(concat!("socketmaster ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Call::Check(config)) => check(&config),
        Ok(Call::Run(config)) => run(config, signals),
        Err(error) => {
            eprintln!("socketmaster: {error}");
            i32::from(error.status)
        }
    }
}

fn print(text: &str) -> i32 {
    // A reader that went away is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

/// `-check`: what would be done, without doing it.
fn check(config: &Config) -> i32 {
    let resolved = resolve(config);
    let user = look_up_user(config);
    print(&config.to_string());
    let mut status = 0;
    match &resolved {
        Ok(path) => println!("resolves to {path}"),
        Err(error) => {
            println!("{error}");
            status = 1;
        }
    }
    if let Err(error) = &user {
        println!("{error}");
        status = 1;
    }
    status
}

fn run(config: Config, signals: std::io::Result<daemon::Signals>) -> i32 {
    let journal = std::env::var_os("JOURNAL_STREAM");
    let log = match Log::open(&config.log, std::io::stderr().as_fd(), journal.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("socketmaster: {error}");
            return 1;
        }
    };
    let logger = log.logger();
    let refuse = |mut log: Log, reason: String| {
        error!(logger, "{reason}");
        log.finish(FINAL_FLUSH);
        1
    };
    match set_up(config, signals, &logger) {
        Err(reason) => refuse(log, reason),
        Ok((setup, pidfile)) => {
            let status = match Daemon::new(setup, log) {
                Ok(daemon) => daemon.run(),
                Err((error, log)) => refuse(log, format!("cannot start: {error}")),
            };
            drop(pidfile);
            status
        }
    }
}

type Start = (Setup, Option<PidFile>);

/// Everything that may fail before the first worker is started; nothing is left behind then.
fn set_up(
    config: Config,
    signals: std::io::Result<daemon::Signals>,
    logger: &slog::Logger,
) -> Result<Start, String> {
    let signals = signals.map_err(|error| format!("cannot handle signals: {error}"))?;
    if let Some(pid) = config.takeover {
        return Err(format!(
            "cannot take over from process {pid}: not available in this version"
        ));
    }
    resolve(&config)?;
    let user = look_up_user(&config)?;
    let nofile = raise_limit(&config)?;
    let pid = std::process::id();
    let pidfile = config
        .pidfile
        .as_deref()
        .map(|path| PidFile::take(path, pid))
        .transpose();
    let pidfile = pidfile.map_err(|error| error.to_string())?;
    let variable = |name: &str| std::env::var_os(name);
    let systemd = Systemd::from_env(&variable, pid).unwrap_or_else(|error| {
        warn!(logger, "cannot notify systemd: {error}; going on without");
        None
    });
    let inherited = Inherited::parse(pid, &variable);
    let stored = inherited
        .passed
        .iter()
        .filter(|passed| passed.is_stored())
        .count();
    let opened = listen::open_all(&config.listen, &inherited).map_err(|error| error.to_string())?;
    announce(logger, &opened);
    Ok((
        Setup {
            config,
            signals,
            opened,
            user,
            nofile,
            systemd,
            stored,
        },
        pidfile,
    ))
}

/// Raises our limit of descriptors as far as it goes, and checks that the workers fit.
fn raise_limit(config: &Config) -> Result<(u64, u64), String> {
    let nofile = sys::process::raise_nofile()
        .map_err(|errno| format!("cannot raise the limit of descriptors: {}", errno.desc()))?;
    let capacity = daemon::capacity(nofile.1, config.listen.len());
    match config.workers <= capacity {
        true => Ok(nofile),
        false => Err(format!(
            "cannot run {} workers: the limit of {} descriptors (RLIMIT_NOFILE) suffices for \
             {capacity}",
            config.workers, nofile.1
        )),
    }
}

fn resolve(config: &Config) -> Result<String, String> {
    let path = std::env::var_os("PATH");
    let directory = program::logical_directory(std::env::var_os("PWD"))
        .and_then(|directory| program::open_directory(&directory));
    let directory = directory.as_ref().map(AsFd::as_fd);
    match program::resolve(&config.command, path.as_deref(), directory) {
        Ok(found) => Ok(found.display().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn look_up_user(config: &Config) -> Result<Option<User>, String> {
    config
        .user
        .as_deref()
        .map(user::lookup)
        .transpose()
        .map_err(|error| error.to_string())
}

fn announce(logger: &slog::Logger, opened: &Opened) {
    for notice in &opened.notices {
        warn!(logger, "{notice}");
    }
    for listener in &opened.listeners {
        info!(logger, "Listening on {}", listener.address());
    }
}
