//! The lines that wait to be written, in the format of the sink: whole lines in, any number of
//! bytes out at the front. It is what the log and slog's drains share. It knows nothing of where
//! the bytes go, and never holds more of our own messages than its bound.

use super::format::{Format, Formatter, cut_mark};
use serde::{Deserialize, Serialize};
use slog::Level;

/// No pipe is read while more bytes than this wait.
pub const PIPES_LIMIT: usize = 64 * 1024;
/// The lines of what has been read are added up to here: a pipeful, with our header before each.
/// Lines shorter than about 16 bytes may have to wait in their worker's buffer.
pub const LINES_LIMIT: usize = 4 * PIPES_LIMIT;
/// The whole queue, with our own messages.
pub const QUEUE_LIMIT: usize = LINES_LIMIT + 64 * 1024;

/// What became of an attempt to write what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
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
    /// The form of the lines in `bytes`.
    pub format: Format,
    /// What waits, oldest first. The first line may have been written in part.
    pub bytes: Vec<u8>,
    /// How many lines were dropped and are not yet spoken of.
    pub lost: u64,
}

/// The queue, and how lines are put into it.
pub struct Queue {
    pub formatter: Formatter,
    bytes: Vec<u8>,
    /// So many of them, at the front, have been written.
    written: usize,
    /// How many lines were dropped and are not yet spoken of.
    pub lost: u64,
    /// Messages of our own below this level are not logged.
    pub level: Level,
    /// Nothing has been refused: what is sent past the queue, while it is empty, arrives in order.
    pub is_open: bool,
}

impl Queue {
    /// An empty queue for lines of the process `pid`.
    pub fn new(format: Format, pid: u32) -> Queue {
        Queue {
            formatter: Formatter::new(format, pid),
            bytes: Vec::new(),
            written: 0,
            lost: 0,
            level: Level::Info,
            is_open: true,
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

    /// Adds a message of our own, of one line and with its header, or counts it as lost.
    pub fn push_own_line(&mut self, line: &[u8]) {
        if self.len() + line.len() >= QUEUE_LIMIT {
            self.lost += 1;
            return;
        }
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    /// The same for a text that has no header yet.
    pub fn push_own_text(&mut self, level: Level, text: &[u8]) {
        let mut line = self.formatter.own_header(level).into_bytes();
        line.extend_from_slice(text);
        self.push_own_line(&line);
    }

    /// What another image of the program must carry on with.
    pub fn unwritten(&self) -> Unwritten {
        Unwritten {
            format: self.formatter.format(),
            bytes: self.bytes().to_vec(),
            lost: self.lost,
        }
    }

    /// Takes over what another image of the program left. Before anything else is logged. Lines
    /// in the form of another sink get this one's, with the present time.
    pub fn restore(&mut self, left: &Unwritten) {
        self.lost += left.lost;
        if left.format == self.formatter.format() {
            self.bytes.extend_from_slice(&left.bytes);
            return;
        }
        for line in left.bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let text = self.formatter.text(left.format.text_of(line)).into_owned();
            self.push_own_text(Level::Info, &text);
        }
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

    #[test]
    fn what_an_image_with_another_sink_left_unwritten_gets_the_form_of_this_one() {
        let formats = [Format::Plain, Format::Journal, Format::Syslog];
        for (before, after) in formats.iter().flat_map(|f| formats.map(|g| (*f, g))) {
            let mut queue = Queue::new(before, 1);
            queue.push_worker_line(815, b"GET / > ] : x", 0);
            queue.push_own_text(Level::Info, b"reload 2");
            queue.lost = 3;
            let text = serde_json::to_string(&queue.unwritten()).unwrap();
            let left: Unwritten = serde_json::from_str(&text).unwrap();
            let mut next = Queue::new(after, 1);
            next.restore(&left);
            assert_eq!(next.lost, 3);
            let lines: Vec<&[u8]> = next.bytes().split(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len(), 3);
            assert_eq!(after.text_of(lines[0]), b"[815] GET / > ] : x");
            assert_eq!(after.text_of(lines[1]), b"reload 2");
        }
    }
}
