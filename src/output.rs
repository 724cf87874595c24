//! A worker's stdout and stderr: the pipe they share, its output cut into lines, and the lines
//! handed to the log. It reads only what the log takes, except where a worker must not be held
//! back; then it drops at a bounded rate and counts. It never waits.

mod lines;
mod tail;

pub use lines::{Line, LineBuffer};

use crate::log::{Log, Room};
use crate::supervisor::Instant;
use crate::sys::io::{bytes_waiting, peek_pipe, widen_pipe};
use nix::errno::Errno;
use nix::unistd::read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tail::Tail;

/// One read(2): all that a pipe holds. Less would wake its writer more often.
const CHUNK: usize = 64 * 1024;
/// What one pipe should be given of a turn, in bytes.
pub const TURN: usize = 64 * 1024;

/// When to try again what failed for a reason that should not be.
const RETRY: Duration = Duration::from_secs(1);

/// How far a pipe was drained, and when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All that was there: come back when it is readable.
    Empty,
    /// This turn's share: come back in the next, after the others and after the log's flush.
    More,
    /// The log is stuck: come back when [`Log::is_blocked`] says no.
    Held,
    /// Lines are being dropped and this span's share is used up: come back then.
    Wait(Instant),
    /// Nobody holds the other end any more, and all its lines are logged: close it.
    Eof,
}

/// Where a worker's last byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// It is alive and may write more.
    Unknown,
    /// So many bytes further in the pipe.
    Ahead(usize),
    /// Logged, or dropped and counted.
    Passed,
}

/// The read end of a worker's pipe.
#[derive(Debug)]
pub struct Pipe {
    fd: OwnedFd,
    pid: u32,
    lines: LineBuffer,
    /// Lines may be lost rather than the worker held back.
    may_drop: bool,
    last: Last,
    at_end: bool,
    tail: Tail,
}

impl Pipe {
    /// Takes the read end of the worker `pid`'s [`pipe`].
    pub fn new(fd: OwnedFd, pid: u32) -> Pipe {
        Pipe {
            fd,
            pid,
            lines: LineBuffer::default(),
            may_drop: false,
            last: Last::Unknown,
            at_end: false,
            tail: Tail::default(),
        }
    }

    /// Lets the worker run further ahead of us ([`widen_pipe`]).
    pub fn widen(&self) {
        let _refused = !widen_pipe(self.fd());
    }

    /// The descriptor, to be watched for READABLE.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whose output it is.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// From now on a stuck log costs lines, not the worker's time: with `-output=lossy`, and for
    /// a worker that has been asked to stop.
    pub fn allow_drops(&mut self) {
        self.may_drop = true;
    }

    /// The worker is dead: what is in the pipe now is all it said, whatever others who hold the
    /// pipe still write. [`is_complete`](Self::is_complete) tells when that is logged.
    pub fn mark_death(&mut self) {
        self.set_ahead(bytes_waiting(self.fd()).unwrap_or(0));
        if self.last == Last::Ahead(0) && self.lines.is_empty() {
            self.last = Last::Passed;
        }
    }

    /// Whether all that a dead worker said is logged (or dropped and counted).
    pub fn is_complete(&self) -> bool {
        self.last == Last::Passed
    }

    /// Reads about `budget` bytes and hands their lines to the log, as far as that takes them.
    /// Fairness is the caller's: the pipes that want more take turns.
    pub fn drain(&mut self, log: &mut Log, now: Instant, budget: usize) -> Drained {
        log.tick();
        self.lines.work_in(log.lend_memory());
        let drained = self.drain_in_lent_memory(log, now, budget);
        log.take_memory_back(self.lines.settle());
        drained
    }

    fn drain_in_lent_memory(&mut self, log: &mut Log, now: Instant, mut budget: usize) -> Drained {
        loop {
            match log.worker_lines(self.pid, &mut self.lines) {
                Room::Free => {}
                Room::AfterFlush => return Drained::More,
                Room::Held if !self.may_drop => return Drained::Held,
                Room::Held | Room::Gone => match log.may_drop(now, CHUNK) {
                    Ok(()) => log.count_lost(self.lines.discard()),
                    Err(later) => return Drained::Wait(later),
                },
            }
            if self.at_end {
                self.last = Last::Passed;
                return Drained::Eof;
            }
            if self.last == Last::Ahead(0) {
                self.last = Last::Passed;
                return Drained::More;
            }
            if budget == 0 {
                return Drained::More;
            }
            match self.read() {
                Ok(count) => budget = budget.saturating_sub(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Drained::Empty,
                // Closing the pipe would kill a worker that lives.
                Err(_) => return Drained::Wait(now + RETRY),
            }
        }
    }

    /// Reads what a dead worker had written only to drop it; says how many lines that makes.
    pub fn abandon(&mut self) -> u64 {
        let mut lost = self.lines.discard();
        while let Ok(1..) = self.read() {
            lost += self.lines.discard();
        }
        lost
    }

    /// The last lines of output, read or still in the pipe, for a verdict: at most five, two
    /// kilobytes in all. Takes nothing from the log.
    pub fn last_lines(&self) -> Vec<String> {
        let unread = peek_pipe(self.fd()).unwrap_or_default();
        let mut tail = self.tail.clone();
        tail.push(&unread);
        tail.lines()
    }

    /// The half-read line, for a hand-over ([`LineBuffer::state`]).
    pub fn lines(&self) -> &LineBuffer {
        &self.lines
    }

    /// Goes on with a line that another process image has half read.
    pub fn restore(&mut self, lines: LineBuffer) {
        self.lines = lines;
    }

    /// One read, no further than to a dead worker's last byte, and into no more memory than what
    /// waits needs.
    fn read(&mut self) -> nix::Result<usize> {
        let waiting = bytes_waiting(self.fd()).unwrap_or(CHUNK);
        let limit = match self.last {
            Last::Ahead(left) => left.min(CHUNK),
            _ => waiting.clamp(1, CHUNK),
        };
        let fd = self.fd.as_fd();
        let count = match self.lines.fill(limit, |space| read(fd, space)) {
            Err(errno @ (Errno::EINTR | Errno::EAGAIN)) => return Err(errno),
            // Nothing else is known to happen to a pipe. It may get better while there is a writer;
            // the end of a dead worker does not wait for that.
            Err(errno) if self.last == Last::Unknown => return Err(errno),
            result => result.unwrap_or(0),
        };
        self.tail.push(self.lines.last(count));
        if count == 0 {
            self.at_end = true;
            self.lines.end();
        }
        if let Last::Ahead(left) = self.last {
            self.set_ahead(left - count);
        }
        Ok(count)
    }

    fn set_ahead(&mut self, left: usize) {
        self.last = Last::Ahead(left);
        if left == 0 {
            self.lines.end();
        }
    }
}

#[cfg(test)]
mod tests;
