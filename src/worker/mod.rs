//! A worker: how it becomes a process, what it finds there, and what we hear of it. Which worker
//! is started, when and why, is decided by the core; nothing here keeps a list of workers.

pub mod command;
pub mod env;
pub mod output;
pub mod spawn;
pub mod user;

use crate::supervisor::End;
use crate::sys::process::Exit;

/// How a worker's process ended, in the core's terms.
pub fn end(exit: Exit) -> End {
    match exit {
        Exit::Status(status) => End::Exited(status),
        Exit::Signal {
            signal,
            core_dumped,
        } => End::Signaled {
            signal,
            core_dumped,
        },
    }
}
