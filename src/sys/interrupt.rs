//! A bound on waits that others can cause. A message on a unix socket may bring descriptors; those
//! that find no room are closed by the kernel within our own system call, and to close the last
//! descriptor of a TCP socket with SO_LINGER (socket(7)) waits for as long as its owner said. The
//! wait ends when a signal comes, and a stop signal ends only one of many such waits. So a timer
//! sends us a signal every millisecond for as long as an `Interruptible` lives.

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use std::io;
use std::time::Duration;

/// The signal that the timer sends: one that means nothing else, for us or for einhorn.
const SIGNAL: Signal = Signal::SIGVTALRM;

/// Gives the timer's signal a handler that does nothing: an ignored signal would end no wait, and
/// the default action would end us.
pub fn handle_interrupts() -> io::Result<()> {
    // SAFETY: the action does nothing.
    unsafe { signal_hook_registry::register(SIGNAL as i32, || {}) }.map(drop)
}

/// While it lives, every wait in the kernel that a signal can end is over after a millisecond.
/// `handle_interrupts` comes first. Where the timer is refused, nothing bounds the wait.
#[derive(Debug)]
pub struct Interruptible(#[allow(dead_code, reason = "its end stops the timer")] Option<Timer>);

impl Interruptible {
    pub fn begin() -> Interruptible {
        let signal = SigevNotify::SigevSignal {
            signal: SIGNAL,
            si_value: 0,
        };
        let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(signal));
        let every = Expiration::Interval(Duration::from_millis(1).into());
        Interruptible(timer.ok().and_then(|mut timer| {
            let set = timer.set(every, TimerSetTimeFlags::empty());
            set.ok().map(|()| timer)
        }))
    }
}
