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
