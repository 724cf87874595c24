//! `attacker WHAT …`: what a process of the workers' user may try against us, in a loop until it
//! is killed. Run as that user. It must never touch anything but what it is given.

use nix::sys::socket::{Shutdown, shutdown};
use std::env;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

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
        "ready" => speak(),
        other => panic!("no attack is called {other:?}"),
    }
}

/// Says READY=1 to every notify socket that /proc/net/unix shows, again and again, and stays.
fn speak() {
    let socket = UnixDatagram::unbound().expect("a socket");
    loop {
        let shown = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let names = shown
            .lines()
            .filter_map(|line| line.split_once(" @socketmaster-"));
        for (_, name) in names {
            let name = format!("socketmaster-{name}");
            if let Ok(address) = SocketAddr::from_abstract_name(name) {
                let _ = socket
                    .connect_addr(&address)
                    .and_then(|()| socket.send(b"READY=1"));
            }
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
