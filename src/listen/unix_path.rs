//! The file of a unix socket. Its inode is what clients connect to, its path is what they know, and
//! any process with the right to write the directory can take the two apart. So a second name, a
//! hidden hard link, is kept beside it, from which the path can be restored with the same inode:
//! for clients and workers the same socket. What is not ours is never removed or changed: a name is
//! looked at and acted on in one directory that stays open meanwhile, no symbolic link at its end
//! is followed, and the owner is set on the inode that was looked at and not on its name.

use super::Kind;
use crate::own_file::{FileRefusal, OwnFile, open_folder};
use crate::sys::socket::unix_diag;
use crate::text::errno_text;
use crate::worker::user;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::socket::{AddressFamily, SockFlag, UnixAddr, bind, connect, socket};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, umask,
};
use nix::unistd::{Gid, Pid, Uid, UnlinkatFlags, fchownat, geteuid, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const LINK_SUFFIX: &str = "socketmaster";
/// How often a lock that another instance holds is asked for while we start. It holds it for as
/// long as a bind takes.
pub(crate) const PATIENT: u32 = 200;
/// How often it is asked for while we serve: the guard comes again.
pub(crate) const ONCE: u32 = 1;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Which file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &FileStat) -> FileId {
        // Their widths differ between architectures.
        FileId {
            device: found.st_dev as _,
            inode: found.st_ino as _,
        }
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket, and who owns it.
    Socket(FileId, Uid),
    Other,
}

/// A name in a directory that is open: what is looked at and what is acted on are in the same one,
/// whatever is done to the path that leads there.
struct Name<'a> {
    directory: OwnedFd,
    name: &'a OsStr,
}

impl Name<'_> {
    fn of(path: &Path) -> Result<Name<'_>, Errno> {
        let directory = open_folder(path).map_err(|refusal| match refusal {
            FileRefusal::System(errno) => errno,
            // A start has said why before; the path was changed since.
            _ => Errno::ELOOP,
        })?;
        Ok(Name {
            directory,
            name: path.file_name().unwrap_or_default(),
        })
    }

    fn look(&self) -> Result<Found, Errno> {
        match fstatat(&self.directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if is_socket(&found) => Ok(Found::Socket(
                FileId::of(&found),
                Uid::from_raw(found.st_uid),
            )),
            Ok(_) => Ok(Found::Other),
            Err(Errno::ENOENT) => Ok(Found::Nothing),
            Err(errno) => Err(errno),
        }
    }

    fn unlink_if(&self, id: FileId) -> Result<(), Errno> {
        match self.look()? {
            Found::Socket(found, _) if found == id => {
                unlinkat(&self.directory, self.name, UnlinkatFlags::NoRemoveDir)
            }
            _ => Ok(()),
        }
    }

    /// Makes `target`, a name in the same directory, another name of what stands here.
    fn link_to(&self, target: &OsStr) -> Result<(), Errno> {
        let directory = &self.directory;
        linkat(directory, self.name, directory, target, AtFlags::empty())
    }

    /// This very socket, to be changed without its name. Errors: ESTALE when it is another.
    fn hold(&self, id: FileId) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.directory, self.name, flags, Mode::empty())?;
        let found = fstat(&fd)?;
        match is_socket(&found) && FileId::of(&found) == id {
            true => Ok(fd),
            false => Err(Errno::ESTALE),
        }
    }

    /// In a sticky directory everybody may make names and nobody may take away another's.
    fn is_in_a_sticky_directory(&self) -> bool {
        fstat(&self.directory).is_ok_and(|found| found.st_mode & 0o1000 != 0)
    }
}

fn is_socket(found: &FileStat) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn look(path: &Path) -> Result<Found, Errno> {
    match Name::of(path) {
        Ok(name) => name.look(),
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(errno),
    }
}

/// std's errors from the system, as the system's.
pub(crate) fn word(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

pub(crate) fn unlink_if(path: &Path, id: FileId) -> Result<(), Errno> {
    match Name::of(path) {
        Ok(name) => name.unlink_if(id),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
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
/// Errors: EADDRINUSE when somebody lives there, EEXIST when it is no socket at all, EPERM when
/// it is another user's in a directory where everybody may make names.
pub(crate) fn clear(path: &Path, kind: Kind, owner: Option<Uid>) -> Result<bool, Errno> {
    let name = match Name::of(path) {
        Ok(name) => name,
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match name.look()? {
        Found::Nothing => Ok(false),
        Found::Other => Err(Errno::EEXIST),
        Found::Socket(stale, its_owner) => match ask(path, kind)? {
            Answer::Gone => Ok(false),
            Answer::Somebody => Err(Errno::EADDRINUSE),
            Answer::Nobody => {
                let ours =
                    its_owner.is_root() || its_owner == geteuid() || owner == Some(its_owner);
                if !ours && name.is_in_a_sticky_directory() {
                    return Err(Errno::EPERM);
                }
                name.unlink_if(stale).map(|()| true)
            }
        },
    }
}

/// Keeps other instances from the path between the look at what stands there and listen(2): a
/// socket that is bound and does not listen yet looks like a stale one.
///
/// Errors: EADDRINUSE when another instance keeps it; the reason in words when what stands at the
/// lock's own name is not ours.
pub(crate) fn lock(path: &Path, rounds: u32) -> Result<PathLock, FileRefusal> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".lock.{LINK_SUFFIX}"));
    let lock = path.with_file_name(name);
    for round in 0..rounds {
        if round > 0 {
            thread::sleep(LOCK_PAUSE);
        }
        match OwnFile::lock(&lock, 0o600) {
            Ok(file) => return Ok(PathLock(file)),
            Err(FileRefusal::Locked(_)) => {}
            Err(FileRefusal::Foreign(reason)) => {
                return Err(FileRefusal::Foreign(format!(
                    "{}: {reason}",
                    lock.display()
                )));
            }
            Err(refusal) => return Err(refusal),
        }
    }
    Err(FileRefusal::System(Errno::EADDRINUSE))
}

/// The lock beside a path; its file goes with it.
pub(crate) struct PathLock(OwnFile);

impl Drop for PathLock {
    fn drop(&mut self) {
        // An empty file that stays is in nobody's way.
        let _ = self.0.remove();
    }
}

/// Who may connect: the `mode`, `owner` and `group` of a `-listen` address.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    mode: Option<u32>,
    pub owner: Option<Uid>,
    group: Option<Gid>,
}

impl Rights {
    /// Looks the names up; numbers need not exist.
    pub(crate) fn of(options: &crate::listen::uri::Options) -> Result<Rights, String> {
        Ok(Rights {
            mode: options.mode,
            owner: options.owner.as_deref().map(user::uid).transpose()?,
            group: options.group.as_deref().map(user::gid).transpose()?,
        })
    }

    /// bind(2), with these rights from the first moment: Linux makes the file with the mode of the
    /// socket itself less the umask (unix_bind). The owner follows, on the inode that was bound.
    /// It listens to nobody before it listens, so nobody gets in meanwhile.
    pub(crate) fn bind(&self, socket: &OwnedFd, path: &Path) -> Result<FileId, Errno> {
        let address = UnixAddr::new(path)?;
        let name = Name::of(path)?;
        match self.mode {
            None => bind(socket.as_raw_fd(), &address)?,
            Some(mode) => {
                fchmod(socket, Mode::from_bits_truncate(mode))?;
                // We have one thread: nobody else makes a file meanwhile.
                let before = umask(Mode::empty());
                let bound = bind(socket.as_raw_fd(), &address);
                umask(before);
                bound?;
            }
        }
        let id = match bound_file(socket, &name) {
            Ok(id) => id,
            Err(errno) => {
                // If it can be told what stands there after all, it does not stay.
                let _ = bound_file(socket, &name).and_then(|id| name.unlink_if(id));
                return Err(errno);
            }
        };
        let owned = name.hold(id).and_then(|file| self.own(&file));
        if let Err(errno) = owned {
            // It is of no use with the wrong owner, and nobody else knows it.
            let _ = name.unlink_if(id);
            return Err(errno);
        }
        Ok(id)
    }

    /// Gives a file that has its name already, and that is this one, these rights.
    pub(crate) fn apply(&self, path: &Path, id: FileId) -> Result<(), Errno> {
        let file = Name::of(path)?.hold(id)?;
        self.own(&file)?;
        let mode = self.mode.map(Mode::from_bits_truncate);
        match mode.filter(|mode| fstat(&file).is_ok_and(|it| it.st_mode & 0o7777 != mode.bits())) {
            None => Ok(()),
            // fchmod(2) refuses a descriptor that only names a file; this link is to that file.
            Some(mode) => {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)
            }
        }
    }

    fn own(&self, file: &OwnedFd) -> Result<(), Errno> {
        match (self.owner, self.group) {
            (None, None) => Ok(()),
            (owner, group) => fchownat(file, "", owner, group, AtFlags::AT_EMPTY_PATH),
        }
    }
}

/// The file that a socket was bound to a moment ago: what the kernel says it is, where the kernel
/// tells (sock_diag(7)), else a socket of ours with one name.
///
/// Errors: EADDRINUSE when another stands there by now.
fn bound_file(socket: &OwnedFd, name: &Name) -> Result<FileId, Errno> {
    let found = fstatat(&name.directory, name.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let inode = unix_diag(fstat(socket)?.st_ino as u32)
        .ok()
        .and_then(|diag| diag.file);
    let is_it = match inode {
        Some(inode) => found.st_ino as u32 == inode,
        None => found.st_uid == geteuid().as_raw() && found.st_nlink == 1,
    };
    match is_it && is_socket(&found) {
        true => Ok(FileId::of(&found)),
        false => Err(Errno::EADDRINUSE),
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
    /// Of a socket that was bound to `path` a moment ago, as this file. Without a second name when the file
    /// system or the rights do not allow one.
    pub(crate) fn bound(path: &Path, id: FileId, kind: Kind) -> SocketFile {
        let mut file = SocketFile::without_link(path, id);
        file.keep_link();
        file.sweep(kind);
        file
    }

    /// The same, for a socket that nobody restores.
    pub(crate) fn without_link(path: &Path, id: FileId) -> SocketFile {
        SocketFile {
            path: path.to_owned(),
            id: Some(id),
            link: None,
            owned: true,
        }
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
                file.sweep(kind);
            }
        }
        file
    }

    /// Of an inherited socket: guarded as far as the rights go, but never removed. `None` when the
    /// path leads elsewhere, as a path relative to another directory may.
    pub(crate) fn guest(path: &Path, inode: Option<u32>, kind: Kind) -> Option<SocketFile> {
        let Ok(Found::Socket(id, _)) = look(path) else {
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
        file.keep_link();
        file.sweep(kind);
        Some(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn id(&self) -> Option<FileId> {
        self.id
    }

    /// The hidden second name, if there is one.
    pub fn link(&self) -> Option<&Path> {
        self.link.as_deref()
    }

    /// Where the path leads now.
    pub fn place(&self) -> Result<Place, Errno> {
        Ok(match look(&self.path)? {
            Found::Nothing => Place::Empty,
            Found::Socket(id, _) if Some(id) == self.id => Place::Ours,
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
            if let Ok(Found::Socket(old, _)) = look(&link) {
                let _ = unlink_if(&link, old);
            }
            // Whether it is our socket that got the name is looked at below.
            let _ = link_beside(source, &link);
        }
        self.link = is_file(&link, id).then_some(link);
    }

    /// Removes the hidden links beside the path that nobody needs: those of our own inode, which
    /// our own link has, and those of sockets that nobody answers on. (A pid proves nothing: its
    /// process may live in another PID namespace.)
    fn sweep(&self, kind: Kind) {
        if self.link.is_none() {
            return;
        }
        for link in links(&self.path) {
            let Ok(Found::Socket(id, _)) = look(&link) else {
                continue;
            };
            let needless = Some(id) == self.id || matches!(ask(&link, kind), Ok(Answer::Nobody));
            if needless && Some(&link) != self.link.as_ref() {
                // A link that stays is in nobody's way.
                let _ = unlink_if(&link, id);
            }
        }
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
        clear(&self.path, kind, None)?;
        link_beside(link, &self.path)?;
        match self.place()? {
            Place::Ours => Ok(()),
            // Somebody has put another file into the link's place.
            _ => Err(Errno::ESTALE),
        }
    }

    /// For the final stop: both names go, the path only while it leads to our socket.
    ///
    /// Returns what stays behind and why: "cannot remove /run/x.sock: Read-only file system".
    pub(crate) fn remove(&mut self) -> Vec<String> {
        let path = self.id.filter(|_| self.owned).map(|id| {
            let removed = unlink_if(&self.path, id);
            removed.map_err(|errno| cannot_remove(&self.path, errno))
        });
        let mut left: Vec<String> = path.and_then(Result::err).into_iter().collect();
        left.extend(self.forget_link());
        left
    }

    /// Leaves the path as it is, for whoever opens it next. Returns what stays of the link, as
    /// `remove` does.
    pub(crate) fn forget_link(&mut self) -> Option<String> {
        let (link, id) = (self.link.take()?, self.id?);
        let removed = unlink_if(&link, id);
        removed.map_err(|errno| cannot_remove(&link, errno)).err()
    }
}

fn cannot_remove(path: &Path, errno: Errno) -> String {
    format!(
        "cannot remove {}: {}",
        path.display(),
        errno_text(errno as i32)
    )
}

fn is_file(path: &Path, id: FileId) -> bool {
    matches!(look(path), Ok(Found::Socket(found, _)) if found == id)
}

/// Makes `target` another name of what stands at `source`, in the same directory.
fn link_beside(source: &Path, target: &Path) -> Result<(), Errno> {
    Name::of(source)?.link_to(target.file_name().unwrap_or_default())
}

/// `.NAME.PID.socketmaster`, beside NAME. The pid, so that in a take-over two processes can hold
/// the same socket.
fn link_path(path: &Path, pid: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{pid}.{LINK_SUFFIX}"));
    path.with_file_name(name)
}

/// The hidden links beside a path, of whatever process.
fn links(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut folder) = Dir::open(folder(path), flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    // An error would come again at each call.
    for entry in folder.iter().map_while(Result::ok) {
        let entry = OsStr::from_bytes(entry.file_name().to_bytes());
        if is_link_of(entry, name) {
            links.push(path.with_file_name(entry));
        }
    }
    links
}

fn is_link_of(entry: &OsStr, name: &OsStr) -> bool {
    let pid = || {
        let rest = entry.as_bytes().strip_prefix(b".")?;
        let rest = rest.strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
        let pid = rest
            .strip_suffix(LINK_SUFFIX.as_bytes())?
            .strip_suffix(b".")?;
        std::str::from_utf8(pid).ok()?.parse::<u32>().ok()
    };
    pid().is_some()
}

/// The file of a socket that says it is bound to `path`: there, or at a hidden link beside it.
fn find(path: &Path, inode: Option<u32>) -> Option<(PathBuf, FileId)> {
    let mut linked = Vec::new();
    for link in links(path) {
        if let Ok(Found::Socket(id, _)) = look(&link) {
            linked.push((link, id));
        }
    }
    let is_it = |id: FileId| inode.is_none_or(|inode| id.inode as u32 == inode);
    if let Ok(Found::Socket(id, _)) = look(path) {
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
