//! The pid file: our pid for people and scripts, and with socketmaster's own command line a lock
//! that keeps a second instance out. It must never remove what another process wrote.

use crate::files::{OwnFile, Refusal};
use crate::text::errno_text;
use std::path::Path;

/// Our pid file.
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
            Refusal::Locked(_) => cannot("lock", path, &refusal.to_string()),
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
        match file.write(text) {
            Ok(()) => Ok(PidFile { file, pid }),
            Err(errno) => {
                // What it says is no pid: nobody is to read it. The write's failure is what counts.
                let _ = file.remove();
                Err(cannot("write", file.path(), &errno_text(errno as i32)))
            }
        }
    }

    /// Removes the file if it is still the one that we wrote.
    ///
    /// Errors: "cannot remove pid file PATH: Read-only file system".
    pub fn remove(&self) -> Result<(), String> {
        let removed = match self.file.pid() {
            Ok(pid) if pid != Some(self.pid) => Ok(()),
            // Whatever it says: it is still the file that we locked or wrote.
            _ => self.file.remove(),
        };
        removed.map_err(|errno| cannot("remove", self.file.path(), &errno_text(errno as i32)))
    }
}

/// For a start that fails after all; at a stop `remove` was called and had its say.
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
