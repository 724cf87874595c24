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

/// Bytes that are not yet lines, or not yet asked for. It holds one line and what was added
/// last, and no memory when it is empty.
#[derive(Debug, Default)]
pub struct LineBuffer {
    data: Vec<u8>,
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
        self.compact();
        let length = self.data.len();
        self.data.reserve_exact(limit);
        self.data.resize(length + limit, 0);
        let result = read(&mut self.data[length..]);
        self.data
            .truncate(length + result.as_ref().map_or(0, |count| *count));
        result
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.data.extend_from_slice(bytes);
    }

    /// The `count` bytes that came last.
    pub fn last(&self, count: usize) -> &[u8] {
        &self.data[self.data.len() - count..]
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let Some(length) = memchr(b'\n', &self.data[self.scanned..]) else {
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
            self.data.truncate(self.start);
        }
        let excess = (self.data.len() - self.start).saturating_sub(MAX_LINE);
        self.cut += excess as u64;
        self.data.truncate(self.data.len() - excess);
        self.scanned = self.data.len();
    }

    /// The output ends here, newline or not: a last line without one becomes a line.
    pub fn end(&mut self) {
        let unfinished = self.data[self.start..].last().is_some_and(|b| *b != b'\n');
        if unfinished && !self.torn {
            self.data.push(b'\n');
        }
        if unfinished && self.torn {
            // The torn line's rest may be followed by whole ones.
            self.data.push(b'\n');
        }
        if self.is_empty() {
            self.torn = false;
        }
    }

    /// Drops all there is, and the rest of a line that has only begun; says how many lines that
    /// makes, each counted once.
    pub fn discard(&mut self) -> u64 {
        let data = &self.data[self.start..];
        let ends = memchr_iter(b'\n', data).count() as u64;
        let open = data.last().is_some_and(|byte| *byte != b'\n');
        let counted = u64::from(self.torn && (ends > 0));
        let begun = u64::from(open && !(self.torn && ends == 0));
        self.torn = open || (self.torn && ends == 0);
        self.cut = 0;
        self.data = Vec::new();
        self.start = 0;
        self.scanned = 0;
        ends - counted + begun
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.data.len()
    }

    /// Gives back the memory that is not needed for what is held.
    pub fn rest(&mut self) {
        self.compact();
        self.data.shrink_to_fit();
    }

    /// What another process image needs to go on: the bytes held, how many were cut from the
    /// present line, and whether its beginning is lost.
    pub fn state(&self) -> (&[u8], u64, bool) {
        (&self.data[self.start..], self.cut, self.torn)
    }

    /// Goes on from a [`state`](Self::state).
    pub fn from_state(bytes: &[u8], cut: u64, torn: bool) -> LineBuffer {
        LineBuffer {
            data: bytes.to_vec(),
            start: 0,
            scanned: 0,
            // A cut line's first part must be there, or its length would not add up.
            cut: if bytes.len() < MAX_LINE { 0 } else { cut },
            torn,
        }
    }

    fn compact(&mut self) {
        self.data.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
    }
}
