//! Which system calls the program makes in which phase, and how each can fail: found by recording,
//! never written down by hand. What is spared has its reason here.

use crate::common::strace::Attached;
use crate::trial::{Gate, Phase, Trial};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;

/// Of a call that is made often, so many of the first ones are made to fail one by one.
const FIRST: usize = 10;

/// Calls whose failure proves nothing about us.
const SPARED: &[(&[&str], &str)] = &[
    (
        &["close"],
        "Linux closes the descriptor whatever close(2) returns; strace would leave it open",
    ),
    (
        &["brk", "mmap", "mremap", "munmap", "madvise", "mprotect"],
        "memory: the language aborts, no code of ours is asked",
    ),
    (
        &[
            "getpid",
            "getuid",
            "geteuid",
            "exit_group",
            "rt_sigreturn",
            "restart_syscall",
            "umask",
        ],
        "they cannot fail",
    ),
];

/// How it can fail, where that is not simply EPERM.
const ERRORS: &[(&[&str], &[&str])] = &[
    (&["openat"], &["EMFILE", "EACCES"]),
    (
        &[
            "socket",
            "socketpair",
            "pipe2",
            "epoll_create1",
            "timerfd_create",
        ],
        &["EMFILE"],
    ),
    (&["inotify_init1", "accept4"], &["EMFILE"]),
    (&["inotify_add_watch", "epoll_ctl"], &["ENOSPC"]),
    (&["fcntl"], &["EMFILE"]),
    (&["pidfd_open"], &["EMFILE"]),
    (
        &["statx", "newfstatat", "fstat", "faccessat2", "readlink"],
        &["EACCES"],
    ),
    (&["bind", "listen"], &["EADDRINUSE"]),
    (&["getsockname", "getsockopt", "setsockopt"], &["ENOBUFS"]),
    (&["recvmsg"], &["ENOMEM"]),
    (&["sendmsg", "sendto"], &["ENOBUFS"]),
    (&["connect"], &["ECONNREFUSED"]),
    (
        &["read", "write", "recvfrom", "ftruncate", "getdents64"],
        &["EIO"],
    ),
    (&["epoll_wait", "poll"], &["EINTR", "ENOMEM"]),
    (
        &["timerfd_settime", "ioctl", "tee", "lseek", "rt_sigaction"],
        &["EINVAL"],
    ),
    (&["rt_sigprocmask", "waitid", "wait4"], &["EINVAL"]),
    (&["clone", "fork", "vfork"], &["EAGAIN"]),
    (&["unlink", "linkat", "chmod"], &["EROFS"]),
    (&["flock"], &["ENOLCK"]),
    (&["getcwd"], &["ENOENT"]),
];

/// Which of the calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The nth in the phase, from 1.
    Nth(usize),
    /// All from the phase's beginning on.
    All,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub phase: Phase,
    pub gate: Gate,
    pub call: String,
    pub error: &'static str,
    pub which: Which,
    /// How many such calls the program makes before the phase, while it is loaded.
    pub before: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = match self.which {
            Which::Nth(n) => format!("number {n}"),
            Which::All => "all".to_owned(),
        };
        write!(
            f,
            "{:<13} {:<17} {:<12} {which}",
            self.setting(),
            self.call,
            self.error
        )
    }
}

impl Case {
    /// The phase and the gate.
    pub fn setting(&self) -> String {
        format!("{:?} {:?}", self.phase, self.gate).to_lowercase()
    }

    /// Whether a text has the word for its error, the C library's or nix's.
    pub fn is_named_in(&self, text: &str) -> bool {
        let mut all = (1..134).map(Errno::from_raw);
        let errno = all.find(|errno| format!("{errno:?}") == self.error);
        let errno = errno.expect("it is the name of an errno");
        let word = std::io::Error::from(errno).to_string();
        let word = word.split(" (os error").next().unwrap_or_default();
        text.contains(word) || text.contains(errno.desc())
    }

    /// Why it need not hold yet.
    pub fn known(&self) -> Option<&'static str> {
        let name = self.to_string();
        let named = |words: &str| words.split(' ').all(|word| name.contains(word));
        let known = KNOWN.iter().find(|(words, _)| named(words));
        known.map(|(_, reason)| *reason)
    }

    /// As strace's option says it.
    pub fn injection(&self) -> String {
        let when = match self.which {
            Which::Nth(n) => format!("{}", self.before + n),
            Which::All => format!("{}+", self.before + 1),
        };
        format!("inject={}:error={}:when={when}", self.call, self.error)
    }
}

/// What is not mended yet, by words of a case's name: it may break its promise, or not.
const KNOWN: &[(&str, &str)] = &[(
    "start unlink",
    "the lock beside a unix path stays, an empty file",
)];

fn is_spared(call: &str) -> bool {
    SPARED.iter().any(|(calls, _)| calls.contains(&call))
}

fn errors(call: &str) -> &'static [&'static str] {
    let known = ERRORS.iter().find(|(calls, _)| calls.contains(&call));
    known.map_or(&["EPERM"], |(_, errors)| errors)
}

/// Everything that can fail in a phase; `None` where we may not trace.
pub fn of(phase: Phase, gate: Gate) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    for (call, (before, count)) in record(phase, gate)? {
        if is_spared(&call) {
            continue;
        }
        for error in errors(&call) {
            let nth = (1..=count.min(FIRST)).map(Which::Nth);
            // A call that is always interrupted is to be made for ever.
            let all = (*error != "EINTR").then_some(Which::All);
            for which in nth.chain(all) {
                cases.push(Case {
                    phase,
                    gate,
                    call: call.clone(),
                    error,
                    which,
                    before,
                });
            }
        }
    }
    Some(cases)
}

/// How often which call is made before a phase and in it.
fn record(phase: Phase, gate: Gate) -> Option<BTreeMap<String, (usize, usize)>> {
    let trial = Trial::new(gate);
    let path = trial.dir.word("calls");
    if phase == Phase::Start {
        let daemon = trial
            .run()
            .through(&["strace", "-D", "-I2", "-o", &path])
            .start();
        daemon.wait_until_live();
        return Some(count(
            &fs::read_to_string(&path).expect("strace has written it"),
        ));
    }
    let daemon = trial.live();
    let attached = Attached::to(daemon.pid(), &["-o", &path])?;
    trial.begin(phase, &daemon);
    trial.await_end(phase, &daemon);
    drop(attached);
    Some(count(
        &fs::read_to_string(&path).expect("strace has written it"),
    ))
}

/// Ours begin with the first signal that we ignore; before that, the program is loaded.
fn count(calls: &str) -> BTreeMap<String, (usize, usize)> {
    let is_first = |line: &str| line.starts_with("rt_sigaction(SIGTTOU");
    let loading = calls.lines().position(is_first).unwrap_or(0);
    let mut counts = BTreeMap::<String, (usize, usize)>::new();
    for (number, line) in calls.lines().enumerate() {
        let name = line.split('(').next().unwrap_or_default();
        let is_call = line.contains('(') && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if is_call {
            let (before, inside) = counts.entry(name.to_owned()).or_default();
            *(if number < loading { before } else { inside }) += 1;
        }
    }
    counts.retain(|_, (_, inside)| *inside > 0);
    counts
}
