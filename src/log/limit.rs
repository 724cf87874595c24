//! One kind of trouble is one line a second at most, however fast somebody makes it.

use crate::supervisor::Instant;
use std::time::Duration;

const PAUSE: Duration = Duration::from_secs(1);

/// Says which lines of one kind are logged.
#[derive(Debug, Clone, Default)]
pub struct RateLimit {
    next: Instant,
    suppressed: u64,
}

impl RateLimit {
    /// Whether a line may be logged at `now`: then how many were not since the last one.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        if now < self.next {
            self.suppressed += 1;
            return None;
        }
        self.next = now + PAUSE;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// The same, as what is added to the line: "" or " (and 12 more like this)".
    pub fn allow_with_count(&mut self, now: Instant) -> Option<String> {
        Some(match self.allow(now)? {
            0 => String::new(),
            count => format!(" (and {count} more like this before)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_a_count_of_the_rest() {
        let second = 1_000_000_000;
        let mut limit = RateLimit::default();
        assert_eq!(limit.allow(Instant(second)), Some(0));
        assert_eq!(limit.allow(Instant(second + 1)), None);
        assert_eq!(limit.allow(Instant(2 * second - 1)), None);
        assert_eq!(limit.allow(Instant(2 * second)), Some(2));
        assert_eq!(limit.allow(Instant(9 * second)), Some(0));
    }
}
