//! `refuse CALL ERRNO PROGRAM [ARGUMENT…]` runs a program under a seccomp filter that refuses one
//! system call, `pidfd_open` or `close_range`, with that errno, as old kernels (ENOSYS) and
//! sandboxes (EPERM) do. It must never refuse anything else.

#![allow(unsafe_code)]

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// `BPF_LD | BPF_W | BPF_ABS`: load a word of `struct seccomp_data` (linux/filter.h).
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

fn main() -> ExitCode {
    let words: Vec<_> = env::args_os().skip(1).collect();
    let text = |index: usize| words.get(index).and_then(|word| word.to_str());
    let call = match text(0) {
        Some("pidfd_open") => Some(libc::SYS_pidfd_open),
        Some("close_range") => Some(libc::SYS_close_range),
        _ => None,
    };
    let errno = text(1).and_then(|word| word.parse().ok());
    let (Some(call), Some(errno), Some(program)) = (call, errno, words.get(2)) else {
        eprintln!("usage: refuse pidfd_open|close_range ERRNO PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let error = match refuse(call, errno) {
        Ok(()) => Command::new(program).args(&words[3..]).exec(),
        Err(error) => error,
    };
    eprintln!("refuse: {error}");
    ExitCode::from(126)
}

/// Installs the filter for this thread and all that it starts or becomes (seccomp(2)).
pub fn refuse(call: libc::c_long, errno: u16) -> io::Result<()> {
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(call).map_err(io::Error::other)?;
    let mut filter = [
        op(LOAD, 0, 0, 0), // the system call's number is the first word
        op(JUMP_IF_EQUAL, 0, 1, number),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain numbers; without this an ordinary user may not install a filter.
    let private = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `program` and the filter that it points to outlive the call, which copies them.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    if private != 0 || done != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
