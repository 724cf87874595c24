//! One client: the line it is in the middle of, the answers it has not read, and how much of
//! either it may have. It never waits, and takes the next request only when the client reads.

use super::Rights;
use super::connections::{GRACE, Incoming, Origin};
use super::peer::Peer;
use super::protocol::{Answer, LineReader, MAX_REQUEST, Request, UNPARSABLE, parse_request};
use crate::supervisor::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// Read at a time, and in a turn.
const CHUNK: usize = 16 * 1024;
/// With so many bytes of answers unread, a client's next request is not looked at.
const CONGESTED: usize = 64 * 1024;
/// With so many bytes unread, the next answer closes the connection.
const OVERFLOW: usize = 256 * 1024;

/// What a client's turn brought.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// And perhaps there is more.
    Request(Box<Incoming>),
    /// No request yet; look again in the next turn.
    More,
    /// Nothing until its descriptor says so.
    Nothing,
}

/// The connection is of no use any more.
#[derive(Debug)]
pub(super) struct Gone;

#[derive(Debug)]
pub(super) struct Connection {
    pub id: u64,
    pub stream: UnixStream,
    pub peer: Peer,
    pub rights: Rights,
    /// Of those who are neither root nor ours, as it was when it came.
    pub origin: Origin,
    /// When it last said something.
    pub heard: Instant,
    /// How many requests have answers to come.
    pub waiting: u32,
    /// There may be more to read although nothing will say so.
    pub has_more: bool,
    reader: LineReader,
    /// It will send no more.
    ended: bool,
    out: Vec<u8>,
    /// How much of `out` has been written.
    written: usize,
}

impl Connection {
    pub fn new(
        id: u64,
        stream: UnixStream,
        peer: Peer,
        rights: Rights,
        now: Instant,
    ) -> Connection {
        Connection {
            id,
            stream,
            peer,
            rights,
            origin: Origin::Stranger,
            heard: now,
            waiting: 0,
            has_more: true,
            reader: LineReader::new(MAX_REQUEST),
            ended: false,
            out: Vec::new(),
            written: 0,
        }
    }

    pub fn may_be_evicted(&self) -> bool {
        self.waiting == 0 && self.peer.worker.is_none()
    }

    /// It has had a moment to say something, and did not.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.heard + GRACE <= now
    }

    /// It has said all, and heard all.
    pub fn is_finished(&self) -> bool {
        let unheard = self.has_more || !self.reader.pending().is_empty();
        self.ended && !unheard && self.waiting == 0 && self.unread() == 0
    }

    /// It has so much to read that it is not listened to.
    pub fn is_congested(&self) -> bool {
        self.unread() > CONGESTED
    }

    fn unread(&self) -> usize {
        self.out.len() - self.written
    }

    /// How many bytes it makes us hold.
    pub fn held(&self) -> usize {
        self.out.capacity() + self.reader.held()
    }

    /// At most one request, and at most one read, so that every client has its turn.
    pub fn next_request(&mut self, now: Instant) -> Result<Option<Request>, Gone> {
        self.flush()?;
        self.has_more = false;
        if self.is_congested() {
            // Its reading makes the socket writable, and us come again.
            return Ok(None);
        }
        let mut line = self.reader.next_line().map_err(|_| Gone)?;
        if line.is_none() && !self.ended {
            self.has_more = self.receive()?;
            line = self.reader.next_line().map_err(|_| Gone)?;
        }
        let Some(line) = line else {
            return if self.ended && self.waiting > 0 && self.is_hung_up() {
                Err(Gone)
            } else {
                Ok(None)
            };
        };
        self.heard = now;
        self.has_more = true;
        match parse_request(&line) {
            Ok(request) => Ok(Some(request)),
            Err(_) => {
                let answer = Answer {
                    message: UNPARSABLE,
                    ..Answer::default()
                };
                self.push(&answer.encode()).map(|()| None)
            }
        }
    }

    /// Reads once. Returns whether there may be more.
    fn receive(&mut self) -> Result<bool, Gone> {
        let mut chunk = [0; CHUNK];
        match recv(self.stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.ended = true;
                // A last line may lack its end.
                if !self.reader.pending().is_empty() {
                    self.reader.push(b"\n");
                }
                Ok(false)
            }
            Ok(count) => {
                self.reader.push(&chunk[..count]);
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(Errno::EINTR) => Ok(true),
            Err(_) => Err(Gone),
        }
    }

    /// The other end is closed altogether, not only for writing.
    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0]
                .revents()
                .is_some_and(|found| found.contains(PollFlags::POLLHUP))
    }

    /// Queues bytes and writes what can be written.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if self.unread() > OVERFLOW {
            return Err(Gone);
        }
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Gone> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while self.unread() > 0 {
            match send(self.stream.as_raw_fd(), &self.out[self.written..], flags) {
                Ok(count) => self.written += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.out.drain(..self.written);
                    self.written = 0;
                    return Ok(());
                }
                Err(_) => return Err(Gone),
            }
        }
        self.out = Vec::new();
        self.written = 0;
        Ok(())
    }
}
