//! A bound on waits that others can cause. A message on a unix socket may bring descriptors; those
//! that find no room are closed by the kernel within our own system call, and to close the last
//! descriptor of a TCP socket with SO_LINGER (socket(7)) waits for as long as its owner said. The
//! wait ends when a signal comes, and a stop signal ends only one of many such waits. So a timer
//! sends us a signal every millisecond for as long as an `Interruptible` lives.

use std::io;

/// Gives SIGALRM, which the timer sends, a handler that does nothing: an ignored signal would end
/// no wait, and the default action would end us.
pub fn handle_alarms() -> io::Result<()> {
    // SAFETY: the action does nothing.
    unsafe { signal_hook_registry::register(libc::SIGALRM, || {}) }.map(drop)
}

/// While it lives, every wait in the kernel that a signal can end is over after a millisecond.
/// `handle_alarms` comes first.
#[derive(Debug)]
pub struct Interruptible(());

impl Interruptible {
    /// Starts the timer. Where that is refused, nothing bounds the wait.
    pub fn begin() -> Interruptible {
        set_timer(1000);
        Interruptible(())
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        set_timer(0);
    }
}

/// A signal in every so many microseconds; 0: none.
fn set_timer(tv_usec: libc::suseconds_t) {
    let every = libc::timeval { tv_sec: 0, tv_usec };
    let value = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY: `value` lives during the call, and the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &value, std::ptr::null_mut()) };
}
