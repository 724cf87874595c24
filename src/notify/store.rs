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
    if systemd.has_no_store() {
        return Ok(HandOver::Done(Stored::NoStore));
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
        let deadline = *self.deadline.get_or_insert(now + GRACE);
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

fn hung_up(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use nix::unistd::close;
    use std::ffi::OsString;
    use std::hash::{BuildHasher, RandomState};
    use std::io::IoSliceMut;
    use std::net::TcpListener;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    const LISTENERS: [&str; 3] = ["tcp%3A//[%3A%3A]%3A8080", "admin", "unix%3A///run/x.sock"];
    const START: Instant = Instant(0);
    const LATER: Instant = Instant(200_000_000);

    /// A systemd with so many places in its store, which reads when the test says so.
    struct Fake {
        socket: UnixDatagram,
        room: usize,
        store: Vec<(String, RawFd)>,
        refused: usize,
    }

    impl Fake {
        fn new(room: usize, announced: bool) -> (Fake, Systemd) {
            let name = format!("fake-store-{:x}", RandomState::new().hash_one(0));
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            socket.set_nonblocking(true).unwrap();
            let variable = |variable: &str| match variable {
                "NOTIFY_SOCKET" => Some(OsString::from(format!("@{name}"))),
                "FDSTORE" if announced => Some(OsString::from(room.to_string())),
                _ => None,
            };
            let systemd = Systemd::from_env(&variable, 1).unwrap().unwrap();
            (
                Fake {
                    socket,
                    room,
                    store: Vec::new(),
                    refused: 0,
                },
                systemd,
            )
        }

        fn read(&mut self) {
            while let Some((text, fd)) = self.datagram() {
                let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
                let name = value("FDNAME=").unwrap_or_default().to_owned();
                match text.lines().next() {
                    Some("FDSTORE=1") if self.store.len() < self.room => {
                        assert_eq!(value("FDPOLL=") == Some("0"), name != PROBE, "{text}");
                        self.store.push((name, fd.unwrap()));
                    }
                    Some("FDSTORE=1") => {
                        self.refused += 1;
                        close(fd.unwrap()).unwrap();
                    }
                    Some("FDSTOREREMOVE=1") => self.remove(&name),
                    Some("BARRIER=1") => close(fd.unwrap()).unwrap(),
                    _ => panic!("{text}"),
                }
            }
        }

        fn datagram(&self) -> Option<(String, Option<RawFd>)> {
            let (mut text, mut fd) = ([0; 512], None);
            let mut space = nix::cmsg_space!([RawFd; 1]);
            let mut iov = [IoSliceMut::new(&mut text)];
            let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
            let message = recvmsg::<()>(socket, &mut iov, Some(&mut space), flags).ok()?;
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    fd = fds.first().copied();
                }
            }
            let length = message.bytes;
            Some((String::from_utf8(text[..length].to_vec()).unwrap(), fd))
        }

        fn remove(&mut self, name: &str) {
            self.store.retain(|(stored, fd)| {
                let kept = stored != name;
                if !kept {
                    close(*fd).unwrap();
                }
                kept
            });
        }

        fn names(&self) -> Vec<&str> {
            self.store.iter().map(|(name, _)| name.as_str()).collect()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            self.store.drain(..).for_each(|(_, fd)| close(fd).unwrap());
        }
    }

    /// Hands over this many listeners to a store with that much room, and returns what we learnt
    /// and what the store then had.
    fn learn(count: usize, room: usize, announced: bool) -> (Stored, Fake) {
        let (mut fake, mut systemd) = Fake::new(room, announced);
        let sockets: Vec<_> = LISTENERS
            .map(|name| (TcpListener::bind("127.0.0.1:0").unwrap(), name))
            .into();
        let given: Vec<_> = sockets[..count]
            .iter()
            .map(|(socket, name)| (socket.as_fd(), *name))
            .collect();
        let stored = match hand_over(&mut systemd, 0, &given).unwrap() {
            HandOver::Done(stored) => stored,
            HandOver::Asking(mut check) => answer(&mut check, &mut systemd, &mut fake),
        };
        systemd.flush().unwrap();
        fake.read();
        (stored, fake)
    }

    fn answer(check: &mut StoreCheck, systemd: &mut Systemd, fake: &mut Fake) -> Stored {
        for _round in 0..2 {
            assert_eq!(
                check.turn(START, systemd).unwrap(),
                None,
                "nothing was answered yet"
            );
            systemd.flush().unwrap();
            fake.read();
            wait_hang_up(check.round().barrier.as_fd());
            if fake.refused > 0 {
                wait_hang_up(check.round().probe.as_fd());
            }
            if let Some(stored) = check.turn(START, systemd).unwrap() {
                return stored;
            }
            assert_eq!(check.deadline(), Some(Instant(100_000_000)));
            if let Some(stored) = check.turn(LATER, systemd).unwrap() {
                assert_eq!(check.deadline(), None, "a deadline was left");
                return stored;
            }
        }
        panic!("two rounds and no answer")
    }

    /// Other tests fork at the same time, and their children hold all our descriptors until exec.
    fn wait_hang_up(pipe: BorrowedFd) {
        let mut fds = [PollFd::new(pipe, PollFlags::empty())];
        let events = poll(&mut fds, PollTimeout::from(10_000u16)).unwrap();
        assert_eq!(
            events, 1,
            "waited 10 s for a pipe to be closed at its other end"
        );
    }

    #[test]
    fn a_store_that_is_exactly_large_enough_takes_all_and_keeps_no_probe() {
        for count in 1..=3 {
            let (stored, fake) = learn(count, count, false);
            assert_eq!(
                (stored, fake.names()),
                (Stored::All, LISTENERS[..count].to_vec())
            );
            assert_eq!(fake.refused, 0);
        }
    }

    #[test]
    fn a_store_that_is_too_small_is_noticed() {
        let (stored, fake) = learn(3, 2, false);
        assert_eq!(
            (stored, fake.names()),
            (Stored::NotAll, LISTENERS[..2].to_vec())
        );
        assert_eq!(learn(3, 1, false).0, Stored::NotAll);
        assert_eq!(learn(2, 1, false).0, Stored::NotAll);
    }

    #[test]
    fn a_unit_without_a_store_is_noticed_and_bothered_once() {
        let (stored, fake) = learn(3, 0, false);
        assert_eq!((stored, fake.refused), (Stored::NoStore, 1));
    }

    #[test]
    fn a_systemd_that_says_its_limit_is_asked_nothing() {
        let (stored, fake) = learn(3, 3, true);
        assert_eq!((stored, fake.names()), (Stored::All, LISTENERS.to_vec()));
        let (stored, fake) = learn(3, 2, true);
        assert_eq!(
            (stored, fake.names()),
            (Stored::NotAll, LISTENERS[..2].to_vec())
        );
        assert_eq!(fake.refused, 0);
    }

    #[test]
    fn a_systemd_that_would_say_its_limit_and_does_not_is_not_asked() {
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(OsString::from("@nobody-reads")),
            "MEMORY_PRESSURE_WATCH" => Some(OsString::from("/dev/null")),
            _ => None,
        };
        let mut systemd = Systemd::from_env(&variable, 1).unwrap().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let handed = hand_over(&mut systemd, 0, &[(socket.as_fd(), "web")]).unwrap();
        assert!(
            matches!(handed, HandOver::Done(Stored::NoStore)),
            "{handed:?}"
        );
        systemd.flush().expect("nothing is to be sent");
    }

    #[test]
    fn nothing_to_hand_over_is_all_stored() {
        assert_eq!(learn(0, 0, false).0, Stored::All);
    }

    #[test]
    fn a_probe_that_is_closed_after_the_barrier_was_answered_still_counts() {
        let (mut fake, mut systemd) = Fake::new(1, false);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut check = StoreCheck::start(&mut systemd, &[(socket.as_fd(), "web")]).unwrap();
        systemd.flush().unwrap();
        fake.read();
        wait_hang_up(check.alone.barrier.as_fd());
        assert_eq!(check.turn(START, &mut systemd).unwrap(), None);
        fake.remove(PROBE);
        wait_hang_up(check.alone.probe.as_fd());
        assert_eq!(
            check.turn(LATER, &mut systemd).unwrap(),
            Some(Stored::NoStore)
        );
    }

    #[test]
    fn a_socket_bound_anew_takes_the_place_of_the_old_one_in_the_queue_too() {
        let (mut fake, mut systemd) = Fake::new(1, true);
        let (old, new) = (
            TcpListener::bind("127.0.0.1:0"),
            TcpListener::bind("127.0.0.1:0"),
        );
        let (old, new) = (old.unwrap(), new.unwrap());
        for socket in [&old, &new] {
            systemd.remove("web");
            systemd.store(socket.as_fd(), "web").unwrap();
        }
        systemd.flush().unwrap();
        fake.read();
        assert_eq!((fake.names(), fake.refused), (vec!["web"], 0));
    }

    #[test]
    fn any_uri_becomes_a_name_that_systemd_takes() {
        assert_eq!(fd_name("tcp://[::]:8080"), LISTENERS[0]);
        assert_eq!(fd_name("unix:///run/ü%\n"), "unix%3A///run/%C3%BC%25%0A");
        assert!(check_name(&fd_name("a:b\0\u{7f}")).is_ok());
        for name in ["", "a:b", "a\nFDSTOREREMOVE=1", "ü", &"x".repeat(256)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_fake, mut systemd) = Fake::new(1, true);
        let error = systemd
            .store(socket.as_fd(), "a:b")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "\"a:b\" cannot be a name in systemd's fd store");
    }

    #[test]
    fn the_texts_are_what_systemd_reads() {
        assert_eq!(store_text("web"), "FDSTORE=1\nFDNAME=web\nFDPOLL=0");
        assert_eq!(remove_text("web"), "FDSTOREREMOVE=1\nFDNAME=web");
    }
}
