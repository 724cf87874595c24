//! The service manager above us: what it is told, and when. READY when the first generation is
//! live, RELOADING and READY around each reload, STATUS when it changes, WATCHDOG from a loop that
//! really turns, our sockets for its fd store. What workers say is never passed on.

mod fdstore;
mod notify;

pub use fdstore::Stored;

use crate::supervisor::Instant;
use fdstore::Room;
use notify::{Link, Message, Queue, status_value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// systemd's limit and ours must not be the same moment: ours comes first, with its reason.
const SLACK: Duration = Duration::from_secs(1);
/// How long to wait before trying anew to reach a service manager that is not there.
const RETRY: Duration = Duration::from_secs(5);

/// What systemd has been told.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// What could not be sent yet.
    queue: Queue,
    /// The last STATUS.
    status: String,
    is_stopping: bool,
    /// Until when it waits for a start or a reload.
    extended: Option<Instant>,
    next_watchdog: Option<Instant>,
    /// It could not be reached: when to try again.
    retry: Option<Instant>,
    /// The names of our sockets in its fd store.
    stored: BTreeSet<String>,
}

/// The service manager, and what it knows of us. What is said goes out at the next `flush`.
#[derive(Debug)]
pub struct Systemd {
    link: Link,
    state: State,
    /// Half the time after which it takes silence for death.
    watchdog: Option<Duration>,
    room: Room,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID` and what says the size of the fd store
    /// through `variable`; `pid` is ours. `None` when nobody wants to hear of us. Sends nothing, and
    /// does not need the other side to be there yet.
    ///
    /// Errors: "NOTIFY_SOCKET=run/x: neither an absolute path nor an abstract name".
    pub fn from_env(
        variable: &dyn Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> Result<Option<Systemd>, String> {
        let Some(value) = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let link = Link::open(&value)?;
        let usec = variable("WATCHDOG_USEC");
        let watched = variable("WATCHDOG_PID");
        let watchdog = watchdog_interval(usec.as_deref(), watched.as_deref(), pid);
        let state = State {
            next_watchdog: watchdog.map(|_| Instant(0)),
            ..State::default()
        };
        Ok(Some(Systemd {
            link,
            state,
            watchdog,
            room: Room::from_env(variable),
        }))
    }

    /// The socket to watch for WRITABLE; the same one for life, and edge-triggered will do.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.link.wait_fd()
    }

    /// When `tell` and `flush` are to be called although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [self.state.next_watchdog, self.state.retry];
        all.into_iter().flatten().min()
    }

    /// A reload begins.
    pub fn reloading(&mut self, now: Instant) {
        self.state.queue.push(Message::Reloading(now.0 / 1000));
    }

    /// The first generation is live, or a reload has its verdict.
    pub fn ready(&mut self) {
        self.state.queue.push(Message::Ready);
    }

    /// We are on the way out.
    pub fn stopping(&mut self) {
        if !self.state.is_stopping {
            self.state.is_stopping = true;
            self.state.queue.push(Message::Stopping);
        }
    }

    /// What holds at the end of a turn: the line of `systemctl status`, and until when a start or a
    /// reload that is under way has to be over, if it has to be.
    pub fn tell(&mut self, now: Instant, status: &str, limit: Option<Instant>) {
        let status = status_value(status);
        if status != self.state.status {
            self.state.status.clone_from(&status);
            self.state.queue.push(Message::Status(status));
        }
        if let Some(limit) = limit.filter(|limit| Some(*limit) > self.state.extended) {
            let usec = (limit - now + SLACK).as_micros() as u64;
            self.state.queue.push(Message::ExtendTimeout(usec));
        }
        self.state.extended = limit;
        if let Some((due, every)) = self.state.next_watchdog.zip(self.watchdog) {
            if due <= now {
                self.state.queue.push(Message::Watchdog);
                self.state.next_watchdog = Some(now + every);
            }
        }
    }

    /// Sends what waits, as far as it goes without blocking. Errors: "cannot notify systemd at
    /// /run/systemd/notify: Connection refused"; it is tried again, and said again only after
    /// something got through.
    pub fn flush(&mut self, now: Instant) -> Result<(), String> {
        if self.state.retry.is_some_and(|at| at > now) {
            return Ok(());
        }
        let flushed = self.link.flush(&mut self.state.queue);
        let is_cut_off = self.link.is_cut_off(&self.state.queue);
        self.state.retry = is_cut_off.then(|| now + RETRY);
        flushed
    }
}

/// Half of `WATCHDOG_USEC`; `None` when systemd does not watch, or watches another process
/// (sd_watchdog_enabled(3)).
fn watchdog_interval(usec: Option<&OsStr>, watched: Option<&OsStr>, pid: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
    if watched.is_some_and(|watched| number(watched) != Some(u64::from(pid))) {
        return None;
    }
    let usec = number(usec?)?;
    (usec > 0).then(|| Duration::from_micros((usec / 2).max(1)))
}

#[cfg(test)]
mod tests;
