//! `attacker WHAT …`: what a process of the workers' user may try against us, in a loop until it
//! is killed. Run as that user. It must never touch anything but what it is given.

use nix::sys::socket::{Shutdown, shutdown};
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
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
        other => panic!("no attack is called {other:?}"),
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
