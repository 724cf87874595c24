//! The processes behind the core's `ChildId`s: starting them, hearing of their exec and their
//! readiness, collecting their end and their output. It decides nothing; what it finds becomes
//! events.

use super::Daemon;
use super::watch::{Source, Ticket};
use crate::args::Output;
use crate::environment::{Control, Environment, Extras, Socket};
use crate::notify::{Message, WorkerSocket};
use crate::output::Pipe;
use crate::spawn::{self, Order, Report};
use crate::status::{Culprit, end_text};
use crate::supervisor::{ChildId, End, Event};
use crate::sys::{clock, process};
use mio::Interest;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, stat};
use slog::{error, info, warn};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many messages of one worker are read before others get their turn.
const MESSAGES: usize = 32;
/// How many pipes are kept whose worker is gone but not its grandchildren.
const ORPHANED_PIPES: usize = 64;
/// How many ended workers are remembered for a verdict.
const GRAVES: usize = 64;

/// A worker's process and what we hold of it.
pub(super) struct Child {
    pub pid: i32,
    pub generation: u64,
    pidfd: Option<(OwnedFd, Ticket)>,
    report: Option<(OwnedFd, Ticket)>,
    notify: Option<(WorkerSocket, Ticket)>,
    /// Why it did not become the program.
    failure: Option<spawn::Failure>,
    program: PathBuf,
    /// One message from somebody who must not speak for it has been logged.
    refused: bool,
    /// What it says of itself (STATUS= in sd_notify(3)).
    pub status: Option<String>,
}

/// A worker's output; it may outlive the worker.
pub(super) struct Stream {
    pipe: Pipe,
    ticket: Ticket,
    pid: i32,
    /// Its end, to be logged when what it had written is.
    end: Option<String>,
    reported: bool,
}

/// All processes, and what is kept of those that are gone.
#[derive(Default)]
pub(super) struct Children {
    pub alive: BTreeMap<ChildId, Child>,
    pub by_pid: BTreeMap<i32, ChildId>,
    pub streams: BTreeMap<ChildId, Stream>,
    graves: VecDeque<(ChildId, Culprit)>,
}

impl Children {
    /// What is known of a worker, alive or not long dead.
    pub fn culprit(&self, id: ChildId) -> Culprit {
        if let Some((_, culprit)) = self.graves.iter().rev().find(|(dead, _)| *dead == id) {
            return culprit.clone();
        }
        let pid = self.alive.get(&id).map(|child| child.pid);
        Culprit { pid, last_lines: self.last_lines(id) }
    }

    pub fn pid(&self, id: ChildId) -> Option<i32> {
        self.culprit_pid(id).or_else(|| self.alive.get(&id).map(|child| child.pid))
    }

    fn culprit_pid(&self, id: ChildId) -> Option<i32> {
        self.graves.iter().rev().find(|(dead, _)| *dead == id).and_then(|(_, c)| c.pid)
    }

    fn last_lines(&self, id: ChildId) -> Vec<String> {
        self.streams.get(&id).map(|stream| stream.pipe.last_lines()).unwrap_or_default()
    }

    fn bury(&mut self, id: ChildId, culprit: Culprit) {
        if self.graves.len() == GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back((id, culprit));
    }

    /// Whether everything that dead workers had written is logged.
    pub fn all_reported(&self) -> bool {
        self.streams.values().all(|stream| stream.end.is_none())
    }
}

/// The directory that workers start in: `$PWD` of our own start, if that named it then, so that a
/// symlink on the way is followed anew at every start.
pub(super) fn working_directory() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("PWD")?);
    let (there, here) = (stat(&named).ok()?, stat(".").ok()?);
    let same = named.is_absolute() && (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino);
    same.then_some(named)
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
        let broken = |step: &str, errno: nix::errno::Errno| End::Exec {
            step: step.to_owned(),
            errno: errno as i32,
        };
        let path = std::env::var_os("PATH");
        let program = spawn::resolve(&self.config.command, path.as_deref())
            .map_err(spawn::ResolveError::end)?;
        self.announce_start(&program);
        let uid = self.user.as_ref().map_or(nix::unistd::getuid(), |user| user.uid).as_raw();
        let notify = match self.config.ready {
            crate::args::Gate::Notify => Some(WorkerSocket::bind(uid).map_err(|error| {
                End::Exec {
                    step: "opening a notify socket".to_owned(),
                    errno: error.raw_os_error().unwrap_or(0),
                }
            })?),
            _ => None,
        };
        let output = match self.config.output {
            Output::Inherit => None,
            _ => Some(
                spawn::output_pipe(self.user.as_ref())
                    .map_err(|errno| broken("opening a pipe for its output", errno))?,
            ),
        };
        let environment = self.environment(generation, index, notify.as_ref());
        let directory = self.directory.as_ref().and_then(|path| {
            open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
        });
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let theirs = output.as_ref().map(|(_, theirs)| theirs.as_fd());
        let descriptors: Vec<BorrowedFd> = self.listeners.iter().map(AsFd::as_fd).collect();
        let spawned = spawn::spawn(&Order {
            program: &program,
            arguments: &self.config.arguments,
            environment: &environment,
            stdin: self.stdin.as_fd(),
            stdout: theirs.unwrap_or(stdout.as_fd()),
            stderr: theirs.unwrap_or(stderr.as_fd()),
            descriptors: &descriptors,
            user: self.user.as_ref(),
            directory: directory.as_ref().map(AsFd::as_fd),
            die_with_parent: self.config.die_with_parent.then_some(self.config.stop_signal),
            nofile: self.nofile,
            pidfd: self.pidfds,
        })
        .map_err(|failure| failure.end(&program, self.user.as_ref()))?;
        drop(descriptors);
        let ours = output.map(|(ours, _)| ours);
        self.take_charge(id, generation, program, spawned, notify, ours);
        Ok(())
    }

    fn announce_start(&self, program: &Path) {
        let arguments = self.config.arguments.iter().map(|word| word.as_os_str());
        let words: Vec<_> = std::iter::once(program.as_os_str()).chain(arguments).collect();
        let words = words.join(OsStr::new(" "));
        info!(self.logger, "Starting {} [{}]", program.display(), words.to_string_lossy());
    }

    fn environment(
        &self,
        generation: u64,
        index: u32,
        notify: Option<&WorkerSocket>,
    ) -> Environment {
        let sockets: Vec<Socket> = self.sockets.iter().map(|texts| texts.as_socket()).collect();
        let control = self.config.control.as_deref().map(|path| Control {
            path,
            master_pid: std::process::id(),
            child_index: index,
            fd: None,
        });
        let extras = Extras {
            generation,
            notify_socket: notify.map(WorkerSocket::name),
            control,
            user: self.user.as_ref(),
        };
        Environment::build(std::env::vars_os(), &sockets, self.config.protocols, &extras)
    }

    /// Registers what we hold of a forked worker. Where the kernel refuses a registration we go
    /// on without it: SIGCHLD tells of its end anyway.
    fn take_charge(
        &mut self,
        id: ChildId,
        generation: u64,
        program: PathBuf,
        spawned: spawn::Spawned,
        notify: Option<WorkerSocket>,
        output: Option<OwnedFd>,
    ) {
        let pid = spawned.pid;
        let report = self.watched(spawned.report, Source::Report(id));
        let pidfd = spawned.pidfd.and_then(|pidfd| self.watched(pidfd, Source::Death(id)));
        let notify = notify.and_then(|socket| self.watched(socket, Source::Notify(id)));
        if let Some((fd, ticket)) = output.and_then(|fd| self.watched(fd, Source::Output(id))) {
            let lossy = self.config.output == Output::Lossy;
            let pipe = Pipe::new(fd, pid, lossy);
            let stream = Stream { pipe, ticket, pid, end: None, reported: false };
            self.children.streams.insert(id, stream);
        }
        let child = Child {
            pid,
            generation,
            pidfd,
            report,
            notify,
            failure: None,
            program,
            refused: false,
            status: None,
        };
        self.children.by_pid.insert(pid, id);
        self.children.alive.insert(id, child);
    }

    fn watched<F: AsFd>(&mut self, fd: F, source: Source) -> Option<(F, Ticket)> {
        match self.watch.add(&fd, source, Interest::READABLE) {
            Ok(ticket) => Some((fd, ticket)),
            Err(error) => {
                error!(self.logger, "cannot watch a worker's descriptor: {error}");
                None
            }
        }
    }

    /// The exec of a worker is over.
    pub(super) fn on_report(&mut self, id: ChildId) {
        let Some(child) = self.children.alive.get_mut(&id) else { return };
        let Some((fd, _)) = &child.report else { return };
        let report = spawn::read_report(fd.as_fd());
        if report == Report::Pending {
            return;
        }
        if let Some((fd, ticket)) = child.report.take() {
            self.watch.remove(&fd, ticket);
        }
        match report {
            Report::Failed(failure) => child.failure = Some(failure),
            _ => self.tell(Event::Running(id)),
        }
    }

    /// A worker has something to say.
    pub(super) fn on_notify(&mut self, id: ChildId) {
        for _ in 0..MESSAGES {
            let Some(child) = self.children.alive.get_mut(&id) else { return };
            let Some((socket, _)) = &child.notify else { return };
            let message = match socket.receive() {
                Ok(Some(message)) => message,
                Ok(None) | Err(_) => return,
            };
            match message {
                Message::From { report, .. } => {
                    if report.status.is_some() {
                        child.status = report.status;
                    }
                    if report.ready {
                        self.tell(Event::Ready(id));
                    }
                }
                Message::Refused { pid, uid } if !child.refused => {
                    child.refused = true;
                    warn!(self.logger, "process {pid} of user {uid} may not speak for worker {}: \
                        its messages are ignored", child.pid);
                }
                Message::Refused { .. } => {}
            }
        }
        self.watch.inbox.insert(Source::Notify(id));
    }

    /// Collects every child that has ended: workers, and orphans that became ours as PID 1.
    /// Returns whether a worker was among them.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        while let Ok(Some(pid)) = process::next_dead() {
            // Its last words are read while they are still known to be its.
            let worker = self.children.by_pid.get(&pid).copied();
            if let Some(id) = worker {
                self.on_notify(id);
                self.on_report(id);
            }
            match (process::reap(pid), worker) {
                (Ok(Some(end)), Some(id)) => self.on_end(id, end),
                (Ok(_), _) => {}
                (Err(_), _) => break,
            }
            any |= worker.is_some();
        }
        any
    }

    /// A worker's process is gone.
    fn on_end(&mut self, id: ChildId, end: End) {
        let Some(child) = self.children.alive.remove(&id) else { return };
        self.children.by_pid.remove(&child.pid);
        let end = match child.failure {
            Some(failure) => failure.end(&child.program, self.user.as_ref()),
            None => end,
        };
        for (fd, ticket) in [child.pidfd, child.report].into_iter().flatten() {
            self.watch.remove(&fd, ticket);
        }
        if let Some((socket, ticket)) = child.notify {
            self.watch.remove(&socket, ticket);
        }
        let text = match &end {
            End::Exec { .. } => end_text(&end),
            _ => format!("{} {}", child.pid, end_text(&end)),
        };
        self.close_stream(id, text);
        let last_lines = self.children.last_lines(id);
        self.children.bury(id, Culprit { pid: Some(child.pid), last_lines });
        self.on_listeners_in_doubt();
        self.tell(Event::Gone(id, end));
    }

    /// Logs a worker's end, now or when what it had written is logged.
    fn close_stream(&mut self, id: ChildId, end: String) {
        match self.children.streams.get_mut(&id) {
            None => info!(self.logger, "{end}"),
            Some(stream) => {
                stream.pipe.mark_death();
                stream.end = Some(end);
                self.on_output(id);
            }
        }
    }

    /// Moves what a worker has written into the log, within a turn's budget.
    pub(super) fn on_output(&mut self, id: ChildId) {
        let asked = self.core.workers().find(id).is_none_or(|worker| worker.is_asked());
        let Some(stream) = self.children.streams.get_mut(&id) else { return };
        let state = stream.pipe.drain(&mut self.log, asked);
        if stream.pipe.is_complete() || state == crate::output::Drained::Eof {
            if let Some(end) = stream.end.take() {
                info!(self.logger, "{end}");
                stream.reported = true;
            }
        }
        match state {
            crate::output::Drained::Eof => self.drop_stream(id),
            crate::output::Drained::More => {
                self.watch.inbox.insert(Source::Output(id));
            }
            crate::output::Drained::Empty => {}
        }
        self.limit_orphaned_pipes();
    }

    fn drop_stream(&mut self, id: ChildId) {
        if let Some(stream) = self.children.streams.remove(&id) {
            self.watch.remove(&stream.pipe, stream.ticket);
        }
    }

    fn limit_orphaned_pipes(&mut self) {
        let orphaned = |(_, stream): &(&ChildId, &Stream)| stream.reported;
        if self.children.streams.iter().filter(orphaned).count() <= ORPHANED_PIPES {
            return;
        }
        let oldest = self.children.streams.iter().find(orphaned).map(|(id, s)| (*id, s.pid));
        if let Some((id, pid)) = oldest {
            warn!(self.logger, "closing the output of worker {pid}, which is gone: \
                too many descendants of dead workers still hold theirs");
            self.drop_stream(id);
        }
    }

    pub(super) fn signal(&mut self, id: ChildId, signal: i32) {
        let Some(child) = self.children.alive.get(&id) else { return };
        if let Err(errno) = process::signal(child.pid, signal) {
            error!(self.logger, "cannot send signal {signal} to worker {}: {}",
                child.pid, errno.desc());
        }
    }

    pub(super) fn kill_group(&mut self, id: ChildId) {
        let Some(child) = self.children.alive.get(&id) else { return };
        let killed = process::signal_group(child.pid, libc::SIGKILL);
        if killed.is_err() {
            // It left its group, or has not made it yet.
            let _ = process::signal(child.pid, libc::SIGKILL);
        }
    }
}
