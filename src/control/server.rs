//! The owner of the control socket: its connections, the requests that wait for their place in the
//! turn, the clients that wait for a reload or for our end, and what they are told. It answers what
//! can be answered at once, and turns the rest into orders for the loop. It does nothing to workers.

use super::commands::{Command, Facts};
use super::connection::Next;
use super::connections::{Connections, Incoming, Origin};
use super::peer::Peer;
use super::protocol::Answer;
use super::status::{DaemonFacts, SocketStatus, Status};
use super::verdict::ReloadReport;
use super::waiters::{ReloadStep, WaitFor, WaiterMessage, Waiters};
use super::{Access, Rights};
use crate::config::{Config, ReadyGate};
use crate::listen::{self, Listener};
use crate::log::RateLimit;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{ChildId, Instant, Outcome, Style, Supervisor};
use crate::sys::clock;
use crate::text::{counted, error_text};
use crate::worker::Process;
use serde_json::json;
use signal_hook::consts::SIGTERM;
use slog::{info, warn};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How often one connection is read when a worker has died and its last words may count.
const LAST_WORDS: usize = 8;

const NOT_PERMITTED: &str = "You may say worker:ack and worker:ping here, and nothing else.";
const ONLY_ASK: &str = "You may only ask here: this is for root and the user that we run as.";
const FOLLOWS: &str = "a reload is running: this one follows it";
const CROWDED: &str = "too many clients wait already";
const STOPPING: &str = "stopping: no reload any more";

/// What the loop has to do for a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    Reload(Option<Style>),
    /// Stop with this signal; `name` is what the client said.
    Stop {
        name: &'static str,
        signal: i32,
    },
    Resize(u32),
    /// Send these signals to all workers.
    #[cfg(feature = "einhorn")]
    Signal(Vec<i32>),
    #[cfg(feature = "einhorn")]
    SetLevel(slog::Level),
}

/// What an answer may depend on: the rest of the program as it is at this moment.
pub struct View<'a> {
    pub config: &'a Config,
    pub core: &'a Supervisor,
    pub processes: &'a BTreeMap<ChildId, Process>,
    /// The living workers by their pids.
    pub by_pid: &'a BTreeMap<i32, ChildId>,
    pub listeners: &'a [Listener],
    /// The least severe level that is logged.
    pub level: slog::Level,
}

impl View<'_> {
    fn pid(&self, id: ChildId) -> Option<i32> {
        self.processes.get(&id).map(|process| process.pid)
    }

    /// The living worker that a client is or descends from.
    fn origin(&self, peer: &Peer) -> Origin {
        let lineage = peer.lineage();
        let worker = lineage.iter().find_map(|pid| self.by_pid.get(pid)).copied();
        match worker.and_then(|id| Some((id, self.core.workers().find(id)?))) {
            Some((id, worker)) if worker.is_unready() => Origin::StartingWorker(id),
            Some((id, _)) => Origin::Worker(id),
            None => Origin::Stranger,
        }
    }
}

/// The control socket and all its clients. Without a socket it has no clients, and remembers the
/// last verdict all the same.
pub struct Server {
    connections: Option<Connections>,
    /// Requests that wait for their place in the turn.
    requests: VecDeque<Box<Incoming>>,
    waiters: Waiters,
    began: Instant,
    last: Option<(ReloadReport, Instant)>,
    /// What clients do wrong is one line a second.
    complaints: RateLimit,
    /// Clients that were turned away: the same.
    refusals: RateLimit,
    logger: slog::Logger,
}

impl Server {
    /// Opens the socket; a stale one at the path is replaced.
    ///
    /// Errors: "-control: cannot bind unix:///run/x: Address already in use" and the like.
    pub fn open(
        socket: Option<(&Path, Access)>,
        logger: slog::Logger,
    ) -> Result<Server, listen::Error> {
        let connections = socket.map(|(path, access)| Connections::open(path, access));
        Ok(Server {
            connections: connections.transpose()?,
            requests: VecDeque::new(),
            waiters: Waiters::default(),
            began: clock::now(),
            last: None,
            complaints: RateLimit::default(),
            refusals: RateLimit::default(),
            logger,
        })
    }

    /// Registers the socket. Errors: epoll_ctl(2) is refused.
    pub fn register(&self, poller: &mut Poller) -> io::Result<()> {
        match &self.connections {
            Some(connections) => {
                let interest = Interest::READABLE;
                poller.add(connections.listener(), Source::Control(0), interest)
            }
            None => Ok(()),
        }
    }

    /// When a client may find a place that was not there before.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.as_ref().and_then(Connections::deadline)
    }

    /// The last verdict's line; empty before the first.
    pub fn last_verdict(&self) -> String {
        let last = self.last.as_ref();
        last.map(|(report, _)| report.line()).unwrap_or_default()
    }

    // ---- connections ----

    /// Somebody wants to connect (0), has something to say, or reads again. Returns the workers that
    /// said that they are ready; other requests wait for their place in the turn.
    pub fn on_ready_source(
        &mut self,
        number: u64,
        view: &View,
        poller: &mut Poller,
    ) -> Vec<ChildId> {
        let mut acks = Vec::new();
        match number {
            0 => self.accept(view, poller, &mut acks),
            id => _ = self.read(id, view, poller, &mut acks),
        }
        acks
    }

    fn accept(&mut self, view: &View, poller: &mut Poller, acks: &mut Vec<ChildId>) {
        let Some(connections) = &mut self.connections else {
            return;
        };
        let now = clock::now();
        let accepted = connections.accept(now, |peer| view.origin(peer));
        self.forget_closed(poller);
        if accepted.again {
            poller.mark_ready(Source::Control(0));
        }
        if let Some((Peer { pid, uid, .. }, why)) = accepted.refused {
            if let Some(count) = self.refusals.allow_with_count(now) {
                warn!(
                    self.logger,
                    "process {pid} of user {uid} {why}: turned away{count}"
                );
            }
        }
        for id in accepted.fresh {
            if let Err(error) = self.watch(id, poller) {
                let reason = error_text(&error);
                self.complain(&format!("cannot watch a client's connection: {reason}"));
                continue;
            }
            // What it sent with the connection is there already.
            self.read(id, view, poller, acks);
        }
    }

    /// Where a connection cannot be watched, it is closed.
    fn watch(&mut self, id: u64, poller: &mut Poller) -> io::Result<()> {
        let Some(connections) = &mut self.connections else {
            return Ok(());
        };
        let Some(fd) = connections.fd(id) else {
            return Ok(());
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        let added = poller.add(fd, Source::Control(id), both);
        if added.is_err() {
            connections.close(id);
        }
        added
    }

    /// Opens the connection that a worker is started with (einhorn's `-g`) and returns the worker's
    /// end: what comes there is the worker's word.
    ///
    /// Errors: the verb of the step that failed, and why.
    pub fn open_for_worker(
        &mut self,
        worker: ChildId,
        poller: &mut Poller,
    ) -> Result<Option<UnixStream>, (&'static str, io::Error)> {
        let Some(connections) = &mut self.connections else {
            return Ok(None);
        };
        let (ours, theirs) = UnixStream::pair().map_err(|error| ("opening", error))?;
        let id = connections.adopt(ours, worker, clock::now());
        let watched = self.watch(id, poller);
        watched.map_err(|error| ("watching", error))?;
        Ok(Some(theirs))
    }

    /// A worker has gone, or never came to be: the connection that it was given is closed.
    pub fn forget_worker(&mut self, worker: ChildId) {
        if let Some(connections) = &mut self.connections {
            connections.forget(worker);
        }
    }

    /// Reads a client once; returns whether there may be more.
    fn read(&mut self, id: u64, view: &View, poller: &mut Poller, acks: &mut Vec<ChildId>) -> bool {
        let Some(connections) = &mut self.connections else {
            return false;
        };
        match connections.next_request(id, clock::now()) {
            Next::Nothing => return false,
            Next::More => {}
            Next::Request(incoming) => match Command::parse(&incoming.request, &facts(view)) {
                Ok(Command::Ack) => {
                    self.end_report(&incoming);
                    match acked(&incoming, view) {
                        Ok(worker) => acks.push(worker),
                        Err(reason) => self.complain(&reason),
                    }
                }
                Ok(Command::WorkerPing) => self.end_report(&incoming),
                _ => self.requests.push_back(incoming),
            },
        }
        poller.mark_ready(Source::Control(id));
        true
    }

    /// A worker has died, and its end is not taken note of yet: what it, or a helper of it, has said
    /// before counts. Returns the workers that said that they are ready.
    pub fn read_last_acks(&mut self, view: &View, poller: &mut Poller) -> Vec<ChildId> {
        let mut acks = Vec::new();
        if view.config.ready == ReadyGate::Ack {
            self.accept(view, poller, &mut acks);
            let ids = self.connections.as_ref().map(Connections::ids);
            for id in ids.unwrap_or_default() {
                for _ in 0..LAST_WORDS {
                    if !self.read(id, view, poller, &mut acks) {
                        break;
                    }
                }
            }
        }
        acks
    }

    /// Nobody is answered who reports: the connection is closed, unless a worker was started with it.
    fn end_report(&mut self, incoming: &Incoming) {
        let is_guest = incoming.peer.worker.is_none();
        if let Some(connections) = self.connections.as_mut().filter(|_| is_guest) {
            connections.close(incoming.connection);
        }
    }

    fn complain(&mut self, text: &str) {
        if let Some(count) = self.complaints.allow_with_count(clock::now()) {
            warn!(self.logger, "{text}{count}");
        }
    }

    /// At the end of a turn: closed connections are deregistered, and whoever waits for a place may
    /// get one.
    pub fn tidy(&mut self, poller: &mut Poller) {
        self.forget_closed(poller);
        if self.deadline().is_some_and(|at| at <= clock::now()) {
            poller.mark_ready(Source::Control(0));
        }
    }

    fn forget_closed(&mut self, poller: &mut Poller) {
        let Some(connections) = &mut self.connections else {
            return;
        };
        for (id, stream) in connections.take_closed() {
            poller.remove(&stream, Source::Control(id));
            self.waiters.forget(id);
            self.requests.retain(|incoming| incoming.connection != id);
        }
    }

    // ---- requests ----

    /// Answers the requests that wait, up to the first one that is for the loop to do.
    pub fn next_order(&mut self, view: &View) -> Option<Order> {
        loop {
            let incoming = self.requests.pop_front()?;
            let command = Command::parse(&incoming.request, &facts(view));
            let needed = command.as_ref().map_or(Rights::Everything, Command::needs);
            let reason = match (incoming.rights, command) {
                (rights, Ok(command)) if rights >= needed => {
                    match self.on_command(&incoming, command, view) {
                        Some(order) => return Some(order),
                        None => continue,
                    }
                }
                (rights, Err(reason)) if rights >= needed => reason,
                (Rights::Questions, _) => ONLY_ASK.to_owned(),
                _ => NOT_PERMITTED.to_owned(),
            };
            self.refuse(&incoming, &reason);
        }
    }

    fn on_command(&mut self, incoming: &Incoming, command: Command, view: &View) -> Option<Order> {
        match command {
            // They were dealt with when they were read.
            Command::Ack | Command::WorkerPing => None,
            Command::Say { answer, .. } => {
                self.say(incoming, &answer, false);
                None
            }
            Command::Status { json } => {
                self.answer_status(incoming, json, view);
                None
            }
            Command::Reload { wait } => self.on_reload(incoming, wait, view),
            Command::Stop { wait } => self.on_stop(incoming, wait, view),
            Command::Resize { workers, answer } => self.on_resize(incoming, workers, &answer, view),
            Command::SelfUpgrade => {
                self.refuse(incoming, "self-upgrade is not available");
                None
            }
            #[cfg(feature = "einhorn")]
            Command::Upgrade { smooth } => self.on_upgrade(incoming, smooth, view),
            #[cfg(feature = "einhorn")]
            Command::State => {
                use crate::einhorn::commands::{Verbosity, state};
                let verbosity = Verbosity::of(view.level);
                let text = state(view.core, |id| view.pid(id), verbosity);
                self.say(incoming, &text, false);
                None
            }
            #[cfg(feature = "einhorn")]
            Command::Signal { signals, answer } => {
                for signal in &signals {
                    let name = crate::text::signal_name(*signal);
                    self.log(incoming, &format!("{name} to all workers"));
                }
                self.say(incoming, &answer, false);
                Some(Order::Signal(signals))
            }
            #[cfg(feature = "einhorn")]
            Command::Die { signal } => {
                self.log(incoming, "die");
                self.say(incoming, crate::einhorn::commands::GOING_DOWN, false);
                let signal = signal.unwrap_or(view.core.policy().stop_signal);
                Some(Order::Stop {
                    name: "die",
                    signal,
                })
            }
            #[cfg(feature = "einhorn")]
            Command::SetLevel { level, answer } => {
                self.say(incoming, &answer, false);
                Some(Order::SetLevel(level))
            }
        }
    }

    fn on_reload(&mut self, incoming: &Incoming, wait: bool, view: &View) -> Option<Order> {
        if view.core.is_stopping() {
            let answer = Answer {
                message: STOPPING,
                verdict: Some(&json!({"outcome": Outcome::Abandoned})),
                ..Answer::default()
            };
            self.answer(incoming, &answer);
            return None;
        }
        if wait && self.waiters.is_crowded() {
            self.refuse(incoming, CROWDED);
            return None;
        }
        self.log(incoming, "reload");
        if wait {
            self.wait(incoming, WaitFor::Reload { generation: None });
        }
        match view.core.reload_would_begin() {
            None => self.say(incoming, FOLLOWS, wait),
            Some(generation) if !wait => {
                self.say(incoming, &format!("reload {generation} begins"), false);
            }
            // The first step of the reload is what it hears first.
            Some(_) => {}
        }
        Some(Order::Reload(None))
    }

    /// Einhorn's upgrade: with an id, every line about it and `Upgrade done` follow.
    #[cfg(feature = "einhorn")]
    fn on_upgrade(&mut self, incoming: &Incoming, smooth: bool, view: &View) -> Option<Order> {
        use crate::config::Dialect;
        use crate::einhorn::commands as einhorn;
        if view.core.is_stopping() {
            self.refuse(incoming, &einhorn::upgrade_failed("stopping"));
            return None;
        }
        let wait = incoming.request.id.is_some() && !self.waiters.is_crowded();
        self.say(incoming, einhorn::upgrading(smooth), wait);
        self.log(incoming, "upgrade");
        if wait {
            let generation = None;
            self.wait(incoming, WaitFor::Upgrade { generation, smooth });
            let running = view.core.rolling_out();
            if let (Some(generation), None) = (running, view.core.reload_would_begin()) {
                let acked = view.core.workers().tally(generation).ready;
                let line = einhorn::upgrade_remembered(acked, view.core.policy().workers);
                self.say(incoming, &line, true);
            }
        }
        Some(Order::Reload(match (&view.config.dialect, smooth) {
            // Under our own command line the administrator has said how reloads go.
            (Dialect::Socketmaster, _) => None,
            (Dialect::Einhorn(_), true) => Some(Style::Rolling),
            (Dialect::Einhorn(_), false) => Some(Style::Fleet),
        }))
    }

    fn on_stop(&mut self, incoming: &Incoming, wait: bool, view: &View) -> Option<Order> {
        // A stop is obeyed whoever asks: only the wait needs room.
        let is_crowded = wait && self.waiters.is_crowded();
        let wait = wait && !is_crowded;
        if wait {
            self.wait(incoming, WaitFor::Exit);
        }
        let workers = counted(view.core.workers().len(), "worker");
        let is_stopping = view.core.is_stopping();
        let mut text = match is_stopping {
            true => format!("stopping already, {workers} left"),
            false => format!("stopping, {workers} asked to finish"),
        };
        if is_crowded {
            text += &format!(" (not waiting for the end: {CROWDED})");
        }
        self.say(incoming, &text, wait);
        if is_stopping {
            return None;
        }
        self.log(incoming, "stop");
        Some(Order::Stop {
            name: "stop",
            signal: SIGTERM,
        })
    }

    fn on_resize(
        &mut self,
        incoming: &Incoming,
        number: u32,
        answer: &str,
        view: &View,
    ) -> Option<Order> {
        let policy = view.core.policy();
        if view.core.is_stopping() {
            self.refuse(incoming, "stopping: no worker is started any more");
            return None;
        }
        if number > policy.capacity {
            let reason = format!(
                "cannot run {number} workers: the limit of descriptors (RLIMIT_NOFILE) suffices \
                 for {}",
                policy.capacity
            );
            self.refuse(incoming, &reason);
            return None;
        }
        let workers = counted(number as usize, "worker");
        self.log(
            incoming,
            &format!("{workers} instead of {}", policy.workers),
        );
        self.say(incoming, answer, false);
        Some(Order::Resize(number))
    }

    fn answer_status(&mut self, incoming: &Incoming, json: bool, view: &View) {
        let sockets = view.listeners.iter().map(|listener| {
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
            began: self.began,
            pid: std::process::id(),
            command: view.config.command.to_string_lossy().into_owned(),
            sockets: sockets.collect(),
            last: self.last.as_ref(),
        };
        let status = Status::new(view.core, facts, view.processes, clock::now());
        let (message, object) = match json {
            true => (status.summary().to_owned(), Some(&status)),
            false => (status.table(), None),
        };
        let answer = Answer {
            message: &message,
            status: object,
            ..Answer::default()
        };
        self.answer(incoming, &answer);
    }

    fn log(&self, incoming: &Incoming, what: &str) {
        let (pid, uid) = (incoming.peer.pid, incoming.peer.uid);
        info!(
            self.logger,
            "{what}, asked for by process {pid} of user {uid}"
        );
    }

    // ---- answers ----

    fn answer(&mut self, to: &Incoming, answer: &Answer) {
        if let Some(connections) = &mut self.connections {
            let id = to.request.id.as_ref();
            let answer = Answer {
                id,
                ..answer.clone()
            };
            connections.answer(to.connection, &answer);
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
        if let Some(connections) = &mut self.connections {
            connections.hold(who.connection);
        }
        let id = who.request.id.clone();
        self.waiters.add(who.connection, id, wait_for);
    }

    fn send(&mut self, messages: Vec<WaiterMessage>) {
        let Some(connections) = &mut self.connections else {
            return;
        };
        for message in messages {
            connections.answer(message.connection, &message.answer());
            if message.is_last {
                connections.release(message.connection);
            }
        }
    }

    // ---- what waiting clients are told ----

    /// A generation begins to come up.
    pub fn on_begin(&mut self, generation: u64, first: bool, core: &Supervisor) {
        let step = ReloadStep::Begun {
            workers: core.policy().workers,
            live: core.live_generation(),
        };
        let messages = self.waiters.begin(generation, first, &step);
        self.send(messages);
    }

    /// A worker of the generation that comes up has been started.
    pub fn on_started(&mut self, generation: u64, pid: i32, index: u32) {
        let step = ReloadStep::Started { pid, index };
        let messages = self.waiters.progress(generation, &step);
        self.send(messages);
    }

    /// A worker is ready.
    pub fn on_worker_ready(&mut self, id: ChildId, view: &View) {
        let begun = self.waiters.begun();
        let worker = view.core.workers().find(id);
        if worker.is_none_or(|worker| worker.generation != begun) {
            return;
        }
        let is_by_timer = view.config.ready != ReadyGate::Ack;
        let tally = view.core.workers().tally(begun);
        let ready = self.waiters.count_ready(tally.ready);
        self.progress(&ReloadStep::Ready {
            pid: view.pid(id).unwrap_or(0),
            timer: is_by_timer.then_some(view.config.start.as_secs_f64()),
            ready,
            wanted: view.core.policy().workers,
        });
    }

    /// A worker is asked to stop. The last old ones are asked just before the verdict, when nothing
    /// is rolled out any more.
    pub fn on_worker_asked(&mut self, id: ChildId, signal: i32, view: &View) {
        let begun = self.waiters.begun();
        let worker = view.core.workers().find(id);
        if let Some(pid) = view.pid(id) {
            let old = worker.is_some_and(|worker| worker.generation < begun);
            self.progress(&ReloadStep::Asked { pid, signal, old });
        }
    }

    /// A worker has gone; the core does not know it yet.
    pub fn on_worker_gone(&mut self, id: ChildId, pid: i32, core: &Supervisor) {
        let worker = core.workers().find(id);
        let was_ready = worker.is_some_and(|worker| worker.is_ready() || worker.is_stopping());
        self.progress(&ReloadStep::Gone { pid, was_ready });
        self.forget_worker(id);
        let left = core.workers().len().saturating_sub(1);
        if core.is_stopping() && left > 0 {
            let messages = self.waiters.workers_left(left);
            self.send(messages);
        }
    }

    /// What those are told who wait for the generation that comes up, or came up last.
    fn progress(&mut self, step: &ReloadStep) {
        let messages = self.waiters.progress(self.waiters.begun(), step);
        self.send(messages);
    }

    /// A generation has its verdict, which is the last answer to those who waited for it.
    pub fn on_verdict(&mut self, report: ReloadReport) {
        let messages = self.waiters.conclude(&report);
        self.send(messages);
        // A remembered reload that a stop abandons has a number and never began.
        let has_begun = report.generation <= self.waiters.begun();
        if has_begun || report.outcome != Outcome::Abandoned {
            self.last = Some((report, clock::now()));
        }
    }

    /// We end: whoever waits hears it, and the socket's file goes. The clients see their connections
    /// end when the process does, and not a moment earlier.
    pub fn end(&mut self, status: i32) {
        let text = format!("stopped, exit status {status}");
        let messages = self.waiters.conclude_all(&text);
        self.send(messages);
        if let Some(connections) = self.connections.take() {
            for reason in connections.end() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
    }
}

fn facts<'a>(view: &View<'a>) -> Facts<'a> {
    Facts {
        dialect: &view.config.dialect,
        pid: std::process::id(),
        workers: view.core.policy().workers,
        level: view.level,
    }
}

/// The worker whose ack it is. Whose it may be is the kernel's word, not the message's.
fn acked(incoming: &Incoming, view: &View) -> Result<ChildId, String> {
    let sender = incoming.peer.pid;
    let Some(pid) = incoming.request.pid else {
        return Err(format!(
            "worker:ack of process {sender} without a pid that is a number: ignored"
        ));
    };
    let Some(id) = view.by_pid.get(&pid).copied() else {
        return Err(format!(
            "worker:ack of process {sender} for {pid}, which is no worker: ignored"
        ));
    };
    let is_its_own = match incoming.peer.worker {
        Some(worker) => worker == id,
        None => incoming.peer.descends_from(pid),
    };
    if !is_its_own {
        return Err(format!(
            "worker:ack for {pid} comes from process {sender}, which is neither that worker nor \
             its descendant: ignored"
        ));
    }
    if view.config.ready != ReadyGate::Ack {
        return Err(format!(
            "worker:ack of worker {pid}: readiness is not told by acks here, ignored"
        ));
    }
    Ok(id)
}
