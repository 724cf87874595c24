//! Hostile clients of the control socket: what they cost, and that nobody else is held up.

mod common;

use common::control::{Client, Place, assert_said};
use common::{Daemon, facts};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// That it reloads at a signal and answers a client, whatever else goes on.
fn still_acts(place: &Place, daemon: &Daemon) {
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    assert_said(&place.ctl(&["ping"]), 0, &[]);
}

/// Writes until the other side closes the connection; how many bytes it took.
fn write_until_closed(stream: &mut UnixStream, bytes: &[u8], most: usize) -> usize {
    let mut written = 0;
    while written < most {
        match stream.write(bytes) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    written
}

#[test]
fn an_endless_line_closes_its_client_and_costs_nothing() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let before = facts::anonymous(daemon.real_pid());
    for _ in 0..8 {
        let mut client = place.client();
        let written = write_until_closed(client.stream.get_mut(), &[b'x'; 65536], 64 << 20);
        assert!(written < 4 << 20, "{written} bytes were taken");
    }
    let after = facts::anonymous(daemon.real_pid());
    assert!(after < before + 1024, "{before} kB, then {after} kB");
    still_acts(&place, &daemon);
}

#[test]
fn garbage_is_refused_line_by_line_and_others_are_not_delayed() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let before = facts::anonymous(daemon.real_pid());
    let mut garbage = place.client();
    let mut bytes: Vec<u8> = (0..=255u8).cycle().take(16 * 1024).collect();
    bytes.push(b'\n');
    let mut reader = garbage.stream.get_ref().try_clone().expect("a copy");
    let drain = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = reader.read_to_end(&mut all);
        all.len()
    });
    for _ in 0..20 {
        let _ = garbage.stream.get_mut().write_all(&bytes);
    }
    still_acts(&place, &daemon);
    let _ = garbage.stream.get_ref().shutdown(std::net::Shutdown::Write);
    assert!(drain.join().expect("no panic") > 20, "it was answered");
    let after = facts::anonymous(daemon.real_pid());
    assert!(after < before + 1024, "{before} kB, then {after} kB");
}

#[test]
fn ten_thousand_connections_are_a_bounded_number_of_descriptors() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let before = facts::anonymous(daemon.real_pid());
    // Held open as far as our own limit goes.
    let mut held = std::collections::VecDeque::new();
    for n in 0..10_000 {
        let client = UnixStream::connect(place.socket());
        held.push_back(client.unwrap_or_else(|error| panic!("connection {n}: {error}")));
        if held.len() > 500 {
            held.pop_front();
        }
    }
    still_acts(&place, &daemon);
    let open = facts::open_fds(daemon.real_pid()).len();
    assert!(open < 128, "{open} descriptors");
    let after = facts::anonymous(daemon.real_pid());
    assert!(after < before + 1024, "{before} kB, then {after} kB");
}

#[test]
fn half_a_request_and_silence_hold_nobody_up() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let mut halves: Vec<Client> = (0..10).map(|_| place.client()).collect();
    for half in &mut halves {
        half.stream
            .get_mut()
            .write_all(b"{\"command\": \"pi")
            .expect("it is read");
    }
    still_acts(&place, &daemon);
    // Its other half still comes in time.
    let mut last = halves.pop().expect("there are ten");
    assert!(last.ask("ng\"}").contains("pid"));
}

#[test]
fn a_client_that_never_reads_is_bounded_and_holds_nobody_up() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let before = facts::anonymous(daemon.real_pid());
    let mut clients: Vec<Client> = (0..12).map(|_| place.client()).collect();
    for client in &mut clients {
        let stream = client.stream.get_mut();
        stream.set_nonblocking(true).expect("it is ours");
        let request = b"{\"command\":\"status\",\"args\":[\"json\"]}\n".repeat(100);
        write_until_closed(stream, &request, 4 << 20);
    }
    still_acts(&place, &daemon);
    let after = facts::anonymous(daemon.real_pid());
    assert!(after < before + 4096, "{before} kB, then {after} kB");
}

#[test]
fn a_waiter_that_never_reads_is_closed_and_the_reload_goes_on() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500", "-workers=4"]);
    let mut deaf = place.client();
    for id in 0..24 {
        deaf.send(&format!(
            r#"{{"command":"reload","args":["wait"],"id":{id}}}"#
        ));
    }
    for _ in 0..3 {
        still_acts(&place, &daemon);
    }
    assert_said(&place.ctl(&["reload", "-wait"]), 0, &["is live"]);
}

#[test]
fn only_so_many_clients_may_wait() {
    let place = Place::of("up");
    let daemon = place.start(&["-start=20000"]);
    place.wait_for_socket(&daemon);
    let mut client = place.client();
    for id in 0..24 {
        client.send(&format!(
            r#"{{"command":"reload","args":["wait"],"id":{id}}}"#
        ));
        assert_eq!(client.answer()["wait"], true);
    }
    assert_said(
        &place.ctl(&["reload", "-wait"]),
        1,
        &["too many clients wait already"],
    );
    // Those who do not wait are not concerned.
    assert_said(&place.ctl(&["reload"]), 0, &[]);
    assert_said(&place.ctl(&["stop"]), 0, &[]);
    for id in 0..24 {
        let last = client.answer();
        assert_eq!(last["request_id"], id);
        assert_eq!(last["verdict"]["outcome"], "abandoned");
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_nothing_behind() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=1500"]);
    let open = || facts::open_fds(daemon.real_pid()).len();
    let before = open();
    for _ in 0..40 {
        let mut client = place.client();
        client.send(r#"{"command":"reload","args":["wait"],"id":1}"#);
        assert_eq!(client.answer()["wait"], true);
    }
    daemon.wait_for_line("generation 3 is live");
    daemon.wait_until("the descriptors to be given back", || open() <= before);
}

#[test]
fn an_idle_daemon_with_clients_does_not_spin() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let mut clients: Vec<Client> = (0..5).map(|_| place.client()).collect();
    for client in &mut clients {
        client.ask(r#"{"command":"ping"}"#);
    }
    daemon.wait_until_idle();
}
