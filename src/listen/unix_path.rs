//! The file of a unix socket. Clients know the path, the kernel knows the inode, and every process
//! that may write the directory can take the two apart. So a hidden hard link is kept beside the
//! path, and from it the path is restored with the same inode: the same socket for clients and
//! workers. This file must never remove or change what is not ours. It looks at a name and acts on
//! it in one directory that stays open meanwhile, follows no symbolic link at a path's end, and
//! changes the owner and the mode of the inode that it looked at, not of a name.

use super::{file_inode, unix_diag};
use crate::listen::uri::Options;
use crate::own_file::{FileRefusal, OwnFile, open_folder};
use crate::text::errno_text;
use crate::worker::user;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, umask,
};
use nix::unistd::{Gid, Pid, Uid, UnlinkatFlags, fchownat, geteuid, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const SUFFIX: &str = "socketmaster";
/// How often a start asks for a path's lock. Another instance holds it as long as a bind takes.
pub(crate) const PATIENT: u32 = 200;
/// How often the guard asks for it while we serve: it comes again.
pub(crate) const ONCE: u32 = 1;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The file of a socket, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// `None`: it is no socket.
    fn of(found: &FileStat) -> Option<FileId> {
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        // The widths of the two numbers differ between architectures.
        (kind == SFlag::S_IFSOCK).then_some(FileId {
            device: found.st_dev as _,
            inode: found.st_ino as _,
        })
    }

    /// The socket that stands at a path now.
    fn at(path: &Path) -> Option<FileId> {
        FileId::of(&Name::of(path).and_then(|name| name.stat()).ok()?)
    }
}

/// A name in a directory that is open: it is looked at and acted on in the same directory, whatever
/// is done to the path that leads there.
struct Name<'a> {
    directory: OwnedFd,
    /// Nobody but root and our own user can take the name away, or lead the path elsewhere.
    is_ours: bool,
    name: &'a OsStr,
}

impl Name<'_> {
    fn of(path: &Path) -> Result<Name<'_>, Errno> {
        let folder = open_folder(path).map_err(|refusal| match refusal {
            FileRefusal::System(errno) => errno,
            // A start has said why before; the path was changed since.
            _ => Errno::ELOOP,
        })?;
        Ok(Name {
            directory: folder.fd,
            is_ours: folder.is_ours,
            name: path.file_name().unwrap_or_default(),
        })
    }

    /// The name in the directory to which the path leads now, whoever led it there.
    fn of_any(path: &Path) -> Result<Name<'_>, Errno> {
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Name {
            directory: open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?,
            is_ours: false,
            name: path.file_name().unwrap_or_default(),
        })
    }

    fn stat(&self) -> Result<FileStat, Errno> {
        fstatat(&self.directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    fn unlink_if(&self, id: FileId) -> Result<(), Errno> {
        // Another file may still get the name between the two calls: Linux cannot unlink an inode.
        match self.stat() {
            Ok(found) if FileId::of(&found) == Some(id) => {
                unlinkat(&self.directory, self.name, UnlinkatFlags::NoRemoveDir)
            }
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Opens this very socket, so that it can be changed without its name.
    ///
    /// Errors: ESTALE when another file has the name by now.
    fn hold(&self, id: FileId) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.directory, self.name, flags, Mode::empty())?;
        match FileId::of(&fstat(&fd)?) == Some(id) {
            true => Ok(fd),
            false => Err(Errno::ESTALE),
        }
    }
}

/// Removes the path if it leads to this socket.
pub(crate) fn unlink_if(path: &Path, id: FileId) -> Result<(), Errno> {
    match Name::of(path).and_then(|name| name.unlink_if(id)) {
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

/// Makes `target` another name of this socket, which stands at `source` in the same directory.
///
/// Errors: ESTALE when another file stands there, so that nothing of ours gets into a directory that
/// is not the socket's.
fn link_beside(source: &Path, target: &Path, id: FileId) -> Result<(), Errno> {
    let source = Name::of(source)?;
    if FileId::of(&source.stat()?) != Some(id) {
        return Err(Errno::ESTALE);
    }
    let (directory, target) = (&source.directory, target.file_name().unwrap_or_default());
    linkat(directory, source.name, directory, target, AtFlags::empty())
}

/// Whether nobody answers on a socket file. Only connecting tells, and only ECONNREFUSED says so: a
/// full queue (EAGAIN), another kind of socket (EPROTOTYPE) and a lack of rights do not.
///
/// Errors: ENOENT when the file went away meanwhile.
fn is_stale(path: &Path, kind: SockType) -> Result<bool, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, kind, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ENOENT) => Err(Errno::ENOENT),
        answer => Ok(answer == Err(Errno::ECONNREFUSED)),
    }
}

/// Makes room at a path for a socket: a stale one is removed. Returns whether there was one.
///
/// Errors: EADDRINUSE when somebody answers there, EEXIST when it is no socket at all, EPERM when
/// it is another user's in a directory where everybody may make names.
pub(crate) fn clear(path: &Path, kind: SockType, owner: Option<Uid>) -> Result<bool, Errno> {
    let name = Name::of(path)?;
    let found = match name.stat() {
        Err(Errno::ENOENT) => return Ok(false),
        found => found?,
    };
    let id = FileId::of(&found).ok_or(Errno::EEXIST)?;
    match is_stale(path, kind) {
        Ok(true) => {}
        Ok(false) => return Err(Errno::EADDRINUSE),
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let its_owner = Uid::from_raw(found.st_uid);
    let is_ours = its_owner.is_root() || its_owner == geteuid() || owner == Some(its_owner);
    // In a sticky directory everybody may make names, and nobody takes away another user's.
    if !is_ours && fstat(&name.directory).is_ok_and(|found| found.st_mode & 0o1000 != 0) {
        return Err(Errno::EPERM);
    }
    // Another socket may have come since we looked: only the one that we looked at is removed.
    name.unlink_if(id).map(|()| true)
}

/// Keeps other instances from a path between the look at what stands there and listen(2): a socket
/// that is bound and does not listen yet looks like a stale one.
///
/// Errors: EADDRINUSE when another instance has it; the reason in words when what stands at the
/// lock's own name is not ours.
pub(crate) fn lock(path: &Path, rounds: u32) -> Result<PathLock, FileRefusal> {
    let lock = hidden(path, "lock");
    for round in 0..rounds {
        if round > 0 {
            thread::sleep(LOCK_PAUSE);
        }
        match OwnFile::lock(&lock, 0o600) {
            Ok(file) => return Ok(PathLock(file)),
            Err(FileRefusal::Locked(_)) => {}
            Err(FileRefusal::Foreign(reason)) => {
                let reason = format!("{}: {reason}", lock.display());
                return Err(FileRefusal::Foreign(reason));
            }
            Err(refusal) => return Err(refusal),
        }
    }
    Err(FileRefusal::System(Errno::EADDRINUSE))
}

/// The lock beside a path. Dropped, it removes its file.
pub(crate) struct PathLock(OwnFile);

impl Drop for PathLock {
    fn drop(&mut self) {
        // An empty file that stays does no harm.
        let _ = self.0.remove();
    }
}

/// Who may connect: the `mode`, `owner` and `group` of a `-listen` address.
#[derive(Debug, Default)]
pub(crate) struct FileRights {
    mode: Option<Mode>,
    pub owner: Option<Uid>,
    group: Option<Gid>,
}

impl FileRights {
    /// Looks the names up; numbers need not exist.
    pub(crate) fn of(options: &Options) -> Result<FileRights, String> {
        Ok(FileRights {
            mode: options.mode.map(Mode::from_bits_truncate),
            owner: options.owner.as_deref().map(user::uid).transpose()?,
            group: options.group.as_deref().map(user::gid).transpose()?,
        })
    }

    /// bind(2), and these rights before anybody can connect: the caller listens afterwards.
    ///
    /// Errors: in words.
    pub(crate) fn bind(&self, socket: &OwnedFd, path: &Path) -> Result<FileId, String> {
        let name = Name::of(path).map_err(in_words)?;
        if self.names_an_owner() && !name.is_ours && unix_diag(socket.as_fd()).is_none() {
            return Err(UNPROVEN.to_owned());
        }
        self.bind_in(&name, socket, path).map_err(in_words)
    }

    fn bind_in(&self, name: &Name, socket: &OwnedFd, path: &Path) -> Result<FileId, Errno> {
        let address = UnixAddr::new(path)?;
        match self.mode {
            None => bind(socket.as_raw_fd(), &address)?,
            Some(mode) => {
                // Linux makes the file with the socket's own mode less the umask (unix_bind), so
                // the name never has another mode. We have one thread: no file that is made
                // meanwhile gets this umask.
                fchmod(socket, mode)?;
                let before = umask(Mode::empty());
                let bound = bind(socket.as_raw_fd(), &address);
                umask(before);
                bound?;
            }
        }
        // Another file may have the name by now: the owner is given to the one that was bound.
        let bound = bound_file(socket, name, self.names_an_owner());
        let owned = bound.and_then(|id| self.give_owner(&name.hold(id)?));
        if owned.is_err() {
            // A file without its owner is of no use, and nobody else would remove it.
            let id = bound.or_else(|_| bound_file(socket, name, false));
            match id {
                Ok(id) => drop(name.unlink_if(id)),
                Err(_) => remove_stray(socket, path),
            }
        }
        owned.and(bound)
    }

    fn names_an_owner(&self) -> bool {
        self.owner.is_some() || self.group.is_some()
    }

    /// Gives these rights to a socket that has its path already. `inode`: that of its file, as the
    /// kernel says.
    ///
    /// Errors: in words.
    pub(crate) fn apply(&self, path: &Path, id: FileId, inode: Option<u32>) -> Result<(), String> {
        let name = Name::of(path).map_err(in_words)?;
        let file = name.hold(id).map_err(in_words)?;
        let found = fstat(&file).map_err(in_words)?;
        let is_right = self
            .owner
            .is_none_or(|owner| owner.as_raw() == found.st_uid)
            && self
                .group
                .is_none_or(|group| group.as_raw() == found.st_gid)
            && self
                .mode
                .is_none_or(|mode| mode.bits() == found.st_mode & 0o7777);
        if is_right {
            return Ok(());
        }
        if !name.is_ours && inode != Some(id.inode as u32) {
            return Err(UNPROVEN.to_owned());
        }
        self.change(&file, found.st_mode & 0o7777).map_err(in_words)
    }

    fn change(&self, file: &OwnedFd, mode: u32) -> Result<(), Errno> {
        self.give_owner(file)?;
        match self.mode.filter(|wanted| wanted.bits() != mode) {
            None => Ok(()),
            // fchmod(2) refuses a descriptor that only names a file; this link leads to that file.
            Some(mode) => {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)
            }
        }
    }

    fn give_owner(&self, file: &OwnedFd) -> Result<(), Errno> {
        match (self.owner, self.group) {
            (None, None) => Ok(()),
            (owner, group) => fchownat(file, "", owner, group, AtFlags::AT_EMPTY_PATH),
        }
    }
}

/// Why nobody gets a file of which the kernel does not say that it is the socket's.
const UNPROVEN: &str = "others can change where the path leads, and nothing proves without \
                        AF_NETLINK which file is to get the rights; add it to \
                        RestrictAddressFamilies=, or use a directory of root's";

fn in_words(errno: Errno) -> String {
    errno_text(errno as i32)
}

/// Removes the file of a socket that was bound in another directory, because the path was led
/// there at that moment. It may lead to and fro: a few looks find it.
fn remove_stray(socket: &OwnedFd, path: &Path) {
    let Some(inode) = file_inode(socket.as_fd()) else {
        return;
    };
    for _ in 0..100 {
        let Ok(name) = Name::of_any(path) else {
            continue;
        };
        let found = name.stat().ok();
        let is_it = |it: &FileStat| {
            it.st_ino as u32 == inode && it.st_uid == geteuid().as_raw() && it.st_nlink == 1
        };
        if let Some(id) = found.filter(is_it).as_ref().and_then(FileId::of) {
            let _ = name.unlink_if(id);
            return;
        }
    }
}

/// The file that a socket was bound to a moment ago. The kernel says which it is (sock_diag(7));
/// where it does not tell, it is a socket of ours with one name, which is no proof where others
/// can change the path.
///
/// Errors: EADDRINUSE when another file stands there by now.
fn bound_file(socket: &OwnedFd, name: &Name, needs_proof: bool) -> Result<FileId, Errno> {
    let found = name.stat()?;
    let is_it = match file_inode(socket.as_fd()) {
        Some(inode) => found.st_ino as u32 == inode,
        None if needs_proof && !name.is_ours => false,
        None => found.st_uid == geteuid().as_raw() && found.st_nlink == 1,
    };
    let id = FileId::of(&found).filter(|_| is_it);
    id.ok_or(Errno::EADDRINUSE)
}

/// The file of one socket, and the hidden link to it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None`: no file of this socket was found.
    pub(crate) id: Option<FileId>,
    link: Option<PathBuf>,
    /// We remove the path at the end.
    is_owned: bool,
}

impl SocketFile {
    /// Of a socket that was bound a moment ago. There is no hidden link when the file system or the
    /// rights do not allow one.
    pub(crate) fn bound(path: &Path, id: FileId, kind: SockType) -> SocketFile {
        let mut file = SocketFile::without_link(path, id);
        file.keep_link();
        file.sweep(kind);
        file
    }

    /// The same, for a socket that nobody restores. `None`: no file of it was found.
    pub(crate) fn without_link(path: &Path, id: impl Into<Option<FileId>>) -> SocketFile {
        SocketFile {
            path: path.to_owned(),
            id: id.into(),
            link: None,
            is_owned: true,
        }
    }

    /// Of a socket of ours that comes back: after a crash, an exec, or out of another process. The
    /// path is restored if it is gone. `inode` is what sock_diag(7) says, if it tells.
    pub(crate) fn reclaim(path: &Path, inode: Option<u32>, kind: SockType) -> SocketFile {
        let Some((source, id)) = find(path, inode) else {
            return SocketFile::without_link(path, None);
        };
        let mut file = SocketFile::without_link(path, id);
        file.link_from(&source);
        // When this fails the guard tries again, and logs the reason.
        if file.restore(kind).is_ok() {
            file.sweep(kind);
        }
        file
    }

    /// Of an inherited socket: restored as far as our rights go, but never removed. `None` when the
    /// path leads elsewhere, as a path relative to another directory may.
    pub(crate) fn guest(path: &Path, inode: Option<u32>, kind: SockType) -> Option<SocketFile> {
        let id = FileId::at(path)?;
        if inode.is_some_and(|inode| inode != id.inode as u32) {
            return None;
        }
        let mut file = SocketFile::bound(path, id, kind);
        file.is_owned = false;
        Some(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hidden link, if there is one.
    pub fn link(&self) -> Option<&Path> {
        self.link.as_deref()
    }

    /// Opens the file by whichever of its names still leads to it (O_PATH, open(2)).
    ///
    /// Errors: neither does.
    pub fn hold(&self) -> Result<OwnedFd, Errno> {
        let id = self.id.ok_or(Errno::ENOENT)?;
        let hold = |path: &Path| Name::of(path)?.hold(id);
        let link = self.link.as_deref().ok_or(Errno::ENOENT);
        link.and_then(hold).or_else(|_| hold(&self.path))
    }

    /// Whether the path leads to our socket now.
    pub fn is_at_its_path(&self) -> Result<bool, Errno> {
        match Name::of(&self.path).and_then(|name| name.stat()) {
            Ok(found) => Ok(self.id.is_some() && FileId::of(&found) == self.id),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the hidden link, or makes it again if somebody removed it.
    pub(crate) fn keep_link(&mut self) {
        self.link_from(&self.path.clone());
    }

    fn link_from(&mut self, source: &Path) {
        let Some(id) = self.id else { return };
        let link = hidden(&self.path, &Pid::this().to_string());
        if FileId::at(&link) != Some(id) && FileId::at(source) == Some(id) {
            // An earlier process may have had our pid: pid 1 of a container comes again and again.
            if let Some(old) = FileId::at(&link) {
                let _ = unlink_if(&link, old);
            }
            let _ = link_beside(source, &link, id);
            // The source may have been replaced before it was linked.
            if let Some(other) = FileId::at(&link).filter(|found| *found != id) {
                let _ = unlink_if(&link, other);
            }
        }
        self.link = (FileId::at(&link) == Some(id)).then_some(link);
    }

    /// Removes the hidden links that nobody needs: those to our own inode, which our own link has,
    /// and those to sockets on which nobody answers. (A pid proves nothing: its process may live in
    /// another PID namespace.)
    fn sweep(&self, kind: SockType) {
        if self.link.is_none() {
            return;
        }
        for (link, id) in hidden_links(&self.path) {
            let is_needless = Some(id) == self.id || is_stale(&link, kind) == Ok(true);
            if is_needless && Some(&link) != self.link.as_ref() {
                // A link that stays does no harm.
                let _ = unlink_if(&link, id);
            }
        }
    }

    /// Brings our inode back to its path. A stale socket in its place is removed.
    ///
    /// Errors: ENOENT when the hidden link is gone too, or the directory; EADDRINUSE when somebody
    /// answers there.
    pub(crate) fn restore(&self, kind: SockType) -> Result<(), Errno> {
        if self.is_at_its_path()? {
            return Ok(());
        }
        let (link, id) = self.link.as_ref().zip(self.id).ok_or(Errno::ENOENT)?;
        clear(&self.path, kind, None)?;
        // A socket that came since then stays: linkat(2) replaces nothing.
        link_beside(link, &self.path, id)?;
        match self.is_at_its_path()? {
            true => Ok(()),
            // Somebody has put another file into the hidden link's place.
            false => Err(Errno::ESTALE),
        }
    }

    /// Removes both names, the path only while it leads to our socket. For the final stop.
    ///
    /// Returns what stays behind and why: "cannot remove /run/x.sock: Read-only file system".
    pub(crate) fn remove(&mut self) -> Vec<String> {
        let id = self.id.filter(|_| self.is_owned);
        let path = id.and_then(|id| remove_if(&self.path, id));
        path.into_iter().chain(self.forget_link()).collect()
    }

    /// Removes the hidden link and leaves the path to whoever opens it next. Returns as `remove`.
    pub(crate) fn forget_link(&mut self) -> Option<String> {
        remove_if(&self.link.take()?, self.id?)
    }
}

fn remove_if(path: &Path, id: FileId) -> Option<String> {
    let errno = unlink_if(path, id).err()?;
    let word = errno_text(errno as i32);
    Some(format!("cannot remove {}: {word}", path.display()))
}

/// `.NAME.WHAT.socketmaster`, beside NAME. WHAT is `lock`, or for a link the pid, so that in a
/// take-over two processes can hold the same socket.
fn hidden(path: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{what}.{SUFFIX}"));
    path.with_file_name(name)
}

/// The hidden links beside a path that lead to sockets, of whatever process.
fn hidden_links(path: &Path) -> Vec<(PathBuf, FileId)> {
    let name = path.file_name().unwrap_or_default();
    let entries = fs::read_dir(path.with_file_name(".")).into_iter().flatten();
    // An error ends it: it could come again at each call.
    let names = entries.map_while(|entry| Some(entry.ok()?.file_name()));
    let links = names.filter(|entry| is_link_of(entry, name));
    let links = links.map(|entry| path.with_file_name(entry));
    links
        .filter_map(|link| FileId::at(&link).map(|id| (link, id)))
        .collect()
}

fn is_link_of(entry: &OsStr, name: &OsStr) -> bool {
    let parts: Vec<&[u8]> = entry.as_bytes().rsplitn(3, |byte| *byte == b'.').collect();
    let [suffix, pid, rest] = parts[..] else {
        return false;
    };
    let is_pid = std::str::from_utf8(pid).is_ok_and(|pid| pid.parse::<u32>().is_ok());
    is_pid && suffix == SUFFIX.as_bytes() && rest.strip_prefix(b".") == Some(name.as_bytes())
}

/// The file of a socket that says it is bound to `path`: there, or at a hidden link beside it.
fn find(path: &Path, inode: Option<u32>) -> Option<(PathBuf, FileId)> {
    let mut links = hidden_links(path).into_iter();
    let there = FileId::at(path).map(|id| (path.to_owned(), id));
    match (inode, there) {
        (Some(inode), there) => {
            let mut all = there.into_iter().chain(links);
            all.find(|(_, id)| id.inode as u32 == inode)
        }
        (None, None) => links.next(),
        // Where hidden links stand beside the path, one of them must lead to the same file: else
        // the path is somebody else's by now.
        (None, Some(there)) => {
            let is_known = links.len() == 0 || links.any(|(_, id)| id == there.1);
            is_known.then_some(there)
        }
    }
}

#[cfg(test)]
mod tests;
