//! The log: one bounded queue of lines and one sink, stderr or syslog. Our own messages come in
//! through slog, the workers' lines directly, and leave in one order. It must never block, never set
//! O_NONBLOCK on a descriptor that others share, never grow beyond its limits, and never drop a
//! line without counting it.
//!
//! Workers' lines may fill most of the queue; what becomes of their pipes then is what
//! [`Log::capacity`] says. The rest is for our own messages.

mod drain;
mod format;
mod limit;
mod queue;
mod stderr;
mod syslog;

pub use limit::RateLimit;

use crate::clock;
use crate::config::LogTarget;
use crate::supervisor::Instant;
use crate::sys::io::trim_heap;
use crate::text::error_text;
use format::Format;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use queue::{QUEUE_LIMIT, Queue};
use slog::Level;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use stderr::Stderr;
use syslog::Syslog;

/// No pipe is read while more bytes than this wait.
const PIPES_LIMIT: usize = 64 * 1024;
/// Lines that have been read are added up to this limit: a pipeful, with our header before each.
/// Lines shorter than about 16 bytes may have to wait in their worker's buffer.
const LINES_LIMIT: usize = 4 * PIPES_LIMIT;
const _: () = assert!(LINES_LIMIT < QUEUE_LIMIT, "our own messages need room");
/// How long to wait before the next attempt after a failure that poll(2) cannot watch, and between
/// two reports of lost lines.
const RETRY: Duration = Duration::from_secs(1);
/// A log that takes less than the workers' part of the queue in this time is stuck: before that,
/// workers are held back a little rather than their lines dropped.
const PATIENCE: Duration = Duration::from_millis(100);
/// A queue that holds more memory than this, in bytes, gives it back when it has been empty for
/// [`REST`].
const LARGE: usize = 16 * 1024;
const REST: Duration = Duration::from_secs(1);

/// Whether the log takes a worker's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capacity {
    /// It does.
    Free,
    /// It does not in this turn, but will after the next flush.
    AfterFlush,
    /// It does not until the reader reads, so the pipe is not to be read. If its worker must not
    /// wait, its lines are dropped, but not before this moment: the reader may just be slow.
    Full { drop_from: Instant },
    /// It does not, and without us the worker could not have written either: the line is dropped.
    Broken,
}

/// What became of the last attempt to write what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SinkState {
    /// It was written, or can be tried again at once.
    Open,
    /// The reader does not read; the descriptor will be writable when it does.
    Full,
    /// There is no reader, but one is expected: a syslog daemon that restarts.
    Absent,
    /// It cannot be written: a full disk, a closed reader, a terminal that is gone.
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
    sink_state: SinkState,
    /// When to try again a sink that is absent or broken.
    retry: Instant,
    logger: slog::Logger,
    /// Since when the sink has not kept up, and how many bytes it has taken since.
    slow_since: Instant,
    taken: usize,
    /// The next report of lost lines is not before this moment.
    next_report: Instant,
    /// When to give back the memory that a flood has left behind.
    rest_at: Option<Instant>,
}

impl Log {
    /// Opens the sink. `stderr` is copied, never closed or changed. `journal_stream` is the value
    /// of JOURNAL_STREAM (systemd.exec(5)): when it names `stderr`, lines have the journal's form.
    ///
    /// Errors: no syslog daemon at the socket (its absence later on is survived), or no free
    /// descriptor.
    pub fn open(
        target: &LogTarget,
        stderr: BorrowedFd<'_>,
        journal_stream: Option<&OsStr>,
    ) -> Result<Log, String> {
        let format = match target {
            LogTarget::Stderr => Format::of_stderr(stderr, journal_stream),
            LogTarget::Syslog(_) => Format::Syslog,
        };
        let queue = Queue::new(format, std::process::id());
        let (sink, streamer) = match target {
            LogTarget::Stderr => {
                let sink = Stderr::open(stderr).map_err(|error| {
                    format!("cannot open stderr for the log: {}", error_text(&error))
                })?;
                (Sink::Stderr(sink), None)
            }
            LogTarget::Syslog(path) => {
                let path = Path::new(path);
                let opened = Syslog::open(path, queue.formatter.syslog.clone());
                let (sink, streamer) = opened.map_err(|error| {
                    let (path, word) = (path.display(), error_text(&error));
                    format!("cannot connect to syslog at {path}: {word}")
                })?;
                (Sink::Syslog(sink), Some(streamer))
            }
        };
        let queue = Rc::new(RefCell::new(queue));
        Ok(Log {
            logger: drain::logger(&queue, streamer),
            queue,
            sink,
            sink_state: SinkState::Open,
            retry: Instant::default(),
            slow_since: Instant::default(),
            taken: 0,
            next_report: Instant::default(),
            rest_at: None,
        })
    }

    /// The logger for our own messages. Key-value pairs are not printed. A message of several lines
    /// becomes several lines of the log. Nothing is written before the next
    /// [`flush`](Self::flush), except to a syslog that takes it at once.
    pub fn logger(&self) -> slog::Logger {
        self.logger.clone()
    }

    /// The level below which our own messages are not logged.
    #[cfg(feature = "einhorn")]
    pub fn level(&self) -> Level {
        self.queue.borrow().state.level
    }

    pub fn set_level(&self, level: Level) {
        self.queue.borrow_mut().state.level = level;
    }

    /// Whether a worker's line would be taken now.
    pub fn capacity(&self) -> Capacity {
        if self.queue.borrow().len() < PIPES_LIMIT {
            return Capacity::Free;
        }
        match self.sink_state {
            SinkState::Open => Capacity::AfterFlush,
            SinkState::Broken => Capacity::Broken,
            SinkState::Full | SinkState::Absent => Capacity::Full {
                drop_from: self.slow_since + PATIENCE,
            },
        }
    }

    /// Reads the wall clock. To be called before workers' lines are added, at least once a turn.
    pub fn tick(&mut self) {
        self.queue.borrow_mut().formatter.tick();
    }

    /// Adds a worker's line that was cut by `cut` bytes. To be called when the capacity is free,
    /// and then for each line of what was read, while this returns that there is room for another.
    pub fn push_worker_line(&mut self, pid: u32, line: &[u8], cut: u64) -> bool {
        let mut queue = self.queue.borrow_mut();
        queue.push_worker_line(pid, line, cut);
        queue.len() < LINES_LIMIT
    }

    /// Counts lines that were dropped elsewhere; they are reported when the log takes lines again.
    pub fn count_lost(&mut self, lines: u64) {
        self.queue.borrow_mut().state.lost += lines;
    }

    /// Whether anything waits to be written.
    pub fn is_pending(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Whether a flush could write something at once: the loop must not go to sleep.
    pub fn wants_turn(&self) -> bool {
        self.sink_state == SinkState::Open && self.is_pending()
    }

    /// The descriptor to watch for WRITABLE, while the sink is full and only then; always the same
    /// one. Register it anew each time this becomes `Some`, since an edge may have passed, and
    /// deregister it when it becomes `None`.
    pub fn wait_fd(&self) -> Option<RawFd> {
        match self.sink_state {
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

    /// When to call [`flush`](Self::flush) at the latest, for reasons that poll(2) cannot tell.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.sink_state {
            SinkState::Absent | SinkState::Broken => Some(self.retry),
            SinkState::Full => None,
            SinkState::Open if self.queue.borrow().state.lost > 0 => Some(self.next_report),
            SinkState::Open => self.rest_at,
        }
    }

    /// One write(2) (for syslog: one bounded batch of datagrams). To be called at the end of
    /// every turn, when the watched descriptor is writable, and at [`retry_at`](Self::retry_at).
    /// Never blocks.
    pub fn flush(&mut self, now: Instant) {
        match self.sink_state {
            SinkState::Absent | SinkState::Broken if now < self.retry => return,
            SinkState::Open => self.report_lost(now),
            _ => {}
        }
        let waiting = self.queue.borrow().len();
        if self.sink_state == SinkState::Open || self.taken >= PIPES_LIMIT {
            (self.slow_since, self.taken) = (now, 0);
        }
        self.sink_state = match &mut self.sink {
            _ if waiting == 0 => SinkState::Open,
            Sink::Stderr(stderr) => stderr.flush(&mut self.queue.borrow_mut()),
            Sink::Syslog(syslog) => syslog.flush(&mut self.queue.borrow_mut()),
        };
        self.retry = now + RETRY;
        let written = waiting - self.queue.borrow().len();
        self.taken += written;
        if written > 0 {
            self.report_lost(now);
        }
        self.rest(now);
    }

    /// Adds a line that says how many lines were lost, now that the log takes lines again.
    fn report_lost(&mut self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if queue.state.lost == 0 || now < self.next_report {
            return;
        }
        self.next_report = now + RETRY;
        let text = match std::mem::take(&mut queue.state.lost) {
            1 => "1 line was lost: the log did not take more".into(),
            lost => format!("{lost} lines were lost: the log did not take more"),
        };
        let line = queue.own_line(Level::Warning, text.as_bytes());
        queue.push_own_line(&line);
    }

    /// Gives back the memory that a flood has taken, a while after it.
    fn rest(&mut self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if !queue.is_empty() || queue.state.bytes.capacity() <= LARGE {
            self.rest_at = None;
        } else if *self.rest_at.get_or_insert(now + REST) <= now {
            queue.state.bytes.shrink_to_fit();
            trim_heap();
            self.rest_at = None;
        }
    }

    /// Writes what waits, and may block, but no longer than `limit`. Returns whether all is written.
    pub fn finish(&mut self, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        loop {
            let now = clock::now();
            (self.next_report, self.retry) = (now, now);
            self.flush(now);
            if !self.is_pending() && self.queue.borrow().state.lost == 0 {
                return true;
            }
            let left = deadline - now;
            if left.is_zero() || self.sink_state == SinkState::Broken {
                return false;
            }
            let (fd, wait) = match self.sink_state {
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
}

#[cfg(test)]
mod tests;
