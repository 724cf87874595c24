//! The listening sockets while we serve: the guard's findings put into words and acts, and their
//! end.

use super::Daemon;
use super::watch::{Source, Ticket, Watch};
use crate::environment::Socket;
use crate::guard::{self, Guard, Healing};
use crate::listen::Listener;
use crate::status::error_text;
use crate::supervisor::{Event, Instant, Phase};
use crate::sys::clock;
use crate::{error, info, warn};
use mio::Interest;
use std::io;
use std::os::fd::OwnedFd;
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

/// What the guard has registered.
pub(super) struct GuardState {
    guard: Option<Guard>,
    listeners: Vec<Option<Ticket>>,
    /// When to look again at a listener that could not be mended.
    retry_at: Option<Instant>,
}

impl GuardState {
    pub fn new(watch: &mut Watch, listeners: &[Listener]) -> io::Result<GuardState> {
        // Without inotify, or for a file that we may not watch, the look at each worker's end
        // remains.
        let guard = Guard::new().ok();
        if let Some(guard) = &guard {
            watch.add(guard, Source::Paths, Interest::READABLE)?;
            listeners
                .iter()
                .for_each(|listener| _ = guard.watch(listener));
        }
        let mut tickets = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            // WRITABLE: there is no empty interest, and READABLE wakes us at every client.
            let source = Source::Listener(index);
            tickets.push(match listener.kind().listens() {
                true => Some(watch.add(listener, source, Interest::WRITABLE)?),
                false => None,
            });
        }
        Ok(GuardState {
            guard,
            listeners: tickets,
            retry_at: None,
        })
    }

    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl Daemon {
    /// Something happened that may have cut clients off: look, and mend it.
    pub(super) fn on_listeners_in_doubt(&mut self) {
        if let Some(guard) = &self.guard.guard {
            guard.drain();
        }
        for index in 0..self.listeners.len() {
            self.mend(index);
        }
        let may_be_mended = |it: &Listener| it.is_harmed() && !guard::is_hopeless(it);
        let again = self.listeners.iter().any(may_be_mended);
        self.guard.retry_at = again.then(|| clock::now() + RETRY);
    }

    /// Looks again at what could not be mended: the reason may be gone.
    pub(super) fn retry_to_mend(&mut self, now: Instant) {
        if self.guard.retry_at.is_some_and(|at| at <= now) {
            self.on_listeners_in_doubt();
        }
    }

    fn mend(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else {
            return;
        };
        let healing = guard::heal(listener);
        let address = listener.address();
        match healing {
            Healing::Nothing => {}
            Healing::Relinked => {
                info!(
                    self.logger,
                    "{address} was removed{}: linked back",
                    self.suspects()
                );
            }
            Healing::Revived => {
                warn!(
                    self.logger,
                    "{address} was shut down{}: listening again",
                    self.suspects()
                );
            }
            Healing::Rebound(old) => self.on_rebound(index, old),
            Healing::Failed { error, hopeless } => {
                let next = match hopeless {
                    true => "clients are refused until whoever passed it makes it anew",
                    false => "clients are refused, trying again every second",
                };
                error!(self.logger, "{error}{}; {next}", self.suspects());
            }
        }
    }

    /// A new socket stands at a listener's address, and the running workers do not have it.
    fn on_rebound(&mut self, index: usize, old: OwnedFd) {
        if let Some(ticket) = self.guard.listeners[index].take() {
            self.watch.remove(&old, ticket);
        }
        drop(old);
        let listener = &self.listeners[index];
        let added = self
            .watch
            .add(listener, Source::Listener(index), Interest::WRITABLE);
        if let Err(error) = &added {
            warn!(
                self.logger,
                "cannot watch {}: {}; looking at it when a worker ends",
                listener.address(),
                error_text(error)
            );
        }
        self.guard.listeners[index] = added.ok();
        if let Some(guard) = &self.guard.guard {
            let _ = guard.watch(listener);
        }
        self.systemd.store_again(listener);
        warn!(
            self.logger,
            "{} was cut off{}: bound anew, reloading so that the workers get it",
            listener.address(),
            self.suspects()
        );
        self.tell(Event::Rebound);
    }

    /// Who was starting or stopping when a listener was harmed.
    fn suspects(&self) -> String {
        let mut pids = Vec::new();
        for (id, worker) in self.core.workers().iter() {
            let verb = match worker.phase {
                Phase::Ready { .. } => continue,
                Phase::Stopping { .. } => "stopping",
                _ => "starting",
            };
            if pids.len() < 8 {
                pids.extend(self.children.pid(id).map(|pid| format!("{pid} ({verb})")));
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
        let tickets = std::mem::take(&mut self.guard.listeners);
        for (mut listener, ticket) in self.listeners.drain(..).zip(tickets) {
            // Workers hold copies: epoll would go on telling of those.
            if let Some(ticket) = ticket {
                self.watch.remove(&listener, ticket);
            }
            listener.remove();
        }
        self.systemd.forget_listeners(&mut self.watch);
    }
}
