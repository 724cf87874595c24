//! The listening sockets while we serve: the guard's findings put into words and acts, and their
//! end.

use super::Daemon;
use crate::guard::{self, Guard, Healing};
use crate::listen::Listener;
use crate::log::RateLimit;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{Event, Instant, Phase};
use crate::sys::clock;
use crate::text::error_text;
use crate::worker::env::Socket;
use slog::{error, info, warn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A listener as the environment's protocols write it; it does not change while we live.
pub(super) struct Texts {
    name: String,
    family: &'static str,
    server_starter: String,
    php_fpm: String,
}

impl Texts {
    pub fn new(listener: &Listener) -> Texts {
        Texts {
            name: listener.name().to_owned(),
            family: listener.family(),
            server_starter: listener.server_starter_key().to_string_lossy().into_owned(),
            php_fpm: listener.php_fpm_key().to_string_lossy().into_owned(),
        }
    }

    pub fn as_socket(&self) -> Socket<'_> {
        Socket {
            name: &self.name,
            family: self.family,
            server_starter: &self.server_starter,
            php_fpm: &self.php_fpm,
        }
    }
}

/// How long after a failed attempt to mend a listener the next one follows.
const RETRY: Duration = Duration::from_secs(1);

/// How often in a second an event makes us look at the listeners.
const LOOKS: u32 = 50;

/// What the guard has registered.
pub(super) struct GuardState {
    guard: Option<Guard>,
    /// When to look again at a listener that could not be mended, or at all of them.
    retry_at: Option<Instant>,
    /// How often an event made us look in the second that ends then.
    looks: u32,
    looks_until: Instant,
    /// What was wrong with a listener is one line a second.
    lines: RateLimit,
}

impl GuardState {
    pub fn new(poller: &mut Poller, listeners: &[Listener]) -> io::Result<GuardState> {
        // Without inotify, or for a file that we may not watch, the look at each worker's end
        // remains.
        let mut guard = Guard::new().ok();
        if let Some(guard) = &mut guard {
            poller.add(&*guard, Source::Paths, Interest::READABLE)?;
            for (index, listener) in listeners.iter().enumerate() {
                let _ = guard.watch(index, listener);
            }
        }
        for (index, listener) in listeners.iter().enumerate() {
            // WRITABLE: there is no empty interest, and READABLE wakes us at every client.
            if listener.kind().listens() {
                poller.add(listener, Source::Listener(index), Interest::WRITABLE)?;
            }
        }
        Ok(GuardState {
            guard,
            // Somebody may have taken a path between our bind and our watch.
            retry_at: Some(clock::now()),
            looks: 0,
            looks_until: Instant(0),
            lines: RateLimit::default(),
        })
    }

    /// Whether an event is one too many: who makes them as fast as they can makes us look a
    /// bounded number of times, and is not heard again until the second is over.
    fn is_flooded(&mut self, now: Instant) -> bool {
        if now >= self.looks_until {
            self.looks_until = now + RETRY;
            self.looks = 0;
        }
        self.looks += 1;
        let flooded = self.looks > LOOKS;
        if let (true, Some(guard)) = (flooded, &mut self.guard) {
            guard.pause();
        }
        flooded
    }

    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl Daemon {
    /// Something happened to a listener or its path: look, and mend it.
    pub(super) fn on_listener_event(&mut self) {
        if !self.guard.is_flooded(clock::now()) {
            return self.on_listeners_in_doubt();
        }
        self.guard.retry_at = Some(self.guard.looks_until);
        for (index, listener) in self.listeners.iter().enumerate() {
            self.poller.remove(listener, Source::Listener(index));
        }
    }

    /// Hears of the listeners again, after a flood of events.
    fn watch_listeners(&mut self) {
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(guard) = &mut self.guard.guard {
                // Not while its path is lost, which is looked at next.
                let _ = guard.watch(index, listener);
            }
            let source = Source::Listener(index);
            if !self.poller.has(source) && listener.kind().listens() {
                let _ = self.poller.add(listener, source, Interest::WRITABLE);
            }
        }
    }

    /// Something happened that may have cut clients off: look, and mend it.
    pub(super) fn on_listeners_in_doubt(&mut self) {
        if let Some(guard) = &mut self.guard.guard {
            guard.drain();
        }
        self.guard.retry_at = self.guard.retry_at.filter(|at| *at > clock::now());
        for index in 0..self.listeners.len() {
            self.mend(index);
        }
        let may_be_mended = |it: &Listener| it.is_harmed() && !guard::is_hopeless(it);
        let again = self.listeners.iter().any(may_be_mended);
        if again && self.guard.retry_at.is_none() {
            self.guard.retry_at = Some(clock::now() + RETRY);
        }
    }

    /// Looks again at what could not be mended: the reason may be gone.
    pub(super) fn retry_to_mend(&mut self, now: Instant) {
        if self.guard.retry_at.is_some_and(|at| at <= now) {
            self.watch_listeners();
            self.on_listeners_in_doubt();
        }
    }

    fn mend(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else {
            return;
        };
        let healing = guard::heal(listener);
        if matches!(healing, Healing::Nothing) {
            return;
        }
        let address = listener.address();
        let count = self.guard.lines.allow_with_count(clock::now());
        let suspects = self.suspects();
        match (healing, count) {
            (Healing::Rebound(old), count) => self.on_rebound(index, old, count),
            (_, None) | (Healing::Nothing, _) => {}
            (Healing::Relinked, Some(count)) => {
                info!(
                    self.logger,
                    "{address} was removed{suspects}: linked back{count}"
                );
            }
            (Healing::Revived, Some(count)) => {
                warn!(
                    self.logger,
                    "{address} was shut down{suspects}: listening again{count}"
                );
            }
            (Healing::Failed { error, hopeless }, Some(count)) => {
                let next = match hopeless {
                    true => "clients are refused until whoever passed it makes it anew",
                    false => "clients are refused, trying again every second",
                };
                error!(self.logger, "{error}{suspects}; {next}{count}");
            }
        }
    }

    /// A new socket stands at a listener's address, and the running workers do not have it.
    fn on_rebound(&mut self, index: usize, old: OwnedFd, count: Option<String>) {
        self.poller.remove(&old, Source::Listener(index));
        drop(old);
        let listener = &self.listeners[index];
        let added = self
            .poller
            .add(listener, Source::Listener(index), Interest::WRITABLE);
        if let Err(error) = &added {
            warn!(
                self.logger,
                "cannot watch {}: {}; looking at it when a worker ends",
                listener.address(),
                error_text(error)
            );
        }
        if let Some(guard) = &mut self.guard.guard {
            // Its path may be lost again already, before it was watched: look again.
            let _ = guard.watch(index, listener);
            self.guard.retry_at = Some(clock::now());
        }
        if let (Some(systemd), Some(name)) = (&mut self.systemd, listener.store_name()) {
            if let Err(reason) = systemd.store_again(name, listener.as_fd()) {
                warn!(self.logger, "cannot use systemd's fd store: {reason}");
            }
        }
        if let Some(count) = count {
            let (address, suspects) = (listener.address(), self.suspects());
            warn!(
                self.logger,
                "{address} was cut off{suspects}: bound anew, reloading so that the workers get \
                 it{count}"
            );
        }
        self.tell(Event::Rebound);
    }

    /// Who was starting or stopping when a listener was harmed.
    fn suspects(&self) -> String {
        let mut pids = Vec::new();
        for (id, worker) in self.core.workers().iter() {
            let verb = match worker.phase {
                Phase::Ready { .. } => continue,
                Phase::Stopping { .. } | Phase::Killed { .. } => "stopping",
                _ => "starting",
            };
            if pids.len() < 8 {
                pids.extend(self.processes.pid(id).map(|pid| format!("{pid} ({verb})")));
            }
        }
        match pids.is_empty() {
            true => " while no worker was starting or stopping".to_owned(),
            false => format!(" while these workers came or went: {}", pids.join(", ")),
        }
    }

    /// We serve no more: no path of ours stays, and clients are refused as soon as no worker
    /// holds the sockets.
    pub(super) fn close_listeners(&mut self) {
        self.guard.guard = None;
        self.guard.retry_at = None;
        for (index, mut listener) in self.listeners.drain(..).enumerate() {
            self.poller.remove(&listener, Source::Listener(index));
            for reason in listener.remove() {
                warn!(self.logger, "{reason}; it stays behind");
            }
        }
        if let Some(systemd) = &mut self.systemd {
            systemd.forget_sockets();
        }
    }
}
