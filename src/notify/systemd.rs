//! What we tell systemd (sd_notify(3)) or whoever else set `NOTIFY_SOCKET`. It owns the socket and
//! a short queue of what could not be sent yet, so that a systemd which does not read never holds
//! us up; and it decides nothing about when to say what.

use super::one_line;
use crate::sys::socket::check_path;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX) whole.
const LONGEST: usize = 4095;

/// The way to systemd. What is said is queued, in order, and goes out at the next
/// [`Systemd::flush`]; what a newer message makes void (an older STATUS, a reload that began and
/// ended unheard) is dropped, so that the queue never holds more than a handful.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    name: String,
    queue: VecDeque<Pending>,
    blocked: bool,
    failing: Option<Errno>,
    last_status: String,
    watchdog_interval: Option<Duration>,
    store_limit: Option<usize>,
    tells_store: bool,
}

/// A datagram that is to be sent.
#[derive(Debug)]
struct Pending {
    kind: Kind,
    text: String,
    fd: Option<OwnedFd>,
}

/// What a datagram is about, to know what it makes void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Ready,
    Reloading,
    Stopping,
    Status,
    Watchdog,
    ExtendTimeout,
    /// A descriptor for the store, by its name there.
    Store(String),
    /// Out of the store.
    Remove(String),
    Barrier,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`, `FDSTORE` and whether there is a
    /// `MEMORY_PRESSURE_WATCH` through `variable`; `pid` is ours. None when nobody wants to hear of us. Sends nothing, and does not need the
    /// other side to be there yet. Fails if the address is neither an absolute path nor `@` and a
    /// name.
    pub fn from_env(
        variable: &dyn Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> io::Result<Option<Systemd>> {
        let Some(value) = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let name = value.to_string_lossy().into_owned();
        let address = address(&value).map_err(|error| {
            io::Error::new(error.kind(), format!("NOTIFY_SOCKET={name}: {error}"))
        })?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Some(Systemd {
            socket,
            address,
            name,
            queue: VecDeque::new(),
            blocked: false,
            failing: None,
            last_status: String::new(),
            watchdog_interval: watchdog_interval(
                variable("WATCHDOG_USEC").as_deref(),
                variable("WATCHDOG_PID").as_deref(),
                pid,
            ),
            store_limit: variable("FDSTORE").and_then(|limit| limit.to_str()?.parse().ok()),
            tells_store: variable("MEMORY_PRESSURE_WATCH").is_some(),
        }))
    }

    /// The first generation is ready, or a reload has its verdict.
    pub fn ready(&mut self) {
        self.say(Kind::Ready, "READY=1".to_owned());
    }

    /// A reload begins; `monotonic_usec` is CLOCK_MONOTONIC in microseconds
    /// (`Type=notify-reload` wants both in one datagram, systemd.service(5)).
    pub fn reloading(&mut self, monotonic_usec: u64) {
        self.say(Kind::Reloading, reloading_text(monotonic_usec));
    }

    /// We are on the way out.
    pub fn stopping(&mut self) {
        self.say(Kind::Stopping, "STOPPING=1".to_owned());
    }

    /// The line of `systemctl status`, cut to what systemd takes. Saying the same again is free.
    pub fn status(&mut self, text: &str) {
        let text = status_text(text);
        if text == self.last_status {
            return;
        }
        self.last_status.clone_from(&text);
        self.say(Kind::Status, text);
    }

    /// We live. To be said every [`Systemd::watchdog_interval`].
    pub fn watchdog(&mut self) {
        self.say(Kind::Watchdog, "WATCHDOG=1".to_owned());
    }

    /// Half the time after which systemd takes silence for death (sd_watchdog_enabled(3)); None
    /// when it does not watch, or watches another process.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    /// How many descriptors the unit's fd store takes, as systemd says it from 254 on (`FDSTORE`);
    /// None when there is no store or systemd is older.
    pub fn store_limit(&self) -> Option<usize> {
        self.store_limit
    }

    /// There is certainly no fd store: this systemd would have said its limit. Both variables came
    /// with 254 (systemd.exec(5)), and an older one logs a warning when it is asked.
    pub fn has_no_store(&self) -> bool {
        self.tells_store && self.store_limit.is_none()
    }

    /// Give us this long from now, if that is later than systemd's own limit.
    pub fn extend_timeout(&mut self, time: Duration) {
        let text = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
        self.say(Kind::ExtendTimeout, text);
    }

    /// Closes the descriptors that wait to be stored: nobody is to hold them any more.
    pub fn forget_stores(&mut self) {
        drop_those(&mut self.queue, &mut |old| {
            matches!(old.kind, Kind::Store(_))
        });
    }

    /// Whether something waits for systemd to read.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether something waits that cannot be sent, and nothing will tell when it can: an attempt
    /// that fails makes an unconnected socket writable anew, so try again by the clock alone.
    pub fn is_cut_off(&self) -> bool {
        self.failing.is_some() && !self.blocked && !self.queue.is_empty()
    }

    /// The socket to watch for WRITABLE; the same one for life, and edge-triggered will do.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends what waits, as far as it goes without blocking: call it at the end of every turn that
    /// may have said something, and when the socket turns writable. Fails when systemd cannot be
    /// reached (then the queue is kept) or refuses a message (then that one is dropped); the same
    /// failure is not returned again until something got through.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut reconnected = false;
        let mut refused = None;
        self.blocked = false;
        while let Some(pending) = self.queue.front() {
            match send(&self.socket, pending) {
                Ok(()) => {
                    self.failing = None;
                    self.queue.pop_front();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.blocked = true;
                    break;
                }
                Err(errno) if is_unconnected(errno) && !reconnected => {
                    reconnected = true;
                    if let Err(error) = self.socket.connect_addr(&self.address) {
                        return self.fail(errno_of(&error));
                    }
                }
                Err(errno) if is_unconnected(errno) || is_shortage(errno) => {
                    return self.fail(errno);
                }
                Err(errno) => {
                    refused = Some(errno);
                    self.queue.pop_front();
                }
            }
        }
        refused.map_or(Ok(()), |errno| self.fail(errno))
    }

    fn fail(&mut self, errno: Errno) -> io::Result<()> {
        if self.failing.replace(errno) == Some(errno) {
            return Ok(());
        }
        let system = io::Error::from(errno);
        let text = format!("cannot notify systemd at {}: {}", self.name, errno.desc());
        Err(io::Error::new(system.kind(), text))
    }

    fn say(&mut self, kind: Kind, text: String) {
        self.say_with(kind, text, None);
    }

    /// `fd` travels along, and is closed here once it has been sent.
    pub(super) fn say_with(&mut self, kind: Kind, text: String, fd: Option<OwnedFd>) {
        enqueue(&mut self.queue, Pending { kind, text, fd });
    }
}

fn address(value: &OsStr) -> io::Result<SocketAddr> {
    match value.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => check_path(Path::new(value)).and_then(|()| SocketAddr::from_pathname(value)),
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "neither an absolute path nor an abstract name",
        )),
    }
}

fn watchdog_interval(usec: Option<&OsStr>, watched: Option<&OsStr>, pid: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
    if watched.is_some_and(|watched| number(watched) != Some(u64::from(pid))) {
        return None;
    }
    let usec = number(usec?)?;
    (usec > 0).then(|| Duration::from_micros((usec / 2).max(1)))
}

fn reloading_text(monotonic_usec: u64) -> String {
    format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}")
}

fn status_text(text: &str) -> String {
    let mut datagram = format!("STATUS={}", one_line(text));
    let mut end = LONGEST.min(datagram.len());
    while !datagram.is_char_boundary(end) {
        end -= 1;
    }
    datagram.truncate(end);
    datagram
}

/// Appends `new` after dropping what it makes void. READY, RELOADING and STOPPING keep their order
/// and are dropped in one case only: a reload whose beginning and end are both still unsent when
/// the next one begins.
fn enqueue(queue: &mut VecDeque<Pending>, new: Pending) {
    match &new.kind {
        Kind::Reloading => {
            if let Some(begun) = queue.iter().position(|old| old.kind == Kind::Reloading) {
                let mut index = 0;
                drop_those(queue, &mut |old| {
                    index += 1;
                    index > begun && matches!(old.kind, Kind::Reloading | Kind::Ready)
                });
            }
        }
        Kind::Ready | Kind::Stopping => {
            let state = queue.iter().rev().find(|old| old.kind.is_state());
            if state.is_some_and(|old| old.kind == new.kind) {
                return;
            }
        }
        Kind::Remove(name) => {
            let stored = Kind::Store(name.clone());
            drop_those(queue, &mut |old| old.kind == new.kind || old.kind == stored);
        }
        Kind::Status | Kind::Watchdog | Kind::ExtendTimeout | Kind::Store(_) => {
            drop_those(queue, &mut |old| old.kind == new.kind);
        }
        Kind::Barrier => {}
    }
    queue.push_back(new);
}

fn drop_those(queue: &mut VecDeque<Pending>, is_meant: &mut dyn FnMut(&Pending) -> bool) {
    queue.retain(|old| !is_meant(old));
}

impl Kind {
    fn is_state(&self) -> bool {
        matches!(self, Kind::Ready | Kind::Reloading | Kind::Stopping)
    }
}

fn send(socket: &UnixDatagram, pending: &Pending) -> nix::Result<()> {
    let text = [IoSlice::new(pending.text.as_bytes())];
    let fds: Vec<_> = pending.fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &text, control, flags, None).map(drop)
}

fn is_unconnected(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOTCONN | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE
    )
}

fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
}

fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    use std::fs;
    use std::hash::{BuildHasher, RandomState};

    fn systemd_at(value: &str) -> io::Result<Option<Systemd>> {
        let variable = |name: &str| (name == "NOTIFY_SOCKET").then(|| value.into());
        Systemd::from_env(&variable, 1)
    }

    /// A bound socket that reads when the test says so, and our way to it.
    fn fake() -> (UnixDatagram, Systemd) {
        let name = format!("fake-systemd-{:x}", RandomState::new().hash_one(0));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let fake = UnixDatagram::bind_addr(&address).unwrap();
        fake.set_nonblocking(true).unwrap();
        (fake, systemd_at(&format!("@{name}")).unwrap().unwrap())
    }

    fn heard(fake: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 8192];
        let mut texts = Vec::new();
        while let Ok(length) = fake.recv(&mut buffer) {
            texts.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        texts
    }

    /// Says things until systemd's queue is full, and returns how many it took.
    fn fill(systemd: &mut Systemd) -> usize {
        for count in 0..10_000 {
            systemd.status(&format!("filling {count}"));
            systemd.flush().unwrap();
            if systemd.is_blocked() {
                systemd.queue.clear();
                return count;
            }
        }
        panic!("10000 datagrams and still not full");
    }

    fn queued(systemd: &Systemd) -> Vec<&str> {
        systemd
            .queue
            .iter()
            .map(|pending| pending.text.as_str())
            .collect()
    }

    fn interval(usec: &str, watched: Option<&str>) -> Option<Duration> {
        watchdog_interval(Some(usec.as_ref()), watched.map(OsStr::new), 812)
    }

    #[test]
    fn without_notify_socket_there_is_no_systemd() {
        assert!(Systemd::from_env(&|_| None, 1).unwrap().is_none());
        assert!(systemd_at("").unwrap().is_none());
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        for value in ["run/systemd/notify", "@", "vsock:2:1234"] {
            let error = systemd_at(value).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("NOTIFY_SOCKET={value}: ")),
                "{error}"
            );
        }
        assert!(systemd_at(&format!("/{}", "x".repeat(200))).is_err());
    }

    #[test]
    fn all_that_is_said_arrives_in_order_each_in_its_own_datagram() {
        let (fake, mut systemd) = fake();
        systemd.ready();
        systemd.reloading(17);
        systemd.status("generation 2\nof 3");
        systemd.extend_timeout(Duration::from_secs(2));
        systemd.watchdog();
        systemd.ready();
        systemd.stopping();
        systemd.flush().unwrap();
        let expected = [
            "READY=1",
            "RELOADING=1\nMONOTONIC_USEC=17",
            "STATUS=generation 2 of 3",
            "EXTEND_TIMEOUT_USEC=2000000",
            "WATCHDOG=1",
            "READY=1",
            "STOPPING=1",
        ];
        assert_eq!(heard(&fake), expected);
    }

    #[test]
    fn a_path_will_do_and_may_appear_and_be_replaced() {
        let name = format!("sm-notify-{:x}", RandomState::new().hash_one(0));
        let path = std::env::temp_dir().join(name);
        let mut systemd = systemd_at(path.to_str().unwrap()).unwrap().unwrap();
        systemd.ready();
        let error = systemd.flush().unwrap_err().to_string();
        let expected = format!("cannot notify systemd at {}: No such file", path.display());
        assert!(error.starts_with(&expected), "{error}");
        systemd.flush().expect("the same failure is told once");
        for round in ["first", "second"] {
            let fake = UnixDatagram::bind(&path).unwrap();
            fake.set_nonblocking(true).unwrap();
            systemd.status(round);
            systemd.flush().unwrap();
            assert_eq!(heard(&fake).last().unwrap(), &format!("STATUS={round}"));
            fs::remove_file(&path).unwrap();
        }
        systemd.status("third");
        systemd
            .flush()
            .expect_err("and told again after something got through");
    }

    #[test]
    fn a_systemd_that_does_not_read_never_holds_us_up_and_loses_nothing_that_counts() {
        let (fake, mut systemd) = fake();
        let taken = fill(&mut systemd);
        systemd.ready();
        systemd.reloading(1);
        for count in 0..100 {
            systemd.status(&format!("status {count}"));
            systemd.watchdog();
            systemd.flush().unwrap();
        }
        systemd.ready();
        systemd.stopping();
        systemd.flush().unwrap();
        assert!(systemd.is_blocked());
        assert_eq!(heard(&fake).len(), taken);
        systemd.flush().unwrap();
        assert!(!systemd.is_blocked());
        let expected = [
            "READY=1",
            "RELOADING=1\nMONOTONIC_USEC=1",
            "STATUS=status 99",
            "WATCHDOG=1",
            "READY=1",
            "STOPPING=1",
        ];
        assert_eq!(heard(&fake), expected);
    }

    #[test]
    fn thousands_of_reloads_unheard_do_not_grow_the_queue() {
        let (_fake, mut systemd) = fake();
        systemd.ready();
        for count in 0..1000 {
            systemd.reloading(count);
            systemd.ready();
            systemd.ready();
        }
        systemd.reloading(1000);
        let expected = ["READY=1", "RELOADING=1\nMONOTONIC_USEC=1000"];
        assert_eq!(queued(&systemd), expected);
    }

    #[test]
    fn an_end_of_a_reload_that_systemd_heard_begin_is_kept() {
        let (fake, mut systemd) = fake();
        systemd.reloading(1);
        systemd.flush().unwrap();
        heard(&fake);
        fill(&mut systemd);
        systemd.ready();
        systemd.reloading(2);
        systemd.ready();
        systemd.reloading(3);
        let expected = ["READY=1", "RELOADING=1\nMONOTONIC_USEC=3"];
        assert_eq!(queued(&systemd), expected);
    }

    #[test]
    fn the_socket_turns_writable_when_systemd_reads_again() {
        let (fake, mut systemd) = fake();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, 7);
        epoll.add(systemd.wait_fd(), event).unwrap();
        fill(&mut systemd);
        let mut events = [EpollEvent::empty()];
        while epoll.wait(&mut events, EpollTimeout::ZERO).unwrap() > 0 {}
        heard(&fake);
        let woken = epoll
            .wait(&mut events, EpollTimeout::from(10_000u16))
            .unwrap();
        assert_eq!(woken, 1, "waited 10 s for WRITABLE");
        let mut fds = [PollFd::new(systemd.wait_fd(), PollFlags::POLLOUT)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 1);
    }

    #[test]
    fn a_status_is_one_datagram_that_systemd_takes_whole() {
        let text = status_text(&"ü".repeat(5000));
        assert!((4090..4096).contains(&text.len()), "{}", text.len());
        assert!(text.ends_with("üü"), "cut within a character");
        assert_eq!(status_text(" a\nb\0c\t\n"), "STATUS=a b c");
    }

    #[test]
    fn the_same_status_again_is_not_sent() {
        let (fake, mut systemd) = fake();
        for text in ["same", "same", "other", "same"] {
            systemd.status(text);
            systemd.flush().unwrap();
        }
        assert_eq!(heard(&fake), ["STATUS=same", "STATUS=other", "STATUS=same"]);
    }

    #[test]
    fn the_watchdog_is_fed_at_half_its_time_and_only_if_it_watches_us() {
        assert_eq!(interval("30000000", None), Some(Duration::from_secs(15)));
        assert_eq!(
            interval("30000000", Some("812")),
            Some(Duration::from_secs(15))
        );
        assert_eq!(interval("30000000", Some("813")), None);
        assert_eq!(interval("30000000", Some("x")), None);
        assert_eq!(interval("0", None), None);
        assert_eq!(interval("soon", None), None);
        assert_eq!(interval("1", None), Some(Duration::from_micros(1)));
        assert_eq!(watchdog_interval(None, None, 812), None);
    }
}
