//! Messages to systemd (sd_notify(3)), or to whoever else set `NOTIFY_SOCKET`: the socket, and a
//! short queue of what could not be sent yet, so that a systemd that does not read never holds us
//! up. When to say what is decided elsewhere.

use crate::sys::socket::check_path;
use crate::text::{error_text, one_line};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX) whole.
const LONGEST: usize = 4095;

/// What systemd can be told, one datagram each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Ready,
    /// CLOCK_MONOTONIC in microseconds: `Type=notify-reload` wants it in the same datagram
    /// (systemd.service(5)).
    Reloading(u64),
    Stopping,
    /// The line of `systemctl status`.
    Status(String),
    Watchdog,
    /// How much time we need from now on, in microseconds.
    ExtendTimeout(u64),
    /// The descriptor that goes with this name is to be stored.
    Store(String),
    /// What has this name is to be dropped from the store.
    Remove(String),
}

impl Message {
    pub fn text(&self) -> String {
        match self {
            Message::Ready => "READY=1".into(),
            Message::Reloading(usec) => format!("RELOADING=1\nMONOTONIC_USEC={usec}"),
            Message::Stopping => "STOPPING=1".into(),
            Message::Status(text) => format!("STATUS={text}"),
            Message::Watchdog => "WATCHDOG=1".into(),
            Message::ExtendTimeout(usec) => format!("EXTEND_TIMEOUT_USEC={usec}"),
            // FDPOLL=0, or systemd drops a socket that a worker has shut down, which we revive.
            Message::Store(name) => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            Message::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
        }
    }

    fn is_same_kind(&self, other: &Message) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn is_state(&self) -> bool {
        use Message::{Ready, Reloading, Stopping};
        matches!(self, Ready | Reloading(_) | Stopping)
    }
}

/// A text as the value of a STATUS message that systemd takes whole, in one line.
pub fn status_value(text: &str) -> String {
    let mut value = one_line(text);
    let mut end = (LONGEST - "STATUS=".len()).min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.truncate(end);
    value
}

/// Messages that wait to be sent, in order. A newer one replaces what it makes void, so that there
/// are never more than a handful.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Queue(VecDeque<Message>);

impl Queue {
    /// READY, RELOADING and STOPPING keep their order and are dropped in one case only: a reload
    /// whose beginning and end are both still unsent when the next one begins.
    pub fn push(&mut self, new: Message) {
        match &new {
            Message::Reloading(_) => {
                if let Some(begun) = self.0.iter().position(|old| old.is_same_kind(&new)) {
                    let mut later = self.0.split_off(begun);
                    later.retain(|old| !matches!(old, Message::Reloading(_) | Message::Ready));
                    self.0.append(&mut later);
                }
            }
            Message::Ready | Message::Stopping => {
                let last_state = self.0.iter().rfind(|old| old.is_state());
                if last_state == Some(&new) {
                    return;
                }
            }
            Message::Remove(name) => {
                let stored = Message::Store(name.clone());
                self.0.retain(|old| *old != new && *old != stored);
            }
            Message::Store(_) => self.0.retain(|old| *old != new),
            Message::Status(_) | Message::Watchdog | Message::ExtendTimeout(_) => {
                self.0.retain(|old| !old.is_same_kind(&new));
            }
        }
        self.0.push_back(new);
    }

    /// Nothing is to be stored any more.
    pub fn forget_stores(&mut self) {
        self.0.retain(|old| !matches!(old, Message::Store(_)));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The way to systemd.
#[derive(Debug)]
pub struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
    name: String,
    /// The descriptors that wait to be stored, by their names in the store.
    pub to_store: BTreeMap<String, OwnedFd>,
    blocked: bool,
    failing: Option<Errno>,
}

impl Link {
    /// Sends nothing, and does not need the other side to be there yet. Errors:
    /// "NOTIFY_SOCKET=run/x: neither an absolute path nor an abstract name".
    pub fn open(value: &OsStr) -> Result<Link, String> {
        let name = value.to_string_lossy().into_owned();
        let named = |error: io::Error| format!("NOTIFY_SOCKET={name}: {}", error_text(&error));
        let address = match value.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
            [b'/', ..] => {
                check_path(Path::new(value)).and_then(|()| SocketAddr::from_pathname(value))
            }
            _ => Err(io::Error::other(
                "neither an absolute path nor an abstract name",
            )),
        };
        let address = address.map_err(named)?;
        let socket = UnixDatagram::unbound().map_err(named)?;
        socket.set_nonblocking(true).map_err(named)?;
        Ok(Link {
            socket,
            address,
            name,
            to_store: BTreeMap::new(),
            blocked: false,
            failing: None,
        })
    }

    /// Whether something waits for systemd to read; the socket turns writable then.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether something waits that cannot be sent, and nothing will tell when it can. (An attempt
    /// that fails makes an unconnected socket writable anew, so that only the clock can tell.)
    pub fn is_cut_off(&self, queue: &Queue) -> bool {
        self.failing.is_some() && !self.blocked && !queue.is_empty()
    }

    /// The socket to watch for WRITABLE; the same one for life, and edge-triggered will do.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends what waits, as far as it goes without blocking. Errors: systemd cannot be reached
    /// (then the queue is kept) or refuses a message (then that one is dropped); the same failure
    /// is not returned again until something got through.
    pub fn flush(&mut self, queue: &mut Queue) -> Result<(), String> {
        let mut reconnected = false;
        let mut refused = None;
        self.blocked = false;
        while let Some(message) = queue.0.front() {
            let errno = match self.send(message) {
                Ok(()) => {
                    self.failing = None;
                    self.drop_first(queue);
                    continue;
                }
                Err(errno) => errno,
            };
            use Errno::{ECONNREFUSED, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS};
            match errno {
                Errno::EINTR => {}
                Errno::EAGAIN => {
                    self.blocked = true;
                    break;
                }
                ENOTCONN | ECONNREFUSED | ECONNRESET | EPIPE if !reconnected => {
                    reconnected = true;
                    if let Err(error) = self.socket.connect_addr(&self.address) {
                        let errno = error.raw_os_error().unwrap_or_default();
                        return self.fail(Errno::from_raw(errno));
                    }
                }
                ENOTCONN | ECONNREFUSED | ECONNRESET | EPIPE | ENOBUFS | ENOMEM | ETOOMANYREFS => {
                    return self.fail(errno);
                }
                _ => {
                    refused = Some(errno);
                    self.drop_first(queue);
                }
            }
        }
        refused.map_or(Ok(()), |errno| self.fail(errno))
    }

    fn send(&self, message: &Message) -> nix::Result<()> {
        let text = message.text();
        let parts = [IoSlice::new(text.as_bytes())];
        let descriptor: Option<RawFd> = match message {
            // One that is missing was given up since.
            Message::Store(name) => match self.to_store.get(name) {
                Some(descriptor) => Some(descriptor.as_raw_fd()),
                None => return Ok(()),
            },
            _ => None,
        };
        let rights = descriptor.as_slice();
        let rights = [ControlMessage::ScmRights(rights)];
        let control = if descriptor.is_some() {
            &rights[..]
        } else {
            &[]
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None).map(drop)
    }

    fn drop_first(&mut self, queue: &mut Queue) {
        if let Some(Message::Store(name)) = queue.0.pop_front() {
            self.to_store.remove(&name);
        }
    }

    fn fail(&mut self, errno: Errno) -> Result<(), String> {
        match self.failing.replace(errno) == Some(errno) {
            true => Ok(()),
            false => {
                let (name, word) = (&self.name, errno.desc());
                Err(format!("cannot notify systemd at {name}: {word}"))
            }
        }
    }
}
