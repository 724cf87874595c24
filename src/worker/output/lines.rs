//! A worker's output cut into lines, and its last lines for a verdict. It takes bytes of any content
//! in any pieces, what it holds is bounded, and it reads and writes nothing itself.

use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};

/// What a line is cut to, in bytes.
pub const MAX_LINE: usize = 8 * 1024;
/// How much of the end is kept for a verdict, in bytes, and how many lines of it are shown.
const TAIL_LIMIT: usize = 2048;
const TAIL_LINES: usize = 5;

/// A line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line, or its first [`MAX_LINE`] bytes.
    pub bytes: &'a [u8],
    /// How many bytes of it were dropped after those.
    pub cut: u64,
}

/// What was read and not yet taken as lines: at most one cut line and what was added last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the present line begins; 0 after [`settle`](Self::settle).
    #[serde(skip)]
    start: usize,
    /// How many bytes of the present line were dropped behind its first `MAX_LINE`.
    cut: u64,
    /// The beginning of the present line was dropped, so its rest is dropped too.
    torn: bool,
}

impl LineBuffer {
    /// Lets `add` append bytes; returns what it returns.
    pub fn fill<T>(&mut self, add: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.compact();
        add(&mut self.bytes)
    }

    /// The `count` bytes that came last.
    pub fn last(&self, count: usize) -> &[u8] {
        &self.bytes[self.bytes.len() - count..]
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let (from, end) = loop {
            let from = self.start;
            let Some(length) = memchr(b'\n', self.held()) else {
                // Of a line without end no more is kept than will be shown.
                if self.torn {
                    self.bytes.truncate(self.start);
                }
                let excess = self.len().saturating_sub(MAX_LINE);
                self.cut += excess as u64;
                self.bytes.truncate(self.bytes.len() - excess);
                return None;
            };
            self.start = from + length + 1;
            if !std::mem::take(&mut self.torn) {
                break (from, from + length);
            }
        };
        let kept = (end - from).min(MAX_LINE);
        Some(Line {
            bytes: &self.bytes[from..from + kept],
            cut: std::mem::take(&mut self.cut) + (end - from - kept) as u64,
        })
    }

    /// The output ends here, newline or not: a last line without one becomes a line.
    pub fn end(&mut self) {
        // With a newline the rest of a torn line is dropped as usual.
        if self.held().last().is_some_and(|byte| *byte != b'\n') {
            self.bytes.push(b'\n');
        }
        if self.is_empty() {
            self.torn = false;
        }
    }

    /// Drops everything, and later the rest of a line that has begun; returns the number of
    /// dropped lines. Each line is counted once.
    pub fn discard(&mut self) -> u64 {
        let ends = memchr_iter(b'\n', self.held()).count() as u64;
        let is_open = self.held().last().is_some_and(|byte| *byte != b'\n');
        // The torn line at the front was counted when its beginning was dropped.
        let is_same_line = self.torn && ends == 0;
        let counted_before = u64::from(self.torn && ends > 0);
        let begun = u64::from(is_open && !is_same_line);
        *self = LineBuffer {
            torn: is_open || is_same_line,
            ..LineBuffer::default()
        };
        ends - counted_before + begun
    }

    /// How many bytes are held.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the lines that were taken, and frees the memory that the others do not need.
    pub fn settle(&mut self) {
        self.compact();
        self.bytes.shrink_to_fit();
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }

    fn held(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The last bytes of a worker's output, kept beside the log for the verdict on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    /// Adds what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(TAIL_LIMIT)..];
        let excess = (self.bytes.len() + last.len()).saturating_sub(TAIL_LIMIT);
        self.bytes.drain(..excess);
        self.bytes.extend_from_slice(last);
    }

    /// The last lines that are not empty, oldest first, as text.
    pub fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let whole = match text.split_once('\n') {
            // The first line may be half a line.
            Some((_, whole)) if self.bytes.len() == TAIL_LIMIT && !whole.is_empty() => whole,
            _ => &text,
        };
        let lines = whole.lines().filter(|line| !line.trim().is_empty());
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.split_off(lines.len().saturating_sub(TAIL_LINES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(buffer: &mut LineBuffer, bytes: &[u8]) {
        buffer.fill(|held| held.extend_from_slice(bytes));
    }

    /// All complete lines there are, owned.
    fn all(buffer: &mut LineBuffer) -> Vec<(Vec<u8>, u64)> {
        let mut lines = Vec::new();
        while let Some(line) = buffer.next_line() {
            lines.push((line.bytes.to_vec(), line.cut));
        }
        lines
    }

    fn whole(lines: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        lines.iter().map(|line| (line.to_vec(), 0)).collect()
    }

    /// A small generator of the same numbers each time.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        }
    }

    #[test]
    fn a_line_comes_when_its_newline_does() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, b"GET");
        assert_eq!(all(&mut buffer), whole(&[]));
        push(&mut buffer, b" /\nPUT");
        assert_eq!(all(&mut buffer), whole(&[b"GET /"]));
        push(&mut buffer, b" /\n");
        assert_eq!(all(&mut buffer), whole(&[b"PUT /"]));
    }

    #[test]
    fn empty_lines_carriage_returns_nul_and_invalid_utf8_pass_unchanged() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, b"\n\r\n\0x\xff\xfe\r\n\n");
        assert_eq!(
            all(&mut buffer),
            whole(&[b"", b"\r", b"\0x\xff\xfe\r", b""])
        );
    }

    #[test]
    fn an_unterminated_last_line_is_a_line_at_the_end() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, b"one\ntwo");
        buffer.end();
        assert_eq!(all(&mut buffer), whole(&[b"one", b"two"]));
        buffer.end();
        assert_eq!(all(&mut buffer), whole(&[]));
    }

    #[test]
    fn a_line_of_fifty_megabytes_costs_one_line_and_no_memory() {
        let mut buffer = LineBuffer::default();
        let block = vec![b'x'; 16 * 1024];
        for _ in 0..3200 {
            push(&mut buffer, &block);
            assert_eq!(buffer.next_line(), None);
            assert!(buffer.bytes.capacity() <= 64 * 1024);
        }
        push(&mut buffer, b"yy\nnext\n");
        let lines = all(&mut buffer);
        assert_eq!(lines[0].0, block[..MAX_LINE]);
        assert_eq!(lines[0].1, (3200 * 16 * 1024 + 2 - MAX_LINE) as u64);
        assert_eq!(lines[1..], whole(&[b"next"]));
    }

    #[test]
    fn a_line_of_just_the_limit_is_whole() {
        let mut buffer = LineBuffer::default();
        let mut line = vec![b'x'; MAX_LINE];
        push(&mut buffer, &line);
        assert_eq!(buffer.next_line(), None);
        push(&mut buffer, b"\n");
        assert_eq!(all(&mut buffer), whole(&[&line]));
        line.extend_from_slice(b"y\n");
        push(&mut buffer, &line);
        assert_eq!(all(&mut buffer)[0].1, 1);
    }

    #[test]
    fn no_more_memory_is_kept_than_is_held() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, &b"a line\n".repeat(10_000));
        push(&mut buffer, b" half\nhalf");
        assert_eq!(all(&mut buffer).len(), 10_001);
        buffer.settle();
        assert_eq!((buffer.bytes.len(), buffer.bytes.capacity()), (4, 4));
        push(&mut buffer, b"\n");
        assert_eq!(all(&mut buffer), whole(&[b"half"]));
        buffer.settle();
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn each_dropped_line_is_counted_once_and_no_half_line_remains() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, b"one\ntwo\nthr");
        assert_eq!(buffer.discard(), 3);
        push(&mut buffer, b"e");
        assert_eq!(buffer.discard(), 0);
        push(&mut buffer, b"e\nfour\nfi");
        assert_eq!(buffer.discard(), 2);
        push(&mut buffer, b"ve\nsix\n");
        assert_eq!(all(&mut buffer), whole(&[b"six"]));
        assert_eq!(buffer.discard(), 0);
    }

    #[test]
    fn a_torn_line_without_end_is_gone_at_the_end() {
        let mut buffer = LineBuffer::default();
        push(&mut buffer, b"on");
        assert_eq!(buffer.discard(), 1);
        push(&mut buffer, b"e");
        buffer.end();
        assert_eq!(all(&mut buffer), whole(&[]));
        buffer.end();
        push(&mut buffer, b"grandchild\n");
        assert_eq!(all(&mut buffer), whole(&[b"grandchild"]));
    }

    #[test]
    fn any_bytes_in_any_pieces_make_the_lines_that_splitting_makes() {
        let mut below = numbers();
        let mut text = Vec::new();
        for _ in 0..400 {
            let length = match below(10) {
                0 => 0,
                1 => MAX_LINE - 2 + below(5),
                2 => below(3 * MAX_LINE),
                _ => below(100),
            };
            text.extend((0..length).map(|_| 1 + below(9) as u8));
            text.push(b'\n');
        }
        let expected: Vec<(Vec<u8>, u64)> = text[..text.len() - 1]
            .split(|byte| *byte == b'\n')
            .map(|line| {
                let kept = line.len().min(MAX_LINE);
                (line[..kept].to_vec(), (line.len() - kept) as u64)
            })
            .collect();
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(1 + below(20_000)));
            push(&mut buffer, piece);
            rest = later;
            lines.extend(all(&mut buffer));
            if below(3) == 0 {
                buffer.settle();
                let text = serde_json::to_string(&buffer).unwrap();
                buffer = serde_json::from_str(&text).unwrap();
            }
        }
        assert!(lines == expected, "{} {}", lines.len(), expected.len());
    }

    #[test]
    fn the_last_five_lines_are_kept_however_they_come() {
        let mut tail = Tail::default();
        for number in 0..1000 {
            tail.push(format!("line {number}\n\n").as_bytes());
        }
        tail.push(b"no newl");
        tail.push(b"ine");
        let expected = ["line 996", "line 997", "line 998", "line 999", "no newline"];
        assert_eq!(tail.lines(), expected);
    }

    #[test]
    fn one_endless_line_is_kept_by_its_end() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; 100_000]);
        tail.push(b"end\n");
        let lines = tail.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("xend") && lines[0].len() < TAIL_LIMIT);
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(&[b'y'; 1000]);
        }
        assert!(tail.bytes.capacity() <= 8 * TAIL_LIMIT);
    }
}
