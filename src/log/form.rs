//! What a line of the log looks like: in the original's form on stderr, in the journal's, in
//! syslog's. It writes nothing and decides nothing about room.

use crate::sys::io::local_time;
use nix::sys::stat::fstat;
use slog::Level;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// For whom a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Stderr,
    Journal,
    Syslog,
}

/// The beginnings of lines, made once a second and once a change of worker.
pub(super) struct Header {
    pid: u32,
    second: i64,
    own: String,
    worker: String,
    worker_pid: u32,
}

impl Header {
    pub(super) fn new(pid: u32) -> Header {
        let mut header = Header {
            pid,
            second: i64::MIN,
            own: String::new(),
            worker: String::new(),
            worker_pid: 0,
        };
        header.tick();
        header
    }

    pub(super) fn tick(&mut self) {
        let second = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs() as i64);
        if second == self.second {
            return;
        }
        self.second = second;
        self.worker_pid = 0;
        self.own.clear();
        let t = local_time(second);
        // Writing to a String cannot fail.
        let _ = write!(
            self.own,
            "socketmaster[{}] {:04}/{:02}/{:02} {:02}:{:02}:{:02} ",
            self.pid, t.year, t.month, t.day, t.hour, t.minute, t.second
        );
    }

    /// How a message of our own begins.
    pub(super) fn own(&self, form: Form, level: Level) -> &str {
        match form {
            Form::Stderr => &self.own,
            Form::Journal => priority(level),
            Form::Syslog => "",
        }
    }

    /// How a line of this worker begins.
    pub(super) fn worker(&mut self, form: Form, pid: u32) -> &str {
        if self.worker_pid != pid {
            self.worker_pid = pid;
            self.worker.clear();
            let begin = match form {
                Form::Stderr => &self.own,
                Form::Journal => priority(Level::Info),
                Form::Syslog => "",
            };
            let _ = write!(self.worker, "{begin}[{pid}] ");
        }
        &self.worker
    }
}

/// The journal's words for our levels (sd-daemon(3)).
fn priority(level: Level) -> &'static str {
    match level {
        Level::Critical => "<2>",
        Level::Error => "<3>",
        Level::Warning => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// What follows a line that is not complete.
pub(super) fn cut_mark(cut: u64) -> String {
    match cut {
        0 => String::new(),
        1 => " [cut: 1 more byte]".into(),
        _ => format!(" [cut: {cut} more bytes]"),
    }
}

/// To the journal, NUL is an end of line.
pub(super) fn is_printable(form: Form, line: &[u8]) -> bool {
    form != Form::Journal || memchr::memchr(0, line).is_none()
}

/// The line as it is; for the journal with NUL spelt out.
pub(super) fn printable(form: Form, line: &[u8]) -> Cow<'_, [u8]> {
    if is_printable(form, line) {
        return Cow::Borrowed(line);
    }
    let mut spelt = Vec::with_capacity(line.len() + 32);
    for part in line.split_inclusive(|byte| *byte == 0) {
        match part.strip_suffix(&[0]) {
            Some(text) => {
                spelt.extend_from_slice(text);
                spelt.extend_from_slice(b"\\x00");
            }
            None => spelt.extend_from_slice(part),
        }
    }
    Cow::Owned(spelt)
}

/// Whether JOURNAL_STREAM, `device:inode`, names this descriptor.
pub(super) fn is_journal(stderr: BorrowedFd<'_>, journal_stream: Option<&OsStr>) -> bool {
    match (journal_stream, fstat(stderr)) {
        (Some(named), Ok(stat)) => named == &*format!("{}:{}", stat.st_dev, stat.st_ino),
        _ => false,
    }
}
