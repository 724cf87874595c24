//! `socketmaster`: arguments, log, sockets, loop, exit status; the faces by the name we are called.

#![allow(dead_code)] // The rooms are being moved: what each no longer needs goes with its move.

mod args;
mod control;
mod ctl;
mod daemon;
#[cfg(feature = "einhorn")]
mod einhorn;
#[cfg(feature = "einhorn")]
mod einhornsh;
mod environment;
mod files;
mod flags;
mod guard;
mod listen;
mod log;
mod manners;
mod notify;
mod output;
mod pidfile;
mod program;
mod protocol;
mod spawn;
mod status;
mod strings;
mod supervisor;
mod sys;
mod syslog;
mod table;
mod uri;
mod user;

use crate::args::{Call, Config};
use crate::control::{Access, Control, Face as Voice};
use crate::daemon::{Daemon, Setup};
use crate::listen::{Inherited, Opened};
use crate::log::Log;
use crate::manners::Manners;
use crate::notify::Systemd;
use crate::pidfile::PidFile;
use crate::supervisor::Policy;
use crate::user::User;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::rlim_t;
use slog::Level;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long the reason for not starting may take to be written.
const FINAL_FLUSH: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let status = face(Path::new(&called), words.collect());
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// It takes the words that are left and returns the exit status.
type Face = fn(Vec<OsString>) -> i32;

/// Chooses by the name that we are called by, or by the first word.
fn face(called: &Path, mut words: Vec<OsString>) -> i32 {
    let called = called.file_name().unwrap_or_default();
    let first = words.first().map_or(OsStr::new(""), OsString::as_os_str);
    let faces: [(&str, &str, Face); 3] = [
        ("socketmaster-ctl", "ctl", ctl::main),
        ("einhorn", "einhorn", einhorn),
        ("einhornsh", "einhornsh", einhornsh),
    ];
    for (name, _, face) in faces {
        if called == name {
            return face(words);
        }
    }
    for (_, word, face) in faces {
        if first == word {
            words.remove(0);
            return face(words);
        }
    }
    serve(words)
}

#[cfg(feature = "einhorn")]
fn einhorn(words: Vec<OsString>) -> i32 {
    use crate::einhorn::{Call, Surroundings, parse};
    let signals = first_things(&[libc::SIGALRM]);
    let face = match parse(words, &Surroundings::look()) {
        Ok(Call::Run(face)) => face,
        Ok(Call::Say { text, status }) => {
            print(&text);
            return status;
        }
        Err(refusal) => return complain(&refusal.message, refusal.status),
    };
    match Plan::of_einhorn(*face) {
        Ok(plan) => run(plan, signals),
        Err(error) => complain(&format!("einhorn: {error}"), 1),
    }
}

#[cfg(feature = "einhorn")]
fn einhornsh(words: Vec<OsString>) -> i32 {
    crate::einhornsh::run(words)
}

#[cfg(not(feature = "einhorn"))]
fn einhorn(_: Vec<OsString>) -> i32 {
    let reason = "socketmaster: built without einhorn's faces (the cargo feature einhorn)";
    complain(reason, 2)
}

#[cfg(not(feature = "einhorn"))]
use einhorn as einhornsh;

/// Before anything else, so that no signal finds us without a handler; those that our parent had
/// blocked come in now.
fn first_things(more_signals: &[i32]) -> std::io::Result<daemon::Signals> {
    let signals = daemon::install_signals(more_signals);
    let _ = sys::process::unblock_signals();
    signals
}

/// The supervisor itself.
fn serve(words: Vec<OsString>) -> i32 {
    let signals = first_things(&[]);
    match args::parse(words) {
        Ok(Call::Help(text)) => print(&text),
        Ok(Call::Version) => print(concat!("socketmaster ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Call::Check(config)) => check(&config),
        Ok(Call::Run(config)) => run(Plan::of(config), signals),
        Err(error) => complain(&format!("socketmaster: {error}"), i32::from(error.status)),
    }
}

/// Says why not, and returns the status. Nobody may be there to read it: no reason to panic.
fn complain(reason: &str, status: i32) -> i32 {
    let _ = sys::io::write_all(sys::io::stderr(), format!("{reason}\n").as_bytes());
    status
}

fn print(text: &str) -> i32 {
    // A reader that went away is no reason to fail.
    let _ = sys::io::write_all(sys::io::stdout(), text.as_bytes());
    0
}

/// `-check`: what would be done, without doing it.
fn check(config: &Config) -> i32 {
    let mut text = config.to_string();
    let resolved = resolve(config);
    if let Ok(path) = &resolved {
        text += &format!("resolves to {path}\n");
    }
    let errors = [
        resolved.err(),
        look_up_user(config).err(),
        takeover(config).err(),
        raise_limit(config, &Manners::default()).err(),
        listen::check(&config.listen).err().map(|error| error.0),
    ];
    let mut status = 0;
    for error in errors.iter().flatten() {
        text += error;
        text += "\n";
        status = 1;
    }
    print(&text);
    status
}

/// What a face makes of its command line.
struct Plan {
    config: Config,
    policy: Policy,
    manners: Manners,
    access: fn(Option<&User>) -> Access,
    voice: Voice,
    least: Level,
    warnings: Vec<String>,
    /// The listeners, by index, that get O_NONBLOCK when they are made.
    nonblocking: Vec<usize>,
    /// Of the face that takes a lock while it starts.
    lockfile: Option<std::path::PathBuf>,
}

impl Plan {
    fn of(config: Config) -> Plan {
        Plan {
            policy: daemon::policy(&config),
            manners: Manners::default(),
            access: Access::of,
            voice: Voice::Socketmaster,
            least: Level::Info,
            warnings: Vec::new(),
            nonblocking: Vec::new(),
            lockfile: None,
            config,
        }
    }

    #[cfg(feature = "einhorn")]
    fn of_einhorn(face: crate::einhorn::Face) -> Result<Plan, String> {
        let config = face.config()?;
        let binds = face.binds.iter().enumerate();
        Ok(Plan {
            policy: face.policy(u32::MAX),
            manners: face.manners(),
            access: |_| Access::of_einhorn(),
            least: face.verbosity.level(),
            nonblocking: binds
                .filter_map(|(index, bind)| bind.nonblocking.then_some(index))
                .collect(),
            lockfile: Some(face.lockfile),
            warnings: face.warnings,
            voice: Voice::Einhorn(face.name),
            config,
        })
    }
}

fn run(plan: Plan, signals: std::io::Result<daemon::Signals>) -> i32 {
    let journal = std::env::var_os("JOURNAL_STREAM");
    let target = &plan.config.log;
    let log = match Log::open(target, sys::io::stderr(), journal.as_deref()) {
        Ok(log) => log,
        Err(error) => return complain(&format!("socketmaster: {error}"), 1),
    };
    log.set_least(plan.least);
    let logger = log.logger();
    let refuse = |mut log: Log, reason: String| {
        error!(logger, "{reason}");
        log.finish(FINAL_FLUSH);
        1
    };
    match set_up(plan, signals, &logger) {
        Err(reason) => refuse(log, reason),
        Ok(setup) => match Daemon::new(setup, log) {
            Ok(daemon) => daemon.run(),
            Err((error, log)) => refuse(log, format!("cannot start: {error}")),
        },
    }
}

/// Everything that may fail before the first worker is started; nothing is left behind then.
fn set_up(
    plan: Plan,
    signals: std::io::Result<daemon::Signals>,
    logger: &slog::Logger,
) -> Result<Setup, String> {
    for warning in &plan.warnings {
        warn!(logger, "{warning}");
    }
    let signals = signals.map_err(|error| format!("cannot handle signals: {error}"))?;
    takeover(&plan.config)?;
    resolve(&plan.config)?;
    let user = look_up_user(&plan.config)?;
    let nofile = raise_limit(&plan.config, &plan.manners)?;
    let pid = std::process::id();
    let lock = plan.lockfile.as_deref().map(lock).transpose()?;
    let path = plan.config.pidfile.as_deref();
    // einhorn's says who has the control socket, and is written when that is known.
    let own = path.filter(|_| lock.is_none());
    let mut pidfile = own.map(|path| PidFile::lock(path, pid)).transpose()?;
    let variable = |name: &str| std::env::var_os(name);
    let systemd = Systemd::from_env(&variable, pid).unwrap_or_else(|error| {
        warn!(logger, "cannot notify systemd: {error}; going on without");
        None
    });
    let control = open_control(&plan, user.as_ref())?;
    #[cfg(feature = "einhorn")]
    if let (Some(_), Some(path)) = (&lock, path) {
        pidfile = Some(PidFile::unlocked(path, pid)?);
    }
    let inherited = Inherited::parse(pid, &variable);
    let stored = inherited
        .passed
        .iter()
        .filter(|passed| passed.is_stored())
        .count();
    let opened = open_listeners(&plan, &inherited)?;
    drop(lock);
    announce(logger, &opened);
    let Plan {
        config,
        policy,
        manners,
        ..
    } = plan;
    let setup = Setup {
        config,
        policy,
        manners,
        signals,
        opened,
        user,
        nofile,
        systemd,
        stored,
        control,
        pidfile,
    };
    Ok(setup)
}

#[cfg(feature = "einhorn")]
use crate::einhorn::files::lock;

#[cfg(not(feature = "einhorn"))]
fn lock(_: &Path) -> Result<crate::files::OwnFile, String> {
    Err("only einhorn's command line takes a lock".to_owned())
}

fn takeover(config: &Config) -> Result<(), String> {
    config.takeover.map_or(Ok(()), |pid| {
        Err(format!(
            "cannot take over from process {pid}: not available in this version"
        ))
    })
}

/// Raises our limit of descriptors as far as it goes, and checks that the workers fit.
fn raise_limit(config: &Config, manners: &Manners) -> Result<(rlim_t, rlim_t), String> {
    let nofile = sys::process::raise_nofile()
        .map_err(|errno| format!("cannot raise the limit of descriptors: {}", errno.desc()))?;
    let workers = config.workers;
    let capacity = daemon::capacity(nofile.1, config.listen.len(), manners);
    match workers <= capacity {
        true => Ok(nofile),
        false => Err(format!(
            "cannot run {workers} workers: the limit of {} descriptors (RLIMIT_NOFILE) suffices \
             for {capacity}",
            nofile.1
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
        Err(error) => Err(error.0),
    }
}

fn look_up_user(config: &Config) -> Result<Option<User>, String> {
    config
        .user
        .as_deref()
        .map(user::lookup)
        .transpose()
        .map_err(|error| error.0)
}

fn open_control(plan: &Plan, user: Option<&User>) -> Result<Option<Control>, String> {
    let path = plan.config.control.as_deref();
    let open = |path| Control::open(path, (plan.access)(user), plan.voice.clone());
    path.map(open)
        .transpose()
        .map_err(|error| error.to_string())
}

fn open_listeners(plan: &Plan, inherited: &Inherited) -> Result<Opened, String> {
    let opened = listen::open_all(&plan.config.listen, inherited).map_err(|error| error.0)?;
    for index in &plan.nonblocking {
        let listener = &opened.listeners[*index];
        let flags = FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK);
        if let Err(errno) = fcntl(listener, flags) {
            let address = listener.address();
            opened.abandon();
            return Err(format!(
                "cannot set O_NONBLOCK on {address}: {}",
                errno.desc()
            ));
        }
    }
    Ok(opened)
}

fn announce(logger: &slog::Logger, opened: &Opened) {
    for notice in &opened.notices {
        warn!(logger, "{notice}");
    }
    for listener in &opened.listeners {
        info!(logger, "Listening on {}", listener.address());
    }
}
