//! Where the faces differ in what they do, and not only in what they are told: what a signal asks
//! for, what a worker gets beside its sockets, how we leave. Plain data; the daemon lives by it.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::ffi::OsString;

/// What a signal to us asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Send this to all workers, start none any more, and end with the last of them.
    Stop(i32),
    Reload,
    /// Forward it, and nothing else.
    PassOn,
    /// Forward it and end at once, with status 1.
    Leave,
    SelfUpgrade,
    /// Say so in the log.
    Nothing,
}

/// How nice the processes shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nice {
    /// As setpriority(2) counts; `None`: as we were started.
    pub master: Option<i32>,
    pub worker: Option<i32>,
    /// What is run as `CMD N -p PID`; `None`: setpriority(2).
    pub renice: Option<String>,
}

/// The ways of a face.
#[derive(Debug, Clone)]
pub struct Manners {
    pub wish: fn(i32) -> Wish,
    /// A stop that was asked for is status 0, also before we had been up.
    pub stops_well: bool,
    /// Workers read our stdin also when it is a terminal.
    pub shares_terminal: bool,
    /// Each worker gets a connection to the control socket (EINHORN_SOCK_FD).
    pub control_fd: bool,
    /// Variables that workers of later generations than the first are not given.
    pub dropped: Vec<OsString>,
    pub nice: Nice,
}

impl Default for Manners {
    /// socketmaster's own.
    fn default() -> Manners {
        Manners {
            wish,
            stops_well: false,
            shares_terminal: false,
            control_fd: false,
            dropped: Vec::new(),
            nice: Nice::default(),
        }
    }
}

fn wish(signal: i32) -> Wish {
    match signal {
        SIGTERM | SIGINT => Wish::Stop(signal),
        SIGHUP | SIGUSR2 => Wish::Reload,
        SIGQUIT => Wish::PassOn,
        SIGUSR1 => Wish::SelfUpgrade,
        _ => Wish::Nothing,
    }
}
