//! The log: one bounded queue of lines and one way out, stderr or syslog, that never waits. Our
//! own messages come in through slog, the workers' lines straight into the queue, in one order.
//! It must never block, never set O_NONBLOCK on a descriptor that others share, never grow beyond
//! its bounds, and never drop a line without counting it.
//!
//! The workers' part of the queue is small: when it is full, [`Log::room`] says whether a pipe
//! is to be left alone (a reader that does not read: the pressure is the worker's) or read on and
//! dropped (a full disk, a closed reader: no worker could have written either). Our own messages
//! may go beyond it, up to another bound.

mod drain;
mod form;
mod limit;
mod queue;
mod say;
mod stderr;

pub use limit::RateLimit;
pub use queue::Queue;
pub use say::say;

use crate::config::LogTarget;
use crate::output::{Line, LineBuffer};
use crate::supervisor::Instant;
use crate::sys::clock;
use crate::syslog::{Syslog, escape};
use form::{Form, Header, cut_mark, is_journal, is_printable, printable};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use slog::Level;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use stderr::Stderr;

/// The log's descriptors stay above the numbers that listeners will want.
pub const OWN_FDS_FROM: RawFd = 40;
/// How many bytes may wait before no pipe is read any more.
const WORKERS_LIMIT: usize = 64 * 1024;
/// What has been read then finds room up to here: a pipeful of lines, with our header before each.
/// Shorter lines than about 16 bytes have to wait in their worker's buffer.
const LINES_LIMIT: usize = 4 * WORKERS_LIMIT;
/// The whole queue, with our own messages.
const QUEUE_LIMIT: usize = LINES_LIMIT + 64 * 1024;
/// What one message of our own is cut to.
const MESSAGE_LIMIT: usize = 8 * 1024;
/// How long to wait before trying again what failed for a reason that poll(2) cannot watch.
const RETRY: Duration = Duration::from_secs(1);
/// A log that takes less than the workers' part of the queue in this time is stuck: before that,
/// workers are held back a little rather than their lines dropped.
const PATIENCE: Duration = Duration::from_millis(100);
/// Memory to read in that is kept for nothing is no larger.
const LARGE: usize = 16 * 1024;
/// How long memory stays for what may follow a flood.
const REST: Duration = Duration::from_secs(1);
/// While lines are dropped: how many bytes may be read in which time, by all pipes together.
const DROP_BYTES: usize = 256 * 1024;
const DROP_TIME: Duration = Duration::from_millis(10);

/// What became of one attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written, or to be tried again at once.
    Open,
    /// The reader does not read; the descriptor will be writable when it does.
    Full,
    /// Nobody is there, but somebody will be: a syslog daemon that restarts.
    Absent,
    /// It cannot be written: a full disk, a closed reader, a terminal that is gone.
    Broken,
}

/// The same, with when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Full,
    Absent { retry: Instant },
    Broken { retry: Instant },
}

/// Whether the log takes a worker's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Free,
    /// Not in this turn: after the next flush.
    AfterFlush,
    /// Not until the reader reads: leave the pipe alone, or drop if the worker must not wait.
    Held,
    /// No, and a worker without us could not have written it either: drop.
    Gone,
}

enum Way {
    Stderr(Stderr),
    Syslog(Syslog),
}

/// Why the log could not be opened.
#[derive(Debug)]
pub struct Error {
    what: String,
    errno: nix::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.errno.desc())
    }
}

impl std::error::Error for Error {}

/// The log's handle for the daemon and for the workers' pipes.
pub struct Log {
    core: Rc<RefCell<Core>>,
    logger: slog::Logger,
    memory: Vec<u8>,
}

/// What the handle and slog's drains share.
struct Core {
    form: Form,
    way: Way,
    state: State,
    queue: Queue,
    /// Since when the log has not kept up, and how many bytes it has taken since.
    slow_since: Instant,
    taken: usize,
    /// Lines dropped and not yet spoken of.
    lost: u64,
    /// Lost lines are spoken of once a second at most.
    next_note: Instant,
    /// When to give back memory that a flood has left behind.
    rest_at: Option<Instant>,
    header: Header,
    dropping: Dropping,
    /// What is less than this is not said.
    least: Level,
}

/// How much has been read only to be dropped in the present span of time.
#[derive(Default)]
struct Dropping {
    until: Instant,
    bytes: usize,
}

impl Log {
    /// Opens the way out. `stderr` is copied, never closed or changed. `journal_stream` is the
    /// value of JOURNAL_STREAM (systemd.exec(5)): when it names `stderr`, the journal's form is
    /// chosen.
    ///
    /// Errors: no syslog daemon at the socket (later on, its absence is survived), or no free
    /// descriptor.
    pub fn open(
        target: &LogTarget,
        stderr: BorrowedFd<'_>,
        journal_stream: Option<&OsStr>,
    ) -> Result<Log, Error> {
        let what = match target {
            LogTarget::Stderr => "open stderr for the log".into(),
            LogTarget::Syslog(path) => {
                format!("connect to syslog at {}", Path::new(path).display())
            }
        };
        Log::open_way(target, stderr, journal_stream).map_err(|errno| Error { what, errno })
    }

    fn open_way(
        target: &LogTarget,
        stderr: BorrowedFd<'_>,
        journal_stream: Option<&OsStr>,
    ) -> nix::Result<Log> {
        let pid = std::process::id();
        let (form, way) = match target {
            LogTarget::Syslog(path) => (
                Form::Syslog,
                Way::Syslog(Syslog::open(Path::new(path), pid)?),
            ),
            LogTarget::Stderr => {
                let form = match is_journal(stderr, journal_stream) {
                    true => Form::Journal,
                    false => Form::Stderr,
                };
                (form, Way::Stderr(Stderr::open(stderr)?))
            }
        };
        let core = Rc::new(RefCell::new(Core::new(form, way, pid)));
        let logger = drain::logger(&core)?;
        Ok(Log {
            core,
            logger,
            memory: Vec::new(),
        })
    }

    /// Where our own messages go in. Key-value pairs are not printed: a message says all itself.
    /// A message of several lines becomes several lines of the log. Nothing is written before the
    /// next [`flush`](Self::flush), except to a syslog that takes it at once.
    pub fn logger(&self) -> slog::Logger {
        self.logger.clone()
    }

    /// Messages of our own below this level are not logged from now on.
    pub fn set_least(&self, level: Level) {
        self.core.borrow_mut().least = level;
    }

    /// The level below which they are not.
    pub fn least(&self) -> Level {
        self.core.borrow().least
    }

    /// Whether a worker's line would be taken now.
    pub fn room(&self) -> Room {
        self.core.borrow().room()
    }

    /// Whether the way out is stuck and the workers' part of the queue full: pipes without leave
    /// to drop need not be read before the next successful [`flush`](Self::flush).
    pub fn is_blocked(&self) -> bool {
        self.room() == Room::Held
    }

    /// Looks at the wall clock; before lines are added, at least once a turn.
    pub fn tick(&mut self) {
        self.core.borrow_mut().header.tick();
    }

    /// Adds the complete lines of a worker's output if there is room, as long as they find some;
    /// says whether more may be read.
    pub fn worker_lines(&mut self, pid: u32, lines: &mut LineBuffer) -> Room {
        let mut core = self.core.borrow_mut();
        if core.room() != Room::Free {
            return core.room();
        }
        while core.queue.len() < LINES_LIMIT {
            match lines.next_line() {
                Some(line) => core.worker_line(pid, &line),
                None => break,
            }
        }
        core.room()
    }

    /// The memory that all pipes are read in, one after the other.
    pub fn lend_memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.memory)
    }

    /// What was [lent](Self::lend_memory) comes back.
    pub fn take_memory_back(&mut self, memory: Vec<u8>) {
        self.memory = memory;
    }

    /// Counts lines that were dropped elsewhere, to be spoken of when the log moves again.
    pub fn count_lost(&mut self, lines: u64) {
        self.core.borrow_mut().lost += lines;
    }

    /// Leave to read a chunk only to drop it: when the log is stuck and not merely slower than
    /// its writers, and at a bounded rate for all pipes together. Otherwise when to ask again.
    pub fn may_drop(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        self.core.borrow_mut().may_drop(now, bytes)
    }

    /// Whether anything waits to be written.
    pub fn pending(&self) -> bool {
        !self.core.borrow().queue.is_empty()
    }

    /// Whether a flush would get on at once: the loop must not go to sleep.
    pub fn wants_turn(&self) -> bool {
        let core = self.core.borrow();
        core.state == State::Open && !core.queue.is_empty()
    }

    /// The descriptor to watch for WRITABLE, while it is full and only then; always the same
    /// one. Register it when this becomes `Some` (even if it was registered before: an edge may
    /// have passed), deregister it when it becomes `None`.
    pub fn wait_fd(&self) -> Option<RawFd> {
        let core = self.core.borrow();
        match core.state {
            State::Full => core.fd().map(|fd| fd.as_raw_fd()),
            _ => None,
        }
    }

    /// When to call [`flush`](Self::flush) at the latest, for what poll(2) cannot tell.
    pub fn retry_at(&self) -> Option<Instant> {
        let core = self.core.borrow();
        match core.state {
            State::Absent { retry } | State::Broken { retry } => Some(retry),
            State::Full => None,
            State::Open if core.lost > 0 => Some(core.next_note),
            State::Open => core.rest_at,
        }
    }

    /// One write(2) (for syslog: one bounded batch of datagrams). To be called at the end of
    /// every turn, when the watched descriptor is writable, and at [`retry_at`](Self::retry_at).
    /// Never blocks.
    pub fn flush(&mut self, now: Instant) {
        let mut core = self.core.borrow_mut();
        if core.rest_at.is_some_and(|at| at <= now) {
            core.rest_at = None;
            if core.queue.is_empty() {
                self.memory = Vec::new();
                core.queue.rest();
            }
        }
        core.flush(now);
        let large = core.queue.is_large() || self.memory.len() > LARGE;
        if core.rest_at.is_none() && large {
            core.rest_at = Some(now + REST);
        }
    }

    /// Writes what waits, for no longer than `limit`; this one may wait. Says whether all is out.
    pub fn finish(&mut self, limit: Duration) -> bool {
        self.core.borrow_mut().finish(limit)
    }

    /// What waits and how many lines were lost, for another process image to [`restore`](Self::restore).
    pub fn unwritten(&self) -> (Vec<u8>, u64) {
        let core = self.core.borrow();
        (core.queue.bytes().to_vec(), core.lost)
    }

    /// Takes over what another process image left unwritten. Before anything else is logged.
    pub fn restore(&mut self, unwritten: &[u8], lost: u64) {
        let mut core = self.core.borrow_mut();
        core.queue.push_bytes(unwritten);
        core.lost += lost;
    }
}

impl Core {
    fn new(form: Form, way: Way, pid: u32) -> Core {
        Core {
            form,
            way,
            state: State::Open,
            queue: Queue::default(),
            slow_since: Instant::default(),
            taken: 0,
            lost: 0,
            next_note: Instant::default(),
            rest_at: None,
            header: Header::new(pid),
            dropping: Dropping::default(),
            least: Level::Info,
        }
    }

    fn room(&self) -> Room {
        if self.queue.len() < WORKERS_LIMIT {
            return Room::Free;
        }
        match self.state {
            State::Open => Room::AfterFlush,
            State::Full | State::Absent { .. } => Room::Held,
            State::Broken { .. } => Room::Gone,
        }
    }

    fn may_drop(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        let stuck_from = self.slow_since + PATIENCE;
        match self.state {
            State::Full | State::Absent { .. } if now < stuck_from => Err(stuck_from),
            _ => self.dropping.ask(now, bytes),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::Stderr(stderr) => stderr.fd(),
            Way::Syslog(syslog) => Some(syslog.fd()),
        }
    }

    /// The caller has seen that there is room.
    fn worker_line(&mut self, pid: u32, line: &Line<'_>) {
        let header = self.header.worker(self.form, pid);
        let plain = line.cut == 0 && is_printable(self.form, line.bytes);
        match &self.way {
            // By far the most of all; each nanosecond here is a second in 100 GB.
            Way::Stderr(_) if plain => self.queue.push_line(header.as_bytes(), line.bytes),
            Way::Stderr(_) => {
                let mut text = printable(self.form, line.bytes).into_owned();
                text.extend_from_slice(cut_mark(line.cut).as_bytes());
                self.queue.push_line(header.as_bytes(), &text);
            }
            Way::Syslog(syslog) => {
                let text = format!("{header}{}{}", escape(line.bytes), cut_mark(line.cut));
                syslog.queue(&mut self.queue, Level::Info, &text);
            }
        }
    }

    /// Adds a line of our own, its header included, if the second bound allows.
    fn push_own(&mut self, line: &[u8]) {
        if self.queue.len() + line.len() >= QUEUE_LIMIT {
            self.lost += 1;
            return;
        }
        self.queue.push_line(line, b"");
    }

    /// Adds a line of our own in the form of the way out; for syslog it is escaped already.
    fn say(&mut self, level: Level, text: &str) {
        match &self.way {
            Way::Syslog(syslog) if self.queue.len() < QUEUE_LIMIT => {
                syslog.queue(&mut self.queue, level, text);
            }
            Way::Syslog(_) => self.lost += 1,
            Way::Stderr(_) => {
                self.header.tick();
                let line = format!("{}{text}", self.header.own(self.form, level));
                self.push_own(line.as_bytes());
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        match self.state {
            State::Absent { retry } | State::Broken { retry } if now < retry => return,
            _ => {}
        }
        if self.state == State::Open {
            self.note_lost(now);
        }
        if self.queue.is_empty() {
            self.state = State::Open;
            return;
        }
        if self.state == State::Open || self.taken >= WORKERS_LIMIT {
            (self.slow_since, self.taken) = (now, 0);
        }
        let waiting = self.queue.len();
        let outcome = match &mut self.way {
            Way::Stderr(stderr) => stderr.flush(&mut self.queue),
            Way::Syslog(syslog) => syslog.flush(&mut self.queue),
        };
        let retry = now + RETRY;
        self.state = match outcome {
            Outcome::Open => State::Open,
            Outcome::Full => State::Full,
            Outcome::Absent => State::Absent { retry },
            Outcome::Broken => State::Broken { retry },
        };
        self.taken += waiting - self.queue.len();
        if self.queue.len() < waiting {
            self.note_lost(now);
        }
    }

    /// The log moves: says how much was lost while it did not.
    fn note_lost(&mut self, now: Instant) {
        if self.lost == 0 || now < self.next_note {
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        let (lines, were) = match lost {
            1 => ("line", "was"),
            _ => ("lines", "were"),
        };
        self.next_note = now + RETRY;
        let text = format!("{lost} {lines} {were} lost: the log did not take more");
        self.say(Level::Warning, &text);
    }

    fn finish(&mut self, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        loop {
            let now = clock::now();
            self.next_note = Instant::default();
            if matches!(self.state, State::Absent { .. } | State::Broken { .. }) {
                self.state = State::Full;
            }
            self.flush(now);
            if self.queue.is_empty() && self.lost == 0 {
                return true;
            }
            let left = deadline - now;
            let failed = matches!(self.state, State::Broken { .. });
            if left.is_zero() || failed {
                return false;
            }
            self.wait(left);
        }
    }

    /// Waits until a flush may get on.
    fn wait(&self, left: Duration) {
        let (fd, left) = match self.state {
            State::Open => return,
            State::Full => (self.fd(), left),
            _ => (None, left.min(Duration::from_millis(100))),
        };
        let mut watched = fd.map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
        // At least a millisecond, or the last one would be spent spinning.
        let millis = left.as_millis().clamp(1, 60_000) as u16;
        // EINTR is as good as an event: the caller looks again.
        let _ = poll(watched.as_mut_slice(), PollTimeout::from(millis));
    }
}

impl Dropping {
    fn ask(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        if now >= self.until {
            self.until = now + DROP_TIME;
            self.bytes = 0;
        }
        if self.bytes >= DROP_BYTES {
            return Err(self.until);
        }
        self.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
