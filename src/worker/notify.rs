//! What a worker tells us: the datagram socket that is its `NOTIFY_SOCKET` (sd_notify(3)). Each worker
//! has one of its own, so that the socket tells for which worker a message is, and the kernel tells
//! who sent it. This file reads and parses messages; it does not decide what follows from them.

use crate::supervisor::Instant;
use crate::sys::datagram::{self, Sender};
use crate::sys::proc;
use crate::text::one_line;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::getuid;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Why a sender that is gone is not believed. (systemd-notify(1) waits unless it is told not to.)
const GONE: &str = "it has gone already and others of its user run here, so nobody can tell whose \
                    it was; a sender must wait until it is heard (sd_notify_barrier)";

/// The bytes of a message that are read. systemd itself ignores what is longer than 4096.
const LONGEST: usize = 8192;

/// One worker's `NOTIFY_SOCKET`: abstract, O_NONBLOCK, close-on-exec, closed with this value.
#[derive(Debug)]
pub struct WorkerSocket {
    socket: UnixDatagram,
    name: String,
    user: u32,
}

/// One datagram. Anybody can send one: [`WorkerSocket::may_speak`] tells whether it counts.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkerMessage {
    pub sender: Sender,
    /// READY=1.
    pub ready: bool,
    /// STATUS=, as one line without control characters.
    pub status: Option<String>,
}

impl WorkerSocket {
    /// Opens the socket for a worker that will run as this uid.
    pub fn bind(user: u32) -> io::Result<WorkerSocket> {
        // 128 bits from std's hash keys, which the system's random source fills without ever
        // blocking a boot.
        let keys = RandomState::new();
        let (high, low) = (keys.hash_one(0u8), keys.hash_one(1u8));
        let address =
            SocketAddr::from_abstract_name(format!("socketmaster-{high:016x}{low:016x}"))?;
        let socket = UnixDatagram::bind_addr(&address)?.into();
        WorkerSocket::adopt(socket, user)
    }

    /// The same for a socket that we opened before an exec of ourselves. Fails if it is none.
    pub fn adopt(socket: OwnedFd, user: u32) -> io::Result<WorkerSocket> {
        let socket = UnixDatagram::from(socket);
        let address = socket.local_addr()?;
        let name = address.as_abstract_name().ok_or(ErrorKind::InvalidInput)?;
        let name = format!("@{}", String::from_utf8_lossy(name));
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_nonblocking(true)?;
        Ok(WorkerSocket { socket, name, user })
    }

    /// The value for `NOTIFY_SOCKET`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message; `None` when there is none now. A sender can keep this going without end:
    /// take a few in a turn and come back. Errors: the system's.
    pub fn receive(&self) -> nix::Result<Option<WorkerMessage>> {
        let mut buffer = [0; LONGEST];
        match datagram::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) => {
                let text = &buffer[..received.length];
                Ok(Some(parse(received.sender, text, received.truncated)))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether who sent a message may speak for the worker `pid`; if not, why.
    ///
    /// /proc/net/unix shows the socket's name to everybody, and whoever knows it can send. So the
    /// sender must be a process of root's, of ours, of the worker's user, or of the user that the
    /// worker has become by itself, and it must be one of the worker's processes: a descendant, or,
    /// where its parents are gone, a member of the worker's process group. `is_worker` tells our
    /// workers: what descends from another one can join the group, and is not believed.
    ///
    /// Of a sender that has ended and was reaped only the user is known. It is believed as long as
    /// no other process could have been it: `has_others` tells whether that user has processes
    /// that are not ours.
    pub fn may_speak(
        &self,
        sender: Sender,
        pid: i32,
        is_worker: impl Fn(i32) -> bool,
        has_others: impl FnOnce(u32) -> bool,
    ) -> Result<(), &'static str> {
        let trusted = [0, getuid().as_raw()].contains(&sender.uid);
        let now = || proc::users(pid).is_some_and(|users| users.contains(&sender.uid));
        if !trusted && sender.uid != self.user && !now() {
            return Err("this is not its user");
        }
        if sender.pid == 0 {
            return Err("it is outside our PID namespace");
        }
        if sender.pid == pid {
            return Ok(());
        }
        if proc::stat(std::process::id() as i32).is_none() {
            return Err("there is no /proc that could tell whose process it is");
        }
        let Some(stat) = proc::stat(sender.pid) else {
            let is_known = trusted || !has_others(sender.uid);
            return is_known.then_some(()).ok_or(GONE);
        };
        let lineage = proc::lineage(sender.pid, stat.started);
        let is_orphan = || !lineage.iter().any(|pid| is_worker(*pid));
        let is_its = lineage.contains(&pid) || stat.group == pid && is_orphan();
        is_its.then_some(()).ok_or("it is none of its processes")
    }
}

impl AsFd for WorkerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one datagram. Unknown lines are ignored, and of several STATUS= the first counts, as in
/// systemd. Of a truncated one the last line is dropped: it may be half a line.
fn parse(sender: Sender, datagram: &[u8], truncated: bool) -> WorkerMessage {
    let mut message = WorkerMessage {
        sender,
        ready: false,
        status: None,
    };
    let mut lines: Vec<&[u8]> = datagram.split(|byte| *byte == b'\n').collect();
    if truncated {
        lines.pop();
    }
    for line in lines {
        let line = String::from_utf8_lossy(line);
        match line.trim_end_matches('\0').split_once('=') {
            Some(("READY", "1")) => message.ready = true,
            Some(("STATUS", text)) if message.status.is_none() => {
                message.status = Some(one_line(text));
            }
            _ => {}
        }
    }
    message
}

/// How long it is remembered whether a user has processes that are not ours: to look through /proc
/// is expensive, and must not be repeated for each of many messages.
const REMEMBERED: Duration = Duration::from_millis(100);

/// Whether a user has processes that do not descend from us.
#[derive(Debug, Default)]
pub struct OtherProcesses {
    last: Option<(u32, Instant, bool)>,
}

impl OtherProcesses {
    /// `is_worker`: of a worker's descendants whose parents are gone, the process group is known.
    pub fn exist(&mut self, uid: u32, now: Instant, is_worker: impl Fn(i32) -> bool) -> bool {
        if let Some((user, at, found)) = self.last {
            if user == uid && now - at < REMEMBERED {
                return found;
            }
        }
        let own = std::process::id() as i32;
        // A process that ends meanwhile counts as ours: a worker's short-lived helpers are no
        // reason to refuse another one.
        let is_ours = |pid: i32| {
            proc::stat(pid).is_none_or(|stat| {
                is_worker(stat.group) || proc::lineage(pid, stat.started).contains(&own)
            })
        };
        let is_users = |pid: i32| proc::users(pid).is_some_and(|users| users.contains(&uid));
        let mut all = proc::all().into_iter();
        let found = all.any(|pid| is_users(pid) && !is_ours(pid));
        self.last = Some((uid, now, found));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use nix::unistd::pipe2;
    use std::fs;
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio, id};

    fn socket() -> WorkerSocket {
        WorkerSocket::bind(getuid().as_raw()).unwrap()
    }

    fn sender_to(socket: &WorkerSocket) -> UnixDatagram {
        let sender = UnixDatagram::unbound().unwrap();
        let address = SocketAddr::from_abstract_name(&socket.name()[1..]).unwrap();
        sender.connect_addr(&address).unwrap();
        sender
    }

    fn send_with_fds(sender: &UnixDatagram, text: &str, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let text = [IoSlice::new(text.as_bytes())];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(sender.as_raw_fd(), &text, &rights, MsgFlags::empty(), None).unwrap();
    }

    fn receive(socket: &WorkerSocket) -> WorkerMessage {
        socket.receive().unwrap().expect("a datagram was sent")
    }

    /// Whether a text says that its sender is ready, and its status.
    fn said(text: &[u8]) -> (bool, Option<String>) {
        let message = parse(Sender { pid: 1, uid: 0 }, text, false);
        (message.ready, message.status)
    }

    /// A pipe whose write end, sent away, tells by its hang-up when it has been closed.
    fn barrier() -> (OwnedFd, OwnedFd) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        (read, write)
    }

    /// Other tests fork at the same time, and their children hold all our descriptors until exec.
    fn wait_closed(barrier: &OwnedFd) {
        assert!(
            poll_for(barrier.as_fd(), PollFlags::empty(), 10_000),
            "10 s, and still held"
        );
    }

    fn poll_for(fd: BorrowedFd, events: PollFlags, millis: u16) -> bool {
        let mut fds = [PollFd::new(fd, events)];
        poll(&mut fds, PollTimeout::from(millis)).unwrap() == 1
    }

    fn systemd_notify() -> Option<Command> {
        let mut command = Command::new("systemd-notify");
        let found = command.arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            println!("skipped: systemd-notify is not installed");
            return None;
        }
        Some(Command::new("systemd-notify"))
    }

    #[test]
    fn ready_and_status_are_heard_with_the_senders_pid() {
        let socket = socket();
        sender_to(&socket)
            .send(b"READY=1\nSTATUS=serving 7 clients\n")
            .unwrap();
        let sender = Sender {
            pid: id() as i32,
            uid: getuid().as_raw(),
        };
        let message = WorkerMessage {
            sender,
            ready: true,
            status: Some("serving 7 clients".to_owned()),
        };
        assert_eq!(socket.receive().unwrap(), Some(message));
        assert_eq!(socket.receive().unwrap(), None);
    }

    #[test]
    fn keys_that_mean_nothing_here_are_ignored() {
        let text = b"STOPPING=1\nRELOADING=1\nMONOTONIC_USEC=5\nWATCHDOG=1\nERRNO=13\nMAINPID=77\n\
            EXTEND_TIMEOUT_USEC=1500000\nFDSTORE=1\nX_OWN=1\nno equals sign\n=\n\n";
        assert_eq!(said(text), (false, None));
        assert!(said(&[&text[..], b"READY=1"].concat()).0);
    }

    #[test]
    fn almost_ready_is_not_ready() {
        for text in [
            "READY=0",
            "READY=11",
            "READY= 1",
            "ready=1",
            "XREADY=1",
            "STATUS=READY=1",
        ] {
            assert!(!said(text.as_bytes()).0, "{text}");
        }
        assert!(said(b"READY=1\0").0, "a C string's end");
    }

    #[test]
    fn a_status_is_one_line_and_the_first_one_counts() {
        let (_, status) = said(b"STATUS=\xff\x1b[31mred\0x \nSTATUS=second");
        assert_eq!(status.as_deref(), Some("\u{fffd} [31mred x"));
    }

    #[test]
    fn a_datagram_that_is_too_long_costs_8_kib_and_loses_its_cut_line() {
        let socket = socket();
        let mut text = b"READY=1\nSTATUS=".to_vec();
        text.resize(100_000, b'x');
        sender_to(&socket).send(&text).unwrap();
        let message = receive(&socket);
        assert_eq!((message.ready, message.status), (true, None));
        assert_eq!(socket.receive().unwrap(), None);
    }

    #[test]
    fn a_barrier_is_answered_by_being_read() {
        let socket = socket();
        let (barrier, theirs) = barrier();
        send_with_fds(&sender_to(&socket), "BARRIER=1", &[theirs]);
        let answered = poll_for(barrier.as_fd(), PollFlags::empty(), 0);
        assert!(!answered, "answered before it was read");
        receive(&socket);
        wait_closed(&barrier);
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed_and_the_message_is_heard() {
        let socket = socket();
        let barriers: Vec<_> = (0..253).map(|_| barrier()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = barriers.into_iter().unzip();
        send_with_fds(&sender_to(&socket), "READY=1\nFDSTORE=1", &theirs);
        drop(theirs);
        assert!(receive(&socket).ready);
        ours.iter().for_each(wait_closed);
    }

    #[test]
    fn each_worker_has_a_name_of_its_own_and_the_socket_survives_an_exec_of_ourselves() {
        let (one, other) = (socket(), socket());
        assert_ne!(one.name(), other.name());
        assert!(
            one.name().starts_with('@') && one.name().len() > 32,
            "{}",
            one.name()
        );
        let name = one.name().to_owned();
        let sender = sender_to(&one);
        let again = WorkerSocket::adopt(one.socket.into(), getuid().as_raw()).unwrap();
        assert_eq!(again.name(), name);
        sender.send(b"READY=1").unwrap();
        assert!(receive(&again).ready);
    }

    #[test]
    fn what_is_no_notify_socket_is_not_adopted() {
        let (read, _write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        assert!(WorkerSocket::adopt(read, 0).is_err());
        assert!(WorkerSocket::adopt(UnixDatagram::unbound().unwrap().into(), 0).is_err());
    }

    #[test]
    fn systemd_notify_is_heard_and_let_go() {
        let Some(mut command) = systemd_notify() else {
            return;
        };
        let socket = socket();
        let command = command
            .args(["--ready", "--status=up"])
            .env("NOTIFY_SOCKET", socket.name());
        let mut child = command.spawn().unwrap();
        // What it says, and then the barrier that it waits for.
        wait_readable(&socket);
        let message = receive(&socket);
        assert_eq!(
            (message.ready, message.status),
            (true, Some("up".to_owned()))
        );
        wait_readable(&socket);
        receive(&socket);
        assert!(child.wait().unwrap().success(), "it was not let go");
    }

    #[test]
    fn a_sender_that_is_already_gone_is_heard() {
        let Some(mut command) = systemd_notify() else {
            return;
        };
        let socket = socket();
        let command = command
            .args(["--no-block", "--ready"])
            .env("NOTIFY_SOCKET", socket.name());
        let mut child = command.spawn().unwrap();
        assert!(child.wait().unwrap().success());
        assert!(
            !fs::exists(format!("/proc/{}", child.id())).unwrap(),
            "not reaped"
        );
        assert!(receive(&socket).ready);
    }

    #[test]
    fn a_stranger_is_refused_and_the_workers_user_is_not() {
        if !getuid().is_root() {
            println!("skipped: sending as somebody else needs root");
            return;
        }
        let (stranger, worker) = (65533, 65532);
        let socket = WorkerSocket::bind(worker).unwrap();
        for uid in [stranger, worker] {
            let Some(mut command) = systemd_notify() else {
                return;
            };
            command
                .args(["--no-block", "--ready"])
                .env("NOTIFY_SOCKET", socket.name());
            assert!(command.uid(uid).gid(uid).status().unwrap().success());
        }
        let own = id() as i32;
        for uid in [stranger, worker] {
            let sender = socket.receive().unwrap().unwrap().sender;
            assert_eq!(sender.uid, uid);
            let believed = socket.may_speak(sender, own, |_| false, |_| false);
            assert_eq!(believed.is_ok(), uid == worker, "{uid}: {believed:?}");
            assert!(socket.may_speak(sender, own, |_| false, |_| true).is_err());
        }
    }

    /// A child that stays until its stdin ends, in a process group of its own or in another's.
    fn child(group: i32) -> std::process::Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).process_group(group);
        command.spawn().unwrap()
    }

    fn end(mut child: std::process::Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_living_process_of_the_same_user_that_is_not_the_workers_is_refused() {
        let socket = socket();
        let uid = getuid().as_raw();
        let child = child(0);
        let (worker, own) = (child.id() as i32, id() as i32);
        let may_speak = |pid, worker| {
            let sender = Sender { pid, uid };
            socket.may_speak(sender, worker, |_| false, |_| false)
        };
        assert!(may_speak(own, worker).is_err());
        assert!(may_speak(worker, worker).is_ok());
        assert!(may_speak(worker, own).is_ok(), "it descends from us");
        assert!(may_speak(0, worker).is_err(), "outside our namespace");
        end(child);
    }

    #[test]
    fn a_member_of_the_workers_group_is_believed_unless_it_descends_from_another_worker() {
        let socket = socket();
        let uid = getuid().as_raw();
        let worker = child(0);
        let member = child(worker.id() as i32);
        let (pid, own) = (member.id() as i32, id() as i32);
        let sender = Sender { pid, uid };
        let worker_pid = worker.id() as i32;
        let orphan = socket.may_speak(sender, worker_pid, |_| false, |_| false);
        let of_another = socket.may_speak(sender, worker_pid, |it| it == own, |_| false);
        end(member);
        end(worker);
        assert_eq!(orphan, Ok(()));
        assert!(of_another.is_err());
    }

    #[test]
    fn a_users_processes_are_others_unless_they_descend_from_us_and_that_is_remembered() {
        let mut others = OtherProcesses::default();
        let (uid, now) = (getuid().as_raw(), Instant(1_000_000_000));
        assert!(others.exist(uid, now, |_| false), "the one that started us");
        let nobodys = 3_999_999_999;
        assert!(!others.exist(nobodys, now, |_| false));
        others.last = Some((nobodys, now, true));
        assert!(
            others.exist(nobodys, now, |_| false),
            "looked again at once"
        );
        let later = Instant(now.0 + 100_000_000);
        assert!(!others.exist(nobodys, later, |_| false));
    }

    fn wait_readable(socket: &WorkerSocket) {
        let readable = poll_for(socket.as_fd(), PollFlags::POLLIN, 10_000);
        assert!(readable, "waited 10 s for a datagram");
    }
}
