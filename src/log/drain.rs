//! slog's drain for our own messages: slog-term's plain decorator in front of the queue, or
//! slog-syslog's streamer in front of the socket. It never writes to anything that could wait.

use super::format::escape;
use super::queue::Queue;
use super::syslog;
use slog::{Drain, Logger, Never, OwnedKVList, Record, o};
use slog_syslog::Streamer3164;
use slog_term::{Decorator, PlainDecorator};
use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

/// What one line of a message of our own is cut to, in bytes.
pub const MESSAGE_LIMIT: usize = 8 * 1024;

/// The logger for this queue; with a streamer, its messages go through that while nothing waits.
pub fn logger(queue: &Rc<RefCell<Queue>>, streamer: Option<Streamer3164>) -> Logger {
    let queue = Rc::clone(queue);
    let way = match streamer {
        Some(streamer) => Way::Syslog(streamer),
        None => Way::Stderr(PlainDecorator::new(OneLine {
            queue: Rc::clone(&queue),
            line: Vec::new(),
        })),
    };
    // slog asks for unwind safety; a panic aborts us.
    Logger::root(OwnMessages(AssertUnwindSafe((queue, way))), o!())
}

enum Way {
    Stderr(PlainDecorator<OneLine>),
    Syslog(Streamer3164),
}

struct OwnMessages(AssertUnwindSafe<(Rc<RefCell<Queue>>, Way)>);

impl Drain for OwnMessages {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let (queue, way) = &*self.0;
        let level = record.level();
        if !level.is_at_least(queue.borrow().level) {
            return Ok(());
        }
        for line in lines(&record.msg().to_string()) {
            match way {
                Way::Stderr(decorator) => {
                    let header = queue.borrow_mut().formatter.own_header(level);
                    let text = queue.borrow().formatter.text(line.as_bytes()).into_owned();
                    // What is written to is memory, so this cannot fail.
                    let _ = decorator.with_record(record, values, |decorated| {
                        decorated.start_timestamp()?;
                        decorated.write_all(header.as_bytes())?;
                        decorated.start_msg()?;
                        decorated.write_all(&text)
                    });
                }
                Way::Syslog(streamer) => {
                    let line = escape(line.as_bytes());
                    let is_free = queue.borrow().is_empty() && queue.borrow().is_open;
                    if !is_free || syslog::stream(streamer, record, values, &line).is_err() {
                        queue.borrow_mut().push_own_text(level, line.as_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Collects what the decorator writes; a flush, which ends each record, makes it a line.
struct OneLine {
    queue: Rc<RefCell<Queue>>,
    line: Vec<u8>,
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.queue.borrow_mut().push_own_line(&line);
        }
        Ok(())
    }
}

/// A message's lines, each of bounded length.
fn lines(message: &str) -> impl Iterator<Item = String> + '_ {
    message.trim_end_matches('\n').split('\n').map(|line| {
        if line.len() <= MESSAGE_LIMIT {
            return line.to_owned();
        }
        let mut end = MESSAGE_LIMIT;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        format!("{} [cut: {} more bytes]", &line[..end], line.len() - end)
    })
}
