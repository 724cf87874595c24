//! The present time, in the core's terms. Nothing here waits or sets a timer.

use crate::supervisor::Instant;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The present on CLOCK_MONOTONIC (clock_gettime(2)).
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has CLOCK_MONOTONIC");
    Instant(Duration::from(time).as_nanos() as u64)
}
