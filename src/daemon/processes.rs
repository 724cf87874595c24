//! The processes behind the core's `ChildId`s, with their output: starting one, reading the report
//! of its exec and what it says, sending it signals, collecting its end. What happens to a process
//! is returned as events of the core; nothing is decided here.

use crate::clock;
use crate::config::{Config, Output, ReadyGate};
use crate::control::MAX_CLIENTS;
use crate::control::verdict::{FailedWorker, end_text, given_up_text};
use crate::log::{Log, RateLimit};
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{ChildId, End, Event, GivenUp, Instant};
use crate::sys::interrupt::Interruptible;
use crate::sys::io::{stderr, stdout};
use crate::sys::process;
use crate::text::errno_text;
#[cfg(feature = "einhorn")]
use crate::text::signal_name;
use crate::worker::command;
use crate::worker::env::{EinhornMaster, Environment, Extras, FIRST_FD, Socket};
use crate::worker::notify::{OtherProcesses, WorkerSocket};
use crate::worker::output::{OutputEvent, Outputs};
use crate::worker::spawn::{self, Report, SpawnRequest, failed};
use crate::worker::user::User;
use crate::worker::{self, Process};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::resource::rlim_t;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getuid};
use slog::{error, info, warn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Descriptors that one worker may need at once: pidfd, exec report, notify socket, output pipe.
const PER_WORKER: rlim_t = 4;
/// Descriptors that are ours whatever the workers need: the loop's, the log's, the clients'.
const OUR_OWN: rlim_t = 48 + MAX_CLIENTS as rlim_t;
/// How many messages of one worker are read before others get their turn.
const MESSAGES: usize = 32;
/// How long a stop waits for a waitid(2) that fails.
const WAITID_PATIENCE: Duration = Duration::from_secs(10);
/// How many ended workers are remembered for a verdict.
const RECENTLY_DEAD: usize = 64;
/// How many pipes of dead workers are kept beside one of each worker of a generation, for their
/// descendants or for a stuck log.
const PIPES_OF_THE_DEAD: usize = 64;

/// Our descriptors of a worker's process.
#[derive(Default)]
struct Handles {
    pidfd: Option<OwnedFd>,
    report: Option<OwnedFd>,
    notify: Option<WorkerSocket>,
    output: Option<OwnedFd>,
}

impl Handles {
    /// Whether the process has ended; `None`: there is no pidfd that could tell.
    fn has_ended(&self) -> Option<bool> {
        let mut watched = [PollFd::new(self.pidfd.as_ref()?.as_fd(), PollFlags::POLLIN)];
        Some(poll(&mut watched, PollTimeout::ZERO) != Ok(0))
    }

    /// Everything is deregistered and closed. (The output of a worker that has started is not here:
    /// it may outlive the worker.)
    fn close(self, id: ChildId, poller: &mut Poller) {
        let pipes = [
            (&self.pidfd, Source::Death(id)),
            (&self.report, Source::Report(id)),
            (&self.output, Source::Output(id)),
        ];
        for (pipe, source) in pipes {
            if let Some(pipe) = pipe {
                poller.remove(pipe, source);
            }
        }
        if let Some(socket) = self.notify {
            poller.remove(&socket, Source::Notify(id));
            // What was not read may have brought descriptors, which are closed with the socket.
            let _bounded = Interruptible::begin();
            drop(socket);
        }
    }
}

/// One worker to be started.
pub struct Start<'a> {
    pub id: ChildId,
    pub generation: u64,
    pub index: u32,
    /// The listening sockets, as the environment names them, and their descriptors.
    pub sockets: Vec<Socket<'a>>,
    pub listeners: Vec<BorrowedFd<'a>>,
    /// The worker's end of its own connection to the control socket (einhorn's `-g`).
    pub control: Option<UnixStream>,
}

/// The number of workers that a limit of descriptors suffices for.
pub fn capacity(hard_limit: rlim_t, listeners: usize, config: &Config) -> u32 {
    let left = hard_limit.saturating_sub(OUR_OWN + listeners as rlim_t);
    let each = PER_WORKER + rlim_t::from(config.control_fd);
    u32::try_from(left / each).unwrap_or(u32::MAX)
}

/// All processes of workers, what they write, and what is kept of those that have ended.
pub struct Processes {
    config: Rc<Config>,
    logger: slog::Logger,
    user: Option<User>,
    stdin: OwnedFd,
    /// The working directory by the name that it was entered by.
    directory: Option<PathBuf>,
    /// The environment that we were started with.
    inherited: Vec<(OsString, OsString)>,
    /// RLIMIT_NOFILE as we found it: workers get it back.
    nofile: (rlim_t, rlim_t),
    processes: BTreeMap<ChildId, Process>,
    handles: BTreeMap<ChildId, Handles>,
    by_pid: BTreeMap<i32, ChildId>,
    recently_dead: VecDeque<(ChildId, FailedWorker)>,
    outputs: Outputs,
    /// Outputs that are paused and told of more all the same: the poller is not to hear of them.
    muted: BTreeSet<ChildId>,
    /// Workers whose processes have ended while waitid(2) does not say so.
    unexplained: BTreeSet<ChildId>,
    /// Messages of those who may not speak for a worker.
    refused: RateLimit,
    /// Whether the workers' users have other processes.
    others: OtherProcesses,
    waitid_fails_since: Option<Instant>,
    waitid_complaints: RateLimit,
}

impl Processes {
    /// Errors: the workers' stdin cannot be opened.
    pub fn new(
        config: Rc<Config>,
        user: Option<User>,
        nofile: (rlim_t, rlim_t),
        logger: slog::Logger,
    ) -> Result<Processes, String> {
        let stdin = spawn::worker_stdin(config.shares_terminal)
            .map_err(|errno| format!("open the workers' stdin: {}", errno_text(errno as i32)))?;
        Ok(Processes {
            config,
            logger,
            user,
            stdin,
            directory: command::logical_directory(std::env::var_os("PWD")),
            inherited: std::env::vars_os().collect(),
            nofile,
            processes: BTreeMap::new(),
            handles: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            recently_dead: VecDeque::new(),
            outputs: Outputs::default(),
            muted: BTreeSet::new(),
            unexplained: BTreeSet::new(),
            refused: RateLimit::default(),
            others: OtherProcesses::default(),
            waitid_fails_since: None,
            waitid_complaints: RateLimit::default(),
        })
    }

    /// The processes that live, and their workers by pid.
    pub fn alive(&self) -> (&BTreeMap<ChildId, Process>, &BTreeMap<i32, ChildId>) {
        (&self.processes, &self.by_pid)
    }

    /// The pid of a worker that lives or has died recently.
    pub fn pid(&self, id: ChildId) -> Option<i32> {
        match self.recently_dead(id) {
            Some(dead) => dead.pid,
            None => Some(self.processes.get(&id)?.pid),
        }
    }

    /// What a verdict tells of a worker that lives or has died recently.
    pub fn failed(&mut self, id: ChildId) -> FailedWorker {
        if let Some(dead) = self.recently_dead(id) {
            return dead.clone();
        }
        FailedWorker {
            pid: self.processes.get(&id).map(|process| process.pid),
            last_lines: self.outputs.last_lines(id),
        }
    }

    fn recently_dead(&self, id: ChildId) -> Option<&FailedWorker> {
        let mut dead = self.recently_dead.iter().rev();
        Some(&dead.find(|(of, _)| *of == id)?.1)
    }

    // ---- the start ----

    /// Starts a worker and returns its pid. The report of its exec, its messages, its end and its
    /// output are registered under its id.
    ///
    /// Errors: it could not be started, in the words of the step that failed.
    pub fn start(&mut self, start: &Start, poller: &mut Poller) -> Result<i32, End> {
        let directory = self.working_directory()?;
        let directory = directory.as_ref().map(AsFd::as_fd);
        let path = std::env::var_os("PATH");
        let program = command::resolve(&self.config.command, path.as_deref(), directory)
            .map_err(|step| End::Exec { step, errno: 0 })?;
        self.announce(&program);
        // Everything is registered before there is a child: one that we could not hear would be
        // taken for silent, or die of a closed pipe, and be blamed for it.
        let mut handles = Handles::default();
        let id = start.id;
        let forked = self
            .open_handles(id, &mut handles, poller)
            .and_then(|theirs| self.fork(start, &program, directory, &handles, theirs));
        let pid = match forked {
            Ok(pid) => pid,
            Err(end) => {
                handles.close(id, poller);
                return Err(end);
            }
        };
        // Without a pidfd, or where it cannot be watched, SIGCHLD tells of the worker's end.
        let pidfd = process::pidfd_open(pid).ok();
        handles.pidfd = pidfd.filter(|pidfd| {
            let added = poller.add(pidfd, Source::Death(id), Interest::READABLE);
            added.is_ok()
        });
        if let Some(pipe) = handles.output.take() {
            self.outputs.adopt(id, pid as u32, pipe);
            if self.config.output == Output::Lossy {
                self.outputs.allow_drops(id);
            }
        }
        let process = Process {
            pid,
            failure: None,
            status: None,
        };
        self.processes.insert(id, process);
        self.handles.insert(id, handles);
        self.by_pid.insert(pid, id);
        if let Some(level) = self.config.nice.worker {
            self.renice(pid, level);
        }
        Ok(pid)
    }

    /// The directory that a worker starts in, as its name leads now; `None`: ours.
    fn working_directory(&self) -> Result<Option<OwnedFd>, End> {
        if let Some(path) = self.config.chdir.as_deref().map(Path::new) {
            let step = format!("entering {}", path.display());
            return command::enter(path).map(Some).map_err(failed(step));
        }
        let opened = self.directory.as_deref().map(command::open_directory);
        let opened = opened.transpose().map(Option::flatten);
        let directory = opened.map_err(failed("opening its working directory"))?;
        if let (None, Some(removed)) = (&directory, command::removed_directory()) {
            warn!(
                self.logger,
                "the working directory {} was removed: the worker starts in a directory that is \
                 empty for ever (-chdir=DIR names another)",
                removed.display()
            );
        }
        Ok(directory)
    }

    /// Opens and registers our ends of what a worker is started with, all but its pidfd. Returns
    /// the worker's ends of its report and of its output.
    fn open_handles(
        &self,
        id: ChildId,
        handles: &mut Handles,
        poller: &mut Poller,
    ) -> Result<(OwnedFd, Option<OwnedFd>), End> {
        let user = self.user.as_ref();
        let mut watch = |fd: BorrowedFd, source, what: &str| {
            let added = poller.add(fd, source, Interest::READABLE);
            added.map_err(failed(format!("watching {what}")))
        };
        let (ours, report) = spawn::output_pipe(None).map_err(failed("opening a pipe"))?;
        watch(ours.as_fd(), Source::Report(id), "the report of its start")?;
        handles.report = Some(ours);
        if self.config.ready == ReadyGate::Notify {
            let uid = user.map_or(getuid(), |user| user.uid);
            let socket =
                WorkerSocket::bind(uid.as_raw()).map_err(failed("opening its notify socket"))?;
            watch(socket.as_fd(), Source::Notify(id), "its notify socket")?;
            handles.notify = Some(socket);
        }
        if self.config.output == Output::Inherit {
            return Ok((report, None));
        }
        let (ours, output) =
            spawn::output_pipe(user).map_err(failed("opening a pipe for its output"))?;
        watch(ours.as_fd(), Source::Output(id), "its output")?;
        handles.output = Some(ours);
        Ok((report, Some(output)))
    }

    fn fork(
        &self,
        start: &Start,
        program: &Path,
        directory: Option<BorrowedFd>,
        handles: &Handles,
        (report, output): (OwnedFd, Option<OwnedFd>),
    ) -> Result<i32, End> {
        let control_path = self.control_path(directory);
        let master = control_path.as_deref().map(|control| EinhornMaster {
            control,
            pid: std::process::id(),
            child_index: start.index,
            fd: (start.control.is_some()).then_some(FIRST_FD + start.listeners.len()),
        });
        let extras = Extras {
            generation: start.generation,
            notify_socket: handles.notify.as_ref().map(WorkerSocket::name),
            master,
            user: self.user.as_ref(),
        };
        let drops = start.generation > 1;
        let dropped = |name: &OsString| drops && self.config.drop_env.contains(name);
        let inherited = self.inherited.iter().filter(|(name, _)| !dropped(name));
        let protocols = self.config.protocols;
        let environment = Environment::build(inherited, &start.sockets, protocols, &extras);
        let mut descriptors = start.listeners.clone();
        descriptors.extend(start.control.as_ref().map(AsFd::as_fd));
        let output = output.as_ref().map(AsFd::as_fd);
        let request = SpawnRequest {
            program,
            arguments: &self.config.arguments,
            environment: &environment,
            stdio: [
                self.stdin.as_fd(),
                output.unwrap_or(stdout()),
                output.unwrap_or(stderr()),
            ],
            descriptors: &descriptors,
            user: self.user.as_ref(),
            directory,
            die_with_parent: (self.config.die_with_parent).then_some(self.config.stop_signal),
            keeps_session: self.config.shares_terminal,
            nofile: Some(self.nofile),
        };
        spawn::spawn(&request, report)
    }

    /// The control socket as a worker finds it: as given, but where a relative path would lead a
    /// worker in another directory astray.
    fn control_path(&self, directory: Option<BorrowedFd>) -> Option<PathBuf> {
        let path = PathBuf::from(self.config.control.clone()?);
        let is_astray = path.is_relative() && directory.is_some_and(command::is_elsewhere);
        let own = std::env::current_dir().ok().filter(|_| is_astray);
        Some(own.map_or_else(|| path.clone(), |own| own.join(&path)))
    }

    fn announce(&self, program: &Path) {
        let mut words = program.as_os_str().to_owned();
        for word in &self.config.arguments {
            words.push(" ");
            words.push(word);
        }
        let (program, words) = (program.display(), words.to_string_lossy());
        info!(self.logger, "Starting {program} [{words}]");
    }

    /// Changes the niceness of a process, as einhorn's `--nice` has it. Where that is refused it
    /// lives on as it is.
    pub fn renice(&self, pid: i32, level: i32) {
        let done = match &self.config.nice.renice {
            None => process::set_nice(pid, level),
            Some(command) => run_shell(&format!("{command} {level} -p {pid}")),
        };
        if let Err(errno) = done {
            let reason = errno_text(errno as i32);
            error!(
                self.logger,
                "cannot change the niceness of {pid} to {level}: {reason}"
            );
        }
    }

    // ---- what a worker does ----

    /// The report of a worker's exec can be read.
    pub fn on_report(&mut self, id: ChildId, poller: &mut Poller) -> Option<Event> {
        let process = self.processes.get_mut(&id)?;
        let handles = self.handles.get_mut(&id)?;
        let pipe = handles.report.as_ref()?;
        let report = match spawn::read_report(pipe, process.pid) {
            Ok(report) => report,
            Err(Errno::EAGAIN) => return None,
            Err(_) => {
                poller.look_again_soon();
                return None;
            }
        };
        poller.remove(pipe, Source::Report(id));
        handles.report = None;
        match report {
            Report::Running => return Some(Event::Running(id)),
            // Its end follows.
            Report::Failed(failure) => process.failure = Some(failure),
            Report::Killed => {}
        }
        None
    }

    /// Reads what was sent to a worker's notify socket; returns whether it is ready.
    pub fn on_notify(&mut self, id: ChildId, poller: &mut Poller) -> Option<Event> {
        let process = self.processes.get_mut(&id)?;
        let socket = self.handles.get(&id)?.notify.as_ref()?;
        let mut ready = None;
        for _ in 0..MESSAGES {
            let message = match socket.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return ready,
                Err(_) => {
                    poller.look_again_soon();
                    return ready;
                }
            };
            let sender = message.sender;
            let is_worker = |pid: i32| self.by_pid.contains_key(&pid);
            let others = &mut self.others;
            let has_others = |uid| others.exist(uid, clock::now(), is_worker);
            if let Err(why) = socket.may_speak(sender, process.pid, is_worker, has_others) {
                if let Some(count) = self.refused.allow_with_count(clock::now()) {
                    let (pid, uid, worker) = (sender.pid, sender.uid, process.pid);
                    warn!(
                        self.logger,
                        "process {pid} of user {uid} may not speak for worker {worker}: {why}; \
                         its message is ignored{count}"
                    );
                }
                continue;
            }
            if message.status.is_some() {
                process.status = message.status;
            }
            if message.ready {
                ready = Some(Event::Ready(id));
            }
        }
        poller.mark_ready(Source::Notify(id));
        ready
    }

    /// Sends a signal to a worker. One that has ended already needs none.
    pub fn signal(&self, id: ChildId, signal: i32) -> Result<(), Errno> {
        let Some(worker) = self.processes.get(&id) else {
            return Ok(());
        };
        match process::signal(worker.pid, signal) {
            Err(Errno::ESRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Sends signals to all workers, because an administrator asked for them.
    #[cfg(feature = "einhorn")]
    pub fn signal_all(&self, signals: &[i32]) {
        for signal in signals {
            for (id, process) in &self.processes {
                if let Err(errno) = self.signal(*id, *signal) {
                    let (name, reason) = (signal_name(*signal), errno_text(errno as i32));
                    let pid = process.pid;
                    error!(self.logger, "cannot send {name} to worker {pid}: {reason}");
                }
            }
        }
    }

    /// SIGKILL to a worker and to its process group.
    pub fn kill(&self, id: ChildId) -> Result<(), Errno> {
        // Itself first: before it leads a group it has no children, and afterwards it makes none that
        // the second signal misses.
        let killed = self.signal(id, libc::SIGKILL);
        if let Some(worker) = self.processes.get(&id) {
            let _ = process::signal_group(worker.pid, libc::SIGKILL);
        }
        killed
    }

    // ---- the end ----

    /// Whether waitid(2) fails, so that nothing tells which children have ended.
    pub fn is_waitid_failing(&self) -> bool {
        self.waitid_fails_since.is_some()
    }

    /// The pid of a child that has ended and is still to be collected: a worker, or, as PID 1, an
    /// orphan that became ours. `None` when there is none, or when waitid(2) fails.
    pub fn next_dead(&mut self, poller: &mut Poller) -> Option<i32> {
        let dead = match process::next_dead() {
            Ok(dead) => dead,
            Err(errno) => return self.on_waitid_error(errno, poller),
        };
        if dead.is_none() && self.waitid_fails_since.take().is_some() {
            info!(self.logger, "collecting workers that have ended again");
        }
        dead
    }

    /// Nothing else will tell of the children that have ended, so waitid(2) is called again by the
    /// clock.
    fn on_waitid_error<T>(&mut self, errno: Errno, poller: &mut Poller) -> Option<T> {
        let now = clock::now();
        self.waitid_fails_since.get_or_insert(now);
        if let Some(count) = self.waitid_complaints.allow_with_count(now) {
            let reason = errno_text(errno as i32);
            error!(
                self.logger,
                "cannot collect workers that have ended: {reason}; trying again until it works\
                 {count}"
            );
        }
        poller.look_again_soon();
        None
    }

    /// The workers that a stop is not to wait for any more: their processes are at their end as far
    /// as can be known, and waitid(2) has not said so for too long.
    pub fn uncollectable(&self, now: Instant) -> Vec<ChildId> {
        let since = self.waitid_fails_since;
        if since.is_none_or(|since| now - since < WAITID_PATIENCE) {
            return Vec::new();
        }
        let handles = self.handles.iter();
        let ended = handles.filter(|(_, it)| it.has_ended() != Some(false));
        ended.map(|(id, _)| *id).collect()
    }

    /// Collects a child that has ended; its pid is free from now on. Returns which worker it was
    /// and how it ended, unless it was none of ours. `workers`: how many make a generation.
    pub fn collect(
        &mut self,
        pid: i32,
        workers: usize,
        poller: &mut Poller,
        log: &mut Log,
    ) -> Option<Death> {
        let exit = match process::reap(pid) {
            Ok(exit) => exit?,
            Err(errno) => return self.on_waitid_error(errno, poller),
        };
        let id = *self.by_pid.get(&pid)?;
        self.on_end(id, worker::end(exit), workers, poller, log)
    }

    /// The end of a worker whose pidfd says so, when there is one that waitid(2) keeps from us. A
    /// process that traces the worker (ptrace(2)) hears of its end before we do, and decides when we
    /// hear of it: a dead worker must not count as a living one meanwhile. An honest tracer needs a
    /// moment, so this asks twice, a tenth of a second apart.
    pub fn collect_unexplained(
        &mut self,
        id: ChildId,
        workers: usize,
        poller: &mut Poller,
        log: &mut Log,
    ) -> Option<Death> {
        let pid = self.processes.get(&id)?.pid;
        let has_ended = self.handles.get(&id)?.has_ended() == Some(true);
        if !has_ended || process::is_collectable(pid) {
            return None;
        }
        if self.unexplained.insert(id) {
            poller.look_again_soon();
            return None;
        }
        self.on_end(id, End::Untold, workers, poller, log)
    }

    /// Whether a worker has ended and it is not known how.
    pub fn has_unexplained(&self) -> bool {
        !self.unexplained.is_empty()
    }

    fn on_end(
        &mut self,
        id: ChildId,
        end: End,
        workers: usize,
        poller: &mut Poller,
        log: &mut Log,
    ) -> Option<Death> {
        let last_lines = self.outputs.last_lines(id);
        let process = self.forget(id, poller)?;
        let pid = process.pid;
        let end = process.failure.unwrap_or(end);
        let text = match &end {
            End::Exec { .. } => end_text(&end),
            _ => format!("{pid} {}", end_text(&end)),
        };
        // It is logged when what the worker had written is logged.
        let most = PIPES_OF_THE_DEAD + workers;
        let events = self.outputs.end(id, text, most, log, clock::now());
        self.on_output_events(events, poller);
        if self.recently_dead.len() == RECENTLY_DEAD {
            self.recently_dead.pop_front();
        }
        let dead = FailedWorker {
            pid: Some(pid),
            last_lines,
        };
        self.recently_dead.push_back((id, dead));
        Some(Death { id, pid, end })
    }

    /// We end without this worker. When it ends while we are still there, it is collected like a
    /// process that we do not know.
    pub fn give_up(&mut self, id: ChildId, why: GivenUp, poller: &mut Poller) {
        if let Some(process) = self.forget(id, poller) {
            error!(self.logger, "{}", given_up_text(process.pid, why));
        }
    }

    fn forget(&mut self, id: ChildId, poller: &mut Poller) -> Option<Process> {
        let process = self.processes.remove(&id)?;
        self.by_pid.remove(&process.pid);
        self.unexplained.remove(&id);
        if let Some(handles) = self.handles.remove(&id) {
            handles.close(id, poller);
        }
        Some(process)
    }

    // ---- the output ----

    /// A stuck log costs this worker's lines from now on, not its time.
    pub fn allow_drops(&mut self, id: ChildId) {
        self.outputs.allow_drops(id);
    }

    /// Reads the outputs that are ready, as far as the log takes their lines.
    pub fn read_outputs(&mut self, poller: &mut Poller, log: &mut Log) {
        for source in poller.take_ready(|source| matches!(source, Source::Output(_))) {
            if let Source::Output(id) = source {
                self.outputs.mark_readable(id);
                // A worker that writes to its full pipe again and again would wake us each time.
                if self.outputs.is_paused(id) && self.muted.insert(id) {
                    if let Some(pipe) = self.outputs.pipe(id) {
                        poller.remove(pipe, source);
                    }
                }
            }
        }
        let events = self.outputs.read(log, clock::now());
        self.on_output_events(events, poller);
    }

    /// At the end of a turn, when the log has been flushed.
    pub fn resume_outputs(&mut self, poller: &mut Poller, log: &Log) {
        self.outputs.resume(log, clock::now());
        let outputs = &self.outputs;
        self.muted.retain(|id| match outputs.pipe(*id) {
            Some(_) if outputs.is_paused(*id) => true,
            Some(pipe) => {
                let added = poller.add(pipe, Source::Output(*id), Interest::READABLE);
                if added.is_err() {
                    poller.look_again_soon();
                }
                added.is_err()
            }
            None => false,
        });
    }

    /// Whether an output is to be read in the next turn whatever the poller says.
    pub fn wants_turn(&self) -> bool {
        self.outputs.wants_turn()
    }

    /// When a paused output is to be read again.
    pub fn deadline(&self) -> Option<Instant> {
        self.outputs.retry_at()
    }

    /// We end: what dead workers had written is logged until `limit`, and then their ends.
    pub fn finish_outputs(&mut self, poller: &mut Poller, log: &mut Log, limit: Instant) {
        while !self.outputs.all_announced() && clock::now() < limit {
            let events = self.outputs.read_all(log, clock::now());
            self.on_output_events(events, poller);
            log.finish(Duration::from_millis(20));
        }
    }

    fn on_output_events(&mut self, events: Vec<OutputEvent>, poller: &mut Poller) {
        for event in events {
            match event {
                OutputEvent::Ended(text) => info!(self.logger, "{text}"),
                OutputEvent::CutOff(pid) => warn!(
                    self.logger,
                    "closing the output of worker {pid}, which is gone: \
                     too many descendants of dead workers still hold theirs"
                ),
                OutputEvent::Unread => poller.look_again_soon(),
                OutputEvent::Closed(id, pipe) => poller.remove(&pipe, Source::Output(id)),
            }
        }
    }
}

/// A worker's process has ended and was collected.
pub struct Death {
    pub id: ChildId,
    pub pid: i32,
    pub end: End,
}

/// Runs a command of the administrator's beside us, in a process group of its own, with the signals
/// at their defaults. Nobody waits for it: when it ends, it is reaped as an orphan.
fn run_shell(command: &str) -> Result<(), Errno> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, "/dev/null", OFlag::O_RDWR, Mode::empty())?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigdefault(&SigSet::all())?;
    let command = CString::new(command).map_err(|_| Errno::EINVAL)?;
    let words = [c"sh", c"-c", &command];
    let variables = std::env::vars_os().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let environment: Vec<CString> = variables
        .filter_map(|entry| CString::new(entry.into_vec()).ok())
        .collect();
    posix_spawn("/bin/sh", &actions, &attributes, &words, &environment).map(drop)
}
