//! The control socket and `socketmaster ctl`, through the real program: what they answer, how
//! they exit, who may say what, and what hostile clients cost.

mod common;

use common::{Daemon, Run, SOCKETMASTER, TempDir, facts, root_or_skip, worker};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A directory with the control socket in it, and what the next worker does.
struct Place {
    dir: TempDir,
}

impl Place {
    fn of(behaviour: &str) -> Place {
        let place = Place {
            dir: TempDir::new(),
        };
        place.next(behaviour);
        place
    }

    fn next(&self, behaviour: &str) {
        self.dir.write("behaviour", behaviour);
    }

    fn socket(&self) -> String {
        self.dir.word("ctl")
    }

    fn run(&self, flags: &[&str]) -> Run {
        let control = format!("-control={}", self.socket());
        let flags: Vec<&str> = flags.iter().copied().chain([control.as_str()]).collect();
        Run::worker(&flags, &["from", &self.dir.word("behaviour")])
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        self.run(flags).start()
    }

    /// Started, and its first generation live.
    fn live(&self, flags: &[&str]) -> Daemon {
        let daemon = self.start(flags);
        daemon.wait_until_live();
        daemon
    }

    fn ctl(&self, words: &[&str]) -> Output {
        self.ctl_in_background(words)
            .wait_with_output()
            .expect("ctl is our child")
    }

    /// It ends by itself, whatever happens.
    fn ctl_in_background(&self, words: &[&str]) -> Child {
        let mut command = Command::new(SOCKETMASTER);
        command.args(["ctl", &format!("-control={}", self.socket())]);
        command.args(words);
        if !words.iter().any(|word| word.starts_with("-timeout")) {
            command.arg("-timeout=30s");
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    }

    fn wait_for_socket(&self, daemon: &Daemon) {
        daemon.wait_until("the control socket", || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    fn status(&self) -> Value {
        let output = self.ctl(&["status", "-json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

/// Everything that a ctl has said, and its exit status.
fn said(output: &Output) -> (String, i32) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let status = output.status.code().expect("it was not killed");
    (String::from_utf8(text).expect("UTF-8"), status)
}

#[track_caller]
fn assert_said(output: &Output, status: i32, texts: &[&str]) {
    let (text, found) = said(output);
    assert_eq!(found, status, "{text}");
    for wanted in texts {
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
    }
}

/// A raw client. Every read has a limit.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &str) -> Client {
        let stream = UnixStream::connect(path).expect("the control socket accepts");
        stream
            .set_read_timeout(Some(common::LIMIT))
            .expect("a limit can be set");
        stream
            .set_write_timeout(Some(common::LIMIT))
            .expect("a limit can be set");
        Client {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("it reads us");
    }

    /// `None`: the connection has ended.
    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("an answer is JSON")),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    #[track_caller]
    fn answer(&mut self) -> Value {
        self.read().expect("an answer, not the end")
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()["message"]
            .as_str()
            .expect("a message is text")
            .to_owned()
    }

    fn is_closed(&mut self) -> bool {
        self.read().is_none()
    }
}

// ---- ctl ----

#[test]
fn status_shows_sockets_workers_and_the_last_verdict() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=50", "-workers=2"]);
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
    let daemon = place.live(&["-start=50", "-workers=2"]);
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
fn reload_wait_exits_0_when_the_new_generation_is_live() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=50", "-workers=3"]);
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
    let daemon = place.live(&["-start=300"]);
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
    assert_eq!(daemon.verdicts(), 2);
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
    let daemon = place.live(&["-start=400"]);
    assert_said(&place.ctl(&["reload"]), 0, &["reload 2 begins"]);
    assert_said(&place.ctl(&["reload"]), 0, &["this one follows it"]);
    daemon.wait_for_line("generation 3 is live");
}

#[test]
fn stop_wait_returns_when_all_is_over_and_everything_is_free_again() {
    let place = Place::of("slow-stop 300");
    let pidfile = format!("-pidfile={}", place.dir.word("pid"));
    let daemon = place.live(&["-start=50", &pidfile]);
    assert_said(&place.ctl(&["stop", "-wait"]), 0, &["stopped"]);
    assert!(!fs::exists(place.socket()).expect("the directory is ours"));
    // At once: nothing of the first one may be in the way.
    let second = place.live(&["-start=50", &pidfile]);
    assert_eq!(daemon.exit_code(), 0);
    drop(second);
}

#[test]
fn stop_without_wait_is_answered_at_once() {
    let place = Place::of("drain /dev/null");
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50", "-workers=2"]);
    assert_said(&place.ctl(&["workers", "4"]), 0, &["4 workers"]);
    daemon.wait_until("four workers", || daemon.workers().len() == 4);
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
    let daemon = place.live(&["-start=50"]);
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
    let _daemon = place.live(&["-start=50"]);
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
    assert_said(&ctl(&[], ""), 2, &["no command given"]);
    assert_said(&ctl(&["-help"], ""), 0, &["Usage: socketmaster ctl"]);
}

#[test]
fn ctl_shows_progress_on_a_terminal() {
    let place = Place::of("up");
    let _daemon = place.live(&["-start=50", "-workers=3"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
    assert_said(&place.ctl(&["ping"]), 0, &[]);
    assert_eq!(daemon.stop(), 0);
    place.dir.write("ctl", "mine");
    assert_eq!(place.run(&[]).output().status.code(), Some(1));
    assert_eq!(fs::read(place.socket()).expect("it is there"), b"mine");
}

#[test]
fn a_socket_that_stands_in_our_place_by_now_is_not_removed() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=50"]);
    fs::remove_file(place.socket()).expect("it is there");
    let _another = UnixListener::bind(place.socket()).expect("the directory is ours");
    assert_eq!(daemon.stop(), 0);
    assert!(fs::exists(place.socket()).expect("the directory is ours"));
}

// ---- worker:ack ----

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
    let daemon = place.live(&["-ready=ack", "-start=500"]);
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
    daemon.wait_for_line("answered \"{\\\"message\\\": \\\"Not permitted");
    assert_eq!(daemon.exit_status(), None);
}

// ---- einhorn's clients ----

#[cfg(feature = "einhorn")]
mod einhorn {
    use super::*;

    #[test]
    fn einhorns_commands_are_answered_as_einhorn_answers_them() {
        let place = Place::of("up");
        let daemon = place.live(&["-start=50", "-workers=2", "-respawn"]);
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
        let _daemon = place.live(&["-start=50"]);
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
        let daemon = place.live(&["-start=50"]);
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
        let daemon = place.live(&["-start=50", "-workers=2"]);
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
        let daemon = place.live(&["-start=50"]);
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
        let daemon = place.live(&["-start=50"]);
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
        let daemon = place.live(&["-start=50"]);
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

// ---- abuse ----

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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50"]);
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
    let daemon = place.live(&["-start=50", "-workers=4"]);
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
    let daemon = place.live(&["-start=50"]);
    let mut clients: Vec<Client> = (0..5).map(|_| place.client()).collect();
    for client in &mut clients {
        client.ask(r#"{"command":"ping"}"#);
    }
    let before = facts::cpu_ticks(daemon.real_pid());
    daemon.stays_up_for(Duration::from_secs(1));
    let spent = facts::cpu_ticks(daemon.real_pid()) - before;
    assert!(spent < 10, "{spent} hundredths of a second");
}
