//! Look-ups below directories of the tests' own.

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
