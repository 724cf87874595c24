//! The files that an einhorn keeps beside its socket: where they are by default, the lock, and
//! the pid file. It must never remove what another master wrote.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the files are when nobody says so: `einhorn.sock`, or `einhorn-NAME.sock` with `-c NAME`.
pub fn default_path(directory: &Path, name: Option<&str>, ending: &str) -> PathBuf {
    match name {
        Some(name) => directory.join(format!("einhorn-{name}.{ending}")),
        None => directory.join(format!("einhorn.{ending}")),
    }
}

/// `$TMPDIR` if that is a directory, else `/tmp`.
pub fn default_directory() -> PathBuf {
    std::env::var_os("TMPDIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| "/tmp".into())
}

/// The files that say who we are. Dropped, it removes the pid file if that still names us.
#[derive(Debug)]
pub struct Files {
    pidfile: PathBuf,
    pid: u32,
    /// Held until the sockets are open; the file stays, empty, mode 0600.
    lock: Option<Flock<File>>,
    named: bool,
}

impl Files {
    /// Takes the lock: of two that start at the same time, one does.
    ///
    /// # Errors
    /// One line: another einhorn is about to start, or the file cannot be opened.
    pub fn lock(lockfile: &Path, pidfile: &Path, pid: u32) -> Result<Files, String> {
        Ok(Files {
            pidfile: pidfile.to_owned(),
            pid,
            lock: Some(take_lock(lockfile)?),
            named: false,
        })
    }

    /// Writes the pid in decimal, without a newline, over whatever was there. To be called when the
    /// control socket is ours, so that a second master cannot spoil the first one's file.
    ///
    /// # Errors
    /// One line: it cannot be written.
    pub fn write_pid(&mut self) -> Result<(), String> {
        let path = self.pidfile.display();
        self.named = true;
        fs::write(&self.pidfile, self.pid.to_string())
            .map_err(|error| format!("cannot write pid file {path}: {error}"))
    }

    /// The sockets are open: who starts now finds them in use.
    pub fn unlock(&mut self) {
        self.lock = None;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let ours = |text: &[u8]| text == self.pid.to_string().as_bytes();
        if self.named && fs::read(&self.pidfile).is_ok_and(|text| ours(&text)) {
            let _ = fs::remove_file(&self.pidfile);
        }
    }
}

fn take_lock(path: &Path) -> Result<Flock<File>, String> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file =
        open.map_err(|error| format!("cannot open lock file {}: {error}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EAGAIN => format!(
            "File lock already acquired by another Einhorn process: {}. Were two started with the same name?",
            path.display()
        ),
        errno => format!("cannot lock {}: {}", path.display(), errno.desc()),
    })
}
