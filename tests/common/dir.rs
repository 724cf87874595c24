//! A directory of a test's own, removed with its owner. It must never be anywhere that an
//! ordinary user cannot enter: workers run as other users too.

use nix::sys::stat::Mode;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The directory; gone, with all that is in it, when this is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("sm-test-{}-{n}", process::id()));
            // Left behind by a process of the same number that was killed: take the next name.
            if nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o755)).is_ok() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
                return TempDir(path.canonicalize().expect("it exists"));
            }
            assert!(n < 100_000, "cannot make {}", path.display());
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of a name below it, as a word of a command line.
    pub fn word(&self, name: &str) -> String {
        self.join(name)
            .to_str()
            .expect("temporary paths are UTF-8")
            .to_owned()
    }

    /// Writes a file that nobody executes, in one step for who reads it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let (path, draft) = (self.join(name), self.join(&format!("{name}.draft")));
        fs::write(&draft, text).expect("the directory is ours");
        fs::rename(&draft, &path).expect("the directory is ours");
        path
    }

    /// Points the symlink at the target, in one step, as a deploy does it.
    pub fn link(&self, name: &str, target: impl AsRef<Path>) {
        let draft = self.join(&format!("{name}.draft"));
        symlink(target, &draft).expect("the directory is ours");
        fs::rename(&draft, self.join(name)).expect("the directory is ours");
    }

    /// Copies a program into it, where every user can run it. `cp` does it: a descriptor open for
    /// writing here could leak into a fork of another test and make its exec fail with ETXTBSY.
    pub fn copy_program(&self, program: &Path, name: &str) -> String {
        let copied = || {
            Command::new("cp")
                .arg(program)
                .arg(self.join(name))
                .status()
        };
        if !self.join(name).exists() {
            assert!(
                copied().is_ok_and(|status| status.success()),
                "cannot copy {program:?}"
            );
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(self.join(name), mode).expect("the copy is ours");
        }
        self.word(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it exists");
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
