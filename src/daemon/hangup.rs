//! The terminal that we were started from, watched for its end: a SIGHUP then is no reload.

use crate::supervisor::Instant;
use crate::sys::signals::Hangups;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A SIGHUP from a process this soon after the hang-up is the shell passing it on.
const PASSED_ON: Duration = Duration::from_secs(2);

/// What a SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Reload,
    /// The terminal closed.
    HangUp,
    /// Nothing more: it came just before the last one was looked at, and its sender was seen then.
    Seen,
}

#[derive(Debug)]
pub(super) struct Terminal {
    tty: Option<OwnedFd>,
    hung_up: Option<Instant>,
}

impl Terminal {
    /// Opens the controlling terminal, if there is one (tty(4)).
    pub fn open() -> Terminal {
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Terminal {
            tty: open("/dev/tty", flags, Mode::empty()).ok(),
            hung_up: None,
        }
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tty.as_ref().map(AsFd::as_fd)
    }

    /// Whether the terminal is gone now, and was not before.
    pub fn look(&mut self, now: Instant) -> bool {
        let Some(tty) = &self.tty else { return false };
        let mut fds = [PollFd::new(tty.as_fd(), PollFlags::empty())];
        let gone = poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0]
                .revents()
                .is_some_and(|found| found.contains(PollFlags::POLLHUP));
        if gone && self.hung_up.is_none() {
            self.hung_up = Some(now);
            return true;
        }
        false
    }

    /// What a SIGHUP from these senders means; `look` comes first.
    pub fn meaning(&self, now: Instant, senders: Hangups) -> Meaning {
        let just_hung_up = self.hung_up.is_some_and(|then| now - then <= PASSED_ON);
        if senders.from_process && !just_hung_up {
            Meaning::Reload
        } else if senders.from_process || senders.from_kernel {
            Meaning::HangUp
        } else {
            Meaning::Seen
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_PROCESS: Hangups = Hangups {
        from_kernel: false,
        from_process: true,
    };
    const FROM_KERNEL: Hangups = Hangups {
        from_kernel: true,
        from_process: false,
    };
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_sighup_of_the_kernel_is_never_a_reload() {
        let terminal = Terminal {
            tty: None,
            hung_up: None,
        };
        assert_eq!(terminal.meaning(Instant(0), FROM_KERNEL), Meaning::HangUp);
    }

    #[test]
    fn a_sighup_whose_sender_was_seen_with_the_one_before_is_no_hang_up() {
        let terminal = Terminal {
            tty: None,
            hung_up: None,
        };
        let nobody = Hangups {
            from_kernel: false,
            from_process: false,
        };
        assert_eq!(terminal.meaning(Instant(0), nobody), Meaning::Seen);
    }

    #[test]
    fn a_sighup_of_a_process_is_the_shells_only_just_after_the_hang_up() {
        let terminal = Terminal {
            tty: None,
            hung_up: Some(Instant(SECOND)),
        };
        assert_eq!(
            terminal.meaning(Instant(2 * SECOND), FROM_PROCESS),
            Meaning::HangUp
        );
        assert_eq!(
            terminal.meaning(Instant(4 * SECOND), FROM_PROCESS),
            Meaning::Reload
        );
    }
}
