//! The listening sockets: what a `-listen` address became. A `Listener` owns our copy of the socket
//! and, for a unix path, what has to be known to restore and to remove it. Nothing here accepts,
//! touches `O_NONBLOCK` (the workers' business: all holders of a socket share it), or closes a
//! socket by itself while we serve.

mod guard;
pub mod inherited;
mod listeners;
pub mod open;
pub mod unix_path;
pub mod uri;

pub use inherited::Inherited;
pub use listeners::Listeners;
pub use open::{Opened, check, open_all};

use crate::listen::uri::{Address, Scheme, Uri};
use crate::sys::socket::{self, UnixDiag};
use crate::text::errno_text;
use crate::worker::env::Socket;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::sys::stat::fstat;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use unix_path::SocketFile;

/// The queue asked for when a `-listen` address names none.
pub const BACKLOG: u32 = 4096;

/// What `LISTEN_FDNAMES` says of a socket that nobody named (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// Why a socket cannot be had: verb, object, the system's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// "cannot VERB SCHEME://ADDRESS: WORD".
pub(crate) fn cannot(verb: &str, uri: &Uri, word: &str) -> Error {
    Error(format!(
        "cannot {verb} {}://{}: {word}",
        uri.scheme.name(),
        uri.address
    ))
}

/// How a socket is used: only the first and the last have a queue and clients to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Datagram,
    SeqPacket,
}

impl Kind {
    fn of(scheme: Scheme) -> Kind {
        match scheme {
            Scheme::Udp | Scheme::Udp4 | Scheme::Udp6 | Scheme::Unixgram => Kind::Datagram,
            Scheme::Unixpacket => Kind::SeqPacket,
            _ => Kind::Stream,
        }
    }

    pub(crate) fn sock_type(self) -> SockType {
        match self {
            Kind::Stream => SockType::Stream,
            Kind::Datagram => SockType::Datagram,
            Kind::SeqPacket => SockType::SeqPacket,
        }
    }

    /// listen(2) belongs to it, and a client can be refused.
    pub fn listens(self) -> bool {
        self != Kind::Datagram
    }
}

/// The address that a socket really has (getsockname(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Inet(SocketAddr),
    Path(PathBuf),
    /// Without the NUL before it.
    Abstract(OsString),
    /// None, or one of a family that we do not speak.
    Nowhere,
}

impl Bound {
    fn of(fd: BorrowedFd<'_>) -> Result<Bound, Errno> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        if let Some(inet) = socket::inet(&address) {
            return Ok(Bound::Inet(inet));
        }
        let unix = address.as_unix_addr();
        if let Some(path) = unix.and_then(|unix| unix.path()) {
            return Ok(Bound::Path(path.to_owned()));
        }
        let name = unix.and_then(|unix| unix.as_abstract());
        Ok(name.map_or(Bound::Nowhere, |name| {
            Bound::Abstract(OsString::from_vec(name.to_vec()))
        }))
    }

    pub(crate) fn address(&self) -> Option<Address> {
        Some(match self {
            Bound::Inet(inet) => Address::Host {
                host: inet.ip().to_string(),
                port: inet.port().to_string(),
            },
            Bound::Path(path) => Address::Path(path.clone()),
            Bound::Abstract(name) => Address::Abstract(name.clone()),
            Bound::Nowhere => return None,
        })
    }
}

/// One socket that the workers get. It closes when dropped; its path stays until `remove`.
#[derive(Debug)]
pub struct Listener {
    pub(crate) fd: OwnedFd,
    pub(crate) uri: Uri,
    pub(crate) kind: Kind,
    pub(crate) bound: Bound,
    pub(crate) file: Option<SocketFile>,
    /// The guard's last complaint, so that each is made once.
    pub(crate) trouble: Option<Error>,
    name: String,
    store_name: Option<String>,
    pub(crate) is_stored: bool,
}

impl Listener {
    /// A socket that somebody else opened: inherited, from the fd store, copied from another
    /// process, or our own before an exec. `name` is the one it came with in `LISTEN_FDNAMES`.
    ///
    /// A unix path is restored when it is gone and a hidden link of ours still has it. What we
    /// opened (by the scheme) stays ours to remove, what a `fd://` or `systemd://` names does not.
    ///
    /// Errors: "cannot use URI: it is not a socket", "…: it is not listening", and the like.
    pub fn adopt(uri: Uri, fd: OwnedFd, name: Option<&str>) -> Result<Listener, Error> {
        let kind = usable_kind(fd.as_fd()).map_err(|why| cannot("use", &uri, &why))?;
        let bound = Bound::of(fd.as_fd())
            .map_err(|errno| cannot("use", &uri, &errno_text(errno as i32)))?;
        if bound == Bound::Nowhere {
            return Err(cannot("use", &uri, "it has no address"));
        }
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| cannot("use", &uri, &errno_text(errno as i32)))?;
        let mut listener = Listener::new(uri, fd, kind, bound, None);
        if !listener.is_inherited() {
            listener.store_name = Some(open::store_name(&listener.uri));
        }
        if let Some(name) = name.filter(|_| listener.uri.options.name.is_none()) {
            listener.name = name.to_owned();
        }
        if let Bound::Path(path) = &listener.bound {
            let inode = unix_diag(listener.as_fd()).and_then(|diag| diag.file);
            listener.file = match listener.is_inherited() {
                true => SocketFile::guest(path, inode, kind),
                false => Some(SocketFile::reclaim(path, inode, kind)),
            };
        }
        Ok(listener)
    }

    fn new(uri: Uri, fd: OwnedFd, kind: Kind, bound: Bound, file: Option<SocketFile>) -> Listener {
        let name = uri
            .options
            .name
            .clone()
            .unwrap_or_else(|| UNNAMED.to_owned());
        Listener {
            fd,
            uri,
            kind,
            bound,
            file,
            trouble: None,
            name,
            store_name: None,
            is_stored: false,
        }
    }

    /// What `-listen` said.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// What `LISTEN_FDNAMES` calls it in a worker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name in systemd's fd store, the same for the same address after a crash, fit for
    /// `FDNAME=` (sd_pid_notify_with_fds(3)). `None`: inherited, so somebody else keeps it for us.
    pub fn store_name(&self) -> Option<&str> {
        self.store_name.as_deref()
    }

    /// systemd's fd store holds it already: it came back from there.
    pub fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// It came by `fd://` or `systemd://`: another process made it and may still use it.
    pub fn is_inherited(&self) -> bool {
        self.uri.scheme.is_inherited()
    }

    /// It is cut off, and what was tried has not mended it.
    pub fn is_harmed(&self) -> bool {
        self.trouble.is_some()
    }

    /// The bound address as the log shows it: `tcp://[::]:8080`, `unix:///run/x.sock`.
    pub fn address(&self) -> String {
        match self.bound.address() {
            Some(address) => format!("{}://{address}", self.scheme().name()),
            None => self.uri.to_string(),
        }
    }

    fn scheme(&self) -> Scheme {
        if !self.is_inherited() {
            return self.uri.scheme;
        }
        match (&self.bound, self.kind) {
            (Bound::Inet(_), Kind::Datagram) => Scheme::Udp,
            (Bound::Inet(_), _) => Scheme::Tcp,
            (_, Kind::Stream) => Scheme::Unix,
            (_, Kind::Datagram) => Scheme::Unixgram,
            (_, Kind::SeqPacket) => Scheme::Unixpacket,
        }
    }

    /// What start_server(1) writes before the `=` in `SERVER_STARTER_PORT`: a path, `host:port`,
    /// or the port alone for a socket on all addresses.
    pub fn server_starter_key(&self) -> OsString {
        match &self.bound {
            Bound::Inet(inet) if inet.ip().is_unspecified() => inet.port().to_string().into(),
            _ => self.plain_address(),
        }
    }

    /// What php-fpm calls it in `FPM_SOCKETS`: the text of its `listen =`.
    pub fn php_fpm_key(&self) -> OsString {
        match &self.uri.options.fpm {
            Some(name) => name.into(),
            None => self.plain_address(),
        }
    }

    fn plain_address(&self) -> OsString {
        match &self.bound {
            Bound::Inet(inet) => inet.to_string().into(),
            Bound::Path(path) => path.clone().into_os_string(),
            Bound::Abstract(name) => {
                let mut text = OsString::from("@");
                text.push(name);
                text
            }
            Bound::Nowhere => OsString::new(),
        }
    }

    /// It as the environment's protocols call it.
    pub fn as_socket(&self) -> Socket<'_> {
        let text = |key: OsString| key.to_string_lossy().into_owned().into();
        Socket {
            name: &self.name,
            family: self.family(),
            server_starter: text(self.server_starter_key()),
            php_fpm: text(self.php_fpm_key()),
        }
    }

    /// For `EINHORN_FD_FAMILY_n`: `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub fn family(&self) -> &'static str {
        match &self.bound {
            Bound::Inet(SocketAddr::V4(_)) => "AF_INET",
            Bound::Inet(SocketAddr::V6(_)) => "AF_INET6",
            _ => "AF_UNIX",
        }
    }

    /// How many clients wait, and how many the kernel lets wait: workers change the latter by a
    /// listen(2) of their own. `None`: no queue, or the kernel does not tell.
    pub fn queue(&self) -> Option<(u32, u32)> {
        match &self.bound {
            _ if !self.kind.listens() => None,
            Bound::Inet(_) => socket::tcp_queue(self.as_fd()).ok(),
            _ => unix_diag(self.as_fd())?.queue,
        }
    }

    /// The queue that we ask for.
    pub(crate) fn backlog(&self) -> u32 {
        self.uri.options.backlog.unwrap_or(BACKLOG)
    }

    /// Removes the unix path if it is still ours, and the hidden link beside it. For the final
    /// stop; what is left of an inherited socket is its owner's.
    ///
    /// Returns what stays behind and why, a line each.
    pub fn remove(&mut self) -> Vec<String> {
        self.file
            .as_mut()
            .map(SocketFile::remove)
            .unwrap_or_default()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn unix_diag(fd: BorrowedFd<'_>) -> Option<UnixDiag> {
    // Sockets have inodes of 32 bits, as their diagnosis.
    socket::unix_diag(fstat(fd).ok()?.st_ino as u32).ok()
}

/// Whether workers can do something with a socket that we did not open.
fn usable_kind(fd: BorrowedFd<'_>) -> Result<Kind, String> {
    let kind = match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => Kind::Stream,
        Ok(SockType::Datagram) => Kind::Datagram,
        Ok(SockType::SeqPacket) => Kind::SeqPacket,
        Ok(_) | Err(Errno::EINVAL) => {
            return Err("it is neither a stream nor a datagram socket".into());
        }
        Err(Errno::ENOTSOCK) => return Err("it is not a socket".into()),
        Err(errno) => return Err(errno_text(errno as i32)),
    };
    match getsockopt(&fd, sockopt::AcceptConn) {
        Ok(false) if kind.listens() => Err("it is not listening".into()),
        Ok(_) => Ok(kind),
        Err(errno) => Err(errno_text(errno as i32)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
