//! Which program a worker runs, and where: the command looked up in PATH, and the directory that
//! our `$PWD` names. Both are looked up again before every start, so that a deploy that moves a
//! symlink is seen. Nothing is started here. Our own working directory never changes, because
//! other paths of ours may be relative to it.

use crate::text::errno_text;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, stat};
use nix::unistd::{AccessFlags, faccessat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a command is looked for if there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Finds `command` as a shell would: with a slash it is a path, else the first executable file of
/// that name in `path`, the value of PATH (an empty element is the working directory). As with
/// execvp(3), a file that may not be executed does not end the search. Relative results are
/// relative to `directory`, the workers' (`None`: ours), and stay relative.
///
/// Errors: "cannot find serve in PATH", "/srv/app is a directory".
pub fn resolve(
    command: &OsStr,
    path: Option<&OsStr>,
    directory: Option<BorrowedFd>,
) -> Result<PathBuf, String> {
    if command.is_empty() {
        return Err("cannot run an empty command".to_owned());
    }
    let directory = directory.unwrap_or(AT_FDCWD);
    if command.as_bytes().contains(&b'/') {
        let command = PathBuf::from(command);
        return match check(&command, directory) {
            Ok(()) => Ok(command),
            Err(Flaw::NotExecutable(text) | Flaw::NoProgram(text)) => Err(text),
        };
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes();
    let mut not_executable = String::new();
    for element in path.split(|byte| *byte == b':') {
        let folder = if element.is_empty() { b"." } else { element };
        let candidate = Path::new(OsStr::from_bytes(folder)).join(command);
        match check(&candidate, directory) {
            Ok(()) => return Ok(candidate),
            Err(Flaw::NotExecutable(text)) if not_executable.is_empty() => {
                not_executable = format!(": {text}");
            }
            Err(_) => {}
        }
    }
    let command = Path::new(command).display();
    Err(format!("cannot find {command} in PATH{not_executable}"))
}

/// Why a path cannot be run, in words.
enum Flaw {
    NotExecutable(String),
    NoProgram(String),
}

fn check(path: &Path, directory: BorrowedFd) -> Result<(), Flaw> {
    let name = path.display();
    let not_executable = |errno: Errno| {
        let word = errno_text(errno as i32);
        Flaw::NotExecutable(format!("{name} is not executable: {word}"))
    };
    let found = fstatat(directory, path, AtFlags::empty()).map_err(|errno| match errno {
        Errno::EACCES => not_executable(errno),
        _ => Flaw::NoProgram(format!("cannot find {name}: {}", errno_text(errno as i32))),
    })?;
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => {
            faccessat(directory, path, AccessFlags::X_OK, AtFlags::empty()).map_err(not_executable)
        }
        SFlag::S_IFDIR => Err(Flaw::NoProgram(format!("{name} is a directory"))),
        _ => Err(Flaw::NoProgram(format!("{name} is not a regular file"))),
    }
}

/// `pwd`, the value of `$PWD` at our start, if it named our working directory then: an absolute
/// path to the same inode. Later it may name another, when a symlink in it has been flipped.
pub fn logical_directory(pwd: Option<OsString>) -> Option<PathBuf> {
    let pwd = PathBuf::from(pwd?);
    let (named, own) = (stat(&pwd).ok()?, stat(".").ok()?);
    let same = (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino);
    (pwd.is_absolute() && same).then_some(pwd)
}

/// Opens the directory that `path` names now, for `resolve` and the workers; close-on-exec.
/// `None` when it is gone or closed to us: workers then start in our own working directory. Errors:
/// those that say nothing about the directory, as a rule that no descriptor is left. Because of
/// them a worker must not start in another directory, where another release may lie.
pub fn open_directory(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match enter(path) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Opens the directory that `-chdir` names, wherever that leads now; close-on-exec.
///
/// Errors: open(2)'s, and EACCES when we may not search it.
pub fn enter(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    // To enter a directory needs the right to search it, which O_PATH does not ask for.
    faccessat(&directory, ".", AccessFlags::X_OK, AtFlags::empty())?;
    Ok(directory)
}

/// The name of our own working directory if it was removed (proc(5), `cwd`): it has no name any
/// more, and what is looked up in it is not there.
pub fn removed_directory() -> Option<PathBuf> {
    let is_removed = stat(".").is_ok_and(|found| found.st_nlink == 0);
    let name = is_removed.then(|| std::fs::read_link("/proc/self/cwd"))?;
    let name = name.unwrap_or_else(|_| PathBuf::from("."));
    let bytes = name.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Whether `directory` is another than our own working directory.
pub fn is_elsewhere(directory: BorrowedFd) -> bool {
    match (fstat(directory), stat(".")) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) != (own.st_dev, own.st_ino),
        _ => true,
    }
}

#[cfg(test)]
pub(crate) mod tests;
