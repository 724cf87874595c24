//! slog's drain for our own messages. To stderr they go through slog-term's decorator into the
//! queue; to syslog they go through slog-syslog's streamer, which sends at once, and into the queue
//! only while something waits there. It must never write to anything that could block.

use super::format::{cut_mark, escape};
use super::queue::Queue;
use crate::text::first_bytes;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, b, o, record_static};
use slog_syslog::Streamer3164;
use slog_term::{Decorator, PlainDecorator};
use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

/// The limit of one line of a message of our own, in bytes.
pub const MESSAGE_LIMIT: usize = 8 * 1024;

/// The logger for this queue, with a streamer if the sink is syslog.
pub fn logger(queue: &Rc<RefCell<Queue>>, streamer: Option<Streamer3164>) -> Logger {
    let drain = OwnMessages {
        queue: Rc::clone(queue),
        decorator: PlainDecorator::new(OwnLines(Rc::clone(queue))),
        streamer,
    };
    Logger::root(drain, o!())
}

struct OwnMessages {
    queue: Rc<RefCell<Queue>>,
    decorator: PlainDecorator<OwnLines>,
    streamer: Option<Streamer3164>,
}

// slog asks for both. A panic aborts the program, so nothing is seen half-changed.
impl UnwindSafe for OwnMessages {}
impl RefUnwindSafe for OwnMessages {}

impl Drain for OwnMessages {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let level = record.level();
        if !level.is_at_least(self.queue.borrow().state.level) {
            return Ok(());
        }
        for line in record.msg().to_string().trim_end_matches('\n').split('\n') {
            let kept = first_bytes(line, MESSAGE_LIMIT);
            let text = kept.to_owned() + &cut_mark((line.len() - kept.len()) as u64);
            // While something waits, what is sent at once would arrive out of order.
            let streamer = self.streamer.as_ref();
            let streamer = streamer.filter(|_| self.queue.borrow().is_empty());
            if streamer.is_some_and(|it| stream(it, record, values, &text).is_ok()) {
                continue;
            }
            let line = self.queue.borrow_mut().own_line(level, text.as_bytes());
            // The decorator writes to memory, so this cannot fail.
            let _ = self.decorator.with_record(record, values, |decorated| {
                decorated.start_msg()?;
                decorated.write_all(&line)
            });
        }
        Ok(())
    }
}

/// Sends one line through slog-syslog at the severity that slog's level means: slog-syslog itself
/// says notice for Info and info for Debug. An error says only that it was not sent.
fn stream(
    streamer: &Streamer3164,
    record: &Record<'_>,
    values: &OwnedKVList,
    text: &str,
) -> io::Result<()> {
    let level = match record.level() {
        Level::Info => Level::Debug,
        Level::Debug => Level::Trace,
        other => other,
    };
    let lowered = record_static!(level, "");
    let text = escape(text.as_bytes());
    streamer.log(
        &Record::new(&lowered, &format_args!("{text}"), b!()),
        values,
    )
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
