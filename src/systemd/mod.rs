//! The service manager that started us: what it is told, and when. READY when the first generation
//! is live, RELOADING and READY around each reload, STATUS when it changes, WATCHDOG from the loop
//! itself, our sockets for its fd store. It must never block, and never pass on what workers say.

mod fdstore;
mod notify;

pub use fdstore::Stored;

use crate::supervisor::Instant;
use crate::text::{errno_text, error_text};
use nix::errno::Errno;
use notify::{Link, Notification, status_value};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// systemd's limit and ours must not be the same moment: ours comes first, with its reason.
const SLACK: Duration = Duration::from_secs(1);
/// How long to wait before trying anew to reach a service manager that is not there.
const RETRY: Duration = Duration::from_secs(5);

/// What systemd has been told, and what it is to be told. Another image of the program carries on
/// with it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SystemdState {
    /// The messages that could not be sent yet, oldest first.
    queue: VecDeque<Notification>,
    /// The last STATUS.
    status: String,
    is_stopping: bool,
    /// Until when it waits for a start or a reload.
    extended: Option<Instant>,
    next_watchdog: Option<Instant>,
    /// When to try again, if it could not be reached.
    retry: Option<Instant>,
    /// The names of our sockets in its fd store.
    stored: Vec<String>,
}

/// The service manager, and what it knows of us. What is said goes out at the next `flush`.
#[derive(Debug)]
pub struct Systemd {
    link: Link,
    state: SystemdState,
    /// Half the time after which it takes silence for death.
    watchdog: Option<Duration>,
    /// How many descriptors its fd store can hold; `None` if it is too old to say.
    store_capacity: Option<usize>,
    /// The failure that was reported last. It is not reported again until something is sent.
    failing: Option<String>,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID` and the size of the fd store through
    /// `variable`; `pid` is ours. `None` when no service manager wants messages. Sends nothing, and
    /// does not need the other side to be there yet.
    ///
    /// Errors: "NOTIFY_SOCKET=run/x: neither an absolute path nor an abstract name".
    pub fn from_env(
        variable: impl Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> Result<Option<Systemd>, String> {
        let Some(value) = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let link = Link::open(&value)?;
        let usec = variable("WATCHDOG_USEC");
        let watched = variable("WATCHDOG_PID");
        let watchdog = watchdog_interval(usec.as_deref(), watched.as_deref(), pid);
        let state = SystemdState {
            next_watchdog: watchdog.map(|_| Instant(0)),
            ..SystemdState::default()
        };
        Ok(Some(Systemd {
            link,
            state,
            watchdog,
            store_capacity: fdstore::capacity(variable),
            failing: None,
        }))
    }

    /// The socket to watch for WRITABLE; the same one for life, and edge-triggered will do.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.link.socket.as_fd()
    }

    /// When `tell` and `flush` are to be called although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [self.state.next_watchdog, self.state.retry];
        all.into_iter().flatten().min()
    }

    /// A reload begins.
    pub fn reloading(&mut self, now: Instant) {
        self.state.push(Notification::Reloading(now.0 / 1000));
    }

    /// The first generation is live, or a reload has its verdict.
    pub fn ready(&mut self) {
        self.state.push(Notification::Ready);
    }

    /// We are on the way out.
    pub fn stopping(&mut self) {
        if !self.state.is_stopping {
            self.state.is_stopping = true;
            self.state.push(Notification::Stopping);
        }
    }

    /// What holds at the end of a turn: the line of `systemctl status`, and until when a start or a
    /// reload that is under way has to be over, if it has to be.
    pub fn tell(&mut self, now: Instant, status: &str, limit: Option<Instant>) {
        let status = status_value(status);
        if status != self.state.status {
            self.state.status.clone_from(&status);
            self.state.push(Notification::Status(status));
        }
        if let Some(limit) = limit.filter(|limit| Some(*limit) > self.state.extended) {
            let usec = (limit - now + SLACK).as_micros() as u64;
            self.state.push(Notification::ExtendTimeout(usec));
        }
        self.state.extended = limit;
        if let Some((due, every)) = self.state.next_watchdog.zip(self.watchdog) {
            if due <= now {
                self.state.push(Notification::Watchdog);
                self.state.next_watchdog = Some(now + every);
            }
        }
    }

    /// Sends what waits, as far as it goes without blocking. Errors: "cannot notify systemd at
    /// /run/systemd/notify: Connection refused"; it is tried again later. A message that is refused
    /// for another reason is dropped. The same failure is returned again only after something was
    /// sent.
    pub fn flush(&mut self, now: Instant) -> Result<(), String> {
        use Errno::{ECONNREFUSED, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS};
        let is_gone = |errno| matches!(errno, ENOTCONN | ECONNREFUSED | ECONNRESET | EPIPE);
        let is_scarce = |errno| matches!(errno, ENOBUFS | ENOMEM | ETOOMANYREFS);
        if self.state.retry.is_some_and(|at| at > now) {
            return Ok(());
        }
        self.state.retry = None;
        let mut result = Ok(());
        while let Some(message) = self.state.queue.front() {
            let mut sent = self.link.send(message);
            if sent.is_err_and(is_gone) {
                if let Err(error) = self.link.connect() {
                    self.state.retry = Some(now + RETRY);
                    return self.fail(error_text(&error));
                }
                sent = self.link.send(message);
            }
            match sent {
                Ok(()) => self.failing = None,
                // systemd does not read: the socket becomes writable when it does.
                Err(Errno::EAGAIN) => break,
                // A failed attempt makes the socket writable: only the clock can tell when to go on.
                Err(errno) if is_gone(errno) || is_scarce(errno) => {
                    self.state.retry = Some(now + RETRY);
                    return self.fail(errno_text(errno as i32));
                }
                Err(errno) => result = result.and(self.fail(errno_text(errno as i32))),
            }
            if let Some(Notification::Store(name)) = self.state.queue.pop_front() {
                self.link.to_store.retain(|(of, _)| *of != name);
            }
        }
        result
    }

    fn fail(&mut self, word: String) -> Result<(), String> {
        let text = format!("cannot notify systemd at {}: {word}", self.link.name);
        match self.failing.replace(word.clone()) == Some(word) {
            true => Ok(()),
            false => Err(text),
        }
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
