//! The example server on a socket that the `listenfd` crate found, as most Rust servers take it.
//! It must never bind a socket of its own.

#[allow(dead_code)]
#[path = "server.rs"]
mod server;

use listenfd::ListenFd;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let served = inherited().and_then(|listener| server::serve_on("1", vec![listener]));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("listenfd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first inherited socket, of either kind.
fn inherited() -> io::Result<OwnedFd> {
    let mut inherited = ListenFd::from_env();
    if let Ok(Some(listener)) = inherited.take_tcp_listener(0) {
        return Ok(listener.into());
    }
    match inherited.take_unix_listener(0)? {
        Some(listener) => Ok(listener.into()),
        None => Err(io::Error::other("no socket was inherited")),
    }
}
