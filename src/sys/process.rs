//! Processes: pidfds, collecting children that have ended, signals to a process or its group, and
//! what a process inherits (signal mask, descriptor limit, close-on-exec flags). Nothing here
//! waits.

use super::proc;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, getppid};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Opens a descriptor that becomes readable when `pid` ends (pidfd_open(2)); close-on-exec. It
/// works on a zombie too. ENOSYS, EPERM or EINVAL: an old kernel or a sandbox, where SIGCHLD and
/// `next_dead` tell of an end.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::c_long, 0 as libc::c_long) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How the child `pid` ended, if it has; its zombie is gone then and `pid` may be anybody's.
/// `None`: it lives. ECHILD: it is no child of ours.
pub fn reap(pid: i32) -> Result<Option<ExitStatus>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is ours and lives through the call. Raw, because nix's `Signal` has no
    // real-time signals and would lose the status of a worker that died of one.
    let reaped = Errno::result(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) })?;
    Ok((reaped == pid).then(|| ExitStatus::from_raw(status)))
}

/// The pid of a child that has ended and waits to be reaped, worker or adopted orphan; `None`
/// when there is none. The child stays a zombie, and is named again, until the caller has looked
/// up whose it is and calls `reap`: no worker's status is lost among the orphans'.
pub fn next_dead() -> Result<Option<i32>, Errno> {
    match look_for_dead(libc::P_ALL, 0) {
        Err(Errno::ECHILD) => Ok(None),
        found => found,
    }
}

/// Whether this child of ours has ended and waits to be reaped.
pub fn is_collectable(pid: i32) -> bool {
    look_for_dead(libc::P_PID, pid as libc::id_t) != Ok(None)
}

/// waitid(2) for children that have ended, without blocking, and without reaping them. Raw, because
/// nix fails on a child that died of a real-time signal.
fn look_for_dead(of: libc::idtype_t, id: libc::id_t) -> Result<Option<i32>, Errno> {
    // SAFETY: all zeroes is a valid siginfo_t, a plain C structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is ours and lives through the call.
    Errno::result(unsafe { libc::waitid(of, id, &mut info, flags) })?;
    // SAFETY: the structure is initialised; si_pid stays 0 where no child has ended (waitid(2)).
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Whether a child of ours has executed a program since its fork, also one that has ended and is
/// not reaped (PF_FORKNOEXEC among the flags of /proc/PID/stat). Without /proc: yes.
pub fn has_run_exec(pid: i32) -> bool {
    const PF_FORKNOEXEC: u32 = 0x40;
    proc::stat(pid).is_none_or(|stat| stat.flags & PF_FORKNOEXEC == 0)
}

/// Sends `signal` to one process (kill(2)). It takes a plain number because `-stop-signal` may be
/// a real-time one. ESRCH: it is gone and reaped. EINVAL: kill(2) would read this as "everybody"
/// (-1), "my own group" (0), or as init.
pub fn signal(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: kill takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The same for the whole process group that the worker `pid` leads.
pub fn signal_group(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::killpg(pid, signal) }).map(drop)
}

/// How nice a process is from now on, -20 to 19 (setpriority(2)). EACCES, EPERM: only root may
/// make it less nice.
pub fn set_nice(pid: i32, level: i32) -> Result<(), Errno> {
    // SAFETY: setpriority takes integers and touches no memory of ours.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as libc::id_t, level) };
    Errno::result(done).map(drop)
}

/// Raises our soft limit of open descriptors to the hard one; returns (soft, hard) as they were,
/// to be given back to each worker.
pub fn raise_nofile() -> Result<(rlim_t, rlim_t), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft != hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((soft, hard))
}

/// Holds back every signal, until `unblock_signals` (sigprocmask(2)).
pub fn block_signals() -> Result<(), Errno> {
    set_mask(&SigSet::all())
}

/// Unblocks every signal: for our own start (a mask is inherited), after a fork, and for a worker's
/// start. It is tried eight times: it cannot fail but in a sandbox.
pub fn unblock_signals() -> Result<(), Errno> {
    for _ in 1..8 {
        if set_mask(&SigSet::empty()).is_ok() {
            return Ok(());
        }
    }
    set_mask(&SigSet::empty())
}

/// Not `SigSet::thread_set_mask`: pthread_sigmask(3) returns its errors where nix looks for -1, so
/// that it takes every one of them for success.
fn set_mask(mask: &SigSet) -> Result<(), Errno> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)
}

/// Gives all 64 signals their default disposition. Only for a child that is about to exec.
pub fn default_dispositions() {
    // The size of the kernel's signal set in bytes: 64 signals, 128 on MIPS.
    const KERNEL_SIGSET: usize = if cfg!(target_arch = "mips") { 16 } else { 8 };
    let action = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: `action` is larger than the kernel's sigaction on every architecture, and all
        // zeroes is SIG_DFL without flags. Raw, because the C library refuses its own 32 and 33,
        // and an ignored one would be inherited; SIGKILL and SIGSTOP fail, which changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal as libc::c_long,
                action.as_ptr(),
                std::ptr::null_mut::<u8>(),
                KERNEL_SIGSET,
            )
        };
    }
}

/// Asks for `signal` when our parent dies (PR_SET_PDEATHSIG, prctl(2)). A change of user clears the
/// request. ESRCH: our parent is not `parent` any more.
pub fn follow_parent(parent: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: this prctl takes integers and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) })?;
    // It may have died before we asked.
    match getppid() == parent {
        true => Ok(()),
        false => Err(Errno::ESRCH),
    }
}

/// Marks every open descriptor from `first` up close-on-exec. By close_range(2), or one by one
/// where that is missing (before Linux 5.11) or forbidden.
pub fn cloexec_from(first: RawFd) {
    // SAFETY: it takes integers, and with this flag it closes nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_long,
            libc::c_long::from(i32::MAX),
            libc::CLOSE_RANGE_CLOEXEC as libc::c_long,
        )
    };
    if done != 0 {
        cloexec_one_by_one(first);
    }
}

fn cloexec_one_by_one(first: RawFd) {
    // Without /proc the usual numbers are tried: the limit may be a thousand million.
    let listed = proc::numbers("/proc/self/fd").unwrap_or_else(|_| (first..65_536).collect());
    for fd in listed.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: F_SETFD takes an integer; on a number that is not open it fails with EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::{Child, Command, Stdio};

    /// Its stdin is open as long as it is ours.
    fn shell(script: &str) -> Child {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).stdin(Stdio::piped());
        shell.spawn().expect("/bin/sh starts")
    }

    /// Waits up to 10 s for the end of `pid`, leaving it to be reaped.
    fn await_death(pid: i32) {
        let pidfd = pidfd_open(pid).expect("a pidfd of our child");
        let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut watched, PollTimeout::from(10_000_u16)).expect("poll");
        assert_eq!(ready, 1, "waited 10 s for the death of {pid}");
    }

    fn end_of(script: &str) -> ExitStatus {
        let pid = shell(script).id() as i32;
        await_death(pid);
        reap(pid).expect("our child").expect("it has ended")
    }

    #[test]
    fn an_exit_status_is_reported() {
        assert_eq!(end_of("exit 3").code(), Some(3));
    }

    #[test]
    fn a_deadly_signal_is_reported_real_time_ones_too() {
        assert_eq!(end_of("kill -KILL $$").signal(), Some(9));
        assert_eq!(end_of("kill -40 $$").signal(), Some(40));
        assert!(!end_of("kill -40 $$").core_dumped());
    }

    #[test]
    fn a_living_child_is_not_waited_for() {
        let mut child = shell("read line");
        assert_eq!(reap(child.id() as i32), Ok(None));
        signal(child.id() as i32, libc::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_strangers_end_is_not_ours_to_learn() {
        assert_eq!(reap(1), Err(Errno::ECHILD));
    }

    #[test]
    fn looking_for_the_dead_takes_no_status_away() {
        let pid = shell("exit 5").id() as i32;
        await_death(pid);
        assert!(next_dead().unwrap().is_some(), "{pid} waits to be reaped");
        assert_eq!(reap(pid).unwrap().unwrap().code(), Some(5));
    }

    #[test]
    fn a_signal_to_everybody_or_to_init_is_refused() {
        for pid in [-1, 0, 1] {
            assert_eq!(signal(pid, 0), Err(Errno::EINVAL));
            assert_eq!(signal_group(pid, 0), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn pidfds_are_close_on_exec() {
        let pidfd = pidfd_open(std::process::id() as i32).unwrap();
        assert_eq!(
            fcntl(&pidfd, FcntlArg::F_GETFD),
            Ok(FdFlag::FD_CLOEXEC.bits())
        );
    }

    #[test]
    fn no_signal_is_blocked_after_the_unblocking() {
        unblock_signals().unwrap();
        block_signals().unwrap();
        assert!(
            SigSet::thread_get_mask()
                .unwrap()
                .contains(nix::sys::signal::SIGTERM)
        );
        unblock_signals().unwrap();
        assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty());
    }

    #[test]
    fn stray_descriptors_are_found_without_close_range() {
        let (stray, other) = nix::unistd::pipe().unwrap();
        cloexec_one_by_one(stray.as_raw_fd().min(other.as_raw_fd()));
        for fd in [&stray, &other] {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD), Ok(FdFlag::FD_CLOEXEC.bits()));
        }
    }
}
