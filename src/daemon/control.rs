//! The control socket in the loop: clients' descriptors, their requests as events of the core,
//! and for everybody who waits exactly one last answer. It decides nothing but what to say.
//!
//! An ack is readiness, and taken up as early as that; everything else waits until the deaths
//! that we could know of are known.

use super::Daemon;
use crate::config::ReadyGate;
use crate::control::commands::{Command, Facts};
use crate::control::protocol::Answer;
use crate::control::status::{DaemonFacts, Process, SocketStatus, Status};
use crate::control::verdict::ReloadReport;
use crate::control::waiters::{ReloadStep, WaitFor, WaiterMessage, Waiters};
use crate::control::{Control, Incoming, Next, Origin, Peer, Rights};
use crate::log::RateLimit;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{ChildId, Event, Instant, Outcome};
use crate::sys::clock;
use crate::text::{counted, error_text};
use serde_json::json;
use signal_hook::consts::SIGTERM;
use slog::{info, warn};
use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;

/// How often one connection is read when its last words may count.
const LAST_WORDS: usize = 8;

const NOT_PERMITTED: &str = "You may say worker:ack and worker:ping here, and nothing else.";
const ONLY_ASK: &str = "You may only ask here: this is for root and the user that we run as.";
const FOLLOWS: &str = "a reload is running: this one follows it";
const CROWDED: &str = "too many clients wait already";

/// The control socket, if there is one, and what is said on it.
pub(super) struct State {
    socket: Option<Control>,
    /// Requests that wait for their place in the turn.
    heard: VecDeque<Box<Incoming>>,
    waiters: Waiters,
    began: Instant,
    last: Option<(ReloadReport, Instant)>,
    /// What clients do wrong.
    complaints: RateLimit,
    /// Clients that were turned away.
    refusals: RateLimit,
}

impl State {
    pub(super) fn new(poller: &mut Poller, socket: Option<Control>) -> io::Result<State> {
        if let Some(socket) = &socket {
            poller.add(socket.listener(), Source::Control(0), Interest::READABLE)?;
        }
        Ok(State {
            socket,
            heard: VecDeque::new(),
            waiters: Waiters::default(),
            began: clock::now(),
            last: None,
            complaints: RateLimit::default(),
            refusals: RateLimit::default(),
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref().and_then(Control::deadline)
    }

    fn answer(&mut self, to: &Incoming, answer: &Answer) {
        if let Some(socket) = &mut self.socket {
            let id = to.request.id.as_ref();
            let answer = Answer {
                id,
                ..answer.clone()
            };
            socket.answer(to.connection, &answer);
        }
    }

    fn say(&mut self, to: &Incoming, message: &str, wait: bool) {
        let answer = Answer {
            message,
            wait,
            ..Answer::default()
        };
        self.answer(to, &answer);
    }

    fn refuse(&mut self, to: &Incoming, reason: &str) {
        let answer = Answer {
            message: reason,
            failed: true,
            ..Answer::default()
        };
        self.answer(to, &answer);
    }

    /// A client waits from now on; the caller has seen that there is room.
    fn wait(&mut self, who: &Incoming, wait_for: WaitFor) {
        if let Some(socket) = &mut self.socket {
            socket.hold(who.connection);
        }
        let id = who.request.id.clone();
        self.waiters.add(who.connection, id, wait_for);
    }

    fn send(&mut self, messages: Vec<WaiterMessage>) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        for message in messages {
            socket.answer(message.connection, &message.answer());
            if message.is_last {
                socket.release(message.connection);
            }
        }
    }

    /// What those are told who wait for the generation that comes up, or came up last.
    fn progress(&mut self, step: &ReloadStep) {
        let messages = self.waiters.progress(self.waiters.begun(), step);
        self.send(messages);
    }

    /// Lets go of connections that were closed.
    fn tidy(&mut self, poller: &mut Poller) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        for (id, stream) in socket.take_closed() {
            poller.remove(&stream, Source::Control(id));
            self.waiters.forget(id);
            self.heard.retain(|incoming| incoming.connection != id);
        }
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
        self.control.tidy(&mut self.poller);
        let due = |at: Instant| at <= clock::now();
        if self.control.deadline().is_some_and(due) {
            self.poller.mark_ready(Source::Control(0));
        }
    }

    fn accept_clients(&mut self) {
        let Some(socket) = &mut self.control.socket else {
            return;
        };
        let (core, workers) = (&self.core, &self.children.by_pid);
        let origin = |peer: &Peer| {
            let worker = peer
                .lineage()
                .iter()
                .find_map(|pid| workers.get(pid))
                .copied();
            match worker.and_then(|id| Some((id, core.workers().find(id)?))) {
                Some((id, worker)) if worker.is_unready() => Origin::StartingWorker(id),
                Some((id, _)) => Origin::Worker(id),
                None => Origin::Stranger,
            }
        };
        let accepted = socket.accept(clock::now(), origin);
        self.control.tidy(&mut self.poller);
        if accepted.again {
            self.poller.mark_ready(Source::Control(0));
        }
        if let Some((Peer { pid, uid, .. }, why)) = accepted.refused {
            if let Some(count) = self.control.refusals.allow_with_count(clock::now()) {
                warn!(
                    self.logger,
                    "process {pid} of user {uid} {why}: turned away{count}"
                );
            }
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
        let added = self.poller.add(fd, Source::Control(id), both);
        if added.is_err() {
            socket.close(id);
        }
        added
    }

    /// Reads a client once; returns whether there may be more.
    fn hear(&mut self, id: u64) -> bool {
        let Some(socket) = &mut self.control.socket else {
            return false;
        };
        match socket.next_request(id, clock::now()) {
            Next::Nothing => return false,
            Next::More => {}
            Next::Request(incoming) => match Command::parse(&incoming.request, &self.facts()) {
                Ok(Command::Ack) => self.on_ack(&incoming),
                Ok(Command::WorkerPing) => self.hang_up(&incoming),
                _ => self.control.heard.push_back(incoming),
            },
        }
        self.poller.mark_ready(Source::Control(id));
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

    fn facts(&self) -> Facts<'_> {
        Facts {
            dialect: &self.config.dialect,
            pid: std::process::id(),
            workers: self.core.policy().workers,
            level: self.log.level(),
        }
    }

    fn on_request(&mut self, incoming: &Incoming) {
        let command = Command::parse(&incoming.request, &self.facts());
        let needed = command.as_ref().map_or(Rights::Everything, Command::needs);
        if incoming.rights < needed {
            let reason = match incoming.rights {
                Rights::Questions => ONLY_ASK,
                _ => NOT_PERMITTED,
            };
            return self.control.refuse(incoming, reason);
        }
        match command {
            Err(reason) => self.control.refuse(incoming, &reason),
            Ok(command) => self.on_command(incoming, command),
        }
    }

    fn on_command(&mut self, incoming: &Incoming, command: Command) {
        match command {
            // They were taken up when they were heard.
            Command::Ack | Command::WorkerPing => {}
            Command::Say { answer, .. } => self.control.say(incoming, &answer, false),
            Command::Status { json } => self.on_status(incoming, json),
            Command::Reload { wait } => self.on_reload_asked(incoming, wait),
            Command::Stop { wait } => self.on_stop_asked(incoming, wait),
            Command::Resize { workers, answer } => match self.resize(incoming, workers) {
                Ok(()) => self.control.say(incoming, &answer, false),
                Err(reason) => self.control.refuse(incoming, &reason),
            },
            Command::SelfUpgrade => {
                let reason = "self-upgrade is not available";
                self.control.refuse(incoming, reason);
            }
            #[cfg(feature = "einhorn")]
            Command::Upgrade { smooth } => self.on_upgrade_asked(incoming, smooth),
            #[cfg(feature = "einhorn")]
            Command::State => {
                use crate::einhorn::commands::{Verbosity, state};
                let pid = |id| self.children.pid(id);
                let text = state(&self.core, pid, Verbosity::of(self.log.level()));
                self.control.say(incoming, &text, false);
            }
            #[cfg(feature = "einhorn")]
            Command::Signal { signals, answer } => {
                for signal in signals {
                    self.signal_all(incoming, signal);
                }
                self.control.say(incoming, &answer, false);
            }
            #[cfg(feature = "einhorn")]
            Command::Die { signal } => {
                self.log_request(incoming, "die");
                let going_down = crate::einhorn::commands::GOING_DOWN;
                self.control.say(incoming, going_down, false);
                let signal = signal.unwrap_or(self.core.policy().stop_signal);
                self.on_stop_signal("die", signal);
            }
            #[cfg(feature = "einhorn")]
            Command::SetLevel { level, answer } => {
                self.log.set_level(level);
                self.control.say(incoming, &answer, false);
            }
        }
    }

    fn log_request(&self, incoming: &Incoming, what: &str) {
        let (pid, uid) = (incoming.peer.pid, incoming.peer.uid);
        info!(
            self.logger,
            "{what}, asked for by process {pid} of user {uid}"
        );
    }

    fn on_reload_asked(&mut self, incoming: &Incoming, wait: bool) {
        if self.core.is_stopping() {
            let answer = Answer {
                message: "stopping: no reload any more",
                verdict: Some(&json!({"outcome": Outcome::Abandoned})),
                ..Answer::default()
            };
            return self.control.answer(incoming, &answer);
        }
        if wait && self.control.waiters.is_crowded() {
            return self.control.refuse(incoming, CROWDED);
        }
        self.log_request(incoming, "reload");
        if wait {
            let generation = None;
            self.control.wait(incoming, WaitFor::Reload { generation });
        }
        let before = self.control.waiters.begun();
        self.tell(Event::Reload(None));
        let begun = self.control.waiters.begun();
        if begun == before {
            self.control.say(incoming, FOLLOWS, wait);
        } else if !wait {
            let text = format!("reload {begun} begins");
            self.control.say(incoming, &text, false);
        }
    }

    /// Einhorn's upgrade: with an id, every line about it and `Upgrade done` follow.
    #[cfg(feature = "einhorn")]
    fn on_upgrade_asked(&mut self, incoming: &Incoming, smooth: bool) {
        use crate::config::Dialect;
        use crate::einhorn::commands as einhorn;
        use crate::supervisor::Style;
        if self.core.is_stopping() {
            let answer = einhorn::upgrade_failed("stopping");
            return self.control.refuse(incoming, &answer);
        }
        let wait = incoming.request.id.is_some() && !self.control.waiters.is_crowded();
        self.control.say(incoming, einhorn::upgrading(smooth), wait);
        self.log_request(incoming, "upgrade");
        if wait {
            let generation = None;
            self.control
                .wait(incoming, WaitFor::Upgrade { generation, smooth });
        }
        let running = self.core.rolling_out();
        let before = self.control.waiters.begun();
        let style = match (&self.config.dialect, smooth) {
            // Under our own command line the administrator has said how reloads go.
            (Dialect::Socketmaster, _) => None,
            (Dialect::Einhorn(_), true) => Some(Style::Rolling),
            (Dialect::Einhorn(_), false) => Some(Style::Fleet),
        };
        self.tell(Event::Reload(style));
        let is_remembered = wait && self.control.waiters.begun() == before;
        if let Some(generation) = running.filter(|_| is_remembered) {
            let acked = self.core.workers().tally(generation).ready;
            let line = einhorn::upgrade_remembered(acked, self.core.policy().workers);
            self.control.say(incoming, &line, true);
        }
    }

    fn on_stop_asked(&mut self, incoming: &Incoming, wait: bool) {
        // A stop is obeyed whoever asks: only the wait needs room.
        let crowded = wait && self.control.waiters.is_crowded();
        let wait = wait && !crowded;
        if wait {
            self.control.wait(incoming, WaitFor::Exit);
        }
        let workers = counted(self.core.workers().len(), "worker");
        let stopping = self.core.is_stopping();
        let mut text = match stopping {
            true => format!("stopping already, {workers} left"),
            false => format!("stopping, {workers} asked to finish"),
        };
        if crowded {
            text += &format!(" (not waiting for the end: {CROWDED})");
        }
        self.control.say(incoming, &text, wait);
        if !stopping {
            self.log_request(incoming, "stop");
            self.on_stop_signal("stop", SIGTERM);
        }
    }

    /// Has this number of workers from now on.
    fn resize(&mut self, incoming: &Incoming, number: u32) -> Result<(), String> {
        let (before, capacity) = (self.core.policy().workers, self.core.policy().capacity);
        if self.core.is_stopping() {
            return Err("stopping: no worker is started any more".to_owned());
        }
        if number > capacity {
            return Err(format!(
                "cannot run {number} workers: the limit of descriptors (RLIMIT_NOFILE) suffices \
                 for {capacity}"
            ));
        }
        self.tell(Event::Resize(number));
        let workers = counted(number as usize, "worker");
        self.log_request(incoming, &format!("{workers} instead of {before}"));
        Ok(())
    }

    #[cfg(feature = "einhorn")]
    fn signal_all(&mut self, incoming: &Incoming, signal: i32) {
        let name = crate::text::signal_name(signal);
        self.log_request(incoming, &format!("{name} to all workers"));
        for id in self.core.workers().ids() {
            if let Err(errno) = self.signal(id, signal) {
                let pid = self.children.pid(id).unwrap_or(0);
                let reason = crate::text::errno_text(errno as i32);
                slog::error!(self.logger, "cannot send {name} to worker {pid}: {reason}");
            }
        }
    }

    fn on_status(&mut self, incoming: &Incoming, json: bool) {
        let sockets = self.listeners.iter().map(|listener| {
            let (queue, backlog) = listener.queue().unzip();
            SocketStatus {
                uri: listener.uri().to_string(),
                address: listener.address(),
                name: listener.name().to_owned(),
                queue,
                backlog,
            }
        });
        let facts = DaemonFacts {
            began: self.control.began,
            pid: std::process::id(),
            command: self.config.command.to_string_lossy().into_owned(),
            sockets: sockets.collect(),
            last: self.control.last.as_ref(),
        };
        let process = |id| {
            let child = self.children.alive.get(&id);
            child.map_or_else(Process::default, |child| Process {
                pid: Some(child.pid),
                says: child.status.clone(),
            })
        };
        let status = Status::new(&self.core, facts, process, clock::now());
        let (message, object) = match json {
            true => (status.summary().to_owned(), Some(&status)),
            false => (status.table(), None),
        };
        let answer = Answer {
            message: &message,
            status: object,
            ..Answer::default()
        };
        self.control.answer(incoming, &answer);
    }

    // ---- what clients wait for ----

    /// A generation begins to come up.
    pub(super) fn control_begins(&mut self, generation: u64, first: bool) {
        let step = ReloadStep::Begun {
            workers: self.core.policy().workers,
            live: self.core.live_generation(),
        };
        let messages = self.control.waiters.begin(generation, first, &step);
        self.control.send(messages);
    }

    /// A worker has been started.
    pub(super) fn control_started(&mut self, id: ChildId, index: u32) {
        let child = self.children.alive.get(&id);
        if let (Some(child), Some(generation)) = (child, self.core.rolling_out()) {
            let step = ReloadStep::Started {
                pid: child.pid,
                index,
            };
            let messages = self.control.waiters.progress(generation, &step);
            self.control.send(messages);
        }
    }

    /// A worker is ready.
    pub(super) fn control_ready(&mut self, id: ChildId) {
        let begun = self.control.waiters.begun();
        let worker = self.core.workers().find(id);
        if worker.is_none_or(|worker| worker.generation != begun) {
            return;
        }
        let by_timer = self.config.ready != ReadyGate::Ack;
        let tally = self.core.workers().tally(begun);
        let step = ReloadStep::Ready {
            pid: self.children.pid(id).unwrap_or(0),
            timer: by_timer.then_some(self.config.start.as_secs_f64()),
            ready: self.control.waiters.count_ready(tally.ready),
            wanted: self.core.policy().workers,
        };
        self.control.progress(&step);
    }

    /// A worker is asked to stop. The last old ones are asked just before the verdict, when nothing
    /// is rolled out any more.
    pub(super) fn control_asks(&mut self, id: ChildId, signal: i32) {
        let begun = self.control.waiters.begun();
        let worker = self.core.workers().find(id);
        if let Some(pid) = self.children.pid(id) {
            let old = worker.is_some_and(|worker| worker.generation < begun);
            self.control
                .progress(&ReloadStep::Asked { pid, signal, old });
        }
    }

    /// A worker has gone; the core does not know it yet.
    pub(super) fn control_gone(&mut self, id: ChildId, pid: i32) {
        let worker = self.core.workers().find(id);
        let was_ready = worker.is_some_and(|worker| worker.is_ready() || worker.is_stopping());
        self.control.progress(&ReloadStep::Gone { pid, was_ready });
        self.forget_line(id);
        let left = self.core.workers().len().saturating_sub(1);
        if self.core.is_stopping() && left > 0 {
            let messages = self.control.waiters.workers_left(left);
            self.control.send(messages);
        }
    }

    /// A generation has its verdict, which is the last answer to those who waited for it.
    pub(super) fn control_verdict(&mut self, report: ReloadReport) {
        let messages = self.control.waiters.conclude(&report);
        self.control.send(messages);
        // A remembered reload that a stop abandons has a number and never began.
        let began = report.generation <= self.control.waiters.begun();
        if began || report.outcome != Outcome::Abandoned {
            self.control.last = Some((report, clock::now()));
        }
    }

    /// We end: whoever waits hears it, and the socket's file goes.
    pub(super) fn end_control(&mut self, status: i32) {
        let text = format!("stopped, exit status {status}");
        let messages = self.control.waiters.conclude_all(&text);
        self.control.send(messages);
        self.control.tidy(&mut self.poller);
        if let Some(socket) = self.control.socket.take() {
            for reason in socket.end() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
    }
}
