//! Who may say that a worker is ready: the worker, its descendants, and nobody else.

mod common;

use common::attacker::{Attacker, STRANGER};
use common::{Run, TempDir, facts, worker};
use std::fs;

/// A start that no machine is too slow for.
const START: &str = "-start=20000";

/// A hung new generation stays unready though a process of the workers' user attacks like this.
fn is_rolled_back_beside(attack: &str, through: &[&str]) {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    dir.write("now", "ready");
    let command = dir.copy_program(worker().as_ref(), "worker");
    let daemon = Run::bare()
        .through(through)
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=3000"])
        .args(&[&format!("-user={STRANGER}"), &format!("-command={command}")])
        .args(&["from", &dir.word("now")])
        .start();
    daemon.wait_until_live();
    let old = daemon.workers()[0];
    dir.write("now", "up");
    let _attacker = Attacker::start(&dir, &[attack]);
    let verdict = daemon.reload();
    assert!(verdict.contains("rolled back"), "{verdict}");
    assert!(
        verdict.contains("did not say that it is ready"),
        "{verdict}"
    );
    daemon.wait_for_workers(&[old]);
    let refused = daemon.count("may not speak for worker");
    assert!(
        (1..=6).contains(&refused),
        "{refused} lines: {}",
        daemon.log()
    );
}

#[test]
fn another_process_of_the_workers_user_does_not_make_a_hung_new_generation_ready() {
    is_rolled_back_beside("ready", &[]);
}

#[test]
fn where_there_is_no_proc_a_worker_speaks_for_itself_and_nobody_else_does() {
    let script = "umount -l /proc; exec \"$@\"";
    is_rolled_back_beside("ready", &["unshare", "-m", "sh", "-c", script, "sh"]);
}

#[test]
fn a_gone_process_of_the_workers_user_does_not_make_a_hung_new_generation_ready() {
    is_rolled_back_beside("ready-and-go", &[]);
}

#[test]
fn a_flood_of_messages_does_not_keep_a_worker_from_being_ready() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let command = dir.copy_program(worker().as_ref(), "worker");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", START])
        .args(&[&format!("-user={STRANGER}"), &format!("-command={command}")])
        .arg("ready")
        .start();
    daemon.wait_until_live();
    let _attackers = [
        Attacker::start(&dir, &["flood"]),
        Attacker::start(&dir, &["flood"]),
    ];
    daemon.wait_for_line("may not speak for worker");
    for _ in 0..3 {
        let verdict = daemon.reload();
        assert!(verdict.contains("is live"), "{verdict}");
    }
    assert_eq!(daemon.stop(), 0);
}

/// Starts with this script as the worker, and waits until it is believed.
fn is_believed(flags: &[&str], script: &str) {
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", START])
        .args(flags)
        .args(&["-command=sh", "--", "-c", script])
        .start();
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
}

fn has_systemd_notify() -> bool {
    let found = ["/usr/bin/systemd-notify", "/bin/systemd-notify"];
    let found = found.iter().any(|path| fs::exists(path).unwrap_or(false));
    if !found {
        common::skip("systemd-notify is not installed");
    }
    found
}

#[test]
fn systemd_notify_in_a_script_is_believed() {
    if has_systemd_notify() {
        is_believed(&[], "systemd-notify --ready; exec sleep 60");
        is_believed(&[], "systemd-notify --no-block --ready; exec sleep 60");
    }
}

#[test]
fn a_helper_whose_parent_is_gone_is_believed() {
    if has_systemd_notify() {
        is_believed(
            &[],
            "(sh -c 'sleep 0.2; systemd-notify --ready' &); exec sleep 60",
        );
    }
}

#[test]
fn a_worker_that_drops_root_by_itself_is_believed() {
    if common::root_or_skip() && has_systemd_notify() {
        let drop = "exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c";
        is_believed(
            &[],
            &format!("{drop} 'systemd-notify --ready; exec sleep 60'"),
        );
    }
}

#[test]
fn one_worker_does_not_speak_for_another() {
    let dir = TempDir::new();
    // The first speaks for every socket that it sees, the second says nothing.
    let script = format!(
        "mkdir {} 2>/dev/null && exec {} ready; exec sleep 60",
        dir.word("first"),
        common::example("attacker").display()
    );
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=1500"])
        .args(&["-workers=2", "-command=sh", "--", "-c", &script])
        .start();
    daemon.wait_for_line("1 of 2 workers");
    daemon.wait_for_line("may not speak for worker");
    let living = || facts::live_children(daemon.real_pid()).len();
    daemon.wait_until("one worker to be left", || living() == 1);
}

#[test]
fn a_child_of_one_worker_does_not_speak_for_another_by_joining_its_process_group() {
    let dir = TempDir::new();
    let script = format!(
        "mkdir {} 2>/dev/null && {{ {} join & wait; }}; exec sleep 60",
        dir.word("first"),
        common::example("attacker").display()
    );
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=1500"])
        .args(&["-workers=2", "-command=sh", "--", "-c", &script])
        .start();
    daemon.wait_for_line("cannot join: EPERM");
    daemon.wait_for_line("1 of 2 workers");
    let living = || facts::live_children(daemon.real_pid()).len();
    daemon.wait_until("one worker to be left", || living() == 1);
}

#[test]
fn an_orphan_of_an_old_worker_does_not_make_a_hung_new_generation_ready_by_joining_its_group() {
    let dir = TempDir::new();
    let script = format!(
        "mkdir {} 2>/dev/null && {{ ({} join $PPID $$ &); exec {} ready; }}; exec sleep 60",
        dir.word("first"),
        common::example("attacker").display(),
        worker()
    );
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=2000"])
        .args(&["-command=sh", "--", "-c", &script])
        .start();
    daemon.wait_until_live();
    let old = daemon.workers();
    let verdict = daemon.reload();
    assert!(verdict.contains("rolled back"), "{verdict}");
    daemon.wait_for_line("cannot join: EPERM");
    daemon.wait_for_workers(&old);
    assert_eq!(daemon.stop(), 0);
}

/// A user of whom there is no other process.
const ALONE: &str = "-user=61234:61234";

#[test]
fn a_workers_helper_that_is_gone_is_believed_where_nobody_else_is_of_its_user() {
    if common::root_or_skip() && has_systemd_notify() {
        is_believed(&[ALONE], "systemd-notify --ready; exec sleep 60");
        is_believed(&[ALONE], "systemd-notify --no-block --ready; exec sleep 60");
    }
}

#[test]
fn a_helper_that_waits_until_it_is_heard_is_believed_whoever_else_is_of_its_user() {
    if common::root_or_skip() && has_systemd_notify() {
        let dir = TempDir::new();
        let _other = Attacker::start(&dir, &["idle"]);
        is_believed(
            &[&format!("-user={STRANGER}")],
            "systemd-notify --ready; exec sleep 60",
        );
    }
}
