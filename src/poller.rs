//! What the loop waits for: mio's poll, and a timer for its deadlines. Each descriptor is registered
//! under the `Source` that it belongs to; what was found ready is kept as a set of sources until the
//! loop takes them. It never reads from a descriptor of others and never decides what follows.

use crate::clock;
use crate::supervisor::{ChildId, Instant};
pub use mio::Interest;
use mio::event::Source as _;
use mio::unix::SourceFd;
use mio::{Events, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// How long after a call that should not have failed every source counts as ready.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long we wait when epoll_wait(2) fails, in milliseconds.
const WAIT_WITHOUT_EPOLL: u16 = 50;
/// How many events one poll takes.
const EVENTS: usize = 256;

/// What a descriptor is for. `take_ready` returns ready sources in the order of these variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Signals,
    Timer,
    Terminal,
    /// The exec report of a worker.
    Report(ChildId),
    /// A worker's notify socket.
    Notify(ChildId),
    /// A worker's pidfd.
    Death(ChildId),
    /// A worker's output pipe.
    Output(ChildId),
    /// A listening socket, by its index: it tells of a shutdown(2).
    Listener(usize),
    /// The watch on the files of our unix sockets.
    Paths,
    /// The log can be written to again.
    Log,
    Systemd,
    /// A connection to the control socket by its number; 0 is the socket itself.
    Control(u64),
}

/// Everything that the loop waits for.
pub struct Poller {
    poll: Poll,
    events: Events,
    tokens: BTreeMap<Source, Token>,
    /// In the order of the tokens. A token is never used twice, so that a late event of a closed
    /// descriptor finds no source.
    sources: Vec<(Token, Source)>,
    next_token: usize,
    timer: TimerFd,
    armed: Option<Instant>,
    /// When every source counts as ready.
    look_again_at: Option<Instant>,
    ready: BTreeSet<Source>,
    /// The log's descriptor, while the log is full.
    log: Option<RawFd>,
}

impl Poller {
    /// Errors: epoll_create1(2) or timerfd_create(2) is refused.
    pub fn new() -> io::Result<Poller> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let mut poller = Poller {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            tokens: BTreeMap::new(),
            sources: Vec::new(),
            next_token: 0,
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            armed: None,
            look_again_at: None,
            ready: BTreeSet::new(),
            log: None,
        };
        let timer = poller.timer.as_fd().as_raw_fd();
        poller.register(&mut SourceFd(&timer), Source::Timer, Interest::READABLE)?;
        Ok(poller)
    }

    /// Watches a descriptor, edge-triggered (epoll(7)). A source has one descriptor at a time.
    ///
    /// Errors: epoll_ctl(2) is refused, for example by the limit of watches.
    pub fn add(&mut self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        let fd = fd.as_fd().as_raw_fd();
        self.register(&mut SourceFd(&fd), source, interest)
    }

    /// The same for what mio's crates know how to register.
    pub fn register(
        &mut self,
        what: &mut impl mio::event::Source,
        source: Source,
        interest: Interest,
    ) -> io::Result<()> {
        let token = Token(self.next_token);
        self.next_token += 1;
        what.register(self.poll.registry(), token, interest)?;
        self.sources.push((token, source));
        self.tokens.insert(source, token);
        Ok(())
    }

    pub fn has(&self, source: Source) -> bool {
        self.tokens.contains_key(&source)
    }

    /// Watches `fd` no more; nothing happens when `source` is not registered. This is to be called
    /// while `fd` is still open: workers hold copies of some, and epoll would tell of those.
    pub fn remove(&mut self, fd: impl AsFd, source: Source) {
        self.remove_raw(fd.as_fd().as_raw_fd(), source);
    }

    fn remove_raw(&mut self, fd: RawFd, source: Source) {
        let Some(token) = self.tokens.remove(&source) else {
            return;
        };
        if let Some(place) = place(&self.sources, token) {
            self.sources.remove(place);
        }
        self.ready.remove(&source);
        // ENOENT or EBADF: it is gone from epoll already.
        let _ = SourceFd(&fd).deregister(self.poll.registry());
    }

    /// Watches the log's descriptor while it is full (`fd`), and nothing of it otherwise. The log may
    /// have closed the descriptor that was watched before.
    pub fn watch_log(&mut self, fd: Option<RawFd>) {
        if self.log != fd {
            if let Some(old) = self.log.take() {
                self.remove_raw(old, Source::Log);
            }
        }
        if let (Some(new), None) = (fd, self.log) {
            match self.register(&mut SourceFd(&new), Source::Log, Interest::WRITABLE) {
                Ok(()) => self.log = fd,
                // The log is full, so that nobody can be told. The next turn tries again.
                Err(_) => self.look_again_soon(),
            }
        }
    }

    /// The source is dispatched in this turn or the next, whatever epoll says.
    pub fn mark_ready(&mut self, source: Source) {
        self.ready.insert(source);
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the ready sources that are meant, in their order.
    pub fn take_ready(&mut self, is_meant: fn(&Source) -> bool) -> Vec<Source> {
        let taken: Vec<_> = self.ready.iter().copied().filter(is_meant).collect();
        self.ready.retain(|source| !is_meant(source));
        taken
    }

    /// A call failed that should not have, and what was to be read there is still there: epoll
    /// tells of it only once. In a moment every source counts as ready.
    pub fn look_again_soon(&mut self) {
        let at = clock::now() + LOOK_AGAIN;
        self.look_again_at.get_or_insert(at);
    }

    /// When `wait` has to return although nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        self.look_again_at
    }

    /// Waits until something is ready, at most until `until`; not at all when `at_once`. A signal
    /// ends the wait, whether or not its handler could write to the pipe.
    ///
    /// Errors: epoll_wait(2) fails. Then every source counts as ready, after a short wait.
    pub fn wait(&mut self, until: Option<Instant>, at_once: bool) -> io::Result<()> {
        let mut timeout = match at_once {
            true => Some(Duration::ZERO),
            false => self.arm(until),
        };
        loop {
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    if !at_once {
                        // EINTR ends this wait like an event.
                        let _ = nix::poll::poll(&mut [], WAIT_WITHOUT_EPOLL);
                    }
                    self.ready
                        .extend(self.sources.iter().map(|(_, source)| *source));
                    return Err(error);
                }
                _ => {}
            }
            for event in &self.events {
                let place = place(&self.sources, event.token());
                match place.map(|place| self.sources[place].1) {
                    // It has fired, so that the same deadline would have to be set again.
                    Some(Source::Timer) => self.armed = None,
                    Some(source) => _ = self.ready.insert(source),
                    None => {}
                }
            }
            // The buffer was filled: there may be more events, and each is told only once.
            if self.events.iter().count() < EVENTS {
                if self.look_again_at.is_some_and(|at| at <= clock::now()) {
                    self.look_again_at = None;
                    self.ready
                        .extend(self.sources.iter().map(|(_, source)| *source));
                }
                return Ok(());
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// Sets the timer to `until`. Where the system refuses, it says how long to poll instead, and
    /// the next call tries again: a timer counts as set when the call has succeeded.
    fn arm(&mut self, until: Option<Instant>) -> Option<Duration> {
        if self.armed == until {
            return None;
        }
        let set = match until {
            None => self.timer.unset(),
            Some(Instant(nanoseconds)) => {
                // A timer of zero would be disarmed, not due.
                let at = TimeSpec::from(Duration::from_nanos(nanoseconds.max(1)));
                let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
                self.timer.set(Expiration::OneShot(at), absolute)
            }
        };
        match (set, until) {
            (Ok(()), _) => {
                self.armed = until;
                None
            }
            // The timer may fire at the moment it was set to before; that is only a turn too many.
            (Err(_), None) => None,
            (Err(_), Some(until)) => Some(until - clock::now()),
        }
    }
}

fn place(sources: &[(Token, Source)], token: Token) -> Option<usize> {
    sources.binary_search_by_key(&token, |(of, _)| *of).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_sources_are_dispatched_in_the_order_of_a_turn() {
        let id = ChildId(u64::MAX);
        let order = [
            Source::Signals,
            Source::Timer,
            Source::Terminal,
            Source::Report(ChildId(1)),
            Source::Report(id),
            Source::Notify(id),
            Source::Death(id),
            Source::Output(ChildId(2)),
            Source::Output(id),
            Source::Listener(0),
            Source::Listener(3),
            Source::Paths,
            Source::Log,
            Source::Systemd,
            Source::Control(0),
            Source::Control(1 << 40),
        ];
        let ready: BTreeSet<Source> = order.into_iter().rev().collect();
        assert!(ready.into_iter().eq(order));
    }
}
