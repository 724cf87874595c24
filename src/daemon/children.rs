//! The processes behind the core's `ChildId`s: starting them, hearing of their exec and their
//! readiness, collecting their end and their output. It decides nothing; what it finds becomes
//! events.

use super::{COMPLAINTS, Daemon};
use crate::config::{Output, Protocols, ReadyGate};
use crate::control::verdict::{FailedWorker, end_text, given_up_text};
use crate::log::RateLimit;
use crate::notify::{Message, Others, WorkerSocket};
use crate::poller::{Interest, Source};
use crate::supervisor::{ChildId, End, Event, GivenUp, Instant, Worker};
use crate::sys::clock;
use crate::sys::io::{stderr, stdout};
use crate::sys::process::{self, Exit};
use crate::worker;
use crate::worker::command;
use crate::worker::env::{EinhornMaster, Environment, Extras, FIRST_FD, Socket};
use crate::worker::output::Outputs;
use crate::worker::spawn::{self, Report, ReportPipe, SpawnRequest};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getuid;
use slog::{error, info, warn};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many ends are taken up before a stop signal gets its turn.
const DEATHS: u32 = 1024;
/// How many messages of one worker are read before others get their turn.
const MESSAGES: usize = 32;
/// How long a stop puts up with a waitid(2) that fails.
const BLIND_PATIENCE: Duration = Duration::from_secs(10);
/// How many ended workers are remembered for a verdict.
const GRAVES: usize = 64;

/// A worker's process and what we hold of it.
pub(super) struct Child {
    pub pid: i32,
    pidfd: Option<OwnedFd>,
    report: Option<ReportPipe>,
    notify: Option<WorkerSocket>,
    /// Why it did not become the program.
    failure: Option<spawn::Failure>,
    program: PathBuf,
    /// What it says of itself (STATUS= in sd_notify(3)).
    pub status: Option<String>,
}

impl Child {
    /// Whether its process is at its end, as far as can be known: without a pidfd, it may be.
    fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else {
            return true;
        };
        let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO) != Ok(0)
    }
}

/// Our ends of what a worker is started with. All are watched before there is a child: one that we
/// could not hear would be taken for silent, or die of a closed pipe, and be blamed for it.
#[derive(Default)]
struct Ends {
    report: Option<ReportPipe>,
    notify: Option<WorkerSocket>,
    output: Option<OwnedFd>,
    /// The worker's ends.
    their_output: Option<OwnedFd>,
    their_line: Option<UnixStream>,
}

/// That waitid(2) fails: since when, and when that was said last.
#[derive(Clone, Copy)]
struct Blind {
    since: Instant,
    said: Instant,
}

/// All processes, and what is kept of those that are gone.
#[derive(Default)]
pub(super) struct Children {
    pub alive: BTreeMap<ChildId, Child>,
    pub by_pid: BTreeMap<i32, ChildId>,
    pub outputs: Outputs,
    graves: VecDeque<(ChildId, FailedWorker)>,
    /// Messages of those who may not speak for a worker.
    refused: RateLimit,
    /// Whether their users have other processes.
    others: Others,
    blind: Option<Blind>,
}

impl Children {
    /// Whether the system does not tell which children have ended.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// What is known of a worker, alive or not long dead.
    pub fn failed(&mut self, id: ChildId) -> FailedWorker {
        if let Some(culprit) = self.buried(id) {
            return culprit.clone();
        }
        let pid = self.alive.get(&id).map(|child| child.pid);
        FailedWorker {
            pid,
            last_lines: self.outputs.last_lines(id),
        }
    }

    pub fn pid(&self, id: ChildId) -> Option<i32> {
        match self.buried(id) {
            Some(culprit) => culprit.pid,
            None => Some(self.alive.get(&id)?.pid),
        }
    }

    fn buried(&self, id: ChildId) -> Option<&FailedWorker> {
        let mut graves = self.graves.iter().rev();
        Some(&graves.find(|(dead, _)| *dead == id)?.1)
    }

    fn bury(&mut self, id: ChildId, culprit: FailedWorker) {
        if self.graves.len() == GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back((id, culprit));
    }
}

impl Daemon {
    /// Starts a worker; what becomes of it comes as events.
    pub(super) fn start(&mut self, id: ChildId, generation: u64, index: u32) {
        if let Err(end) = self.try_start(id, generation, index) {
            error!(self.logger, "{}", end_text(&end));
            self.core.handle(clock::now(), Event::Gone(id, end));
        }
    }

    fn try_start(&mut self, id: ChildId, generation: u64, index: u32) -> Result<(), End> {
        let directory = match self.directory.as_deref().map(command::open_directory) {
            None => None,
            Some(opened) => {
                opened.map_err(|errno| not_done("opening its working directory")(errno.into()))?
            }
        };
        let path = std::env::var_os("PATH");
        let at = directory.as_ref().map(AsFd::as_fd);
        let program =
            command::resolve(&self.config.command, path.as_deref(), at).map_err(not_found)?;
        self.announce_start(&program);
        let mut ends = Ends::default();
        let spawned = match self.open_ends(id, &mut ends) {
            Ok(()) => self.fork(&program, at, generation, index, &mut ends),
            Err(end) => Err(end),
        };
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(end) => {
                self.close_ends(id, ends);
                return Err(end);
            }
        };
        let pid = spawned.pid;
        self.take_charge(id, program, spawned, ends);
        if let Some(level) = self.config.nice.worker {
            self.renice(pid, level);
        }
        Ok(())
    }

    fn fork(
        &self,
        program: &Path,
        at: Option<BorrowedFd>,
        generation: u64,
        index: u32,
        ends: &mut Ends,
    ) -> Result<spawn::Spawned, End> {
        let path = self.control_path(at);
        let told = path.as_deref().map(|control| EinhornMaster {
            control,
            pid: std::process::id(),
            child_index: index,
            fd: (ends.their_line.is_some()).then_some(FIRST_FD + self.sockets.len()),
        });
        let notify = ends.notify.as_ref();
        let environment = self.environment(generation, notify, told);
        let theirs = ends.their_output.as_ref().map(AsFd::as_fd);
        let mut descriptors: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        descriptors.extend(ends.their_line.as_ref().map(AsFd::as_fd));
        let request = SpawnRequest {
            program,
            arguments: &self.config.arguments,
            environment: &environment,
            stdio: [
                self.stdin.as_fd(),
                theirs.unwrap_or(stdout()),
                theirs.unwrap_or(stderr()),
            ],
            descriptors: &descriptors,
            user: self.user.as_ref(),
            directory: at,
            die_with_parent: self
                .config
                .die_with_parent
                .then_some(self.config.stop_signal),
            nofile: self.nofile,
        };
        let failed = |failure: spawn::Failure| failure.end(program, self.user.as_ref());
        let pipe = ends.report.as_mut().expect("it was opened first");
        spawn::spawn(&request, pipe).map_err(failed)
    }

    fn open_ends(&mut self, id: ChildId, ends: &mut Ends) -> Result<(), End> {
        let pipe =
            ReportPipe::new().map_err(|failure| failure.end(Path::new(""), self.user.as_ref()))?;
        self.watched(&pipe, Source::Report(id), "the report of its start")?;
        ends.report = Some(pipe);
        if self.config.ready == ReadyGate::Notify {
            let uid = self.user.as_ref().map_or(getuid(), |user| user.uid);
            let socket =
                WorkerSocket::bind(uid.as_raw()).map_err(not_done("opening its notify socket"))?;
            self.watched(&socket, Source::Notify(id), "its notify socket")?;
            ends.notify = Some(socket);
        }
        if self.config.output != Output::Inherit {
            let (ours, theirs) = spawn::output_pipe(self.user.as_ref())
                .map_err(|errno| not_done("opening a pipe for its output")(errno.into()))?;
            self.watched(&ours, Source::Output(id), "its output")?;
            ends.output = Some(ours);
            ends.their_output = Some(theirs);
        }
        if self.config.control_fd {
            let step = "opening its connection to the control socket";
            let (ours, theirs) = UnixStream::pair().map_err(not_done(step))?;
            self.adopt_line(id, ours)
                .map_err(not_done("watching its connection to the control socket"))?;
            ends.their_line = Some(theirs);
        }
        Ok(())
    }

    fn watched(&mut self, fd: impl AsFd, source: Source, what: &str) -> Result<(), End> {
        let added = self.poller.add(fd, source, Interest::READABLE);
        added.map_err(not_done(&format!("watching {what}")))
    }

    /// There is no worker after all.
    fn close_ends(&mut self, id: ChildId, ends: Ends) {
        if let Some(pipe) = ends.report {
            self.poller.remove(&pipe, Source::Report(id));
        }
        if let Some(socket) = ends.notify {
            self.poller.remove(&socket, Source::Notify(id));
        }
        if let Some(pipe) = ends.output {
            self.poller.remove(&pipe, Source::Output(id));
        }
        self.forget_line(id);
    }

    /// The control socket as a worker finds it: as given, but where a relative path would lead a
    /// worker in another directory astray.
    fn control_path(&self, directory: Option<BorrowedFd>) -> Option<PathBuf> {
        let path = PathBuf::from(self.config.control.clone()?);
        let astray = path.is_relative() && directory.is_some_and(command::is_elsewhere);
        let own = std::env::current_dir().ok().filter(|_| astray);
        Some(own.map_or_else(|| path.clone(), |own| own.join(&path)))
    }

    fn announce_start(&self, program: &Path) {
        let mut words = program.as_os_str().to_owned();
        for word in &self.config.arguments {
            words.push(" ");
            words.push(word);
        }
        info!(
            self.logger,
            "Starting {} [{}]",
            program.display(),
            words.to_string_lossy()
        );
    }

    fn environment(
        &self,
        generation: u64,
        notify: Option<&WorkerSocket>,
        master: Option<EinhornMaster>,
    ) -> Environment {
        let sockets: Vec<Socket> = self.sockets.iter().map(|texts| texts.as_socket()).collect();
        let extras = Extras {
            generation,
            notify_socket: notify.map(WorkerSocket::name),
            master,
            user: self.user.as_ref(),
        };
        let dropped = |name: &OsString| generation > 1 && self.config.drop_env.contains(name);
        Environment::build(
            self.inherited.iter().filter(|(name, _)| !dropped(name)),
            &sockets,
            self.config.protocols,
            &extras,
        )
    }

    /// A worker has been forked: what we hold of it. Without a pidfd, or where that cannot be
    /// watched, SIGCHLD tells of its end.
    fn take_charge(&mut self, id: ChildId, program: PathBuf, spawned: spawn::Spawned, ends: Ends) {
        let pid = spawned.pid;
        let pidfd = spawned.pidfd.and_then(|pidfd| {
            self.watched(&pidfd, Source::Death(id), "its pidfd").ok()?;
            Some(pidfd)
        });
        if let Some(output) = ends.output {
            self.adopt_output(id, pid, output);
        }
        let child = Child {
            pid,
            pidfd,
            report: ends.report,
            notify: ends.notify,
            failure: None,
            program,
            status: None,
        };
        self.children.by_pid.insert(pid, id);
        self.children.alive.insert(id, child);
    }

    /// The exec of a worker is over.
    pub(super) fn on_report(&mut self, id: ChildId) {
        let Some(child) = self.children.alive.get_mut(&id) else {
            return;
        };
        let Some(pipe) = &child.report else {
            return;
        };
        let report = pipe.read(child.pid);
        match report {
            Report::Pending => return,
            Report::Unread => return self.poller.look_again_soon(),
            Report::Failed(failure) => child.failure = Some(failure),
            // After a kill its end follows.
            Report::Running | Report::Killed => {}
        }
        if let Some(pipe) = child.report.take() {
            self.poller.remove(&pipe, Source::Report(id));
        }
        if report == Report::Running {
            self.tell(Event::Running(id));
        }
    }

    /// A worker has something to say.
    pub(super) fn on_notify(&mut self, id: ChildId) {
        for _ in 0..MESSAGES {
            let Some(child) = self.children.alive.get_mut(&id) else {
                return;
            };
            let Some(socket) = &child.notify else {
                return;
            };
            let message = match socket.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(_) => return self.poller.look_again_soon(),
            };
            let Message { sender, report } = message;
            let workers = &self.children.by_pid;
            let is_worker = |pid: i32| workers.get(&pid).is_some();
            let others = &mut self.children.others;
            let has_others = |uid| others.of(uid, clock::now(), is_worker);
            if let Err(why) = socket.may_speak(sender, child.pid, is_worker, has_others) {
                let refused = self.children.refused.allow_with_count(clock::now());
                if let Some(count) = refused {
                    let (pid, uid, worker) = (sender.pid, sender.uid, child.pid);
                    warn!(
                        self.logger,
                        "process {pid} of user {uid} may not speak for worker {worker}: {why}; \
                         its message is ignored{count}"
                    );
                }
                continue;
            }
            if report.status.is_some() {
                child.status = report.status;
            }
            if report.ready {
                self.tell(Event::Ready(id));
            }
        }
        self.poller.mark_ready(Source::Notify(id));
    }

    /// Collects children that have ended: workers, and orphans that became ours as PID 1. Returns
    /// whether a worker was among them, or more may be left for the next turn.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        self.unreaped = false;
        for _ in 0..DEATHS {
            let pid = match process::next_dead() {
                Ok(Some(pid)) => pid,
                Ok(None) => {
                    self.sees_again();
                    return any;
                }
                Err(errno) => {
                    self.on_blindness(errno);
                    return any;
                }
            };
            // Its last words are read while they are still known to be its.
            let worker = self.children.by_pid.get(&pid).copied();
            if let Some(id) = worker {
                self.on_notify(id);
                self.hear_last_acks();
                self.on_report(id);
            }
            match (process::reap(pid), worker) {
                (Ok(Some(exit)), Some(id)) => self.on_exit(id, exit),
                (Ok(_), _) => {}
                (Err(errno), _) => {
                    self.on_blindness(errno);
                    return any;
                }
            }
            any |= worker.is_some();
        }
        self.unreaped = true;
        true
    }

    /// waitid(2) does not work: nothing else will tell of the children that have ended, so it is
    /// asked again by the clock. A stop does not wait for it for ever.
    fn on_blindness(&mut self, errno: Errno) {
        let now = clock::now();
        let since = self.children.blind.map_or(now, |blind| blind.since);
        let said = self.children.blind.map(|blind| blind.said);
        if said.is_none_or(|said| now - said >= COMPLAINTS) {
            error!(
                self.logger,
                "cannot collect workers that have ended: {}; trying again until it works",
                errno.desc()
            );
            self.children.blind = Some(Blind { since, said: now });
        }
        self.poller.look_again_soon();
        if self.core.is_stopping() && now - since >= BLIND_PATIENCE {
            let alive = self.children.alive.iter();
            let ended = alive.filter(|(_, child)| child.has_ended());
            for id in ended.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.tell(Event::Lost(id));
            }
        }
    }

    fn sees_again(&mut self) {
        if self.children.blind.take().is_some() {
            info!(self.logger, "collecting workers that have ended again");
        }
    }

    /// A worker's process is gone.
    fn on_exit(&mut self, id: ChildId, exit: Exit) {
        let last_lines = self.children.outputs.last_lines(id);
        let Some(child) = self.children.alive.remove(&id) else {
            return;
        };
        self.children.by_pid.remove(&child.pid);
        let end = match child.failure {
            Some(failure) => failure.end(&child.program, self.user.as_ref()),
            None => worker::end(exit),
        };
        let pid = child.pid;
        self.forget(id, child);
        let text = match &end {
            End::Exec { .. } => end_text(&end),
            _ => format!("{pid} {}", end_text(&end)),
        };
        self.end_output(id, text);
        self.children.bury(
            id,
            FailedWorker {
                pid: Some(pid),
                last_lines,
            },
        );
        self.on_listeners_in_doubt();
        self.control_gone(id, pid);
        self.tell(Event::Gone(id, end));
    }

    /// Sends a signal to a worker. One that has ended already needs none.
    pub(super) fn signal(&mut self, id: ChildId, signal: i32) -> Result<(), Errno> {
        let asked = |worker: &Worker| worker.is_stopping();
        if self.core.workers().find(id).is_some_and(asked) {
            self.children.outputs.allow_drops(id);
        }
        match self.children.alive.get(&id) {
            Some(child) => or_gone(process::signal(child.pid, signal)),
            None => Ok(()),
        }
    }

    /// SIGKILL to a worker and to its group.
    pub(super) fn kill_group(&mut self, id: ChildId) -> Result<(), Errno> {
        let Some(child) = self.children.alive.get(&id) else {
            return Ok(());
        };
        // It may have left its group to others, or not have made it yet: what counts is itself.
        let _ = process::signal_group(child.pid, libc::SIGKILL);
        or_gone(process::signal(child.pid, libc::SIGKILL))
    }

    /// We end without this worker. When it ends while we are still there, it is reaped as a
    /// stranger's.
    pub(super) fn give_up(&mut self, id: ChildId, why: GivenUp) {
        let Some(child) = self.children.alive.remove(&id) else {
            return;
        };
        error!(self.logger, "{}", given_up_text(child.pid, why));
        self.children.by_pid.remove(&child.pid);
        self.forget(id, child);
    }

    /// Makes a process as nice as it shall be, as einhorn's `--nice` has it. Where that is refused
    /// it lives on as it is.
    pub(super) fn renice(&self, pid: i32, level: i32) {
        let done = match &self.config.nice.renice {
            None => process::set_nice(pid, level).map_err(|errno| errno.desc().to_owned()),
            Some(command) => {
                let (nothing, inherited) = (Extras::default(), self.inherited.iter());
                let env = Environment::build(inherited, &[], Protocols::default(), &nothing);
                let command = format!("{command} {level} -p {pid}");
                spawn::run_shell(&command, &env, self.stdin.as_fd(), self.nofile)
                    .map_err(|end| end_text(&end))
            }
        };
        if let Err(reason) = done {
            error!(
                self.logger,
                "cannot change the niceness of {pid} to {level}: {reason}"
            );
        }
    }

    /// Gives back what we held of a process.
    fn forget(&mut self, id: ChildId, child: Child) {
        if let Some(pidfd) = child.pidfd {
            self.poller.remove(&pidfd, Source::Death(id));
        }
        if let Some(pipe) = child.report {
            self.poller.remove(&pipe, Source::Report(id));
        }
        if let Some(socket) = child.notify {
            self.poller.remove(&socket, Source::Notify(id));
        }
    }
}

/// ESRCH: the worker has ended and been collected a moment ago.
fn or_gone(sent: Result<(), Errno>) -> Result<(), Errno> {
    match sent {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// A step of ours before there is a child did not succeed.
fn not_done(step: &str) -> impl Fn(io::Error) -> End {
    move |error| End::Exec {
        step: step.to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    }
}

fn not_found(step: String) -> End {
    End::Exec { step, errno: 0 }
}
