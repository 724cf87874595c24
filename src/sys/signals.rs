//! Who sent a SIGHUP: the kernel, because a terminal closed, or a process that wants a reload
//! (sigaction(2), `si_code`). signal-hook's pipe carries only the number. Also the signals that we
//! ignore.

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

/// Ignores every signal that can be caught and means nothing to us, as Go's runtime does: SIGTSTP and
/// SIGTTIN would suspend us, SIGALRM and the real-time ones would end us and leave the workers. A
/// line of our log must not stop us either, where a terminal stops background jobs that write to it
/// (SIGTTOU and TOSTOP, termios(3)), or a file would grow longer than files may be (SIGXFSZ: write(2)
/// says EFBIG then). Those that report an error of the program itself keep their action, and so do
/// those that are ignored anyway. Workers get the defaults back.
pub fn ignore_meaningless_signals() {
    use libc::{SIGABRT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGKILL};
    use libc::{SIGSEGV, SIGSTOP, SIGSYS, SIGTRAP, SIGURG, SIGWINCH};
    let errors = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP];
    let others = [SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGURG, SIGWINCH];
    for number in 1..=libc::SIGRTMAX() {
        if !errors.contains(&number) && !others.contains(&number) {
            // SAFETY: SIG_IGN runs no code of ours. (EINVAL: the C library keeps some for itself.)
            unsafe { libc::signal(number, libc::SIG_IGN) };
        }
    }
}

/// The senders since the last call.
pub fn take_hangups() -> Hangups {
    Hangups {
        from_kernel: FROM_KERNEL.swap(false, Ordering::SeqCst),
        from_process: FROM_PROCESS.swap(false, Ordering::SeqCst),
    }
}
