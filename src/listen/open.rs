//! From `-listen` addresses to sockets: bound anew, taken over from our parent, or found again in
//! systemd's fd store after a crash. All or nothing: when one address fails, what was made for the
//! others is removed, and what came back from the store is left as it was.

use super::inherited::{Inherited, Passed, STORE_PREFIX};
use super::unix_path::{self, FileId, FileRights, SocketFile};
use super::{Bound, Listener, cannot, file_inode, listens, refused, sock_type, word};
use crate::listen::uri::{Address, Scheme, Uri};
use crate::sys::io::stdin;
use crate::sys::socket::{check_path, inherit, listen, resolve};
use crate::text::error_text;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockaddrLike, SockaddrStorage, UnixAddr, bind, setsockopt, socket,
    sockopt,
};
use nix::unistd::dup2_stdin;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// The backlog of a `-listen` address that names none.
const BACKLOG: u32 = 4096;

/// What `open_all` made of the addresses.
#[derive(Debug, Default)]
pub struct Opened {
    /// In the order of the addresses; one `systemd://` may be several.
    pub listeners: Vec<Listener>,
    /// Lines for the log.
    pub notices: Vec<String>,
    /// Names in the fd store under which something useless is kept: `FDSTOREREMOVE=1` for each,
    /// before anything is stored.
    pub forget: Vec<String>,
}

/// For a start that fails after all: our paths are removed, except those of sockets that came back
/// from the fd store, which the next start finds there again.
pub fn abandon(listeners: Vec<Listener>) {
    for mut listener in listeners {
        // The start has failed for a reason that matters more than what cannot be removed.
        match (listener.is_stored, &mut listener.file) {
            (true, Some(file)) => drop(file.forget_link()),
            (true, None) => {}
            (false, _) => drop(listener.remove()),
        }
    }
}

/// Checks what can be checked without opening anything: hosts, services, owners and groups exist.
///
/// Errors: those of `open_all`.
pub fn check(uris: &[Uri]) -> Result<(), String> {
    for uri in uris {
        FileRights::of(&uri.options).map_err(|why| cannot("bind", uri, &why))?;
        candidates(uri)?;
    }
    Ok(())
}

/// Opens every address, in order.
///
/// Errors: "cannot bind tcp://:80: Address already in use", with the address that failed.
pub fn open_all(uris: &[Uri], inherited: &Inherited) -> Result<Opened, String> {
    let mut opening = Opening {
        inherited,
        opened: Opened::default(),
        taken: Vec::new(),
    };
    for uri in uris {
        let result = match &uri.address {
            Address::Fd(number) => opening.take(uri, *number),
            Address::Name(name) => opening.take_named(uri, name),
            _ => opening.open_own(uri),
        };
        if let Err(error) = result {
            abandon(opening.opened.listeners);
            return Err(error);
        }
    }
    opening.close_the_rest();
    let mut opened = opening.opened;
    for listener in &mut opened.listeners {
        // `FDSTOREREMOVE=1` takes every socket of a name out of the store, the useful one too.
        let name = listener.store_name.as_ref();
        listener.is_stored &= !name.is_some_and(|name| opened.forget.contains(name));
        opened.notices.extend(shortfalls(listener));
    }
    Ok(opened)
}

struct Opening<'a> {
    inherited: &'a Inherited,
    opened: Opened,
    /// The inherited descriptors that were offered to an address, whether it used them or not.
    taken: Vec<RawFd>,
}

impl Opening<'_> {
    /// `fd://N`: an inherited socket by its number.
    fn take(&mut self, uri: &Uri, number: RawFd) -> Result<(), String> {
        let fd = match number {
            _ if self.taken.contains(&number) => {
                Err(format!("descriptor {number} is taken already"))
            }
            // inetd hands a socket over as 0. The copy is above 2, because a worker gets our stdin.
            0 => stdin().try_clone_to_owned().map_err(|it| error_text(&it)),
            1 | 2 => Err("it is where our output goes".to_owned()),
            _ => inherit(number).map_err(|errno| match errno {
                Errno::EBADF => "it is not open".to_owned(),
                Errno::EBUSY => "it was not inherited".to_owned(),
                errno => word(errno),
            }),
        };
        let fd = fd.map_err(|why| cannot("use", uri, &why))?;
        self.taken.push(number);
        let listener = Listener::adopt(uri.clone(), fd, self.inherited.name_of(number))?;
        if number == 0 {
            let null = fs::File::open("/dev/null");
            null.and_then(|null| Ok(dup2_stdin(null)?))
                .map_err(|error| cannot("use", uri, &error_text(&error)))?;
        }
        self.opened.listeners.push(listener);
        Ok(())
    }

    /// `systemd://NAME`: the inherited sockets of that name, or without a name all of them.
    fn take_named(&mut self, uri: &Uri, name: &str) -> Result<(), String> {
        let inherited = self.inherited;
        let mut is_found = false;
        for passed in inherited.of_the_unit() {
            if name.is_empty() || passed.name == name {
                self.take(uri, passed.fd)?;
                is_found = true;
            }
        }
        if is_found {
            return Ok(());
        }
        let passed = inherited.of_the_unit().map(|passed| passed.name.as_str());
        let names = passed.collect::<Vec<_>>().join(", ");
        let why = match &inherited.none_because {
            Some(reason) => format!("no socket was passed to us: {reason}"),
            None if names.is_empty() => "no socket was passed to us".to_owned(),
            None => format!("none of the passed sockets is called {name} ({names})"),
        };
        Err(cannot("use", uri, &why))
    }

    /// Every other address: the socket that the fd store kept for it, or a new one.
    fn open_own(&mut self, uri: &Uri) -> Result<(), String> {
        let candidates = candidates(uri)?;
        // Equal addresses, which `?reuseport` allows, have different names in the store.
        let mut name = store_name(uri);
        let others = self.opened.listeners.iter();
        match others.filter(|it| store_name(&it.uri) == name).count() {
            0 => {}
            equal => name += &format!("#{}", equal + 1),
        }
        let mut listener = match self.take_stored(uri, &name, &candidates) {
            Some(listener) => listener,
            None => self.bind_own(uri, &candidates)?,
        };
        listener.store_name = Some(name);
        self.opened.listeners.push(listener);
        Ok(())
    }

    fn take_stored(
        &mut self,
        uri: &Uri,
        name: &str,
        candidates: &[SocketAddr],
    ) -> Option<Listener> {
        for passed in &self.inherited.passed {
            if passed.name != name || self.taken.contains(&passed.fd) {
                continue;
            }
            self.taken.push(passed.fd);
            match adopt_stored(uri, passed.fd, candidates) {
                Ok(mut listener) => {
                    let address = listener.address();
                    let line = format!("Took {address} back from systemd's fd store");
                    self.opened.notices.push(line);
                    listener.is_stored = true;
                    return Some(listener);
                }
                Err(why) => self.opened.notices.push(format!("{why}; opening it anew")),
            }
            self.opened.forget.push(name.to_owned());
        }
        None
    }

    fn bind_own(&mut self, uri: &Uri, hosts: &[SocketAddr]) -> Result<Listener, String> {
        let kind = sock_type(uri.scheme);
        let (fd, mut file) = match &uri.address {
            Address::Path(path) => {
                let AtPath { fd, id, replaced } = bind_path(uri, path, unix_path::PATIENT)?;
                if replaced {
                    let path = path.display();
                    let line = format!("Replaced the stale socket {path}: nobody answered");
                    self.opened.notices.push(line);
                }
                (fd, Some(SocketFile::bound(path, id, kind)))
            }
            Address::Abstract(name) => (bind_abstract(uri, name)?, None),
            _ => (bind_inet(uri, hosts)?, None),
        };
        let bound = Bound::of(fd.as_fd()).map_err(|why| {
            // Why there is no address matters more than what cannot be removed.
            let _ = file.as_mut().map(SocketFile::remove);
            cannot("bind", uri, &why)
        })?;
        let mut listener = Listener::new(uri.clone(), fd, kind, bound, None);
        listener.file = file;
        Ok(listener)
    }

    /// Closes what was passed to us and no address asks for.
    fn close_the_rest(&mut self) {
        for passed in &self.inherited.passed {
            if self.taken.contains(&passed.fd) {
                continue;
            }
            let Ok(fd) = inherit(passed.fd) else { continue };
            let Passed { fd: number, name } = passed;
            let bound = Bound::of(fd.as_fd());
            let address = bound.map_or(String::new(), |it| format!(" ({})", it.address()));
            let what = if passed.is_stored() {
                self.opened.forget.push(name.clone());
                format!("Dropping {name}")
            } else {
                format!("Closing descriptor {number}, {name}")
            };
            let line = format!("{what}{address}: no -listen asks for it");
            self.opened.notices.push(line);
        }
    }
}

/// What a socket of ours has less of than was asked for, a line each.
fn shortfalls(listener: &Listener) -> Vec<String> {
    let mut lines = Vec::new();
    if listener.is_inherited() {
        return lines;
    }
    let (address, wanted) = (listener.address(), backlog(&listener.uri));
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    if let Some(limit) = limit.filter(|limit| listens(listener.kind) && wanted > *limit) {
        lines.push(format!(
            "Backlog of {address} is {limit}, not {wanted}: net.core.somaxconn allows no more"
        ));
    }
    let file = listener.file.as_ref();
    if file.is_some_and(|file| file.link().is_none()) {
        lines.push(format!(
            "Cannot keep a second name for {address}: if a worker removes it, running workers \
             cannot get it back"
        ));
    }
    lines
}

/// The stored socket, if it has the kind and the address that are asked for, listens, and, if it is
/// a unix one, can be reached by its path.
fn adopt_stored(uri: &Uri, number: RawFd, candidates: &[SocketAddr]) -> Result<Listener, String> {
    let cannot = |why: &str| cannot("take back", uri, why);
    let failed = refused("take back", uri);
    let fd = inherit(number).map_err(&failed)?;
    let listener = Listener::adopt(uri.clone(), fd, None)?;
    let is_there = match (&listener.bound, &uri.address) {
        (Bound::Inet(bound), _) => candidates
            .iter()
            .any(|wanted| wanted == bound || (wanted.port() == 0 && wanted.ip() == bound.ip())),
        (bound, wanted) => bound.address() == *wanted,
    };
    if listener.kind != sock_type(uri.scheme) || !is_there {
        let address = listener.address();
        return Err(cannot(&format!("the stored socket is {address}")));
    }
    if let Some(file) = &listener.file {
        let id = file.id.filter(|_| file.is_at_its_path() == Ok(true));
        let id = id.ok_or_else(|| cannot("its path is gone"))?;
        let rights = FileRights::of(&uri.options).map_err(|why| cannot(&why))?;
        let inode = file_inode(listener.as_fd());
        let applied = rights.apply(file.path(), id, inode);
        applied.map_err(|why| cannot(&why))?;
    }
    // The backlog may be another one than before.
    start_listening(uri, &listener.fd).map_err(failed)?;
    Ok(listener)
}

/// `socketmaster-tcp-%3A8080`: the same for the same address, and fit for `FDNAME=`, which takes at
/// most 255 printable ASCII characters and no colon (sd_pid_notify_with_fds(3)).
pub(crate) fn store_name(uri: &Uri) -> String {
    const LONGEST: usize = 200;
    let mut name = format!("{STORE_PREFIX}{}-", uri.scheme.name());
    for byte in uri.address.to_string().bytes() {
        match byte.is_ascii_alphanumeric() || b"-._/@[]".contains(&byte) {
            true => name.push(char::from(byte)),
            false => name += &format!("%{byte:02X}"),
        }
    }
    if name.len() > LONGEST {
        // FNV-1a with 64 bits: std's hash may change with the compiler, and the name must not.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        name.truncate(LONGEST);
        name += &format!("-{hash:016x}");
    }
    name
}

/// The internet addresses to try, in order. As in Go, `tcp` and `udp` on all addresses, be they
/// left out or `0.0.0.0`, are one dual-stack socket, or an IPv4 one where there is no IPv6; of
/// several addresses of a host an IPv4 one is taken first.
fn candidates(uri: &Uri) -> Result<Vec<SocketAddr>, String> {
    use AddressFamily::{Inet, Inet6};
    let Address::Host { host, port } = &uri.address else {
        return Ok(Vec::new());
    };
    let is_all = host.is_empty() || host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    let host = (!is_all).then_some(host.as_str());
    let find = |family| {
        let found = resolve(host, port, family, sock_type(uri.scheme));
        found.map_err(|error| cannot("resolve", uri, &error_text(&error)))
    };
    let found = match uri.scheme {
        Scheme::Tcp4 | Scheme::Udp4 => find(Some(Inet))?,
        Scheme::Tcp6 | Scheme::Udp6 => find(Some(Inet6))?,
        _ if is_all => return Ok([find(Some(Inet6))?, find(Some(Inet))?].concat()),
        _ => find(None)?,
    };
    let best = found.iter().find(|it| it.is_ipv4()).or(found.first());
    Ok(best.copied().into_iter().collect())
}

fn bind_inet(uri: &Uri, candidates: &[SocketAddr]) -> Result<OwnedFd, String> {
    let mut last = Errno::EADDRNOTAVAIL;
    for address in candidates {
        match bind_inet_to(uri, address) {
            // This kernel has no IPv6, or this sandbox allows none: the next address is IPv4.
            Err(errno @ (Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)) => last = errno,
            other => return other.map_err(refused("bind", uri)),
        }
    }
    Err(refused("bind", uri)(last))
}

fn bind_inet_to(uri: &Uri, address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let address = SockaddrStorage::from(*address);
    let family = address.family().unwrap_or(AddressFamily::Inet);
    let fd = new_socket(family, uri)?;
    if family == AddressFamily::Inet6 {
        let is_strict = matches!(uri.scheme, Scheme::Tcp6 | Scheme::Udp6);
        setsockopt(&fd, sockopt::Ipv6V6Only, &is_strict)?;
    }
    // With datagrams a second server could then share the port and take what is meant for us.
    if listens(sock_type(uri.scheme)) {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if uri.options.reuseport {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    bind(fd.as_raw_fd(), &address)?;
    start_listening(uri, &fd)?;
    Ok(fd)
}

fn new_socket(family: AddressFamily, uri: &Uri) -> Result<OwnedFd, Errno> {
    socket(family, sock_type(uri.scheme), SockFlag::SOCK_CLOEXEC, None)
}

/// listen(2), if it is a socket with a backlog.
pub(crate) fn start_listening(uri: &Uri, fd: &OwnedFd) -> Result<(), Errno> {
    match listens(sock_type(uri.scheme)) {
        true => listen(fd.as_fd(), backlog(uri)),
        false => Ok(()),
    }
}

/// The backlog that we ask for.
fn backlog(uri: &Uri) -> u32 {
    uri.options.backlog.unwrap_or(BACKLOG)
}

/// Binds to an abstract name, and listens.
pub(crate) fn bind_abstract(uri: &Uri, name: &OsStr) -> Result<OwnedFd, String> {
    let bound = || {
        let fd = new_socket(AddressFamily::Unix, uri)?;
        let address = UnixAddr::new_abstract(name.as_encoded_bytes())?;
        bind(fd.as_raw_fd(), &address)?;
        start_listening(uri, &fd)?;
        Ok(fd)
    };
    bound().map_err(refused("bind", uri))
}

/// A unix socket at its path.
pub(crate) struct AtPath {
    pub fd: OwnedFd,
    pub id: FileId,
    /// A stale one stood there.
    pub replaced: bool,
}

/// Binds to a path, and listens. `rounds` is how often the path's lock is asked for.
///
/// Errors: EADDRINUSE in words when somebody answers there or holds the lock, and the reasons of
/// `unix_path::clear`.
pub(crate) fn bind_path(uri: &Uri, path: &Path, rounds: u32) -> Result<AtPath, String> {
    let failed = refused("bind", uri);
    let rights = FileRights::of(&uri.options).map_err(|why| cannot("bind", uri, &why))?;
    check_path(path).map_err(|error| cannot("bind", uri, &error.to_string()))?;
    // From here until we listen, another instance would take our socket for a stale one.
    let _lock = unix_path::lock(path, rounds)
        .map_err(|refusal| cannot("bind", uri, &refusal.to_string()))?;
    let replaced = unix_path::clear(path, sock_type(uri.scheme), rights.owner).map_err(
        |errno| match errno {
            Errno::EEXIST => cannot("bind", uri, "File exists, and it is not a socket"),
            Errno::EPERM => {
                let why = "a stale socket of another user stands there, in a sticky directory";
                cannot("bind", uri, why)
            }
            errno => failed(errno),
        },
    )?;
    // It is not bound elsewhere and renamed: getsockname(2) would show the other name, and nginx
    // knows its sockets by what that shows.
    let fd = new_socket(AddressFamily::Unix, uri).map_err(&failed)?;
    let id = rights.bind(&fd, path);
    let id = id.map_err(|why| cannot("bind", uri, &why))?;
    // Owner and mode are right, so clients may come.
    if let Err(errno) = start_listening(uri, &fd) {
        // Why it cannot listen matters more than a file that stays.
        let _ = unix_path::unlink_if(path, id);
        return Err(failed(errno));
    }
    Ok(AtPath { fd, id, replaced })
}

#[cfg(test)]
mod tests;
