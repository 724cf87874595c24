//! One client: its unfinished request line, the answers that it has not read, and how much of either
//! it may have. It is plain data beside its descriptor, never waits, and takes the next request only
//! when the client reads its answers.

use super::peer::{Origin, Peer, Rights};
use super::protocol::{Answer, LineReader, MAX_REQUEST, Request, UNPARSABLE, parse_request};
use crate::supervisor::Instant;
use crate::sys::interrupt::Interruptible;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A client that has been silent for so long may have to make room for another.
pub const GRACE: Duration = Duration::from_millis(250);
/// So many bytes are read at a time, and in a turn.
const CHUNK: usize = 16 * 1024;
/// With so many bytes of answers unread, a client's next request is not looked at.
const CONGESTED: usize = 64 * 1024;
/// With so many bytes unread, the next answer closes the connection.
const OVERFLOW: usize = 256 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    pub peer: Peer,
    pub rights: Rights,
    /// This is as it was when the client connected.
    pub origin: Origin,
    /// When it last said something.
    pub heard: Instant,
    /// How many of its requests have answers to come.
    pub waiting: u32,
    /// There may be more to read although the poller will not say so.
    pub has_more: bool,
    /// It is of no use any more, and only its descriptor is still to be closed.
    pub is_over: bool,
    reader: LineReader,
    /// It will send no more.
    has_ended: bool,
    /// The answers that could not be written yet.
    out: Vec<u8>,
}

impl Connection {
    pub fn new(peer: Peer, rights: Rights, origin: Origin, now: Instant) -> Connection {
        Connection {
            peer,
            rights,
            origin,
            heard: now,
            has_more: true,
            ..Connection::default()
        }
    }

    pub fn may_be_evicted(&self) -> bool {
        self.waiting == 0 && self.peer.worker.is_none()
    }

    /// It has had a moment to say something, and did not.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.heard + GRACE <= now
    }

    /// It has sent its last request and read its last answer.
    pub fn is_finished(&self) -> bool {
        let is_read = !self.has_more && self.reader.is_empty();
        self.has_ended && is_read && self.waiting == 0 && self.out.is_empty()
    }

    /// It has so much to read that its requests are not looked at.
    pub fn is_congested(&self) -> bool {
        self.out.len() > CONGESTED
    }

    /// How many bytes of memory it makes us hold.
    pub fn held(&self) -> usize {
        self.out.capacity() + self.reader.held()
    }

    /// Its answers that were not written yet are lost.
    pub fn close(&mut self) {
        self.is_over = true;
        self.reader = LineReader::default();
        self.out = Vec::new();
    }

    /// Writes what can be written, then looks for the next request: at most one, by at most one
    /// read, so that every client gets its turn.
    pub fn next_request(&mut self, stream: &UnixStream, now: Instant) -> Option<Request> {
        self.flush(stream);
        self.has_more = false;
        if self.is_over || self.is_congested() {
            // When the client reads, its socket becomes writable, and this is called again.
            return None;
        }
        let mut line = self.next_line();
        if line.is_none() && !self.has_ended && !self.is_over {
            self.receive(stream);
            line = self.next_line();
        }
        let Some(line) = line else {
            if self.has_ended && self.waiting > 0 && is_hung_up(stream) {
                self.close();
            }
            return None;
        };
        self.heard = now;
        self.has_more = true;
        let request = parse_request(&line);
        if request.is_err() {
            self.answer(stream, &Answer::new(UNPARSABLE));
        }
        request.ok()
    }

    /// A line that is too long closes the connection.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let line = self.reader.next_line(MAX_REQUEST);
        line.unwrap_or_else(|_| {
            self.close();
            None
        })
    }

    /// Reads once.
    fn receive(&mut self, stream: &UnixStream) {
        let mut chunk = [0; CHUNK];
        // Descriptors that come with the bytes are closed by the kernel, which may wait for that.
        let _bounded = Interruptible::begin();
        match recv(stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.has_ended = true;
                // The last line may lack its LF.
                if !self.reader.is_empty() {
                    self.reader.push(b"\n");
                }
            }
            Ok(count) => {
                self.reader.push(&chunk[..count]);
                self.has_more = true;
            }
            Err(Errno::EAGAIN) => {}
            Err(Errno::EINTR) => self.has_more = true,
            Err(_) => self.close(),
        }
    }

    /// Queues an answer and writes what can be written. A client that does not read what it asked
    /// for is closed.
    pub fn answer(&mut self, stream: &UnixStream, answer: &Answer) {
        if self.out.len() > OVERFLOW {
            self.close();
        }
        if !self.is_over {
            self.out.extend(answer.encode());
            self.flush(stream);
        }
    }

    fn flush(&mut self, stream: &UnixStream) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while !self.out.is_empty() {
            match send(stream.as_raw_fd(), &self.out, flags) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.close(),
            }
        }
        self.out = Vec::new();
    }
}

/// The other end is closed altogether, not only for writing.
fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    polled.is_ok() && found.contains(PollFlags::POLLHUP)
}
