//! Which program a worker will run, and where: the command looked up in PATH, and the directory
//! that our `$PWD` names today. Both are asked anew before every start, so that a deploy which
//! moves a symlink is seen. It starts nothing, and never changes our own working directory:
//! other paths of ours may be relative to that.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, stat};
use nix::unistd::{AccessFlags, faccessat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why the command cannot be run, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveError(pub String);

impl std::fmt::Display for ResolveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ResolveError {}

/// Finds `command` as a shell would: with a slash it is a path, else the first executable file of
/// that name in `path`, the value of PATH (without one, /usr/local/bin, /usr/bin and /bin; an
/// empty element is the working directory). Relative results are relative to `directory`, the
/// workers' (`None`: ours), and stay relative.
pub fn resolve(
    command: &OsStr,
    path: Option<&OsStr>,
    directory: Option<BorrowedFd>,
) -> Result<PathBuf, ResolveError> {
    let directory = directory.unwrap_or(AT_FDCWD);
    if command.is_empty() {
        return Err(ResolveError("cannot run an empty command".to_owned()));
    }
    if command.as_bytes().contains(&b'/') {
        let command = PathBuf::from(command);
        return match check(&command, directory) {
            Ok(()) => Ok(command),
            Err(flaw) => Err(ResolveError(flaw.text(&command))),
        };
    }
    search(
        command,
        path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")),
        directory,
    )
}

/// Searches as execvp(3) does: a file that may not be executed does not end the search, and is
/// named when nothing better is found.
fn search(command: &OsStr, path: &OsStr, directory: BorrowedFd) -> Result<PathBuf, ResolveError> {
    let name = Path::new(command).display();
    let mut forbidden = None;
    for element in path.as_bytes().split(|byte| *byte == b':') {
        let element = if element.is_empty() {
            b".".as_slice()
        } else {
            element
        };
        let candidate = Path::new(OsStr::from_bytes(element)).join(command);
        match check(&candidate, directory) {
            Ok(()) => return Ok(candidate),
            Err(flaw @ Flaw::NotExecutable(_)) if forbidden.is_none() => {
                forbidden = Some(flaw.text(&candidate));
            }
            Err(_) => {}
        }
    }
    let reason = forbidden.map_or(String::new(), |text| format!(": {text}"));
    Err(ResolveError(format!("cannot find {name} in PATH{reason}")))
}

enum Flaw {
    Missing(Errno),
    Directory,
    NotAFile,
    NotExecutable(Errno),
}

impl Flaw {
    fn text(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Flaw::Missing(errno) => format!("cannot find {path}: {}", errno.desc()),
            Flaw::Directory => format!("{path} is a directory"),
            Flaw::NotAFile => format!("{path} is not a regular file"),
            Flaw::NotExecutable(errno) => format!("{path} is not executable: {}", errno.desc()),
        }
    }
}

fn check(path: &Path, directory: BorrowedFd) -> Result<(), Flaw> {
    let found = fstatat(directory, path, AtFlags::empty()).map_err(|errno| match errno {
        Errno::EACCES => Flaw::NotExecutable(errno),
        errno => Flaw::Missing(errno),
    })?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFDIR {
        return Err(Flaw::Directory);
    }
    if kind != SFlag::S_IFREG {
        return Err(Flaw::NotAFile);
    }
    faccessat(directory, path, AccessFlags::X_OK, AtFlags::empty()).map_err(Flaw::NotExecutable)
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
/// what says nothing about the directory, no descriptor being left as a rule; a worker that started
/// elsewhere then would be another release's.
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
        resolve(command.as_ref(), Some(path.as_ref()), None).map_err(|error| error.to_string())
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
