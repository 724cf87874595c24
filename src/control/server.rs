//! The one owner of the control socket: the listening socket and its file, the connections with their
//! quotas, the requests that wait for their place in the turn, the waiting clients and the last
//! verdict. Without a socket the same calls do nothing, so that no caller has to ask. It never
//! blocks, and what a request wants done is returned to the daemon.
//!
//! A worker's ack is its readiness and counts when it is read. Every other request waits until the
//! deaths that we could know of are known.

use super::commands::{Order, View, needs, respond};
use super::connection::{Connection, GRACE};
use super::peer::{Access, Origin, Peer, Rights};
use super::protocol::{Answer, Request};
use super::verdict::ReloadReport;
use super::waiters::{ReloadStep, Waiters};
use crate::clock;
use crate::config::ReadyGate;
use crate::listen::open;
use crate::listen::unix_path::{self, SocketFile};
use crate::listen::uri::{Address, Options, Scheme, Uri};
use crate::log::RateLimit;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{ChildId, Instant, Outcome, Supervisor};
use crate::sys::interrupt::Interruptible;
use crate::text::error_text;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use slog::{info, warn};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// At most so many clients at a time, those not counted whose connection a worker was started with.
/// The daemon reserves descriptors for them.
pub const MAX_CLIENTS: usize = 64;
/// At most so many clients of one process of root's or our own.
const MAX_OF_ONE: usize = 16;
/// At most so many of other users: the remaining places are never theirs.
const MAX_OTHERS: usize = 48;
/// No user has more than a quarter of these, workers that are coming up not counted.
const MAX_OF_A_USER: usize = MAX_OTHERS / 4;
/// No worker has more than so many of these, its descendants' included.
const MAX_OF_A_WORKER: usize = 4;
/// At most so many bytes of requests and answers are held for all clients together.
const MAX_HELD: usize = 2 * 1024 * 1024;
/// How often one connection is read before its worker's death is handled.
const LAST_READS: usize = 8;

/// What a later image of the program must carry on with.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlState {
    /// Our own pid, and when we were started.
    pub pid: u32,
    pub began: Instant,
    /// The connections by their numbers, so that the oldest comes first.
    pub connections: BTreeMap<u64, Connection>,
    /// A number is never used twice; 0 is the listening socket.
    pub last_number: u64,
    pub waiters: Waiters,
    pub last_verdict: Option<(ReloadReport, Instant)>,
}

pub struct Server {
    logger: slog::Logger,
    socket: Option<ControlSocket>,
    state: ControlState,
    /// The connections' descriptors, by the same numbers.
    streams: BTreeMap<u64, UnixStream>,
    /// Requests that wait for their place in the turn, with the connection's number.
    requests: VecDeque<(u64, Request)>,
    /// Workers that said that they are ready, until they are returned.
    acks: Vec<ChildId>,
    /// Connections that may have to be closed at the end of the turn.
    touched: Vec<u64>,
    /// When to accept again although nothing tells of a client: one waits for room.
    retry_at: Option<Instant>,
    /// Limits the log lines about what clients do wrong.
    complaints: RateLimit,
    /// The same for clients that were turned away.
    refusals: RateLimit,
}

struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
    access: Access,
}

/// This is for a start that fails after all: `Server::end` removes the file earlier, and logs what
/// stays behind.
impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = self.file.remove();
    }
}

/// How many clients wait in the kernel's queue before they have to wait for a place in it.
const QUEUE: u32 = 128;

impl ControlSocket {
    fn open(path: &Path, access: Access) -> Result<ControlSocket, String> {
        let uri = Uri {
            scheme: Scheme::Unix,
            address: Address::Path(path.to_owned()),
            options: Options {
                // In a long queue root would wait behind others who connect as fast as they can.
                backlog: Some(QUEUE),
                mode: access.mode,
                group: access.group.map(|group| group.to_string()),
                ..Options::default()
            },
        };
        let bound = open::bind_path(&uri, path, unix_path::PATIENT)?;
        let socket = ControlSocket {
            listener: bound.fd.into(),
            // The guard does not watch it: one name is enough.
            file: SocketFile::without_link(path, bound.id),
            access,
        };
        let set = socket.listener.set_nonblocking(true);
        set.map_err(|error| format!("cannot set O_NONBLOCK: {}", error_text(&error)))?;
        Ok(socket)
    }
}

impl Server {
    /// Opens the socket, if there is to be one. A stale one at the path is replaced.
    ///
    /// Errors: "-control: cannot bind unix:///run/x: Address already in use" and the like.
    pub fn open(place: Option<(&Path, Access)>, logger: slog::Logger) -> Result<Server, String> {
        let socket = place.map(|(path, access)| ControlSocket::open(path, access));
        let named = |error| format!("-control: {error}");
        Ok(Server {
            logger,
            socket: socket.transpose().map_err(named)?,
            state: ControlState {
                pid: std::process::id(),
                began: clock::now(),
                ..ControlState::default()
            },
            streams: BTreeMap::new(),
            requests: VecDeque::new(),
            acks: Vec::new(),
            touched: Vec::new(),
            retry_at: None,
            complaints: RateLimit::default(),
            refusals: RateLimit::default(),
        })
    }

    /// Errors: the system refuses to watch the socket.
    pub fn register(&self, poller: &mut Poller) -> io::Result<()> {
        match &self.socket {
            Some(socket) => poller.add(&socket.listener, Source::Control(0), Interest::READABLE),
            None => Ok(()),
        }
    }

    /// When `tidy` has to be called although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The last verdict's line; empty before the first.
    pub fn last_verdict(&self) -> String {
        let last = self.state.last_verdict.as_ref();
        last.map(|(report, _)| report.line()).unwrap_or_default()
    }

    // ---- connections ----

    /// Somebody wants to connect (0), has something to say, or reads again. Returns the workers that
    /// said that they are ready; other requests wait for `next_order`.
    pub fn on_ready_source(
        &mut self,
        number: u64,
        view: &View,
        poller: &mut Poller,
    ) -> Vec<ChildId> {
        match number {
            0 => self.accept(view, poller),
            _ => _ = self.read(number, view, poller),
        }
        std::mem::take(&mut self.acks)
    }

    /// A worker has died, and the core does not know it yet: what the worker, or a helper of it, said
    /// before counts. Returns the workers that said that they are ready.
    pub fn read_last_acks(&mut self, view: &View, poller: &mut Poller) -> Vec<ChildId> {
        if view.config.ready == ReadyGate::Ack {
            self.accept(view, poller);
            for number in self.numbers() {
                let mut reads = 0..LAST_READS;
                while reads.next().is_some() && self.read(number, view, poller) {}
            }
        }
        std::mem::take(&mut self.acks)
    }

    fn numbers(&self) -> Vec<u64> {
        self.streams.keys().copied().collect()
    }

    /// Accepts those who want to connect. A client that finds no room is closed, and not left waiting
    /// in the kernel's queue, where others would wait behind it.
    fn accept(&mut self, view: &View, poller: &mut Poller) {
        self.retry_at = None;
        for _ in 0..MAX_CLIENTS {
            let Some(socket) = &self.socket else {
                return;
            };
            self.retry_at = self.full_until(view.now);
            if self.retry_at.is_some() {
                return;
            }
            match socket.listener.accept() {
                Ok((stream, _)) => self.take_in(stream, view, poller),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_no_descriptor_is_free) => {
                    self.retry_at = Some(view.now + GRACE);
                    return;
                }
            }
        }
        poller.mark_ready(Source::Control(0));
    }

    fn take_in(&mut self, stream: UnixStream, view: &View, poller: &mut Poller) {
        let (Ok(peer), Some(socket)) = (Peer::of(stream.as_fd()), &self.socket) else {
            return;
        };
        let (pid, uid) = (peer.pid, peer.uid);
        let rights = socket.access.rights(uid);
        let origin = match rights {
            Rights::Everything => Origin::Trusted,
            _ => peer.origin(view),
        };
        let client = Connection::new(peer, rights, origin, view.now);
        let refusal = if rights == Rights::Nothing {
            "may not use the control socket"
        } else if !self.make_room(&client, poller, view.now) {
            "finds the places of its user taken"
        } else {
            return match self.keep(stream, client, poller) {
                // Its first request has often come with it.
                Ok(number) => _ = self.read(number, view, poller),
                Err(error) => {
                    let reason = error_text(&error);
                    self.complain(&format!("cannot watch a connection: {reason}"), view.now);
                }
            };
        };
        close_unread(stream);
        if let Some(count) = self.refusals.allow_with_count(view.now) {
            warn!(
                self.logger,
                "process {pid} of user {uid} {refusal}: turned away{count}"
            );
        }
    }

    fn keep(
        &mut self,
        stream: UnixStream,
        client: Connection,
        poller: &mut Poller,
    ) -> io::Result<u64> {
        let number = self.state.last_number + 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        poller.add(&stream, Source::Control(number), both)?;
        self.state.last_number = number;
        self.state.connections.insert(number, client);
        self.streams.insert(number, stream);
        Ok(number)
    }

    /// Opens the connection that a worker is started with (einhorn's `-g`): what comes in there is
    /// its word, whoever uses it. Returns the worker's end; `None`: there is no control socket.
    ///
    /// Errors: the kernel's.
    pub fn open_for_worker(
        &mut self,
        worker: ChildId,
        poller: &mut Poller,
    ) -> io::Result<Option<UnixStream>> {
        if self.socket.is_none() {
            return Ok(None);
        }
        let (ours, theirs) = UnixStream::pair()?;
        let peer = Peer {
            pid: self.state.pid as i32,
            uid: geteuid().as_raw(),
            worker: Some(worker),
            ..Peer::default()
        };
        let client = Connection::new(peer, Rights::Reports, Origin::Stranger, clock::now());
        self.keep(ours, client, poller)?;
        Ok(Some(theirs))
    }

    /// A worker has ended or could not be started: the connection that it was to be started with is
    /// closed, whichever descendant of it still holds the other end.
    pub fn forget_worker(&mut self, worker: ChildId) {
        let connections = self.state.connections.iter_mut();
        for (number, client) in connections.filter(|(_, it)| it.peer.worker == Some(worker)) {
            client.close();
            self.touched.push(*number);
        }
    }

    /// The connections that count against the quotas, oldest first.
    fn guests(&self) -> impl Iterator<Item = (u64, &Connection)> {
        let all = self.state.connections.iter();
        let guests = all.filter(|(_, it)| it.peer.worker.is_none() && !it.is_over);
        guests.map(|(number, client)| (*number, client))
    }

    /// When the next one may come, whoever it is, while root's and our own clients hold all places
    /// and none has been silent for long enough to go: until then it waits.
    fn full_until(&self, now: Instant) -> Option<Instant> {
        let trusted = || self.guests().filter(|(_, it)| it.origin == Origin::Trusted);
        let silent = trusted().filter(|(_, it)| it.may_be_evicted());
        let heard = silent.map(|(_, it)| it.heard).min().unwrap_or(now);
        let is_full = trusted().count() >= MAX_CLIENTS && heard + GRACE > now;
        is_full.then_some(heard + GRACE)
    }

    /// Makes room for one more client: where a quota that it shares is used up, another client of
    /// those who share it is closed. Returns whether there is room.
    ///
    /// A worker that is coming up may have to say that it is ready, so that other users' clients
    /// make room for it; but neither a worker with its descendants nor a user has more than its
    /// share.
    fn make_room(&mut self, new: &Connection, poller: &mut Poller, now: Instant) -> bool {
        let is_starting = |it: &Connection| matches!(it.origin, Origin::StartingWorker(_));
        let is_trusted = new.origin == Origin::Trusted;
        let (rank, worker) = (new.origin.rank(), new.origin.worker());
        let all = || self.guests();
        let others = || all().filter(|(_, it)| it.origin != Origin::Trusted);
        let of_process = || all().filter(|(_, it)| it.peer.pid == new.peer.pid);
        let of_worker = || others().filter(|(_, it)| it.origin.worker() == worker);
        let of_user = || others().filter(|(_, it)| it.peer.uid == new.peer.uid && !is_starting(it));
        let leaves = if is_trusted && of_process().count() >= MAX_OF_ONE {
            of_process().find(|(_, it)| it.may_be_evicted())
        } else if worker.is_some() && of_worker().count() >= MAX_OF_A_WORKER {
            of_worker().next()
        } else if !is_trusted && !is_starting(new) && of_user().count() >= MAX_OF_A_USER {
            let own = of_user().filter(|(_, it)| it.origin.rank() <= rank);
            own.min_by_key(|(_, it)| it.origin.rank())
        } else if all().count() < MAX_CLIENTS && (is_trusted || others().count() < MAX_OTHERS) {
            return true;
        } else {
            let gives_way = |it: &Connection| match it.origin.rank().cmp(&rank) {
                Ordering::Less => it.may_be_evicted(),
                Ordering::Equal => it.may_be_evicted() && it.is_silent(now),
                Ordering::Greater => false,
            };
            let may_go = all().filter(|(_, it)| gives_way(it));
            may_go.min_by_key(|(_, it)| (it.origin.rank(), it.heard))
        };
        let Some((number, _)) = leaves else {
            return false;
        };
        self.remove(number, poller);
        true
    }

    /// Reads a connection once; returns whether there may be more.
    fn read(&mut self, number: u64, view: &View, poller: &mut Poller) -> bool {
        let Some((client, stream)) = self.client(number) else {
            return false;
        };
        let request = client.next_request(stream, view.now);
        let has_more = client.has_more;
        match request {
            Some(request) if needs(&request) > Rights::Reports => {
                client.waiting += 1;
                self.requests.push_back((number, request));
            }
            Some(report) => {
                let peer = client.peer.clone();
                // Reports are not answered. The connection that a worker was started with stays open.
                if peer.worker.is_none() {
                    client.close();
                }
                if report.command.as_deref() == Some("worker:ack") {
                    match peer.acked(report.pid, view) {
                        Ok(id) => self.acks.push(id),
                        Err(reason) => self.complain(&format!("worker:ack {reason}"), view.now),
                    }
                }
            }
            None => {}
        }
        self.touched.push(number);
        self.keep_within_limits();
        if has_more {
            poller.mark_ready(Source::Control(number));
        }
        has_more
    }

    fn client(&mut self, number: u64) -> Option<(&mut Connection, &UnixStream)> {
        let client = self.state.connections.get_mut(&number)?;
        Some((client, self.streams.get(&number)?))
    }

    fn complain(&mut self, text: &str, now: Instant) {
        if let Some(count) = self.complaints.allow_with_count(now) {
            warn!(self.logger, "{text}{count}");
        }
    }

    /// Bounds the memory that all clients together make us hold. Of the clients that make us hold
    /// much, those with the fewest rights are closed first, and of these the largest one.
    fn keep_within_limits(&mut self) {
        loop {
            let connections = self.state.connections.iter();
            let held: usize = connections.clone().map(|(_, it)| it.held()).sum();
            if held <= MAX_HELD {
                return;
            }
            // This is a quarter of an equal share: somebody always holds more.
            let much = MAX_HELD / connections.len() / 4;
            let greedy = connections.filter(|(_, it)| it.held() > much);
            let leaves = greedy.min_by_key(|(_, it)| (it.rights, Reverse(it.held())));
            let Some((number, _)) = leaves else {
                return;
            };
            self.close(*number);
        }
    }

    /// What the client had not read is lost. The connection is removed at the end of the turn.
    fn close(&mut self, number: u64) {
        if let Some(client) = self.state.connections.get_mut(&number) {
            client.close();
            self.touched.push(number);
        }
    }

    fn remove(&mut self, number: u64, poller: &mut Poller) {
        self.state.connections.remove(&number);
        if let Some(stream) = self.streams.remove(&number) {
            poller.remove(&stream, Source::Control(number));
            close_unread(stream);
        }
        self.state.waiters.forget(number);
    }

    /// At the end of a turn: connections that are closed or finished are removed, and a client that
    /// waits for room may get it.
    pub fn tidy(&mut self, poller: &mut Poller) {
        for number in std::mem::take(&mut self.touched) {
            let client = self.state.connections.get(&number);
            if client.is_some_and(|it| it.is_over || it.is_finished()) {
                self.remove(number, poller);
            }
        }
        if self.retry_at.is_some_and(|at| at <= clock::now()) {
            poller.mark_ready(Source::Control(0));
        }
    }

    // ---- requests and answers ----

    /// Answers the next request that waits for its place in the turn, and returns what the daemon
    /// shall do; `None`: no request is left.
    pub fn next_order(&mut self, view: &View) -> Option<Order> {
        while let Some((number, request)) = self.requests.pop_front() {
            // The connection may have been closed to make room for another.
            let Some((client, _)) = self.client(number) else {
                continue;
            };
            client.waiting = client.waiting.saturating_sub(1);
            let (pid, uid) = (client.peer.pid, client.peer.uid);
            let rights = client.rights;
            let response = respond(&request, rights, &self.state, view);
            if let Some(what) = response.log {
                info!(
                    self.logger,
                    "{what}, asked for by process {pid} of user {uid}"
                );
            }
            if let (Some(wait_for), Some((client, _))) = (response.wait_for, self.client(number)) {
                client.waiting += 1;
                let id = request.id.clone();
                self.state.waiters.add(number, id, wait_for);
            }
            for answer in response.answers {
                let id = request.id.clone();
                self.answer(number, &Answer { id, ..answer });
            }
            self.touched.push(number);
            if response.order.is_some() {
                return response.order;
            }
        }
        None
    }

    fn answer(&mut self, number: u64, answer: &Answer) {
        if let Some((client, stream)) = self.client(number) {
            client.answer(stream, answer);
        }
        self.touched.push(number);
        self.keep_within_limits();
    }

    fn send(&mut self, messages: Vec<(u64, Answer)>) {
        for (number, answer) in messages {
            self.answer(number, &answer);
            if let (Some((client, _)), false) = (self.client(number), answer.wait) {
                client.waiting = client.waiting.saturating_sub(1);
            }
        }
    }

    // ---- what waiting clients are told ----

    /// Tells those who wait for the generation that comes up, or came up last.
    fn tell(&mut self, step: ReloadStep) {
        let messages = self.state.waiters.progress(&step);
        self.send(messages);
    }

    pub fn on_begin(&mut self, generation: u64, first: bool, core: &Supervisor) {
        self.state.waiters.begin(generation, first);
        self.tell(ReloadStep::Begun {
            workers: core.policy().workers,
            live: core.live_generation(),
        });
    }

    pub fn on_started(&mut self, pid: i32, index: u32) {
        self.tell(ReloadStep::Started { pid, index });
    }

    pub fn on_worker_ready(&mut self, id: ChildId, view: &View) {
        let begun = self.state.waiters.begun;
        let worker = view.core.workers().find(id);
        if worker.is_none_or(|worker| worker.generation != begun) {
            return;
        }
        let is_by_timer = view.config.ready != ReadyGate::Ack;
        let tally = view.core.workers().tally(begun);
        let ready = self.state.waiters.count_ready(tally.ready);
        self.tell(ReloadStep::Ready {
            pid: view.pid(id).unwrap_or(0),
            timer: is_by_timer.then_some(view.config.start.as_secs_f64()),
            ready,
            wanted: view.core.policy().workers,
        });
    }

    /// A worker is asked to stop. The last old ones are asked just before the verdict, when nothing
    /// is rolled out any more.
    pub fn on_worker_asked(&mut self, id: ChildId, signal: i32, view: &View) {
        let begun = self.state.waiters.begun;
        let worker = view.core.workers().find(id);
        if let Some(pid) = view.pid(id) {
            let old = worker.is_some_and(|worker| worker.generation < begun);
            self.tell(ReloadStep::Asked { pid, signal, old });
        }
    }

    /// A worker has ended, and the core does not know it yet.
    pub fn on_worker_gone(&mut self, id: ChildId, pid: i32, core: &Supervisor) {
        let worker = core.workers().find(id);
        let was_ready = worker.is_some_and(|worker| worker.is_ready() || worker.is_stopping());
        let others = core.workers().len().saturating_sub(1);
        self.tell(ReloadStep::Gone {
            pid,
            was_ready,
            left: if core.is_stopping() { others } else { 0 },
        });
        self.forget_worker(id);
    }

    pub fn on_verdict(&mut self, report: ReloadReport) {
        let messages = self.state.waiters.conclude(&report);
        self.send(messages);
        // A remembered reload that a stop abandons has a number and never began.
        let has_begun = report.generation <= self.state.waiters.begun;
        if has_begun || report.outcome != Outcome::Abandoned {
            self.state.last_verdict = Some((report, clock::now()));
        }
    }

    /// We end: all who wait get their last answer, and the socket's file is removed.
    pub fn end(&mut self, status: i32) {
        let text = format!("stopped, exit status {status}");
        let messages = self.state.waiters.conclude_all(&text);
        self.send(messages);
        // The clients see their connections end when the process does, and not earlier: who waits
        // for our end wants the pid file's lock, and everything else that ends with us.
        std::mem::forget(std::mem::take(&mut self.streams));
        if let Some(mut socket) = self.socket.take() {
            for reason in socket.file.remove() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
    }
}

/// Bytes that were not read may have brought descriptors: the kernel closes these with the connection,
/// and may wait for that.
fn close_unread(stream: UnixStream) {
    let _bounded = Interruptible::begin();
    drop(stream);
}

#[cfg(test)]
mod tests;
