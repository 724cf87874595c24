//! The lines that wait to be written, in the form that the sink wants: whole lines are added at the
//! end, and any number of bytes is taken from the front. The log and slog's drain share it. It must
//! never know where the bytes go, and never hold more of our own messages than its limit.

use super::format::{Format, Formatter, cut_mark};
use serde::{Deserialize, Serialize};
use slog::Level;

/// Our own messages are added up to this limit, in bytes; workers' lines stop at a lower one.
pub const QUEUE_LIMIT: usize = 320 * 1024;

/// What another image of the program must carry on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogState {
    /// Lines with their headers, oldest first.
    pub bytes: Vec<u8>,
    /// How many of these bytes, at the front, are written: the last of them may be in the middle
    /// of a line.
    pub written: usize,
    /// How many lines were dropped and are not yet reported.
    pub lost: u64,
    /// Messages of our own below this level are not logged.
    #[serde(with = "crate::config::Level")]
    pub level: Level,
}

impl Default for LogState {
    fn default() -> LogState {
        LogState {
            bytes: Vec::new(),
            written: 0,
            lost: 0,
            level: Level::Info,
        }
    }
}

/// The queue, and how lines are put into it.
pub struct Queue {
    pub formatter: Formatter,
    pub state: LogState,
}

impl Queue {
    /// An empty queue for lines of the process `pid`.
    pub fn new(format: Format, pid: u32) -> Queue {
        Queue {
            formatter: Formatter::new(format, pid),
            state: LogState::default(),
        }
    }

    /// The bytes that wait, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.state.bytes[self.state.written..]
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Removes the oldest `count` bytes, which are written. The rest moves to the front when it is
    /// the smaller part: so each byte moves once at most on average, and a reader that takes a
    /// little at a time cannot make the queue grow.
    pub fn consume(&mut self, count: usize) {
        self.state.written += count;
        if self.state.written >= self.len() {
            self.state.bytes.drain(..self.state.written);
            self.state.written = 0;
        }
    }

    /// Adds a worker's line that was cut by `cut` bytes. The caller has seen that there is room.
    /// Nearly all lines come this way, up to millions a second.
    pub fn push_worker_line(&mut self, pid: u32, line: &[u8], cut: u64) {
        let text = self.formatter.text(line);
        let header = self.formatter.worker_header(pid).as_bytes();
        let bytes = &mut self.state.bytes;
        bytes.reserve(header.len() + text.len() + 1);
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(&text);
        if cut > 0 {
            bytes.extend_from_slice(cut_mark(cut).as_bytes());
        }
        bytes.push(b'\n');
    }

    /// A message of our own, of one line, with its header and in the form of the sink.
    pub fn own_line(&mut self, level: Level, text: &[u8]) -> Vec<u8> {
        let mut line = self.formatter.own_header(level).into_bytes();
        line.extend_from_slice(&self.formatter.text(text));
        line
    }

    /// Adds an [`own_line`](Self::own_line), or counts it as lost.
    pub fn push_own_line(&mut self, line: &[u8]) {
        if self.len() + line.len() >= QUEUE_LIMIT {
            self.state.lost += 1;
            return;
        }
        self.state.bytes.extend_from_slice(line);
        self.state.bytes.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_the_order_they_went_in() {
        let mut queue = Queue::new(Format::Journal, 1);
        queue.push_worker_line(1, b"one", 0);
        let line = queue.own_line(Level::Warning, b"two");
        queue.push_own_line(&line);
        queue.push_worker_line(2, b"", 7);
        let expected = b"<6>[1] one\n<4>two\n<6>[2]  [cut: 7 more bytes]\n";
        assert_eq!(queue.bytes(), expected);
        queue.consume(8);
        assert_eq!(queue.bytes(), &expected[8..]);
        assert_eq!(queue.len(), expected.len() - 8);
    }

    #[test]
    fn a_reader_that_takes_a_little_at_a_time_does_not_make_it_grow() {
        let mut queue = Queue::new(Format::Journal, 1);
        let line = [b'x'; 99];
        for _ in 0..600 {
            queue.push_own_line(&line);
        }
        for _ in 0..100_000 {
            queue.push_own_line(&line);
            queue.consume(100);
        }
        assert_eq!(queue.len(), 60_000);
        let memory = queue.state.bytes.capacity();
        assert!(memory <= 256_000, "{memory}");
    }
}
