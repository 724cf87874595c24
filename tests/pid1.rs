//! As PID 1 of a PID namespace, as in a container: orphans are reaped, signals obeyed, and the
//! exit status handed on.

mod common;

use common::{Run, facts};
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
    let helper = common::example("no-pidfd");
    let enosys = libc::ENOSYS.to_string();
    let daemon = Run::worker(&["-start=0"], &["double-fork", "30"])
        .through(NAMESPACE)
        .through(&[helper.as_os_str(), enosys.as_ref()])
        .start();
    daemon.wait_for_line("orphans made");
    let pid = daemon.real_pid();
    daemon.wait_until("one child and no zombie", || {
        facts::children(pid).len() == 1
    });
    assert_eq!(daemon.stop(), 0);
}
