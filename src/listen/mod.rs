//! The listening sockets: what the `-listen` addresses became. A `Listener` owns our copy of a
//! socket and, for a unix path, what has to be known to restore and to remove it. Nothing here
//! accepts, changes `O_NONBLOCK` (all holders of a socket share it, so it belongs to the workers),
//! or closes a socket by itself while we serve.

mod guard;
pub mod inherited;
mod listeners;
pub mod open;
pub mod unix_path;
pub mod uri;

pub use inherited::Inherited;
pub use listeners::{ListenerEvent, Listeners};
pub use open::{Opened, abandon, check, open_all};

use crate::listen::uri::{Address, Scheme, Uri};
use crate::sys::socket::{self, UnixDiag};
use crate::text::errno_text;
use crate::worker::env::Socket;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::sys::stat::fstat;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use unix_path::SocketFile;

/// The name in `LISTEN_FDNAMES` of a socket that nobody named (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// "cannot VERB SCHEME://ADDRESS: WORD".
fn cannot(verb: &str, uri: &Uri, word: &str) -> String {
    let (scheme, address) = (uri.scheme.name(), &uri.address);
    format!("cannot {verb} {scheme}://{address}: {word}")
}

/// The same with the system's word.
fn refused(verb: &str, uri: &Uri) -> impl Fn(Errno) -> String {
    move |errno| cannot(verb, uri, &word(errno))
}

fn word(errno: Errno) -> String {
    errno_text(errno as i32)
}

fn sock_type(scheme: Scheme) -> SockType {
    match scheme {
        Scheme::Udp | Scheme::Udp4 | Scheme::Udp6 | Scheme::Unixgram => SockType::Datagram,
        Scheme::Unixpacket => SockType::SeqPacket,
        _ => SockType::Stream,
    }
}

/// Whether such a socket has a backlog (listen(2)) and can refuse a client.
fn listens(kind: SockType) -> bool {
    kind != SockType::Datagram
}

/// The kind of a socket that somebody else opened. Errors: why no worker could use it.
fn usable_kind(fd: BorrowedFd<'_>) -> Result<SockType, String> {
    let kind = match getsockopt(&fd, sockopt::SockType) {
        Ok(kind @ (SockType::Stream | SockType::Datagram | SockType::SeqPacket)) => kind,
        // nix says EINVAL of a type that it does not know.
        Ok(_) | Err(Errno::EINVAL) => {
            return Err("it is neither a stream nor a datagram socket".into());
        }
        Err(Errno::ENOTSOCK) => return Err("it is not a socket".into()),
        Err(errno) => return Err(word(errno)),
    };
    match getsockopt(&fd, sockopt::AcceptConn).map_err(word)? {
        false if listens(kind) => Err("it is not listening".into()),
        _ => Ok(kind),
    }
}

/// The address that a socket really has (getsockname(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Inet(SocketAddr),
    Path(PathBuf),
    /// Without the NUL before it.
    Abstract(OsString),
}

impl Bound {
    fn of(fd: BorrowedFd<'_>) -> Result<Bound, String> {
        let address = getsockname::<SockaddrStorage>(fd.as_raw_fd()).map_err(word)?;
        if let Some(inet) = socket::inet(&address) {
            return Ok(Bound::Inet(inet));
        }
        // An unbound socket and one of another family are neither.
        let unix = address.as_unix_addr().ok_or("it has no address")?;
        match (unix.path(), unix.as_abstract()) {
            (Some(path), _) => Ok(Bound::Path(path.to_owned())),
            (_, Some(name)) => Ok(Bound::Abstract(OsString::from_vec(name.to_vec()))),
            _ => Err("it has no address".into()),
        }
    }

    fn address(&self) -> Address {
        match self {
            Bound::Inet(inet) => Address::Host {
                host: inet.ip().to_string(),
                port: inet.port().to_string(),
            },
            Bound::Path(path) => Address::Path(path.clone()),
            Bound::Abstract(name) => Address::Abstract(name.clone()),
        }
    }
}

/// One socket that the workers get. It closes when dropped; its path stays until `remove`.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// What `-listen` said.
    pub uri: Uri,
    kind: SockType,
    bound: Bound,
    file: Option<SocketFile>,
    /// Why the guard cannot repair it, if it is cut off: each reason is logged once.
    trouble: Option<String>,
    /// Its name in a worker's `LISTEN_FDNAMES`.
    pub name: String,
    /// Its name in systemd's fd store: the same for the same address after a crash, and fit for
    /// `FDNAME=` (sd_pid_notify_with_fds(3)). `None`: inherited, so somebody else keeps it for us.
    pub store_name: Option<String>,
    /// It came back from systemd's fd store, which still holds it.
    pub is_stored: bool,
}

impl Listener {
    /// A socket that somebody else opened: inherited, from the fd store, copied from another
    /// process, or our own before an exec. `name` is the one it came with in `LISTEN_FDNAMES`.
    ///
    /// A unix path is restored when it is gone and a hidden link of ours still leads to the socket.
    /// We remove the path at the end, unless the socket is inherited (`fd://`, `systemd://`).
    ///
    /// Errors: "cannot use URI: it is not a socket", "…: it is not listening", and the like.
    pub fn adopt(uri: Uri, fd: OwnedFd, name: Option<&str>) -> Result<Listener, String> {
        let usable = usable_kind(fd.as_fd()).and_then(|kind| {
            let bound = Bound::of(fd.as_fd())?;
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(word)?;
            Ok((kind, bound))
        });
        let (kind, bound) = usable.map_err(|why| cannot("use", &uri, &why))?;
        let mut listener = Listener::new(uri, fd, kind, bound, name);
        if let Bound::Path(path) = &listener.bound {
            let inode = file_inode(listener.as_fd());
            listener.file = match listener.is_inherited() {
                true => SocketFile::guest(path, inode, kind),
                false => Some(SocketFile::reclaim(path, inode, kind)),
            };
        }
        Ok(listener)
    }

    fn new(uri: Uri, fd: OwnedFd, kind: SockType, bound: Bound, name: Option<&str>) -> Listener {
        let name = uri.options.name.as_deref().or(name).unwrap_or(UNNAMED);
        Listener {
            name: name.to_owned(),
            store_name: (!uri.scheme.is_inherited()).then(|| open::store_name(&uri)),
            fd,
            uri,
            kind,
            bound,
            file: None,
            trouble: None,
            is_stored: false,
        }
    }

    /// It came by `fd://` or `systemd://`: another process made it and may still use it.
    pub fn is_inherited(&self) -> bool {
        self.uri.scheme.is_inherited()
    }

    /// The bound address as the log shows it: `tcp://[::]:8080`, `unix:///run/x.sock`.
    pub fn address(&self) -> String {
        let scheme = match (&self.bound, self.kind) {
            _ if !self.is_inherited() => self.uri.scheme,
            (Bound::Inet(_), SockType::Datagram) => Scheme::Udp,
            (Bound::Inet(_), _) => Scheme::Tcp,
            (_, SockType::Datagram) => Scheme::Unixgram,
            (_, SockType::SeqPacket) => Scheme::Unixpacket,
            _ => Scheme::Unix,
        };
        format!("{}://{}", scheme.name(), self.bound.address())
    }

    /// What a worker's environment says about the socket.
    pub fn as_socket(&self) -> Socket<'_> {
        let (family, address) = match &self.bound {
            Bound::Inet(inet) if inet.is_ipv4() => ("AF_INET", inet.to_string()),
            Bound::Inet(inet) => ("AF_INET6", inet.to_string()),
            Bound::Path(path) => ("AF_UNIX", path.to_string_lossy().into_owned()),
            Bound::Abstract(name) => ("AF_UNIX", format!("@{}", name.to_string_lossy())),
        };
        let server_starter = match &self.bound {
            // start_server(1) names a socket on all addresses by its port alone.
            Bound::Inet(inet) if inet.ip().is_unspecified() => inet.port().to_string(),
            _ => address.clone(),
        };
        Socket {
            name: &self.name,
            family,
            server_starter: server_starter.into(),
            php_fpm: self.uri.options.fpm.clone().unwrap_or(address).into(),
        }
    }

    /// How many clients wait, and how many the kernel lets wait: a worker changes the latter by a
    /// listen(2) of its own. `None`: no backlog, or the kernel does not tell.
    pub fn queue(&self) -> Option<(u32, u32)> {
        match &self.bound {
            _ if !listens(self.kind) => None,
            Bound::Inet(_) => socket::tcp_queue(self.as_fd()).ok(),
            _ => unix_diag(self.as_fd())?.queue,
        }
    }

    /// For the final stop: removes the unix path if it still leads to this socket and is ours to
    /// remove, and the hidden link beside it.
    ///
    /// Returns what stays behind and why, a line each.
    pub fn remove(&mut self) -> Vec<String> {
        let file = self.file.as_mut();
        file.map(SocketFile::remove).unwrap_or_default()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn unix_diag(fd: BorrowedFd<'_>) -> Option<UnixDiag> {
    // The inode numbers of sockets have 32 bits, as sock_diag(7) has them.
    socket::unix_diag(fstat(fd).ok()?.st_ino as u32).ok()
}

/// The lower 32 bits of the inode of the file that a unix socket is bound to. `None`: the kernel
/// does not tell.
fn file_inode(fd: BorrowedFd<'_>) -> Option<u32> {
    unix_diag(fd)?.file
}

#[cfg(test)]
pub(crate) mod tests;
