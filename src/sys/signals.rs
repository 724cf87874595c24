//! Who sent a SIGHUP: the kernel, because a terminal closed, or a process that wants a reload
//! (sigaction(2), `si_code`). signal-hook's pipe carries only the number. Also the signals that we
//! ignore.

use nix::sys::signal::{SigHandler, Signal, signal};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static FROM_KERNEL: AtomicBool = AtomicBool::new(false);
static FROM_PROCESS: AtomicBool = AtomicBool::new(false);

/// Who has sent SIGHUP since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hangups {
    pub from_kernel: bool,
    pub from_process: bool,
}

/// Starts to note the senders of SIGHUP. To be called before the signal's pipe is set up, so that
/// the sender is known when the number is read.
pub fn watch_hangups() -> io::Result<()> {
    let note = |info: &libc::siginfo_t| {
        let from_kernel = info.si_code == libc::SI_KERNEL;
        let sender = if from_kernel {
            &FROM_KERNEL
        } else {
            &FROM_PROCESS
        };
        sender.store(true, Ordering::SeqCst);
    };
    // SAFETY: the action only stores to an atomic, which is async-signal-safe.
    unsafe { signal_hook_registry::register_sigaction(libc::SIGHUP, note) }.map(drop)
}

/// A line of our log must not stop us where a terminal stops background jobs that write to it
/// (SIGTTOU and TOSTOP, termios(3)), nor kill us where it would make a file longer than files may
/// be (SIGXFSZ and RLIMIT_FSIZE, setrlimit(2): then write(2) says EFBIG). Workers get the default
/// back.
pub fn ignore_signals_of_writing() -> io::Result<()> {
    for of_writing in [Signal::SIGTTOU, Signal::SIGXFSZ] {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { signal(of_writing, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// The senders since the last call.
pub fn take_hangups() -> Hangups {
    Hangups {
        from_kernel: FROM_KERNEL.swap(false, Ordering::SeqCst),
        from_process: FROM_PROCESS.swap(false, Ordering::SeqCst),
    }
}
