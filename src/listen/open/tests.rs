use super::*;
use crate::listen::tests::{
    Folder, accepts, free_address, leave_stale, open, open_unix, pass_on, port, unix_uri, uri,
};
use nix::sys::socket::{SockType, getsockopt};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

fn no_one() -> Inherited {
    Inherited::default()
}

fn passed(sockets: &[(RawFd, &str)]) -> Inherited {
    let one = |(fd, name): &(RawFd, &str)| Passed {
        fd: *fd,
        name: (*name).to_owned(),
    };
    Inherited {
        passed: sockets.iter().map(one).collect(),
        none_because: None,
    }
}

fn refusal(uris: &[Uri], inherited: &Inherited) -> String {
    open_all(uris, inherited).unwrap_err().to_string()
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn tcp_on_all_addresses_serves_ipv4_and_ipv6() {
    for text in ["tcp://:0", "tcp://0.0.0.0:0", "tcp://[::]:0"] {
        let listener = open(text);
        TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
        accepts(&listener);
        if has_ipv6() {
            TcpStream::connect(("::1", port(&listener))).unwrap();
            accepts(&listener);
            assert_eq!(
                listener.address(),
                format!("tcp://[::]:{}", port(&listener))
            );
        }
    }
}

#[test]
fn tcp4_and_tcp6_are_strict() {
    let v4 = open("tcp4://:0");
    TcpStream::connect(("127.0.0.1", port(&v4))).unwrap();
    assert_eq!(v4.as_socket().family, "AF_INET");
    if has_ipv6() {
        let v6 = open(&format!("tcp6://:{}", port(&v4)));
        TcpStream::connect(("::1", port(&v6))).unwrap();
        accepts(&v6);
        assert_eq!(v6.as_socket().family, "AF_INET6");
    }
}

#[test]
fn names_of_hosts_and_services_resolve_and_ipv4_comes_first() {
    assert_eq!(open("tcp://localhost:0").as_socket().family, "AF_INET");
    let http = uri("tcp4://:http");
    let found = candidates(&http);
    match found {
        Ok(found) => assert_eq!(found, ["0.0.0.0:80".parse().unwrap()]),
        Err(error) => eprintln!("skipped: no /etc/services here: {error}"),
    }
}

#[test]
fn where_the_first_address_cannot_be_had_the_next_one_is() {
    let nowhere = "[2001:db8::1]:0".parse().unwrap();
    let here = "127.0.0.1:0".parse().unwrap();
    let fd = bind_inet(&uri("tcp://:0"), &[nowhere, here]).unwrap();
    assert!(matches!(Bound::of(fd.as_fd()), Ok(Bound::Inet(address)) if address.is_ipv4()));
    let error = bind_inet(&uri("tcp://:0"), &[nowhere])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("cannot bind tcp://:0: "), "{error}");
}

#[test]
fn an_unknown_service_is_said_in_the_resolvers_words() {
    let error = refusal(&[uri("tcp://127.0.0.1:no-such-service")], &no_one());
    assert!(
        error.starts_with("cannot resolve tcp://127.0.0.1:no-such-service: "),
        "{error}"
    );
}

#[test]
fn a_port_in_use_is_said_with_the_address_as_given() {
    let first = open("tcp://:0");
    let error = refusal(
        &[uri(&format!("tcp://:{}?backlog=5", port(&first)))],
        &no_one(),
    );
    assert_eq!(
        error,
        format!(
            "cannot bind tcp://:{}: Address already in use",
            port(&first)
        )
    );
}

#[test]
fn two_udp_servers_do_not_share_a_port_unless_asked_to() {
    let first = open("udp4://127.0.0.1:0");
    let text = format!("udp4://127.0.0.1:{}", port(&first));
    assert!(refusal(&[uri(&text)], &no_one()).ends_with("Address already in use"));
    let shared = open("udp4://127.0.0.1:0?reuseport");
    open(&format!("udp4://127.0.0.1:{}?reuseport", port(&shared)));
}

#[test]
fn a_udp_socket_receives() {
    let listener = open("udp://127.0.0.1:0");
    let socket = UdpSocket::from(listener.fd.try_clone().unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .send_to(b"hello", socket.local_addr().unwrap())
        .unwrap();
    let mut text = [0; 8];
    assert_eq!(socket.recv(&mut text).unwrap(), 5);
}

#[test]
fn an_address_can_be_bound_again_while_old_connections_linger() {
    let listener = open("tcp://127.0.0.1:0");
    assert_eq!(getsockopt(&listener.fd, sockopt::ReuseAddr), Ok(true));
}

#[test]
fn clients_of_a_unix_socket_queue_until_they_are_accepted() {
    let folder = Folder::new();
    let listener = open_unix(&folder.join("s"));
    let _clients = [(); 3].map(|()| UnixStream::connect(folder.join("s")).unwrap());
    (0..3).for_each(|_| accepts(&listener));
}

#[test]
fn a_stale_unix_socket_is_replaced_and_this_is_said() {
    let folder = Folder::new();
    let path = folder.join("s");
    leave_stale(&path);
    let opened = open_all(&[unix_uri(&path, "")], &no_one()).unwrap();
    let line = format!(
        "Replaced the stale socket {}: nobody answered",
        path.display()
    );
    assert_eq!(opened.notices, [line]);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_unix_socket_that_answers_is_in_use() {
    let folder = Folder::new();
    let path = folder.join("s");
    let theirs = UnixListener::bind(&path).unwrap();
    let error = refusal(&[unix_uri(&path, "")], &no_one());
    let wanted = format!(
        "cannot bind unix://{}: Address already in use",
        path.display()
    );
    assert_eq!(error, wanted);
    drop(theirs);
    assert_eq!(folder.names(), ["s"]);
}

#[test]
fn a_file_in_the_way_is_not_removed() {
    let folder = Folder::new();
    fs::write(folder.join("s"), "precious").unwrap();
    let error = refusal(&[unix_uri(&folder.join("s"), "")], &no_one());
    assert!(
        error.ends_with(": File exists, and it is not a socket"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(folder.join("s")).unwrap(), "precious");
}

#[test]
fn a_missing_directory_is_said() {
    let folder = Folder::new();
    let error = refusal(&[unix_uri(&folder.join("no/s"), "")], &no_one());
    assert!(
        error.ends_with("/no/s: No such file or directory"),
        "{error}"
    );
}

#[test]
fn mode_owner_and_group_are_as_asked() {
    let folder = Folder::new();
    let path = folder.join("s");
    let options = match nix::unistd::geteuid().is_root() {
        true => "?mode=0666&owner=54321&group=54322".to_owned(),
        false => format!("?mode=0666&owner={}", nix::unistd::geteuid()),
    };
    let _opened = open_all(&[unix_uri(&path, &options)], &no_one()).unwrap();
    let file = fs::metadata(&path).unwrap();
    assert_eq!(
        file.permissions().mode() & 0o777,
        0o666,
        "the umask has no part in it"
    );
    if nix::unistd::geteuid().is_root() {
        assert_eq!((file.uid(), file.gid()), (54321, 54322));
    }
}

#[test]
fn an_unknown_owner_leaves_nothing_behind() {
    let folder = Folder::new();
    let error = refusal(
        &[unix_uri(&folder.join("s"), "?owner=no-such-user")],
        &no_one(),
    );
    assert!(error.ends_with("cannot find user no-such-user"), "{error}");
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn when_one_socket_fails_the_paths_of_the_others_are_gone() {
    let folder = Folder::new();
    let taken = open("tcp://127.0.0.1:0");
    let uris = [unix_uri(&folder.join("s"), ""), uri(&taken.address())];
    assert!(open_all(&uris, &no_one()).is_err());
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn datagram_and_packet_sockets_at_paths() {
    let folder = Folder::new();
    let gram = open(&format!("unixgram://{}", folder.join("d").display()));
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"x", folder.join("d"))
        .unwrap();
    assert_eq!(
        UnixDatagram::from(gram.fd.try_clone().unwrap())
            .recv(&mut [0; 2])
            .unwrap(),
        1
    );
    let packet = open(&format!("unixpacket://{}", folder.join("p").display()));
    assert_eq!(packet.kind, SockType::SeqPacket);
    assert_eq!(getsockopt(&packet.fd, sockopt::AcceptConn), Ok(true));
}

#[test]
fn a_backlog_that_the_kernel_cuts_is_said() {
    let limit: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let text = format!("tcp://127.0.0.1:0?backlog={}", limit + 1);
    let opened = open_all(&[uri(&text)], &no_one()).unwrap();
    let address = opened.listeners[0].address();
    let line = format!("Backlog of {address} is {limit}, not {}", limit + 1);
    assert_eq!(
        opened.notices,
        [line + ": net.core.somaxconn allows no more"]
    );
    assert_eq!(opened.listeners[0].queue(), Some((0, limit)));
}

#[test]
fn an_inherited_socket_is_taken_by_number() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let number = pass_on(socket);
    let uris = [uri(&format!("fd://{number}"))];
    let opened = open_all(&uris, &no_one()).unwrap();
    assert_eq!(opened.listeners[0].address(), format!("tcp://{address}"));
    assert_eq!(opened.listeners[0].fd.as_raw_fd(), number);
}

#[test]
fn one_descriptor_named_twice_is_an_error() {
    let number = pass_on(TcpListener::bind("127.0.0.1:0").unwrap());
    let by_number = uri(&format!("fd://{number}"));
    let error = refusal(
        &[uri("systemd://web"), by_number],
        &passed(&[(number, "web")]),
    );
    assert_eq!(
        error,
        format!("cannot use fd://{number}: descriptor {number} is taken already")
    );
}

#[test]
fn a_descriptor_of_our_own_is_not_an_inherited_one() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("fd://{}", socket.as_raw_fd());
    let error = refusal(&[uri(&text)], &no_one());
    assert_eq!(error, format!("cannot use {text}: it was not inherited"));
    let error = refusal(&[uri("fd://1000000")], &no_one());
    assert_eq!(error, "cannot use fd://1000000: it is not open");
    let error = refusal(&[uri("fd://2")], &no_one());
    assert_eq!(error, "cannot use fd://2: it is where our output goes");
}

#[test]
fn inherited_sockets_are_taken_by_name_and_all_in_order() {
    let numbers = [(); 3].map(|()| pass_on(TcpListener::bind("127.0.0.1:0").unwrap()));
    let inherited = passed(&[
        (numbers[0], "web"),
        (numbers[1], "admin"),
        (numbers[2], "web"),
    ]);
    let opened = open_all(&[uri("systemd://admin"), uri("systemd://web")], &inherited).unwrap();
    let found: Vec<_> = opened
        .listeners
        .iter()
        .map(|listener| (listener.fd.as_raw_fd(), listener.name.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (numbers[1], "admin"),
            (numbers[0], "web"),
            (numbers[2], "web")
        ]
    );
    assert_eq!((opened.notices.len(), opened.forget.len()), (0, 0));
}

#[test]
fn all_the_units_sockets_in_their_order() {
    let numbers = [(); 2].map(|()| pass_on(TcpListener::bind("127.0.0.1:0").unwrap()));
    let inherited = passed(&[(numbers[0], "b"), (numbers[1], "a")]);
    let opened = open_all(&[uri("systemd://")], &inherited).unwrap();
    let names: Vec<_> = opened.listeners.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
}

#[test]
fn why_no_socket_was_passed_is_said() {
    let inherited = Inherited {
        none_because: Some("LISTEN_FDS is not set".into()),
        ..no_one()
    };
    let error = refusal(&[uri("systemd://web")], &inherited);
    let wanted = "cannot use systemd://web: no socket was passed to us: LISTEN_FDS is not set";
    assert_eq!(error, wanted);
    let number = pass_on(TcpListener::bind("127.0.0.1:0").unwrap());
    let error = refusal(&[uri("systemd://web")], &passed(&[(number, "admin")]));
    let wanted = "cannot use systemd://web: none of the passed sockets is called web (admin)";
    assert_eq!(error, wanted);
}

#[test]
fn what_is_passed_and_not_asked_for_is_closed_and_said() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let number = pass_on(socket);
    let opened = open_all(&[], &passed(&[(number, "web")])).unwrap();
    let line = format!("Closing descriptor {number}, web ({address}): no -listen asks for it");
    assert_eq!(opened.notices, [line]);
}

#[test]
fn store_names_are_stable_and_fit_for_systemd() {
    assert_eq!(store_name(&uri("tcp://:8080")), "socketmaster-tcp-%3A8080");
    let with_options = uri("unix:///run/x.sock?mode=0600&backlog=7");
    assert_eq!(store_name(&with_options), "socketmaster-unix-/run/x.sock");
    let long = |last: &str| store_name(&uri(&format!("unix:///{}{last}", "%FF".repeat(90))));
    assert_ne!(long("a"), long("b"));
    assert!(long("a").len() <= 255 && long("a").bytes().all(|b| b.is_ascii_graphic() && b != b':'));
}

#[test]
fn equal_addresses_have_different_store_names() {
    let shared = open("tcp4://127.0.0.1:0?reuseport");
    let text = format!("{}?reuseport", shared.address());
    let opened = open_all(&[uri(&text), uri(&text)], &no_one()).unwrap();
    let names: Vec<_> = opened
        .listeners
        .iter()
        .filter_map(|it| it.store_name.as_deref())
        .collect();
    assert_eq!(names[1], format!("{}#2", names[0]));
}

#[test]
fn a_stored_socket_comes_back_with_the_clients_in_its_queue() {
    let listener = open("tcp://127.0.0.1:0");
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    let asked = uri(&listener.address());
    let name = store_name(&asked);
    let number = pass_on(listener.fd);
    let opened = open_all(&[asked], &passed(&[(number, &name)])).unwrap();
    assert_eq!(opened.listeners[0].fd.as_raw_fd(), number);
    assert_eq!(opened.listeners[0].store_name.as_deref(), Some(&*name));
    assert!(
        opened.notices[0].ends_with("back from systemd's fd store"),
        "{:?}",
        opened.notices
    );
    assert_eq!(opened.forget, [""; 0]);
    accepts(&opened.listeners[0]);
}

#[test]
fn port_zero_keeps_the_port_that_was_stored() {
    let listener = open("tcp://:0");
    let (before, name) = (port(&listener), listener.store_name.clone().unwrap());
    let number = pass_on(listener.fd);
    let opened = open_all(&[uri("tcp://:0")], &passed(&[(number, &name)])).unwrap();
    assert_eq!(port(&opened.listeners[0]), before);
}

#[test]
fn a_stored_unix_socket_comes_back_with_its_path() {
    let folder = Folder::new();
    let path = folder.join("s");
    let listener = open_unix(&path);
    let name = listener.store_name.clone().unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    // What a worker removed and the guard, dead by then, could not restore.
    fs::remove_file(&path).unwrap();
    let number = pass_on(listener.fd);
    let mut opened = open_all(
        &[unix_uri(&path, "?mode=0640")],
        &passed(&[(number, &name)]),
    )
    .unwrap();
    accepts(&opened.listeners[0]);
    UnixStream::connect(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    opened.listeners[0].remove();
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_stored_unix_socket_without_any_path_is_opened_anew_and_forgotten() {
    let folder = Folder::new();
    let path = folder.join("s");
    let mut listener = open_unix(&path);
    let name = listener.store_name.clone().unwrap();
    listener.remove();
    let number = pass_on(listener.fd);
    let opened = open_all(&[unix_uri(&path, "")], &passed(&[(number, &name)])).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(opened.forget, [name]);
    let wanted = format!(
        "cannot take back unix://{}: its path is gone; opening it anew",
        path.display()
    );
    assert_eq!(opened.notices, [wanted]);
}

#[test]
fn what_is_stored_and_no_longer_asked_for_is_forgotten() {
    let listener = open("tcp://127.0.0.1:0");
    let (address, name) = (listener.address(), "socketmaster-tcp-%3A1".to_owned());
    let number = pass_on(listener.fd);
    let opened = open_all(&[], &passed(&[(number, &name)])).unwrap();
    let address = address.trim_start_matches("tcp://");
    assert_eq!(
        opened.notices,
        [format!(
            "Dropping {name} ({address}): no -listen asks for it"
        )]
    );
    assert_eq!(opened.forget, [name]);
}

#[test]
fn a_stored_socket_at_another_address_is_not_taken() {
    let other = open("tcp://127.0.0.1:0");
    let (there, address) = (other.address(), free_address());
    let name = store_name(&uri(&address));
    let number = pass_on(other.fd);
    let opened = open_all(&[uri(&address)], &passed(&[(number, &name)])).unwrap();
    assert_eq!(opened.listeners[0].address(), address);
    assert_eq!(opened.forget, [name]);
    assert!(opened.notices[0].contains(&format!("the stored socket is {there}")));
}

#[test]
fn a_failing_start_leaves_the_path_of_a_stored_socket() {
    let folder = Folder::new();
    let listener = open_unix(&folder.join("s"));
    let name = listener.store_name.clone().unwrap();
    let number = pass_on(listener.fd);
    let uris = [unix_uri(&folder.join("s"), ""), uri("fd://1000000")];
    assert!(open_all(&uris, &passed(&[(number, &name)])).is_err());
    assert_eq!(folder.names(), ["s"]);
}

#[test]
fn a_start_that_fails_later_leaves_no_path_either() {
    let folder = Folder::new();
    let opened = open_all(&[unix_uri(&folder.join("s"), "")], &no_one()).unwrap();
    abandon(opened.listeners);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn what_shares_its_name_with_a_useless_socket_is_to_be_stored_again() {
    let listener = open("tcp://127.0.0.1:0");
    let asked = uri(&listener.address());
    let name = store_name(&asked);
    let (good, bad) = (pass_on(listener.fd), pass_on(open("tcp://127.0.0.1:0").fd));
    let one = open_all(&[asked], &passed(&[(good, &name), (bad, &name)])).unwrap();
    assert_eq!(one.listeners[0].fd.as_raw_fd(), good);
    assert_eq!(one.forget, [name]);
    assert!(!one.listeners[0].is_stored);
}
