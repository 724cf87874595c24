//! Other users' processes on the control socket: they keep nobody out, and cost a bounded amount.

mod common;

use common::attacker::{Attacker, STRANGER};
use common::control::Place;
use common::{Run, facts, worker};

#[test]
fn forty_processes_of_the_workers_user_keep_neither_root_nor_an_ack_out() {
    if !common::root_or_skip() {
        return;
    }
    let place = Place::of("control worker:ack");
    let command = place.dir.copy_program(worker().as_ref(), "worker");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=ack", "-start=15000"])
        .args(&[
            &format!("-user={STRANGER}"),
            &format!("-control={}", place.socket()),
        ])
        .args(&[
            &format!("-command={command}"),
            "from",
            &place.dir.word("behaviour"),
        ])
        .start();
    daemon.wait_until_live();
    let open = || facts::open_fds(daemon.real_pid()).len();
    let before = open();
    let _attacker = Attacker::start(&place.dir, &["hold", &place.socket()]);
    daemon.wait_until("the attack", || open() >= before + 10);
    for generation in 2..=4 {
        let ping = place.ctl(&["ping"]);
        assert_eq!(ping.status.code(), Some(0), "{ping:?}");
        let reload = place.ctl(&["reload", "-wait"]);
        assert_eq!(
            reload.status.code(),
            Some(0),
            "{reload:?}: {}",
            daemon.log()
        );
        daemon.wait_for_line(&format!("generation {generation} is live"));
    }
    let open = open();
    assert!(open < before + 20, "{open} descriptors, {before} before");
    let lines = daemon.count("turned away");
    assert!(lines < 40, "{lines} lines");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_workers_escape_sequences_do_not_reach_the_operators_terminal() {
    let place = Place::of("up");
    let bad = place
        .dir
        .write("bad", "printf '\\033]0;owned\\007\\033[2J\\rgone\\n'; exit 1");
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
