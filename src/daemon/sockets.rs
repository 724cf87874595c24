//! The listening sockets while we serve: the guard's findings put into words and acts, and their
//! end.

use super::Daemon;
use super::watch::{Source, Ticket, Watch};
use crate::environment::Socket;
use crate::guard::{Guard, Healing};
use crate::listen::Listener;
use crate::supervisor::{Event, Phase};
use mio::Interest;
use slog::{error, info, warn};
use std::io;

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

/// What the guard has registered.
pub(super) struct GuardState {
    guard: Option<(Guard, Ticket)>,
    listeners: Vec<Option<Ticket>>,
}

impl GuardState {
    pub fn new(watch: &mut Watch, listeners: &[Listener]) -> io::Result<GuardState> {
        let guard = match Guard::new(listeners) {
            Ok(guard) => {
                let ticket = watch.add(&guard, Source::Paths, Interest::READABLE)?;
                Some((guard, ticket))
            }
            Err(_) => None, // no inotify here: a look at each worker's end remains
        };
        let tickets = listeners.iter().enumerate().map(|(index, listener)| {
            // WRITABLE: there is no empty interest, and READABLE wakes us at every client.
            let stream = listener.kind().listens();
            let add = || watch.add(listener, Source::Listener(index), Interest::WRITABLE);
            stream.then(add).and_then(Result::ok)
        });
        Ok(GuardState { listeners: tickets.collect(), guard })
    }
}

impl Daemon {
    /// Something happened that may have cut clients off: look, and mend it.
    pub(super) fn on_listeners_in_doubt(&mut self) {
        if let Some((guard, _)) = &mut self.guard.guard {
            guard.drain();
        }
        for index in 0..self.listeners.len() {
            self.mend(index);
        }
    }

    fn mend(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        let old_ticket = |tickets: &mut Vec<Option<Ticket>>| tickets[index].take();
        match crate::guard::heal(listener) {
            Healing::Nothing => {}
            Healing::Relinked => {
                let address = listener.address();
                info!(self.logger, "{address} was removed{}: linked back", self.suspects());
            }
            Healing::Revived => {
                let address = listener.address();
                warn!(self.logger, "{address} was shut down{}: listening again", self.suspects());
            }
            Healing::Rebound { old } => {
                if let Some(ticket) = old_ticket(&mut self.guard.listeners) {
                    self.watch.remove(&old, ticket);
                }
                drop(old);
                let fd = &self.listeners[index];
                let source = Source::Listener(index);
                self.guard.listeners[index] = self.watch.add(fd, source, Interest::WRITABLE).ok();
                let address = fd.address();
                warn!(self.logger, "{address} was shut down{}: bound anew, reloading so that \
                    the workers get it", self.suspects());
                self.tell(Event::Rebound);
            }
            Healing::Failed(error) => error!(self.logger, "{error}"),
        }
    }

    /// Who was starting or stopping when a listener was harmed.
    fn suspects(&self) -> String {
        let pids: Vec<String> = (self.core.workers().iter())
            .filter(|(_, worker)| !matches!(worker.phase, Phase::Ready { .. }))
            .filter_map(|(id, worker)| {
                let verb = if worker.is_asked() { "stopping" } else { "starting" };
                Some(format!("{} ({verb})", self.children.pid(id)?))
            })
            .take(8)
            .collect();
        match pids.is_empty() {
            true => " while no worker was starting or stopping".to_owned(),
            false => format!(" while these workers came or went: {}", pids.join(", ")),
        }
    }

    /// We serve no more: no path of ours stays, and clients are refused as soon as no worker
    /// holds the sockets.
    pub(super) fn close_listeners(&mut self) {
        if let Some((guard, ticket)) = self.guard.guard.take() {
            self.watch.remove(&guard, ticket);
        }
        let tickets = std::mem::take(&mut self.guard.listeners);
        for (mut listener, ticket) in self.listeners.drain(..).zip(tickets) {
            // Workers hold copies: epoll would go on telling of those.
            if let Some(ticket) = ticket {
                self.watch.remove(&listener, ticket);
            }
            listener.remove();
        }
    }
}
