//! All listening sockets while we serve: they are registered with the poller, looked at when
//! something may have happened to them, repaired by the guard, and closed at the end.

use super::guard::{self, Guard, Repair};
use super::{Listener, listens, open};
use crate::clock;
use crate::log::RateLimit;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::Instant;
use crate::sys::interrupt::Interruptible;
use crate::text::{duration_text, error_text};
use crate::worker::env::Socket;
use slog::{error, info, warn};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long after a failed attempt to repair a listener the next one follows.
const RETRY: Duration = Duration::from_secs(1);
/// The pause before the second reload of our own in a row, and the longest.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);
const RELOAD_PAUSE_MAX: Duration = Duration::from_secs(30);
/// So long after a reload of our own the next one is the first in a row again.
const QUIET: Duration = Duration::from_secs(60);
/// How often in a second an event makes us look at the listeners.
const LOOKS: u32 = 50;

/// What the loop has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerEvent {
    /// A new socket stands at the address of this listener.
    Rebound(usize),
    /// The running workers do not have it: they are to be replaced.
    Reload,
}

/// The owner of all listeners.
pub struct Listeners {
    listeners: Vec<Listener>,
    guard: Option<Guard>,
    /// A path cannot be watched, which was said.
    is_blind: bool,
    /// When to look again at a listener that could not be repaired, or at all of them.
    retry_at: Option<Instant>,
    /// How many events made us look in the second that ends at `looks_until`.
    looks: u32,
    looks_until: Instant,
    /// When the reload is due that brings sockets which were bound anew to the workers.
    reload_at: Option<Instant>,
    /// How long it waits: workers that cut off each socket that they get must not make us reload
    /// without end. It doubles from one such reload to the next.
    reload_pause: Duration,
    last_reload: Option<Instant>,
    /// What was wrong with a listener is one line a second.
    lines: RateLimit,
    logger: slog::Logger,
}

impl Deref for Listeners {
    type Target = [Listener];

    fn deref(&self) -> &[Listener] {
        &self.listeners
    }
}

impl Listeners {
    pub fn new(listeners: Vec<Listener>, logger: slog::Logger) -> Listeners {
        Listeners {
            listeners,
            guard: None,
            is_blind: false,
            retry_at: None,
            looks: 0,
            looks_until: Instant(0),
            reload_at: None,
            reload_pause: Duration::ZERO,
            last_reload: None,
            lines: RateLimit::default(),
            logger,
        }
    }

    /// Registers what is not registered yet: the listeners, and the watch on their paths. Errors:
    /// epoll_ctl(2) is refused.
    pub fn register(&mut self, poller: &mut Poller) -> io::Result<()> {
        self.register_sockets(poller)?;
        self.watch_paths(poller);
        Ok(())
    }

    /// Sees to it that each path is watched. Where that cannot be, we look every second.
    fn watch_paths(&mut self, poller: &mut Poller) {
        let now = clock::now();
        if self.looks > LOOKS && now < self.looks_until {
            return;
        }
        let mut failure = None;
        for (index, listener) in self.listeners.iter().enumerate() {
            if listener.file.is_none() {
                continue;
            }
            let guard = guard_of(&mut self.guard, poller);
            match guard.and_then(|guard| Ok(guard.watch(index, listener)?)) {
                Ok(false) => {}
                // Somebody may have taken the path before it was watched.
                Ok(true) => self.retry_at = Some(now),
                Err(error) => failure = Some((listener, error)),
            }
        }
        let Some((listener, error)) = failure else {
            self.is_blind = false;
            return;
        };
        self.retry_at.get_or_insert(now + RETRY);
        // What is wrong with the listener itself was said.
        if listener.trouble.is_some() || std::mem::replace(&mut self.is_blind, true) {
            return;
        }
        if let Some(count) = self.lines.allow_with_count(now) {
            let (address, reason) = (listener.address(), error_text(&error));
            warn!(
                self.logger,
                "cannot watch the path of {address}: {reason}; looking at it every second{count}"
            );
        }
    }

    fn register_sockets(&self, poller: &mut Poller) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            let source = Source::Listener(index);
            if listens(listener.kind) && !poller.has(source) {
                // WRITABLE: there is no empty interest, and READABLE wakes us at every client.
                poller.add(listener, source, Interest::WRITABLE)?;
            }
        }
        Ok(())
    }

    /// For a start that fails after all.
    pub fn abandon(self) {
        open::abandon(self.listeners);
    }

    /// The sockets as a worker finds them: what its environment says of them, and the descriptors.
    pub fn for_worker(&self) -> (Vec<Socket<'_>>, Vec<BorrowedFd<'_>>) {
        let sockets = self.listeners.iter().map(Listener::as_socket).collect();
        let descriptors = self.listeners.iter().map(AsFd::as_fd).collect();
        (sockets, descriptors)
    }

    /// Those that systemd's fd store may hold: all with their names there, and the names of those
    /// that came back from it.
    pub fn for_store(&self) -> (Vec<(&str, BorrowedFd<'_>)>, Vec<&str>) {
        let (mut sockets, mut found) = (Vec::new(), Vec::new());
        for listener in &self.listeners {
            let Some(name) = listener.store_name.as_deref() else {
                continue;
            };
            sockets.push((name, listener.as_fd()));
            if listener.is_stored {
                found.push(name);
            }
        }
        (sockets, found)
    }

    /// When the listeners are to be looked at although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        [self.retry_at, self.reload_at].into_iter().flatten().min()
    }

    /// Something happened to a listener or its path. Who makes events as fast as possible makes us
    /// look a bounded number of times, and is not heard again until the second is over.
    ///
    /// `suspects` names the workers that were starting or stopping.
    pub fn on_event(
        &mut self,
        poller: &mut Poller,
        suspects: impl Fn() -> String,
    ) -> Vec<ListenerEvent> {
        let now = clock::now();
        if now >= self.looks_until {
            (self.looks_until, self.looks) = (now + RETRY, 0);
        }
        self.looks += 1;
        if self.looks <= LOOKS {
            return self.check(poller, suspects);
        }
        self.retry_at = Some(self.looks_until);
        if let Some(guard) = &self.guard {
            poller.remove(guard, Source::Paths);
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            poller.remove(listener, Source::Listener(index));
        }
        Vec::new()
    }

    /// Looks at what could not be repaired when its time has come: the reason may be gone. Sockets
    /// and paths that were left alone because of too many events are watched again.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        poller: &mut Poller,
        suspects: impl Fn() -> String,
    ) -> Vec<ListenerEvent> {
        if self.retry_at.is_none_or(|at| at > now) {
            return self.due_reload(now).into_iter().collect();
        }
        // Where that is refused the look at each worker's end remains.
        let _ = self.register(poller);
        self.check(poller, suspects)
    }

    /// Looks at all listeners, and repairs those that are cut off. This is also done at the end of
    /// every worker.
    pub fn check(
        &mut self,
        poller: &mut Poller,
        suspects: impl Fn() -> String,
    ) -> Vec<ListenerEvent> {
        if let Some(guard) = &self.guard {
            guard.drain();
        }
        self.retry_at = self.retry_at.filter(|at| *at > clock::now());
        let mut events = Vec::new();
        for index in 0..self.listeners.len() {
            let repair = guard::repair(&mut self.listeners[index]);
            if matches!(repair, Repair::Nothing) {
                continue;
            }
            // More than one line a second would help nobody.
            let line = self.lines.allow_with_count(clock::now());
            if let Repair::Rebound(old) = &repair {
                self.on_rebound(index, old, poller);
                events.push(ListenerEvent::Rebound(index));
            }
            self.log(index, &repair, line, &suspects);
        }
        let can_be_repaired = |it: &Listener| it.trouble.is_some() && !guard::is_hopeless(it);
        if self.listeners.iter().any(can_be_repaired) {
            self.retry_at.get_or_insert(clock::now() + RETRY);
        }
        self.watch_paths(poller);
        events.extend(self.due_reload(clock::now()));
        events
    }

    fn due_reload(&mut self, now: Instant) -> Option<ListenerEvent> {
        self.reload_at.take_if(|at| *at <= now)?;
        Some(ListenerEvent::Reload)
    }

    fn log(
        &self,
        index: usize,
        repair: &Repair,
        line: Option<String>,
        suspects: impl Fn() -> String,
    ) {
        let Some(count) = line else { return };
        let (address, suspects) = (self.listeners[index].address(), suspects());
        match repair {
            Repair::Nothing => {}
            Repair::Relinked => info!(
                self.logger,
                "{address} was removed{suspects}: linked back{count}"
            ),
            Repair::Revived => warn!(
                self.logger,
                "{address} was shut down{suspects}: listening again{count}"
            ),
            Repair::Rebound(_) => {
                let pause = match self.reload_pause {
                    Duration::ZERO => String::new(),
                    pause => format!(" in {}, because this goes on", duration_text(pause)),
                };
                warn!(
                    self.logger,
                    "{address} was cut off{suspects}: bound anew, reloading{pause} so that the \
                     workers get it{count}"
                );
            }
            Repair::Failed(error) => {
                let next = match guard::is_hopeless(&self.listeners[index]) {
                    true => "clients are refused until whoever passed it makes it anew",
                    false => "clients are refused, trying again every second",
                };
                error!(self.logger, "{error}{suspects}; {next}{count}");
            }
        }
    }

    /// A new socket stands at a listener's address.
    fn on_rebound(&mut self, index: usize, old: &OwnedFd, poller: &mut Poller) {
        if self.reload_at.is_none() {
            let now = clock::now();
            let is_again = self.last_reload.is_some_and(|at| now - at < QUIET);
            self.reload_pause = match is_again {
                true => (self.reload_pause * 2).clamp(RELOAD_PAUSE, RELOAD_PAUSE_MAX),
                false => Duration::ZERO,
            };
            self.reload_at = Some(now + self.reload_pause);
            self.last_reload = self.reload_at;
        }
        let source = Source::Listener(index);
        poller.remove(old, source);
        let listener = &self.listeners[index];
        if let Err(error) = poller.add(listener, source, Interest::WRITABLE) {
            let (address, reason) = (listener.address(), error_text(&error));
            warn!(
                self.logger,
                "cannot watch {address}: {reason}; looking at it when a worker ends"
            );
        }
    }

    /// We serve no more: no path of ours stays, and clients are refused as soon as no worker holds
    /// the sockets.
    pub fn close(&mut self, poller: &mut Poller) {
        self.guard = None;
        (self.retry_at, self.reload_at) = (None, None);
        // Clients that nobody accepted may have sent descriptors, which are closed with the socket.
        let _bounded = Interruptible::begin();
        for (index, mut listener) in self.listeners.drain(..).enumerate() {
            poller.remove(&listener, Source::Listener(index));
            for reason in listener.remove() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
    }
}

/// The guard, which is made if there is none, and registered if it is not.
///
/// Errors: the system allows no more inotify instances, or no more watched descriptors.
fn guard_of<'a>(guard: &'a mut Option<Guard>, poller: &mut Poller) -> io::Result<&'a mut Guard> {
    let guard = match guard {
        Some(guard) => guard,
        none => none.insert(Guard::new()?),
    };
    if !poller.has(Source::Paths) {
        poller.add(&*guard, Source::Paths, Interest::READABLE)?;
    }
    Ok(guard)
}
