//! `-pidfile`: a file that names our pid and is locked (flock(2)) while we live, so that a second
//! instance fails and a file left behind by a crash does not matter. A file that another instance
//! holds is never written to or removed.

use crate::sys::io::write_all;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::unistd::{ftruncate, read};
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Each round is lost only to another instance that came or went in the same instant.
const ROUNDS: u32 = 100;

/// Why the pid file cannot be had: verb, object, the system's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

fn cannot(verb: &str, path: &Path, word: &str) -> Error {
    Error(format!("cannot {verb} pid file {}: {word}", path.display()))
}

/// Our pid file. Dropping it removes the file, if it is still ours, and lets the lock go.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

impl PidFile {
    /// Creates the file or takes a stale one over, locks it, and writes `pid` and a newline.
    ///
    /// Errors: "cannot lock pid file PATH: another instance runs (pid 812)".
    pub fn take(path: &Path, pid: u32) -> Result<PidFile, Error> {
        for _ in 0..ROUNDS {
            let file = open(path).map_err(|error| cannot("open", path, &word(&error)))?;
            let file = lock(path, file)?;
            // Its owner may have removed it after we opened it: then we hold a file without a name.
            if is_same(&file, fs::metadata(path)) {
                return write(path, file, pid);
            }
        }
        Err(cannot("lock", path, "others keep replacing it"))
    }

    /// Our own pid file again, after an exec: `fd` is what `as_fd` lent before it, the lock with it.
    ///
    /// Errors: as `take`, when the lock was not ours after all.
    pub fn resume(path: &Path, fd: OwnedFd) -> Result<PidFile, Error> {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| cannot("lock", path, errno.desc()))?;
        let file = lock(path, File::from(fd))?;
        Ok(PidFile {
            path: path.to_owned(),
            file,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The lock goes after this, with the field: nobody can take the file over in between.
        // A symbolic link is somebody's arrangement, and stays.
        if is_same(&self.file, fs::symlink_metadata(&self.path)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644);
    // Not to wait in a FIFO that stands there by mistake, not to become a terminal's process.
    let file = options
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Errno::EEXIST.into()),
    }
}

fn lock(path: &Path, file: File) -> Result<Flock<File>, Error> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| match errno {
        Errno::EWOULDBLOCK => cannot("lock", path, &holder(&file)),
        errno => cannot("lock", path, errno.desc()),
    })
}

/// Who holds it, if the file says so already.
fn holder(file: &File) -> String {
    let mut bytes = [0; 32];
    let length = read(file, &mut bytes).unwrap_or(0);
    let text = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("another instance runs (pid {pid})"),
        Err(_) => "another instance runs".to_owned(),
    }
}

/// Whether what a path leads to is this very file.
fn is_same(file: &File, there: io::Result<Metadata>) -> bool {
    match (file.metadata(), there) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn write(path: &Path, file: Flock<File>, pid: u32) -> Result<PidFile, Error> {
    let text = format!("{pid}\n");
    let written = ftruncate(&*file, 0).and_then(|()| write_all(file.as_fd(), text.as_bytes()));
    match written {
        Ok(()) => Ok(PidFile {
            path: path.to_owned(),
            file,
        }),
        Err(errno) => {
            let _ = fs::remove_file(path);
            Err(cannot("write", path, errno.desc()))
        }
    }
}

/// The system's words alone, without std's "(os error 13)".
fn word(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
