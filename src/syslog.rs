//! The way out through syslog: our own non-blocking datagram socket below slog-syslog's streamer,
//! which follows the daemon through a restart, and the escaping that keeps one message on one
//! line. It never waits; what was refused stays in the queue, formatted and with the time it was
//! said at.
//!
//! The streamer hides errno, restamps what is sent twice and says `notice` for slog's `info`. So
//! our own messages go through it when nothing is queued, one level lower; all else is formatted
//! here by the same formatter of the syslog crate, waits in the queue as one line a datagram, and
//! is sent from there.

use crate::log::{OWN_FDS_FROM, Outcome, Queue};
use crate::sys::io::copy_above;
use nix::errno::Errno;
use slog::{Drain, Level, OwnedKVList, Record, RecordStatic, b};
use slog_syslog::Streamer3164;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use syslog::{Facility, Formatter3164, LogFormat, LoggerBackend, Severity};

/// What a message is cut to: the larger daemons take 8 KiB and would cut the rest in silence.
const TEXT_LIMIT: usize = 7900;
/// What is still tried when a socket refuses that.
const SHORT: usize = 1000;
/// How many datagrams a turn may cost.
const BATCH: usize = 256;

/// The connection to the syslog daemon.
pub struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    formatter: Formatter3164,
}

impl Syslog {
    /// Connects to the datagram socket at `path`; messages carry `socketmaster[pid]`.
    ///
    /// Errors: whatever connect(2) says, so that a daemon absent at start is noticed.
    pub fn open(path: &Path, pid: u32) -> nix::Result<Syslog> {
        let socket = UnixDatagram::unbound().map_err(errno_of)?;
        socket.set_nonblocking(true).map_err(errno_of)?;
        socket.connect(path).map_err(errno_of)?;
        Ok(Syslog {
            socket: copy(&socket)?,
            path: path.to_owned(),
            formatter: Formatter3164 {
                facility: Facility::LOG_DAEMON,
                hostname: None,
                process: "socketmaster".into(),
                pid: pid as i32,
            },
        })
    }

    /// slog's drain over a copy of the socket: reconnecting one reconnects both.
    pub fn streamer(&self) -> nix::Result<Streamer3164> {
        let backend = LoggerBackend::Unix(copy(&self.socket)?);
        let logger = syslog::Logger::new(backend, self.formatter.clone());
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

    /// Queues one message of at most one line; `text` has been through [`escape`].
    pub fn queue(&self, queue: &mut Queue, level: Level, text: &str) {
        let mut message = Vec::with_capacity(text.len() + 64);
        let severity = match level {
            Level::Critical => Severity::LOG_CRIT,
            Level::Error => Severity::LOG_ERR,
            Level::Warning => Severity::LOG_WARNING,
            Level::Info => Severity::LOG_INFO,
            Level::Debug | Level::Trace => Severity::LOG_DEBUG,
        };
        let formatted = self.formatter.format(&mut message, severity, text);
        debug_assert!(formatted.is_ok(), "a Vec takes everything");
        queue.push_line(&message, b"");
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

/// Text that cannot break a syslog message: control characters and what is not UTF-8 as `\x1b`,
/// a tab as `\t`, and no longer than a datagram may be (cut, and marked).
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().min(TEXT_LIMIT) + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                c if c.is_control() => escape_bytes(&mut text, c.encode_utf8(&mut [0; 4])),
                c => text.push(c),
            }
            if text.len() > TEXT_LIMIT {
                return cut(text);
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    if text.len() > TEXT_LIMIT {
        return cut(text);
    }
    text
}

fn escape_bytes(text: &mut String, bytes: impl AsRef<[u8]>) {
    for byte in bytes.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

fn cut(mut text: String) -> String {
    let mut end = TEXT_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(" [cut]");
    text
}

#[cfg(test)]
mod tests;
