//! A worker's output cut into lines. Pure: bytes in, lines out, of any content and in any pieces,
//! with a bound on what it holds.

use memchr::{memchr, memchr_iter};

/// What a line is cut to, in bytes.
pub const MAX_LINE: usize = 8 * 1024;

/// A line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line, or its first [`MAX_LINE`] bytes.
    pub bytes: &'a [u8],
    /// How many bytes of it were dropped after those.
    pub cut: u64,
}

/// Bytes that are not yet lines, or not yet asked for: at most one cut line and what was added
/// last. Memory to work in can be lent to it; between whiles it holds no more than it needs.
#[derive(Debug, Default)]
pub struct LineBuffer {
    /// What is held ends at `end`; after that is room that has been used before.
    data: Vec<u8>,
    end: usize,
    /// Where the present line begins.
    start: usize,
    /// Before it, from `start`, there is no newline.
    scanned: usize,
    /// How many bytes of the present line were dropped; then `MAX_LINE` bytes of it are here.
    cut: u64,
    /// The present line's beginning is lost: drop the rest too.
    torn: bool,
}

impl LineBuffer {
    /// Lets `read` fill up to `limit` bytes; returns what it returns.
    pub fn fill<E>(
        &mut self,
        limit: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.make_room(limit);
        let result = read(&mut self.data[self.end..self.end + limit]);
        self.end += result.as_ref().map_or(0, |count| *count);
        result
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.data[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// The `count` bytes that came last.
    pub fn last(&self, count: usize) -> &[u8] {
        &self.data[self.end - count..self.end]
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let Some(length) = memchr(b'\n', &self.data[self.scanned..self.end]) else {
                self.hold_back();
                return None;
            };
            let from = self.start;
            let end = self.scanned + length;
            self.start = end + 1;
            self.scanned = end + 1;
            if std::mem::take(&mut self.torn) {
                continue;
            }
            let kept = (end - from).min(MAX_LINE);
            let cut = std::mem::take(&mut self.cut) + (end - from - kept) as u64;
            return Some(Line {
                bytes: &self.data[from..from + kept],
                cut,
            });
        }
    }

    /// No newline is left: keeps no more of the present line than will be shown.
    fn hold_back(&mut self) {
        if self.torn {
            self.end = self.start;
        }
        let excess = (self.end - self.start).saturating_sub(MAX_LINE);
        self.cut += excess as u64;
        self.end -= excess;
        self.scanned = self.end;
    }

    /// The output ends here, newline or not: a last line without one becomes a line.
    pub fn end(&mut self) {
        // A torn line's rest is dropped by its newline, as ever.
        if self.held().last().is_some_and(|b| *b != b'\n') {
            self.push(b"\n");
        }
        if self.is_empty() {
            self.torn = false;
        }
    }

    /// Drops all there is, and the rest of a line that has only begun; says how many lines that
    /// makes, each counted once.
    pub fn discard(&mut self) -> u64 {
        let data = self.held();
        let ends = memchr_iter(b'\n', data).count() as u64;
        let open = data.last().is_some_and(|byte| *byte != b'\n');
        let counted = u64::from(self.torn && (ends > 0));
        let begun = u64::from(open && !(self.torn && ends == 0));
        self.torn = open || (self.torn && ends == 0);
        self.cut = 0;
        self.end = 0;
        self.start = 0;
        self.scanned = 0;
        ends - counted + begun
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Works in this memory, whatever is in it, until [`settle`](Self::settle).
    pub fn work_in(&mut self, mut memory: Vec<u8>) {
        let held = self.held();
        if memory.len() < held.len() {
            memory.resize(held.len(), 0);
        }
        memory[..held.len()].copy_from_slice(held);
        drop(self.move_into(memory));
    }

    /// Gives back the memory, and keeps what is held in a piece of just its size.
    pub fn settle(&mut self) -> Vec<u8> {
        let held = self.held().to_vec();
        self.move_into(held)
    }

    /// What is held is at the beginning of `memory` already.
    fn move_into(&mut self, memory: Vec<u8>) -> Vec<u8> {
        self.end -= self.start;
        self.scanned -= self.start;
        self.start = 0;
        std::mem::replace(&mut self.data, memory)
    }

    /// What another process image needs to go on: the bytes held, how many were cut from the
    /// present line, and whether its beginning is lost.
    pub fn state(&self) -> (&[u8], u64, bool) {
        (self.held(), self.cut, self.torn)
    }

    /// Goes on from a [`state`](Self::state).
    pub fn from_state(bytes: &[u8], cut: u64, torn: bool) -> LineBuffer {
        LineBuffer {
            data: bytes.to_vec(),
            end: bytes.len(),
            start: 0,
            scanned: 0,
            // A cut line's first part must be there, or its length would not add up.
            cut: if bytes.len() < MAX_LINE { 0 } else { cut },
            torn,
        }
    }

    fn held(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// Room for `length` bytes after what is held. New memory is zeroed once, not at each read.
    fn make_room(&mut self, length: usize) {
        self.compact();
        let missing = (self.end + length).saturating_sub(self.data.len());
        self.data.reserve_exact(missing);
        self.data.resize(self.data.len() + missing, 0);
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        buffer.push(b"GET");
        assert_eq!(all(&mut buffer), whole(&[]));
        buffer.push(b" /\nPUT");
        assert_eq!(all(&mut buffer), whole(&[b"GET /"]));
        buffer.push(b" /\n");
        assert_eq!(all(&mut buffer), whole(&[b"PUT /"]));
    }

    #[test]
    fn empty_lines_carriage_returns_nul_and_invalid_utf8_pass_unchanged() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"\n\r\n\0x\xff\xfe\r\n\n");
        assert_eq!(
            all(&mut buffer),
            whole(&[b"", b"\r", b"\0x\xff\xfe\r", b""])
        );
    }

    #[test]
    fn an_unterminated_last_line_is_a_line_at_the_end() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"one\ntwo");
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
            buffer.push(&block);
            assert_eq!(buffer.next_line(), None);
            assert!(buffer.data.capacity() <= 64 * 1024);
        }
        buffer.push(b"yy\nnext\n");
        let lines = all(&mut buffer);
        assert_eq!(lines[0].0, block[..MAX_LINE]);
        assert_eq!(lines[0].1, (3200 * 16 * 1024 + 2 - MAX_LINE) as u64);
        assert_eq!(lines[1..], whole(&[b"next"]));
    }

    #[test]
    fn a_line_of_just_the_limit_is_whole() {
        let mut buffer = LineBuffer::default();
        let mut line = vec![b'x'; MAX_LINE];
        buffer.push(&line);
        assert_eq!(buffer.next_line(), None);
        buffer.push(b"\n");
        assert_eq!(all(&mut buffer), whole(&[&line]));
        line.extend_from_slice(b"y\n");
        buffer.push(&line);
        assert_eq!(all(&mut buffer)[0].1, 1);
    }

    #[test]
    fn lent_memory_is_given_back_and_no_more_kept_than_is_held() {
        let mut buffer = LineBuffer::default();
        for lent in [Vec::new(), vec![b'\n'; 5], vec![b'\n'; 100_000]] {
            buffer.work_in(lent);
            buffer.push(b" half\nhalf");
            assert_eq!(all(&mut buffer).len(), 1);
            let memory = buffer.settle();
            assert!(memory.len() >= 5);
            assert_eq!((buffer.data.len(), buffer.data.capacity()), (4, 4));
        }
        buffer.work_in(vec![0; 100_000]);
        buffer.push(b"\n");
        assert_eq!(all(&mut buffer), whole(&[b"half"]));
        buffer.settle();
        assert_eq!(buffer.data.capacity(), 0);
    }

    #[test]
    fn each_dropped_line_is_counted_once_and_no_half_line_remains() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"one\ntwo\nthr");
        assert_eq!(buffer.discard(), 3);
        buffer.push(b"e");
        assert_eq!(buffer.discard(), 0);
        buffer.push(b"e\nfour\nfi");
        assert_eq!(buffer.discard(), 2);
        buffer.push(b"ve\nsix\n");
        assert_eq!(all(&mut buffer), whole(&[b"six"]));
        assert_eq!(buffer.discard(), 0);
    }

    #[test]
    fn a_torn_line_without_end_is_gone_at_the_end() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"on");
        assert_eq!(buffer.discard(), 1);
        buffer.push(b"e");
        buffer.end();
        assert_eq!(all(&mut buffer), whole(&[]));
        buffer.end();
        buffer.push(b"grandchild\n");
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
            buffer.push(piece);
            rest = later;
            lines.extend(all(&mut buffer));
            if below(3) == 0 {
                let (bytes, cut, torn) = buffer.state();
                buffer = LineBuffer::from_state(bytes, cut, torn);
            }
        }
        assert!(lines == expected, "{} {}", lines.len(), expected.len());
    }
}
