//! The listener guard: a worker that removes a unix path, or shuts the shared socket down, cuts
//! everybody off. The guard notices and restores. It acts on what it finds, never on what an event
//! says, so our own repairs, which cause events too, lead to nothing. It takes no path away from a
//! socket that answers, and closes nothing that the loop still has registered.

use crate::listen::open::{bind_abstract, bind_path, start_listening};
use crate::listen::unix_path::{self, FileId, SocketFile};
use crate::listen::{Bound, Listener, cannot, listens, refused};
use crate::sys::socket::{disconnect, hung_up};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{SockaddrStorage, bind, getsockopt, sockopt};
use nix::unistd::read;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What is wrong with a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// shutdown(2) on the shared socket: clients are refused.
    ShutDown,
    /// The unix path is gone, or leads to another file.
    PathLost,
}

/// What was done about it.
#[derive(Debug)]
pub enum Repair {
    /// There was nothing to do, or nothing new to say of what cannot be done.
    Nothing,
    /// The path was linked back: the same socket for clients and running workers.
    Relinked,
    /// The TCP socket listens again: the same socket for clients and running workers.
    Revived,
    /// A new socket stands at the address, and running workers do not have it: reload once. The old
    /// one is to be deregistered and then closed, the new one to be watched, registered and stored.
    Rebound(OwnedFd),
    /// Said once until it changes. Unless it `is_hopeless`, trying again may help.
    Failed(String),
}

/// Looks at a listener; changes nothing, waits for nothing. For the end of every worker, and for
/// every event on the listener (it is registered WRITABLE) or on the `Guard`.
pub fn check(listener: &Listener) -> Fault {
    if listens(listener.kind) && is_shut_down(listener) {
        return Fault::ShutDown;
    }
    match &listener.file {
        Some(file) if file.is_at_its_path() != Ok(true) => Fault::PathLost,
        _ => Fault::None,
    }
}

/// A TCP socket leaves its state; a unix one keeps it and refuses all the same (unix_stream_connect
/// looks at the receiving side only, and so do we).
fn is_shut_down(listener: &Listener) -> bool {
    match listener.bound {
        Bound::Inet(_) => getsockopt(&listener.fd, sockopt::AcceptConn) == Ok(false),
        _ => hung_up(listener.as_fd()),
    }
}

/// Restores what `check` finds wrong.
pub fn repair(listener: &mut Listener) -> Repair {
    let healed = match (check(listener), &listener.bound) {
        (Fault::None, _) => {
            listener.trouble = None;
            listener.file.iter_mut().for_each(SocketFile::keep_link);
            return Repair::Nothing;
        }
        (Fault::ShutDown, Bound::Inet(address)) => revive(listener, *address),
        (Fault::ShutDown, _) => rebind(listener),
        (Fault::PathLost, _) => relink(listener),
    };
    match healed {
        Ok(healing) => {
            listener.trouble = None;
            healing
        }
        Err(error) if listener.trouble.as_ref() == Some(&error) => Repair::Nothing,
        Err(error) => {
            listener.trouble = Some(error.clone());
            Repair::Failed(error)
        }
    }
}

/// Whether only a new socket could help, and that is not ours to make.
pub fn is_hopeless(listener: &Listener) -> bool {
    let is_inet = matches!(listener.bound, Bound::Inet(_));
    listener.is_inherited() && !is_inet && check(listener) == Fault::ShutDown
}

fn revive(listener: &Listener, address: SocketAddr) -> Result<Repair, String> {
    let failed = refused("revive", &listener.uri);
    // A second shutdown(2), or a connect(2), has left the socket in a state that every connection
    // accepted from it would inherit.
    disconnect(listener.as_fd()).map_err(&failed)?;
    // EINVAL: the socket still has its port, as it has when we had asked for one.
    match bind(listener.fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(failed(errno)),
    }
    start_listening(&listener.uri, &listener.fd).map_err(failed)?;
    Ok(Repair::Revived)
}

/// From the hidden link; when that is gone as well, so is the inode, and a new one must do.
fn relink(listener: &mut Listener) -> Result<Repair, String> {
    let Some(file) = &mut listener.file else {
        return Ok(Repair::Nothing);
    };
    match file.restore(listener.kind) {
        Ok(()) => {
            file.keep_link();
            Ok(Repair::Relinked)
        }
        Err(Errno::ENOENT) => rebind(listener),
        Err(errno) => Err(refused("link back", &listener.uri)(errno)),
    }
}

/// A unix socket that was shut down stays so, whatever listen(2) says: a new one takes its place.
fn rebind(listener: &mut Listener) -> Result<Repair, String> {
    if listener.is_inherited() {
        let why = "it belongs to whoever passed it to us";
        return Err(cannot("restore", &listener.uri, why));
    }
    let fd = match &listener.bound {
        Bound::Path(path) => {
            let bound = bind_path(&listener.uri, path, unix_path::ONCE)?;
            listener.file = Some(SocketFile::bound(path, bound.id, listener.kind));
            bound.fd
        }
        // Refused while a worker holds the old socket: an abstract name lives as long as that.
        Bound::Abstract(name) => bind_abstract(&listener.uri, name)?,
        // It is revived instead.
        Bound::Inet(_) => return Ok(Repair::Nothing),
    };
    listener.is_stored = false;
    Ok(Repair::Rebound(std::mem::replace(&mut listener.fd, fd)))
}

/// Tells when the name of a unix socket was removed, renamed or replaced. It watches the file, not
/// the directory: every change in the number of its names is an event, and nothing that others do
/// in a busy directory is.
#[derive(Debug)]
pub struct Guard {
    inotify: Inotify,
    /// By the listener's index, with the file that is watched.
    watches: BTreeMap<usize, (FileId, WatchDescriptor)>,
}

impl Guard {
    /// Errors: EMFILE when the user has too many inotify instances (inotify(7)).
    pub fn new() -> Result<Guard, Errno> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        Ok(Guard {
            inotify: Inotify::init(flags)?,
            watches: BTreeMap::new(),
        })
    }

    /// Watches the listener's file, if it has one, and the one that it had before no more. Says
    /// whether this is news: what happened to the file before is not heard.
    ///
    /// Errors: no right to read the file, no watch left, no /proc, the file has no name at this
    /// moment.
    pub fn watch(&mut self, index: usize, listener: &Listener) -> Result<bool, Errno> {
        let file = listener.file.as_ref();
        let id = file.and_then(|file| file.id);
        if self.watches.get(&index).map(|(watched, _)| *watched) == id {
            return Ok(false);
        }
        if let Some((_, old)) = self.watches.remove(&index) {
            // The kernel has removed it already if the file is gone altogether.
            let _ = self.inotify.rm_watch(old);
        }
        let (Some(file), Some(id)) = (file, id) else {
            return Ok(false);
        };
        let events =
            AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        // A name could lead to another file by now. This one leads to the file that is open.
        let held = file.hold()?;
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        let watch = self.inotify.add_watch(path.as_str(), events)?;
        self.watches.insert(index, (id, watch));
        Ok(true)
    }

    /// Takes the events away until there is none, and forgets them: `repair` every listener now.
    /// Says whether there was any.
    pub fn drain(&self) -> bool {
        let mut events = [0; 4096];
        let mut any = false;
        while read(self, &mut events).is_ok_and(|length| length > 0) {
            any = true;
        }
        any
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests;
