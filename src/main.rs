//! `socketmaster`: arguments, log, sockets, loop, exit status; the faces by the name we are called.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::rlim_t;
use slog::Level;
use socketmaster::args::{self, Call, Config};
use socketmaster::control::{Access, Control, Face as Voice};
use socketmaster::daemon::{self, Daemon, Setup};
use socketmaster::listen::{self, Inherited, Opened};
use socketmaster::log::Log;
use socketmaster::manners::Manners;
use socketmaster::notify::Systemd;
use socketmaster::pidfile::PidFile;
use socketmaster::status::error_text;
use socketmaster::supervisor::Policy;
use socketmaster::user::User;
use socketmaster::{ctl, program, sys, user};
use socketmaster::{error, info, warn};
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
    use socketmaster::einhorn::{Call, Surroundings, parse};
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
    socketmaster::einhornsh::run(words)
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
    if let Ok(Some(warning)) = look_up_user(config).map(|user| powerless_over(&user?)) {
        text += &format!("warning: {warning}\n");
    }
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
    #[cfg(feature = "einhorn")]
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
            #[cfg(feature = "einhorn")]
            lockfile: None,
            config,
        }
    }

    #[cfg(feature = "einhorn")]
    fn of_einhorn(face: socketmaster::einhorn::Face) -> Result<Plan, String> {
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
        Ok((setup, files)) => {
            let status = match Daemon::new(setup, log) {
                Ok(daemon) => daemon.run(),
                Err((what, log)) => refuse(log, format!("cannot {what}")),
            };
            drop(files);
            status
        }
    }
}

/// The files that say who we are. They go when this is dropped.
enum Files {
    Own(#[allow(dead_code, reason = "held")] Option<PidFile>),
    #[cfg(feature = "einhorn")]
    Einhorn(socketmaster::einhorn::files::Files),
}

impl Files {
    /// What makes us the only one, before anything else is taken.
    fn take(plan: &Plan, pid: u32) -> Result<Files, String> {
        #[cfg(feature = "einhorn")]
        if let (Some(lock), Some(path)) = (&plan.lockfile, &plan.config.pidfile) {
            return socketmaster::einhorn::files::Files::lock(lock, path, pid).map(Files::Einhorn);
        }
        let path = plan.config.pidfile.as_deref();
        let pidfile = path.map(|path| PidFile::take(path, pid)).transpose();
        pidfile.map(Files::Own).map_err(|error| error.0)
    }

    /// The control socket is ours.
    fn name_us(&mut self) -> Result<(), String> {
        match self {
            Files::Own(_) => Ok(()),
            #[cfg(feature = "einhorn")]
            Files::Einhorn(files) => files.write_pid(),
        }
    }

    /// All sockets are open.
    fn unlock(&mut self) {
        match self {
            Files::Own(_) => {}
            #[cfg(feature = "einhorn")]
            Files::Einhorn(files) => files.unlock(),
        }
    }
}

/// Everything that may fail before the first worker is started; nothing is left behind then.
fn set_up(
    plan: Plan,
    signals: std::io::Result<daemon::Signals>,
    logger: &slog::Logger,
) -> Result<(Setup, Files), String> {
    for warning in &plan.warnings {
        warn!(logger, "{warning}");
    }
    let signals =
        signals.map_err(|error| format!("cannot handle signals: {}", error_text(&error)))?;
    takeover(&plan.config)?;
    resolve(&plan.config)?;
    let user = look_up_user(&plan.config)?;
    if let Some(warning) = user.as_ref().and_then(powerless_over) {
        warn!(logger, "{warning}");
    }
    let nofile = raise_limit(&plan.config, &plan.manners)?;
    let pid = std::process::id();
    let mut files = Files::take(&plan, pid)?;
    let variable = |name: &str| std::env::var_os(name);
    let systemd = Systemd::from_env(&variable, pid).unwrap_or_else(|error| {
        let reason = error_text(&error);
        warn!(logger, "cannot notify systemd: {reason}; going on without");
        None
    });
    let control = open_control(&plan, user.as_ref())?;
    files.name_us()?;
    let inherited = Inherited::parse(pid, &variable);
    let stored = inherited
        .passed
        .iter()
        .filter(|passed| passed.is_stored())
        .count();
    let opened = open_listeners(&plan, &inherited)?;
    files.unlock();
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
    };
    Ok((setup, files))
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
    let directory = program::logical_directory(std::env::var_os("PWD"));
    let directory = match directory.as_deref().map(program::open_directory) {
        Some(Err(errno)) => {
            return Err(format!(
                "cannot open the working directory: {}",
                errno.desc()
            ));
        }
        Some(Ok(opened)) => opened,
        None => None,
    };
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

/// What is missing when workers of this user could not be signalled.
fn powerless_over(user: &User) -> Option<String> {
    use nix::unistd::{geteuid, getuid};
    let is_us = [getuid(), geteuid()].contains(&user.uid);
    (!is_us && !sys::process::may_signal_all()).then(|| {
        format!(
            "without CAP_KILL we cannot signal workers of user {}: a reload leaves the old ones \
             running, and a stop ends after 10 s without its workers",
            user.name
        )
    })
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
