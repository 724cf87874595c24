//! Files of ours at paths that other users may touch: the pid file, and locks. A name that others
//! may replace proves nothing, so what was opened is looked at before it is trusted: a regular
//! file of root's or ours, with one name, and not through a symbolic link. Nothing is truncated
//! before it is locked, and nothing is removed that is not this very file.

use crate::text::errno_text;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, stat};
use nix::unistd::{UnlinkatFlags, Whence, ftruncate, geteuid, lseek, read, unlinkat, write};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Each round is lost only to another instance that came or went in the same instant.
const ROUNDS: u32 = 100;
/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why a file is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another process holds the lock; it wrote this pid into the file.
    Locked(Option<u32>),
    /// It is not ours to use: why.
    Foreign(String),
    System(Errno),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Locked(Some(pid)) => write!(f, "another instance runs (pid {pid})"),
            Refusal::Locked(None) => f.write_str("another instance runs"),
            Refusal::Foreign(reason) => {
                write!(
                    f,
                    "{reason}; remove it, or name a file in a directory of ours"
                )
            }
            Refusal::System(errno) => f.write_str(&errno_text(*errno as i32)),
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::System(errno)
    }
}

/// An open file that is proven to be ours.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    /// The directory that the path led to when it was opened.
    folder: OwnedFd,
    fd: OwnedFd,
    is_new: bool,
}

impl OwnFile {
    /// Opens the file, or creates it with this mode less the umask. It never waits, also not in a
    /// FIFO that stands there.
    ///
    /// Errors: it is a symbolic link, not a regular file, somebody else's, or has another name.
    pub fn open(path: &Path, mode: u32) -> Result<OwnFile, Refusal> {
        let mode = Mode::from_bits_truncate(mode & 0o644);
        let flags = OFlag::O_RDWR
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let name = path.file_name().unwrap_or_default();
        for _ in 0..ROUNDS {
            let folder = open_folder(path)?;
            let exclusive = flags | OFlag::O_CREAT | OFlag::O_EXCL;
            let (fd, is_new) = match openat(&folder, name, exclusive, mode) {
                Ok(fd) => (fd, true),
                Err(Errno::EEXIST) => match openat(&folder, name, flags, Mode::empty()) {
                    Ok(fd) => (fd, false),
                    // It was removed between the two.
                    Err(Errno::ENOENT) => continue,
                    Err(Errno::ELOOP) => return Err(foreign("it is a symbolic link")),
                    Err(Errno::EISDIR | Errno::ENXIO) => {
                        return Err(foreign("it is not a regular file"));
                    }
                    Err(errno) => return Err(errno.into()),
                },
                Err(errno) => return Err(errno.into()),
            };
            let file = OwnFile {
                path: path.to_owned(),
                folder,
                fd,
                is_new,
            };
            let found = match fstat(&file.fd) {
                Ok(found) => found,
                Err(errno) => return Err(file.give_up(errno.into())),
            };
            prove(&found)?;
            if found.st_mode & 0o022 != 0 {
                // Others could write it, and so hold the lock: from now on they cannot.
                fchmod(&file.fd, Mode::from_bits_truncate(found.st_mode & 0o644))?;
            }
            return Ok(file);
        }
        Err(foreign("others keep replacing it"))
    }

    /// The same, locked for writing (F_OFD_SETLK, fcntl(2)). Whoever may read the file can lock it
    /// for reading, and wait for that moment while we run: such a lock is not another instance's,
    /// and the file gives way to a new one.
    ///
    /// Errors: as `open`, and another process holds the lock.
    pub fn lock(path: &Path, mode: u32) -> Result<OwnFile, Refusal> {
        for _ in 0..ROUNDS {
            let file = OwnFile::open(path, mode)?;
            match fcntl(&file.fd, FcntlArg::F_OFD_SETLK(&whole_file())) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let mut found = whole_file();
                    fcntl(&file.fd, FcntlArg::F_OFD_GETLK(&mut found))?;
                    match i32::from(found.l_type) {
                        libc::F_WRLCK => {
                            return Err(Refusal::Locked(file.pid().ok().flatten()));
                        }
                        libc::F_RDLCK => file.replace_read_locked()?,
                        // It was given back in between.
                        _ => {}
                    }
                    continue;
                }
                Err(errno) => return Err(file.give_up(errno.into())),
            }
            // Its owner may have removed it after we opened it: a lock without a name is none.
            match file.is_at_its_path() {
                Ok(true) => return Ok(file),
                Ok(false) => {}
                Err(errno) => return Err(file.give_up(errno.into())),
            }
        }
        Err(foreign("others keep replacing it"))
    }

    /// Removes the file, so that a new one can be made and locked. Of two instances that start now
    /// only one may do so at a time: the other could remove the new file. A lock that nobody else
    /// can read decides.
    fn replace_read_locked(&self) -> Result<(), Refusal> {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".lock.socketmaster");
        let lock = OwnFile::lock(&self.path.with_file_name(name), 0o600)?;
        let removed = self.remove();
        let cleaned = lock.remove();
        Ok(removed.and(cleaned)?)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// What is in it is this text alone, from now on.
    ///
    /// Errors: write(2)'s.
    pub fn write(&self, text: &str) -> Result<(), Errno> {
        ftruncate(&self.fd, 0)?;
        lseek(&self.fd, 0, Whence::SeekSet)?;
        match write(&self.fd, text.as_bytes())? {
            count if count == text.len() => Ok(()),
            _ => Err(Errno::ENOSPC),
        }
    }

    /// The pid that it holds, if it does.
    ///
    /// Errors: read(2)'s.
    pub fn pid(&self) -> Result<Option<u32>, Errno> {
        let mut bytes = [0; 32];
        lseek(&self.fd, 0, Whence::SeekSet)?;
        let length = read(&self.fd, &mut bytes)?;
        let text = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
        Ok(text.trim().parse().ok())
    }

    /// Removes it, if its path still leads to it.
    ///
    /// Errors: unlink(2)'s.
    pub fn remove(&self) -> Result<(), Errno> {
        match self.is_at_its_path()? {
            true => unlinkat(&self.folder, self.name(), UnlinkatFlags::NoRemoveDir),
            false => Ok(()),
        }
    }

    fn is_at_its_path(&self) -> Result<bool, Errno> {
        let ours = fstat(&self.fd)?;
        match fstatat(&self.folder, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// A file that we made and that is of no use after all does not stay.
    fn give_up(&self, refusal: Refusal) -> Refusal {
        if self.is_new {
            // The refusal is what matters; the file is empty.
            let _ = unlinkat(&self.folder, self.name(), UnlinkatFlags::NoRemoveDir);
        }
        refusal
    }
}

/// Opens the directory of a path (O_PATH, open(2)). A symbolic link on the way that another user
/// made may lead to a directory of that user, and nowhere else: we could be led to write where that
/// user may not.
///
/// Errors: open(2)'s, and "/srv/run leads through a symbolic link of user 1000 to a directory of
/// user 0".
pub fn open_folder(path: &Path) -> Result<OwnedFd, Refusal> {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let start = |path: &Path| if path.is_absolute() { "/" } else { "." };
    let mut folder = open(start(parent), flags, Mode::empty())?;
    let steps = |path: &Path| -> Vec<OsString> {
        let names = path.components().rev();
        let names = names.filter(|it| !matches!(it, Component::RootDir | Component::CurDir));
        names.map(|it| it.as_os_str().to_owned()).collect()
    };
    let mut left = steps(parent);
    let mut link_owners = Vec::new();
    while let Some(step) = left.pop() {
        let next = openat(&folder, step.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&next)?;
        match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => folder = next,
            SFlag::S_IFLNK => {
                link_owners.push(found.st_uid);
                if link_owners.len() > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = PathBuf::from(readlinkat(&next, "")?);
                if target.is_absolute() {
                    folder = open("/", flags, Mode::empty())?;
                }
                left.extend(steps(&target));
            }
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
    let owner = fstat(&folder)?.st_uid;
    let trusted = [0, geteuid().as_raw(), owner];
    match link_owners.iter().find(|uid| !trusted.contains(uid)) {
        None => Ok(folder),
        Some(uid) => Err(Refusal::Foreign(format!(
            "{} leads through a symbolic link of user {uid} to a directory of user {owner}",
            parent.display()
        ))),
    }
}

/// Why a file at this path proves nothing to those who read it, if everybody may replace it.
pub fn replaceable_by_everybody(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mode = stat(folder).ok()?.st_mode;
    let open = mode & 0o002 != 0 && mode & 0o1000 == 0;
    open.then(|| format!("{} can be written by everybody", folder.display()))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn foreign(reason: &str) -> Refusal {
    Refusal::Foreign(reason.to_owned())
}

fn prove(found: &FileStat) -> Result<(), Refusal> {
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => {}
        SFlag::S_IFIFO => return Err(foreign("it is a FIFO")),
        _ => return Err(foreign("it is not a regular file")),
    }
    if found.st_uid != 0 && found.st_uid != geteuid().as_raw() {
        let owner = found.st_uid;
        return Err(Refusal::Foreign(format!(
            "it belongs to user {owner}, who is neither root nor us"
        )));
    }
    // None: it has just been removed, which the caller sees.
    if found.st_nlink > 1 {
        let names = found.st_nlink;
        return Err(Refusal::Foreign(format!(
            "it has {names} names (hard links)"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::tests::Folder;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refusal(path: &Path) -> String {
        OwnFile::lock(path, 0o644).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_a_plain_file_of_ours_is_refused_and_left_alone() {
        let folder = Folder::new();
        let victim = folder.join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, folder.join("link")).unwrap();
        fs::hard_link(&victim, folder.join("hard")).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        nix::unistd::mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();
        for (name, reason) in [
            ("link", "it is a symbolic link; "),
            ("hard", "it has 2 names"),
            ("folder", "it is not a regular file; "),
            ("fifo", "it is a FIFO; "),
        ] {
            let refusal = refusal(&folder.join(name));
            assert!(refusal.starts_with(reason), "{refusal}");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_another_user_made_beforehand_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let folder = Folder::new();
        let path = folder.join("pid");
        fs::write(&path, "1\n").unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(refusal(&path).starts_with("it belongs to user 65534"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_lock_is_had_once_and_only_by_who_may_write() {
        let folder = Folder::new();
        let path = folder.join("pid");
        let first = OwnFile::lock(&path, 0o644).unwrap();
        first.write("812\n").unwrap();
        assert_eq!(
            OwnFile::lock(&path, 0o644).unwrap_err(),
            Refusal::Locked(Some(812))
        );
        drop(first);
        // flock(2) needs no right to write: it is not what counts.
        let reader = fs::File::open(&path).unwrap();
        let _held = nix::fcntl::Flock::lock(reader, nix::fcntl::FlockArg::LockExclusive).unwrap();
        assert!(OwnFile::lock(&path, 0o644).is_ok());
    }

    #[test]
    fn an_old_file_is_closed_to_other_writers() {
        let folder = Folder::new();
        let path = folder.join("pid");
        fs::write(&path, "1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let file = OwnFile::lock(&path, 0o644).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_leads_elsewhere_by_now_is_not_removed() {
        let folder = Folder::new();
        let path = folder.join("pid");
        let file = OwnFile::lock(&path, 0o644).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        file.remove().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    }
}
