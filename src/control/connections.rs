//! The clients' connections to the control socket, who they are by the kernel's word, and what each
//! may cost us: places, bytes, time. It never waits, and it never decides what a request does.

use super::connection::{Connection, Next};
use super::peer::Peer;
use super::protocol::{Answer, Request};
use super::{Access, Rights};
use crate::listen::file::{self, SocketFile};
use crate::listen::uri::{Address, Options, Scheme, Uri};
use crate::listen::{self, Kind, open};
use crate::supervisor::{ChildId, Instant};
use crate::text::error_text;
use std::cmp::{Ordering, Reverse};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// At most so many clients at a time; the loop reserves the descriptors.
pub const MAX_CLIENTS: usize = 64;
/// At most so many of one process.
pub const MAX_OF_ONE: usize = 16;
/// At most so many of those who are neither root nor ours: the other places are never theirs.
const MAX_OTHERS: usize = 48;
/// No user has more than a quarter of these, workers that are coming up not counted.
const MAX_OF_A_USER: usize = MAX_OTHERS / 4;
/// No worker has more than so many of these, its descendants' included.
const MAX_OF_A_WORKER: usize = 4;
/// At most so many bytes of requests and answers are held for all clients together.
const MAX_HELD: usize = 2 * 1024 * 1024;
/// A client that has been silent for so long may have to make room for another.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// The living worker that a client is or descends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// None.
    Stranger,
    Worker(ChildId),
    /// One that is not ready yet.
    StartingWorker(ChildId),
}

impl Origin {
    /// In this order clients give way to each other, the lowest first.
    fn rank(self) -> u8 {
        match self {
            Origin::Stranger => 0,
            Origin::Worker(_) => 1,
            Origin::StartingWorker(_) => 2,
        }
    }

    fn worker(self) -> Option<ChildId> {
        match self {
            Origin::Stranger => None,
            Origin::Worker(id) | Origin::StartingWorker(id) => Some(id),
        }
    }
}

/// One request, and who made it.
#[derive(Debug, PartialEq)]
pub struct Incoming {
    pub connection: u64,
    pub peer: Peer,
    pub rights: Rights,
    pub request: Request,
}

/// What `accept` found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The new connections.
    pub fresh: Vec<u64>,
    /// More may wait: call again.
    pub again: bool,
    /// The last of those that were turned away, and why.
    pub refused: Option<(Peer, &'static str)>,
}

/// The socket and its clients. Dropped, it removes its file if that is still ours.
#[derive(Debug)]
pub struct Connections {
    listener: UnixListener,
    file: SocketFile,
    access: Access,
    /// By their numbers, which is oldest first.
    clients: Vec<Connection>,
    /// Never used twice; 0 is the listener.
    last: u64,
    /// Closed and still to be deregistered.
    closed: Vec<(u64, UnixStream)>,
    /// When there may be room for somebody who waits.
    retry: Option<Instant>,
}

impl Connections {
    /// Opens the socket. A stale one at the path is replaced.
    ///
    /// Errors: "-control: cannot bind unix:///run/x: Address already in use" and the like.
    pub fn open(path: &Path, access: Access) -> Result<Connections, listen::Error> {
        let options = Options {
            mode: access.mode,
            group: access.group.map(|group| group.to_string()),
            ..Options::default()
        };
        let uri = Uri {
            scheme: Scheme::Unix,
            address: Address::Path(path.to_owned()),
            options,
        };
        let named = |error: listen::Error| listen::Error(format!("-control: {error}"));
        let bound = open::bind_path(&uri, path, Kind::Stream, file::PATIENT).map_err(named)?;
        let connections = Connections {
            listener: bound.fd.into(),
            // The guard does not watch it: one name is enough.
            file: SocketFile::without_link(path, bound.id),
            access,
            clients: Vec::new(),
            last: 0,
            closed: Vec::new(),
            retry: None,
        };
        match connections.listener.set_nonblocking(true) {
            Ok(()) => Ok(connections),
            Err(error) => {
                let word = error_text(&error);
                Err(named(listen::Error(format!(
                    "cannot set O_NONBLOCK: {word}"
                ))))
            }
        }
    }

    /// Readable when somebody wants to connect.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// A connection's descriptor, to be watched for reading and for writing.
    pub fn fd(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.client(id).map(|client| client.stream.as_fd())
    }

    /// The connections, oldest first.
    pub fn ids(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.id).collect()
    }

    /// When to call `accept` again though nothing says so: somebody waits for room.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Takes in those who want to connect. Who finds no room is closed, never left waiting in the
    /// kernel's queue, where others would wait behind it. `origin` says which living worker a
    /// process descends from.
    pub fn accept(&mut self, now: Instant, origin: impl Fn(&Peer) -> Origin) -> Accepted {
        let mut accepted = Accepted::default();
        self.retry = None;
        for _ in 0..MAX_CLIENTS {
            if self.is_full_of_trusted(now) {
                return accepted;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream, now, &origin, &mut accepted),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return accepted,
                Err(_no_descriptor_free) => {
                    self.retry = Some(now + GRACE);
                    return accepted;
                }
            }
        }
        accepted.again = true;
        accepted
    }

    fn take_in(
        &mut self,
        stream: UnixStream,
        now: Instant,
        origin: impl Fn(&Peer) -> Origin,
        accepted: &mut Accepted,
    ) {
        let Ok(peer) = Peer::of(stream.as_fd()) else {
            return;
        };
        let rights = self.access.rights(peer.uid);
        if rights == Rights::Nothing {
            accepted.refused = Some((peer, "may not use the control socket"));
            return;
        }
        let origin = match rights {
            Rights::Everything => Origin::Stranger,
            _ => origin(&peer),
        };
        let has_room = match rights {
            Rights::Everything => self.make_room_for_trusted(peer.pid, now),
            _ => self.make_room_for_another(peer.uid, origin, now),
        };
        if !has_room {
            accepted.refused = Some((peer, "finds the places of its user taken"));
            return;
        }
        let id = self.keep(stream, peer, rights, now);
        if let Some(client) = self.client_mut(id) {
            client.origin = origin;
        }
        accepted.fresh.push(id);
    }

    /// Those that count against the places: what a worker was started with does not.
    fn guests(&self) -> impl Iterator<Item = &Connection> {
        self.clients.iter().filter(|it| it.peer.worker.is_none())
    }

    fn others(&self) -> impl Iterator<Item = &Connection> {
        self.guests().filter(|it| it.rights < Rights::Everything)
    }

    /// Root's and our own clients hold all places, and none has been silent for long enough to go:
    /// the next one waits, whoever it is.
    fn is_full_of_trusted(&mut self, now: Instant) -> bool {
        let trusted = || self.guests().filter(|it| it.rights == Rights::Everything);
        if trusted().count() < MAX_CLIENTS {
            return false;
        }
        let silent = trusted().filter(|it| it.may_be_evicted());
        let heard = silent.map(|it| it.heard).min();
        let free = heard.map_or(now + GRACE, |heard| heard + GRACE);
        if free > now {
            self.retry = Some(free);
        }
        free > now
    }

    /// Room for one more client of root's or our own: of one process only so many stay, and where
    /// all places are taken, others go first, then who has been silent for longest.
    fn make_room_for_trusted(&mut self, pid: i32, now: Instant) -> bool {
        let own = || self.guests().filter(|it| it.peer.pid == pid);
        let leaves = if own().count() >= MAX_OF_ONE {
            own().find(|it| it.may_be_evicted())
        } else if self.guests().count() < MAX_CLIENTS {
            return true;
        } else {
            let may_go = |it: &&Connection| {
                it.may_be_evicted() && (it.rights < Rights::Everything || it.is_silent(now))
            };
            let guests = self.guests().filter(may_go);
            guests.min_by_key(|it| (it.rights, it.origin.rank(), it.heard))
        };
        self.replace(leaves.map(|it| it.id))
    }

    /// Room for one more client of those who are neither root nor ours. A worker that is coming up
    /// may have to say that it is ready, so everybody else makes room for it; but neither a worker
    /// with its descendants nor a user as a whole has more than its share.
    fn make_room_for_another(&mut self, uid: u32, origin: Origin, now: Instant) -> bool {
        let rank = |it: &Connection| it.origin.rank();
        let of_worker = || {
            let worker = origin.worker();
            self.others().filter(move |it| it.origin.worker() == worker)
        };
        let of_user = || {
            let is_starting = |it: &&Connection| matches!(it.origin, Origin::StartingWorker(_));
            let own = self.others().filter(move |it| it.peer.uid == uid);
            own.filter(move |it| !is_starting(it))
        };
        let is_starting = matches!(origin, Origin::StartingWorker(_));
        let leaves = if origin.worker().is_some() && of_worker().count() >= MAX_OF_A_WORKER {
            of_worker().min_by_key(|it| it.id)
        } else if !is_starting && of_user().count() >= MAX_OF_A_USER {
            let own = of_user().filter(|it| rank(it) <= origin.rank());
            own.min_by_key(|it| (rank(it), it.id))
        } else if self.others().count() < MAX_OTHERS && self.guests().count() < MAX_CLIENTS {
            return true;
        } else {
            let gives_way = |it: &&Connection| match rank(it).cmp(&origin.rank()) {
                Ordering::Less => true,
                Ordering::Equal => it.is_silent(now),
                Ordering::Greater => false,
            };
            let all = self.others().filter(gives_way);
            all.min_by_key(|it| (rank(it), it.id))
        };
        self.replace(leaves.map(|it| it.id))
    }

    /// Closes the client that makes room, if there is one; returns whether there was.
    fn replace(&mut self, leaves: Option<u64>) -> bool {
        leaves.inspect(|id| self.close(*id)).is_some()
    }

    fn keep(&mut self, stream: UnixStream, peer: Peer, rights: Rights, now: Instant) -> u64 {
        self.last += 1;
        let client = Connection::new(self.last, stream, peer, rights, now);
        self.clients.push(client);
        self.last
    }

    /// Our end of a socket pair whose other end that worker gets (einhorn's `-g`): what comes in
    /// there is the worker's word. The caller watches it as it does a fresh one.
    pub fn adopt(&mut self, stream: UnixStream, of: ChildId, now: Instant) -> u64 {
        self.keep(stream, Peer::worker(of), Rights::Reports, now)
    }

    /// A worker has gone: what it was started with is closed, whoever of its offspring holds it.
    pub fn forget(&mut self, worker: ChildId) {
        for id in self.ids() {
            if self
                .client(id)
                .is_some_and(|client| client.peer.worker == Some(worker))
            {
                self.close(id);
            }
        }
    }

    /// Writes what is left to write to a client, then looks for its next request.
    pub fn next_request(&mut self, id: u64, now: Instant) -> Next {
        let Some(client) = self.client_mut(id) else {
            return Next::Nothing;
        };
        let next = match client.next_request(now) {
            Ok(Some(request)) => Next::Request(Box::new(Incoming {
                connection: id,
                peer: client.peer.clone(),
                rights: client.rights,
                request,
            })),
            Ok(None) if client.has_more => Next::More,
            Ok(None) => Next::Nothing,
            Err(_gone) => {
                self.close(id);
                return Next::Nothing;
            }
        };
        self.tidy(id);
        self.keep_within_limits();
        next
    }

    /// Queues an answer and writes what can be written. A client that does not read what it asked
    /// for is closed.
    pub fn answer(&mut self, id: u64, answer: &Answer) {
        let Some(client) = self.client_mut(id) else {
            return;
        };
        if client.push(&answer.encode()).is_err() {
            self.close(id);
        }
        self.tidy(id);
        self.keep_within_limits();
    }

    /// What clients make us hold has an end, however many they are. Of those who hold much, the one
    /// with the fewest rights goes, and of these the one that holds most.
    fn keep_within_limits(&mut self) {
        let held = |all: &[Connection]| all.iter().map(Connection::held).sum::<usize>();
        while held(&self.clients) > MAX_HELD {
            // A quarter of an equal share: somebody always holds more.
            let much = MAX_HELD / self.clients.len() / 4;
            let greedy = self.clients.iter().filter(|it| it.held() > much);
            let leaves = greedy.min_by_key(|it| (it.rights, Reverse(it.held())));
            if !self.replace(leaves.map(|it| it.id)) {
                return;
            }
        }
    }

    /// A client waits for more answers: it is kept meanwhile, also when it sends no more.
    pub fn hold(&mut self, id: u64) {
        if let Some(client) = self.client_mut(id) {
            client.waiting += 1;
        }
    }

    /// The opposite of `hold`.
    pub fn release(&mut self, id: u64) {
        if let Some(client) = self.client_mut(id) {
            client.waiting = client.waiting.saturating_sub(1);
        }
        self.tidy(id);
    }

    /// Closes a connection; what it had not read is lost.
    pub fn close(&mut self, id: u64) {
        if let Some(place) = self.place(id) {
            let client = self.clients.remove(place);
            self.closed.push((id, client.stream));
        }
    }

    fn tidy(&mut self, id: u64) {
        if self.client(id).is_some_and(Connection::is_finished) {
            self.close(id);
        }
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.clients
            .binary_search_by_key(&id, |client| client.id)
            .ok()
    }

    fn client(&self, id: u64) -> Option<&Connection> {
        self.place(id).map(|place| &self.clients[place])
    }

    fn client_mut(&mut self, id: u64) -> Option<&mut Connection> {
        self.place(id).map(|place| &mut self.clients[place])
    }

    /// Removes the file. The clients see their connections end when the process does, and not a
    /// moment earlier: who waits for our end wants the pid file's lock and everything else.
    ///
    /// Returns what stays behind and why, a line each.
    pub fn end(mut self) -> Vec<String> {
        std::mem::forget(std::mem::take(&mut self.clients));
        self.file.remove()
    }

    /// The connections that were closed since the last call: to be deregistered, then dropped.
    pub fn take_closed(&mut self) -> Vec<(u64, UnixStream)> {
        std::mem::take(&mut self.closed)
    }
}

/// For a start that fails after all; at a stop `end` was called and had its say.
impl Drop for Connections {
    fn drop(&mut self) {
        let _ = self.file.remove();
    }
}

#[cfg(test)]
mod tests;
