//! Which program a worker runs, and where: the command looked up in PATH, and the directory that
//! our `$PWD` names. Both are looked up again before every start, so that a deploy that moves a
//! symlink is seen. Nothing is started here, and our own working directory never changes, because
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
    let directory = directory.unwrap_or(AT_FDCWD);
    if command.is_empty() {
        return Err("cannot run an empty command".to_owned());
    }
    if command.as_bytes().contains(&b'/') {
        let command = PathBuf::from(command);
        return match check(&command, directory) {
            Ok(()) => Ok(command),
            Err(Flaw::NotExecutable(text) | Flaw::NoProgram(text)) => Err(text),
        };
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes();
    let mut text = format!("cannot find {} in PATH", Path::new(command).display());
    let mut is_explained = false;
    for element in path.split(|byte| *byte == b':') {
        let folder = if element.is_empty() { b"." } else { element };
        let candidate = Path::new(OsStr::from_bytes(folder)).join(command);
        match check(&candidate, directory) {
            Ok(()) => return Ok(candidate),
            Err(Flaw::NotExecutable(reason)) if !is_explained => {
                text += &format!(": {reason}");
                is_explained = true;
            }
            Err(_) => {}
        }
    }
    Err(text)
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
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(Flaw::NoProgram(format!("{name} is a directory"))),
        _ => return Err(Flaw::NoProgram(format!("{name} is not a regular file"))),
    }
    faccessat(directory, path, AccessFlags::X_OK, AtFlags::empty()).map_err(not_executable)
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
/// those that say nothing about the directory, as a rule that no descriptor is left. A worker must
/// not start elsewhere because of them, where another release may lie.
pub fn open_directory(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(path, flags, Mode::empty()).and_then(|directory| {
        // Entering needs the right to search it, which O_PATH does not ask for.
        faccessat(&directory, ".", AccessFlags::X_OK, AtFlags::empty())?;
        Ok(directory)
    });
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether `directory` is another than our own working directory.
pub fn is_elsewhere(directory: BorrowedFd) -> bool {
    match (fstat(directory), stat(".")) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) != (own.st_dev, own.st_ino),
        _ => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory of this test's own, removed when it ends.
    pub(crate) struct Scratch(pub PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("socketmaster-unit-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        /// Written by another process: while a descriptor for writing were ours, any child forked
        /// by a test beside this one would hold a copy, and running the file fail with ETXTBSY.
        pub(crate) fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            let written = std::process::Command::new("/bin/sh")
                .args(["-c", r#"printf %s "$1" > "$2""#, "sh", text])
                .arg(&path)
                .status();
            assert!(written.unwrap().success());
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn find(command: &str, path: &str) -> Result<PathBuf, String> {
        resolve(command.as_ref(), Some(path.as_ref()), None)
    }

    #[test]
    fn a_name_without_a_slash_is_searched_in_path() {
        let scratch = Scratch::new();
        let program = scratch.file("serve", "", 0o755);
        let path = format!("/nonexistent:{}:/bin", scratch.0.display());
        assert_eq!(find("serve", &path), Ok(program));
        assert_eq!(find("sh", "/bin"), Ok(PathBuf::from("/bin/sh")));
        assert!(resolve("sh".as_ref(), None, None).is_ok());
    }

    #[test]
    fn a_command_that_is_nowhere_in_path_is_named() {
        assert_eq!(
            find("no-such", "/bin:/usr/bin"),
            Err("cannot find no-such in PATH".into())
        );
        assert_eq!(find("", "/bin"), Err("cannot run an empty command".into()));
    }

    #[test]
    fn the_search_goes_on_past_a_file_that_is_not_executable() {
        let (first, second) = (Scratch::new(), Scratch::new());
        let dull = first.file("serve", "", 0o644);
        let both = format!("{}:{}", first.0.display(), second.0.display());
        let text = format!(
            "cannot find serve in PATH: {} is not executable: Permission denied",
            dull.display()
        );
        assert_eq!(find("serve", &both), Err(text));
        let program = second.file("serve", "", 0o755);
        assert_eq!(find("serve", &both), Ok(program));
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_checked() {
        let scratch = Scratch::new();
        let at = scratch.0.display();
        let dull = scratch.file("dull", "", 0o644).display().to_string();
        let denied = format!("{dull} is not executable: Permission denied");
        assert_eq!(find(&dull, "/bin"), Err(denied));
        assert_eq!(
            find(&at.to_string(), "/bin"),
            Err(format!("{at} is a directory"))
        );
        let missing = format!("cannot find {at}/no: No such file or directory");
        assert_eq!(find(&format!("{at}/no"), "/bin"), Err(missing));
        assert_eq!(
            find("/dev/null", ""),
            Err("/dev/null is not a regular file".into())
        );
    }

    #[test]
    fn relative_results_belong_to_the_workers_directory() {
        let scratch = Scratch::new();
        scratch.file("serve", "", 0o755);
        let directory = open_directory(&scratch.0).unwrap().unwrap();
        let find = |command: &str, path: &str| {
            resolve(
                command.as_ref(),
                Some(path.as_ref()),
                Some(directory.as_fd()),
            )
        };
        assert_eq!(find("./serve", "/bin"), Ok(PathBuf::from("./serve")));
        assert_eq!(find("serve", "/bin:"), Ok(PathBuf::from("./serve")));
        assert_eq!(find("serve", ""), Ok(PathBuf::from("./serve")));
    }

    #[test]
    fn a_flipped_symlink_is_followed_at_the_next_start() {
        let scratch = Scratch::new();
        let current = scratch.0.join("current");
        for release in ["one", "two"] {
            std::fs::create_dir(scratch.0.join(release)).unwrap();
            let _ = std::fs::remove_file(&current);
            symlink(release, &current).unwrap();
            let program = scratch.file(&format!("{release}/{release}"), "", 0o755);
            let directory = open_directory(&current).unwrap().unwrap();
            let name = PathBuf::from("./").join(program.file_name().unwrap());
            assert_eq!(
                resolve(name.as_os_str(), None, Some(directory.as_fd())),
                Ok(name)
            );
        }
        std::fs::remove_file(&current).unwrap();
        assert!(open_directory(&current).unwrap().is_none());
    }

    #[test]
    fn pwd_counts_only_while_it_names_our_directory() {
        let scratch = Scratch::new();
        let own = std::env::current_dir().unwrap();
        let alias = scratch.0.join("alias");
        symlink(&own, &alias).unwrap();
        assert_eq!(logical_directory(Some(alias.clone().into())), Some(alias));
        assert_eq!(logical_directory(Some(scratch.0.clone().into())), None);
        assert_eq!(logical_directory(Some(".".into())), None);
        assert_eq!(logical_directory(None), None);
    }
}
