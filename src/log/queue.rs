//! The lines that wait to be written, in the format of the sink: whole lines in, any number of
//! bytes out at the front. It is what the log and slog's drain share. It knows nothing of where
//! the bytes go, and never holds more of our own messages than its bound.

use super::format::{Format, Formatter, cut_mark};
use serde::{Deserialize, Serialize};
use slog::Level;

/// The whole queue, in bytes.
pub const QUEUE_LIMIT: usize = 320 * 1024;

/// What became of the last attempt to write what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkState {
    /// It was written, or is to be tried again at once.
    Open,
    /// The reader does not read; the descriptor will be writable when it does.
    Full,
    /// Nobody is there, but somebody will be: a syslog daemon that restarts.
    Absent,
    /// It cannot be written: a full disk, a closed reader, a terminal that is gone.
    Broken,
}

/// What another image of the program must carry on with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unwritten {
    /// What waits, oldest first: lines with their headers, the first of which may have been written
    /// in part. Any sink can take them.
    pub bytes: Vec<u8>,
    /// How many lines were dropped and are not yet spoken of.
    pub lost: u64,
}

/// The queue, and how lines are put into it.
pub struct Queue {
    pub formatter: Formatter,
    /// Messages of our own below this level are not logged.
    pub level: Level,
    /// How many lines were dropped and are not yet spoken of.
    pub lost: u64,
    bytes: Vec<u8>,
    /// So many of them, at the front, have been written.
    written: usize,
}

impl Queue {
    /// An empty queue for lines of the process `pid`.
    pub fn new(format: Format, pid: u32) -> Queue {
        Queue {
            formatter: Formatter::new(format, pid),
            level: Level::Info,
            lost: 0,
            bytes: Vec::new(),
            written: 0,
        }
    }

    /// What waits, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the oldest `count` bytes, which are written. What is left moves to the front when it
    /// is the smaller part: each byte once at most on average, and a reader that takes a little at
    /// a time cannot make the queue grow.
    pub fn consume(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.len() {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// How much memory is held, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives back the memory that is not needed for what waits.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Adds a worker's line that was cut by `cut` bytes. The caller has seen that there is room.
    /// Nearly all lines come this way: what is done here is done millions of times a second.
    pub fn push_worker_line(&mut self, pid: u32, line: &[u8], cut: u64) {
        let text = self.formatter.text(line);
        let header = self.formatter.worker_header(pid).as_bytes();
        self.bytes.reserve(header.len() + text.len() + 1);
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(&text);
        if cut > 0 {
            self.bytes.extend_from_slice(cut_mark(cut).as_bytes());
        }
        self.bytes.push(b'\n');
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
            self.lost += 1;
            return;
        }
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    /// Makes a line of a message of our own and adds it.
    pub fn push_own_text(&mut self, level: Level, text: &[u8]) {
        let line = self.own_line(level, text);
        self.push_own_line(&line);
    }

    /// What another image of the program must carry on with.
    pub fn unwritten(&self) -> Unwritten {
        Unwritten {
            bytes: self.bytes().to_vec(),
            lost: self.lost,
        }
    }

    /// Takes over what another image left. Before anything else is logged.
    pub fn restore(&mut self, left: Unwritten) {
        self.bytes = left.bytes;
        self.lost += left.lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_the_order_they_went_in() {
        let mut queue = Queue::new(Format::Journal, 1);
        queue.push_worker_line(1, b"one", 0);
        queue.push_own_text(Level::Warning, b"two");
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
        assert!(queue.memory() <= 256_000, "{}", queue.memory());
    }
}
