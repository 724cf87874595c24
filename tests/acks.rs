//! `-ready=ack`: whose word counts, and what workers of another user may say.

mod common;

use common::control::{Place, assert_said};
use common::{Run, root_or_skip, worker};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn an_ack_makes_a_worker_ready() {
    let place = Place::of("");
    place.next(&format!("control when {} worker:ack", place.dir.word("go")));
    let daemon = place.start(&["-ready=ack", "-start=20000"]);
    place.wait_for_socket(&daemon);
    daemon.wait_for("the worker to run", || {
        (place.status()["workers"][0]["state"] == "running").then_some(())
    });
    place.dir.write("go", "");
    daemon.wait_until_live();
    // Nobody is answered.
    daemon.wait_for_line("] answered \"\"");
    assert_eq!(place.status()["workers"][0]["state"], "ready");
}

#[test]
fn an_ack_of_a_workers_child_counts_for_the_worker() {
    let place = Place::of("control-by-child worker:ack PID");
    let daemon = place.start(&["-ready=ack", "-start=20000"]);
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_worker_that_does_not_ack_in_time_has_failed() {
    let place = Place::of("control worker:ack");
    let daemon = place.live(&["-ready=ack", "-start=1500"]);
    place.next("up");
    assert_said(
        &place.ctl(&["reload", "-wait"]),
        3,
        &["rolled back", "did not say that it is ready within"],
    );
    drop(daemon);
}

#[test]
fn only_the_worker_itself_and_its_descendants_can_ack_for_it() {
    let place = Place::of("up");
    let daemon = place.start(&["-ready=ack", "-start=20000", "-workers=2"]);
    daemon.wait_until("two workers", || daemon.workers().len() == 2);
    daemon.wait_for_count("] up", 2);
    let victim = daemon.workers()[0];
    // By a stranger, by number and by a string.
    let mut client = place.client();
    client.send(&format!(r#"{{"command":"worker:ack","pid":{victim}}}"#));
    assert!(client.is_closed());
    daemon.wait_for_line("which is neither that worker nor its descendant");
    assert_eq!(place.status()["generations"][0]["ready"], 0);
    assert_eq!(daemon.count("is ready"), 0);
}

#[test]
fn a_worker_cannot_ack_for_another() {
    let place = Place::of("up");
    let pid = place.dir.word("victim");
    let daemon = place.start(&["-ready=ack", "-start=20000", "-workers=1"]);
    let victim = daemon.worker_that_said("up");
    place.dir.write("victim", victim.to_string());
    place.next(&format!("control worker:ack pid-in {pid}"));
    place.ctl(&["workers", "2"]);
    daemon.wait_for_line("] answered \"\"");
    daemon.wait_for_line("which is neither that worker nor its descendant");
    let status = place.status();
    assert_eq!(status["generations"][0]["ready"], 0, "{status}");
}

#[test]
fn an_ack_that_names_no_pid_or_no_worker_is_ignored() {
    let place = Place::of("up");
    let daemon = place.start(&["-ready=ack", "-start=20000"]);
    let pid = daemon.worker_that_said("up");
    for (line, complaint) in [
        (
            format!(r#"{{"command":"worker:ack","pid":"{pid}"}}"#),
            "without a pid that is a number",
        ),
        (
            r#"{"command":"worker:ack","pid":1}"#.to_owned(),
            "for 1, which is no worker",
        ),
    ] {
        // Complaints come once a second at most: ask until it is said.
        daemon.wait_until(complaint, || {
            let mut client = place.client();
            client.send(&line);
            assert!(client.is_closed());
            daemon.count(complaint) > 0
        });
    }
    assert_eq!(place.status()["generations"][0]["ready"], 0);
}

#[test]
fn an_ack_where_another_gate_is_set_changes_nothing() {
    let place = Place::of("control worker:ack");
    let daemon = place.start(&["-start=700"]);
    daemon.wait_for_line("] answered \"\"");
    daemon.wait_for_line("readiness is not told by acks here");
    daemon.wait_until_live();
}

#[test]
fn workers_of_another_user_may_report_and_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let place = Place::of("control worker:ack");
    let worker = place.dir.copy_program(worker().as_ref(), "worker");
    let run = |behaviour: &str| {
        place.next(behaviour);
        Run::bare()
            .args(&["-listen=tcp://127.0.0.1:0", "-user=nobody", "-ready=ack"])
            .arg(format!("-control={}", place.socket()))
            .args(&[&format!("-command={worker}"), "from"])
            .arg(place.dir.word("behaviour"))
            .start()
    };
    let daemon = run("control worker:ack");
    daemon.wait_until_live();
    let file = fs::metadata(place.socket()).expect("it is there");
    let nobody = nix::unistd::User::from_name("nobody")
        .expect("the user database can be read")
        .expect("nobody exists");
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    assert_eq!((file.uid(), file.gid()), (0, nobody.gid.as_raw()));
    assert_said(&place.ctl(&["ping"]), 0, &[]);
    assert_eq!(daemon.stop(), 0);
    let daemon = run("control stop");
    daemon.wait_for_line("\\\"failed\\\": true");
    assert_eq!(daemon.exit_status(), None);
}
