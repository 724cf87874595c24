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
    /// Whether a line may be logged at `now`; if so, what is added to it about those that were
    /// not: "" or " (and 12 more like this before)".
    pub fn allow_with_count(&mut self, now: Instant) -> Option<String> {
        if now < self.next {
            self.suppressed += 1;
            return None;
        }
        self.next = now + PAUSE;
        Some(match std::mem::take(&mut self.suppressed) {
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
        let mut at = |nanos| limit.allow_with_count(Instant(nanos));
        assert_eq!(at(second).as_deref(), Some(""));
        assert_eq!(at(second + 1), None);
        assert_eq!(at(2 * second - 1), None);
        let counted = " (and 2 more like this before)";
        assert_eq!(at(2 * second).as_deref(), Some(counted));
        assert_eq!(at(9 * second).as_deref(), Some(""));
    }
}
