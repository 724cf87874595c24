//! The file of a unix socket. Its inode is what clients connect to, its path is what they know, and
//! any process with the right to write the directory can take the two apart. So a second name, a
//! hidden hard link, is kept beside it, from which the path can be restored with the same inode:
//! for clients and workers the same socket. What is not ours is never removed: our inode, a socket
//! that nobody answers on, and hidden links of processes that are gone, are all that is unlinked.

use super::Kind;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, Pid, Uid, User, fchownat};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const LINK_SUFFIX: &str = "socketmaster";

/// Which file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Socket(FileId),
    Other,
}

fn look(path: &Path) -> Result<Found, Errno> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => Ok(Found::Socket(FileId {
            device: file.dev(),
            inode: file.ino(),
        })),
        Ok(_) => Ok(Found::Other),
        Err(error) => match word(error) {
            Errno::ENOENT => Ok(Found::Nothing),
            errno => Err(errno),
        },
    }
}

/// std's errors from the system, as the system's.
pub(crate) fn word(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn unlink_if(path: &Path, id: FileId) -> Result<(), Errno> {
    match look(path)? {
        Found::Socket(found) if found == id => fs::remove_file(path).map_err(word),
        _ => Ok(()),
    }
}

/// Who is at the other end of a socket file.
enum Answer {
    Nobody,
    /// The file went away while we asked.
    Gone,
    Somebody,
}

/// Asks by connecting, the only sure way. ECONNREFUSED, and only that, means that nobody lives
/// there: a full queue (EAGAIN), another kind of socket (EPROTOTYPE) or a lack of rights does not.
fn ask(path: &Path, kind: Kind) -> Result<Answer, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, kind.sock_type(), flags, None)?;
    Ok(match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => Answer::Nobody,
        Err(Errno::ENOENT) => Answer::Gone,
        _ => Answer::Somebody,
    })
}

/// Makes room at a path where a socket is to be: a stale socket is removed. Says whether one was.
///
/// Errors: EADDRINUSE when somebody lives there, EEXIST when it is no socket at all.
pub(crate) fn clear(path: &Path, kind: Kind) -> Result<bool, Errno> {
    match look(path)? {
        Found::Nothing => Ok(false),
        Found::Other => Err(Errno::EEXIST),
        Found::Socket(stale) => match ask(path, kind)? {
            Answer::Nobody => unlink_if(path, stale).map(|()| true),
            Answer::Gone => Ok(false),
            Answer::Somebody => Err(Errno::EADDRINUSE),
        },
    }
}

/// Who may connect: the `mode`, `owner` and `group` of a `-listen` address.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    mode: Option<u32>,
    owner: Option<Uid>,
    group: Option<Gid>,
}

impl Rights {
    /// Looks the names up; numbers need not exist.
    pub(crate) fn of(options: &crate::listen::uri::Options) -> Result<Rights, String> {
        let owner = options.owner.as_deref().map(user).transpose()?;
        let group = options.group.as_deref().map(group).transpose()?;
        Ok(Rights {
            mode: options.mode,
            owner,
            group,
        })
    }

    /// Before bind(2): Linux makes the file with the rights of the socket itself, less the umask
    /// (unix_bind), so until `apply` nobody gets in. Without a `mode` that is the result wanted.
    pub(crate) fn prepare(&self, socket: &OwnedFd) -> Result<(), Errno> {
        self.mode.map_or(Ok(()), |_| fchmod(socket, Mode::empty()))
    }

    /// After bind(2), before listen(2).
    pub(crate) fn apply(&self, path: &Path) -> Result<(), Errno> {
        if self.owner.is_some() || self.group.is_some() {
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(nix::fcntl::AT_FDCWD, path, self.owner, self.group, flags)?;
        }
        match self.mode {
            Some(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(word),
            None => Ok(()),
        }
    }
}

fn user(name: &str) -> Result<Uid, String> {
    if let Ok(number) = name.parse() {
        return Ok(Uid::from_raw(number));
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => Err(format!("no user is called {name:?}")),
        Err(errno) => Err(format!("looking up user {name:?}: {}", errno.desc())),
    }
}

fn group(name: &str) -> Result<Gid, String> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!("no group is called {name:?}")),
        Err(errno) => Err(format!("looking up group {name:?}: {}", errno.desc())),
    }
}

/// Whether the path still leads to our socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ours,
    Empty,
    Taken,
}

/// The file of one socket, and its second name.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None`: no file of this socket was found.
    id: Option<FileId>,
    link: Option<PathBuf>,
    /// The path goes when we go.
    owned: bool,
}

impl SocketFile {
    /// Of a socket that was bound to `path` a moment ago. Without a second name when the file
    /// system or the rights do not allow one.
    pub(crate) fn bound(path: &Path) -> Result<SocketFile, Errno> {
        let Found::Socket(id) = look(path)? else {
            return Err(Errno::ENOENT);
        };
        let mut file = SocketFile {
            path: path.to_owned(),
            id: Some(id),
            link: None,
            owned: true,
        };
        sweep(path);
        file.keep_link();
        Ok(file)
    }

    /// Of a socket of ours that comes back: after a crash, an exec, or out of another process.
    /// `inode` is the kernel's word on which file it is (sock_diag); where the kernel does not
    /// tell, hidden links of ours do. The path is restored if it is gone.
    pub(crate) fn reclaim(path: &Path, inode: Option<u32>, kind: Kind) -> SocketFile {
        let mut file = SocketFile {
            path: path.to_owned(),
            id: None,
            link: None,
            owned: true,
        };
        if let Some((found, id)) = find(path, inode) {
            file.id = Some(id);
            file.link_from(&found);
            // When it fails, the guard tries again, and complains.
            if file.restore(kind).is_ok() {
                sweep(path);
            }
        }
        file
    }

    /// Of an inherited socket: guarded as far as the rights go, but never removed. `None` when the
    /// path leads elsewhere, as a path relative to another directory may.
    pub(crate) fn guest(path: &Path, inode: Option<u32>) -> Option<SocketFile> {
        let Ok(Found::Socket(id)) = look(path) else {
            return None;
        };
        if inode.is_some_and(|inode| inode != id.inode as u32) {
            return None;
        }
        let mut file = SocketFile {
            path: path.to_owned(),
            id: Some(id),
            link: None,
            owned: false,
        };
        sweep(path);
        file.keep_link();
        Some(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hidden second name, if there is one.
    pub fn link(&self) -> Option<&Path> {
        self.link.as_deref()
    }

    /// Where the path leads now.
    pub fn place(&self) -> Result<Place, Errno> {
        Ok(match look(&self.path)? {
            Found::Nothing => Place::Empty,
            Found::Socket(id) if Some(id) == self.id => Place::Ours,
            _ => Place::Taken,
        })
    }

    /// Makes the second name, or makes it again if somebody tidied it away.
    pub(crate) fn keep_link(&mut self) {
        let path = self.path.clone();
        self.link_from(&path);
    }

    fn link_from(&mut self, source: &Path) {
        let Some(id) = self.id else { return };
        let link = link_path(&self.path, &Pid::this().to_string());
        if !is_file(&link, id) && is_file(source, id) {
            // Left by an earlier process with our pid: pid 1 of a container comes again and again.
            if let Ok(Found::Socket(old)) = look(&link) {
                let _ = unlink_if(&link, old);
            }
            let _ = fs::hard_link(source, &link);
        }
        self.link = is_file(&link, id).then_some(link);
    }

    /// Brings our inode back to its path. A stale socket in its place is removed.
    ///
    /// Errors: ENOENT when the second name is gone too, or the directory; EADDRINUSE when somebody
    /// lives there.
    pub(crate) fn restore(&self, kind: Kind) -> Result<(), Errno> {
        if self.place()? == Place::Ours {
            return Ok(());
        }
        let link = self.link.as_ref().ok_or(Errno::ENOENT)?;
        clear(&self.path, kind)?;
        fs::hard_link(link, &self.path).map_err(word)
    }

    /// For the final stop: both names go, the path only while it leads to our socket.
    pub(crate) fn remove(&mut self) {
        let Some(id) = self.id else { return };
        if self.owned {
            let _ = unlink_if(&self.path, id);
        }
        self.forget_link();
    }

    /// Leaves the path as it is, for whoever opens it next.
    pub(crate) fn forget_link(&mut self) {
        if let (Some(link), Some(id)) = (self.link.take(), self.id) {
            let _ = unlink_if(&link, id);
        }
    }
}

fn is_file(path: &Path, id: FileId) -> bool {
    matches!(look(path), Ok(Found::Socket(found)) if found == id)
}

/// `.NAME.PID.socketmaster`, beside NAME. The pid, so that in a take-over two processes can hold
/// the same socket, and so that a link whose process is gone is known for litter.
fn link_path(path: &Path, pid: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{pid}.{LINK_SUFFIX}"));
    path.with_file_name(name)
}

/// The hidden links beside a path, of whatever process, with its pid.
fn links(path: &Path) -> Vec<(PathBuf, Pid)> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut folder) = Dir::open(folder, flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    // An error would come again at each call.
    for entry in folder.iter().map_while(Result::ok) {
        let entry = OsStr::from_bytes(entry.file_name().to_bytes());
        if let Some(pid) = link_pid(entry, name) {
            links.push((path.with_file_name(entry), pid));
        }
    }
    links
}

fn link_pid(entry: &OsStr, name: &OsStr) -> Option<Pid> {
    let rest = entry
        .as_bytes()
        .strip_prefix(b".")?
        .strip_prefix(name.as_bytes())?;
    let text = std::str::from_utf8(rest).ok()?;
    let pid = text
        .strip_prefix('.')?
        .strip_suffix(LINK_SUFFIX)?
        .strip_suffix('.')?;
    pid.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// Removes the hidden links that dead processes left beside a path.
fn sweep(path: &Path) {
    for (link, pid) in links(path) {
        let dead = nix::sys::signal::kill(pid, None) == Err(Errno::ESRCH);
        if let (true, Ok(Found::Socket(id))) = (dead, look(&link)) {
            let _ = unlink_if(&link, id);
        }
    }
}

/// The file of a socket that says it is bound to `path`: there, or at a hidden link beside it.
fn find(path: &Path, inode: Option<u32>) -> Option<(PathBuf, FileId)> {
    let mut linked = Vec::new();
    for (link, _) in links(path) {
        if let Ok(Found::Socket(id)) = look(&link) {
            linked.push((link, id));
        }
    }
    let is_it = |id: FileId| inode.is_none_or(|inode| id.inode as u32 == inode);
    if let Ok(Found::Socket(id)) = look(path) {
        // A path that has no link of ours beside it may be anybody's, and one is as good as none.
        let known = linked.is_empty() || linked.iter().any(|(_, linked)| *linked == id);
        match inode {
            Some(_) if is_it(id) => return Some((path.to_owned(), id)),
            None => return known.then(|| (path.to_owned(), id)),
            Some(_) => {}
        }
    }
    linked.into_iter().find(|(_, id)| is_it(*id))
}

#[cfg(test)]
mod tests;
