//! A worker that knows only einhorn: its parent is EINHORN_MASTER_PID, its sockets are
//! EINHORN_FD_n, it says `worker:ack` on EINHORN_SOCK_PATH or EINHORN_SOCK_FD, and on SIGUSR2 it
//! stops accepting, finishes and leaves. It must never look at any other variable.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{env, process, thread};

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|_| io::Error::other(format!("no {name}")))
}

fn number(name: &str) -> io::Result<i32> {
    let text = variable(name)?;
    text.parse()
        .map_err(|_| io::Error::other(format!("{name} is {text:?}")))
}

/// To stderr, with the pid before it: nobody else does that for us. In one write, since others
/// write there too.
fn say(text: &str) {
    let line = format!("worker [{}] {text}\n", process::id());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// `einhorn [HOW [FILE]]`: acks `at-once`, `when` FILE exists, over the `fd`, `never`, `for`
/// another pid, or `fail`s; then serves.
pub fn work(words: &[String]) -> io::Result<u8> {
    let master = number("EINHORN_MASTER_PID")?;
    if nix::unistd::getppid().as_raw() != master {
        return Err(io::Error::other("EINHORN_MASTER_PID is not our parent"));
    }
    let signals = [trap(libc::SIGUSR2)?, trap(libc::SIGTERM)?];
    say(&format!("up, index {}", variable("EINHORN_CHILD_INDEX")?));
    let sockets = (0..number("EINHORN_FD_COUNT")?).map(socket);
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    let argument = words.get(1).map(String::as_str).unwrap_or_default();
    match words.first().map_or("at-once", String::as_str) {
        "at-once" => ack(process::id())?,
        "when" => {
            let file = argument.to_owned();
            thread::spawn(move || {
                super::exists(Path::new(&file));
                ack(process::id())
            });
        }
        "fd" => ack_over_fd()?,
        "for" => ack(argument.parse().unwrap_or(0))?,
        "fail" => return Ok(7),
        "drop-user" => drop_user()?,
        _ => {}
    }
    let signal = serve(&sockets, &signals)?;
    say(&format!("asked by signal {signal}"));
    Ok(0)
}

/// Becomes readable with the signal.
fn trap(signal: i32) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal, theirs)?;
    Ok((signal, ours))
}

fn socket(index: i32) -> io::Result<TcpListener> {
    // SAFETY: the master says that this number is a listening socket for us.
    let socket = unsafe { TcpListener::from_raw_fd(number(&format!("EINHORN_FD_{index}"))?) };
    // Another worker may be faster to a client.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn message(pid: u32) -> String {
    format!("{{\"command\":\"worker:ack\",\"pid\":{pid}}}\n")
}

fn ack(pid: u32) -> io::Result<()> {
    let mut control = UnixStream::connect(variable("EINHORN_SOCK_PATH")?)?;
    control.write_all(message(pid).as_bytes())
}

fn ack_over_fd() -> io::Result<()> {
    // SAFETY: the master says that this number is a connection for us, and nobody else has it.
    let mut control = unsafe { UnixStream::from_raw_fd(number("EINHORN_SOCK_FD")?) };
    control.write_all(message(process::id()).as_bytes())?;
    std::mem::forget(control);
    Ok(())
}

/// Root no more, and then the connection that it was started with.
fn drop_user() -> io::Result<()> {
    nix::unistd::setgid(nix::unistd::Gid::from_raw(65534))?;
    nix::unistd::setuid(nix::unistd::Uid::from_raw(65534))?;
    ack_over_fd()
}

/// Answers every request with our pid and what the file VERSION says, until a signal comes.
fn serve(sockets: &[TcpListener], signals: &[(i32, UnixStream)]) -> io::Result<i32> {
    let version = fs::read_to_string("VERSION").unwrap_or_default();
    let body = format!("pid {} version {}\n", process::id(), version.trim());
    let all = || signals.iter().map(|(_, pipe)| pipe.as_fd());
    let all: Vec<BorrowedFd> = all().chain(sockets.iter().map(AsFd::as_fd)).collect();
    loop {
        let waits = all.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd> = waits.collect();
        let _ = poll(&mut fds, PollTimeout::NONE);
        let is_ready = |n: usize| fds[n].any() == Some(true);
        if let Some(n) = (0..signals.len()).find(|n| is_ready(*n)) {
            return Ok(signals[n].0);
        }
        for (n, socket) in sockets.iter().enumerate() {
            if is_ready(signals.len() + n) {
                let _ = socket
                    .accept()
                    .and_then(|(client, _)| answer(client, &body));
            }
        }
    }
}

fn answer(mut client: TcpStream, body: &str) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut chunk)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&chunk[..n]),
        }
    }
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len())
}
