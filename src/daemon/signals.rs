//! The signals that we get: read from signal-hook's pipe in every turn, and kept until the turn
//! takes them up. For SIGHUP it knows who sent it, and whether the terminal that we were started
//! from has closed: such a SIGHUP is no reload. What a signal asks for is decided elsewhere.

use crate::poller::{Interest, Poller, Source};
use crate::supervisor::Instant;
use crate::sys::interrupt;
use crate::sys::process::unblock_signals;
use crate::sys::signals::{self, Hangups};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGCHLD;
use signal_hook_mio::v1_0::Signals as SignalPipe;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A SIGHUP from a process this soon after the terminal closed is the shell passing it on.
const PASSED_ON: Duration = Duration::from_secs(2);
/// So long after a turn signals are read once more, whatever became of their wake-ups.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// What a SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangupMeaning {
    Reload,
    /// The terminal closed.
    TerminalClosed,
    /// Nothing: its sender was seen together with the SIGHUP before it.
    Seen,
}

/// What another image of the program must carry on with.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SignalState {
    /// Signals that were read and wait for their place in the turn.
    waiting: Vec<i32>,
    /// When the terminal was found closed.
    hung_up: Option<Instant>,
    second_look: Option<Instant>,
}

/// All signals, and the terminal.
pub struct Signals {
    pipe: SignalPipe,
    tty: Option<OwnedFd>,
    state: SignalState,
}

impl Signals {
    /// Handles these signals and SIGCHLD. This is done before anything else is set up, so that a
    /// stop is never lost.
    pub fn install(signals: impl Iterator<Item = i32>) -> io::Result<Signals> {
        signals::ignore_meaningless_signals();
        signals::watch_hangups()?;
        interrupt::handle_interrupts()?;
        Ok(Signals {
            pipe: SignalPipe::new(signals.chain([SIGCHLD]))?,
            tty: None,
            state: SignalState::default(),
        })
    }

    /// Registers the signals, and the controlling terminal (tty(4)) if there is one.
    pub fn register(&mut self, poller: &mut Poller) -> io::Result<()> {
        poller.register(&mut self.pipe, Source::Signals, Interest::READABLE)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        self.tty = open("/dev/tty", flags, Mode::empty()).ok();
        if let Some(tty) = &self.tty {
            // There is no empty interest; epoll tells of a hang-up whatever was asked for.
            let _ = poller.add(tty, Source::Terminal, Interest::PRIORITY);
        }
        Ok(())
    }

    /// Reads which signals have come. This is done in every turn: the write that should wake the
    /// poller may have failed.
    pub fn read(&mut self) {
        for signal in self.pipe.pending() {
            if !self.state.waiting.contains(&signal) {
                self.state.waiting.push(signal);
            }
        }
    }

    /// Takes the waiting signals that are meant.
    pub fn take(&mut self, is_meant: impl Fn(i32) -> bool) -> Vec<i32> {
        let all = std::mem::take(&mut self.state.waiting).into_iter();
        let (taken, left) = all.partition(|signal| is_meant(*signal));
        self.state.waiting = left;
        taken
    }

    pub fn are_waiting(&self) -> bool {
        !self.state.waiting.is_empty()
    }

    /// When signals are to be read although nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.state.second_look
    }

    /// A signal that comes while we wait ends the wait. One that comes during a turn is lost until
    /// the next turn if its handler cannot wake the poller, and all of them are if the mask could
    /// not be given back after a fork. So every turn (`now` is its beginning) is followed by another
    /// one a second later; when that one finds nothing (`is_idle`) we sleep as long as there is
    /// nothing to do.
    ///
    /// Errors: the signals cannot be unblocked; it is tried again in a second.
    pub fn plan_second_look(&mut self, now: Instant, is_idle: bool) -> Result<(), Errno> {
        let mut unblocked = Ok(());
        if self.state.second_look.is_some_and(|at| at <= now) {
            self.state.second_look = None;
            unblocked = unblock_signals();
            self.read();
            if unblocked.is_ok() && self.state.waiting.is_empty() && is_idle {
                return Ok(());
            }
        }
        self.state.second_look.get_or_insert(now + SECOND_LOOK);
        unblocked
    }

    /// Whether the terminal has closed, and was open at the last look.
    pub fn has_terminal_closed(&mut self, now: Instant) -> bool {
        let Some(tty) = &self.tty else { return false };
        let mut watched = [PollFd::new(tty.as_fd(), PollFlags::empty())];
        let is_closed = poll(&mut watched, PollTimeout::ZERO).is_ok()
            && (watched[0].revents()).is_some_and(|found| found.contains(PollFlags::POLLHUP));
        let is_news = is_closed && self.state.hung_up.is_none();
        if is_news {
            self.state.hung_up = Some(now);
        }
        is_news
    }

    /// What the SIGHUPs since the last call mean; `has_terminal_closed` comes first.
    pub fn hangup_meaning(&self, now: Instant) -> HangupMeaning {
        meaning(self.state.hung_up, now, signals::take_hangups())
    }
}

fn meaning(hung_up: Option<Instant>, now: Instant, senders: Hangups) -> HangupMeaning {
    let just_closed = hung_up.is_some_and(|then| now - then <= PASSED_ON);
    if senders.from_process && !just_closed {
        HangupMeaning::Reload
    } else if senders.from_process || senders.from_kernel {
        HangupMeaning::TerminalClosed
    } else {
        HangupMeaning::Seen
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
        let found = meaning(None, Instant(0), FROM_KERNEL);
        assert_eq!(found, HangupMeaning::TerminalClosed);
    }

    #[test]
    fn a_sighup_whose_sender_was_seen_with_the_one_before_is_no_hang_up() {
        let nobody = Hangups {
            from_kernel: false,
            from_process: false,
        };
        assert_eq!(meaning(None, Instant(0), nobody), HangupMeaning::Seen);
    }

    #[test]
    fn a_sighup_of_a_process_is_the_shells_only_just_after_the_hang_up() {
        let closed = Some(Instant(SECOND));
        let soon = meaning(closed, Instant(2 * SECOND), FROM_PROCESS);
        assert_eq!(soon, HangupMeaning::TerminalClosed);
        let later = meaning(closed, Instant(4 * SECOND), FROM_PROCESS);
        assert_eq!(later, HangupMeaning::Reload);
    }
}
