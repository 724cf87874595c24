//! `socketmaster`: arguments, log, sockets, loop, exit status; the faces by the name we are called.

use slog::{error, info, warn};
use socketmaster::args::{self, Call, Config};
use socketmaster::control::{Access, Control, Face};
use socketmaster::daemon::{self, Daemon, Setup};
use socketmaster::listen::{self, Inherited, Opened};
use socketmaster::log::Log;
use socketmaster::notify::Systemd;
use socketmaster::pidfile::PidFile;
use socketmaster::user::User;
use socketmaster::{ctl, program, sys, user};
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let status = face(std::env::args_os().collect());
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// Chooses by the name that we are called by, or by the first word.
fn face(mut words: Vec<OsString>) -> i32 {
    let called = if words.is_empty() {
        OsString::new()
    } else {
        words.remove(0)
    };
    let called = Path::new(&called).file_name();
    if called.is_some_and(|name| name == "socketmaster-ctl") {
        return ctl::main(words);
    }
    match words.first().and_then(|word| word.to_str()) {
        Some("ctl") => ctl::main(words.split_off(1)),
        _ => serve(words),
    }
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
    let mut log = match Log::open(&config.log, std::io::stderr().as_fd(), journal.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("socketmaster: {error}");
            return 1;
        }
    };
    let logger = log.logger();
    match set_up(config, signals, &mut log) {
        Ok((daemon, pidfile)) => {
            let status = daemon(log);
            drop(pidfile);
            status
        }
        Err(reason) => {
            error!(logger, "{reason}");
            log.finish(std::time::Duration::from_secs(1));
            1
        }
    }
}

type Start = Box<dyn FnOnce(Log) -> i32>;

/// Everything that may fail before the first worker is started; nothing is left behind then.
fn set_up(
    config: Config,
    signals: std::io::Result<daemon::Signals>,
    log: &mut Log,
) -> Result<(Start, Option<PidFile>), String> {
    let logger = log.logger();
    let signals = signals.map_err(|error| format!("cannot handle signals: {error}"))?;
    resolve(&config)?;
    let user = look_up_user(&config)?;
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
    let control = open_control(&config, user.as_ref())?;
    let inherited = Inherited::parse(pid, &variable);
    let opened = listen::open_all(&config.listen, &inherited).map_err(|error| error.to_string())?;
    announce(&logger, &opened);
    let nofile = sys::process::raise_nofile()
        .map_err(|errno| format!("cannot raise the limit of descriptors: {}", errno.desc()))?;
    let capacity = daemon::capacity(nofile.1, opened.listeners.len());
    if config.workers > capacity {
        return Err(format!(
            "cannot run {} workers: the limit of {} descriptors (RLIMIT_NOFILE) suffices for \
             {capacity}",
            config.workers, nofile.1
        ));
    }
    let stored = inherited
        .passed
        .iter()
        .filter(|passed| passed.is_stored())
        .count();
    let start: Start = Box::new(move |log| {
        let logger = log.logger();
        let Opened {
            listeners, forget, ..
        } = opened;
        let setup = Setup {
            config,
            signals,
            log,
            listeners,
            user,
            nofile,
            systemd,
            stored,
            forget,
            control,
        };
        match Daemon::new(setup) {
            Ok(daemon) => daemon.run(),
            Err(error) => {
                error!(logger, "cannot start: {error}");
                1
            }
        }
    });
    Ok((start, pidfile))
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

fn open_control(config: &Config, user: Option<&User>) -> Result<Option<Control>, String> {
    let path = config.control.as_deref();
    let open = |path| Control::open(path, Access::of(user), Face::Socketmaster);
    path.map(open).transpose().map_err(|error| error.to_string())
}

fn announce(logger: &slog::Logger, opened: &Opened) {
    for notice in &opened.notices {
        warn!(logger, "{notice}");
    }
    for listener in &opened.listeners {
        info!(logger, "Listening on {}", listener.address());
    }
}
