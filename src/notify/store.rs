//! systemd's fd store (systemd.service(5), FileDescriptorStoreMax=): hands it our listening
//! sockets, so that they outlive a crash of ours, and finds out whether it took them. systemd never
//! says so: over its limit it closes what it got and tells only its own journal. It owns the probe
//! pipes and nothing else; which sockets, under which names, is the daemon's business.

use super::systemd::{Kind, Systemd};
use crate::supervisor::Instant;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The name of the probe in the store. After a crash it may be among what we are given back: close
/// it and [`Systemd::remove`] it like any other that nobody asked for.
pub const PROBE: &str = "socketmaster-probe";

/// systemd closes what it does not store in a thread or process of its own since 253, so that the
/// probe may hang up a little after the barrier was answered.
const GRACE: Duration = Duration::from_millis(100);

/// What became of the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// systemd holds them all.
    All,
    /// Some did not fit: FileDescriptorStoreMax= is too small.
    NotAll,
    /// The unit has no fd store, or a full one.
    NoStore,
}

/// What [`hand_over`] leaves to do.
#[derive(Debug)]
pub enum HandOver {
    Done(Stored),
    Asking(StoreCheck),
}

/// The question, on its way, whether there is room in the store. A probe (the write end of a pipe)
/// is stored first alone, then in the place of the last socket, each time with a BARRIER=1 behind
/// it: if the probe still lives when the barrier is answered, there was room. So a unit without a
/// store gets one line in its journal instead of one for each socket, and a store that is exactly
/// large enough is not taken for one that is too small.
#[derive(Debug)]
pub struct StoreCheck {
    listeners: Vec<(OwnedFd, String)>,
    alone: Round,
    last: Round,
    /// What the first round said.
    store_found: bool,
    deadline: Option<Instant>,
}

/// Our ends and, until they are sent, systemd's ends of two pipes.
#[derive(Debug)]
struct Round {
    probe: OwnedFd,
    barrier: OwnedFd,
    theirs: Option<(OwnedFd, OwnedFd)>,
}

/// Hands over listening sockets that are not in the store yet; `already` are. From systemd 254 on
/// it says how many it takes (`FDSTORE`) and nothing needs to be found out. Fails if a name is none
/// (see [`fd_name`]) or if descriptors run out.
pub fn hand_over(
    systemd: &mut Systemd,
    already: usize,
    listeners: &[(BorrowedFd<'_>, &str)],
) -> io::Result<HandOver> {
    if listeners.is_empty() {
        return Ok(HandOver::Done(Stored::All));
    }
    let Some(limit) = systemd.store_limit() else {
        return StoreCheck::start(systemd, listeners).map(HandOver::Asking);
    };
    let room = limit.saturating_sub(already).min(listeners.len());
    for (fd, name) in &listeners[..room] {
        systemd.store(*fd, name)?;
    }
    let stored = match room == listeners.len() {
        true => Stored::All,
        false => Stored::NotAll,
    };
    Ok(HandOver::Done(stored))
}

impl Systemd {
    /// Puts one descriptor into the store under a name from [`fd_name`], also over one that was
    /// removed before, or one that it holds already (which counts once).
    pub fn store(&mut self, fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        check_name(name)?;
        let fd = fd.try_clone_to_owned()?;
        self.say_with(Kind::Store(name.to_owned()), store_text(name), Some(fd));
        Ok(())
    }

    /// Takes all descriptors of this name out of the store; none is no error.
    pub fn remove(&mut self, name: &str) {
        if check_name(name).is_ok() {
            self.say_with(Kind::Remove(name.to_owned()), remove_text(name), None);
        }
    }

    /// The probe is polled by systemd and so leaves the store by itself when we die.
    fn ask(&mut self, (probe, barrier): (OwnedFd, OwnedFd)) {
        let text = format!("FDSTORE=1\nFDNAME={PROBE}");
        self.say_with(Kind::Store(PROBE.to_owned()), text, Some(probe));
        self.say_with(Kind::Barrier, "BARRIER=1".to_owned(), Some(barrier));
    }
}

impl StoreCheck {
    fn start(
        systemd: &mut Systemd,
        listeners: &[(BorrowedFd<'_>, &str)],
    ) -> io::Result<StoreCheck> {
        let listeners = listeners.iter().map(|(fd, name)| {
            check_name(name)?;
            Ok((fd.try_clone_to_owned()?, (*name).to_owned()))
        });
        let mut check = StoreCheck {
            listeners: listeners.collect::<io::Result<_>>()?,
            alone: Round::new()?,
            last: Round::new()?,
            store_found: false,
            deadline: None,
        };
        check.ask(systemd);
        Ok(check)
    }

    /// The two pipes to watch for READABLE (their hang-up is the news); the same ones for life.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.alone.barrier.as_fd(), self.last.barrier.as_fd()]
    }

    /// When to call [`StoreCheck::turn`] although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Goes on as far as it can, and says so to `systemd` ([`Systemd::flush`] after it); the answer
    /// when there is one, and then this has done its work.
    pub fn turn(&mut self, now: Instant, systemd: &mut Systemd) -> io::Result<Option<Stored>> {
        if hung_up(self.round().probe.as_fd())? {
            let refused = match self.store_found {
                true => Stored::NotAll,
                false => Stored::NoStore,
            };
            return Ok(Some(refused));
        }
        if !hung_up(self.round().barrier.as_fd())? {
            return Ok(None);
        }
        let deadline = *self.deadline.get_or_insert(after(now, GRACE));
        if now < deadline {
            return Ok(None);
        }
        self.deadline = None;
        self.on_room(systemd)
    }

    fn on_room(&mut self, systemd: &mut Systemd) -> io::Result<Option<Stored>> {
        systemd.remove(PROBE);
        let last_round = self.store_found || self.listeners.len() == 1;
        let proven = self.listeners.len() - usize::from(!last_round);
        for (fd, name) in self.listeners.drain(..proven) {
            systemd.store(fd.as_fd(), &name)?;
        }
        if last_round {
            return Ok(Some(Stored::All));
        }
        self.store_found = true;
        self.ask(systemd);
        Ok(None)
    }

    fn round(&mut self) -> &mut Round {
        match self.store_found {
            true => &mut self.last,
            false => &mut self.alone,
        }
    }

    fn ask(&mut self, systemd: &mut Systemd) {
        if let Some(pipes) = self.round().theirs.take() {
            systemd.ask(pipes);
        }
    }
}

impl Round {
    fn new() -> io::Result<Round> {
        let (probe, their_probe) = pipe2(OFlag::O_CLOEXEC)?;
        let (barrier, their_barrier) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Round {
            probe,
            barrier,
            theirs: Some((their_probe, their_barrier)),
        })
    }
}

/// A text as a name that systemd takes (printable ASCII without a colon): each other byte, and
/// `%`, as `%` and two hexadecimal digits. Two texts never share a name.
pub fn fd_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b':' | b'%' | ..b' ' | 127.. => name.push_str(&format!("%{byte:02X}")),
            _ => name.push(char::from(byte)),
        }
    }
    name
}

fn check_name(name: &str) -> io::Result<()> {
    let valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
    if (1..=255).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(());
    }
    let text = format!("{name:?} cannot be a name in systemd's fd store");
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

/// FDPOLL=0, or systemd drops a socket that a worker has shut down, which we revive.
fn store_text(name: &str) -> String {
    format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0")
}

fn remove_text(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

fn after(now: Instant, time: Duration) -> Instant {
    Instant(now.0 + time.as_nanos() as u64)
}

fn hung_up(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(events.contains(PollFlags::POLLHUP))
}
