//! The bytes that wait to be written: whole lines in, any number of bytes out at the front. It
//! knows nothing of where they go, and its memory follows what it holds.

/// Room is added in multiples of this, in bytes.
const STEP: usize = 4096;
/// More than this is not kept for nothing.
const LARGE: usize = 32 * 1024;

/// A queue of bytes with a moving front.
#[derive(Debug, Default)]
pub struct Queue {
    /// What waits is from `start` to `end`; after that is room.
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Queue {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What waits, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// Adds a line in two parts, and its newline.
    pub fn push_line(&mut self, header: &[u8], text: &[u8]) {
        let room = self.room(header.len() + text.len() + 1);
        let (beginning, rest) = room.split_at_mut(header.len());
        beginning.copy_from_slice(header);
        rest[..text.len()].copy_from_slice(text);
        rest[text.len()] = b'\n';
    }

    /// Adds bytes as they are, for what another process left unwritten.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    /// Forgets the oldest `count` bytes. A little memory goes back when nothing is left; much of
    /// it stays for what will follow, until [`rest`](Self::rest). What is left moves to the front
    /// when it is the smaller part: each byte once at most on average, and a reader that takes a
    /// little at a time cannot make the queue grow.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start < self.len() {
            return;
        }
        self.data.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.is_empty() && !self.is_large() {
            self.data = Vec::new();
        }
    }

    /// Whether much memory is held for nothing.
    pub fn is_large(&self) -> bool {
        self.is_empty() && self.data.capacity() > LARGE
    }

    /// Gives the memory back if nothing waits, and all that the heap has to spare.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.data = Vec::new();
            crate::sys::io::trim_heap();
        }
    }

    /// The next `length` bytes, to be filled.
    fn room(&mut self, length: usize) -> &mut [u8] {
        let from = self.end;
        self.end += length;
        if self.end > self.data.len() {
            self.data.resize(self.end.next_multiple_of(STEP), 0);
        }
        &mut self.data[from..self.end]
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.data.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_the_order_they_went_in() {
        let mut queue = Queue::default();
        queue.push_line(b"[1] ", b"one");
        queue.push_line(b"two", b"");
        assert_eq!(queue.bytes(), b"[1] one\ntwo\n");
        queue.consume(6);
        assert_eq!(queue.bytes(), b"e\ntwo\n");
        assert_eq!(queue.len(), 6);
    }

    #[test]
    fn a_reader_that_takes_a_little_at_a_time_does_not_make_it_grow() {
        let mut queue = Queue::default();
        let line = [b'x'; 99];
        for _ in 0..600 {
            queue.push_line(&line, b"");
        }
        for _ in 0..100_000 {
            queue.push_line(&line, b"");
            queue.consume(100);
        }
        assert_eq!(queue.len(), 60_000);
        assert!(queue.capacity() <= 160_000, "{}", queue.capacity());
    }

    #[test]
    fn an_empty_queue_holds_no_memory() {
        let mut queue = Queue::default();
        queue.push_line(&[b'x'; 50_000], b"");
        queue.consume(50_001);
        queue.rest();
        assert_eq!(queue.capacity(), 0);
    }
}
