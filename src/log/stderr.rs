//! The sink that is stderr, whatever stderr is: it is written without ever waiting and without ever
//! touching the blocking mode of a descriptor that others hold too. It reports what happened; what
//! that means for the queue is its owner's business.

use super::OWN_FDS_FROM;
use super::queue::{Outcome, Queue};
use crate::sys::io::{copy_above, same_terminal, write_nowait};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a probed pipe takes without waiting: PIPE_BUF (pipe(7)). A terminal that says it is
/// writable has room for some hundred bytes.
const PROBED_PIPE: usize = 4096;
const PROBED_TERMINAL: usize = 256;
/// How many probes a turn may cost.
const PROBES: usize = 16;

/// How to write without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteMode {
    /// A description of our own, O_NONBLOCK: pipes and terminals that let themselves be reopened.
    Reopened,
    /// A socket, which cannot be reopened: MSG_DONTWAIT.
    Send,
    /// Somebody else's pipe: RWF_NOWAIT.
    NoWait,
    /// None of these: ask poll(2), then write no more than surely fits.
    Probed(usize),
    /// A file or `/dev/null`: never full.
    Plain,
}

/// Where our stderr leads.
#[derive(Debug)]
pub struct Stderr {
    fd: OwnedFd,
    mode: WriteMode,
}

impl Stderr {
    /// Finds the mode for this descriptor. Only running out of descriptors fails.
    pub fn open(stderr: BorrowedFd<'_>) -> nix::Result<Stderr> {
        let kind = SFlag::from_bits_truncate(fstat(stderr)?.st_mode) & SFlag::S_IFMT;
        let reopened = match kind {
            SFlag::S_IFIFO => reopen(stderr),
            SFlag::S_IFCHR if stderr.is_terminal() => {
                reopen(stderr).or_else(|| reopen_controlling(stderr))
            }
            _ => None,
        };
        if let Some(own) = reopened {
            return Ok(Stderr {
                fd: copy_above(own.as_fd(), OWN_FDS_FROM).unwrap_or(own),
                mode: WriteMode::Reopened,
            });
        }
        let mode = match kind {
            SFlag::S_IFIFO => WriteMode::NoWait,
            SFlag::S_IFSOCK => WriteMode::Send,
            SFlag::S_IFCHR if stderr.is_terminal() => WriteMode::Probed(PROBED_TERMINAL),
            _ => WriteMode::Plain,
        };
        Ok(Stderr {
            fd: copy_above(stderr, OWN_FDS_FROM)?,
            mode,
        })
    }

    /// The descriptor that becomes writable when there is room again; a file never does.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (self.mode != WriteMode::Plain).then(|| self.fd.as_fd())
    }

    /// One write(2) of what waits.
    pub fn flush(&mut self, queue: &mut Queue) -> Outcome {
        if let WriteMode::Probed(piece) = self.mode {
            return self.flush_probed(queue, piece);
        }
        let wanted = queue.len();
        match self.write(queue.bytes()) {
            Ok(count) => {
                queue.consume(count);
                // A file that took a part says why at the next try; anything else is full now.
                match count == wanted || self.mode == WriteMode::Plain {
                    true => Outcome::Open,
                    false => Outcome::Full,
                }
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if self.mode == WriteMode::NoWait => {
                self.mode = WriteMode::Probed(PROBED_PIPE);
                Outcome::Open
            }
            // No poll(2) will tell when: a device that is neither a terminal nor a pipe.
            Err(Errno::EAGAIN) if self.mode == WriteMode::Plain => Outcome::Absent,
            Err(errno) => outcome_of(errno),
        }
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.mode {
            WriteMode::Send => send(
                self.fd.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ),
            WriteMode::NoWait => write_nowait(self.fd.as_fd(), bytes),
            _ => write(&self.fd, bytes),
        }
    }

    fn flush_probed(&self, queue: &mut Queue, piece: usize) -> Outcome {
        for _ in 0..PROBES {
            if queue.is_empty() {
                break;
            }
            let mut probe = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut probe, PollTimeout::ZERO) == Ok(0) {
                return Outcome::Full;
            }
            let wanted = queue.len().min(piece);
            match write(&self.fd, &queue.bytes()[..wanted]) {
                Ok(count) => queue.consume(count),
                Err(errno) => return outcome_of(errno),
            }
        }
        Outcome::Open
    }
}

fn outcome_of(errno: Errno) -> Outcome {
    match errno {
        Errno::EAGAIN => Outcome::Full,
        Errno::EINTR => Outcome::Open,
        _ => Outcome::Broken,
    }
}

/// A second description of the same pipe or terminal. It fails without /proc, for a pipe of
/// another user, and for a terminal whose device belongs to another user.
fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    open_nonblocking(&format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The same terminal by its other name, which everybody may open: after a change of user, or in
/// a container whose terminal belongs to root.
fn reopen_controlling(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    open_nonblocking("/dev/tty").filter(|tty| same_terminal(fd, tty.as_fd()))
}

fn open_nonblocking(path: &str) -> Option<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    open(path, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::*;
    use nix::unistd::{pipe2, read};

    fn through(mode: WriteMode, fd: OwnedFd) -> (Stderr, Queue) {
        let mut queue = Queue::new(Format::Plain, 1);
        for _ in 0..600 {
            queue.push_worker_line(1, &[b'x'; 999], 0);
        }
        (Stderr { fd, mode }, queue)
    }

    /// Fills a blocking pipe, takes a page out, and looks whether writing goes on.
    fn fills_and_goes_on(mode: WriteMode) {
        let (end, start) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (mut stderr, mut queue) = through(mode, start);
        let queue_was = queue.len();
        let mut turns = 0;
        while stderr.flush(&mut queue) == Outcome::Open {
            turns += 1;
            assert!(turns < 1000, "a pipe that nobody reads is full at last");
        }
        let left = queue.len();
        assert!(left > 0 && left < queue_was, "{left}");
        assert_eq!(stderr.flush(&mut queue), Outcome::Full);
        assert_eq!(queue.len(), left);
        read(&end, &mut [0; 16 * 1024]).unwrap();
        stderr.flush(&mut queue);
        assert!(queue.len() < left);
        drop(end);
        assert_eq!(stderr.flush(&mut queue), Outcome::Broken);
    }

    #[test]
    fn a_pipe_that_cannot_be_reopened_is_written_without_waiting() {
        fills_and_goes_on(WriteMode::NoWait);
    }

    #[test]
    fn a_pipe_of_an_old_kernel_is_probed_and_written_without_waiting() {
        fills_and_goes_on(WriteMode::Probed(PROBED_PIPE));
    }

    #[test]
    fn what_cannot_do_nowait_is_probed_from_then_on() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let (mut stderr, mut queue) = through(WriteMode::NoWait, terminal.slave);
        stderr.flush(&mut queue);
        assert_eq!(stderr.mode, WriteMode::Probed(PROBED_PIPE));
    }

    #[test]
    fn each_kind_of_stderr_has_its_mode() {
        let (_end, start) = pipe2(OFlag::O_CLOEXEC).unwrap();
        assert_eq!(
            Stderr::open(start.as_fd()).unwrap().mode,
            WriteMode::Reopened
        );
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mode = Stderr::open(terminal.slave.as_fd()).unwrap().mode;
        assert_eq!(mode, WriteMode::Reopened);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Stderr::open(socket.as_fd()).unwrap().mode, WriteMode::Send);
        let null = std::fs::File::create("/dev/null").unwrap();
        let null = Stderr::open(null.as_fd()).unwrap();
        assert_eq!(null.mode, WriteMode::Plain);
        assert!(null.fd().is_none() && null.fd.as_raw_fd() >= OWN_FDS_FROM);
    }
}
