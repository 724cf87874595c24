//! Set-up in its order, ending in the daemon, and `-check`, which goes as far as it can without
//! changing anything. Everything here may still fail: then one line says why, and no file of ours
//! stays. It must never start a worker, which is the daemon's part.
//!
//! The order: the signals' handlers are installed before the command line is read (`catch_signals`).
//! Then come the log, the checks that touch nothing (the command, the user, the limit of
//! descriptors), the files that keep a second instance out, systemd's socket, the control socket,
//! and the listeners last.

use crate::config::{Config, Dialect, SignalAction};
use crate::control::{Access, Server};
use crate::daemon::{self, Daemon, Setup, Signals};
use crate::listen::{self, Inherited, Opened};
use crate::log::Log;
use crate::own_file::{FileRefusal, OwnFile, PidFile, replaceable_by_everybody};
use crate::sys;
use crate::systemd::Systemd;
use crate::text::error_text;
use crate::worker::command;
use crate::worker::user::{self, User};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::rlim_t;
use nix::unistd::{geteuid, getuid};
use slog::Logger;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// How long the reason for not starting may take to be written.
const FINAL_FLUSH: Duration = Duration::from_secs(1);

/// Installs the handlers of these signals. It is called before anything else, so that no signal
/// finds us without a handler. Signals that our parent had blocked are delivered now.
///
/// Errors: "cannot unblock signals: Operation not permitted": no stop could reach us.
pub fn catch_signals(signals: &[(i32, SignalAction)]) -> Result<Signals, String> {
    let installed = Signals::install(signals.iter().map(|(signal, _)| *signal));
    let installed = installed.map_err(|error| failed("handle signals", error))?;
    sys::process::unblock_signals().map_err(|errno| failed("unblock signals", errno))?;
    Ok(installed)
}

/// Runs the daemon until it ends; returns the exit status. The `warnings`, about the command line,
/// are logged.
///
/// Errors: the log cannot be opened. Later reasons for not starting are logged, with status 1.
pub fn run(
    config: Config,
    warnings: &[String],
    signals: Result<Signals, String>,
) -> Result<i32, String> {
    let journal = std::env::var_os("JOURNAL_STREAM");
    let log = Log::open(&config.log, sys::io::stderr(), journal.as_deref())?;
    log.set_level(config.level);
    let logger = log.logger();
    for warning in warnings {
        slog::warn!(logger, "{warning}");
    }
    let (reason, mut log) = match set_up(config, signals, &logger) {
        Err(reason) => (reason, log),
        Ok(setup) => match Daemon::new(setup, log) {
            Ok(daemon) => return Ok(daemon.run()),
            Err(failed) => {
                let (what, log) = *failed;
                (format!("cannot {what}"), log)
            }
        },
    };
    slog::error!(logger, "{reason}");
    log.finish(FINAL_FLUSH);
    Ok(1)
}

/// What `-check` prints, and its exit status: what would be done, and every reason why it cannot be.
pub fn check(config: &Config) -> (String, i32) {
    let mut text = config.to_string();
    let resolved = resolve(config);
    if let Ok(path) = &resolved {
        text += &format!("resolves to {path}\n");
    }
    let errors = [
        resolved.err(),
        look_up_user(config).err(),
        refuse_takeover(config).err(),
        raise_limit(config).err(),
        listen::check(&config.listen).err(),
    ];
    if let Ok(Some(warning)) = look_up_user(config).map(|user| powerless_over(&user?)) {
        text += &format!("warning: {warning}\n");
    }
    let errors: String = errors
        .iter()
        .flatten()
        .map(|it| format!("{it}\n"))
        .collect();
    let status = (!errors.is_empty()).into();
    (text + &errors, status)
}

/// Everything that may fail before the first worker is started.
fn set_up(
    config: Config,
    signals: Result<Signals, String>,
    logger: &Logger,
) -> Result<Setup, String> {
    let signals = signals?;
    refuse_takeover(&config)?;
    resolve(&config)?;
    let user = look_up_user(&config)?;
    if let Some(warning) = user.as_ref().and_then(powerless_over) {
        slog::warn!(logger, "{warning}");
    }
    let nofile = raise_limit(&config)?;

    let pid = std::process::id();
    let path = config.pidfile.as_deref().map(Path::new);
    if let Some((path, why)) = path.and_then(|path| Some((path, replaceable_by_everybody(path)?))) {
        slog::warn!(logger, "pid file {} proves nothing: {why}", path.display());
    }
    let lock = config.lockfile.as_deref().map(take_lock).transpose()?;
    let locked = path.filter(|_| lock.is_none());
    let mut pidfile = locked.map(|path| PidFile::lock(path, pid)).transpose()?;
    let variable = |name: &str| std::env::var_os(name);
    let systemd = Systemd::from_env(variable, pid).unwrap_or_else(|reason| {
        slog::warn!(logger, "cannot notify systemd: {reason}; going on without");
        None
    });
    let control = open_control(&config, user.as_ref(), logger)?;
    if let (Some(path), None) = (path, &pidfile) {
        // Under einhorn's rules the lock is another file, and the pid is written when the control
        // socket is open as well.
        pidfile = Some(PidFile::unlocked(path, pid)?);
    }

    let inherited = Inherited::parse(pid, &variable);
    let opened = open_listeners(&config, &inherited)?;
    drop(lock);
    for notice in &opened.notices {
        slog::warn!(logger, "{notice}");
    }
    for listener in &opened.listeners {
        slog::info!(logger, "Listening on {}", listener.address());
    }
    Ok(Setup {
        config,
        signals,
        opened,
        user,
        nofile,
        systemd,
        control,
        pidfile,
    })
}

/// einhorn's lock, which is held until all sockets are open: of two instances that start at the same
/// time, one fails. The file stays, empty.
fn take_lock(path: &OsStr) -> Result<OwnFile, String> {
    let path = Path::new(path);
    OwnFile::lock(path, 0o600).map_err(|refusal| match refusal {
        FileRefusal::Locked(_) => format!(
            "File lock already acquired by another Einhorn process: {}. Were two started with the \
             same name?",
            path.display()
        ),
        refusal => format!("cannot open lock file {}: {refusal}", path.display()),
    })
}

fn refuse_takeover(config: &Config) -> Result<(), String> {
    let refused =
        |pid| format!("cannot take over from process {pid}: not available in this version");
    config.takeover.map_or(Ok(()), |pid| Err(refused(pid)))
}

/// The path of the program that would be run now. Each start of a worker looks it up again.
fn resolve(config: &Config) -> Result<String, String> {
    let path = std::env::var_os("PATH");
    let directory = if let Some(chdir) = config.chdir.as_deref().map(Path::new) {
        let entered = command::enter(chdir).map(Some);
        entered.map_err(|errno| failed(&format!("enter {}", chdir.display()), errno))
    } else {
        let directory = command::logical_directory(std::env::var_os("PWD"));
        let opened = directory.as_deref().map(command::open_directory);
        let opened = opened.transpose().map(Option::flatten);
        opened.map_err(|errno| failed("open the working directory", errno))
    }?;
    let directory = directory.as_ref().map(AsFd::as_fd);
    let found = command::resolve(&config.command, path.as_deref(), directory);
    found.map(|path| path.display().to_string())
}

fn look_up_user(config: &Config) -> Result<Option<User>, String> {
    config.user.as_deref().map(user::lookup).transpose()
}

/// "cannot VERB OBJECT: WORD".
fn failed(what: &str, error: impl Into<io::Error>) -> String {
    format!("cannot {what}: {}", error_text(&error.into()))
}

/// Raises our limit of descriptors as far as it goes, and checks that the workers fit. Returns the
/// limit as we found it and as it is now.
fn raise_limit(config: &Config) -> Result<(rlim_t, rlim_t), String> {
    let raised = sys::process::raise_nofile();
    let nofile = raised.map_err(|errno| failed("raise the limit of descriptors", errno))?;
    let (workers, limit) = (config.workers, nofile.1);
    let capacity = daemon::capacity(limit, config.listen.len(), config);
    if workers > capacity {
        return Err(format!(
            "cannot run {workers} workers: the limit of {limit} descriptors (RLIMIT_NOFILE) \
             suffices for {capacity}"
        ));
    }
    Ok(nofile)
}

/// The warning about a user whose workers we could not signal.
fn powerless_over(user: &User) -> Option<String> {
    if [getuid(), geteuid()].contains(&user.uid) || sys::proc::may_signal_all() {
        return None;
    }
    let name = &user.name;
    Some(format!(
        "without CAP_KILL we cannot signal workers of user {name}: a reload leaves the old ones \
         running, and a stop ends after 10 s without its workers"
    ))
}

fn open_control(config: &Config, user: Option<&User>, logger: &Logger) -> Result<Server, String> {
    let access = match &config.dialect {
        Dialect::Socketmaster => Access::of(user),
        #[cfg(feature = "einhorn")]
        Dialect::Einhorn(_) => Access::of_einhorn(),
    };
    let path = config.control.as_deref().map(Path::new);
    let socket = path.map(|path| (path, access));
    Server::open(socket, logger.clone()).map_err(|error| error.to_string())
}

fn open_listeners(config: &Config, inherited: &Inherited) -> Result<Opened, String> {
    let opened = listen::open_all(&config.listen, inherited)?;
    for index in &config.nonblocking {
        let listener = &opened.listeners[*index];
        let flags = FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK);
        if let Err(errno) = fcntl(listener, flags) {
            let what = format!("set O_NONBLOCK on {}", listener.address());
            listen::abandon(opened.listeners);
            return Err(failed(&what, errno));
        }
    }
    Ok(opened)
}
