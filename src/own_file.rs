//! Files of our own at paths that other users may touch: the pid file, and locks. A name that others
//! may replace proves nothing, so what was opened is checked before it is trusted: a regular file
//! of root's or ours, with one name, and not through a symbolic link. It must never truncate a file
//! before it is locked, and never remove what another process wrote.

use crate::text::{errno_text, error_text};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, stat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// How often to try for a lock: an attempt fails only if another instance comes or goes in the same
/// instant.
const ROUNDS: u32 = 100;
/// As many symbolic links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileRefusal {
    /// Another process holds the lock; it wrote this pid into the file.
    Locked(Option<u32>),
    /// It cannot be trusted, for this reason.
    Foreign(String),
    System(Errno),
}

impl fmt::Display for FileRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileRefusal::Locked(Some(pid)) => write!(f, "another instance runs (pid {pid})"),
            FileRefusal::Locked(None) => f.write_str("another instance runs"),
            FileRefusal::Foreign(reason) => {
                let advice = "remove it, or name a file in a directory of ours";
                write!(f, "{reason}; {advice}")
            }
            FileRefusal::System(errno) => f.write_str(&errno_text(*errno as i32)),
        }
    }
}

impl From<Errno> for FileRefusal {
    fn from(errno: Errno) -> FileRefusal {
        FileRefusal::System(errno)
    }
}

/// An open file that is proven to be ours.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    /// The directory that the path led to when it was opened.
    folder: OwnedFd,
    file: File,
    is_new: bool,
}

impl OwnFile {
    /// Opens the file, or creates it with this mode less the umask. It never waits, also not for
    /// the other end of a FIFO.
    ///
    /// Errors: it is a symbolic link, not a regular file, another user's, or has another name.
    pub fn open(path: &Path, mode: u32) -> Result<OwnFile, FileRefusal> {
        let mode = Mode::from_bits_truncate(mode & 0o644);
        let flags = OFlag::O_RDWR
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let (folder, name) = (open_folder(path)?.fd, name_of(path));
        // In two steps: with O_CREAT the kernel may refuse another user's file below /tmp before we
        // have seen whose it is (fs.protected_regular).
        let mut opened = openat(&folder, name, flags, Mode::empty());
        let is_new = matches!(opened, Err(Errno::ENOENT));
        if is_new {
            let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
            opened = openat(&folder, name, flags, mode);
        }
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::ELOOP) => return Err(foreign("it is a symbolic link")),
            Err(Errno::EISDIR | Errno::ENXIO) => return Err(foreign("it is not a regular file")),
            Err(errno) => return Err(errno.into()),
        };
        let own = OwnFile {
            path: path.to_owned(),
            folder,
            file,
            is_new,
        };
        let found = fstat(&own.file).map_err(|errno| own.give_up(errno))?;
        check(&found).inspect_err(|_| own.clean_up())?;
        if found.st_mode & 0o022 != 0 {
            // Others could write it, and so hold the lock: from now on they cannot.
            fchmod(&own.file, Mode::from_bits_truncate(found.st_mode & 0o644))?;
        }
        Ok(own)
    }

    /// The same, locked for writing (F_OFD_SETLK, fcntl(2)). Whoever may read the file can lock it
    /// for reading, and wait for that moment while we run: such a lock is not another instance's,
    /// and the file is replaced by a new one.
    ///
    /// Errors: as `open`, and another process holds the lock.
    pub fn lock(path: &Path, mode: u32) -> Result<OwnFile, FileRefusal> {
        let whole_file = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        for _ in 0..ROUNDS {
            let own = match OwnFile::open(path, mode) {
                // Another instance made it in the same instant.
                Err(FileRefusal::System(Errno::EEXIST)) => continue,
                opened => opened?,
            };
            match fcntl(&own.file, FcntlArg::F_OFD_SETLK(&whole_file)) {
                // Its owner may have removed it after we opened it: then the lock is worth nothing.
                Ok(_) => match own.is_at_its_path() {
                    Ok(true) => return Ok(own),
                    Ok(false) => {}
                    Err(errno) => return Err(own.give_up(errno)),
                },
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let mut found = whole_file;
                    fcntl(&own.file, FcntlArg::F_OFD_GETLK(&mut found))?;
                    match i32::from(found.l_type) {
                        libc::F_WRLCK => return Err(FileRefusal::Locked(own.pid())),
                        libc::F_RDLCK => own.remove_read_locked()?,
                        // It was unlocked in between.
                        _ => {}
                    }
                }
                Err(errno) => return Err(own.give_up(errno)),
            }
        }
        Err(foreign("others keep replacing it"))
    }

    /// Removes the file, so that a new one can be made and locked. Of two instances that start now
    /// only one may do so at a time: the other could remove the new file. A lock that nobody else
    /// can read decides.
    fn remove_read_locked(&self) -> Result<(), FileRefusal> {
        let mut name = OsString::from(".");
        name.push(name_of(&self.path));
        name.push(".lock.socketmaster");
        let lock = OwnFile::lock(&self.path.with_file_name(name), 0o600)?;
        let removed = self.remove();
        let cleaned = lock.remove();
        Ok(removed.and(cleaned)?)
    }

    /// Replaces what is in it by this text. Errors: write(2)'s.
    pub fn write(&self, text: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        // Nothing else moves the position: it is at the start.
        (&self.file).write_all(text.as_bytes())
    }

    /// The pid that is written in it; `None` if there is none, or it cannot be read.
    pub fn pid(&self) -> Option<u32> {
        let mut bytes = [0; 32];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?;
        text.trim().parse().ok()
    }

    /// Removes it, if its path still leads to it. Errors: unlink(2)'s.
    pub fn remove(&self) -> Result<(), Errno> {
        match self.is_at_its_path()? {
            true => unlinkat(
                &self.folder,
                name_of(&self.path),
                UnlinkatFlags::NoRemoveDir,
            ),
            false => Ok(()),
        }
    }

    fn is_at_its_path(&self) -> Result<bool, Errno> {
        let ours = fstat(&self.file)?;
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        match fstatat(&self.folder, name_of(&self.path), flags) {
            Ok(there) => Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the file if we have just made it and cannot use it after all. The reason to report
    /// is the first failure.
    fn give_up(&self, errno: Errno) -> FileRefusal {
        self.clean_up();
        errno.into()
    }

    fn clean_up(&self) {
        if self.is_new {
            let name = name_of(&self.path);
            let _ = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The directory of a path.
pub struct OpenFolder {
    pub fd: OwnedFd,
    /// Nobody but root and our own user can lead the path elsewhere, or take a name of ours away.
    pub is_ours: bool,
}

/// Opens the directory of a path (O_PATH, open(2)). A symbolic link on the way that another user
/// made may lead to a directory of that user, and nowhere else: we could be led to write where that
/// user may not.
///
/// Errors: open(2)'s, and "/srv/run leads through a symbolic link of user 1000 to a directory of
/// user 0".
pub fn open_folder(path: &Path) -> Result<OpenFolder, FileRefusal> {
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
    let own = [0, geteuid().as_raw()];
    // In a sticky directory others make names, and leave those of ours alone.
    let is_closed = |found: &FileStat| {
        own.contains(&found.st_uid) && (found.st_mode & 0o022 == 0 || found.st_mode & 0o1000 != 0)
    };
    let mut is_ours = is_closed(&fstat(&folder)?);
    let mut left = steps(parent);
    let mut link_owners = Vec::new();
    while let Some(step) = left.pop() {
        let next = openat(&folder, step.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&next)?;
        match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => {
                is_ours &= is_closed(&found);
                folder = next;
            }
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
    is_ours &= link_owners.iter().all(|uid| own.contains(uid));
    let is_trusted = |uid: &&u32| own.contains(uid) || **uid == owner;
    match link_owners.iter().find(|uid| !is_trusted(uid)) {
        None => Ok(OpenFolder {
            fd: folder,
            is_ours,
        }),
        Some(uid) => Err(foreign(format!(
            "{} leads through a symbolic link of user {uid} to a directory of user {owner}",
            parent.display()
        ))),
    }
}

/// Why a file at this path proves nothing to its readers, if everybody may replace it.
pub fn replaceable_by_everybody(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mode = stat(folder).ok()?.st_mode;
    let open = mode & 0o002 != 0 && mode & 0o1000 == 0;
    open.then(|| format!("{} can be written by everybody", folder.display()))
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

fn foreign(reason: impl Into<String>) -> FileRefusal {
    FileRefusal::Foreign(reason.into())
}

fn check(found: &FileStat) -> Result<(), FileRefusal> {
    let (owner, names) = (found.st_uid, found.st_nlink);
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO => Err(foreign("it is a FIFO")),
        kind if kind != SFlag::S_IFREG => Err(foreign("it is not a regular file")),
        _ if owner != 0 && owner != geteuid().as_raw() => Err(foreign(format!(
            "it belongs to user {owner}, who is neither root nor us"
        ))),
        // With no name at all it has just been removed, which `lock` notices.
        _ if names > 1 => Err(foreign(format!("it has {names} names (hard links)"))),
        _ => Ok(()),
    }
}

/// Our pid file. It is removed with this value.
#[derive(Debug)]
pub struct PidFile {
    file: OwnFile,
    pid: u32,
}

impl PidFile {
    /// Creates the file or takes a stale one over, locks it, and writes `pid` and a newline.
    ///
    /// Errors: "cannot lock pid file PATH: another instance runs (pid 812)".
    pub fn lock(path: &Path, pid: u32) -> Result<PidFile, String> {
        let file = OwnFile::lock(path, 0o644).map_err(|refusal| match refusal {
            FileRefusal::Locked(_) => cannot("lock", path, &refusal.to_string()),
            _ => cannot("open", path, &refusal.to_string()),
        })?;
        PidFile::write(file, pid, &format!("{pid}\n"))
    }

    /// The same without the lock and the newline, as einhorn has it.
    ///
    /// Errors: "cannot open pid file PATH: it is a symbolic link" and the like.
    pub fn unlocked(path: &Path, pid: u32) -> Result<PidFile, String> {
        let file = OwnFile::open(path, 0o644);
        let file = file.map_err(|refusal| cannot("open", path, &refusal.to_string()))?;
        PidFile::write(file, pid, &pid.to_string())
    }

    fn write(file: OwnFile, pid: u32, text: &str) -> Result<PidFile, String> {
        if let Err(error) = file.write(text) {
            // Nobody is to read half a pid. The reason to report is the first failure.
            let _ = file.remove();
            return Err(cannot("write", &file.path, &error_text(&error)));
        }
        Ok(PidFile { file, pid })
    }

    /// Removes the file, if it is still the one that we wrote.
    ///
    /// Errors: "cannot remove pid file PATH: Read-only file system".
    pub fn remove(&self) -> Result<(), String> {
        // Where it cannot be read it is still the file that we wrote.
        if self.file.pid().is_some_and(|pid| pid != self.pid) {
            return Ok(());
        }
        let removed = self.file.remove();
        removed.map_err(|errno| cannot("remove", &self.file.path, &errno_text(errno as i32)))
    }
}

/// For a start that fails after all. A stop has called `remove` before and has reported its failure.
impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

fn cannot(verb: &str, path: &Path, reason: &str) -> String {
    format!("cannot {verb} pid file {}: {reason}", path.display())
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
            FileRefusal::Locked(Some(812))
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

    #[test]
    fn the_file_holds_the_pid_and_is_removed() {
        let folder = Folder::new();
        let path = folder.join("x.pid");
        let file = PidFile::lock(&path, 812).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "812\n");
        file.remove().unwrap();
        assert_eq!(folder.names(), [""; 0]);
    }

    #[test]
    fn a_second_instance_fails_and_harms_nothing() {
        let folder = Folder::new();
        let path = folder.join("x.pid");
        let _first = PidFile::lock(&path, 812).unwrap();
        let error = PidFile::lock(&path, 813).unwrap_err();
        let reason = "another instance runs (pid 812)";
        assert_eq!(error, cannot("lock", &path, reason));
        assert_eq!(fs::read_to_string(&path).unwrap(), "812\n");
    }

    #[test]
    fn a_stale_file_is_taken_over_whatever_it_says() {
        let folder = Folder::new();
        let path = folder.join("x.pid");
        fs::write(&path, "999999 and a long line of something else\n").unwrap();
        let _file = PidFile::lock(&path, 5).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "5\n");
    }

    #[test]
    fn a_file_that_is_another_ones_by_now_stays() {
        let folder = Folder::new();
        let path = folder.join("x.pid");
        let first = PidFile::lock(&path, 812).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = PidFile::lock(&path, 813).unwrap();
        first.remove().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "813\n");
    }

    #[test]
    fn a_missing_directory_is_said() {
        let folder = Folder::new();
        let error = PidFile::lock(&folder.join("no/x"), 5).unwrap_err();
        assert!(
            error.ends_with("no/x: No such file or directory"),
            "{error}"
        );
    }
}
