//! slog's drains for our own messages: slog-term's plain decorator in front of the queue, and
//! slog-syslog's streamer in front of the socket. They never write to anything that could wait.

use super::form::{Form, printable};
use super::{Core, MESSAGE_LIMIT, State, Way};
use crate::syslog::{escape, stream};
use slog::{Drain, Logger, Never, OwnedKVList, Record, o};
use slog_syslog::Streamer3164;
use slog_term::{Decorator, PlainDecorator};
use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

/// The logger for this way out. slog asks for unwind safety; a panic aborts us.
pub(super) fn logger(core: &Rc<RefCell<Core>>) -> nix::Result<Logger> {
    let streamer = match &core.borrow().way {
        Way::Syslog(syslog) => Some(syslog.streamer()?),
        Way::Stderr(_) => None,
    };
    Ok(match streamer {
        Some(streamer) => Logger::root(
            ToSyslog(AssertUnwindSafe((streamer, Rc::clone(core)))),
            o!(),
        ),
        None => {
            let decorator = PlainDecorator::new(OneLine {
                core: Rc::clone(core),
                line: Vec::new(),
            });
            Logger::root(
                ToStderr(AssertUnwindSafe((decorator, Rc::clone(core)))),
                o!(),
            )
        }
    })
}

/// Our messages in the form of the original's log, or of the journal.
struct ToStderr(AssertUnwindSafe<(PlainDecorator<OneLine>, Rc<RefCell<Core>>)>);

impl Drain for ToStderr {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let (decorator, core) = &*self.0;
        let (header, form) = {
            let mut core = core.borrow_mut();
            if !record.level().is_at_least(core.least) {
                return Ok(());
            }
            core.header.tick();
            let header = core.header.own(core.form, record.level()).to_owned();
            (header, core.form)
        };
        for line in lines(&record.msg().to_string()) {
            // What is written to is memory, and its bound is counted behind it.
            let _ = decorator.with_record(record, values, |decorated| {
                decorated.start_timestamp()?;
                decorated.write_all(header.as_bytes())?;
                decorated.start_msg()?;
                decorated.write_all(&printable(form, line.as_bytes()))
            });
        }
        Ok(())
    }
}

/// Collects what the decorator writes; a flush, which ends each record, makes it a line.
struct OneLine {
    core: Rc<RefCell<Core>>,
    line: Vec<u8>,
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.core.borrow_mut().push_own(&self.line);
            self.line = Vec::new();
        }
        Ok(())
    }
}

/// Our messages straight to syslog, or into the queue when something waits there already.
struct ToSyslog(AssertUnwindSafe<(Streamer3164, Rc<RefCell<Core>>)>);

impl Drain for ToSyslog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let (streamer, core) = &*self.0;
        debug_assert!(core.borrow().form == Form::Syslog);
        for line in lines(&record.msg().to_string()) {
            let line = escape(line.as_bytes());
            let free = {
                let core = core.borrow();
                core.queue.is_empty() && core.state == State::Open
            };
            if !free || stream(streamer, record, values, &line).is_err() {
                core.borrow_mut().say(record.level(), &line);
            }
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
