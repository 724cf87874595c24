//! slog's drain for our own messages: slog-term's plain decorator in front of the queue, or
//! slog-syslog's streamer in front of the socket. It never writes to anything that could wait.

use super::format::{cut_mark, escape, first_bytes};
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
    let way = match streamer {
        Some(streamer) => Way::Syslog(streamer),
        None => Way::Stderr(PlainDecorator::new(OwnLines(Rc::clone(queue)))),
    };
    // slog asks for unwind safety; a panic aborts us.
    let messages = OwnMessages(AssertUnwindSafe((Rc::clone(queue), way)));
    Logger::root(messages, o!())
}

enum Way {
    Stderr(PlainDecorator<OwnLines>),
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
        for text in lines(&record.msg().to_string()) {
            match way {
                Way::Stderr(decorator) => {
                    let line = queue.borrow_mut().own_line(level, text.as_bytes());
                    // What is written to is memory, so this cannot fail.
                    let _ = decorator.with_record(record, values, |decorated| {
                        decorated.start_msg()?;
                        decorated.write_all(&line)
                    });
                }
                Way::Syslog(streamer) => {
                    // While something waits, it would arrive out of order.
                    let waits = !queue.borrow().is_empty();
                    if waits
                        || syslog::stream(streamer, record, values, &escape(text.as_bytes()))
                            .is_err()
                    {
                        queue.borrow_mut().push_own_text(level, text.as_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Takes the lines that the decorator writes, each in one piece.
struct OwnLines(Rc<RefCell<Queue>>);

impl Write for OwnLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push_own_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message's lines, each of bounded length.
fn lines(message: &str) -> impl Iterator<Item = String> + '_ {
    let lines = message.trim_end_matches('\n').split('\n');
    lines.map(|line| {
        let kept = first_bytes(line, MESSAGE_LIMIT);
        kept.to_owned() + &cut_mark((line.len() - kept.len()) as u64)
    })
}
