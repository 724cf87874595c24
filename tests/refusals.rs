//! Signals that the kernel refuses, and ends that it does not tell: a stop ends all the same, and
//! what could not be done is said with its reason and never claimed.

mod common;

use common::control::{Place, assert_said};
use common::strace::{injected, strace_or_skip};
use common::{Daemon, Run, facts, root_or_skip, worker};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::path::Path;

/// What a stop leaves behind here: ended with its test.
struct LeftBehind(Vec<i32>);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        for pid in &self.0 {
            if facts::program(*pid).is_some_and(|program| program.ends_with("worker")) {
                let _ = signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
    }
}

/// Root without CAP_KILL, its worker of another user.
fn powerless(place: &Place, flags: &[&str]) -> Run {
    let program = place.dir.copy_program(Path::new(&worker()), "worker");
    Run::bare()
        .through(&["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"])
        .args(&["-listen=tcp://127.0.0.1:0", "-user=nobody", "-start=200"])
        .args(flags)
        .arg(format!("-control={}", place.socket()))
        .arg(format!("-command={program}"))
        .args(&["--", "from", &place.dir.word("behaviour")])
}

/// Waits until the worker runs as another user, which is when it cannot be signalled any more.
fn live(run: Run) -> (Daemon, LeftBehind) {
    let daemon = run.start();
    let pid = daemon.worker_that_said("up");
    daemon.wait_until_live();
    (daemon, LeftBehind(vec![pid]))
}

/// That it ends, and what it says.
fn stops_without_its_worker(stop: &str) {
    if !root_or_skip() {
        return;
    }
    let place = Place::of("up");
    let (daemon, workers) = live(powerless(&place, &[stop]));
    daemon.wait_for_line("without CAP_KILL we cannot signal workers of user nobody");
    let pid = workers.0[0];
    assert_eq!(daemon.stop(), 1);
    let refused = format!("to worker {pid}: Operation not permitted; trying for 10 s more");
    assert_eq!(daemon.count(&format!("cannot send SIGTERM {refused}")), 1);
    assert_eq!(daemon.count("to its process group"), 0, "that is not true");
    assert_eq!(daemon.count(&format!("giving up worker {pid}: ")), 1);
    assert_eq!(daemon.count("exiting with status 1"), 1);
    assert!(facts::alive(pid), "it is left behind, and named");
}

#[test]
fn a_stop_ends_although_the_workers_cannot_be_signalled() {
    stops_without_its_worker("-stop=0");
}

#[test]
fn a_kill_that_is_refused_is_not_claimed_and_the_stop_ends() {
    stops_without_its_worker("-stop=300");
}

#[test]
fn a_reload_is_live_and_names_the_old_workers_that_could_not_be_asked_to_stop() {
    if !root_or_skip() {
        return;
    }
    let place = Place::of("up");
    let (daemon, mut workers) = live(powerless(&place, &["-workers=2"]));
    daemon.wait_until("both workers", || daemon.workers().len() == 2);
    workers.0 = daemon.workers();
    let old = workers.0.clone();
    let reload = place.ctl(&["reload", "-wait"]);
    workers.0 = daemon.workers();
    let unreached = "2 workers could not be asked to stop: Operation not permitted; they go on \
                     serving beside it";
    assert_said(&reload, 0, &["generation 2 is live, 2 of 2", unreached]);
    daemon.wait_for_line(unreached);
    assert!(old.iter().all(|pid| facts::alive(*pid)));
    let status = place.status();
    assert_eq!(status["last_verdict"]["could_not_be_asked"], 2);
    let reason = &status["workers"][0]["cannot_be_signalled"];
    assert_eq!(*reason, "Operation not permitted");
    let table = place.ctl(&["status"]);
    let row = "cannot be signalled: Operation not permitted";
    assert_said(&table, 0, &[row, "2 not to be stopped by us"]);
    for pid in old {
        daemon.wait_for_line(&format!("worker {pid} cannot be signalled: Operation"));
    }
}

#[test]
fn what_will_not_be_possible_is_said_by_a_check_too() {
    if !root_or_skip() {
        return;
    }
    let place = Place::of("up");
    let output = powerless(&place, &["-check"]).output();
    assert_said(&output, 0, &["warning: without CAP_KILL we cannot signal"]);
}

#[test]
fn a_signal_that_was_refused_once_is_sent_again() {
    if !strace_or_skip() {
        return;
    }
    let place = Place::of("up");
    let daemon = injected(place.run(&["-start=0"]), "kill:error=EPERM:when=1").start();
    daemon.worker_that_said("up");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(daemon.count("cannot send SIGTERM to worker"), 1);
    assert_eq!(daemon.count("signal: terminated"), 1);
}

/// The kernel takes SIGKILL and nothing happens, as in a sleep that nothing interrupts.
#[test]
fn a_worker_that_sigkill_does_not_end_is_given_up_and_named() {
    if !strace_or_skip() {
        return;
    }
    let place = Place::of("up");
    let run = place.run(&["-start=0", "-stop=300"]);
    let daemon = injected(run, "kill:retval=0").start();
    let pid = daemon.worker_that_said("up");
    let _left = LeftBehind(vec![pid]);
    assert_eq!(daemon.stop(), 1);
    assert_eq!(daemon.count("SIGKILL to its process group"), 1);
    let named = format!("giving up worker {pid}: SIGKILL has not ended it in 10 s");
    assert_eq!(daemon.count(&named), 1);
    assert!(facts::alive(pid));
}
