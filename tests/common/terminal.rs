//! A pseudoterminal whose ends no other test's program inherits (openpty(3) cannot promise that).

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The terminal: dropping the master closes it, for whoever is on it.
pub struct Terminal {
    pub master: PtyMaster,
    pub path: PathBuf,
}

impl Terminal {
    pub fn new() -> Terminal {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a pseudoterminal is free");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let path = ptsname_r(&master).expect("it has a name").into();
        Terminal { master, path }
    }

    /// A descriptor for the side of the programs on it.
    pub fn open(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        options.open(&self.path).expect("its name can be opened")
    }
}
