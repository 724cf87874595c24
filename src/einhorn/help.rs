//! The texts that the `einhorn` face prints about itself. Pure.

use super::{SPOKEN_VERSION, SWITCHES, options};

/// What a command line without a command is answered with.
pub fn usage() -> String {
    format!(
        "## Usage\n\n    einhorn [options] program [arguments]\n\n\
         socketmaster {} as einhorn {SPOKEN_VERSION}: opens sockets, runs copies of the program\n\
         that share them, and replaces the copies without losing a connection.\n\
         `einhorn -h` says more.\n\n### Options\n\n{}",
        env!("CARGO_PKG_VERSION"),
        options::help(SWITCHES)
    )
}

/// `-h`.
pub fn long() -> String {
    format!("{}{MORE}", usage())
}

const MORE: &str = "
### Sockets

Each -b opens one socket. In the program it is the descriptor EINHORN_FD_0, EINHORN_FD_1, ... in
the order of the -b, and EINHORN_FD_COUNT says how many there are. Flags follow a comma:
n (o_nonblock) opens it with O_NONBLOCK; r (so_reuseaddr) is always on.

### Acks

A new worker counts as up when it has lived for one second, or for SECONDS with -m SECONDS. With
-m manual it says so itself, by the line {\"command\":\"worker:ack\",\"pid\":PID} written to the
socket that EINHORN_SOCK_PATH names.

### Upgrades

`einhornsh -e upgrade` or SIGHUP starts new workers; for each that is up an old one gets SIGUSR2,
which asks it to finish what it does and to exit. `einhornsh -e help` lists all commands.
";

/// `--upgrade-check`: what a master that thinks of running us wants to see, and people in its log.
pub fn environment() -> String {
    format!(
        "socketmaster {} as einhorn {SPOKEN_VERSION}, {} {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
