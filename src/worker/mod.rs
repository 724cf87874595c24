//! A worker: how it becomes a process, what it finds there, and what we hear of it. Which worker
//! is started, when and why, is decided by the core; nothing here keeps a list of workers.

pub mod command;
pub mod env;
pub mod notify;
pub mod output;
pub mod spawn;
pub mod user;

use crate::supervisor::End;
use serde::{Deserialize, Serialize};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What is known of a worker's process. Another image of the program carries on with it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub pid: i32,
    /// Why it did not become the program.
    pub failure: Option<End>,
    /// What it says of itself (STATUS= in sd_notify(3)).
    pub status: Option<String>,
}

/// How a worker's process ended, in the core's terms.
pub fn end(status: ExitStatus) -> End {
    match (status.signal(), status.code()) {
        (Some(signal), _) => End::Signaled {
            signal,
            core_dumped: status.core_dumped(),
        },
        (None, code) => End::Exited(code.unwrap_or(0)),
    }
}
