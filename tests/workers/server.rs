//! A small HTTP server to try socketmaster with: it serves on the sockets that it was started
//! with, answers every request with its pid and a version text, and on SIGTERM stops accepting,
//! finishes what it has begun and leaves with status 0. It must never bind a socket of its own.
//!
//! `GET /slow/MILLIS` answers that much later, to have a request in flight. The version is the
//! argument of `-version`, or what the file `VERSION` in the working directory says.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, accept4, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a client may take to send its request, in seconds.
const PATIENCE: i64 = 10;

fn main() -> ExitCode {
    match serve(&version(env::args().skip(1))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The text to answer with: `-version TEXT`, else the file VERSION, else "1".
pub fn version(mut words: impl Iterator<Item = String>) -> String {
    while let Some(word) = words.next() {
        if word == "-version" {
            return words.next().unwrap_or_default();
        }
    }
    fs::read_to_string("VERSION").map_or_else(|_| "1".to_owned(), |text| text.trim().to_owned())
}

/// Serves until SIGTERM on the sockets that the environment names.
pub fn serve(version: &str) -> io::Result<()> {
    serve_on(version, inherited()?)
}

/// Serves until SIGTERM and returns when the last answer is out.
pub fn serve_on(version: &str, listeners: Vec<OwnedFd>) -> io::Result<()> {
    let (stop, wake) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(libc::SIGTERM, wake)?;
    listeners.iter().try_for_each(share)?;
    println!("up, version {version}");

    let version: Arc<str> = version.into();
    let mut answering: Vec<JoinHandle<()>> = Vec::new();
    while !readable(&stop, &listeners)? {
        answering.retain(|thread| !thread.is_finished());
        for connection in listeners.iter().filter_map(accept) {
            let version = version.clone();
            answering.push(thread::spawn(move || {
                // A client that went away is no concern of the others.
                let _ = answer(connection, &version);
            }));
        }
    }

    println!("draining {}", answering.len());
    drop(listeners);
    for thread in answering {
        let _ = thread.join();
    }
    Ok(())
}

/// The sockets named by EINHORN_FDS ("3 4 5") or counted by LISTEN_FDS (3 and up).
fn inherited() -> io::Result<Vec<OwnedFd>> {
    let numbers: Vec<RawFd> = match (env::var("EINHORN_FDS"), env::var("LISTEN_FDS")) {
        (Ok(list), _) => list
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect(),
        (_, Ok(count)) => (3..3 + count.parse().unwrap_or(0)).collect(),
        _ => Vec::new(),
    };
    if numbers.is_empty() {
        return Err(io::Error::other(
            "no socket was inherited; start me with socketmaster",
        ));
    }
    Ok(numbers.into_iter().map(adopt).collect())
}

fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the environment says that this number is a socket meant for us, and nothing else
    // in this program owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Workers share the socket, so another may be faster to a connection: accept must not block.
fn share(listener: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(listener, FcntlArg::F_GETFL)?);
    fcntl(listener, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Waits for a connection or for SIGTERM; says whether it was SIGTERM.
fn readable(stop: &UnixStream, listeners: &[OwnedFd]) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    fds.extend(
        listeners
            .iter()
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
    );
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[0].any() == Some(true)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn accept(listener: &OwnedFd) -> Option<File> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
    // SAFETY: accept4 has just made this descriptor, and nobody else knows it.
    Some(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Reads one request, answers it, and closes the connection.
fn answer(mut connection: File, version: &str) -> io::Result<()> {
    setsockopt(
        &connection,
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(PATIENCE),
    )?;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match connection.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => request.extend_from_slice(&chunk[..n]),
            // With a time limit a read is not begun again by itself after SIGTERM (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if request.len() > 64 * 1024 {
            return Ok(());
        }
    }
    thread::sleep(delay(&request));
    let body = format!("pid {} version {version}\n", process::id());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    write!(
        connection,
        "{head}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What `GET /slow/MILLIS` asks for.
fn delay(request: &[u8]) -> Duration {
    let line = String::from_utf8_lossy(request);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let millis = path
        .strip_prefix("/slow/")
        .and_then(|millis| millis.parse().ok());
    Duration::from_millis(millis.unwrap_or(0))
}
