//! The sink that is a syslog daemon: our own non-blocking datagram socket, which follows the daemon
//! through a restart. It must never wait: what was refused stays in the queue, formatted and with
//! the time of its message.
//!
//! slog-syslog's streamer works on a copy of the socket. It hides errno and would put a new time on
//! what is sent twice, so it only gets our own messages, and only while nothing waits.

use super::SinkState;
use super::queue::Queue;
use crate::sys::socket::check_path;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use slog::Level;
use slog_syslog::Streamer3164;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use syslog::{Formatter3164, LoggerBackend};

/// The length, in bytes, to which a message is cut that the socket refuses for its length.
const SHORT: usize = 1000;
/// How many datagrams one turn may send.
const BATCH: usize = 256;

/// The connection to the syslog daemon.
pub struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Syslog {
    /// Connects to the datagram socket at `path`. The streamer is slog's drain over the same socket.
    ///
    /// Errors: connect(2)'s, so that a daemon that is absent at start is noticed.
    pub fn open(path: &Path, formatter: Formatter3164) -> io::Result<(Syslog, Streamer3164)> {
        check_path(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        let backend = LoggerBackend::Unix(socket.try_clone()?);
        let logger = Box::new(syslog::Logger::new(backend, formatter));
        // Its filter is upside down: Critical lets everything pass.
        let streamer = Streamer3164::new_with_level(logger, Level::Critical);
        let path = path.to_owned();
        Ok((Syslog { socket, path }, streamer))
    }

    /// The descriptor that becomes writable when the daemon has read something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends up to a turn's worth of what waits, one line a datagram.
    pub fn flush(&mut self, queue: &mut Queue) -> SinkState {
        for _ in 0..BATCH {
            let Some(end) = memchr::memchr(b'\n', queue.bytes()) else {
                return SinkState::Open;
            };
            let line = &queue.bytes()[..end];
            let mut sent = self.send(line);
            if sent == Err(Errno::EMSGSIZE) {
                let short = [&line[..line.len().min(SHORT)], b" [cut]"].concat();
                sent = self.send(&short);
            }
            match sent {
                Ok(()) => queue.consume(end + 1),
                Err(Errno::EAGAIN) => return SinkState::Full,
                Err(Errno::EMSGSIZE) => {
                    queue.consume(end + 1);
                    queue.state.lost += 1;
                }
                Err(_) => return SinkState::Absent,
            }
        }
        SinkState::Open
    }

    /// Sends one datagram. The socket of a daemon that has been restarted is another one, so any
    /// other failure is answered by connecting anew, once.
    fn send(&self, message: &[u8]) -> nix::Result<()> {
        let send = || send(self.socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL).map(drop);
        match send() {
            Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
            Err(Errno::EMSGSIZE) => Err(Errno::EMSGSIZE),
            Err(_) if self.socket.connect(&self.path).is_ok() => send(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
