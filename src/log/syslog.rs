//! The sink that is a syslog daemon: our own non-blocking datagram socket, with slog-syslog's
//! streamer over a copy of it, which follows the daemon through a restart. It never waits; what
//! was refused stays in the queue, formatted and with the time at which it was said.
//!
//! The streamer hides errno, stamps anew what is sent twice, and says `notice` for slog's `info`.
//! So our own messages go through it when nothing is queued, one level lower; all else waits in
//! the queue, one line a datagram, and is sent from there.

use super::OWN_FDS_FROM;
use super::queue::{Outcome, Queue};
use crate::sys::io::copy_above;
use nix::errno::Errno;
use slog::{Drain, Level, OwnedKVList, Record, RecordStatic, b};
use slog_syslog::Streamer3164;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use syslog::{Formatter3164, LoggerBackend};

/// What a message is cut to, in bytes, that a socket refuses for its length.
const SHORT: usize = 1000;
/// How many datagrams a turn may cost.
const BATCH: usize = 256;

/// The connection to the syslog daemon.
pub struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Syslog {
    /// Connects to the datagram socket at `path`.
    ///
    /// Errors: whatever connect(2) says, so that a daemon that is absent at start is noticed.
    pub fn open(path: &Path) -> nix::Result<Syslog> {
        let socket = UnixDatagram::unbound().map_err(errno_of)?;
        socket.set_nonblocking(true).map_err(errno_of)?;
        socket.connect(path).map_err(errno_of)?;
        Ok(Syslog {
            socket: copy(&socket)?,
            path: path.to_owned(),
        })
    }

    /// slog's drain over a copy of the socket: reconnecting one reconnects both.
    pub fn streamer(&self, formatter: Formatter3164) -> nix::Result<Streamer3164> {
        let backend = LoggerBackend::Unix(copy(&self.socket)?);
        let logger = syslog::Logger::new(backend, formatter);
        // Its filter is upside down: Critical lets everything pass.
        Ok(Streamer3164::new_with_level(
            Box::new(logger),
            Level::Critical,
        ))
    }

    /// The descriptor that becomes writable when the daemon has read something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends up to a turn's worth of what waits.
    pub fn flush(&mut self, queue: &mut Queue) -> Outcome {
        for _ in 0..BATCH {
            let Some(end) = memchr::memchr(b'\n', queue.bytes()) else {
                return Outcome::Open;
            };
            let sent = match self.send(&queue.bytes()[..end]) {
                Err(Errno::EMSGSIZE) => self.send_short(&queue.bytes()[..end]),
                other => other,
            };
            match sent {
                // Too long even so: there is nobody to tell but the next message.
                Ok(()) | Err(Errno::EMSGSIZE) => queue.consume(end + 1),
                Err(Errno::EAGAIN) => return Outcome::Full,
                Err(_) => return Outcome::Absent,
            }
        }
        Outcome::Open
    }

    /// One datagram; a daemon that has been restarted is connected to anew, once.
    fn send(&self, message: &[u8]) -> nix::Result<()> {
        match self.send_once(message) {
            Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
            Err(Errno::EMSGSIZE) => Err(Errno::EMSGSIZE),
            Err(_) => {
                self.socket.connect(&self.path).map_err(errno_of)?;
                self.send_once(message)
            }
            Ok(()) => Ok(()),
        }
    }

    fn send_once(&self, message: &[u8]) -> nix::Result<()> {
        self.socket.send(message).map(drop).map_err(errno_of)
    }

    fn send_short(&self, message: &[u8]) -> nix::Result<()> {
        let mut short = message[..message.len().min(SHORT)].to_vec();
        short.extend_from_slice(b" [cut]");
        self.send(&short)
    }
}

/// The same socket at a number that no listener will want.
fn copy(socket: &UnixDatagram) -> nix::Result<UnixDatagram> {
    Ok(copy_above(socket.as_fd(), OWN_FDS_FROM)?.into())
}

/// std's only error of its own here is for a path that no socket can have.
fn errno_of(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::ENAMETOOLONG))
}

/// Sends one line through slog-syslog at the severity that slog's level means. An error says only
/// that it was not sent.
pub fn stream(
    streamer: &Streamer3164,
    record: &Record<'_>,
    values: &OwnedKVList,
    line: &str,
) -> io::Result<()> {
    let lowered = RecordStatic {
        location: record.location(),
        tag: record.tag(),
        level: match record.level() {
            // slog-syslog says notice for Info and info for Debug.
            Level::Info => Level::Debug,
            Level::Debug => Level::Trace,
            other => other,
        },
    };
    streamer.log(
        &Record::new(&lowered, &format_args!("{line}"), b!()),
        values,
    )
}

#[cfg(test)]
mod tests;
