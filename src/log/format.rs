//! What a line of the log looks like: in the original's form on stderr, in the journal's form, and
//! in syslog's. It writes nothing and decides nothing about capacity.

use crate::sys::io::local_time;
use crate::text::first_bytes;
use nix::sys::stat::fstat;
use slog::Level;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};
use syslog::{Facility, Formatter3164, LogFormat, Severity};

/// What a message to syslog is cut to, in bytes: the larger daemons take 8 KiB and would cut the
/// rest without a mark.
const SYSLOG_LIMIT: usize = 7900;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `socketmaster[812] 2026/11/22 07:00:01 text`, as the original writes to stderr.
    Plain,
    /// `<6>text` (sd-daemon(3)).
    Journal,
    /// `<30>Nov 22 07:00:01 socketmaster[812]: text` (RFC 3164).
    Syslog,
}

impl Format {
    /// The format for stderr: the journal's if JOURNAL_STREAM, `device:inode`, names it
    /// (systemd.exec(5)).
    pub fn of_stderr(stderr: BorrowedFd<'_>, journal_stream: Option<&OsStr>) -> Format {
        match (journal_stream, fstat(stderr)) {
            (Some(named), Ok(stat)) if named == &*format!("{}:{}", stat.st_dev, stat.st_ino) => {
                Format::Journal
            }
            _ => Format::Plain,
        }
    }
}

/// Makes the headers of lines. What all lines of one second, or of one worker, have in common is made
/// once: that doubles how many short lines we can take.
pub struct Formatter {
    format: Format,
    /// slog-syslog's streamer formats with a copy of it.
    pub syslog: Formatter3164,
    /// The second of the wall clock that the header names.
    second: u64,
    info: String,
    worker: String,
    worker_pid: Option<u32>,
}

impl Formatter {
    /// For lines of the process `pid`.
    pub fn new(format: Format, pid: u32) -> Formatter {
        let mut formatter = Formatter {
            format,
            syslog: Formatter3164 {
                facility: Facility::LOG_DAEMON,
                hostname: None,
                process: "socketmaster".into(),
                pid: pid as i32,
            },
            second: u64::MAX,
            info: String::new(),
            worker: String::new(),
            worker_pid: None,
        };
        formatter.tick();
        formatter
    }

    /// Reads the wall clock; lines that follow bear this time.
    pub fn tick(&mut self) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = since_1970.map_or(0, |time| time.as_secs());
        if second != self.second {
            self.second = second;
            self.info = self.header(Level::Info);
            self.worker_pid = None;
        }
    }

    /// The header of a worker's line, at the time of the last [`tick`](Self::tick).
    pub fn worker_header(&mut self, pid: u32) -> &str {
        if self.worker_pid != Some(pid) {
            self.worker = format!("{}[{pid}] ", self.info);
            self.worker_pid = Some(pid);
        }
        &self.worker
    }

    /// The header of a message of our own, at the present time.
    pub fn own_header(&mut self, level: Level) -> String {
        self.tick();
        match self.format {
            Format::Plain => self.info.clone(),
            _ => self.header(level),
        }
    }

    fn header(&self, level: Level) -> String {
        match self.format {
            Format::Plain => {
                let (pid, t) = (self.syslog.pid, local_time(self.second as i64));
                format!(
                    "socketmaster[{pid}] {:04}/{:02}/{:02} {:02}:{:02}:{:02} ",
                    t.tm_year + 1900,
                    t.tm_mon + 1,
                    t.tm_mday,
                    t.tm_hour,
                    t.tm_min,
                    t.tm_sec
                )
            }
            Format::Journal => format!("<{}>", severity(level) as u8),
            Format::Syslog => {
                let mut header = Vec::new();
                // Writing to a Vec cannot fail.
                let _ = self.syslog.format(&mut header, severity(level), "");
                String::from_utf8_lossy(&header).into_owned()
            }
        }
    }

    /// A line's text as the sink can take it: unchanged on stderr; to the journal NUL, which would
    /// end the line there, is spelt out; to syslog all that could break a message is.
    pub fn text<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        match self.format {
            Format::Journal if memchr::memchr(0, line).is_some() => {
                let parts: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                Cow::Owned(parts.join(&b"\\x00"[..]))
            }
            Format::Plain | Format::Journal => Cow::Borrowed(line),
            Format::Syslog => Cow::Owned(escape(line).into_bytes()),
        }
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Critical => Severity::LOG_CRIT,
        Level::Error => Severity::LOG_ERR,
        Level::Warning => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

/// What follows a line that was cut by `cut` bytes.
pub fn cut_mark(cut: u64) -> String {
    match cut {
        0 => String::new(),
        1 => " [cut: 1 more byte]".into(),
        _ => format!(" [cut: {cut} more bytes]"),
    }
}

/// Text that cannot break a syslog message: control characters and what is not UTF-8 as `\x1b`,
/// a tab as `\t`, and no longer than a datagram may be (cut, and marked).
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                let mut encoded = [0; 4];
                let encoded = character.encode_utf8(&mut encoded).as_bytes();
                text += &encoded.escape_ascii().to_string();
            } else {
                text.push(character);
            }
        }
        text += &chunk.invalid().escape_ascii().to_string();
    }
    match text.len() > SYSLOG_LIMIT {
        true => first_bytes(&text, SYSLOG_LIMIT).to_owned() + " [cut]",
        false => text,
    }
}
