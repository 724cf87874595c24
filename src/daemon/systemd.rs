//! What we tell systemd, and when: READY when the first generation is live, RELOADING and READY
//! around each reload, STATUS when it changes, the watchdog from a loop that really turns.

use super::Daemon;
use super::watch::{Source, Watch};
use crate::notify::Systemd;
use crate::status;
use crate::supervisor::Instant;
use crate::sys::clock;
use mio::Interest;
use std::io;
use std::time::Duration;

/// systemd's limit and ours must not be the same moment: ours comes first, with its reason.
const SLACK: Duration = Duration::from_secs(1);

/// The service manager above us, if there is one.
pub(super) struct Outer {
    systemd: Option<Systemd>,
    next_watchdog: Option<Instant>,
    extended: Option<Instant>,
    stopping: bool,
}

impl Outer {
    pub fn new(watch: &mut Watch, systemd: Option<Systemd>) -> io::Result<Outer> {
        if let Some(systemd) = &systemd {
            watch.add(systemd.wait_fd(), Source::Systemd, Interest::WRITABLE)?;
        }
        let watched = systemd.as_ref().and_then(Systemd::watchdog_interval);
        let next_watchdog = watched.map(|_| clock::now());
        Ok(Outer {
            systemd,
            next_watchdog,
            extended: None,
            stopping: false,
        })
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next_watchdog
    }

    pub fn reloading(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            let _ = systemd.reloading(clock::now().0 / 1000);
        }
    }

    /// A generation has its verdict; `up`: one has been live.
    pub fn on_verdict(&mut self, up: bool) {
        if let Some(systemd) = self.systemd.as_mut().filter(|_| up) {
            let _ = systemd.ready();
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
            let _ = systemd.stopping();
        }
        let _ = systemd.status(&status::summary(&self.core, &self.last_verdict));
        let limit = self.core.gate_deadline();
        if limit > self.systemd.extended {
            let _ = limit.map(|limit| systemd.extend_timeout(limit - now + SLACK));
        }
        self.systemd.extended = limit;
        if let (Some(due), Some(every)) = (self.systemd.next_watchdog, systemd.watchdog_interval())
        {
            if due <= now {
                let _ = systemd.watchdog();
                self.systemd.next_watchdog = Some(now + every);
            }
        }
    }

    /// systemd's socket can take more.
    pub(super) fn on_systemd(&mut self) {
        if let Some(systemd) = &mut self.systemd.systemd {
            let _ = systemd.flush();
        }
    }
}
