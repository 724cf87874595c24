//! The control socket: how clients ask for a reload, a stop or the status, and how einhorn's clients
//! and workers speak to us. `Server` is its owner. What a request asks for is done by others.

pub mod client;
mod commands;
mod connection;
mod connections;
mod peer;
pub mod protocol;
mod server;
pub mod status;
pub mod verdict;
mod waiters;

pub use connections::MAX_CLIENTS;
pub use server::{Order, Server, View};

use crate::worker::user::User;
use nix::unistd::geteuid;

/// What a client may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// It is turned away.
    Nothing,
    /// `worker:ack` and `worker:ping`.
    Reports,
    /// And what changes nothing.
    Questions,
    Everything,
}

/// Who may connect, and what they may say then. Root and our own user may say everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Of the socket's file; `None`: 0777 less the umask, as einhorn's.
    pub mode: Option<u32>,
    /// The group of the file.
    pub group: Option<u32>,
    /// The workers' user, where that is another.
    pub worker: Option<u32>,
    /// What everybody else may say whom the file's mode lets in.
    pub others: Rights,
}

impl Access {
    /// Ours: 0600; with `-user` 0660 with the workers' group, for the workers' reports.
    pub fn of(user: Option<&User>) -> Access {
        let others = user.filter(|user| user.uid != geteuid());
        Access {
            mode: Some(if others.is_some() { 0o660 } else { 0o600 }),
            group: others.map(|user| user.gid.as_raw()),
            worker: others.map(|user| user.uid.as_raw()),
            others: Rights::Nothing,
        }
    }

    /// einhorn's: whom the file's mode lets in may ask, and a worker that changed its user report.
    #[cfg(feature = "einhorn")]
    pub fn of_einhorn() -> Access {
        Access {
            mode: None,
            group: None,
            worker: None,
            others: Rights::Questions,
        }
    }

    /// What a process of this user may say.
    pub fn rights(&self, uid: u32) -> Rights {
        if uid == 0 || uid == geteuid().as_raw() {
            Rights::Everything
        } else if self.worker == Some(uid) {
            self.others.max(Rights::Reports)
        } else {
            self.others
        }
    }
}
