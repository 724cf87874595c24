//! Where the files that an einhorn keeps beside its socket are by default.

use std::path::{Path, PathBuf};

/// Where the files are when nobody says so: `einhorn.sock`, or `einhorn-NAME.sock` with `-c NAME`.
pub fn default_path(directory: &Path, name: Option<&str>, ending: &str) -> PathBuf {
    let name = name.map_or(String::new(), |name| format!("-{name}"));
    directory.join(format!("einhorn{name}.{ending}"))
}

/// `$TMPDIR` if that is a directory, else `/tmp`.
pub fn default_directory() -> PathBuf {
    let given = std::env::var_os("TMPDIR").map(PathBuf::from);
    let given = given.filter(|path| path.is_dir());
    given.unwrap_or_else(|| "/tmp".into())
}
