use super::*;
use crate::listen::tests::{
    Folder, accepts, close, free_address, leave_stale, open, open_unix, pass_on, port, uri,
};
use crate::listen::{Inherited, open_all};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

/// What a worker does to a socket that it shares with us.
fn shut_down(listener: &Listener, how: Shutdown) {
    shutdown(listener.fd.as_raw_fd(), how).unwrap();
}

fn failure(repair: Repair) -> String {
    match repair {
        Repair::Failed(error) => error,
        other => panic!("{other:?} instead of a failure"),
    }
}

#[test]
fn a_tcp_socket_that_was_shut_down_accepts_again() {
    for (text, how) in [
        ("127.0.0.1:0", Shutdown::Both),
        (":0", Shutdown::Both),
        ("127.0.0.1:0", Shutdown::Read),
    ] {
        let mut listener = open(&format!("tcp://{text}"));
        let port = port(&listener);
        shut_down(&listener, how);
        TcpStream::connect(("127.0.0.1", port)).expect_err("it was shut down");
        assert_eq!(check(&listener), Fault::ShutDown);
        assert!(matches!(repair(&mut listener), Repair::Revived));
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        accepts(&listener);
        assert!(matches!(repair(&mut listener), Repair::Nothing));
    }
}

#[test]
fn a_tcp_socket_with_a_port_of_its_own_choice_is_revived_too() {
    let mut listener = open(&free_address());
    shut_down(&listener, Shutdown::Both);
    assert!(matches!(repair(&mut listener), Repair::Revived));
    TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    accepts(&listener);
}

/// The server's first bytes reach a client: no connection is at its end from the beginning.
fn serves(listener: &Listener) {
    let port = port(listener);
    let client = std::thread::spawn(move || {
        let mut byte = [0];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Read::read(&mut stream, &mut byte).map(|length| (length, byte[0]))
    });
    let server = std::net::TcpListener::from(listener.fd.try_clone().unwrap());
    let (mut stream, _) = server.accept().unwrap();
    let _ = std::io::Write::write(&mut stream, b"x");
    assert_eq!(client.join().unwrap().unwrap(), (1, b'x'));
}

#[test]
fn a_tcp_socket_that_was_shut_down_twice_has_no_connections_that_are_at_their_end() {
    let mut listener = open("tcp://127.0.0.1:0");
    shut_down(&listener, Shutdown::Both);
    // ENOTCONN, and it has left its mark.
    let _ = shutdown(listener.fd.as_raw_fd(), Shutdown::Both);
    assert!(matches!(repair(&mut listener), Repair::Revived));
    serves(&listener);
}

#[test]
fn a_tcp_socket_that_was_connected_elsewhere_listens_again() {
    let other = open("tcp://127.0.0.1:0");
    let mut listener = open(&free_address());
    shut_down(&listener, Shutdown::Both);
    let elsewhere = std::net::SocketAddr::from(([127, 0, 0, 1], port(&other)));
    let elsewhere = SockaddrStorage::from(elsewhere);
    nix::sys::socket::connect(listener.fd.as_raw_fd(), &elsewhere).unwrap();
    assert!(matches!(repair(&mut listener), Repair::Revived));
    serves(&listener);
}

#[test]
fn running_workers_have_the_revived_socket() {
    let mut listener = open("tcp://127.0.0.1:0");
    let workers = std::net::TcpListener::from(listener.fd.try_clone().unwrap());
    workers.set_nonblocking(true).unwrap();
    shut_down(&listener, Shutdown::Both);
    repair(&mut listener);
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    workers.accept().unwrap();
}

#[test]
fn a_half_closed_tcp_listener_still_serves_and_is_left_alone() {
    let listener = open("tcp://127.0.0.1:0");
    shut_down(&listener, Shutdown::Write);
    assert_eq!(check(&listener), Fault::None);
    TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
}

#[test]
fn a_removed_path_is_linked_back_and_the_queue_is_kept() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    let _early = UnixStream::connect(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(check(&listener), Fault::PathLost);
    assert!(matches!(repair(&mut listener), Repair::Relinked));
    let _late = UnixStream::connect(&path).unwrap();
    accepts(&listener);
    accepts(&listener);
    assert!(matches!(repair(&mut listener), Repair::Nothing));
    listener.remove();
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn the_path_of_a_datagram_socket_is_linked_back_too() {
    let folder = Folder::new();
    let path = folder.join("d");
    let mut listener = open(&format!("unixgram://{}", path.display()));
    fs::remove_file(&path).unwrap();
    assert!(matches!(repair(&mut listener), Repair::Relinked));
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"x", &path)
        .unwrap();
}

#[test]
fn a_renamed_path_and_a_stale_socket_in_its_place_are_healed() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    fs::rename(&path, folder.join("elsewhere")).unwrap();
    leave_stale(&path);
    assert!(matches!(repair(&mut listener), Repair::Relinked));
    UnixStream::connect(&path).unwrap();
    accepts(&listener);
}

#[test]
fn a_path_with_a_socket_that_answers_is_not_taken_and_said_once() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    let wanted = format!(
        "cannot link back unix://{}: Address already in use",
        path.display()
    );
    assert_eq!(failure(repair(&mut listener)), wanted);
    assert!(
        matches!(repair(&mut listener), Repair::Nothing),
        "it is said already"
    );
    close(theirs);
    assert!(
        matches!(repair(&mut listener), Repair::Relinked),
        "the other one is gone"
    );
}

#[test]
fn a_unix_socket_that_was_shut_down_is_bound_anew() {
    for how in [Shutdown::Both, Shutdown::Read] {
        let folder = Folder::new();
        let path = folder.join("s");
        let mut listener = open_unix(&path);
        let before = listener.fd.as_raw_fd();
        shut_down(&listener, how);
        UnixStream::connect(&path).expect_err("it was shut down");
        assert_eq!(check(&listener), Fault::ShutDown);
        let Repair::Rebound(old) = repair(&mut listener) else {
            panic!("not bound anew")
        };
        assert_eq!(old.as_raw_fd(), before);
        UnixStream::connect(&path).unwrap();
        accepts(&listener);
        assert!(matches!(repair(&mut listener), Repair::Nothing));
        listener.remove();
        assert_eq!(folder.names(), [""; 0]);
    }
}

#[test]
fn a_path_is_bound_anew_when_both_names_are_gone() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    folder
        .names()
        .iter()
        .for_each(|name| fs::remove_file(folder.join(name)).unwrap());
    assert!(matches!(repair(&mut listener), Repair::Rebound(_)));
    UnixStream::connect(&path).unwrap();
    accepts(&listener);
}

#[test]
fn a_directory_that_vanished_is_said_and_healed_when_it_is_back() {
    let folder = Folder::new();
    let inner = folder.join("run");
    fs::create_dir(&inner).unwrap();
    let mut listener = open_unix(&inner.join("s"));
    fs::remove_dir_all(&inner).unwrap();
    let error = failure(repair(&mut listener));
    assert!(
        error.ends_with("run/s: No such file or directory"),
        "{error}"
    );
    assert!(
        matches!(repair(&mut listener), Repair::Nothing),
        "it is said already"
    );
    fs::create_dir(&inner).unwrap();
    assert!(matches!(repair(&mut listener), Repair::Rebound(_)));
    UnixStream::connect(inner.join("s")).unwrap();
}

#[test]
fn an_abstract_name_is_bound_anew_when_the_last_worker_has_let_go() {
    let name = format!("unix://@socketmaster-test-{}-guard", std::process::id());
    let mut listener = open(&name);
    shut_down(&listener, Shutdown::Both);
    let error = failure(repair(&mut listener));
    assert_eq!(error, format!("cannot bind {name}: Address already in use"));
}

#[test]
fn an_inherited_unix_socket_that_was_shut_down_is_not_ours_to_replace() {
    let folder = Folder::new();
    let path = folder.join("s");
    let number = pass_on(UnixListener::bind(&path).unwrap());
    let mut opened = open_all(&[uri(&format!("fd://{number}"))], &Inherited::default()).unwrap();
    let listener = &mut opened.listeners[0];
    fs::remove_file(&path).unwrap();
    assert!(matches!(repair(listener), Repair::Relinked));
    shut_down(listener, Shutdown::Both);
    let error = failure(repair(listener));
    assert!(
        error.ends_with("it belongs to whoever passed it to us"),
        "{error}"
    );
}

#[test]
fn the_guard_hears_of_a_removed_renamed_or_replaced_path_and_of_nothing_else() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    let mut guard = Guard::new().unwrap();
    guard.watch(0, &listener).unwrap();
    fs::write(folder.join("other"), "noise").unwrap();
    fs::remove_file(folder.join("other")).unwrap();
    assert!(!guard.drain(), "other files are not ours to watch");
    let harms: [&dyn Fn(); 3] = [
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::rename(&path, folder.join("moved")).unwrap(),
        &|| {
            leave_stale(&folder.join("new"));
            fs::rename(folder.join("new"), &path).unwrap();
        },
    ];
    for harm in harms {
        harm();
        assert!(guard.drain());
        assert!(matches!(repair(&mut listener), Repair::Relinked));
        guard.drain();
        assert!(
            matches!(repair(&mut listener), Repair::Nothing),
            "our own repair is no news"
        );
    }
}

#[test]
fn the_guard_watches_what_was_bound_anew() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    let mut guard = Guard::new().unwrap();
    guard.watch(0, &listener).unwrap();
    shut_down(&listener, Shutdown::Both);
    assert!(matches!(repair(&mut listener), Repair::Rebound(_)));
    guard.watch(0, &listener).unwrap();
    guard.drain();
    fs::remove_file(&path).unwrap();
    assert!(guard.drain());
    assert!(matches!(repair(&mut listener), Repair::Relinked));
}

#[test]
fn the_guard_watches_a_file_whose_hidden_link_was_removed() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    let mut guard = Guard::new().unwrap();
    guard.watch(0, &listener).unwrap();
    let link = listener.file.as_ref().and_then(|file| file.link());
    fs::remove_file(link.unwrap()).unwrap();
    guard = Guard::new().unwrap();
    guard.watch(0, &listener).unwrap();
    guard.drain();
    assert!(matches!(repair(&mut listener), Repair::Nothing));
    guard.drain();
    fs::remove_file(&path).unwrap();
    assert!(guard.drain());
    assert!(matches!(repair(&mut listener), Repair::Relinked));
}

#[test]
fn sockets_without_a_path_need_no_watch() {
    let mut guard = Guard::new().unwrap();
    assert_eq!(guard.watch(0, &open("tcp://127.0.0.1:0")), Ok(false));
}
