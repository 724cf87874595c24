//! One datagram of a unix socket together with who sent it, as the kernel knows it. No descriptor
//! that the sender attached gets into this process.

use super::interrupt::Interruptible;
use nix::errno::Errno;
use std::io::IoSliceMut;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who sent a datagram, as the kernel says (SCM_CREDENTIALS, unix(7)). The pid is 0 for a process
/// outside our PID namespace; the process may have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    pub uid: u32,
}

/// Where the kernel does not say, as without SO_PASSCRED.
const NOBODY: Sender = Sender {
    pid: 0,
    uid: u32::MAX,
};

/// What [`receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// How much of the buffer was filled.
    pub length: usize,
    /// The datagram was longer than the buffer; its rest is lost.
    pub truncated: bool,
    pub sender: Sender,
}

// SAFETY: CMSG_SPACE only computes.
const CREDENTIALS_SPACE: usize =
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Room for the credentials and for nothing else: the kernel writes them first, and descriptors
/// that find no room are closed by it before recvmsg(2) returns (unix(7), SCM_RIGHTS). So none can
/// leak, not even at the limit of open files, and a BARRIER=1 is answered by having been read.
/// (nix's recvmsg gives no control message at all when one was cut off.)
#[repr(C, align(8))]
struct Control([u8; CREDENTIALS_SPACE]);

/// Takes one datagram from a socket that has SO_PASSCRED, and closes the descriptors that came
/// with it. EAGAIN: a non-blocking socket has none.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Received> {
    let mut control = Control([0; CREDENTIALS_SPACE]);
    let mut part = IoSliceMut::new(buffer);
    // SAFETY: msghdr is plain data for which all zeroes is "nothing given".
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = (&raw mut part).cast();
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CREDENTIALS_SPACE as _;
    let _bounded = Interruptible::begin();
    let length = loop {
        // SAFETY: header points at `part`, which is laid out as an iovec, and at `control`; both
        // are alive here, and so is the buffer.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(got) {
            Ok(length) => break length as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    Ok(Received {
        length,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        sender: sender(&header).unwrap_or(NOBODY),
    })
}

fn sender(header: &libc::msghdr) -> Option<Sender> {
    // SAFETY: header is as recvmsg left it and its control buffer is alive in the caller; the
    // macro returns null or a whole cmsghdr within it.
    let first = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (first.cmsg_level, first.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
        return None;
    }
    // SAFETY: the kernel put a whole ucred after a header of this type; read_unaligned asks for
    // no alignment.
    let ucred: libc::ucred = unsafe {
        libc::CMSG_DATA(first)
            .cast::<libc::ucred>()
            .read_unaligned()
    };
    Some(Sender {
        pid: ucred.pid,
        uid: ucred.uid,
    })
}
