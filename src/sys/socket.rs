//! Sockets where nix stops: name resolution, a backlog of any size, what the kernel knows about a
//! listener, and becoming the owner of an inherited descriptor. It keeps no state.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage,
    UnixAddr, getsockopt, recv, send, socket, sockopt,
};
use std::ffi::{CStr, CString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

/// The addresses of a host and a service, for a socket that is to be bound, in the resolver's
/// order (getaddrinfo(3) with AI_PASSIVE). No host means all addresses, no family means both.
///
/// Errors: the system's, or the resolver's own words, as gai_strerror(3) has them.
pub fn resolve(
    host: Option<&str>,
    service: &str,
    family: Option<AddressFamily>,
    kind: SockType,
) -> io::Result<Vec<SocketAddr>> {
    let host = host.map(CString::new).transpose()?;
    let service = CString::new(service)?;
    // SAFETY: all zeroes is a valid addrinfo: integers, and pointers that may be null.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_PASSIVE;
    hints.ai_family = family.map_or(libc::AF_UNSPEC, |family| family as i32);
    hints.ai_socktype = kind as i32;
    let node = host.as_ref().map_or(ptr::null(), |host| host.as_ptr());
    let mut list = ptr::null_mut();
    // SAFETY: both strings end in NUL and outlive the call, `hints` and `list` are ours.
    match unsafe { libc::getaddrinfo(node, service.as_ptr(), &hints, &mut list) } {
        0 => {}
        libc::EAI_SYSTEM => return Err(io::Error::last_os_error()),
        code => {
            // SAFETY: gai_strerror returns a static string that ends in NUL for every code.
            let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
            return Err(io::Error::other(text.to_string_lossy()));
        }
    }
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: `next` is null or points to an entry of the list that getaddrinfo gave us.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: an entry's address is as long as its length says.
        let raw = unsafe { SockaddrStorage::from_raw(entry.ai_addr, Some(entry.ai_addrlen)) };
        addresses.extend(raw.as_ref().and_then(inet));
        next = entry.ai_next;
    }
    // SAFETY: `list` came from a getaddrinfo that succeeded, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}

/// The internet address in a socket address, if it is one.
pub fn inet(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        (None, None) => None,
    }
}

/// listen(2), also with a backlog above what nix holds for the maximum.
pub fn listen(fd: BorrowedFd<'_>, backlog: u32) -> Result<(), Errno> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: no memory is involved, and the descriptor is open.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Whether the receiving side was shut down, or the socket is no longer connected or listening
/// (poll(2): POLLHUP, POLLRDHUP). Never waits, takes nothing from the socket.
pub fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let hang_ups = PollFlags::from_bits_retain(libc::POLLRDHUP);
    poll(&mut [PollFd::new(fd, hang_ups)], PollTimeout::ZERO) == Ok(1)
}

/// The longest path that a unix socket can have (unix(7)): `sun_path` without the NUL at its end.
const LONGEST_PATH: usize = 107;

/// Errors: "the path has 125 bytes, the limit is 107". The system only says that it is invalid.
pub fn check_path(path: &Path) -> io::Result<()> {
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Ok(());
    }
    let text = format!("the path has {length} bytes, the limit is {LONGEST_PATH}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// How long we wait before we ask again for a place in a full queue.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

/// Connects to the unix socket at a path, until `deadline` at most: connect(2) would wait without end
/// while the queue is full (unix(7)), so it does not wait, and is tried again.
///
/// Errors: the system's, those of `check_path`, and TimedOut.
pub fn connect(path: &Path, deadline: Option<Instant>) -> io::Result<UnixStream> {
    check_path(path)?;
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match nix::sys::socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(CONNECT_PAUSE);
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Becomes the owner of an inherited descriptor and marks it close-on-exec.
///
/// Errors: EBADF when it is not open; EBUSY when it has an owner in this process: 0, 1 and 2, which
/// are std's, and every one that is close-on-exec. Such a one did not come through our exec, and
/// all that we open are.
pub fn inherit(number: RawFd) -> Result<OwnedFd, Errno> {
    if (libc::STDIN_FILENO..=libc::STDERR_FILENO).contains(&number) {
        return Err(Errno::EBUSY);
    }
    // SAFETY: F_GETFD and F_SETFD read and write a flag of whatever this number is.
    let flags = Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nothing here owns it, since it was not marked until now. From now on
    // this function refuses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Brings a TCP socket back to the state before connect(2) or listen(2); it keeps an address that
/// was asked for (connect(2), AF_UNSPEC).
pub fn disconnect(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: the address lives during the call and is as long as `length` says.
    Errno::result(unsafe { libc::connect(fd.as_raw_fd(), &nowhere, length) }).map(drop)
}

/// The beginning of what the kernel writes for TCP_INFO.
#[derive(Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; 8],
    sockopt::GetStruct<[u32; 8]>
);

/// How many clients wait in a TCP listener's queue, and how many may (TCP_INFO, tcp(7): of a
/// listener, `tcpi_unacked` and `tcpi_sacked` say this).
pub fn tcp_queue(fd: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    // linux/tcp.h: eight bytes, then 32-bit fields, of which these are the fifth and sixth.
    let info = getsockopt(&fd, TcpInfo)?;
    Ok((info[6], info[7]))
}

/// What sock_diag(7) tells about a unix socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnixDiag {
    /// The inode of the file that it is bound to, cut to 32 bits.
    pub file: Option<u32>,
    /// Of a listener: how many clients wait, and how many may.
    pub queue: Option<(u32, u32)>,
}

// linux/netlink.h, linux/sock_diag.h and linux/unix_diag.h.
const UDIAG_SHOW_VFS: u32 = 0x2;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_RQLEN: u16 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Asks the kernel about the unix socket with this inode number (what fstat(2) says of its
/// descriptor). The answer is there when the question has been sent: this never waits.
///
/// Errors: no netlink in this sandbox, no unix_diag in this kernel, no such socket.
pub fn unix_diag(inode: u32) -> Result<UnixDiag, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkSockDiag;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let [a, b] = SOCK_DIAG_BY_FAMILY.to_ne_bytes();
    let [c, d] = (libc::NLM_F_REQUEST as u16).to_ne_bytes();
    let request = [
        // A nlmsghdr: length, type and flags, sequence number, port.
        40_u32.to_ne_bytes(),
        [a, b, c, d],
        [0; 4],
        [0; 4],
        // A unix_diag_req: family, states, inode, what to show, cookie (any).
        [libc::AF_UNIX as u8, 0, 0, 0],
        u32::MAX.to_ne_bytes(),
        inode.to_ne_bytes(),
        (UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN).to_ne_bytes(),
        [0xff; 4],
        [0xff; 4],
    ];
    let nothing = MsgFlags::empty();
    send(netlink.as_raw_fd(), request.as_flattened(), nothing)?;
    let mut answer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, nothing)?;
    parse_unix_diag(&answer[..length])
}

/// Reads a nlmsghdr (4 words), a unix_diag_msg (4 words) and attributes: each has its length and
/// its kind in one word, and its value behind that.
fn parse_unix_diag(answer: &[u8]) -> Result<UnixDiag, Errno> {
    let words: Vec<[u8; 4]> = answer
        .chunks_exact(4)
        .filter_map(|word| word.try_into().ok())
        .collect();
    let word = |at: usize| words.get(at).map(|word| u32::from_ne_bytes(*word));
    let halves = |at: usize| {
        let [a, b, c, d] = *words.get(at)?;
        Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])))
    };
    if halves(1).is_none_or(|(kind, _)| kind != SOCK_DIAG_BY_FAMILY) {
        // An NLMSG_ERROR carries a negative errno behind the header.
        let errno = word(4).map_or(0, |word| (word as i32).wrapping_neg());
        return Err(Errno::from_raw(errno));
    }
    let mut diag = UnixDiag::default();
    let mut at = 8;
    while let Some((length, kind)) = halves(at) {
        match (kind, word(at + 1), word(at + 2)) {
            (UNIX_DIAG_VFS, Some(inode), _) => diag.file = Some(inode),
            (UNIX_DIAG_RQLEN, Some(waiting), Some(limit)) => diag.queue = Some((waiting, limit)),
            _ => {}
        }
        at += usize::from(length).div_ceil(4).max(1);
    }
    Ok(diag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::tests::Folder;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, IntoRawFd};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn numbers_resolve_without_a_resolver() {
        let found = resolve(Some("127.0.0.1"), "80", None, SockType::Stream).unwrap();
        assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
        let all = resolve(None, "80", Some(AddressFamily::Inet), SockType::Stream).unwrap();
        assert_eq!(all, ["0.0.0.0:80".parse().unwrap()]);
    }

    #[test]
    fn an_address_of_the_wrong_family_does_not_resolve() {
        let family = Some(AddressFamily::Inet6);
        assert!(resolve(Some("127.0.0.1"), "80", family, SockType::Stream).is_err());
    }

    #[test]
    fn the_queue_of_a_tcp_listener_counts_waiting_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(listener.as_fd(), 7).unwrap();
        let address = listener.local_addr().unwrap();
        let _clients = [
            TcpStream::connect(address).unwrap(),
            TcpStream::connect(address).unwrap(),
        ];
        assert_eq!(tcp_queue(listener.as_fd()).unwrap(), (2, 7));
    }

    #[test]
    fn sock_diag_knows_the_queue_and_the_file_of_a_unix_listener() {
        let folder = Folder::new();
        let path = folder.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listen(listener.as_fd(), 9).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
        let diag = match unix_diag(inode as u32) {
            Ok(diag) => diag,
            Err(errno) => return eprintln!("skipped: sock_diag: {errno}"),
        };
        assert_eq!(diag.queue, Some((1, 9)));
        assert_eq!(
            diag.file,
            Some(std::fs::metadata(&path).unwrap().ino() as u32)
        );
    }

    #[test]
    fn sock_diag_of_no_socket_is_an_error() {
        assert!(unix_diag(u32::MAX).is_err());
        assert_eq!(parse_unix_diag(&[]), Err(Errno::UnknownErrno));
    }

    #[test]
    fn nobody_becomes_the_owner_of_the_standard_descriptors() {
        for number in 0..=2 {
            assert_eq!(inherit(number).unwrap_err(), Errno::EBUSY);
        }
    }

    #[test]
    fn an_inherited_descriptor_is_owned_once() {
        let number = TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd();
        assert_eq!(
            inherit(number).unwrap_err(),
            Errno::EBUSY,
            "std marks what it opens"
        );
        // SAFETY: clears a flag of a descriptor that is ours.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
        let owned = inherit(number).unwrap();
        assert_eq!(inherit(number).unwrap_err(), Errno::EBUSY);
        drop(owned);
    }

    #[test]
    fn a_listener_that_serves_is_not_hung_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!hung_up(listener.as_fd()));
    }
}
