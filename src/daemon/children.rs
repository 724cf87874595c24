//! The processes behind the core's `ChildId`s: starting them, hearing of their exec and their
//! readiness, collecting their end and their output. It decides nothing; what it finds becomes
//! events.

use super::Daemon;
use super::watch::{Source, Ticket};
use crate::config::{Output, ReadyGate};
use crate::environment::{Control, Environment, Extras, FIRST_FD, Socket};
use crate::notify::{Message, WorkerSocket};
use crate::program::{self, ResolveError};
use crate::spawn::{self, Order, Report};
use crate::status::{Culprit, end_text};
use crate::supervisor::{ChildId, End, Event};
use crate::sys::io::{self, out_of_the_way};
use crate::sys::{clock, process};
use crate::table::Table;
use crate::worker::output::Outputs;
use crate::{error, info, warn};
use mio::Interest;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How many ends are taken up before a stop signal gets its turn.
const DEATHS: u32 = 1024;
/// How many messages of one worker are read before others get their turn.
const MESSAGES: usize = 32;
/// How many ended workers are remembered for a verdict.
const GRAVES: usize = 64;

/// A worker's process and what we hold of it.
pub(super) struct Child {
    pub pid: i32,
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

/// All processes, and what is kept of those that are gone.
#[derive(Default)]
pub(super) struct Children {
    pub alive: Table<ChildId, Child>,
    pub by_pid: Table<i32, ChildId>,
    pub outputs: Outputs,
    pub output_tickets: BTreeMap<ChildId, Ticket>,
    graves: VecDeque<(ChildId, Culprit)>,
}

impl Children {
    /// What is known of a worker, alive or not long dead.
    pub fn culprit(&mut self, id: ChildId) -> Culprit {
        if let Some(culprit) = self.buried(id) {
            return culprit.clone();
        }
        let pid = self.alive.get(&id).map(|child| child.pid);
        Culprit {
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

    fn buried(&self, id: ChildId) -> Option<&Culprit> {
        let mut graves = self.graves.iter().rev();
        Some(&graves.find(|(dead, _)| *dead == id)?.1)
    }

    fn bury(&mut self, id: ChildId, culprit: Culprit) {
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
        let directory = self.directory.as_deref().and_then(program::open_directory);
        let path = std::env::var_os("PATH");
        let at = directory.as_ref().map(AsFd::as_fd);
        let program =
            program::resolve(&self.config.command, path.as_deref(), at).map_err(not_found)?;
        self.announce_start(&program);
        let notify = self.notify_socket()?;
        let output = self.output_pipe()?;
        let line = self.control_line()?;
        // An output that nobody reads would end the worker, so this comes before its start.
        let watched = match &output {
            Some((ours, _)) => Some(self.watch_output(id, ours)?),
            None => None,
        };
        let path = self.control_path(at);
        let told = path.as_deref().map(|path| Control {
            path,
            master_pid: std::process::id(),
            child_index: index,
            fd: line.is_some().then_some(FIRST_FD + self.sockets.len()),
        });
        let environment = self.environment(generation, notify.as_ref(), told);
        let theirs = output.as_ref().map(|(_, theirs)| theirs.as_fd());
        let mut descriptors: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        if let Some((_, theirs)) = &line {
            descriptors.push(theirs.as_fd());
        }
        let order = Order {
            program: &program,
            arguments: &self.config.arguments,
            environment: &environment,
            stdin: self.stdin.as_fd(),
            stdout: theirs.unwrap_or(io::stdout()),
            stderr: theirs.unwrap_or(io::stderr()),
            descriptors: &descriptors,
            user: self.user.as_ref(),
            directory: at,
            die_with_parent: self
                .config
                .die_with_parent
                .then_some(self.config.stop_signal),
            nofile: self.nofile,
            pidfd: self.pidfds,
            parting: self.parting,
        };
        let spawned = spawn::spawn(&order);
        let spawned = match (spawned, output, watched) {
            (Ok(spawned), Some((ours, _)), Some(ticket)) => {
                self.adopt_output(id, spawned.pid, ours, ticket);
                spawned
            }
            (Ok(spawned), ..) => spawned,
            (Err(failure), output, watched) => {
                if let (Some((ours, _)), Some(ticket)) = (output, watched) {
                    self.watch.remove(ours, ticket);
                }
                return Err(failure.end(&program, self.user.as_ref()));
            }
        };
        let pid = spawned.pid;
        self.take_charge(id, program, spawned, notify);
        if let Some((ours, _)) = line {
            self.adopt_line(id, out_of_the_way(ours.into()).into());
        }
        if let Some(level) = self.config.nice.worker {
            self.renice(pid, level);
        }
        Ok(())
    }

    fn notify_socket(&self) -> Result<Option<WorkerSocket>, End> {
        if self.config.ready != ReadyGate::Notify {
            return Ok(None);
        }
        let uid = self
            .user
            .as_ref()
            .map_or(nix::unistd::getuid(), |user| user.uid);
        let socket = WorkerSocket::bind(uid.as_raw());
        socket.map(Some).map_err(|error| End::Exec {
            step: "opening its notify socket".to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        })
    }

    fn output_pipe(&self) -> Result<Option<(OwnedFd, OwnedFd)>, End> {
        if self.config.output == Output::Inherit {
            return Ok(None);
        }
        let pipe = spawn::output_pipe(self.user.as_ref());
        pipe.map(Some).map_err(|errno| End::Exec {
            step: "opening a pipe for its output".to_owned(),
            errno: errno as i32,
        })
    }

    /// The control socket as a worker finds it: as given, but where a relative path would lead a
    /// worker in another directory astray.
    fn control_path(&self, directory: Option<BorrowedFd>) -> Option<PathBuf> {
        let path = PathBuf::from(self.config.control.clone()?);
        let astray = path.is_relative() && directory.is_some_and(program::is_elsewhere);
        let own = std::env::current_dir().ok().filter(|_| astray);
        Some(own.map_or_else(|| path.clone(), |own| own.join(&path)))
    }

    /// A connection to the control socket for a worker that is to have one: our end and its.
    fn control_line(&self) -> Result<Option<(UnixStream, UnixStream)>, End> {
        if !self.config.control_fd {
            return Ok(None);
        }
        let pair = UnixStream::pair();
        pair.map(Some).map_err(|error| End::Exec {
            step: "opening its connection to the control socket".to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        })
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
        control: Option<Control>,
    ) -> Environment {
        let sockets: Vec<Socket> = self.sockets.iter().map(|texts| texts.as_socket()).collect();
        let extras = Extras {
            generation,
            notify_socket: notify.map(WorkerSocket::name),
            control,
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

    /// Registers what we hold of a forked worker. Where the kernel refuses a registration we go
    /// on without it: SIGCHLD tells of its end anyway.
    fn take_charge(
        &mut self,
        id: ChildId,
        program: PathBuf,
        spawned: spawn::Spawned,
        notify: Option<WorkerSocket>,
    ) {
        let pid = spawned.pid;
        let report = self.watched(spawned.report, Source::Report(id));
        let pidfd = spawned
            .pidfd
            .and_then(|pidfd| self.watched(pidfd, Source::Death(id)));
        let notify = notify.and_then(|socket| self.watched(socket, Source::Notify(id)));
        let child = Child {
            pid,
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

    pub(super) fn watched<F: AsFd>(&mut self, fd: F, source: Source) -> Option<(F, Ticket)> {
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
        let Some(child) = self.children.alive.get_mut(&id) else {
            return;
        };
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
            let Some(child) = self.children.alive.get_mut(&id) else {
                return;
            };
            let Some((socket, _)) = &child.notify else {
                return;
            };
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
                    warn!(
                        self.logger,
                        "process {pid} of user {uid} may not speak for worker {}: \
                        its messages are ignored",
                        child.pid
                    );
                }
                Message::Refused { .. } => {}
            }
        }
        self.watch.inbox.insert(Source::Notify(id));
    }

    /// Collects children that have ended: workers, and orphans that became ours as PID 1. Returns
    /// whether a worker was among them, or more may be left for the next turn.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        self.unreaped = false;
        for _ in 0..DEATHS {
            let Ok(Some(pid)) = process::next_dead() else {
                return any;
            };
            // Its last words are read while they are still known to be its.
            let worker = self.children.by_pid.get(&pid).copied();
            if let Some(id) = worker {
                self.on_notify(id);
                self.hear_last_acks();
                self.on_report(id);
            }
            match (process::reap(pid), worker) {
                (Ok(Some(end)), Some(id)) => self.on_end(id, end),
                (Ok(_), _) => {}
                (Err(_), _) => return any,
            }
            any |= worker.is_some();
        }
        self.unreaped = true;
        true
    }

    /// A worker's process is gone.
    fn on_end(&mut self, id: ChildId, end: End) {
        let last_lines = self.children.outputs.last_lines(id);
        let Some(child) = self.children.alive.remove(&id) else {
            return;
        };
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
        self.end_output(id, text);
        self.children.bury(
            id,
            Culprit {
                pid: Some(child.pid),
                last_lines,
            },
        );
        self.on_listeners_in_doubt();
        self.control_gone(id, child.pid);
        self.tell(Event::Gone(id, end));
    }

    pub(super) fn signal(&mut self, id: ChildId, signal: i32) {
        if self
            .core
            .workers()
            .find(id)
            .is_some_and(|worker| worker.is_asked())
        {
            self.children.outputs.allow_drops(id);
        }
        let Some(child) = self.children.alive.get(&id) else {
            return;
        };
        if let Err(errno) = process::signal(child.pid, signal) {
            error!(
                self.logger,
                "cannot send signal {signal} to worker {}: {}",
                child.pid,
                errno.desc()
            );
        }
    }

    pub(super) fn kill_group(&mut self, id: ChildId) {
        let Some(child) = self.children.alive.get(&id) else {
            return;
        };
        // It may have left its group to others, or not have made it yet.
        let _ = process::signal_group(child.pid, libc::SIGKILL);
        let _ = process::signal(child.pid, libc::SIGKILL);
    }
}

fn not_found(error: ResolveError) -> End {
    End::Exec {
        step: error.to_string(),
        errno: 0,
    }
}
