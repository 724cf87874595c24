//! Readiness that a worker reports itself, respawning, and rolling reloads.

mod common;

use common::{Run, TempDir, facts, worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

#[test]
fn with_the_notify_gate_a_generation_is_live_when_it_says_so() {
    let dir = TempDir::new();
    let flags = ["-ready=notify", "-start=20000"];
    let daemon = Run::worker(&flags, &["ready", &dir.word("go")]).start();
    daemon.wait_until("the worker", || daemon.workers().len() == 1);
    daemon.stays_up_for(Duration::from_millis(300));
    assert_eq!(
        daemon.count(": live"),
        0,
        "it was believed ready before it said so"
    );
    dir.write("go", "");
    daemon.wait_until_live();
    let old = daemon.workers()[0];
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    daemon.wait_for_line(&format!("{old} signal: terminated"));
}

#[test]
fn with_the_notify_gate_a_silent_worker_is_rolled_back_at_the_end_of_the_wait() {
    let dir = TempDir::new();
    dir.write("now", "ready");
    let flags = ["-ready=notify", "-start=2000"];
    let daemon = Run::worker(&flags, &["from", &dir.word("now")]).start();
    daemon.wait_until_live();
    let old = daemon.workers()[0];
    dir.write("now", "up");
    let verdict = daemon.reload();
    assert!(verdict.contains("rolled back"), "{verdict}");
    assert!(verdict.contains("ready within"), "{verdict}");
    daemon.wait_for_workers(&[old]);
}

#[test]
fn each_worker_has_a_notify_socket_of_its_own_and_only_with_the_gate() {
    let daemon = Run::worker(&["-ready=notify", "-workers=2"], &["report"]).start();
    let first = common::Report::number(&daemon, 0);
    let second = common::Report::number(&daemon, 1);
    let name = |report: &common::Report| report.env("NOTIFY_SOCKET").map(str::to_owned);
    assert!(name(&first).is_some_and(|name| name.starts_with('@')));
    assert_ne!(name(&first), name(&second));
}

#[test]
fn with_respawn_a_worker_that_dies_is_replaced_at_once() {
    let daemon = Run::worker(&["-respawn", "-start=600"], &["up"]).start();
    daemon.wait_until_live();
    let old = daemon.worker_that_said("up");
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
    daemon.wait_for_line(&format!("{old} signal: killed"));
    daemon.wait_until("another worker", || match daemon.workers()[..] {
        [pid] => pid != old,
        _ => false,
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn with_respawn_a_first_generation_that_crashes_is_tried_again_and_a_stop_ends_it_at_once() {
    let daemon = Run::worker(&["-respawn", "-start=600"], &["exit", "3"]).start();
    daemon.wait_for_count(" exit status 3", 3);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn with_respawn_a_missing_command_is_still_an_error_at_start() {
    let output = Run::bare()
        .args(&[
            "-respawn",
            "-listen=tcp://127.0.0.1:0",
            "-command=/nonexistent/program",
        ])
        .output();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_rolling_reload_replaces_one_after_the_other_and_never_has_more_than_allowed() {
    let daemon = Run::worker(&["-workers=3", "-max-extra=1", "-start=600"], &["up"]).start();
    daemon.wait_until_live();
    let old = daemon.workers();
    let mark = daemon.mark();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("three new workers alone", || {
        let now = daemon.workers();
        // Draining ones do not count, and these leave at once: one may not have been reaped yet.
        assert!(now.len() <= 5, "{now:?}");
        now.len() == 3 && now.iter().all(|pid| !old.contains(pid))
    });
    let verdict = daemon.verdict_after(mark);
    assert!(verdict.contains("3 of 3"), "{verdict}");
}

#[test]
fn workers_die_with_us_only_if_that_was_asked_for() {
    for flags in [&["-start=0"][..], &["-start=0", "-die-with-parent"]] {
        let dir = TempDir::new();
        let daemon = Run::worker(flags, &["drain", &dir.word("end")]).start();
        let pid = daemon.worker_that_said("up");
        daemon.signal(Signal::SIGKILL);
        daemon.wait_for_exit();
        if flags.len() == 1 {
            assert!(facts::alive(pid), "nobody asked it to stop");
        }
        dir.write("end", "");
        let asked = flags.len() == 2;
        if asked {
            daemon.wait_until("the worker to stop", || !facts::alive(pid));
        } else {
            kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
            daemon.wait_until("the worker to stop", || !facts::alive(pid));
        }
    }
}

#[test]
fn a_worker_that_removes_the_socket_s_path_does_not_cut_anybody_off() {
    let dir = TempDir::new();
    dir.write("now", "http");
    let daemon = Run::bare()
        .args(&[&format!("-listen=unix://{}", dir.word("s")), "-start=0"])
        .args(&[&format!("-command={}", worker()), "from", &dir.word("now")])
        .start();
    daemon.worker_that_said("up");
    fs::remove_file(dir.join("s")).expect("the directory is ours");
    daemon.wait_until("the path to be back", || daemon.address().get().is_ok());
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_worker_that_shuts_the_listener_down_does_not_cut_the_others_off() {
    let dir = TempDir::new();
    dir.write("now", "http");
    let daemon = Run::worker(&["-start=0"], &["from", &dir.word("now")]).start();
    daemon.worker_that_said("up");
    dir.write("now", "shutdown");
    daemon.reload();
    dir.write("now", "http");
    daemon.reload();
    daemon.wait_until("an answer", || daemon.address().get().is_ok());
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_path_that_cannot_be_restored_is_tried_again_every_second() {
    let dir = TempDir::new();
    fs::create_dir(dir.join("run")).expect("it can be made");
    let daemon = Run::bare()
        .args(&[&format!("-listen=unix://{}", dir.word("run/s"))])
        .args(&["-start=0", &format!("-command={}", worker()), "http"])
        .start();
    daemon.worker_that_said("up");
    // Moved first: what is taken out of it one by one would be put back meanwhile.
    fs::rename(dir.join("run"), dir.join("gone")).expect("the directory is ours");
    fs::remove_dir_all(dir.join("gone")).expect("the directory is ours");
    let line = daemon.wait_for_line("trying again every second");
    assert!(line.contains("No such file or directory"), "{line}");
    fs::create_dir(dir.join("run")).expect("it can be made");
    daemon.wait_until("an answer", || daemon.address().get().is_ok());
    assert_eq!(daemon.stop(), 0);
}
