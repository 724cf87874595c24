//! From `-listen` addresses to sockets: bound anew, taken over from our parent, or found again in
//! systemd's fd store after a crash. All or nothing: when one cannot be had, what was made for the
//! others is gone again, and what came back from the store is left as it was.

use super::inherited::{Inherited, Passed, STORE_PREFIX};
use super::unix_path::{self, FileId, Place, Rights, SocketFile, clear, word};
use super::{Bound, Error, Kind, Listener, cannot};
use crate::listen::uri::{Address, Scheme, Uri};
use crate::own_file::FileRefusal;
use crate::sys::io::stdin;
use crate::sys::socket::{check_path, inherit, listen, resolve};
use crate::text::{errno_text, error_text};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockaddrStorage, UnixAddr, bind, setsockopt, socket, sockopt,
};
use nix::unistd::dup2_stdin;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// What `open_all` made of the addresses.
#[derive(Debug, Default)]
pub struct Opened {
    /// In the order of the addresses; one `systemd://` may be several.
    pub listeners: Vec<Listener>,
    /// Lines for the log.
    pub notices: Vec<String>,
    /// Names in the fd store that hold nothing of use any more: `FDSTOREREMOVE=1` for each, before
    /// anything is stored.
    pub forget: Vec<String>,
}

impl Opened {
    /// For a start that fails after all: our paths are removed, except those that came back from
    /// the fd store, which the next start finds there again.
    pub fn abandon(self) {
        abandon(self.listeners);
    }
}

pub fn abandon(listeners: Vec<Listener>) {
    for mut listener in listeners {
        // The start has failed with a reason that matters more than what cannot be removed.
        match (listener.is_stored, &mut listener.file) {
            (true, Some(file)) => drop(file.forget_link()),
            (true, None) => {}
            (false, _) => drop(listener.remove()),
        }
    }
}

/// What can be said of the addresses without opening anything: hosts, services, owners and groups
/// have to be known.
///
/// Errors: the words of `open_all`.
pub fn check(uris: &[Uri]) -> Result<(), Error> {
    uris.iter().try_for_each(|uri| {
        Rights::of(&uri.options).map_err(|why| cannot("bind", uri, &why))?;
        match &uri.address {
            Address::Host { host, port } => {
                candidates(uri, host, port, Kind::of(uri.scheme)).map(drop)
            }
            _ => Ok(()),
        }
    })
}

/// Opens every address, in order.
///
/// Errors: "cannot bind tcp://:80: Address already in use", with the address that failed.
pub fn open_all(uris: &[Uri], inherited: &Inherited) -> Result<Opened, Error> {
    let mut opening = Opening {
        inherited,
        opened: Opened::default(),
        taken: Vec::new(),
    };
    for uri in uris {
        if let Err(error) = opening.open(uri) {
            opening.opened.abandon();
            return Err(error);
        }
    }
    opening.dismiss_the_rest();
    opening.store_again_what_shares_a_name();
    opening.say_what_is_less_than_asked();
    Ok(opening.opened)
}

struct Opening<'a> {
    inherited: &'a Inherited,
    opened: Opened,
    /// The inherited descriptors that have found their address, or are of no use.
    taken: Vec<RawFd>,
}

impl Opening<'_> {
    fn open(&mut self, uri: &Uri) -> Result<(), Error> {
        match &uri.address {
            Address::Fd(fd) => self.take(uri, *fd),
            Address::Name(name) => self.take_named(uri, name),
            _ => self.open_own(uri),
        }
    }

    fn take_named(&mut self, uri: &Uri, name: &str) -> Result<(), Error> {
        let inherited = self.inherited;
        let mut found = false;
        for passed in inherited.of_the_unit() {
            if name.is_empty() || passed.name == name {
                self.take(uri, passed.fd)?;
                found = true;
            }
        }
        match found {
            true => Ok(()),
            false => Err(cannot("use", uri, &self.why_none(name))),
        }
    }

    fn why_none(&self, name: &str) -> String {
        if let Some(reason) = &self.inherited.none_because {
            return format!("no socket was passed to us: {reason}");
        }
        let mut names = String::new();
        for passed in self.inherited.of_the_unit() {
            names += if names.is_empty() { "" } else { ", " };
            names += &passed.name;
        }
        match names.is_empty() {
            true => "no socket was passed to us".to_owned(),
            false => format!("none of the passed sockets is called {name} ({names})"),
        }
    }

    fn take(&mut self, uri: &Uri, number: RawFd) -> Result<(), Error> {
        if self.taken.contains(&number) {
            return Err(cannot(
                "use",
                uri,
                &format!("descriptor {number} is taken already"),
            ));
        }
        let fd = match number {
            0 => copy_of_stdin(),
            1 | 2 => return Err(cannot("use", uri, "it is where our output goes")),
            _ => inherit(number),
        };
        let fd = fd.map_err(|errno| match errno {
            Errno::EBADF => cannot("use", uri, "it is not open"),
            Errno::EBUSY => cannot("use", uri, "it was not inherited"),
            errno => cannot("use", uri, &errno_text(errno as i32)),
        })?;
        self.taken.push(number);
        let listener = Listener::adopt(uri.clone(), fd, self.inherited.name_of(number))?;
        if number == 0 {
            empty_stdin().map_err(|errno| cannot("use", uri, &errno_text(errno as i32)))?;
        }
        self.opened.listeners.push(listener);
        Ok(())
    }

    fn open_own(&mut self, uri: &Uri) -> Result<(), Error> {
        let kind = Kind::of(uri.scheme);
        let store_name = self.free_store_name(uri);
        let candidates = match &uri.address {
            Address::Host { host, port } => candidates(uri, host, port, kind)?,
            _ => Vec::new(),
        };
        let mut listener = match self.take_stored(uri, &store_name, &candidates) {
            Some(listener) => listener,
            None => self.bind_own(uri, kind, &candidates)?,
        };
        listener.store_name = Some(store_name);
        self.opened.listeners.push(listener);
        Ok(())
    }

    fn bind_own(
        &mut self,
        uri: &Uri,
        kind: Kind,
        candidates: &[SocketAddr],
    ) -> Result<Listener, Error> {
        let Address::Path(path) = &uri.address else {
            let fd = match &uri.address {
                Address::Abstract(_) => bind_abstract(uri, kind)?,
                _ => bind_inet(uri, kind, candidates)?,
            };
            return finish(uri, fd, kind, None);
        };
        let bound = bind_path(uri, path, kind, unix_path::PATIENT)?;
        if bound.replaced {
            let path = path.display();
            self.opened
                .notices
                .push(format!("Replaced the stale socket {path}: nobody answered"));
        }
        let file = SocketFile::bound(path, bound.id, kind);
        finish(uri, bound.fd, kind, Some(file))
    }

    /// Two equal addresses, as `?reuseport` allows, have two names.
    fn free_store_name(&self, uri: &Uri) -> String {
        let base = store_name(uri);
        let mut name = base.clone();
        let mut number = 1;
        let listeners = &self.opened.listeners;
        while listeners
            .iter()
            .any(|other| other.store_name() == Some(&name))
        {
            number += 1;
            name = format!("{base}#{number}");
        }
        name
    }

    /// The socket that the fd store kept for this address, if it is still what is asked for.
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
            match restored(uri, passed.fd, candidates) {
                Ok(mut listener) => {
                    let address = listener.address();
                    let line = format!("Took {address} back from systemd's fd store");
                    self.opened.notices.push(line);
                    listener.is_stored = true;
                    return Some(listener);
                }
                Err(Error(why)) => self.opened.notices.push(format!("{why}; opening it anew")),
            }
            self.opened.forget.push(name.to_owned());
        }
        None
    }

    /// Closes what was passed to us and nobody asks for.
    fn dismiss_the_rest(&mut self) {
        for passed in &self.inherited.passed {
            if self.taken.contains(&passed.fd) {
                continue;
            }
            let Ok(fd) = inherit(passed.fd) else { continue };
            let what = Bound::of(fd.as_fd()).ok().and_then(|bound| bound.address());
            let what = what.map_or(String::new(), |address| format!(" ({address})"));
            let line = match passed.is_stored() {
                true => format!("Dropping {}{what}: no -listen asks for it", passed.name),
                false => {
                    let Passed { fd, name } = passed;
                    format!("Closing descriptor {fd}, {name}{what}: no -listen asks for it")
                }
            };
            self.opened.notices.push(line);
            if passed.is_stored() {
                self.opened.forget.push(passed.name.clone());
            }
        }
    }

    /// `FDSTOREREMOVE=1` takes every socket of that name out of the store.
    fn store_again_what_shares_a_name(&mut self) {
        for listener in &mut self.opened.listeners {
            let forgotten = |name| self.opened.forget.iter().any(|forget| forget == name);
            listener.is_stored &= !listener.store_name.as_deref().is_some_and(forgotten);
        }
    }

    fn say_what_is_less_than_asked(&mut self) {
        let limit = somaxconn().unwrap_or(u32::MAX);
        for listener in &self.opened.listeners {
            if listener.is_inherited() {
                continue;
            }
            let (address, wanted) = (listener.address(), listener.backlog());
            if listener.kind.listens() && wanted > limit {
                let line = format!("Backlog of {address} is {limit}, not {wanted}");
                self.opened
                    .notices
                    .push(format!("{line}: net.core.somaxconn allows no more"));
            }
            if listener
                .file
                .as_ref()
                .is_some_and(|file| file.link().is_none())
            {
                let line = format!("Cannot keep a second name for {address}");
                let then = "if a worker removes it, running workers cannot get it back";
                self.opened.notices.push(format!("{line}: {then}"));
            }
        }
    }
}

/// The longest queue that the kernel allows (listen(2)).
fn somaxconn() -> Option<u32> {
    let bytes = fs::read("/proc/sys/net/core/somaxconn").ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    text.trim().parse().ok()
}

/// `fd://0`, as inetd hands a socket over: moved above 2 (std does so), for a worker gets our stdin
/// as its own.
fn copy_of_stdin() -> Result<OwnedFd, Errno> {
    stdin().try_clone_to_owned().map_err(word)
}

fn empty_stdin() -> Result<(), Errno> {
    dup2_stdin(fs::File::open("/dev/null").map_err(word)?)
}

/// A stored socket is used when it is of the kind and at the address that is asked for, listens,
/// and, if it is a unix one, can still be reached by its path.
fn restored(uri: &Uri, number: RawFd, candidates: &[SocketAddr]) -> Result<Listener, Error> {
    let cannot = |why: &str| cannot("take back", uri, why);
    let fd = inherit(number).map_err(|errno| cannot(&errno_text(errno as i32)))?;
    let listener = Listener::adopt(uri.clone(), fd, None)?;
    if listener.kind != Kind::of(uri.scheme) || !is_at(&listener.bound, uri, candidates) {
        return Err(cannot(&format!(
            "the stored socket is {}",
            listener.address()
        )));
    }
    if let Some(file) = &listener.file {
        if file.place() != Ok(Place::Ours) {
            return Err(cannot("its path is gone"));
        }
        let rights = Rights::of(&uri.options).map_err(|why| cannot(&why))?;
        let id = file.id().ok_or_else(|| cannot("its path is gone"))?;
        let applied = rights.apply(file.path(), id);
        applied.map_err(|errno| cannot(&errno_text(errno as i32)))?;
    }
    if listener.kind.listens() {
        listen(listener.as_fd(), listener.backlog())
            .map_err(|errno| cannot(&errno_text(errno as i32)))?;
    }
    Ok(listener)
}

fn is_at(bound: &Bound, uri: &Uri, candidates: &[SocketAddr]) -> bool {
    match (bound, &uri.address) {
        (Bound::Inet(bound), _) => candidates
            .iter()
            .any(|wanted| wanted == bound || (wanted.port() == 0 && wanted.ip() == bound.ip())),
        (Bound::Path(bound), Address::Path(wanted)) => bound == wanted,
        (Bound::Abstract(bound), Address::Abstract(wanted)) => bound == wanted,
        _ => false,
    }
}

fn finish(
    uri: &Uri,
    fd: OwnedFd,
    kind: Kind,
    mut file: Option<SocketFile>,
) -> Result<Listener, Error> {
    match Bound::of(fd.as_fd()) {
        Ok(bound) => Ok(Listener::new(uri.clone(), fd, kind, bound, file)),
        Err(errno) => {
            // Why there is no address matters more than what cannot be removed.
            let _ = file.as_mut().map(SocketFile::remove);
            Err(cannot("bind", uri, &errno_text(errno as i32)))
        }
    }
}

/// `socketmaster-tcp-%3A8080`: the same for the same address, and fit for `FDNAME=`, which takes at
/// most 255 printable ASCII characters and no colon (sd_pid_notify_with_fds(3)).
pub(crate) fn store_name(uri: &Uri) -> String {
    const LONGEST: usize = 200;
    let mut name = format!("{STORE_PREFIX}{}-", uri.scheme.name());
    for byte in uri.address.to_string().bytes() {
        match byte.is_ascii_alphanumeric() || b"-._/@[]".contains(&byte) {
            true => name.push(char::from(byte)),
            false => write!(name, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    if name.len() > LONGEST {
        let hash = fnv1a(name.as_bytes());
        name.truncate(LONGEST);
        write!(name, "-{hash:016x}").expect("a String takes everything");
    }
    name
}

/// FNV-1a, 64 bits: std's hash may change with the compiler, and the name must not.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The addresses to try, in order. As in Go, `tcp` and `udp` on all addresses, be they left out or
/// `0.0.0.0`, are one dual-stack socket, or an IPv4 one where there is no IPv6; of several
/// addresses of a host an IPv4 one is taken first.
fn candidates(uri: &Uri, host: &str, port: &str, kind: Kind) -> Result<Vec<SocketAddr>, Error> {
    use AddressFamily::{Inet, Inet6};
    let everywhere = host.is_empty() || host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    let host = Some(host).filter(|_| !everywhere);
    let families: &[_] = match uri.scheme {
        Scheme::Tcp4 | Scheme::Udp4 => &[Some(Inet)],
        Scheme::Tcp6 | Scheme::Udp6 => &[Some(Inet6)],
        _ if everywhere => &[Some(Inet6), Some(Inet)],
        _ => &[None],
    };
    let mut found = Vec::new();
    for family in families {
        let addresses = resolve(host, port, *family, kind.sock_type());
        found.extend(addresses.map_err(|error| cannot("resolve", uri, &error_text(&error)))?);
    }
    if families.len() == 1 {
        let best = found.iter().position(SocketAddr::is_ipv4).unwrap_or(0);
        found = found.get(best).map_or(Vec::new(), |address| vec![*address]);
    }
    Ok(found)
}

fn bind_inet(uri: &Uri, kind: Kind, candidates: &[SocketAddr]) -> Result<OwnedFd, Error> {
    let mut last = Errno::EADDRNOTAVAIL;
    for address in candidates {
        match bind_inet_to(uri, kind, address) {
            // No IPv6 in this kernel, or none allowed in this sandbox: the next one is IPv4.
            Err(errno @ (Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)) => last = errno,
            other => return other.map_err(|errno| cannot("bind", uri, &errno_text(errno as i32))),
        }
    }
    Err(cannot("bind", uri, &errno_text(last as i32)))
}

fn bind_inet_to(uri: &Uri, kind: Kind, address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let fd = socket(family, kind.sock_type(), SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        let strict = matches!(uri.scheme, Scheme::Tcp6 | Scheme::Udp6);
        setsockopt(&fd, sockopt::Ipv6V6Only, &strict)?;
    }
    // For datagrams it would let a second server share the port, and take what is meant for us.
    if kind.listens() {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if uri.options.reuseport {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(*address))?;
    start_listening(uri, kind, &fd)?;
    Ok(fd)
}

fn start_listening(uri: &Uri, kind: Kind, fd: &OwnedFd) -> Result<(), Errno> {
    match kind.listens() {
        true => listen(fd.as_fd(), uri.options.backlog.unwrap_or(super::BACKLOG)),
        false => Ok(()),
    }
}

pub(crate) fn bind_abstract(uri: &Uri, kind: Kind) -> Result<OwnedFd, Error> {
    let Address::Abstract(name) = &uri.address else {
        return Err(cannot("bind", uri, "it is not an abstract name"));
    };
    let bound = || {
        let fd = unix_socket(kind)?;
        bind(
            fd.as_raw_fd(),
            &UnixAddr::new_abstract(name.as_encoded_bytes())?,
        )?;
        start_listening(uri, kind, &fd)?;
        Ok(fd)
    };
    bound().map_err(|errno: Errno| cannot("bind", uri, &errno_text(errno as i32)))
}

fn unix_socket(kind: Kind) -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Unix,
        kind.sock_type(),
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// A unix socket at its path, and whether a stale one stood there.
pub(crate) struct AtPath {
    pub fd: OwnedFd,
    pub id: FileId,
    pub replaced: bool,
}

/// Binds to a path: room is made only where nobody answers, one instance at a time, and nobody can
/// connect before owner and mode are right, since listen(2) comes last. (No temporary name and
/// rename: getsockname(2) would show the wrong path, and nginx knows its socket by that.)
///
/// `rounds`: how often the path's lock is asked for.
pub(crate) fn bind_path(uri: &Uri, path: &Path, kind: Kind, rounds: u32) -> Result<AtPath, Error> {
    let failed = |errno: Errno| cannot("bind", uri, &errno_text(errno as i32));
    let unclear = |errno| cannot("bind", uri, &why_not_at(errno));
    let rights = Rights::of(&uri.options).map_err(|why| cannot("bind", uri, &why))?;
    check_path(path).map_err(|error| cannot("bind", uri, &error_text(&error)))?;
    let _lock = unix_path::lock(path, rounds).map_err(|refusal| match refusal {
        FileRefusal::System(errno) => failed(errno),
        refusal => cannot("bind", uri, &refusal.to_string()),
    })?;
    let replaced = clear(path, kind, rights.owner).map_err(unclear)?;
    let fd = unix_socket(kind).map_err(failed)?;
    let id = rights.bind(&fd, path).map_err(failed)?;
    match start_listening(uri, kind, &fd) {
        Ok(()) => Ok(AtPath { fd, id, replaced }),
        Err(errno) => {
            // Why it cannot listen matters more than that it stays.
            let _ = unix_path::unlink_if(path, id);
            Err(failed(errno))
        }
    }
}

/// Why there can be no socket at a path, where the system's word says too little.
fn why_not_at(errno: Errno) -> String {
    match errno {
        Errno::EEXIST => "File exists, and it is not a socket".into(),
        Errno::EPERM => "a stale socket of another user stands there, in a sticky directory".into(),
        errno => errno_text(errno as i32),
    }
}

#[cfg(test)]
mod tests;
