//! What a worker finds when it starts, as `key=value` lines on stdout, ended by `report=done`.
//! It must never change what it reports.

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::unistd;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// Prints everything; `words` are the arguments that came after the program's name.
pub fn print(words: &[OsString]) -> io::Result<()> {
    let mut out = Vec::new();
    write_process(&mut out)?;
    let arguments = env::args_os().take(1).chain(words.iter().cloned());
    for (n, word) in arguments.enumerate() {
        writeln!(out, "argv{n}={}", word.as_bytes().escape_ascii())?;
    }
    for (name, value) in env::vars_os() {
        let (name, value) = (
            name.as_bytes().escape_ascii(),
            value.as_bytes().escape_ascii(),
        );
        writeln!(out, "env:{name}={value}")?;
    }
    for number in open_numbers()? {
        write_fd(&mut out, number)?;
    }
    writeln!(out, "report=done")?;
    io::stdout().lock().write_all(&out)
}

fn write_process(out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, "pid={}", unistd::getpid())?;
    writeln!(out, "ppid={}", unistd::getppid())?;
    writeln!(out, "pgid={}", unistd::getpgrp())?;
    writeln!(out, "sid={}", unistd::getsid(None)?)?;
    writeln!(out, "cwd={}", env::current_dir()?.display())?;
    let status = fs::read_to_string("/proc/self/status")?;
    for line in status.lines() {
        if let Some((key @ ("Uid" | "Gid" | "Groups" | "Umask"), value)) = line.split_once(':') {
            writeln!(
                out,
                "{key}={}",
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            )?;
        }
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    writeln!(out, "nofile={soft} {hard}")
}

/// The open descriptors, without the one that the listing needs.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    let mut numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.retain(|n| fs::read_link(format!("/proc/self/fd/{n}")).is_ok());
    numbers.sort_unstable();
    Ok(numbers)
}

fn write_fd(out: &mut Vec<u8>, number: RawFd) -> io::Result<()> {
    let link = fs::read_link(format!("/proc/self/fd/{number}"))?;
    // SAFETY: the number was listed as open a moment ago, and this program has one thread.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let cloexec = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    let nonblock = flags.contains(OFlag::O_NONBLOCK);
    write!(out, "fd{number}={} nonblock={nonblock}", link.display())?;
    write!(out, " cloexec={}", cloexec.contains(FdFlag::FD_CLOEXEC))?;
    if let Ok(kind) = getsockopt(&fd, sockopt::SockType) {
        write_socket(out, fd, kind)?;
    }
    writeln!(out)
}

fn write_socket(out: &mut Vec<u8>, fd: BorrowedFd, kind: SockType) -> io::Result<()> {
    write!(out, " type={kind:?}")?;
    write!(
        out,
        " listening={}",
        getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false)
    )?;
    write!(
        out,
        " reuseaddr={}",
        getsockopt(&fd, sockopt::ReuseAddr).unwrap_or(false)
    )?;
    write!(
        out,
        " reuseport={}",
        getsockopt(&fd, sockopt::ReusePort).unwrap_or(false)
    )?;
    if let Ok(only) = getsockopt(&fd, sockopt::Ipv6V6Only) {
        write!(out, " v6only={only}")?;
    }
    if let Some(backlog) = backlog(fd) {
        write!(out, " backlog={backlog}")?;
    }
    Ok(())
}

/// A listening TCP socket tells its backlog as `tcpi_sacked` (tcp(7), net/ipv4/tcp.c).
fn backlog(fd: BorrowedFd) -> Option<u32> {
    let mut info = [0u32; 64];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the buffer has `length` bytes, the kernel writes no more and says how many.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    // struct tcp_info: eight bytes of small fields, then rto, ato, snd_mss, rcv_mss, unacked, sacked.
    (result == 0).then_some(info[7])
}
