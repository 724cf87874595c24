//! Signals that the kernel refuses, and ends that it does not tell: a stop ends all the same, and
//! what could not be done is said with its reason and never claimed.

mod common;

use common::control::{Place, assert_said};
use common::strace::{Attached, injected, strace_or_skip};
use common::{Daemon, Run, TempDir, facts, root_or_skip, skip, worker};
use nix::sys::ptrace;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::Duration;

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
        .args(&["-listen=tcp://127.0.0.1:0", "-user=nobody", "-start=1000"])
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
    let place = Place::of("up");
    let Some(run) = injected(place.run(&["-start=0"]), &["kill:error=EPERM:when=1"]) else {
        return;
    };
    let daemon = run.start();
    daemon.worker_that_said("up");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(daemon.count("cannot send SIGTERM to worker"), 1);
    assert_eq!(daemon.count("signal: terminated"), 1);
}

/// The kernel takes SIGKILL and nothing happens, as in a sleep that nothing interrupts.
#[test]
fn a_worker_that_sigkill_does_not_end_is_given_up_and_named() {
    let place = Place::of("up");
    let run = place.run(&["-start=0", "-stop=300"]);
    let Some(run) = injected(run, &["kill:retval=0"]) else {
        return;
    };
    let daemon = run.start();
    let pid = daemon.worker_that_said("up");
    let _left = LeftBehind(vec![pid]);
    assert_eq!(daemon.stop(), 1);
    assert_eq!(daemon.count("SIGKILL to its process group"), 1);
    let named = format!("giving up worker {pid}: SIGKILL has not ended it in 10 s");
    assert_eq!(daemon.count(&named), 1);
    assert!(facts::alive(pid));
}

/// Makes a call of a program that runs fail, as long as what is returned lives.
fn fails(daemon: &Daemon, injection: &str) -> Option<Attached> {
    let call = injection.split(':').next().unwrap_or_default();
    let (trace, inject) = (format!("trace={call}"), format!("inject={injection}"));
    let words = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
    let attached = Attached::to(daemon.pid(), &words);
    if attached.is_none() {
        skip("strace may not attach here");
    }
    attached
}

#[test]
fn a_worker_that_could_not_be_heard_is_not_started_and_not_blamed() {
    if !strace_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let run = Run::worker(&["-ready=notify"], &["from", &dir.word("behaviour")]);
    dir.write("behaviour", "http-ready");
    let daemon = run.start();
    daemon.wait_until_live();
    let old = daemon.workers();
    // What is watched first, second and third: its report, its notify socket, its output.
    for (number, what) in [
        (1, "watching the report of its start"),
        (2, "watching its notify socket"),
        (3, "watching its output"),
    ] {
        let injection = format!("epoll_ctl:error=ENOSPC:when={number}");
        let Some(_attached) = fails(&daemon, &injection) else {
            return;
        };
        let verdict = daemon.reload();
        let reason = format!("rolled back: cannot start worker: {what}: No space left on device");
        assert!(verdict.contains(&reason), "{verdict}");
        assert_eq!(daemon.workers(), old, "nobody was started");
    }
    assert!(daemon.reload().contains("is live"));
    assert_eq!(daemon.stop(), 0);
}

/// Traces the children too, to kill one that has changed its user and has not become its program.
#[test]
fn a_worker_killed_on_its_way_to_its_program_was_never_ready() {
    if !root_or_skip() || !strace_or_skip() {
        return;
    }
    let place = Place::of("up");
    let program = place.dir.copy_program(Path::new(&worker()), "worker");
    let daemon = Run::bare()
        .through(&[
            "strace",
            "-f",
            "-D",
            "-o",
            "/dev/null",
            "-e",
            "trace=setresuid",
        ])
        .through(&["-e", "inject=setresuid:signal=SIGKILL"])
        .args(&["-listen=tcp://127.0.0.1:0", "-user=nobody", "-start=0"])
        .args(&[&format!("-command={program}"), "--", "up"])
        .start();
    assert_eq!(daemon.exit_code(), 137);
    assert_eq!(daemon.count("is ready"), 0);
    assert_eq!(daemon.count("generation 1: live"), 0);
    assert_eq!(daemon.count("generation 1 failed: worker"), 1);
}

#[test]
fn ends_that_the_kernel_does_not_tell_for_a_while_leave_no_zombie() {
    if !strace_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=0", "-respawn"], &["up"]).start();
    let old = daemon.worker_that_said("up");
    let Some(attached) = fails(&daemon, "waitid:error=EINVAL") else {
        return;
    };
    signal::kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
    daemon.wait_for_line("cannot collect workers that have ended: Invalid argument");
    daemon.stays_up_for(Duration::from_millis(1500));
    assert!(daemon.count("cannot collect workers") <= 3, "not every try");
    assert_eq!(facts::state(old).as_deref(), Some("Z"));
    drop(attached);
    daemon.wait_for_line("collecting workers that have ended again");
    daemon.wait_until("another worker, and no zombie", || {
        let children = facts::children(daemon.pid());
        children.len() == 1 && children[0] != old
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_stop_ends_although_the_kernel_does_not_tell_that_the_workers_have_ended() {
    if !strace_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    let pid = daemon.worker_that_said("up");
    let Some(_attached) = fails(&daemon, "waitid:error=EINVAL") else {
        return;
    };
    assert_eq!(daemon.stop(), 1);
    let named = format!("giving up worker {pid}: it has ended, and the system does not say how");
    assert_eq!(daemon.count(&named), 1);
    assert!(!facts::alive(pid));
}

#[test]
fn a_system_that_never_tells_of_ends_is_found_out_at_the_start() {
    let run = Run::worker(&["-start=0"], &["up"]);
    let Some(run) = injected(run, &["waitid:error=ENOSYS"]) else {
        return;
    };
    let output = run.output();
    let reason = "cannot learn of workers' ends (waitid): Function not implemented";
    assert_said(&output, 1, &[reason]);
}

#[test]
fn events_that_cannot_be_waited_for_are_looked_for() {
    if !strace_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=100"], &["up"]).start();
    daemon.wait_until_live();
    let Some(_attached) = fails(&daemon, "epoll_wait:error=ENOMEM") else {
        return;
    };
    assert!(daemon.reload().contains("is live"));
    let before = facts::processor(daemon.pid());
    daemon.stays_up_for(Duration::from_secs(2));
    let used = facts::processor(daemon.pid()) - before;
    assert!(
        used < Duration::from_secs(1),
        "{used:?} of processor: it spins"
    );
    let lines = daemon.count("cannot wait for events: Cannot allocate memory");
    assert!((1..=5).contains(&lines), "{lines} lines");
    assert_eq!(daemon.stop(), 0);
}

/// It would run another release's files.
#[test]
fn a_directory_that_cannot_be_opened_for_want_of_descriptors_is_no_reason_to_start_elsewhere() {
    if !strace_or_skip() {
        return;
    }
    let dir = TempDir::new();
    for release in ["one", "two"] {
        fs::create_dir(dir.join(release)).expect("the directory is ours");
    }
    dir.link("current", "one");
    let daemon = Run::worker(&["-start=100"], &["up"])
        .dir(&dir.join("current"))
        .start();
    daemon.wait_until_live();
    dir.link("current", "two");
    let Some(attached) = fails(&daemon, "openat:error=EMFILE") else {
        return;
    };
    let verdict = daemon.reload();
    let reason = "cannot start worker: opening its working directory: Too many open files";
    assert!(verdict.contains(reason), "{verdict}");
    drop(attached);
    assert!(daemon.reload().contains("is live"));
    let worker = daemon.worker_that_said("up");
    let cwd = fs::read_link(format!("/proc/{worker}/cwd")).expect("it is there");
    assert_eq!(cwd, dir.join("two"));
}

/// Keeps a worker's end from its parent until the test is over: who traces a process hears of its
/// end first.
fn trace(pid: i32) {
    ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).expect("it is ours to trace");
}

#[test]
fn a_dead_worker_whose_tracer_hides_its_status_is_dead() {
    let daemon = Run::worker(&["-start=0", "-respawn", "-stop=500"], &["up"]).start();
    let first = daemon.worker_that_said("up");
    daemon.wait_until_live();
    trace(first);
    signal::kill(Pid::from_raw(first), Signal::SIGKILL).expect("it is ours");
    daemon.wait_for_line("ended: a process that traces it keeps its status from us");
    daemon.wait_for_count("] up", 2);
    let second = daemon.wait_for("the worker that replaces it", || {
        let workers = daemon.workers();
        workers.into_iter().find(|pid| *pid != first)
    });
    trace(second);
    // A stop does not wait for the tracer either.
    assert_eq!(daemon.stop(), 0);
}
