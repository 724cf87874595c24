//! What we tell systemd, and when: READY when the first generation is live, RELOADING and READY
//! around each reload, STATUS when it changes, the watchdog from a loop that really turns.

use super::Daemon;
use super::watch::{Source, Ticket, Watch};
use crate::control::status::summary;
use crate::listen::Listener;
use crate::notify::{HandOver, StoreCheck, Stored, Systemd, hand_over};
use crate::supervisor::Instant;
use crate::sys::clock;
use mio::Interest;
use slog::{info, warn};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// systemd's limit and ours must not be the same moment: ours comes first, with its reason.
const SLACK: Duration = Duration::from_secs(1);

/// How long to wait before trying anew to reach a service manager that is not there.
const RETRY: Duration = Duration::from_secs(5);

/// The service manager above us, if there is one.
pub(super) struct Outer {
    systemd: Option<Systemd>,
    next_watchdog: Option<Instant>,
    extended: Option<Instant>,
    stopping: bool,
    /// It could not be reached: when to try again.
    retry: Option<Instant>,
    /// The question whether the fd store has room, while it is open.
    asking: Option<(StoreCheck, Vec<Ticket>)>,
}

impl Outer {
    pub fn new(watch: &mut Watch, systemd: Option<Systemd>) -> io::Result<Outer> {
        if let Some(systemd) = &systemd {
            watch.add(systemd.wait_fd(), Source::Systemd, Interest::WRITABLE)?;
        }
        let watched = systemd.as_ref().and_then(Systemd::watchdog_interval);
        let next_watchdog = watched.map(|_| clock::now());
        let stopping = false;
        Ok(Outer {
            systemd,
            next_watchdog,
            extended: None,
            stopping,
            retry: None,
            asking: None,
        })
    }

    /// Puts our own listening sockets into the fd store, so that they outlive us: once each, under
    /// a name that a later start finds again. `already` are there, `forget` are of no use.
    pub fn store(
        &mut self,
        watch: &mut Watch,
        listeners: &[Listener],
        already: usize,
        forget: &[String],
    ) -> io::Result<Option<Stored>> {
        let Some(systemd) = &mut self.systemd else {
            return Ok(None);
        };
        for name in forget {
            systemd.remove(name);
        }
        let mut fresh = Vec::new();
        for listener in listeners.iter().filter(|listener| !listener.is_stored()) {
            fresh.extend(listener.store_name().map(|name| (listener.as_fd(), name)));
        }
        match hand_over(systemd, already.saturating_sub(forget.len()), &fresh)? {
            HandOver::Done(_) if fresh.is_empty() => Ok(None),
            HandOver::Done(stored) => Ok(Some(stored)),
            HandOver::Asking(check) => {
                let mut tickets = Vec::new();
                for fd in check.fds() {
                    tickets.push(watch.add(fd, Source::Store, Interest::READABLE)?);
                }
                self.asking = Some((check, tickets));
                Ok(None)
            }
        }
    }

    /// A listener was bound anew: the store is to hold the new socket.
    pub fn store_again(&mut self, listener: &Listener) -> io::Result<()> {
        if let (Some(systemd), Some(name)) = (&mut self.systemd, listener.store_name()) {
            systemd.remove(name);
            systemd.store(listener.as_fd(), name)?;
        }
        Ok(())
    }

    /// We serve no more: the copies of our sockets that wait for systemd or its answer go as well.
    pub fn forget_listeners(&mut self, watch: &mut Watch) {
        self.stop_asking(watch);
        if let Some(systemd) = &mut self.systemd {
            systemd.forget_stores();
        }
    }

    fn stop_asking(&mut self, watch: &mut Watch) {
        if let Some((check, tickets)) = self.asking.take() {
            for (fd, ticket) in check.fds().into_iter().zip(tickets) {
                watch.remove(fd, ticket);
            }
        }
    }

    /// Takes the question on; the answer when there is one.
    fn ask(&mut self, watch: &mut Watch) -> io::Result<Option<Stored>> {
        let (Some((check, _)), Some(systemd)) = (&mut self.asking, &mut self.systemd) else {
            return Ok(None);
        };
        let answer = check.turn(clock::now(), systemd);
        if !matches!(answer, Ok(None)) {
            self.stop_asking(watch);
        }
        answer
    }

    pub fn deadline(&self) -> Option<Instant> {
        let asking = self.asking.as_ref().and_then(|(check, _)| check.deadline());
        let all = [self.next_watchdog, asking, self.retry];
        all.into_iter().flatten().min()
    }

    pub fn reloading(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            systemd.reloading(clock::now().0 / 1000);
        }
    }

    /// A generation has its verdict; `up`: one has been live.
    pub fn on_verdict(&mut self, up: bool) {
        if let Some(systemd) = self.systemd.as_mut().filter(|_| up) {
            systemd.ready();
        }
    }
}

impl Daemon {
    /// At the end of a turn.
    pub(super) fn tell_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd.systemd else {
            return;
        };
        let now = clock::now();
        if self.core.is_stopping() && !self.systemd.stopping {
            self.systemd.stopping = true;
            systemd.stopping();
        }
        systemd.status(&summary(&self.core, &self.last_verdict));
        let limit = self.core.gate_deadline();
        if limit > self.systemd.extended {
            let _ = limit.map(|limit| systemd.extend_timeout(limit - now + SLACK));
        }
        self.systemd.extended = limit;
        if let (Some(due), Some(every)) = (self.systemd.next_watchdog, systemd.watchdog_interval())
        {
            if due <= now {
                systemd.watchdog();
                self.systemd.next_watchdog = Some(now + every);
            }
        }
    }

    /// Sends what waits for systemd.
    pub(super) fn flush_systemd(&mut self) {
        let now = clock::now();
        let Some(systemd) = &mut self.systemd.systemd else {
            return;
        };
        if self.systemd.retry.is_some_and(|at| at > now) {
            return;
        }
        if let Err(error) = systemd.flush() {
            warn!(self.logger, "{error}; will try again");
        }
        self.systemd.retry = systemd.is_cut_off().then(|| now + RETRY);
    }

    /// The question about the fd store goes on, if there is one.
    pub(super) fn ask_about_store(&mut self) {
        let answer = self.systemd.ask(&mut self.watch);
        self.on_answer(answer);
    }

    pub(super) fn fill_store(&mut self, already: usize, forget: &[String]) {
        let answer = self
            .systemd
            .store(&mut self.watch, &self.listeners, already, forget);
        self.on_answer(answer);
    }

    fn on_answer(&self, answer: io::Result<Option<Stored>>) {
        match answer {
            Ok(Some(stored)) => self.on_stored(stored),
            Ok(None) => {}
            Err(error) => warn!(
                self.logger,
                "cannot use systemd's fd store: {}; a crash of socketmaster closes sockets",
                crate::text::error_text(&error)
            ),
        }
    }

    fn on_stored(&self, stored: Stored) {
        match stored {
            Stored::All => info!(
                self.logger,
                "systemd's fd store holds our listening sockets: \
                they outlive a crash of socketmaster"
            ),
            Stored::NotAll => warn!(
                self.logger,
                "systemd's fd store is too small for our \
                listening sockets: raise FileDescriptorStoreMax=, or a crash closes some"
            ),
            Stored::NoStore => {}
        }
    }
}
