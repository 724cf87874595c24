//! The log: one bounded queue of lines and one sink, stderr or syslog, that is never waited for.
//! Our own messages come in through slog, the workers' lines directly, and leave in one order. It
//! must never block, never set O_NONBLOCK on a descriptor that others share, never grow beyond its
//! bounds, and never drop a line without counting it.
//!
//! The workers' part of the queue is small: when it is full, [`Log::capacity`] says whether a pipe
//! is to be left alone (the reader does not read, and the worker is to feel it) or to be read on
//! and dropped (a full disk, a closed reader: no worker could have written either). Our own
//! messages may go beyond it, up to another bound.

mod drain;
mod format;
mod limit;
mod queue;
mod stderr;
mod syslog;

pub use limit::RateLimit;
pub use queue::Unwritten;

use crate::clock;
use crate::config::LogTarget;
use crate::supervisor::Instant;
use crate::sys::io::trim_heap;
use format::Format;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use queue::{Queue, SinkState};
use slog::Level;
use slog_syslog::Streamer3164;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use stderr::Stderr;
use syslog::Syslog;

/// The log's descriptors stay above the numbers that listeners will want.
const OWN_FDS_FROM: RawFd = 40;
/// No pipe is read while more bytes than this wait.
const PIPES_LIMIT: usize = 64 * 1024;
/// The lines of what has been read are added up to here: a pipeful, with our header before each.
/// Lines shorter than about 16 bytes may have to wait in their worker's buffer.
const LINES_LIMIT: usize = 4 * PIPES_LIMIT;
/// How long to wait before trying again what failed for a reason that poll(2) cannot watch.
const RETRY: Duration = Duration::from_secs(1);
/// A log that takes less than the workers' part of the queue in this time is stuck: before that,
/// workers are held back a little rather than their lines dropped.
const PATIENCE: Duration = Duration::from_millis(100);
/// An empty queue gives back more memory than this, in bytes, after [`REST`].
const LARGE: usize = 16 * 1024;
/// How long memory is kept for what may follow a flood.
const REST: Duration = Duration::from_secs(1);

/// Whether the log takes a worker's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capacity {
    /// It does.
    Free,
    /// Not in this turn, but after the next flush.
    AfterFlush,
    /// Not until the reader reads: leave the pipe alone; if its worker must not wait, drop its
    /// lines, but not before this moment, for the reader may just be slow.
    Full { drop_from: Instant },
    /// No, and a worker without us could not have written either: drop.
    Broken,
}

enum Sink {
    Stderr(Stderr),
    Syslog(Syslog),
}

/// The log, for the daemon and for the workers' output.
pub struct Log {
    queue: Rc<RefCell<Queue>>,
    sink: Sink,
    state: SinkState,
    /// When to try again what is absent or broken.
    retry: Instant,
    logger: slog::Logger,
    /// Since when the sink has not kept up, and how many bytes it has taken since.
    slow_since: Instant,
    taken: usize,
    /// Lost lines are spoken of once a second at most.
    next_note: Instant,
    /// When to give back the memory that a flood has left behind.
    rest_at: Option<Instant>,
}

impl Log {
    /// Opens the sink. `stderr` is copied, never closed or changed. `journal_stream` is the value
    /// of JOURNAL_STREAM (systemd.exec(5)): when it names `stderr`, lines have the journal's form.
    ///
    /// Errors: no syslog daemon at the socket (later on, its absence is survived), or no free
    /// descriptor.
    pub fn open(
        target: &LogTarget,
        stderr: BorrowedFd<'_>,
        journal_stream: Option<&OsStr>,
    ) -> Result<Log, String> {
        let pid = std::process::id();
        match target {
            LogTarget::Stderr => {
                let format = Format::of_stderr(stderr, journal_stream);
                let sink = Stderr::open(stderr)
                    .map_err(|errno| format!("cannot open stderr for the log: {}", errno.desc()))?;
                let queue = Queue::new(format, pid);
                Ok(Log::new(queue, Sink::Stderr(sink), None))
            }
            LogTarget::Syslog(path) => {
                let path = Path::new(path);
                let failed = |errno: nix::Error| {
                    let path = path.display();
                    format!("cannot connect to syslog at {path}: {}", errno.desc())
                };
                let syslog = Syslog::open(path).map_err(failed)?;
                let queue = Queue::new(Format::Syslog, pid);
                let streamer = syslog.streamer(queue.formatter.syslog()).map_err(failed)?;
                Ok(Log::new(queue, Sink::Syslog(syslog), Some(streamer)))
            }
        }
    }

    fn new(queue: Queue, sink: Sink, streamer: Option<Streamer3164>) -> Log {
        let queue = Rc::new(RefCell::new(queue));
        Log {
            logger: drain::logger(&queue, streamer),
            queue,
            sink,
            state: SinkState::Open,
            retry: Instant::default(),
            slow_since: Instant::default(),
            taken: 0,
            next_note: Instant::default(),
            rest_at: None,
        }
    }

    /// Where our own messages go in. Key-value pairs are not printed: a message says all itself.
    /// A message of several lines becomes several lines of the log. Nothing is written before the
    /// next [`flush`](Self::flush), except to a syslog that takes it at once.
    pub fn logger(&self) -> slog::Logger {
        self.logger.clone()
    }

    /// Messages of our own below this level are not logged from now on.
    pub fn set_level(&self, level: Level) {
        self.queue.borrow_mut().level = level;
    }

    /// The level below which they are not.
    pub fn level(&self) -> Level {
        self.queue.borrow().level
    }

    /// Whether a worker's line would be taken now.
    pub fn capacity(&self) -> Capacity {
        if self.queue.borrow().len() < PIPES_LIMIT {
            return Capacity::Free;
        }
        match self.state {
            SinkState::Open => Capacity::AfterFlush,
            SinkState::Broken => Capacity::Broken,
            SinkState::Full | SinkState::Absent => Capacity::Full {
                drop_from: self.slow_since + PATIENCE,
            },
        }
    }

    /// Looks at the wall clock; before workers' lines are added, at least once a turn.
    pub fn tick(&mut self) {
        self.queue.borrow_mut().formatter.tick();
    }

    /// Adds a worker's line that was cut by `cut` bytes; to be called when the capacity is free,
    /// and then for all lines of what was read, as long as this says that another one has room.
    pub fn push_worker_line(&mut self, pid: u32, line: &[u8], cut: u64) -> bool {
        let mut queue = self.queue.borrow_mut();
        queue.push_worker_line(pid, line, cut);
        queue.len() < LINES_LIMIT
    }

    /// Counts lines that were dropped elsewhere, to be spoken of when the log moves again.
    pub fn count_lost(&mut self, lines: u64) {
        self.queue.borrow_mut().lost += lines;
    }

    /// Whether anything waits to be written.
    pub fn is_pending(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Whether a flush would get on at once: the loop must not go to sleep.
    pub fn wants_turn(&self) -> bool {
        self.state == SinkState::Open && self.is_pending()
    }

    /// The descriptor to watch for WRITABLE, while it is full and only then; always the same
    /// one. Register it when this becomes `Some` (even if it was registered before: an edge may
    /// have passed), deregister it when it becomes `None`.
    pub fn wait_fd(&self) -> Option<RawFd> {
        match self.state {
            SinkState::Full => self.fd().map(|fd| fd.as_raw_fd()),
            _ => None,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.sink {
            Sink::Stderr(stderr) => stderr.fd(),
            Sink::Syslog(syslog) => Some(syslog.fd()),
        }
    }

    /// When to call [`flush`](Self::flush) at the latest, for what poll(2) cannot tell.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.state {
            SinkState::Absent | SinkState::Broken => Some(self.retry),
            SinkState::Full => None,
            SinkState::Open if self.queue.borrow().lost > 0 => Some(self.next_note),
            SinkState::Open => self.rest_at,
        }
    }

    /// One write(2) (for syslog: one bounded batch of datagrams). To be called at the end of
    /// every turn, when the watched descriptor is writable, and at [`retry_at`](Self::retry_at).
    /// Never blocks.
    pub fn flush(&mut self, now: Instant) {
        match self.state {
            SinkState::Absent | SinkState::Broken if now < self.retry => return,
            SinkState::Open => self.note_lost(now),
            _ => {}
        }
        let waiting = self.queue.borrow().len();
        if self.state == SinkState::Open || self.taken >= PIPES_LIMIT {
            (self.slow_since, self.taken) = (now, 0);
        }
        self.state = match &mut self.sink {
            _ if waiting == 0 => SinkState::Open,
            Sink::Stderr(stderr) => stderr.flush(&mut self.queue.borrow_mut()),
            Sink::Syslog(syslog) => syslog.flush(&mut self.queue.borrow_mut()),
        };
        self.retry = now + RETRY;
        let written = waiting - self.queue.borrow().len();
        self.taken += written;
        if written > 0 {
            self.note_lost(now);
        }
        self.rest(now);
    }

    /// The log moves: says how much was lost while it did not.
    fn note_lost(&mut self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if queue.lost == 0 || now < self.next_note {
            return;
        }
        self.next_note = now + RETRY;
        let text = match std::mem::take(&mut queue.lost) {
            1 => "1 line was lost: the log did not take more".into(),
            lost => format!("{lost} lines were lost: the log did not take more"),
        };
        queue.push_own_text(Level::Warning, text.as_bytes());
    }

    /// Memory that a flood has taken goes back a while after it, unless another one has come.
    fn rest(&mut self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        let is_due = self.rest_at.is_some_and(|at| at <= now);
        if is_due {
            self.rest_at = None;
        }
        if queue.memory() <= LARGE {
            return;
        }
        if is_due && queue.is_empty() {
            queue.shrink();
            trim_heap();
        } else if self.rest_at.is_none() {
            self.rest_at = Some(now + REST);
        }
    }

    /// Writes what waits, for no longer than `limit`; this one may wait. Says whether all is out.
    pub fn finish(&mut self, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        loop {
            let now = clock::now();
            (self.next_note, self.retry) = (now, now);
            self.flush(now);
            if !self.is_pending() && self.queue.borrow().lost == 0 {
                return true;
            }
            let left = deadline - now;
            if left.is_zero() || self.state == SinkState::Broken {
                return false;
            }
            let (fd, wait) = match self.state {
                SinkState::Open => continue,
                SinkState::Full => (self.fd(), left),
                _ => (None, left.min(Duration::from_millis(100))),
            };
            let mut watched = fd.map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
            // At least a millisecond, or the last one would be spent spinning.
            let millis = wait.as_millis().clamp(1, 60_000) as u16;
            // EINTR is as good as an event.
            let _ = poll(watched.as_mut_slice(), PollTimeout::from(millis));
        }
    }

    /// What another image of the program must carry on with.
    pub fn unwritten(&self) -> Unwritten {
        self.queue.borrow().unwritten()
    }

    /// Takes over what another image left unwritten. Before anything else is logged.
    pub fn restore(&mut self, unwritten: Unwritten) {
        self.queue.borrow_mut().restore(unwritten);
    }
}

#[cfg(test)]
mod tests;
