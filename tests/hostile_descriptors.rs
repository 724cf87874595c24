//! What workers and clients can do to us through descriptors: the stdin that a worker is given, and
//! what comes with a message.

mod common;

use common::control::{Client, Place};
use common::{Daemon, Run, TempDir, facts, root_or_skip};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt,
    socket, sockopt,
};
use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// A worker that says the line on its stdin, then lives on.
fn forger() -> Run {
    Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-command=sh",
            "--",
            "-c",
        ])
        .arg("echo forged >&0 2>/dev/null; echo tried; exec sleep 60")
}

/// Waits for the worker's honest line in what we logged, and returns all of it.
fn logged(daemon: &Daemon, read: impl Fn() -> String) -> String {
    daemon.wait_for("the worker's own line", || {
        let log = read();
        log.contains("] tried\n").then_some(log)
    })
}

#[test]
fn a_worker_cannot_forge_our_log_through_a_stdin_that_is_our_stderr_s_socket() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("it can be set");
    let copy = theirs.try_clone().expect("a copy");
    let daemon = forger()
        .stdin(Stdio::from(OwnedFd::from(copy)))
        .start_with_stderr(Stdio::from(OwnedFd::from(theirs)));
    let text = std::cell::RefCell::new(Vec::new());
    let log = logged(&daemon, || {
        // It is non-blocking: what is there is read, and then an error says that this was all.
        let _ = (&ours).read_to_end(&mut text.borrow_mut());
        String::from_utf8_lossy(&text.borrow()).into_owned()
    });
    assert!(!log.lines().any(|line| line == "forged"), "{log}");
}

#[test]
fn a_worker_cannot_forge_our_log_through_a_stdin_that_is_our_log_file() {
    let dir = TempDir::new();
    let path = dir.write("log", "");
    let open = |append| {
        let mut options = File::options();
        options.read(true).write(true).append(append);
        options.open(&path).expect("it is ours")
    };
    // The same open file, and another of the same file.
    for stdin in [None, Some(open(true)), Some(open(false))] {
        let stderr = open(true);
        let stdin = stdin.unwrap_or_else(|| stderr.try_clone().expect("a copy"));
        let daemon = forger()
            .stdin(Stdio::from(stdin))
            .start_with_stderr(Stdio::from(stderr));
        let log = logged(&daemon, || fs::read_to_string(&path).expect("it is ours"));
        assert!(!log.lines().any(|line| line.ends_with("forged")), "{log}");
        fs::write(&path, "").expect("it is ours");
    }
}

#[test]
fn a_stdin_that_is_also_our_stdout_is_not_the_worker_s() {
    let dir = TempDir::new();
    let path = dir.write("both", "");
    let words = [
        "sh",
        "-c",
        &format!("exec \"$@\" <>{0} >&0", path.display()),
        "sh",
    ];
    let daemon = forger().through(&words).start();
    daemon.wait_for_line("] tried");
    assert_eq!(fs::read_to_string(&path).expect("it is ours"), "");
}

#[test]
fn a_stdin_of_its_own_still_reaches_the_worker() {
    let (end, start) = nix::unistd::pipe().expect("a pipe");
    nix::unistd::write(&start, b"hello\n").expect("it has room");
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-command=sh",
            "--",
            "-c",
        ])
        .arg("read word; echo \"got $word\"; exec sleep 60")
        .stdin(Stdio::from(end))
        .start();
    daemon.wait_for_line("] got hello");
}

/// Where its worker's messages go.
fn notify_address(daemon: &Daemon) -> UnixAddr {
    let worker = daemon.workers()[0];
    let environment = fs::read(format!("/proc/{worker}/environ")).expect("we are root");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let name = environment
        .split('\0')
        .find_map(|entry| entry.strip_prefix("NOTIFY_SOCKET=@"))
        .expect("it has one");
    UnixAddr::new_abstract(name.as_bytes()).expect("it is short")
}

/// A TCP socket with bytes that nobody reads, whose last close waits for hours (SO_LINGER), and its
/// other end.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut stream =
        TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (other, _) = listener.accept().expect("a client");
    stream.set_nonblocking(true).expect("a socket");
    while stream.write(&[0; 65536]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 30_000,
    };
    setsockopt(&stream, sockopt::Linger, &linger).expect("a socket");
    (stream, other)
}

/// Sends five such sockets, one a message, and keeps no copy. The program is stopped meanwhile: it
/// must be the one that closes the last copy.
fn send_lingering(
    daemon: &Daemon,
    to: &impl AsRawFd,
    bytes: &[u8],
    address: Option<&UnixAddr>,
) -> Vec<TcpStream> {
    daemon.signal(Signal::SIGSTOP);
    let send = |_| {
        let (stream, other) = lingering();
        let descriptors = [stream.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(bytes)];
        sendmsg(to.as_raw_fd(), &data, &rights, MsgFlags::empty(), address).expect("it is taken");
        other
    };
    let others = (0..5).map(send).collect();
    daemon.signal(Signal::SIGCONT);
    others
}

#[test]
fn descriptors_that_linger_do_not_make_us_deaf_to_a_stop() {
    if !root_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-ready=notify"], &["ready"]).start();
    daemon.wait_until_live();
    let address = notify_address(&daemon);
    let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    let sender = socket(AddressFamily::Unix, kind, flags, None).expect("a socket");
    let _others = send_lingering(&daemon, &sender, b"X_NOTHING=1\n", Some(&address));
    daemon.wait_until_idle();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn descriptors_that_linger_do_not_keep_a_client_s_neighbour_waiting() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=0"]);
    place.wait_for_socket(&daemon);
    let client = Client::connect(&place.socket());
    let _others = send_lingering(
        &daemon,
        client.stream.get_ref(),
        b"{\"command\": \"ping\"}\n",
        None,
    );
    assert!(
        place
            .client()
            .ask("{\"command\": \"ping\"}")
            .contains("pid")
    );
    // What was not read when its connection closes is closed then.
    let gone = Client::connect(&place.socket());
    let _more = send_lingering(
        &daemon,
        gone.stream.get_ref(),
        b"{\"command\": \"worker:ping\"}\n",
        None,
    );
    drop((client, gone));
    assert!(
        place
            .client()
            .ask("{\"command\": \"ping\"}")
            .contains("pid")
    );
    assert_eq!(daemon.stop(), 0);
}

/// Sends these bytes with as many copies of our stdin as a message can carry.
fn send_with_descriptors(to: &impl AsRawFd, bytes: &[u8], address: Option<&UnixAddr>) {
    let null = File::open("/dev/null").expect("it is there");
    let descriptors = vec![null.as_raw_fd(); 253];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let data = [IoSlice::new(bytes)];
    sendmsg(to.as_raw_fd(), &data, &rights, MsgFlags::empty(), address).expect("it is taken");
}

#[test]
fn descriptors_that_come_with_requests_are_closed() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=0"]);
    place.wait_for_socket(&daemon);
    let mut client = Client::connect(&place.socket());
    client.ask("{\"command\": \"ping\", \"id\": 1}");
    let before = facts::open_fds(daemon.real_pid());
    for _ in 0..8 {
        let request = b"{\"command\": \"ping\", \"id\": 2}\n";
        send_with_descriptors(client.stream.get_ref(), request, None);
        assert!(client.answer()["message"].is_string());
    }
    // It may be reading a file of /proc at this moment.
    let now = || facts::open_fds(daemon.real_pid());
    daemon.wait_until("the descriptors of before", || now() == before);
}

#[test]
fn descriptors_that_come_with_a_worker_s_messages_are_closed() {
    if !root_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-ready=notify"], &["ready"]).start();
    daemon.wait_until_live();
    let address = notify_address(&daemon);
    let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    let sender = socket(AddressFamily::Unix, kind, flags, None).expect("a socket");
    let before = facts::open_fds(daemon.real_pid());
    for _ in 0..8 {
        send_with_descriptors(&sender, b"X_NOTHING=1\n", Some(&address));
    }
    // The last one is told to be over by the kernel: the pipe's other end has been closed.
    let (end, start) = nix::unistd::pipe().expect("a pipe");
    let rights = [start.as_raw_fd()];
    let barrier = [ControlMessage::ScmRights(&rights)];
    let data = [IoSlice::new(b"BARRIER=1\n")];
    let none = MsgFlags::empty();
    sendmsg(sender.as_raw_fd(), &data, &barrier, none, Some(&address)).expect("it is taken");
    drop(start);
    let mut nothing = Vec::new();
    File::from(end).read_to_end(&mut nothing).expect("a pipe");
    // It may be reading a file of /proc at this moment.
    let now = || facts::open_fds(daemon.real_pid());
    daemon.wait_until("the descriptors of before", || now() == before);
}
