//! Other users' processes on the control socket: they keep nobody out, and cost a bounded amount.

mod common;

use common::attacker::{Attacker, STRANGER};
use common::control::Place;
use common::{Daemon, Run, TempDir, facts, worker};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Under forty processes that hold as many connections as they get, root is answered and a reload
/// with -ready=ack goes live, time and again. `attack` starts them; the words are the worker's.
fn nobody_is_kept_out(words: &[&str], attack: impl Fn(&Place) -> Option<Attacker>) {
    if !common::root_or_skip() {
        return;
    }
    let place = Place::of("control worker:ack");
    place.dir.copy_program(worker().as_ref(), "worker");
    place
        .dir
        .copy_program(&common::example("attacker"), "attacker");
    let words: Vec<String> = (words.iter())
        .map(|word| word.replace("DIR", &place.dir.path().to_string_lossy()))
        .collect();
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=ack", "-start=15000"])
        .args(&[
            &format!("-user={STRANGER}"),
            &format!("-control={}", place.socket()),
        ])
        .args(&words)
        .start();
    daemon.wait_until_live();
    let sockets = || {
        let all = facts::open_fds(daemon.real_pid());
        let sockets = all.iter().filter(|(_, what)| what.starts_with("socket:"));
        sockets.count()
    };
    let own = sockets();
    let clients = || sockets().saturating_sub(own);
    for generation in 2..=4 {
        let _attacker = attack(&place);
        daemon.wait_until("the attack", || clients() >= 4);
        let _ = std::fs::remove_file(place.dir.join("go"));
        let ping = place.ctl(&["ping"]);
        assert_eq!(ping.status.code(), Some(0), "{ping:?}");
        let reload = place.ctl(&["reload", "-wait"]);
        let log = daemon.log();
        assert_eq!(reload.status.code(), Some(0), "{reload:?}: {log}");
        daemon.wait_for_line(&format!("generation {generation} is live"));
        assert!(clients() < 80, "{} clients", clients());
    }
    let lines = daemon.count("turned away");
    assert!(lines < 40, "{lines} lines");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn forty_processes_of_the_workers_user_keep_neither_root_nor_an_ack_out() {
    let words = ["-command=DIR/worker", "from", "DIR/behaviour"];
    nobody_is_kept_out(&words, |place| {
        Some(Attacker::start(&place.dir, &["hold", &place.socket()]))
    });
}

#[test]
fn forty_descendants_of_a_worker_keep_neither_root_nor_another_workers_ack_out() {
    // Each generation attacks when it is live.
    let script = "(until [ -e DIR/go ]; do kill -0 $$ || exit; sleep 0.02; done; exec DIR/attacker hold DIR/ctl) &
        exec DIR/worker from DIR/behaviour";
    nobody_is_kept_out(&["-command=sh", "--", "-c", script], |place| {
        place.dir.write("go", "");
        None
    });
}

/// Allows it so many more bytes than it has now.
fn limit_memory(daemon: &Daemon, more: u64) {
    let pid = daemon.real_pid();
    let limit = facts::address_space(pid) * 1024 + more;
    let status = Command::new("prlimit")
        .arg(format!("--pid={pid}"))
        .arg(format!("--as={limit}"))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "prlimit failed"
    );
}

#[test]
fn clients_that_read_nothing_do_not_end_us_under_a_memory_limit() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=3000", "-workers=8"]);
    limit_memory(&daemon, 5 << 20);
    let _attacker = Attacker::of_ours(&["stuff", &place.socket()]);
    let worked = || facts::processor(daemon.real_pid());
    let before = worked();
    daemon.wait_until("two seconds of work for them", || {
        worked() > before + Duration::from_secs(2)
    });
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn workers_that_are_to_die_with_us_do_so_when_an_allocation_fails() {
    let place = Place::of("up");
    let daemon = place.live(&["-start=300", "-workers=4", "-die-with-parent"]);
    let workers = daemon.workers();
    limit_memory(&daemon, 0);
    let _attacker = Attacker::of_ours(&["stuff", &place.socket()]);
    daemon.wait_until("an allocation that fails", || {
        daemon.exit_status().is_some()
    });
    daemon.wait_until("the workers' end", || {
        !workers.iter().any(|pid| facts::alive(*pid))
    });
}

#[test]
fn a_workers_escape_sequences_do_not_reach_the_operators_terminal() {
    let place = Place::of("up");
    let bad = place.dir.write(
        "bad",
        "printf '\\033]0;owned\\007\\033[2J\\rgone\\n'; exit 1",
    );
    let good = place.dir.write("good", "exec sleep 60");
    place.dir.link("script", &good);
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=300"])
        .arg(format!("-control={}", place.socket()))
        .args(&["-command=sh", "--", &place.dir.word("script")])
        .start();
    daemon.wait_until_live();
    place.dir.link("script", &bad);
    for words in [&["reload", "-wait"][..], &["status"], &["status", "-json"]] {
        let output = place.ctl(words);
        let shown = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&shown);
        assert!(text.contains("]0;owned"), "{words:?}: {text:?}");
        let is_obeyed = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(!shown.iter().any(is_obeyed), "{words:?}: {text:?}");
    }
    // What other clients are told, einhornsh too, comes from us escaped.
    let told = place.client().ask(r#"{"command":"status"}"#);
    assert!(told.contains("]0;owned"), "{told:?}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
    assert_eq!(daemon.stop(), 0);
}

/// Runs it until it has ended, which must be soon; its exit status and what it said.
fn ends_by_itself(command: &mut Command) -> (Option<i32>, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("it is built");
    let end = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("it is ours").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("it has ended");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&said).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_server_that_accepts_or_answers_nobody_does_not_hang_a_client() {
    let dir = TempDir::new();
    let (full, silent) = (dir.word("full"), dir.word("silent"));
    let listener = UnixListener::bind(&full).expect("the directory is ours");
    let backlog = nix::sys::socket::Backlog::new(0).expect("it is small");
    nix::sys::socket::listen(&listener, backlog).expect("it is a socket");
    let _first = UnixStream::connect(&full).expect("there is room for one");
    let _silent = UnixListener::bind(&silent).expect("the directory is ours");
    let program = env!("CARGO_BIN_EXE_socketmaster");
    let ask = |path: &str| {
        let mut ctl = Command::new(program);
        ctl.args(["ctl", &format!("-control={path}"), "-timeout=300", "ping"]);
        let mut shell = Command::new(program);
        shell.args(["einhornsh", "-d", path, "-e", "state"]);
        std::thread::scope(|scope| {
            let shell = scope.spawn(move || ends_by_itself(&mut shell));
            let ctl = ends_by_itself(&mut ctl);
            (ctl, shell.join().expect("it does not panic"))
        })
    };
    for (path, awaited) in [
        (&full, "a place in the queue of"),
        (&silent, "an answer from"),
    ] {
        let ((status, said), shell) = ask(path);
        assert_eq!(status, Some(4), "{said}");
        let wanted = format!("ping: waited 300 ms for {awaited} {path}");
        assert!(said.contains(&wanted), "{said}");
        let (status, said) = shell;
        assert_eq!(status, Some(1), "{said}");
        let wanted = format!("einhornsh: waited 10.0 s for {awaited} {path}");
        assert!(said.contains(&wanted), "{said}");
    }
}

#[test]
fn processes_that_connect_without_a_pause_do_not_keep_root_out() {
    if !common::root_or_skip() {
        return;
    }
    let place = Place::of("up");
    let command = place.dir.copy_program(worker().as_ref(), "worker");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0"])
        .args(&[&format!("-user={STRANGER}"), &format!("-command={command}")])
        .args(&[&format!("-control={}", place.socket()), "up"])
        .start();
    daemon.wait_until_live();
    let _attacker = Attacker::start(&place.dir, &["spin", &place.socket()]);
    let address = UnixAddr::new(place.socket().as_str()).expect("the path is short");
    daemon.wait_until("a full queue", || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let client = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let client = client.expect("a socket can be made");
        connect(client.as_raw_fd(), &address) == Err(Errno::EAGAIN)
    });
    for _ in 0..3 {
        let ping = place.ctl(&["-timeout=30s", "ping"]);
        assert_eq!(ping.status.code(), Some(0), "{ping:?}");
    }
    assert_eq!(daemon.stop(), 0);
}
