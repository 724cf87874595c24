//! The control socket and `socketmaster ctl`, through the real program: what they answer, how
//! they exit, and the socket's file.

mod common;

use common::SOCKETMASTER;
use common::control::{Place, assert_said};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

// ---- ctl ----

#[test]
fn status_shows_sockets_workers_and_the_last_verdict() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500", "-workers=2"]);
    let address = daemon.address();
    let _waiting: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(("127.0.0.1", address.port())).expect("it listens"))
        .collect();
    place.next("exit 7");
    daemon.reload();
    let output = place.ctl(&["status"]);
    let socket = format!("tcp://127.0.0.1:{}  3/4096", address.port());
    let pids: Vec<String> = daemon.workers().iter().map(i32::to_string).collect();
    let wanted = [
        &socket,
        &pids[0],
        &pids[1],
        "ready",
        "generation 1: 2 of 2 workers ready",
        "reload 2 rolled back",
        "exited with status 7",
    ];
    assert_said(&output, 0, &wanted);
}

#[test]
fn status_json_is_one_object() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500", "-workers=2"]);
    let status = place.status();
    let port = daemon.address().port();
    assert_eq!(
        status["sockets"][0]["address"],
        format!("tcp://127.0.0.1:{port}")
    );
    assert_eq!(status["sockets"][0]["backlog"], 4096);
    assert_eq!(status["pid"], daemon.real_pid());
    assert_eq!(status["workers"][1]["state"], "ready");
    assert_eq!(status["workers"][1]["pid"], daemon.workers()[1]);
    assert_eq!(status["generations"][0]["ready"], 2);
    assert_eq!(status["last_verdict"]["outcome"], "live");
    assert_eq!(status["reload_pending"], false);
}

#[test]
fn status_exits_3_when_no_worker_is_ready_and_its_text_goes_to_stdout() {
    let place = Place::of("up");
    let daemon = place.start(&["-start=20000"]);
    place.wait_for_socket(&daemon);
    let output = place.ctl(&["status"]);
    assert_said(&output, 3, &["starting: 0 of 1 workers ready"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    let output = place.ctl(&["status", "-json"]);
    assert_said(&output, 3, &["\"live_generation\": 0"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(place.status()["live_generation"], 0);
}

#[test]
fn status_exits_0_while_a_worker_serves_and_3_when_it_has_been_asked_to_stop() {
    let place = Place::of("");
    let end = place.dir.word("end");
    place.next(&format!("drain {end}"));
    let daemon = place.live(&["-start=500"]);
    assert_said(&place.ctl(&["status", "-json"]), 0, &[]);
    place.next("exit 7");
    daemon.reload();
    assert_said(&place.ctl(&["status"]), 0, &["rolled back"]);
    assert_said(&place.ctl(&["stop"]), 0, &["stopping"]);
    assert_said(
        &place.ctl(&["status"]),
        3,
        &["stopping: waiting for 1 worker"],
    );
    place.dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn status_exits_1_when_nobody_answers() {
    let place = Place::of("up");
    assert_said(&place.ctl(&["status"]), 1, &["cannot connect to "]);
    let _silent = UnixListener::bind(place.socket()).expect("the directory is ours");
    let output = place.ctl(&["status", "-timeout=200"]);
    assert_said(&output, 1, &["status: waited 200 ms for an answer from"]);
}

#[test]
fn reload_wait_exits_0_when_the_new_generation_is_live() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500", "-workers=3"]);
    let old = daemon.workers();
    let output = place.ctl(&["reload", "-wait"]);
    assert_said(&output, 0, &["generation 2 is live, 3 of 3 workers ready"]);
    daemon.wait_until("the old ones to have gone", || {
        daemon.workers().iter().all(|pid| !old.contains(pid))
    });
}

#[test]
fn reload_wait_exits_3_with_the_reason_and_the_last_lines_when_rolled_back() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=3000"]);
    let old = daemon.workers();
    place.next("lines 3 9");
    let output = place.ctl(&["reload", "-wait"]);
    let wanted = [
        "reload 2 rolled back: worker ",
        " exited with status 9",
        "keeping generation 1",
        "last lines of worker ",
        "\n  line 1 of a worker",
        "\n  line 2 of a worker",
    ];
    assert_said(&output, 3, &wanted);
    daemon.wait_for_workers(&old);
}

#[test]
fn a_reload_that_waits_gets_its_own_verdict_and_not_that_of_the_running_one() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=1500"]);
    let mark = daemon.mark();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line_after(mark, "] up");
    place.next("exit 5");
    let mut client = place.client();
    client.send(r#"{"command":"reload","args":["wait"],"id":1}"#);
    let first = client.answer();
    assert_eq!(
        first["message"], "a reload is running: this one follows it",
        "{first}"
    );
    let mut answers = vec![client.answer()];
    while answers.last().is_some_and(|last| last["wait"] == true) {
        answers.push(client.answer());
    }
    let last = answers.last().expect("there is one");
    assert_eq!(last["verdict"]["generation"], 3, "{answers:?}");
    assert_eq!(last["verdict"]["outcome"], "rolled-back", "{answers:?}");
    assert_eq!(daemon.count("generation 2 is live"), 1);
}

#[test]
fn every_waiter_gets_exactly_one_last_answer() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let mut client = place.client();
    for id in 1..=3 {
        client.send(&format!(
            r#"{{"command":"reload","args":["wait"],"id":{id}}}"#
        ));
    }
    let mut last = Vec::new();
    while last.len() < 3 {
        let answer = client.answer();
        if answer["wait"] != true {
            last.push((answer["request_id"].clone(), answer["verdict"].clone()));
        }
    }
    let generations: Vec<_> = last
        .iter()
        .map(|(id, verdict)| (id.as_i64(), verdict["generation"].as_i64()))
        .collect();
    assert_eq!(
        generations,
        [(Some(1), Some(2)), (Some(2), Some(3)), (Some(3), Some(3))]
    );
    // Nothing comes after them.
    assert!(client.ask(r#"{"command":"ping"}"#).contains("pid"));
    daemon.wait_until("two verdicts", || daemon.verdicts() == 2);
}

#[test]
fn a_reload_that_gives_way_exits_5() {
    let place = Place::of("control worker:ack");
    let daemon = place.live(&["-start=0", "-ready=ack"]);
    place.next("up");
    let mark = daemon.mark();
    let waits = place.ctl_in_background(&["reload", "-wait"]);
    daemon.wait_for_line_after(mark, "] up");
    place.next("control worker:ack");
    assert_said(
        &place.ctl(&["reload", "-wait"]),
        0,
        &["generation 3 is live"],
    );
    let output = waits.wait_with_output().expect("it is our child");
    assert_said(&output, 5, &["reload 2 superseded"]);
}

#[test]
fn a_stop_ends_all_waiting_and_the_status_is_5() {
    let place = Place::of("up");
    let daemon = place.start(&["-start=20000"]);
    daemon.worker_that_said("up");
    let mut client = place.client();
    client.send(r#"{"command":"reload","args":["wait"],"id":"mine"}"#);
    assert_eq!(client.answer()["wait"], true);
    let another = place.ctl_in_background(&["reload", "-wait"]);
    daemon.wait_for_count("reload, asked for", 2);
    daemon.signal(Signal::SIGTERM);
    let last = client.answer();
    assert_eq!(last["verdict"]["outcome"], "abandoned", "{last}");
    assert_eq!(last["request_id"], "mine");
    assert!(client.is_closed());
    let output = another.wait_with_output().expect("it is our child");
    assert_said(&output, 5, &["abandoned"]);
    daemon.exit_code();
}

#[test]
fn reload_wait_exits_4_when_the_time_is_over() {
    let place = Place::of("up");
    let daemon = place.start(&["-start=20000"]);
    place.wait_for_socket(&daemon);
    let output = place.ctl(&["reload", "-wait", "-timeout=200"]);
    assert_said(&output, 4, &["reload: not over within 200 ms"]);
}

#[test]
fn a_reload_without_wait_is_answered_at_once() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    assert_said(&place.ctl(&["reload"]), 0, &["reload 2 begins"]);
    assert_said(&place.ctl(&["reload"]), 0, &["this one follows it"]);
    daemon.wait_for_line("generation 3 is live");
}

#[test]
fn stop_wait_returns_when_all_is_over_and_everything_is_free_again() {
    let place = Place::of("slow-stop 300");
    let pidfile = format!("-pidfile={}", place.dir.word("pid"));
    let daemon = place.live(&["-start=500", &pidfile]);
    assert_said(&place.ctl(&["stop", "-wait"]), 0, &["stopped"]);
    assert!(!fs::exists(place.socket()).expect("the directory is ours"));
    // At once: nothing of the first one may be in the way.
    let second = place.live(&["-start=500", &pidfile]);
    assert_eq!(daemon.exit_code(), 0);
    drop(second);
}

#[test]
fn stop_without_wait_is_answered_at_once() {
    let place = Place::of("drain /dev/null");
    let daemon = place.live(&["-start=500"]);
    assert_said(
        &place.ctl(&["stop"]),
        0,
        &["stopping, 1 worker asked to finish"],
    );
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn workers_changes_how_many_there_are() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500", "-workers=2"]);
    assert_said(&place.ctl(&["workers", "4"]), 0, &["4 workers"]);
    daemon.wait_until("four workers", || daemon.workers().len() == 4);
    // Without -max-extra there are as many more as there are workers now, not as at the start.
    let mark = daemon.mark();
    assert_said(&place.ctl(&["reload", "-wait"]), 0, &["4 of 4 workers"]);
    daemon.verdict_after(mark);
    let log = daemon.log_after(mark);
    let log = log.split("4 of 4 workers").next().unwrap_or_default();
    assert_eq!(log.matches("Starting ").count(), 4, "{log}");
    assert!(!log.contains("exit status"), "{log}");
    assert_said(
        &place.ctl(&["workers", "1"]),
        0,
        &["1 worker per generation, 4 before"],
    );
    daemon.wait_until("one worker", || daemon.workers().len() == 1);
    assert_said(&place.ctl(&["workers", "0"]), 2, &["workers 0"]);
}

#[test]
fn ping_says_who_is_there_and_upgrade_that_there_is_none() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let pid = format!("pid {}", daemon.real_pid());
    assert_said(&place.ctl(&["ping"]), 0, &[&pid]);
    assert_said(
        &place.ctl(&["upgrade"]),
        1,
        &["self-upgrade is not available"],
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn ctl_finds_the_socket_by_the_environment_or_says_how_to_name_it() {
    let place = Place::of("up");
    let _daemon = place.live(&["-start=500"]);
    let ctl = |words: &[&str], path: &str| {
        let mut command = Command::new(SOCKETMASTER);
        command.arg("ctl").args(words);
        command.env("SOCKETMASTER_CONTROL", path);
        command.output().expect("the program can be started")
    };
    assert_said(&ctl(&["ping"], &place.socket()), 0, &["pid"]);
    let hint = ["-control=PATH", "SOCKETMASTER_CONTROL"];
    assert_said(&ctl(&["ping"], ""), 2, &hint);
    assert_said(
        &ctl(&["ping"], "/nowhere/ctl"),
        1,
        &["cannot connect to /nowhere/ctl: No such file or directory"],
    );
    let hint = ["no command given", "see socketmaster ctl -help"];
    assert_said(&ctl(&[], ""), 2, &hint);
    assert_said(&ctl(&["-help"], ""), 0, &["Usage: socketmaster ctl"]);
}

#[test]
fn ctl_shows_progress_on_a_terminal() {
    let place = Place::of("up");
    let _daemon = place.live(&["-start=500", "-workers=3"]);
    let terminal = common::terminal::Terminal::new();
    let mut ctl = Command::new(SOCKETMASTER);
    ctl.args(["ctl", &format!("-control={}", place.socket())]);
    ctl.args(["reload", "-wait", "-timeout=30s"]);
    ctl.stdin(Stdio::null()).stdout(Stdio::null());
    ctl.stderr(terminal.open());
    let status = ctl.status().expect("the program can be started");
    drop(ctl);
    assert!(status.success());
    let mut text = Vec::new();
    // The terminal's other side is closed now: reading ends with an error.
    let mut master = fs::File::from(std::os::fd::OwnedFd::from(terminal.master));
    let _ = master.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    for line in ["1/3 ready", "2/3 ready", "3/3 ready"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}

// ---- the socket's file ----

#[test]
fn the_socket_is_ours_alone_and_goes_with_us() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let file = fs::metadata(place.socket()).expect("it is there");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert_eq!(place.dir.names(), ["behaviour", "ctl"]);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(place.dir.names(), ["behaviour"]);
}

#[test]
fn a_second_instance_fails_and_leaves_the_first_ones_socket_alone() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    let listen = format!("-listen=unix://{}", place.dir.word("s"));
    let output = place.run(&[&listen]).output();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Address already in use"), "{text}");
    assert_said(&place.ctl(&["ping"]), 0, &[]);
    assert_eq!(place.dir.names(), ["behaviour", "ctl"]);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_that_is_none_is_not() {
    let place = Place::of("up");
    drop(UnixListener::bind(place.socket()).expect("the directory is ours"));
    let daemon = place.live(&["-start=500"]);
    assert_said(&place.ctl(&["ping"]), 0, &[]);
    assert_eq!(daemon.stop(), 0);
    place.dir.write("ctl", "mine");
    assert_eq!(place.run(&[]).output().status.code(), Some(1));
    assert_eq!(fs::read(place.socket()).expect("it is there"), b"mine");
}

#[test]
fn a_socket_that_stands_in_our_place_by_now_is_not_removed() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=500"]);
    fs::remove_file(place.socket()).expect("it is there");
    let _another = UnixListener::bind(place.socket()).expect("the directory is ours");
    assert_eq!(daemon.stop(), 0);
    assert!(fs::exists(place.socket()).expect("the directory is ours"));
}

// ---- einhorn's clients ----

#[cfg(feature = "einhorn")]
mod einhorn {
    use super::common::facts;
    use super::*;
    use serde_json::Value;

    #[test]
    fn einhorns_commands_are_answered_as_einhorn_answers_them() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500", "-workers=2", "-respawn"]);
        let mut client = place.client();
        let pid = daemon.real_pid();
        let dec = format!(
            "Can't decrease number of workers (already at 1).  \
             Run kill {pid} if you really want to kill einhorn."
        );
        for (request, answer) in [
            (
                r#"{"id":"x%25y","command":"inc","args":[]}"#,
                "Incrementing number of workers from 2 -> 3",
            ),
            (
                "---%0Aid: 7%0Acommand: dec%0Aargs: []%0A",
                "Decrementing number of workers from 3 -> 2",
            ),
            (
                "command: set_workers%0Aargs:%0A- '3'%0A",
                "Altering worker count, 2 -> 3. Will spin up additional workers.",
            ),
            (r#"{"command":"set_workers","args":["3"]}"#, ""),
            (r#"{"command":"set_workers"}"#, "No args provided"),
            (
                r#"{"command":"set_workers","args":[3]}"#,
                "Argument is a Integer, not a string: 3",
            ),
            (
                r#"{"command":"set_workers","args":["1"]}"#,
                "Altering worker count, 3 -> 1. Will gracefully terminate workers.",
            ),
            (r#"{"command":"dec"}"#, &dec),
            (r#"{"command":"signal","args":[]}"#, ""),
            (
                r#"{"command":"signal","args":["BOGUS"]}"#,
                "Invalid signal: \"BOGUS\"",
            ),
            (r#"{"command":"quieter"}"#, "Verbosity set to 2"),
            (r#"{"command":"louder"}"#, "Verbosity set to 1"),
            ("no mapping", "Could not parse command"),
        ] {
            assert_eq!(client.ask(request), answer, "{request}");
        }
        daemon.wait_until("one worker", || daemon.workers().len() == 1);
    }

    #[test]
    fn ids_come_back_with_their_type() {
        let place = Place::of("up");
        let _daemon = place.live(&["-start=500"]);
        let mut client = place.client();
        for (id, back) in [
            ("1", Value::from(1)),
            ("'1'", Value::from("1")),
            ("x%25y", Value::from("x%y")),
            ("0", Value::from(0)),
            ("null", Value::Null),
        ] {
            client.send(&format!("---%0Aid: {id}%0Acommand: help%0A"));
            assert_eq!(client.answer()["request_id"], back, "{id}");
        }
    }

    #[test]
    fn help_ehlo_state_and_the_unknown_are_answered() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500"]);
        let mut client = place.client();
        let pid = daemon.workers()[0];
        assert!(client.ask("command: help").contains("upgrade_fleet: "));
        let welcome = client.ask(r#"{"command":"ehlo","user":"root"}"#);
        assert!(welcome.starts_with("Welcome, root! You are speaking to Einhorn"));
        let state = client.ask("command: state");
        assert!(
            state.contains(&format!("    {pid}:\n      :type: :worker")),
            "{state}"
        );
        let unknown = client.ask("command: x");
        assert!(
            unknown.starts_with("Unrecognized command: \"x\"\n\n"),
            "{unknown}"
        );
    }

    #[test]
    fn an_upgrade_with_an_id_streams_until_it_is_done() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500", "-workers=2"]);
        let old = daemon.workers();
        let mut client = place.client();
        client.send("---%0Aid: 10%0Acommand: upgrade%0Aargs: []%0A");
        let mut lines = Vec::new();
        loop {
            let answer = client.answer();
            assert_eq!(answer["request_id"], 10);
            lines.push(answer["message"].as_str().expect("text").to_owned());
            if answer["wait"] != true {
                break;
            }
        }
        assert_eq!(lines[0], "Upgrading smoothly, as commanded");
        assert_eq!(lines[1], "Starting smooth upgrade from version 0...");
        assert!(lines[2].starts_with("===> Launched "), "{lines:#?}");
        let sent = format!("Sending TERM to [{}]", old[0]);
        assert!(lines.contains(&sent), "{lines:#?}");
        let end = [
            "Upgraded successfully to version 1 (Einhorn 1.1.1).",
            "Upgrade done",
        ];
        assert_eq!(lines[lines.len() - 2..], end);
    }

    #[test]
    fn an_upgrade_without_an_id_has_one_answer() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500"]);
        let mut client = place.client();
        assert_eq!(
            client.ask(r#"{"command":"upgrade_fleet"}"#),
            "Upgrading fleet, as commanded"
        );
        daemon.wait_for_line("generation 2 is live");
        assert_eq!(client.ask(r#"{"command":"quieter"}"#), "Verbosity set to 2");
    }

    #[test]
    fn a_failed_upgrade_tells_the_client_that_waits() {
        let place = Place::of("up");
        let _daemon = place.live(&["-start=500"]);
        place.next("exit 3");
        let mut client = place.client();
        client.send(r#"{"id":1,"command":"upgrade"}"#);
        let last = loop {
            let answer = client.answer();
            if answer["wait"] != true {
                break answer["message"].as_str().expect("text").to_owned();
            }
        };
        assert!(last.starts_with("Upgrade failed: "), "{last}");
        assert!(last.contains("exited with status 3"), "{last}");
    }

    #[test]
    fn die_stops_and_the_connection_ends_with_us() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500"]);
        let mut client = place.client();
        assert_eq!(
            client.ask(r#"{"command":"die","args":[]}"#),
            "Einhorn is going down! "
        );
        assert!(client.is_closed());
        assert_eq!(daemon.exit_code(), 0);
    }

    #[test]
    fn a_yaml_bomb_is_not_read() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=500"]);
        let before = facts::anonymous(daemon.real_pid());
        let mut client = place.client();
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]%0A");
        for (name, inner) in ["b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .zip("abcdefgh".chars())
        {
            let all = vec![format!("*{inner}"); 9].join(",");
            bomb.push_str(&format!("{name}: &{name} [{all}]%0A"));
        }
        let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
        for line in [&bomb, &deep, &format!("command: {deep}")] {
            assert_eq!(client.ask(line), "Could not parse command");
        }
        let after = facts::anonymous(daemon.real_pid());
        assert!(after < before + 2048, "{before} kB, then {after} kB");
    }
}
