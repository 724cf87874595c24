//! The control socket in the loop: clients' descriptors, their requests as events of the core,
//! and for everybody who waits exactly one last answer. It decides nothing but what to say.
//!
//! An ack is readiness, and taken up as early as that; everything else waits until the deaths
//! that we could know of are known.

#[cfg(feature = "einhorn")]
mod einhorn;
mod waiters;

pub(super) use waiters::State;

use super::Daemon;
use super::watch::Source;
use crate::config::ReadyGate;
use crate::control::{Answer, Command, Control, Incoming, Next, Peer, Rights};
use crate::status::{Process, SocketView, Told, View, summary};
use crate::supervisor::{ChildId, Event, Instant, Outcome};
use crate::sys::clock;
use crate::text::{counted, error_text};
use crate::{info, warn};
use mio::Interest;
use signal_hook::consts::SIGTERM;
use std::io;
use std::os::unix::net::UnixStream;
use waiters::Wish;

/// How often one connection is read when its last words may count.
const LAST_WORDS: usize = 8;

const NOT_PERMITTED: &str = "You may say worker:ack and worker:ping here, and nothing else.";
const ONLY_ASK: &str = "You may only ask here: this is for root and the user that we run as.";
const FOLLOWS: &str = "a reload is running: this one follows it";

/// What a client must be allowed for what it asks.
fn needed(incoming: &Incoming) -> Rights {
    match Command::of(&incoming.request) {
        Ok(Some(command)) => command.needs(),
        #[cfg(feature = "einhorn")]
        Ok(None) => Daemon::einhorn_needs(incoming.request.command.as_deref()),
        _ => Rights::Everything,
    }
}

impl Daemon {
    // ---- connections ----

    /// Somebody wants to connect (0), has something to say, or reads again.
    pub(super) fn on_control(&mut self, number: u64) {
        match number {
            0 => self.accept_clients(),
            id => drop(self.hear(id)),
        }
    }

    /// What is to be done at the end of a turn.
    pub(super) fn tidy_control(&mut self) {
        self.control.tidy(&mut self.watch);
        let due = |at: Instant| at <= clock::now();
        if self.control.deadline().is_some_and(due) {
            self.watch.inbox.insert(Source::Control(0));
        }
    }

    fn accept_clients(&mut self) {
        let Some(socket) = &mut self.control.socket else {
            return;
        };
        let workers = &self.children.by_pid;
        let is_worker = |peer: &Peer| peer.lineage().iter().any(|pid| workers.get(pid).is_some());
        let accepted = socket.accept(clock::now(), is_worker);
        self.control.tidy(&mut self.watch);
        if accepted.again {
            self.watch.inbox.insert(Source::Control(0));
        }
        if let Some((Peer { pid, uid, .. }, why)) = accepted.refused {
            self.complain(&format!("process {pid} of user {uid} {why}: turned away"));
        }
        for id in accepted.fresh {
            if let Err(error) = self.watch_client(id) {
                let reason = error_text(&error);
                self.complain(&format!("cannot watch a client's connection: {reason}"));
                continue;
            }
            // What it sent with the connection is there already.
            self.hear(id);
        }
    }

    /// Our end of the connection that a worker was started with: what comes is its word.
    pub(super) fn adopt_line(&mut self, worker: ChildId, line: UnixStream) -> io::Result<()> {
        let Some(socket) = &mut self.control.socket else {
            return Ok(());
        };
        let id = socket.adopt(line, worker, clock::now());
        self.watch_client(id)
    }

    /// A worker has gone, or never came to be.
    pub(super) fn forget_line(&mut self, worker: ChildId) {
        if let Some(socket) = &mut self.control.socket {
            socket.forget(worker);
        }
    }

    /// Where a connection cannot be watched, it is closed.
    fn watch_client(&mut self, id: u64) -> io::Result<()> {
        let Some(socket) = &mut self.control.socket else {
            return Ok(());
        };
        let Some(fd) = socket.fd(id) else {
            return Ok(());
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        match self.watch.add(fd, Source::Control(id), both) {
            Ok(ticket) => {
                self.control.tickets.push((id, ticket));
                Ok(())
            }
            Err(error) => {
                socket.close(id);
                Err(error)
            }
        }
    }

    /// Reads a client once; returns whether there may be more.
    fn hear(&mut self, id: u64) -> bool {
        let Some(socket) = &mut self.control.socket else {
            return false;
        };
        match socket.next_request(id, clock::now()) {
            Next::Nothing => return false,
            Next::More => {}
            Next::Request(incoming) => match Command::of(&incoming.request) {
                Ok(Some(Command::Ack)) => self.on_ack(&incoming),
                Ok(Some(Command::WorkerPing)) => self.hang_up(&incoming),
                _ => self.control.heard.push_back(incoming),
            },
        }
        self.watch.inbox.insert(Source::Control(id));
        true
    }

    /// Before a worker's death is taken note of: what it, or a helper of it, has said.
    pub(super) fn hear_last_acks(&mut self) {
        if self.config.ready != ReadyGate::Ack {
            return;
        }
        self.accept_clients();
        let ids = self.control.socket.as_ref().map(Control::ids);
        for id in ids.unwrap_or_default() {
            for _ in 0..LAST_WORDS {
                if !self.hear(id) {
                    break;
                }
            }
        }
    }

    /// What a worker was started with stays open.
    fn hang_up(&mut self, incoming: &Incoming) {
        let guest = incoming.peer.worker.is_none();
        if let Some(socket) = self.control.socket.as_mut().filter(|_| guest) {
            socket.close(incoming.connection);
        }
    }

    fn complain(&mut self, text: &str) {
        if let Some(count) = self.control.complaints.allow_with_count(clock::now()) {
            warn!(self.logger, "{text}{count}");
        }
    }

    // ---- worker:ack ----

    /// A worker says that it is ready: nobody is answered, the connection is closed.
    fn on_ack(&mut self, incoming: &Incoming) {
        self.hang_up(incoming);
        match self.acked(incoming) {
            Ok(id) => self.tell(Event::Ready(id)),
            Err(reason) => self.complain(&reason),
        }
    }

    /// The worker whose ack it is. Whose it may be is the kernel's word, not the message's.
    fn acked(&self, incoming: &Incoming) -> Result<ChildId, String> {
        let sender = incoming.peer.pid;
        let Some(pid) = incoming.request.pid else {
            return Err(format!(
                "worker:ack of process {sender} without a pid that is a number: ignored"
            ));
        };
        let Some(id) = self.children.by_pid.get(&pid).copied() else {
            return Err(format!(
                "worker:ack of process {sender} for {pid}, which is no worker: ignored"
            ));
        };
        let its_own = match incoming.peer.worker {
            Some(worker) => worker == id,
            None => incoming.peer.descends_from(pid),
        };
        if !its_own {
            return Err(format!(
                "worker:ack for {pid} comes from process {sender}, which is neither that worker \
                 nor its descendant: ignored"
            ));
        }
        if self.config.ready != ReadyGate::Ack {
            return Err(format!(
                "worker:ack of worker {pid}: readiness is not told by acks here, ignored"
            ));
        }
        Ok(id)
    }

    // ---- requests ----

    /// Does what was asked for and had to wait for its place in the turn.
    pub(super) fn obey(&mut self) {
        while let Some(incoming) = self.control.heard.pop_front() {
            self.on_request(&incoming);
        }
    }

    fn on_request(&mut self, incoming: &Incoming) {
        if incoming.rights < needed(incoming) {
            let reason = match incoming.rights {
                Rights::Questions => ONLY_ASK,
                _ => NOT_PERMITTED,
            };
            return self.control.refuse(incoming, reason);
        }
        #[cfg(feature = "einhorn")]
        if self.is_einhorns_reload(incoming) {
            return self.on_einhorn(incoming);
        }
        match Command::of(&incoming.request) {
            Err(reason) => self.control.refuse(incoming, &reason),
            Ok(Some(command)) => self.on_command(incoming, command),
            #[cfg(feature = "einhorn")]
            Ok(None) => self.on_einhorn(incoming),
            #[cfg(not(feature = "einhorn"))]
            Ok(None) => {
                let command = incoming.request.command.as_deref().unwrap_or_default();
                let help = crate::control::command::HELP;
                let reason = format!("Unrecognized command: {command:?}\n\n{help}");
                self.control.refuse(incoming, &reason);
            }
        }
    }

    fn on_command(&mut self, incoming: &Incoming, command: Command) {
        match command {
            Command::Reload { wait } => self.on_reload_asked(incoming, wait),
            Command::Status { json } => self.on_status(incoming, json),
            Command::Stop { wait } => self.on_stop_asked(incoming, wait),
            Command::Workers(number) => self.on_workers(incoming, number),
            Command::Ping => {
                let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
                self.control
                    .say(incoming, &format!("socketmaster {version}, pid {pid}"));
            }
            Command::SelfUpgrade => self
                .control
                .refuse(incoming, "self-upgrade is not available"),
            Command::Ack | Command::WorkerPing => {}
        }
    }

    fn log_request(&self, incoming: &Incoming, what: &str) {
        info!(
            self.logger,
            "{what}, asked for by process {} of user {}", incoming.peer.pid, incoming.peer.uid
        );
    }

    fn on_reload_asked(&mut self, incoming: &Incoming, wait: bool) {
        if self.core.is_stopping() {
            let answer = Answer {
                message: "stopping: no reload any more",
                id: incoming.request.id.as_ref(),
                wait: false,
                field: Some(("verdict", "{\"outcome\": \"abandoned\"}")),
            };
            return self.control.answer(incoming.connection, &answer);
        }
        if wait && self.control.is_crowded() {
            return self
                .control
                .refuse(incoming, "too many clients wait already");
        }
        self.log_request(incoming, "reload");
        if wait {
            self.control.wait(incoming, Wish::Reload(None));
        }
        let before = self.control.begun;
        self.tell(Event::Reload(None));
        let begun = self.control.begun;
        match (begun > before, wait) {
            (true, true) => {}
            (true, false) => self
                .control
                .say(incoming, &format!("reload {begun} begins")),
            (false, _) => self.control.say_and_wait(incoming, FOLLOWS, wait),
        }
    }

    fn on_stop_asked(&mut self, incoming: &Incoming, wait: bool) {
        // A stop is obeyed whoever asks: only the wait needs room.
        let crowded = wait && self.control.is_crowded();
        let wait = wait && !crowded;
        if wait {
            self.control.wait(incoming, Wish::End);
        }
        let workers = counted(self.core.workers().len(), "worker");
        let stopping = self.core.is_stopping();
        let mut text = match stopping {
            true => format!("stopping already, {workers} left"),
            false => format!("stopping, {workers} asked to finish"),
        };
        if crowded {
            text += " (not waiting for the end: too many clients wait already)";
        }
        self.control.say_and_wait(incoming, &text, wait);
        if stopping {
            return;
        }
        self.log_request(incoming, "stop");
        self.on_stop_signal("stop", SIGTERM);
    }

    fn on_workers(&mut self, incoming: &Incoming, number: u32) {
        match self.resize(number) {
            Ok(before) => {
                let workers = counted(number as usize, "worker");
                self.log_request(incoming, &format!("{workers} instead of {before}"));
                let text = format!("{workers} per generation, {before} before");
                self.control.say(incoming, &text);
            }
            Err(reason) => self.control.refuse(incoming, &reason),
        }
    }

    /// Has N workers from now on; returns how many it was.
    fn resize(&mut self, number: u32) -> Result<u32, String> {
        let capacity = self.core.policy().capacity;
        if self.core.is_stopping() {
            return Err("stopping: no worker is started any more".to_owned());
        }
        if number > capacity {
            return Err(format!(
                "cannot run {number} workers: the limit of descriptors (RLIMIT_NOFILE) suffices \
                 for {capacity}"
            ));
        }
        let before = self.core.policy().workers;
        self.tell(Event::Resize(number));
        Ok(before)
    }

    fn on_status(&mut self, incoming: &Incoming, json: bool) {
        let (message, object) = match json {
            true => (
                summary(&self.core, ""),
                Some(self.with_view(|view| view.json())),
            ),
            false => (self.with_view(|view| view.table()), None),
        };
        let answer = Answer {
            message: &message,
            id: incoming.request.id.as_ref(),
            wait: false,
            field: object.as_deref().map(|object| ("status", object)),
        };
        self.control.answer(incoming.connection, &answer);
    }

    fn with_view(&self, look: fn(&View) -> String) -> String {
        let sockets: Vec<SocketView> = (self.listeners.iter())
            .map(|listener| SocketView {
                uri: listener.uri().to_string(),
                address: listener.address(),
                name: listener.name().to_owned(),
                queue: listener.queue(),
            })
            .collect();
        let process = |id| match self.children.alive.get(&id) {
            Some(child) => Process {
                pid: Some(child.pid),
                says: child.status.as_deref(),
            },
            None => Process::default(),
        };
        look(&View {
            core: &self.core,
            now: clock::now(),
            began: self.control.began,
            pid: std::process::id(),
            command: &self.config.command.to_string_lossy(),
            sockets: &sockets,
            process: &process,
            last: self.control.last.as_ref(),
        })
    }

    // ---- what clients wait for ----

    /// A reload begins: it is what all those wanted that are not bound to one yet.
    pub(super) fn control_begins(&mut self, generation: u64, first: bool) {
        self.control.begun = generation;
        self.control.ready = 0;
        if first {
            return;
        }
        for waiter in &mut self.control.waiters {
            if let Some(bound) = waiter.wish.generation() {
                bound.get_or_insert(generation);
            }
        }
        let workers = counted(self.core.policy().workers as usize, "worker");
        let text = format!("reload {generation}: starting {workers}");
        self.control
            .progress(&text, &|wish| wish == Wish::Reload(Some(generation)));
        #[cfg(feature = "einhorn")]
        self.upgrade_begins(generation);
    }

    /// A worker has been started.
    pub(super) fn control_started(&mut self, id: ChildId, index: u32) {
        #[cfg(feature = "einhorn")]
        self.upgrade_launched(id, index);
        #[cfg(not(feature = "einhorn"))]
        let _ = (id, index);
    }

    /// A worker is ready.
    pub(super) fn control_ready(&mut self, id: ChildId) {
        let Some(worker) = self.core.workers().find(id) else {
            return;
        };
        let generation = worker.generation;
        if generation != self.control.begun {
            return;
        }
        // Several may have become ready at once: one after the other here.
        self.control.ready += 1;
        let tally = self.core.workers().tally(generation);
        let ready = self.control.ready.min(tally.ready);
        let text = format!("{ready}/{} ready", self.core.policy().workers);
        self.control
            .progress(&text, &|wish| wish == Wish::Reload(Some(generation)));
        #[cfg(feature = "einhorn")]
        self.upgrade_acked(id, generation, ready);
    }

    /// A worker is asked to stop.
    pub(super) fn control_asks(&mut self, id: ChildId, signal: i32) {
        #[cfg(feature = "einhorn")]
        self.upgrade_asks(id, signal);
        #[cfg(not(feature = "einhorn"))]
        let _ = (id, signal);
    }

    /// A worker has gone; the core does not know it yet.
    pub(super) fn control_gone(&mut self, id: ChildId, pid: i32) {
        #[cfg(feature = "einhorn")]
        self.upgrade_exited(id, pid);
        self.forget_line(id);
        let left = self.core.workers().len().saturating_sub(1);
        let _ = (id, pid);
        if self.core.is_stopping() && left > 0 {
            let text = format!("{} left", counted(left, "worker"));
            self.control.progress(&text, &|wish| wish == Wish::End);
        }
    }

    /// A generation has its verdict, which is the last answer to those who waited for it.
    pub(super) fn control_verdict(&mut self, told: Told) {
        let verdict = &told.verdict;
        // A remembered reload that a stop abandons has a number and never began.
        let never_began = verdict.generation > self.control.begun;
        let bound = (!never_began).then_some(verdict.generation);
        #[cfg(feature = "einhorn")]
        self.upgrade_ends(&told, bound);
        self.control
            .conclude(&told.text(), Some(("verdict", &told.json())), &|wish| {
                wish.is_for(bound)
            });
        if verdict.outcome != Outcome::Abandoned || !never_began {
            self.control.last = Some(told);
        }
    }

    /// We end: whoever waits hears it, and the socket's file goes.
    pub(super) fn end_control(&mut self, status: i32) {
        let text = format!("stopped, exit status {status}");
        self.control
            .conclude(&text, None, &|wish| wish == Wish::End);
        let abandoned = Some(("verdict", "{\"outcome\": \"abandoned\"}"));
        self.control.conclude(&text, abandoned, &|_| true);
        self.control.tidy(&mut self.watch);
        if let Some(socket) = self.control.socket.take() {
            for reason in socket.end() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
    }
}
