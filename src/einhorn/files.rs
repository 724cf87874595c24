//! The files that an einhorn keeps beside its socket: where they are by default, the lock, and
//! the pid file. It must never remove what another master wrote.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io;
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

/// Holds the lock file's flock(2) until it is dropped. Take it before the socket is opened, drop it
/// when the socket listens; the file stays, empty, mode 0600.
///
/// # Errors
/// One line: another einhorn is about to start, or the file cannot be opened.
pub fn take_lock(path: &Path) -> Result<Flock<File>, String> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
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

/// Writes the pid in decimal, without a newline, over whatever was there. Call it when the control
/// socket is ours, so that a second master cannot spoil the first one's file.
pub fn write_pidfile(path: &Path, pid: u32) -> io::Result<()> {
    fs::write(path, pid.to_string())
}

/// Removes the pid file if it still names `pid`: a losing second einhorn leaves the first one's.
pub fn remove_pidfile(path: &Path, pid: u32) -> io::Result<()> {
    match fs::read(path) {
        Ok(text) if text == pid.to_string().as_bytes() => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
