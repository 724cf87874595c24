//! Messages to systemd (sd_notify(3)), or to whoever else set `NOTIFY_SOCKET`: their text, the queue
//! of those that could not be sent yet, and the socket. It must never block, and never decide when
//! something is said.

use super::SystemdState;
use crate::sys::socket::check_path;
use crate::text::{error_text, first_bytes, one_line};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX) whole.
const LONGEST: usize = 4095;

/// What systemd can be told, one datagram each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notification {
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
    /// The descriptor of this name is to be stored.
    Store(String),
    /// The descriptors of this name are to be dropped from the store.
    Remove(String),
}

impl Notification {
    pub fn text(&self) -> String {
        match self {
            Notification::Ready => "READY=1".into(),
            Notification::Reloading(usec) => format!("RELOADING=1\nMONOTONIC_USEC={usec}"),
            Notification::Stopping => "STOPPING=1".into(),
            Notification::Status(text) => format!("STATUS={text}"),
            Notification::Watchdog => "WATCHDOG=1".into(),
            Notification::ExtendTimeout(usec) => format!("EXTEND_TIMEOUT_USEC={usec}"),
            // Without FDPOLL=0, systemd drops a socket that a worker has shut down, which we revive.
            Notification::Store(name) => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            Notification::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
        }
    }

    fn is_same_kind(&self, other: &Notification) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn is_state(&self) -> bool {
        use Notification::{Ready, Reloading, Stopping};
        matches!(self, Ready | Reloading(_) | Stopping)
    }
}

/// A text as the value of a STATUS message that systemd takes whole, in one line.
pub fn status_value(text: &str) -> String {
    first_bytes(&one_line(text), LONGEST - "STATUS=".len()).to_owned()
}

impl SystemdState {
    /// Adds a message to the queue. It replaces those that it makes void, so that there are never
    /// more than a handful. READY, RELOADING and STOPPING keep their order and are dropped in one
    /// case only: a reload whose beginning and end are both still unsent when the next one begins.
    pub fn push(&mut self, new: Notification) {
        let queue = &mut self.queue;
        match &new {
            Notification::Reloading(_) => {
                if let Some(begun) = queue.iter().position(|old| old.is_same_kind(&new)) {
                    let mut later = queue.split_off(begun);
                    later.retain(|old| !old.is_same_kind(&new) && *old != Notification::Ready);
                    queue.append(&mut later);
                }
            }
            Notification::Ready | Notification::Stopping => {
                if queue.iter().rfind(|old| old.is_state()) == Some(&new) {
                    return;
                }
            }
            Notification::Remove(name) => {
                let stored = Notification::Store(name.clone());
                queue.retain(|old| *old != new && *old != stored);
            }
            Notification::Store(_) => queue.retain(|old| *old != new),
            Notification::Status(_) | Notification::Watchdog | Notification::ExtendTimeout(_) => {
                queue.retain(|old| !old.is_same_kind(&new));
            }
        }
        queue.push_back(new);
    }
}

/// The way to systemd.
#[derive(Debug)]
pub struct Link {
    /// It is connected at the first message, and anew when systemd's socket is another one by then.
    pub socket: UnixDatagram,
    address: SocketAddr,
    pub name: String,
    /// The descriptors that wait to be stored, by their names in the store.
    pub to_store: Vec<(String, OwnedFd)>,
}

impl Link {
    /// Sends nothing, and does not need the other side to be there yet. Errors:
    /// "NOTIFY_SOCKET=run/x: neither an absolute path nor an abstract name".
    pub fn open(value: &OsStr) -> Result<Link, String> {
        let address = match value.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
            [b'/', ..] => {
                check_path(Path::new(value)).and_then(|()| SocketAddr::from_pathname(value))
            }
            _ => Err(io::Error::other(
                "neither an absolute path nor an abstract name",
            )),
        };
        let name = value.to_string_lossy().into_owned();
        let open = |address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        };
        let opened = address.and_then(open);
        let (socket, address) =
            opened.map_err(|error| format!("NOTIFY_SOCKET={name}: {}", error_text(&error)))?;
        Ok(Link {
            socket,
            address,
            name,
            to_store: Vec::new(),
        })
    }

    pub fn connect(&self) -> io::Result<()> {
        self.socket.connect_addr(&self.address)
    }

    /// Sends one message, if that is possible without waiting. Errors: sendmsg(2)'s.
    pub fn send(&self, message: &Notification) -> nix::Result<()> {
        let text = message.text();
        let mut descriptors = Vec::new();
        if let Notification::Store(name) = message {
            let Some((_, descriptor)) = self.to_store.iter().find(|(of, _)| of == name) else {
                return Ok(());
            };
            descriptors.push(descriptor.as_raw_fd());
        }
        let mut control = Vec::new();
        if !descriptors.is_empty() {
            control.push(ControlMessage::ScmRights(&descriptors));
        }
        let parts = [IoSlice::new(text.as_bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, &control, flags, None).map(drop)
    }
}
