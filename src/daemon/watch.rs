//! What the loop waits for: mio's poll, a token for each descriptor, and what was found ready,
//! sorted by the order in which a turn takes it up. Tokens are never used twice, so that an event
//! of a descriptor that is gone can only be unknown.

use crate::supervisor::{ChildId, Instant};
use crate::sys::clock;
use mio::event::Source as _;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// How long after a call that should not have failed everything is looked at again.
const DOUBT: Duration = Duration::from_millis(100);
/// How long we wait for events that we cannot be told of, in milliseconds.
const BLIND_WAIT: u16 = 50;
/// How many events one poll takes.
const EVENTS: usize = 256;

/// Whose descriptor it is. What is ready is taken up in the order of these variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
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
    /// By index.
    Listener(usize),
    /// The watch on the directories of our unix paths.
    Paths,
    /// The log can be written to again.
    Log,
    Systemd,
    /// A connection to the control socket by its number; 0 is the socket itself.
    Control(u64),
}

/// A registration, to be given back with its descriptor.
#[derive(Debug)]
pub(super) struct Ticket(Token);

/// What was found ready and is still to be taken up. It stays until somebody takes it.
pub(super) type Inbox = BTreeSet<Source>;

pub(super) struct Watch {
    poll: Poll,
    events: Events,
    sources: BTreeMap<Token, Source>,
    next: usize,
    timer: TimerFd,
    armed: Option<Instant>,
    /// When everything is to be looked at, whatever epoll says.
    again: Option<Instant>,
    pub inbox: Inbox,
}

impl Watch {
    pub fn new() -> io::Result<Watch> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let mut watch = Watch {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            sources: BTreeMap::new(),
            next: 0,
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            armed: None,
            again: None,
            inbox: Inbox::default(),
        };
        let timer = watch.timer.as_fd().as_raw_fd();
        watch.add_raw(&mut SourceFd(&timer), Source::Timer, Interest::READABLE)?;
        Ok(watch)
    }

    pub fn add(&mut self, fd: impl AsFd, source: Source, how: Interest) -> io::Result<Ticket> {
        self.add_raw(&mut SourceFd(&fd.as_fd().as_raw_fd()), source, how)
    }

    pub fn add_raw(
        &mut self,
        fd: &mut impl mio::event::Source,
        source: Source,
        how: Interest,
    ) -> io::Result<Ticket> {
        let token = Token(self.next);
        self.next += 1;
        fd.register(self.poll.registry(), token, how)?;
        self.sources.insert(token, source);
        Ok(Ticket(token))
    }

    /// To be called while `fd` is still open: workers hold copies of some, and epoll would go on
    /// telling of those.
    pub fn remove(&mut self, fd: impl AsFd, ticket: Ticket) {
        self.remove_raw(fd.as_fd().as_raw_fd(), ticket);
    }

    pub fn remove_raw(&mut self, fd: RawFd, ticket: Ticket) {
        let _ = SourceFd(&fd).deregister(self.poll.registry());
        if let Some(source) = self.sources.remove(&ticket.0) {
            self.inbox.remove(&source);
        }
    }

    /// A call failed that should not have, and what was to be taken up there is still there: epoll
    /// tells of it only once. In a moment everything counts as ready.
    pub fn doubt(&mut self) {
        self.again.get_or_insert(clock::now() + DOUBT);
    }

    /// When `look` has to have been called.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Waits until something is ready, at most until `until`; not at all when `at_once`. What is
    /// ready is in `inbox` afterwards. A signal ends the wait, whether or not its wake-up is there.
    ///
    /// Errors: epoll_wait(2) does not work. Then everything is looked at, after a short while.
    pub fn look(&mut self, until: Option<Instant>, at_once: bool) -> io::Result<()> {
        let mut timeout = match at_once {
            true => Some(Duration::ZERO),
            false => self.arm(until),
        };
        loop {
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    if !at_once {
                        // EINTR is as good as an event.
                        let _ = nix::poll::poll(&mut [], BLIND_WAIT);
                    }
                    self.inbox.extend(self.sources.values().copied());
                    return Err(error);
                }
                _ => {}
            }
            for event in &self.events {
                if let Some(source) = self.sources.get(&event.token()) {
                    self.inbox.insert(*source);
                }
            }
            // As many as fit: there may be more, and each is told only once.
            if self.events.iter().count() < EVENTS {
                if self.again.is_some_and(|at| at <= clock::now()) {
                    self.again = None;
                    self.inbox.extend(self.sources.values().copied());
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

    /// The timer has fired: the same deadline would have to be armed anew.
    pub fn on_timer(&mut self) {
        self.armed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_ready_is_taken_up_in_the_order_of_a_turn() {
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
        let inbox: Inbox = order.into_iter().rev().collect();
        assert!(inbox.into_iter().eq(order));
    }
}
