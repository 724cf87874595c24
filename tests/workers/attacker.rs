//! `attacker WHAT …`: what a process of the workers' user may try against us, in a loop until it
//! is killed. Run as that user. It must never touch anything but what it is given.

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket,
};
use nix::unistd::{Pid, setpgid};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

/// No attack lasts longer than this, in seconds.
const LIFE: u32 = 300;

fn main() {
    nix::unistd::alarm::set(LIFE);
    let words: Vec<String> = env::args().skip(1).collect();
    let path = |n: usize| PathBuf::from(words.get(n).map_or("", String::as_str));
    match words.first().map_or("", String::as_str) {
        "swap" => loop {
            swap(&path(1), &path(2));
        },
        "rename" => loop {
            rename(&path(1));
        },
        "shutdown" => {
            println!("up");
            loop {
                // Refused while it is shut down already.
                let _ = shutdown(3, Shutdown::Both);
            }
        }
        "ready" => speak("READY=1"),
        "flood" => speak("STATUS=flood"),
        "ready-once" => say_to_all(&UnixDatagram::unbound().expect("a socket"), "READY=1"),
        "ready-and-go" => speak_and_go(),
        "join" => join_and_speak(words.get(1..3).unwrap_or_default()),
        "idle" => std::thread::park(),
        "hold" => hold(&path(1)),
        "spin" => spin(&path(1)),
        "stuff" => stuff(&path(1)),
        other => panic!("no attack is called {other:?}"),
    }
}

/// Runs it in so many processes, which end with us, as we do with our parent.
fn in_processes(number: u32, attack: impl Fn()) {
    let program = env::current_exe().expect("/proc is there");
    if env::var_os("ATTACKER_CHILD").is_none() {
        let start = |_| {
            process::Command::new(&program)
                .args(env::args_os().skip(1))
                .env("ATTACKER_CHILD", "1")
                .spawn()
        };
        let mut children: Vec<_> = (0..number).filter_map(|n| start(n).ok()).collect();
        let parent = std::os::unix::process::parent_id();
        let lives = |child: &mut process::Child| matches!(child.try_wait(), Ok(None));
        while std::os::unix::process::parent_id() == parent && children.iter_mut().any(lives) {
            std::thread::sleep(Duration::from_millis(20));
        }
        return;
    }
    let parent = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == parent {
        attack();
        // Forty a millisecond are more than anybody accepts, and the test needs a processor too.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Holds as many connections as it gets, and connects again when they are closed.
fn hold(path: &Path) {
    let held: RefCell<VecDeque<UnixStream>> = RefCell::default();
    in_processes(40, || {
        let mut held = held.borrow_mut();
        match UnixStream::connect(path) {
            Ok(stream) => held.push_back(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_it_is_over) => process::exit(0),
        }
        if held.len() > 50 {
            held.pop_front();
        }
    });
}

/// Connects as fast as it can, and never waits for a place.
fn spin(path: &Path) {
    let address = UnixAddr::new(path).expect("the path is short");
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    in_processes(20, || {
        for _ in 0..10_000 {
            let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None);
            let _ = stream.map(|stream| connect(stream.as_raw_fd(), &address));
        }
    });
}

/// On as many connections as there are places: asks for long answers and reads none.
fn stuff(path: &Path) {
    let stuffed: RefCell<Vec<UnixStream>> = RefCell::default();
    let questions = "{\"command\":\"status\",\"args\":[\"json\"]}\n".repeat(1000);
    in_processes(4, || {
        let mut stuffed = stuffed.borrow_mut();
        while stuffed.len() < 16 {
            match UnixStream::connect(path) {
                Ok(stream) => stuffed.push(stream),
                Err(_it_is_over) => process::exit(0),
            }
        }
        stuffed.retain_mut(|stream| {
            let _ = stream.set_nonblocking(true);
            match stream.write(questions.as_bytes()) {
                Ok(taken) => taken > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
    });
}

/// What there is to say, once, to every notify socket that /proc/net/unix shows.
fn say_to_all(socket: &UnixDatagram, text: &str) {
    let shown = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names = shown
        .lines()
        .filter_map(|line| line.split_once(" @socketmaster-"));
    for (_, name) in names {
        let name = format!("socketmaster-{name}");
        if let Ok(address) = SocketAddr::from_abstract_name(name) {
            let _ = socket
                .connect_addr(&address)
                .and_then(|()| socket.send(text.as_bytes()));
        }
    }
}

fn speak(text: &str) {
    let socket = UnixDatagram::unbound().expect("a socket");
    loop {
        say_to_all(&socket, text);
    }
}

/// Says it by processes that are gone, and collected, as soon as they have said it.
fn speak_and_go() {
    let program = env::current_exe().expect("/proc is there");
    loop {
        let _ = process::Command::new(&program).arg("ready-once").status();
    }
}

/// A worker's child that tries to join the process group of each other worker before it speaks, or
/// its orphan, which is told who the daemon and the worker are.
fn join_and_speak(known: &[String]) {
    let parent_of = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let known: Vec<i32> = known.iter().filter_map(|word| word.parse().ok()).collect();
    let (daemon, worker) = match known[..] {
        [daemon, worker] => (Some(daemon), worker),
        _ => {
            let worker = std::os::unix::process::parent_id() as i32;
            (parent_of(worker), worker)
        }
    };
    let socket = UnixDatagram::unbound().expect("a socket");
    while daemon.and_then(parent_of).is_some() {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().parse().ok();
            let other = pid.filter(|pid| *pid != worker && parent_of(*pid) == daemon);
            let Some(other) = other.map(Pid::from_raw) else {
                continue;
            };
            match setpgid(Pid::this(), other) {
                Ok(()) => println!("joined"),
                Err(errno) => println!("cannot join: {errno}"),
            }
            say_to_all(&socket, "READY=1");
        }
    }
}

/// Takes the socket and its hidden link away and puts a symbolic link to the victim there, then a
/// hard link, then nothing, so that a new socket is bound again and again.
fn swap(path: &Path, victim: &Path) {
    for name in fs::read_dir(path.parent().unwrap_or(path))
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = fs::remove_file(name.path());
    }
    let _ = symlink(victim, path);
    let _ = fs::remove_file(path);
    let _ = fs::hard_link(victim, path);
    let _ = fs::remove_file(path);
}

/// Renames the socket away and back.
fn rename(path: &Path) {
    let away = path.with_extension("away");
    let _ = fs::rename(path, &away);
    let _ = fs::remove_file(&away);
}
