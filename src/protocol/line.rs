//! Lines: where one ends, and einhorn's `%25` and `%0A`. It bounds what an endless line may cost,
//! and never looks at what a line says.

use std::borrow::Cow;
use std::fmt;

/// Undoes `%25` and `%0A`, each once and nothing else: `%2525` is `%25`, `%0a` stays `%0a`.
pub fn decode(line: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'%', line) else {
        return Cow::Borrowed(line);
    };
    let (head, mut rest) = line.split_at(first);
    let mut out = Vec::with_capacity(line.len());
    out.extend_from_slice(head);
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, used) = match after {
            [b'2', b'5', ..] if byte == b'%' => (b'%', 3),
            [b'0', b'A', ..] if byte == b'%' => (b'\n', 3),
            _ => (byte, 1),
        };
        out.push(byte);
        rest = &rest[used..];
    }
    Cow::Owned(out)
}

/// The reverse of [`decode`]: a text on one line, without the LF that ends it.
pub fn encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for &byte in text {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'\n' => out.extend_from_slice(b"%0A"),
            other => out.push(other),
        }
    }
    out
}

/// A line is longer than its reader allows. The reader is of no use afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("line too long")
    }
}

impl std::error::Error for TooLong {}

/// Splits what arrives into lines. It holds at most one unfinished line and what was pushed since
/// the last `next_line` that gave `None`; without an unfinished line it holds no memory at all.
#[derive(Debug)]
pub struct LineReader {
    pub(super) buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// There is no LF between `start` and here: no byte is looked at twice.
    searched: usize,
    limit: usize,
}

impl LineReader {
    /// A reader that refuses lines of more than `limit` bytes, the LF not counted.
    pub fn new(limit: usize) -> LineReader {
        LineReader {
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            limit,
        }
    }

    /// How many bytes of memory it holds.
    pub fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes in what was read. Call [`LineReader::next_line`] until it says `None` in between.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, without its LF; `None` until more is pushed.
    ///
    /// # Errors
    /// [`TooLong`], as soon as the limit is passed, whether the LF has come or not.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        match memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            Some(offset) => {
                let end = self.searched + offset;
                let line = &self.buffer[self.start..end];
                if line.len() > self.limit {
                    return Err(TooLong);
                }
                let line = line.to_vec();
                self.start = end + 1;
                self.searched = self.start;
                Ok(Some(line))
            }
            None => self.wait_for_more(),
        }
    }

    fn wait_for_more(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        self.searched = self.buffer.len();
        if self.pending().len() > self.limit {
            return Err(TooLong);
        }
        if self.pending().is_empty() {
            *self = LineReader::new(self.limit);
        }
        Ok(None)
    }

    /// What has been pushed and not yet been given out: what a hand-over must carry.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}
