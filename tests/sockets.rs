//! The listening sockets: which kinds, with which options, what becomes of them in a reload and at
//! the end.

mod common;

use common::{Address, Report, Run, TempDir, facts, net, worker};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;

/// The program on these addresses, with the worker that reports.
fn reporting(listen: &[&str]) -> Run {
    listening(listen, &["report"])
}

fn listening(listen: &[&str], words: &[&str]) -> Run {
    Run::bare()
        .args(
            &listen
                .iter()
                .map(|uri| format!("-listen={uri}"))
                .collect::<Vec<_>>(),
        )
        .arg("-start=0")
        .arg(format!("-command={}", worker()))
        .arg("--")
        .args(words)
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// Ends with status 1; the log, which contains all the texts.
#[track_caller]
fn refuses(run: Run, texts: &[&str]) -> String {
    let output = run.output();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    for text in texts {
        assert!(log.contains(text), "{text:?} is not in: {log}");
    }
    log
}

#[test]
fn tcp_without_a_host_answers_both_families() {
    let daemon = listening(&["tcp://:0"], &["http"]).start();
    let port = daemon.address().port();
    let pid = daemon.worker_that_said("up");
    assert_eq!(
        Address::parse(&format!("tcp://127.0.0.1:{port}")).answering_pid(),
        pid
    );
    if has_ipv6() {
        daemon.wait_for_line(&format!("Listening on tcp://[::]:{port}"));
        assert_eq!(
            Address::parse(&format!("tcp://[::1]:{port}")).answering_pid(),
            pid
        );
    }
}

#[test]
fn tcp4_and_tcp6_are_strict() {
    let daemon = reporting(&["tcp4://:0"]).start();
    daemon.wait_for_line("Listening on tcp4://0.0.0.0:");
    if !has_ipv6() {
        return common::skip("no IPv6");
    }
    let daemon = reporting(&["tcp6://:0"]).start();
    let Address::Tcp(address) = daemon.address() else {
        panic!("a TCP address")
    };
    assert!(Report::first(&daemon).fd(3).contains("v6only=true"));
    let v4 = TcpStream::connect(("127.0.0.1", address.port()));
    assert!(v4.is_err(), "an IPv4 client reached a tcp6 socket");
}

#[test]
fn port_0_works_and_the_bound_address_is_logged() {
    let daemon = listening(&["tcp://127.0.0.1:0"], &["http"]).start();
    assert_ne!(daemon.address().port(), 0);
    assert_eq!(
        daemon.address().answering_pid(),
        daemon.worker_that_said("up")
    );
}

#[test]
fn service_and_host_names_are_resolved() {
    let daemon = listening(&["tcp://localhost:0"], &["http"]).start();
    daemon.worker_that_said("up");
    assert!(daemon.address().get().is_ok());
    // Port names are known as in the original; "http" needs no right that root lacks.
    let log = Run::bare()
        .args(&[
            "-check",
            "-listen=tcp://127.0.0.1:http",
            &format!("-command={}", worker()),
        ])
        .output();
    assert_eq!(
        log.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&log.stderr)
    );
}

#[test]
fn a_port_can_be_bound_again_right_after_a_stop() {
    let first = listening(&["tcp://127.0.0.1:0"], &["http"]).start();
    first.worker_that_said("up");
    let address = first.address();
    // The server closes first, which leaves its side in TIME_WAIT.
    address.get().expect("it answers");
    assert_eq!(first.stop(), 0);
    let uri = format!("tcp://127.0.0.1:{}", address.port());
    let second = listening(&[&uri], &["http"]).start();
    assert_eq!(second.address(), address);
    assert_eq!(
        second.address().answering_pid(),
        second.worker_that_said("up")
    );
}

#[test]
fn a_port_in_use_is_refused_with_the_system_s_word() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let uri = format!("tcp://{}", other.local_addr().expect("it is bound"));
    refuses(
        reporting(&[&uri]),
        &["cannot bind", &uri, "Address already in use"],
    );
}

#[test]
fn sockets_are_at_3_4_5_in_the_order_given_with_their_own_kinds() {
    let dir = TempDir::new();
    let uris = [
        "tcp://127.0.0.1:0".to_owned(),
        format!("unix://{}", dir.word("stream")),
        "udp://127.0.0.1:0".to_owned(),
        format!("unixpacket://{}", dir.word("packet")),
        format!("unixgram://{}", dir.word("datagram")),
        "udp4://127.0.0.1:0".to_owned(),
    ];
    let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
    let daemon = reporting(&uris).start();
    let report = Report::first(&daemon);
    for (fd, wanted) in [
        (3, "type=Stream listening=true reuseaddr=true"),
        (4, "type=Stream listening=true"),
        (5, "type=Datagram listening=false"),
        (6, "type=SeqPacket listening=true"),
        (7, "type=Datagram listening=false"),
        (8, "type=Datagram listening=false"),
    ] {
        assert!(report.fd(fd).contains(wanted), "fd {fd}: {}", report.fd(fd));
        assert!(
            report.fd(fd).contains("cloexec=false"),
            "fd {fd}: {}",
            report.fd(fd)
        );
    }
    assert_eq!(report.fd_numbers(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn datagrams_reach_the_worker() {
    let dir = TempDir::new();
    let daemon = listening(&["udp://127.0.0.1:0"], &["echo"]).start();
    daemon.worker_that_said("up");
    let Address::Tcp(address) = daemon.address() else {
        panic!("an IP address")
    };
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    client.send_to(b"over udp", address).expect("it is sent");
    daemon.wait_for_line("datagram over udp");

    let daemon = listening(&[&format!("unixgram://{}", dir.word("gram"))], &["echo"]).start();
    daemon.worker_that_said("up");
    let client = UnixDatagram::unbound().expect("a socket");
    client
        .send_to(b"over unix", dir.join("gram"))
        .expect("it is sent");
    daemon.wait_for_line("datagram over unix");
}

#[test]
fn a_backlog_is_4096_unless_given_and_a_clamp_is_said() {
    let most: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .expect("Linux says somaxconn");
    let too_much = most + 1;
    let uris = [
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:0?backlog=7",
        &format!("tcp://127.0.0.1:0?backlog={too_much}"),
    ];
    let daemon = reporting(&uris).start();
    let report = Report::first(&daemon);
    assert!(
        report
            .fd(3)
            .contains(&format!("backlog={}", most.min(4096))),
        "{}",
        report.fd(3)
    );
    assert!(report.fd(4).contains("backlog=7"), "{}", report.fd(4));
    assert!(
        report.fd(5).contains(&format!("backlog={most}")),
        "{}",
        report.fd(5)
    );
    let clamp = daemon.wait_for_line(&too_much.to_string());
    assert!(clamp.contains(&most.to_string()), "{clamp}");
}

#[test]
fn reuseport_is_set_only_when_asked_for() {
    let daemon = reporting(&["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?reuseport"]).start();
    let report = Report::first(&daemon);
    assert!(report.fd(3).contains("reuseport=false"), "{}", report.fd(3));
    assert!(report.fd(4).contains("reuseport=true"), "{}", report.fd(4));
}

#[test]
fn a_unix_socket_has_the_rights_of_the_umask_unless_given() {
    let dir = TempDir::new();
    let plain = format!("unix://{}", dir.word("plain"));
    let given = format!("unix://{}?mode=0660", dir.word("given"));
    let daemon = reporting(&[&plain, &given])
        .after_shell("umask 027")
        .start();
    let report = Report::first(&daemon);
    let mode = |name: &str| {
        fs::metadata(dir.join(name))
            .expect("the socket is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("plain"), 0o750);
    assert_eq!(mode("given"), 0o660);
    assert_eq!(
        report.fact("Umask"),
        "0027",
        "the umask is the worker's again"
    );
}

#[test]
fn a_unix_socket_can_be_given_to_an_owner_and_a_group() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let uri = format!("unix://{}?mode=0600&owner=nobody&group=1234", dir.word("s"));
    let daemon = reporting(&[&uri]).start();
    Report::first(&daemon);
    let found = fs::metadata(dir.join("s")).expect("the socket is there");
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (65534, 1234, 0o600)
    );
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let dir = TempDir::new();
    drop(UnixListener::bind(dir.join("s")).expect("it can be bound"));
    let daemon = listening(&[&format!("unix://{}", dir.word("s"))], &["http"]).start();
    assert_eq!(
        daemon.address().answering_pid(),
        daemon.worker_that_said("up")
    );
}

#[test]
fn a_living_unix_socket_is_left_alone() {
    let dir = TempDir::new();
    let other = UnixListener::bind(dir.join("s")).expect("it can be bound");
    let uri = format!("unix://{}", dir.word("s"));
    refuses(
        reporting(&[&uri]),
        &["cannot bind", &dir.word("s"), "in use"],
    );
    let client = UnixStream::connect(dir.join("s")).expect("the other one is still there");
    // Two are queued: what asked whether somebody lives there, and ours.
    other.accept().expect("the question");
    other.accept().expect("the client");
    drop(client);
}

#[test]
fn a_living_datagram_socket_is_left_alone() {
    let dir = TempDir::new();
    let _other = UnixDatagram::bind(dir.join("s")).expect("it can be bound");
    for scheme in ["unix", "unixgram"] {
        let uri = format!("{scheme}://{}", dir.word("s"));
        refuses(reporting(&[&uri]), &["cannot bind", &dir.word("s")]);
        assert!(fs::symlink_metadata(dir.join("s")).is_ok_and(|m| m.file_type().is_socket()));
    }
}

#[test]
fn a_file_that_is_no_socket_is_never_replaced() {
    let dir = TempDir::new();
    dir.write("s", "precious");
    refuses(
        reporting(&[&format!("unix://{}", dir.word("s"))]),
        &[&dir.word("s")],
    );
    assert_eq!(
        fs::read_to_string(dir.join("s")).expect("it is there"),
        "precious"
    );
}

#[test]
fn a_unix_path_is_removed_at_the_stop_with_everything_of_ours_beside_it() {
    let dir = TempDir::new();
    let daemon = listening(&[&format!("unix://{}", dir.word("s"))], &["http"]).start();
    daemon.worker_that_said("up");
    assert!(dir.names().contains(&"s".to_owned()));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(dir.names(), [] as [&str; 0]);
}

#[test]
fn a_unix_path_that_is_somebody_else_s_by_now_is_not_removed() {
    let dir = TempDir::new();
    let daemon = listening(&[&format!("unix://{}", dir.word("s"))], &["up"]).start();
    daemon.worker_that_said("up");
    let theirs = UnixListener::bind(dir.join("new")).expect("it can be bound");
    fs::rename(dir.join("new"), dir.join("s")).expect("the directory is ours");
    assert_eq!(daemon.stop(), 0);
    assert!(
        UnixStream::connect(dir.join("s")).is_ok(),
        "the other's socket is gone"
    );
    drop(theirs);
}

#[test]
fn a_unix_path_is_removed_when_a_later_socket_cannot_be_opened() {
    let dir = TempDir::new();
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let tcp = format!("tcp://{}", busy.local_addr().expect("it is bound"));
    refuses(
        reporting(&[&format!("unix://{}", dir.word("s")), &tcp]),
        &["cannot bind"],
    );
    assert_eq!(dir.names(), [] as [&str; 0]);
}

#[test]
fn an_abstract_name_is_in_no_file_system() {
    let dir = TempDir::new();
    let name = format!("unix://@{}", dir.word("name"));
    let daemon = listening(&[&name], &["http"]).start();
    assert_eq!(
        daemon.address().answering_pid(),
        daemon.worker_that_said("up")
    );
    refuses(reporting(&[&name]), &["ddress already in use"]);
    assert_eq!(dir.names(), [] as [&str; 0]);
}

#[test]
fn an_inherited_socket_is_taken_by_its_number() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    for number in [3, 4, 9, 200] {
        let copy = OwnedFd::from(listener.try_clone().expect("a descriptor is free"));
        let daemon = listening(
            &["tcp://127.0.0.1:0", &format!("fd://{number}")],
            &["report"],
        )
        .after_shell(&inherit(number))
        .stdin(Stdio::from(copy))
        .start();
        let report = Report::first(&daemon);
        assert!(
            report.fd(4).contains("listening=true"),
            "fd://{number}: {}",
            report.fd(4)
        );
        assert_eq!(report.fd_numbers(), [0, 1, 2, 3, 4], "fd://{number}");
        let shown = daemon.address_number(1);
        assert_eq!(shown, Address::Tcp(address), "fd://{number}");
    }
}

/// Shell that moves stdin to this number. dash knows numbers up to 9 only.
fn inherit(number: i32) -> String {
    match number {
        0..=9 => format!("exec {number}<&0 0</dev/null"),
        _ => format!("exec bash -c 'exec {number}<&0 0</dev/null; exec \"$@\"' sh \"$@\""),
    }
}

#[test]
fn a_socket_from_systemd_is_taken_by_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web";
    let daemon = listening(&["systemd://web"], &["http"])
        .after_shell(script)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .start();
    let pid = daemon.worker_that_said("up");
    assert_eq!(Address::Tcp(address).answering_pid(), pid);
    refuses(listening(&["systemd://web"], &["http"]), &["systemd://web"]);
}

#[test]
fn an_inherited_descriptor_is_checked_before_anything_is_promised() {
    let plain = || Stdio::from(fs::File::open("/dev/null").expect("it is there"));
    let start = |stdin: Stdio| reporting(&["fd://7"]).after_shell(&inherit(7)).stdin(stdin);
    refuses(start(plain()), &["fd://7", "socket"]);
    let (connected, _other) = UnixStream::pair().expect("a pair");
    refuses(
        start(Stdio::from(OwnedFd::from(connected))),
        &["fd://7", "listen"],
    );
    refuses(reporting(&["fd://7"]), &["fd://7"]);
}

#[test]
fn a_reload_neither_closes_nor_binds_a_socket() {
    let dir = TempDir::new();
    let uris = [
        "tcp://127.0.0.1:0",
        &format!("unix://{}", dir.word("s")),
        "udp://127.0.0.1:0",
    ];
    let daemon = reporting(&uris).start();
    let first = Report::first(&daemon);
    let inode = fs::metadata(dir.join("s")).expect("it is there").ino();
    daemon.reload();
    let second = Report::number(&daemon, 1);
    for fd in 3..=5 {
        let same = |report: &Report| report.fd(fd).split(' ').next().map(str::to_owned);
        assert_eq!(same(&first), same(&second), "fd {fd}");
    }
    assert_eq!(
        fs::metadata(dir.join("s")).expect("it is there").ino(),
        inode
    );
    assert_eq!(daemon.count("Listening on"), 3);
}

#[test]
fn the_nonblocking_flag_that_a_worker_set_survives_a_reload() {
    // The example server sets O_NONBLOCK on the socket, which all holders share.
    let dir = TempDir::new();
    let behaviour = dir.write("now", "http");
    let word = behaviour.to_str().expect("UTF-8");
    let daemon = listening(&["tcp://127.0.0.1:0"], &["from", word]).start();
    daemon.worker_that_said("up");
    dir.write("now", "report");
    daemon.reload();
    assert!(Report::first(&daemon).fd(3).contains("nonblock=true"));
}

#[test]
fn clients_queued_while_no_worker_accepts_are_served_by_the_next_one() {
    let dir = TempDir::new();
    let behaviour = dir.write("now", "up");
    let word = behaviour.to_str().expect("UTF-8");
    let daemon = listening(&["tcp://127.0.0.1:0"], &["from", word]).start();
    daemon.worker_that_said("up");
    let mut waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut client = daemon.address().connect().expect("nobody is refused");
            net::send_request(client.as_mut(), "/").expect("it is queued");
            client
        })
        .collect();
    dir.write("now", "http");
    daemon.reload();
    let answered: Vec<i32> = waiting
        .iter_mut()
        .map(|client| net::pid_in(&net::read_answer(client.as_mut()).expect("an answer")))
        .collect();
    assert_eq!(answered, vec![daemon.worker_that_said("up, version"); 20]);
}

#[test]
fn a_stop_closes_our_copies_at_once_while_a_worker_drains() {
    let dir = TempDir::new();
    let listen = [
        format!("-listen=unix://{}", dir.word("s")),
        "-start=0".to_owned(),
    ];
    let daemon = Run::worker(&listen, &["drain", &dir.word("end")]).start();
    let worker = daemon.worker_that_said("up");
    let sockets: Vec<String> = facts::open_fds(worker)
        .into_iter()
        .filter(|(number, _)| (3..=4).contains(number))
        .map(|(_, socket)| socket)
        .collect();
    assert_eq!(sockets.len(), 2);
    daemon.signal(Signal::SIGTERM);
    daemon.worker_that_said("draining");
    daemon.wait_until(
        "our copies of the sockets to be closed and the path removed",
        || {
            let ours = facts::open_fds(daemon.pid());
            ours.iter().all(|(_, what)| !sockets.contains(what)) && !dir.join("s").exists()
        },
    );
    assert!(daemon.exit_status().is_none(), "it waits for its worker");
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}
