//! Signals to the master.

use super::Place;
use super::common::{Daemon, facts, worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn live() -> (Place, Daemon) {
    let place = Place::new();
    let daemon = place.live("-n 2 -m 0 -s 0.1 -b 127.0.0.1:0", "einhorn never");
    daemon.wait_for_count("] up", 2);
    (place, daemon)
}

/// How many workers were asked by this signal.
fn asked(daemon: &Daemon, signal: Signal) -> usize {
    daemon.count(&format!("asked by signal {}", signal as i32))
}

/// One worker that says each signal that it gets, and leaves when there is the file `end`.
fn trapping(place: &Place) -> Daemon {
    let script = format!("exec {} trap {} >&2", worker(), place.dir.word("end"));
    let run = place.einhorn("-m 0 -b 127.0.0.1:0");
    let daemon = run.args(&["sh", "-c", &script]).start();
    daemon.wait_until_live();
    daemon.wait_for_line("up");
    daemon
}

#[test]
fn term_is_forwarded_and_the_status_is_0() {
    let (place, daemon) = live();
    assert_eq!(daemon.stop(), 0);
    assert_eq!(asked(&daemon, Signal::SIGTERM), 2);
    assert_eq!(place.dir.names(), ["behaviour", "lock"]);
}

#[test]
fn usr2_and_int_ask_the_workers_by_usr2() {
    for signal in [Signal::SIGUSR2, Signal::SIGINT] {
        let (place, daemon) = live();
        daemon.signal(signal);
        assert_eq!(daemon.exit_code(), 0, "{signal}");
        assert_eq!(asked(&daemon, Signal::SIGUSR2), 2, "{signal}");
        assert_eq!(place.dir.names(), ["behaviour", "lock"], "{signal}");
    }
}

#[test]
fn a_second_term_is_sent_to_the_workers_again() {
    let place = Place::new();
    let daemon = trapping(&place);
    for count in 1..=3 {
        daemon.signal(Signal::SIGTERM);
        daemon.wait_for_count("got SIGTERM", count);
    }
    place.dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_hup_after_a_stop_changes_nothing() {
    let place = Place::new();
    let daemon = trapping(&place);
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_for_line("SIGUSR2: stopping");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("the reload is ignored");
    place.dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
    assert_eq!(daemon.count("Starting "), 1);
}

#[test]
fn quit_is_forwarded_and_nobody_is_waited_for() {
    let place = Place::new();
    let daemon = trapping(&place);
    let worker = daemon.workers()[0];
    daemon.signal(Signal::SIGQUIT);
    let status = daemon.wait_for_exit();
    assert_eq!(status.code(), Some(1));
    daemon.wait_for_line("got SIGQUIT");
    assert!(facts::alive(worker));
    assert_eq!(place.dir.names(), ["lock"]);
    place.dir.write("end", "");
    daemon.wait_for_log_end();
}

#[test]
fn hup_and_alrm_replace_the_workers() {
    for signal in [Signal::SIGHUP, Signal::SIGALRM] {
        let (_place, daemon) = live();
        let old = daemon.workers();
        let mark = daemon.mark();
        daemon.signal(signal);
        let verdict = daemon.verdict_after(mark);
        assert!(verdict.contains("is live"), "{signal}: {verdict}");
        daemon.wait_until("two new workers alone", || {
            let now = daemon.workers();
            now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
        });
        // Each old one wrote so before it exited, and the log may be read later.
        daemon.wait_until("both old ones were asked", || {
            asked(&daemon, Signal::SIGUSR2) >= 2
        });
        assert_eq!(daemon.stop(), 0);
        assert_eq!(asked(&daemon, Signal::SIGUSR2), 2, "{signal}");
    }
}

#[test]
fn usr1_ends_nothing() {
    let (_place, daemon) = live();
    let workers = daemon.workers();
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_line("SIGUSR1: ignored");
    daemon.address().get().expect("it serves");
    assert_eq!(daemon.workers(), workers);
}

#[test]
fn a_worker_that_dies_after_its_ack_is_replaced() {
    let (_place, daemon) = live();
    let old = daemon.workers();
    kill(Pid::from_raw(old[0]), Signal::SIGKILL).expect("it is there");
    daemon.wait_until("another in its place", || {
        let now = daemon.workers();
        now.len() == 2 && now.contains(&old[1]) && !now.contains(&old[0])
    });
}
