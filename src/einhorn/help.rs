//! The table of einhorn's options, and the texts that the face prints about itself. Pure.

use super::SPOKEN_VERSION;
use super::options::{self, Switch};

const fn flag(short: char, long: &'static str, help: &'static str) -> Switch {
    Switch {
        short: Some(short),
        long,
        value: None,
        help,
    }
}

const fn valued(
    short: Option<char>,
    long: &'static str,
    value: &'static str,
    help: &'static str,
) -> Switch {
    Switch {
        short,
        long,
        value: Some(value),
        help,
    }
}

/// Every option, in the order of the help.
pub const SWITCHES: &[Switch] = &[
    valued(
        Some('b'),
        "bind",
        "ADDR",
        "A socket for the workers: HOST:PORT, [IPV6]:PORT or unix:PATH, with flags as in :80,r,n",
    ),
    valued(
        Some('c'),
        "command-name",
        "NAME",
        "Names the files: einhorn-NAME.sock, .pid, .lock",
    ),
    valued(
        Some('d'),
        "socket-path",
        "PATH",
        "The control socket (default $TMPDIR/einhorn.sock)",
    ),
    valued(
        Some('e'),
        "pidfile",
        "PATH",
        "The pid file (default $TMPDIR/einhorn.pid)",
    ),
    valued(
        Some('f'),
        "lockfile",
        "PATH",
        "The lock file (default $TMPDIR/einhorn.lock)",
    ),
    flag(
        'g',
        "command-socket-as-fd",
        "Give workers a control connection, EINHORN_SOCK_FD",
    ),
    flag('h', "help", "Print this text"),
    flag(
        'k',
        "kill-children-on-exit",
        "Workers get USR2 if the master dies",
    ),
    valued(
        Some('l'),
        "backlog",
        "N",
        "Length of the sockets' queues (default 100)",
    ),
    valued(
        Some('m'),
        "ack-mode",
        "MODE",
        "manual: workers say when they are up; a number: seconds that they must live (default 1)",
    ),
    valued(Some('n'), "number", "N", "Number of workers (default 1)"),
    valued(
        Some('p'),
        "preload",
        "PATH",
        "Refused: it needs the Ruby einhorn",
    ),
    flag('q', "quiet", "Say less"),
    valued(
        Some('s'),
        "seconds",
        "N",
        "Least time between two starts (default 1)",
    ),
    flag('v', "verbose", "Say more"),
    valued(
        None,
        "max-unacked",
        "N",
        "Workers starting at a time (default: number of processors)",
    ),
    valued(
        None,
        "max-upgrade-additional",
        "N",
        "Extra workers during an upgrade (default: all)",
    ),
    valued(
        None,
        "drop-env-var",
        "VAR",
        "Leave VAR out of the environment at upgrades",
    ),
    valued(
        None,
        "reexec-as",
        "CMDLINE",
        "What to run in place of einhorn at an upgrade",
    ),
    valued(
        None,
        "nice",
        "MASTER[:WORKER][:RENICE_CMD]",
        "How nice the processes are",
    ),
    Switch {
        short: None,
        long: "gc-before-fork",
        value: None,
        help: "Accepted, without effect",
    },
    valued(
        None,
        "with-state-fd",
        "N",
        "[Internal] Take over from the einhorn that ran before",
    ),
    Switch {
        short: None,
        long: "upgrade-check",
        value: None,
        help: "[Internal] Say that we can be run, and exit",
    },
    valued(
        Some('t'),
        "signal-timeout",
        "T",
        "SIGKILL workers T seconds after another signal",
    ),
    Switch {
        short: None,
        long: "version",
        value: None,
        help: "Print the version",
    },
];

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

/// `--upgrade-check`: what a master that thinks of running us writes into its log.
pub fn environment() -> String {
    format!(
        "socketmaster {} as einhorn {SPOKEN_VERSION}, {} {}: cannot take over from a running \
         einhorn; stop it, then start this one\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
