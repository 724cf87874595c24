//! Where the files that an einhorn keeps beside its socket are by default, and its lock.

use crate::files::{OwnFile, Refusal};
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

/// Takes the lock: of two that start at the same time, one does. It is held until the sockets are
/// open; the file stays, empty, mode 0600.
///
/// Errors: another einhorn is about to start, or the file is not ours to use.
pub fn lock(path: &Path) -> Result<OwnFile, String> {
    OwnFile::lock(path, 0o600).map_err(|refusal| match refusal {
        Refusal::Locked(_) => format!(
            "File lock already acquired by another Einhorn process: {}. Were two started with the same name?",
            path.display()
        ),
        refusal => format!("cannot open lock file {}: {refusal}", path.display()),
    })
}
