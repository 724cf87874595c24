//! As PID 1 of a PID namespace, as in a container: orphans are reaped, signals obeyed, and the
//! exit status handed on.

mod common;

use common::{Run, TempDir, facts};
use nix::sys::signal::Signal;
use std::process::Command;

const NAMESPACE: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

fn namespaces_or_skip() -> bool {
    let trial = Command::new(NAMESPACE[0])
        .args(&NAMESPACE[1..])
        .arg("true")
        .output();
    let works = trial.is_ok_and(|output| output.status.success());
    if !works {
        common::skip("PID namespaces are not allowed here");
    }
    works
}

#[test]
fn orphans_leave_no_zombie() {
    if !namespaces_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=0"], &["double-fork", "30"])
        .through(NAMESPACE)
        .start();
    daemon.wait_for_line("orphans made");
    let pid = daemon.real_pid();
    daemon.wait_until("one child and no zombie", || {
        facts::children(pid).len() == 1
    });
    let line = daemon.wait_for_line("Listening on");
    assert!(line.starts_with("socketmaster[1] "), "{line}");
    assert_eq!(daemon.count("exit status"), 0, "an orphan's end was logged");
    daemon.reload();
    daemon.wait_for_count("orphans made", 2);
    daemon.wait_until("one child and no zombie", || {
        facts::children(pid).len() == 1
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_exit_status_of_the_last_worker_is_handed_on() {
    if !namespaces_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=0"], &["exit", "42", "100"])
        .through(NAMESPACE)
        .start();
    assert_eq!(daemon.exit_code(), 42);
}

#[test]
fn orphans_are_reaped_without_pidfds_too() {
    if !namespaces_or_skip() {
        return;
    }
    let helper = common::example("refuse");
    let enosys = libc::ENOSYS.to_string();
    let daemon = Run::worker(&["-start=0"], &["double-fork", "30"])
        .through(NAMESPACE)
        .through(&[helper.as_os_str(), "pidfd_open".as_ref(), enosys.as_ref()])
        .start();
    daemon.wait_for_line("orphans made");
    let pid = daemon.real_pid();
    daemon.wait_until("one child and no zombie", || {
        facts::children(pid).len() == 1
    });
    assert_eq!(daemon.stop(), 0);
}

/// A namespace whose mounts are prepared by a piece of shell.
fn prepared(script: &str) -> [String; 8] {
    let script = format!("set -e\n{script}\nexec \"$@\"");
    let words = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        &script,
    ];
    words.map(str::to_owned)
}

/// Makes everything read-only, /proc and /dev excepted.
const READ_ONLY: &str = "
    for at in $(cut -d' ' -f2 /proc/self/mounts); do
        case $at in /proc*|/dev*) ;; *) mount -o remount,bind,ro $at 2>/dev/null || : ;; esac
    done
    if touch /socketmaster-test 2>/dev/null; then echo still writable >&2; exit 1; fi";

/// The kernel keeps signals without a handler away from PID 1, SIGKILL from within too; those
/// that mean something to us have handlers.
#[test]
fn signals_that_are_not_for_us_change_nothing_and_those_that_are_still_work() {
    if !namespaces_or_skip() {
        return;
    }
    let script = "for name in KILL STOP ALRM PIPE ABRT WINCH TSTP; do kill -$name 1; done; \
                  echo survived; exec \"$0\" up";
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=/bin/sh"])
        .args(&["--", "-c", script, &common::worker()])
        .through(NAMESPACE)
        .start();
    daemon.wait_for_line("survived");
    daemon.wait_for_line("] up");
    assert!(daemon.reload().contains("generation 2 is live"));
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_worker_that_died_of_a_signal_gives_128_and_its_number() {
    if !namespaces_or_skip() {
        return;
    }
    let daemon = Run::worker(&["-start=0"], &["kill-self", "9"])
        .through(NAMESPACE)
        .start();
    assert_eq!(daemon.exit_code(), 128 + 9);
}

#[test]
fn a_stop_waits_for_the_workers_and_leaves_nobody() {
    if !namespaces_or_skip() {
        return;
    }
    let dir = common::TempDir::new();
    let daemon = Run::worker(&["-start=0"], &["drain", &dir.word("go")])
        .through(NAMESPACE)
        .start();
    daemon.wait_for_line("] up");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("draining");
    assert_eq!(daemon.workers().len(), 1);
    dir.write("go", "");
    assert_eq!(daemon.exit_code(), 0);
    daemon.wait_for_line("drained");
}

#[test]
fn a_read_only_root_is_enough() {
    if !namespaces_or_skip() {
        return;
    }
    let words = [&prepared(READ_ONLY)[..], &["sh".to_owned()]].concat();
    let daemon = Run::worker(&["-start=100"], &["http"])
        .through(&words)
        .start();
    serves_a_whole_life(&daemon);
}

/// What we read in /proc makes us better informed, no more.
#[test]
fn neither_proc_nor_etc_is_needed_to_serve_as_a_user_by_number() {
    if !namespaces_or_skip() {
        return;
    }
    let hide = "mount -t tmpfs -o ro none /etc\nmount -t tmpfs -o ro none /proc";
    let words = [&prepared(hide)[..], &["sh".to_owned()]].concat();
    let dir = TempDir::new();
    let command = dir.copy_program(common::worker().as_ref(), "worker");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=100"])
        .args(&["-user=54321:54322", &format!("-command={command}"), "http"])
        .through(&words)
        .start();
    serves_a_whole_life(&daemon);
    assert_eq!(daemon.count("54321"), 0, "{}", daemon.log());
}

fn serves_a_whole_life(daemon: &common::Daemon) {
    daemon.wait_until_live();
    let first = daemon.address().get().expect("an answer");
    assert!(daemon.reload().contains("generation 2 is live"));
    daemon.wait_until("the new worker to answer", || {
        daemon.address().get().is_ok_and(|answer| answer != first)
    });
    assert_eq!(daemon.stop(), 0);
    assert_eq!(daemon.count("cannot"), 0);
}
