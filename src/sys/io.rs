//! Reading and writing that std and nix have no safe calls for: a write that never waits, how much
//! a pipe holds, a read into memory that was never zeroed, local time, and the heap's free pages.
//! Nothing here keeps state or decides what to do about an error.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
nix::ioctl_read!(tiocgdev, b'T', 0x32, libc::c_uint);

/// Writes what fits at once, whatever the descriptor's own blocking mode (pwritev2(2),
/// RWF_NOWAIT). EAGAIN: nothing fits; EOPNOTSUPP: this kind of file cannot do it; ENOSYS: a
/// kernel before 4.6.
pub fn write_nowait(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let part = IoSlice::new(bytes);
    let current: libc::c_long = -1;
    // SAFETY: an IoSlice is laid out as an iovec; `part` and `bytes` outlive the call, and the kernel
    // only reads them.
    let written = unsafe {
        libc::syscall(
            libc::SYS_pwritev2,
            fd.as_raw_fd(),
            &raw const part,
            1 as libc::c_ulong,
            current,
            current,
            libc::RWF_NOWAIT,
        )
    };
    Errno::result(written).map(|count| count as usize)
}

/// Our own standard input. This and the next two have no buffer and no lock, unlike `std::io`'s.
pub fn stdin() -> BorrowedFd<'static> {
    // SAFETY: std opens 0 to 2 before main if they are not, and nothing here closes them.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

pub fn stdout() -> BorrowedFd<'static> {
    // SAFETY: as above.
    unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) }
}

pub fn stderr() -> BorrowedFd<'static> {
    // SAFETY: as above.
    unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }
}

/// Writes it all, waiting as long as it takes (write(2)), also where O_NONBLOCK is set. Errors: the
/// system's, but for EINTR and EAGAIN.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut watched = [PollFd::new(fd, PollFlags::POLLOUT)];
                let _ = poll(&mut watched, PollTimeout::NONE);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// How many bytes wait in a pipe or a stream socket (FIONREAD, ioctl_tty(2), pipe(7)).
pub fn bytes_waiting(fd: BorrowedFd<'_>) -> nix::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `count` is one.
    unsafe { fionread(fd.as_raw_fd(), &mut count) }?;
    Ok(count.max(0) as usize)
}

/// Appends up to `limit` bytes to `bytes` with one read(2), whose memory need not be zeroed first;
/// says how many.
pub fn read_append(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>, limit: usize) -> nix::Result<usize> {
    bytes.reserve(limit);
    let space = &mut bytes.spare_capacity_mut()[..limit];
    // SAFETY: the kernel writes at most `limit` bytes into `space`, which is that long.
    let count = unsafe { libc::read(fd.as_raw_fd(), space.as_mut_ptr().cast(), limit) };
    let count = Errno::result(count)? as usize;
    // SAFETY: the kernel has just written `count` bytes after the old length.
    unsafe { bytes.set_len(bytes.len() + count) };
    Ok(count)
}

/// Whether two descriptors are the same terminal, `/dev/tty` included (TIOCGDEV, Linux 2.6.37).
pub fn same_terminal(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let device = |fd: BorrowedFd<'_>| {
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGDEV writes one unsigned int, and `number` is one.
        unsafe { tiocgdev(fd.as_raw_fd(), &mut number) }.map(|_| number)
    };
    matches!((device(one), device(other)), (Ok(a), Ok(b)) if a == b)
}

/// Local time of a moment given in seconds since 1970, by `TZ` or `/etc/localtime`
/// (localtime_r(3)); all zeros for a year that does not fit an int. As C has it: the years count
/// from 1900 and the months from 0.
pub fn local_time(seconds: i64) -> libc::tm {
    // time_t, whose name is deprecated where it is about to change its size.
    let time = seconds as _;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right type. A zeroed `tm` is a valid one
    // (integers, and a null pointer), so it may be read whether localtime_r succeeds or not.
    unsafe {
        libc::localtime_r(&raw const time, parts.as_mut_ptr());
        parts.assume_init()
    }
}

/// Gives the heap's free pages back to the system (malloc_trim(3)). Where the C library has no
/// such call it does so by itself.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, write};
    use std::os::fd::AsFd;

    #[test]
    fn a_full_pipe_refuses_at_once_although_it_is_blocking() {
        let (_end, start) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let block = [b'x'; 4096];
        let mut written = 0;
        let refusal = loop {
            match write_nowait(start.as_fd(), &block) {
                Ok(count) => written += count,
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refusal, Errno::EAGAIN);
        assert!(written >= 4096, "a pipe holds a page at least: {written}");
    }

    #[test]
    fn what_is_read_follows_what_is_there_and_is_no_more_than_the_limit() {
        let (end, start) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let mut bytes = b"old ".to_vec();
        write(&start, b"new and more").unwrap();
        assert_eq!(bytes_waiting(end.as_fd()), Ok(12));
        assert_eq!(read_append(end.as_fd(), &mut bytes, 3), Ok(3));
        assert_eq!(read_append(end.as_fd(), &mut bytes, 100), Ok(9));
        assert_eq!(bytes, b"old new and more");
        let refused = read_append(end.as_fd(), &mut bytes, 100);
        assert_eq!(refused, Err(Errno::EAGAIN));
        drop(start);
        // Other tests fork at the same time, and their children hold our descriptors until exec.
        let mut watched = [PollFd::new(end.as_fd(), PollFlags::empty())];
        assert_eq!(
            poll(&mut watched, 10_000_u16),
            Ok(1),
            "10 s, and still held"
        );
        assert_eq!(read_append(end.as_fd(), &mut bytes, 100), Ok(0));
        assert_eq!(bytes, b"old new and more");
    }

    #[test]
    fn local_time_is_what_date_says() {
        let date = std::process::Command::new("date")
            .args(["-d", "@1795330801", "+%Y %-m %-d %-H %-M %-S"])
            .output()
            .unwrap();
        let t = local_time(1_795_330_801);
        let ours = format!(
            "{} {} {} {} {} {}\n",
            t.tm_year + 1900,
            t.tm_mon + 1,
            t.tm_mday,
            t.tm_hour,
            t.tm_min,
            t.tm_sec
        );
        assert_eq!(ours, String::from_utf8(date.stdout).unwrap());
    }
}
