//! A worker that knows only einhorn: its parent is EINHORN_MASTER_PID, its sockets are
//! EINHORN_FD_n, it says `worker:ack` on EINHORN_SOCK_PATH or EINHORN_SOCK_FD, and on SIGUSR2 it
//! stops accepting, finishes and leaves. It must never look at any other variable.

use signal_hook::iterator::Signals;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, RawFd};
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

/// To stderr, with the pid before it: nobody else does that for us.
fn say(text: &str) {
    eprintln!("worker [{}] {text}", process::id());
}

/// `einhorn [HOW [FILE]]`: acks `at-once`, `when` FILE exists, over the `fd`, `never`, `for`
/// another pid, or `fail`s; then serves.
pub fn work(words: &[String]) -> io::Result<u8> {
    let master = number("EINHORN_MASTER_PID")?;
    if nix::unistd::getppid().as_raw() != master {
        return Err(io::Error::other("EINHORN_MASTER_PID is not our parent"));
    }
    let mut signals = Signals::new([libc::SIGUSR2, libc::SIGTERM])?;
    say(&format!("up, index {}", variable("EINHORN_CHILD_INDEX")?));
    for index in 0..number("EINHORN_FD_COUNT")? {
        serve(number(&format!("EINHORN_FD_{index}"))?);
    }
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
    if let Some(signal) = signals.forever().next() {
        say(&format!("asked by signal {signal}"));
    }
    Ok(0)
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

/// Answers every request with our pid and what the file VERSION says.
fn serve(fd: RawFd) {
    // SAFETY: the master says that this number is a listening socket for us.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let version = fs::read_to_string("VERSION").unwrap_or_default();
    let body = format!("pid {} version {}\n", process::id(), version.trim());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let _ = answer(client, &body);
        }
    });
}

fn answer(mut client: std::net::TcpStream, body: &str) -> io::Result<()> {
    use std::io::Read;
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
