//! The last lines of a worker's output, kept beside the log for the verdict on it. Pure.

/// How much is kept, in bytes.
const LIMIT: usize = 2048;
/// How many lines are shown.
const LINES: usize = 5;

/// The end of a stream of bytes.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// Something before it was dropped: its first line may be half a line.
    cut: bool,
}

impl Tail {
    /// Adds what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        let excess = bytes.len().saturating_sub(LIMIT);
        if excess > 0 {
            self.bytes.clear();
            self.cut = true;
        }
        self.bytes.extend_from_slice(&bytes[excess..]);
        if self.bytes.len() > 2 * LIMIT {
            self.trim();
        }
    }

    /// The last lines that are not empty, oldest first, as text.
    pub fn lines(mut self) -> Vec<String> {
        self.trim();
        let text = String::from_utf8_lossy(&self.bytes);
        let whole = match text.split_once('\n') {
            Some((_, whole)) if self.cut && !whole.is_empty() => whole,
            _ => &text,
        };
        let mut lines = Vec::new();
        for line in whole.lines().filter(|line| !line.trim().is_empty()) {
            if lines.len() == LINES {
                lines.remove(0);
            }
            lines.push(line.to_owned());
        }
        lines
    }

    fn trim(&mut self) {
        let excess = self.bytes.len().saturating_sub(LIMIT);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(lines[0].ends_with("xend") && lines[0].len() < LIMIT);
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(&[b'y'; 1000]);
        }
        assert!(tail.bytes.capacity() <= 8 * LIMIT);
    }
}
