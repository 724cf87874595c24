//! A system call that fails once, or for a while, costs no signal and no deadline: nothing hangs on one
//! wake-up. The faults are strace's.

mod common;

use common::strace::injected;
use common::{Daemon, Run, facts, worker};
use std::time::Duration;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A worker that is ready after half a second, below these faults; `None` without strace.
fn start(faults: &[&str]) -> Option<Daemon> {
    let run = Run::worker(&["-start=500"], &["up"]);
    injected(run, faults).map(Run::start)
}

#[test]
fn a_term_whose_wake_up_cannot_be_written_is_obeyed() {
    // Only the signal handlers send anything here.
    let Some(daemon) = start(&["sendto:error=ENOBUFS"]) else {
        return;
    };
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
    daemon.wait_for_line("SIGTERM: stopping");
}

#[test]
fn a_hup_whose_wake_up_cannot_be_written_reloads() {
    let Some(daemon) = start(&["sendto:error=ENOBUFS"]) else {
        return;
    };
    daemon.wait_until_live();
    let verdict = daemon.reload();
    assert!(verdict.contains("generation 2 is live"), "{verdict}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_term_that_comes_during_a_turn_and_cannot_be_written_is_obeyed() {
    // pidfd_open is called in the turn that starts a worker, after its fork, and once before.
    let faults = ["sendto:error=ENOBUFS", "pidfd_open:signal=TERM:when=2"];
    let Some(daemon) = start(&faults) else {
        return;
    };
    daemon.wait_for_line("SIGTERM: stopping");
    daemon.exit_code();
}

#[test]
fn a_deadline_whose_timer_cannot_be_set_is_kept() {
    for when in ["", ":when=1", ":when=2+3"] {
        let Some(daemon) = start(&[&format!("timerfd_settime:error=ENOMEM{when}")]) else {
            return;
        };
        daemon.wait_until_live();
        for generation in 2..=4 {
            let verdict = daemon.reload();
            let wanted = format!("generation {generation} is live");
            assert!(verdict.contains(&wanted), "{when}: {verdict}");
        }
        assert_eq!(daemon.stop(), 0, "{when}");
        assert_eq!(daemon.count("cannot wait for events"), 0, "{when}");
    }
}

/// A start by a parent that has blocked all signals.
fn deaf(run: Run) -> Run {
    run.through(&[&worker(), "with-signals"])
}

#[test]
fn signals_that_cannot_be_unblocked_once_are_unblocked_all_the_same() {
    let run = Run::worker(&["-start=0"], &["up"]);
    let Some(run) = injected(deaf(run), &["rt_sigprocmask:error=EPERM:when=1..3"]) else {
        return;
    };
    let daemon = run.start();
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn signals_that_cannot_be_unblocked_at_all_are_a_reason_not_to_start() {
    let run = Run::worker(&["-start=0"], &["up"]);
    let Some(run) = injected(run, &["rt_sigprocmask:error=EPERM"]) else {
        return;
    };
    let output = run.output();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.contains("cannot unblock signals: Operation not permitted"),
        "{log}"
    );
    assert!(!log.contains("Starting"), "{log}");
}

#[test]
fn a_mask_that_cannot_be_given_back_after_a_fork_is_given_back_later_and_complained_about() {
    // The first call is that of our start, the second blocks before the fork.
    let run = Run::worker(&["-start=0"], &["up"]);
    let Some(run) = injected(run, &["rt_sigprocmask:error=EPERM:when=3..20"]) else {
        return;
    };
    let daemon = run.start();
    daemon.wait_for_line("cannot unblock signals: Operation not permitted; trying again");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_stop_that_comes_during_the_set_up_starts_nothing() {
    for signal in ["TERM", "INT"] {
        let run = Run::worker(&["-start=0", "-workers=3"], &["up"]);
        let Some(run) = injected(run, &[&format!("listen:signal={signal}")]) else {
            return;
        };
        let log = text(&run.output().stderr);
        assert!(log.contains(&format!("SIG{signal}: stopping")), "{log}");
        assert!(!log.contains("Starting"), "{log}");
    }
}

#[test]
fn a_service_with_nothing_to_do_is_not_woken() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    daemon.wait_until_live();
    let pid = daemon.real_pid();
    // A second after the last event there is one more look.
    let mut before = facts::switches(pid);
    daemon.wait_until("three seconds without a wake-up", || {
        daemon.stays_up_for(Duration::from_secs(3));
        let now = facts::switches(pid);
        std::mem::replace(&mut before, now) == now
    });
    assert_eq!(daemon.stop(), 0);
}
