//! The sink that is stderr, whatever stderr is. It must never block, and never change the blocking
//! mode of a descriptor that others hold too.

use super::SinkState;
use super::queue::Queue;
use crate::sys::io::{same_terminal, write_nowait};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a probed pipe takes without waiting: PIPE_BUF (pipe(7)). A terminal that says it is
/// writable has room for some hundred bytes.
const PROBED_PIPE: usize = 4096;
const PROBED_TERMINAL: usize = 256;

/// How to write without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteMode {
    /// A pipe or a terminal that could be reopened: the description is ours, with O_NONBLOCK.
    Reopened,
    /// A socket, which cannot be reopened: MSG_DONTWAIT.
    Send,
    /// Somebody else's pipe: RWF_NOWAIT.
    NoWait,
    /// None of these works: ask poll(2), then write no more than surely fits.
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
    /// Finds the mode for this descriptor. Errors: no descriptor is left.
    pub fn open(stderr: BorrowedFd<'_>) -> io::Result<Stderr> {
        let kind = SFlag::from_bits_truncate(fstat(stderr)?.st_mode) & SFlag::S_IFMT;
        let (reopened, mode) = match kind {
            SFlag::S_IFIFO => (reopen(stderr), WriteMode::NoWait),
            SFlag::S_IFCHR if stderr.is_terminal() => {
                (reopen(stderr), WriteMode::Probed(PROBED_TERMINAL))
            }
            SFlag::S_IFSOCK => (None, WriteMode::Send),
            _ => (None, WriteMode::Plain),
        };
        let (fd, mode) = match reopened {
            Some(own) => (own, WriteMode::Reopened),
            None => (stderr.try_clone_to_owned()?, mode),
        };
        Ok(Stderr { fd, mode })
    }

    /// The descriptor that becomes writable when there is room again; a file never does.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (self.mode != WriteMode::Plain).then(|| self.fd.as_fd())
    }

    /// One write(2) of what waits.
    pub fn flush(&mut self, queue: &mut Queue) -> SinkState {
        match self.write(queue.bytes()) {
            Ok(count) => {
                queue.consume(count);
                match self.mode {
                    _ if queue.is_empty() => SinkState::Open,
                    // A file that took only a part says why at the next attempt.
                    WriteMode::Plain | WriteMode::Probed(_) => SinkState::Open,
                    _ => SinkState::Full,
                }
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if self.mode == WriteMode::NoWait => {
                self.mode = WriteMode::Probed(PROBED_PIPE);
                SinkState::Open
            }
            // A device that is neither a terminal nor a pipe: no poll(2) tells when it has room.
            Err(Errno::EAGAIN) if self.mode == WriteMode::Plain => SinkState::Absent,
            Err(Errno::EAGAIN) => SinkState::Full,
            Err(Errno::EINTR) => SinkState::Open,
            Err(_) => SinkState::Broken,
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
            WriteMode::Probed(piece) => {
                let mut probe = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut probe, PollTimeout::ZERO)? {
                    0 => Err(Errno::EAGAIN),
                    _ => write(&self.fd, &bytes[..piece.min(bytes.len())]),
                }
            }
            WriteMode::Reopened | WriteMode::Plain => write(&self.fd, bytes),
        }
    }
}

/// A second, non-blocking description of the same pipe or terminal. The way by /proc fails for a
/// pipe or a terminal of another user; a terminal may still be the controlling one, which everybody
/// may open: after a change of user, or in a container whose terminal belongs to root.
fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let open = |path: &str| open(path, flags, Mode::empty()).ok();
    open(&format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .or_else(|| open("/dev/tty").filter(|tty| same_terminal(fd, tty.as_fd())))
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
        while stderr.flush(&mut queue) == SinkState::Open {
            turns += 1;
            assert!(turns < 1000, "a pipe that nobody reads is full at last");
        }
        let left = queue.len();
        assert!(left > 0 && left < queue_was, "{left}");
        assert_eq!(stderr.flush(&mut queue), SinkState::Full);
        assert_eq!(queue.len(), left);
        read(&end, &mut [0; 16 * 1024]).unwrap();
        stderr.flush(&mut queue);
        assert!(queue.len() < left);
        drop(end);
        assert_eq!(stderr.flush(&mut queue), SinkState::Broken);
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
        assert!(null.fd().is_none());
    }
}
