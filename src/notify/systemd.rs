//! What we tell systemd (sd_notify(3)) or whoever else set `NOTIFY_SOCKET`. It owns the socket and
//! a short queue of what could not be sent yet, so that a systemd which does not read never holds
//! us up; and it decides nothing about when to say what.

use super::one_line;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX) whole.
const LONGEST: usize = 4095;

/// The way to systemd. What is said is queued, in order, and goes out at the next
/// [`Systemd::flush`]; what a newer message makes void (an older STATUS, a reload that began and
/// ended unheard) is dropped, so that the queue never holds more than a handful.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    name: String,
    queue: VecDeque<Pending>,
    blocked: bool,
    failing: Option<Errno>,
    last_status: String,
    watchdog_interval: Option<Duration>,
    store_limit: Option<usize>,
}

/// A datagram that is to be sent.
#[derive(Debug)]
struct Pending {
    kind: Kind,
    text: String,
    fd: Option<OwnedFd>,
}

/// What a datagram is about, to know what it makes void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Ready,
    Reloading,
    Stopping,
    Status,
    Watchdog,
    ExtendTimeout,
    /// A descriptor for the store, by its name there.
    Store(String),
    /// Out of the store.
    Remove(String),
    Barrier,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID` and `FDSTORE` through `variable`;
    /// `pid` is ours. None when nobody wants to hear of us. Sends nothing, and does not need the
    /// other side to be there yet. Fails if the address is neither an absolute path nor `@` and a
    /// name.
    pub fn from_env(
        variable: &dyn Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> io::Result<Option<Systemd>> {
        let Some(value) = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let name = value.to_string_lossy().into_owned();
        let address = address(&value).map_err(|error| {
            io::Error::new(error.kind(), format!("NOTIFY_SOCKET={name}: {error}"))
        })?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Some(Systemd {
            socket,
            address,
            name,
            queue: VecDeque::new(),
            blocked: false,
            failing: None,
            last_status: String::new(),
            watchdog_interval: watchdog_interval(
                variable("WATCHDOG_USEC").as_deref(),
                variable("WATCHDOG_PID").as_deref(),
                pid,
            ),
            store_limit: variable("FDSTORE").and_then(|limit| limit.to_str()?.parse().ok()),
        }))
    }

    /// The first generation is ready, or a reload has its verdict.
    pub fn ready(&mut self) {
        self.say(Kind::Ready, "READY=1".to_owned());
    }

    /// A reload begins; `monotonic_usec` is CLOCK_MONOTONIC in microseconds
    /// (`Type=notify-reload` wants both in one datagram, systemd.service(5)).
    pub fn reloading(&mut self, monotonic_usec: u64) {
        self.say(Kind::Reloading, reloading_text(monotonic_usec));
    }

    /// We are on the way out.
    pub fn stopping(&mut self) {
        self.say(Kind::Stopping, "STOPPING=1".to_owned());
    }

    /// The line of `systemctl status`, cut to what systemd takes. Saying the same again is free.
    pub fn status(&mut self, text: &str) {
        let text = status_text(text);
        if text == self.last_status {
            return;
        }
        self.last_status.clone_from(&text);
        self.say(Kind::Status, text);
    }

    /// We live. To be said every [`Systemd::watchdog_interval`].
    pub fn watchdog(&mut self) {
        self.say(Kind::Watchdog, "WATCHDOG=1".to_owned());
    }

    /// Half the time after which systemd takes silence for death (sd_watchdog_enabled(3)); None
    /// when it does not watch, or watches another process.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    /// How many descriptors the unit's fd store takes, as systemd says it from 254 on (`FDSTORE`);
    /// None when there is no store or systemd is older.
    pub fn store_limit(&self) -> Option<usize> {
        self.store_limit
    }

    /// Give us this long from now, if that is later than systemd's own limit.
    pub fn extend_timeout(&mut self, time: Duration) {
        let text = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
        self.say(Kind::ExtendTimeout, text);
    }

    /// Whether something waits for systemd to read.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket to watch for WRITABLE; the same one for life, and edge-triggered will do.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends what waits, as far as it goes without blocking: call it at the end of every turn that
    /// may have said something, and when the socket turns writable. Fails when systemd cannot be
    /// reached (then the queue is kept) or refuses a message (then that one is dropped); the same
    /// failure is not returned again until something got through.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut reconnected = false;
        let mut refused = None;
        self.blocked = false;
        while let Some(pending) = self.queue.front() {
            match send(&self.socket, pending) {
                Ok(()) => {
                    self.failing = None;
                    self.queue.pop_front();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.blocked = true;
                    break;
                }
                Err(errno) if is_unconnected(errno) && !reconnected => {
                    reconnected = true;
                    if let Err(error) = self.socket.connect_addr(&self.address) {
                        return self.fail(errno_of(&error));
                    }
                }
                Err(errno) if is_unconnected(errno) || is_shortage(errno) => {
                    return self.fail(errno);
                }
                Err(errno) => {
                    refused = Some(errno);
                    self.queue.pop_front();
                }
            }
        }
        refused.map_or(Ok(()), |errno| self.fail(errno))
    }

    fn fail(&mut self, errno: Errno) -> io::Result<()> {
        if self.failing.replace(errno) == Some(errno) {
            return Ok(());
        }
        let system = io::Error::from(errno);
        let text = format!("cannot notify systemd at {}: {}", self.name, errno.desc());
        Err(io::Error::new(system.kind(), text))
    }

    fn say(&mut self, kind: Kind, text: String) {
        self.say_with(kind, text, None);
    }

    /// `fd` travels along, and is closed here once it has been sent.
    pub(super) fn say_with(&mut self, kind: Kind, text: String, fd: Option<OwnedFd>) {
        enqueue(&mut self.queue, Pending { kind, text, fd });
    }
}

fn address(value: &OsStr) -> io::Result<SocketAddr> {
    match value.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(value),
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "neither an absolute path nor an abstract name",
        )),
    }
}

fn watchdog_interval(usec: Option<&OsStr>, watched: Option<&OsStr>, pid: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
    if watched.is_some_and(|watched| number(watched) != Some(u64::from(pid))) {
        return None;
    }
    let usec = number(usec?)?;
    (usec > 0).then(|| Duration::from_micros((usec / 2).max(1)))
}

fn reloading_text(monotonic_usec: u64) -> String {
    format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}")
}

fn status_text(text: &str) -> String {
    let mut datagram = format!("STATUS={}", one_line(text));
    let mut end = LONGEST.min(datagram.len());
    while !datagram.is_char_boundary(end) {
        end -= 1;
    }
    datagram.truncate(end);
    datagram
}

/// Appends `new` after dropping what it makes void. READY, RELOADING and STOPPING keep their order
/// and are dropped in one case only: a reload whose beginning and end are both still unsent when
/// the next one begins.
fn enqueue(queue: &mut VecDeque<Pending>, new: Pending) {
    match &new.kind {
        Kind::Reloading => {
            if let Some(begun) = queue.iter().position(|old| old.kind == Kind::Reloading) {
                let mut index = 0;
                queue.retain(|old| {
                    index += 1;
                    index <= begun || !matches!(old.kind, Kind::Reloading | Kind::Ready)
                });
            }
        }
        Kind::Ready | Kind::Stopping => {
            let state = queue.iter().rev().find(|old| old.kind.is_state());
            if state.is_some_and(|old| old.kind == new.kind) {
                return;
            }
        }
        Kind::Remove(name) => {
            let stored = Kind::Store(name.clone());
            queue.retain(|old| old.kind != new.kind && old.kind != stored);
        }
        Kind::Status | Kind::Watchdog | Kind::ExtendTimeout | Kind::Store(_) => {
            queue.retain(|old| old.kind != new.kind);
        }
        Kind::Barrier => {}
    }
    queue.push_back(new);
}

impl Kind {
    fn is_state(&self) -> bool {
        matches!(self, Kind::Ready | Kind::Reloading | Kind::Stopping)
    }
}

fn send(socket: &UnixDatagram, pending: &Pending) -> nix::Result<()> {
    let text = [IoSlice::new(pending.text.as_bytes())];
    let fds: Vec<_> = pending.fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &text, control, flags, None).map(drop)
}

fn is_unconnected(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOTCONN | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE
    )
}

fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
}

fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
