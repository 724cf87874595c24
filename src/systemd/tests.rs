//! A systemd that reads when the test says so, and a store with as much room as it has.

use super::fdstore::is_name;
use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::close;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::IoSliceMut;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

impl Systemd {
    fn say(&mut self, message: Notification) {
        self.state.push(message);
    }

    fn say_status(&mut self, text: &str) {
        self.tell(Instant(0), text, None);
    }
}

/// Without the pause after a failure.
fn flush(systemd: &mut Systemd) -> Result<(), String> {
    systemd.state.retry = None;
    systemd.flush(Instant(0))
}

/// Whether something waits for systemd to read.
fn is_blocked(systemd: &Systemd) -> bool {
    !systemd.state.queue.is_empty() && systemd.state.retry.is_none()
}

fn systemd_at(value: &str) -> Result<Option<Systemd>, String> {
    let variable = |name: &str| (name == "NOTIFY_SOCKET").then(|| value.into());
    Systemd::from_env(variable, 1)
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
        systemd.say_status(&format!("filling {count}"));
        flush(systemd).unwrap();
        if is_blocked(systemd) {
            systemd.state.queue.clear();
            return count;
        }
    }
    panic!("10000 datagrams and still not full");
}

fn queued(systemd: &Systemd) -> Vec<String> {
    systemd.state.queue.iter().map(Notification::text).collect()
}

fn interval(usec: &str, watched: Option<&str>) -> Option<Duration> {
    watchdog_interval(Some(usec.as_ref()), watched.map(OsStr::new), 812)
}

#[test]
fn without_notify_socket_there_is_no_systemd() {
    assert!(Systemd::from_env(|_| None, 1).unwrap().is_none());
    assert!(systemd_at("").unwrap().is_none());
}

#[test]
fn an_address_that_is_none_is_named() {
    for value in ["run/systemd/notify", "@", "vsock:2:1234"] {
        let error = systemd_at(value).unwrap_err();
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
    systemd.say(Notification::Reloading(17));
    systemd.say_status("generation 2\nof 3");
    systemd.say(Notification::ExtendTimeout(2_000_000));
    systemd.say(Notification::Watchdog);
    systemd.ready();
    systemd.say(Notification::Stopping);
    flush(&mut systemd).unwrap();
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
    let error = flush(&mut systemd).unwrap_err();
    let expected = format!("cannot notify systemd at {}: No such file", path.display());
    assert!(error.starts_with(&expected), "{error}");
    flush(&mut systemd).expect("the same failure is told once");
    for round in ["first", "second"] {
        let fake = UnixDatagram::bind(&path).unwrap();
        fake.set_nonblocking(true).unwrap();
        systemd.say_status(round);
        flush(&mut systemd).unwrap();
        assert_eq!(heard(&fake).last().unwrap(), &format!("STATUS={round}"));
        fs::remove_file(&path).unwrap();
    }
    systemd.say_status("third");
    flush(&mut systemd).expect_err("and told again after something got through");
}

#[test]
fn a_systemd_that_does_not_read_never_holds_us_up_and_loses_nothing_that_counts() {
    let (fake, mut systemd) = fake();
    let taken = fill(&mut systemd);
    systemd.ready();
    systemd.say(Notification::Reloading(1));
    for count in 0..100 {
        systemd.say_status(&format!("status {count}"));
        systemd.say(Notification::Watchdog);
        flush(&mut systemd).unwrap();
    }
    systemd.ready();
    systemd.say(Notification::Stopping);
    flush(&mut systemd).unwrap();
    assert!(is_blocked(&systemd));
    assert_eq!(heard(&fake).len(), taken);
    flush(&mut systemd).unwrap();
    assert!(!is_blocked(&systemd));
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
        systemd.say(Notification::Reloading(count));
        systemd.ready();
        systemd.ready();
    }
    systemd.say(Notification::Reloading(1000));
    let expected = ["READY=1", "RELOADING=1\nMONOTONIC_USEC=1000"];
    assert_eq!(queued(&systemd), expected);
}

#[test]
fn an_end_of_a_reload_that_systemd_heard_begin_is_kept() {
    let (fake, mut systemd) = fake();
    systemd.say(Notification::Reloading(1));
    flush(&mut systemd).unwrap();
    heard(&fake);
    fill(&mut systemd);
    systemd.ready();
    systemd.say(Notification::Reloading(2));
    systemd.ready();
    systemd.say(Notification::Reloading(3));
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
    let text = Notification::Status(status_value(&"ü".repeat(5000))).text();
    assert!((4090..4096).contains(&text.len()), "{}", text.len());
    assert!(text.ends_with("üü"), "cut within a character");
    assert_eq!(status_value(" a\nb\0c\t\n"), "a b c");
}

#[test]
fn the_same_status_again_is_not_sent() {
    let (fake, mut systemd) = fake();
    for text in ["same", "same", "other", "same"] {
        systemd.say_status(text);
        flush(&mut systemd).unwrap();
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

#[test]
fn a_turn_tells_what_has_changed_and_nothing_twice() {
    let (fake, mut systemd) = fake();
    systemd.watchdog = Some(Duration::from_secs(15));
    systemd.state.next_watchdog = Some(Instant(0));
    let at = |seconds: u64| Instant(seconds * 1_000_000_000);
    for now in [at(1), at(2)] {
        systemd.tell(now, "starting", Some(at(4)));
        systemd.flush(now).unwrap();
    }
    let expected = [
        "STATUS=starting",
        "EXTEND_TIMEOUT_USEC=4000000",
        "WATCHDOG=1",
    ];
    assert_eq!(heard(&fake), expected);
    assert_eq!(systemd.deadline(), Some(at(16)));
    systemd.tell(at(3), "starting", Some(at(3)));
    systemd.tell(at(16), "up", None);
    for _ in 0..2 {
        systemd.stopping();
    }
    systemd.flush(at(16)).unwrap();
    assert_eq!(heard(&fake), ["STATUS=up", "WATCHDOG=1", "STOPPING=1"]);
}

#[test]
fn who_cannot_be_reached_is_tried_again_after_five_seconds() {
    let name = format!("nobody-{:x}", RandomState::new().hash_one(0));
    let mut systemd = systemd_at(&format!("@{name}")).unwrap().unwrap();
    systemd.ready();
    let at = |seconds: u64| Instant(seconds * 1_000_000_000);
    systemd.flush(at(1)).unwrap_err();
    assert_eq!(systemd.deadline(), Some(at(6)));
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let fake = UnixDatagram::bind_addr(&address).unwrap();
    fake.set_nonblocking(true).unwrap();
    systemd.flush(at(5)).unwrap();
    assert_eq!(heard(&fake), [] as [&str; 0], "it was not time yet");
    systemd.flush(at(6)).unwrap();
    assert_eq!(
        (heard(&fake), systemd.deadline()),
        (vec!["READY=1".into()], None)
    );
}

#[test]
fn what_systemd_was_told_can_be_written_down_and_read_back() {
    let (_fake, mut systemd) = fake();
    systemd.tell(Instant(7), "up", Some(Instant(9)));
    systemd.ready();
    let text = serde_json::to_string(&systemd.state).unwrap();
    let state: SystemdState = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&state).unwrap(), text);
    assert_eq!(state.queue, systemd.state.queue);
    let nothing: SystemdState = serde_json::from_str("{}").unwrap();
    assert!(nothing.queue.is_empty(), "what is missing has its default");
}

/// A systemd with so many places in its store, which reads when the test says so.
struct FakeStore {
    socket: UnixDatagram,
    room: usize,
    store: Vec<(String, RawFd)>,
    refused: usize,
}

impl FakeStore {
    fn new(room: usize, announced: bool) -> (FakeStore, Systemd) {
        let name = format!("fake-store-{:x}", RandomState::new().hash_one(0));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let variable = |variable: &str| match variable {
            "NOTIFY_SOCKET" => Some(OsString::from(format!("@{name}"))),
            "FDSTORE" if announced => Some(OsString::from(room.to_string())),
            _ => None,
        };
        let systemd = Systemd::from_env(variable, 1).unwrap().unwrap();
        (
            FakeStore {
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
                    assert_eq!(value("FDPOLL="), Some("0"), "{text}");
                    self.store.push((name, fd.unwrap()));
                }
                Some("FDSTORE=1") => {
                    self.refused += 1;
                    close(fd.unwrap()).unwrap();
                }
                Some("FDSTOREREMOVE=1") => self.remove(&name),
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

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.store.drain(..).for_each(|(_, fd)| close(fd).unwrap());
    }
}

const LISTENERS: [&str; 3] = ["tcp%3A//[%3A%3A]%3A8080", "admin", "unix%3A///run/x.sock"];

/// Hands over this many listeners to a store with that much room, and returns what we learnt and
/// what the store then had.
fn learn(count: usize, room: usize, announced: bool) -> (Stored, FakeStore) {
    let (mut fake, mut systemd) = FakeStore::new(room, announced);
    let sockets = LISTENERS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let sockets = LISTENERS.into_iter().zip(sockets.iter().map(AsFd::as_fd));
    let given: Vec<_> = sockets.take(count).collect();
    let stored = systemd.hand_over(&given, &[], &[]).unwrap();
    flush(&mut systemd).unwrap();
    fake.read();
    (stored, fake)
}

#[test]
fn a_systemd_that_says_its_limit_is_given_what_fits() {
    for count in 1..=3 {
        let (stored, fake) = learn(count, count, true);
        assert_eq!(
            (stored, fake.names()),
            (Stored::All, LISTENERS[..count].to_vec())
        );
    }
    let (stored, fake) = learn(3, 2, true);
    assert_eq!(
        (stored, fake.names()),
        (Stored::NotAll, LISTENERS[..2].to_vec())
    );
    assert_eq!(fake.refused, 0);
    assert_eq!(learn(0, 0, true).0, Stored::Unsaid);
}

#[test]
fn a_systemd_that_does_not_say_its_limit_is_given_all_and_nothing_is_claimed() {
    let (stored, fake) = learn(3, 3, false);
    assert_eq!((stored, fake.names()), (Stored::Unsaid, LISTENERS.to_vec()));
    let (stored, fake) = learn(3, 2, false);
    assert_eq!((stored, fake.refused), (Stored::Unsaid, 1));
}

#[test]
fn what_came_back_from_the_store_is_not_stored_again_and_takes_its_room() {
    let (mut fake, mut systemd) = FakeStore::new(2, true);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = LISTENERS.map(|name| (name, socket.as_fd()));
    let forget = ["socketmaster-old".to_owned()];
    let stored = systemd.hand_over(&sockets, &["admin"], &forget).unwrap();
    assert_eq!(
        queued(&systemd)[0],
        "FDSTOREREMOVE=1\nFDNAME=socketmaster-old"
    );
    flush(&mut systemd).unwrap();
    fake.read();
    assert_eq!((stored, fake.names()), (Stored::NotAll, vec![LISTENERS[0]]));
}

#[test]
fn a_systemd_that_would_say_its_limit_and_does_not_is_asked_nothing() {
    let variable = |name: &str| match name {
        "NOTIFY_SOCKET" => Some(OsString::from("@nobody-reads")),
        "MEMORY_PRESSURE_WATCH" => Some(OsString::from("/dev/null")),
        _ => None,
    };
    let mut systemd = Systemd::from_env(variable, 1).unwrap().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let stored = systemd.hand_over(&[("web", socket.as_fd())], &[], &[]);
    assert_eq!(stored, Ok(Stored::Unsaid));
    systemd.store_again("web", socket.as_fd()).unwrap();
    flush(&mut systemd).expect("nothing is to be sent");
}

#[test]
fn a_socket_bound_anew_takes_the_place_of_the_old_one_in_the_queue_too() {
    let (mut fake, mut systemd) = FakeStore::new(1, true);
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    systemd
        .hand_over(&[("web", sockets[0].as_fd())], &[], &[])
        .unwrap();
    for socket in &sockets[1..] {
        systemd.store_again("web", socket.as_fd()).unwrap();
    }
    flush(&mut systemd).unwrap();
    fake.read();
    assert_eq!((fake.names(), fake.refused), (vec!["web"], 0));
    assert!(systemd.link.to_store.is_empty(), "a copy stayed open");
}

#[test]
fn sockets_that_wait_to_be_stored_are_closed_when_we_serve_no_more() {
    let (mut fake, mut systemd) = FakeStore::new(1, true);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    systemd
        .hand_over(&[("web", socket.as_fd())], &[], &[])
        .unwrap();
    systemd.forget_sockets();
    assert!(systemd.link.to_store.is_empty());
    flush(&mut systemd).unwrap();
    fake.read();
    assert_eq!(fake.names(), [] as [&str; 0]);
}

#[test]
fn a_name_that_systemd_would_not_take_is_refused() {
    for name in ["", "a:b", "a\nFDSTOREREMOVE=1", "ü", &"x".repeat(256)] {
        assert!(!is_name(name), "{name}");
    }
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_fake, mut systemd) = FakeStore::new(1, true);
    let error = systemd.hand_over(&[("a:b", socket.as_fd())], &[], &[]);
    let text = "\"a:b\" cannot be a name in systemd's fd store";
    assert_eq!(error, Err(text.to_owned()));
}
