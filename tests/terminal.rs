//! Life on a terminal: its keys reach a worker once, and its end is not a reload.

mod common;

use common::terminal::Terminal;
use common::{Daemon, Report, Run, example};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::time::Duration;

/// The program on a terminal of its own, through the named behaviour of the worker program.
fn on_terminal(how: &str, run: Run) -> (Terminal, Daemon) {
    let terminal = Terminal::new();
    let helper = example("worker");
    let run = run.through(&[helper.as_os_str(), how.as_ref(), terminal.path.as_os_str()]);
    (terminal, run.start())
}

#[test]
fn a_terminal_that_closes_ends_nothing_and_reloads_nothing() {
    let run = Run::worker(&["-start=0"], &["http"]);
    let (terminal, daemon) = on_terminal("on-terminal", run);
    let pid = daemon.worker_that_said("up");
    let mark = daemon.mark();
    drop(terminal);
    daemon.wait_for_any_after(mark, &["terminal", "hang-up", "hangup"]);
    daemon.stays_up_for(Duration::from_millis(300));
    assert_eq!(daemon.workers(), [pid]);
    assert_eq!(daemon.address().answering_pid(), pid);
    assert_eq!(daemon.count("Starting "), 1);
    // Later, a SIGHUP is a reload again.
    daemon.stays_up_for(Duration::from_millis(2200));
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_shell_that_passes_the_hang_up_on_reloads_nothing() {
    let run = Run::worker(&["-start=0"], &["http"]);
    let (terminal, daemon) = on_terminal("shell-on-terminal", run);
    let pid = daemon.worker_that_said("up");
    let program = daemon.real_pid();
    let mark = daemon.mark();
    drop(terminal);
    daemon.wait_for_any_after(mark, &["terminal", "hang-up", "hangup"]);
    daemon.wait_for_exit(); // the shell
    assert_eq!(common::facts::live_children(program), [pid]);
    assert_eq!(daemon.address().answering_pid(), pid);
    assert_eq!(daemon.count("Starting "), 1);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log_end();
}

#[test]
fn a_hup_from_a_process_reloads_while_the_terminal_is_there() {
    let run = Run::worker(&["-start=0"], &["up"]);
    let (_terminal, daemon) = on_terminal("on-terminal", run);
    daemon.worker_that_said("up");
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
}

#[test]
fn a_terminal_is_not_a_worker_s_stdin() {
    let run = Run::worker(&["-start=0"], &["report"]);
    let (_terminal, daemon) = on_terminal("on-terminal", run);
    let report = Report::first(&daemon);
    assert!(report.fd(0).starts_with("/dev/null"), "{}", report.fd(0));
}

#[test]
fn control_c_reaches_a_worker_exactly_once() {
    let dir = common::TempDir::new();
    let run = Run::worker(&["-start=0"], &["trap", &dir.word("end")]);
    let (mut terminal, daemon) = on_terminal("shell-on-terminal", run);
    daemon.worker_that_said("up");
    // Until the helper has made the program its foreground job, the key is the helper's own.
    daemon.wait_until("the program to be in the foreground", || {
        foreground_group(daemon.real_pid()) == common::facts::group(daemon.real_pid())
    });
    terminal
        .master
        .write_all(b"\x03")
        .expect("the key is pressed");
    daemon.wait_for_line("got SIGINT");
    daemon.stays_up_for(Duration::from_millis(200));
    assert_eq!(daemon.count("got SIGINT"), 1);
    dir.write("end", "");
    daemon.wait_for_log_end();
}

/// tpgid of proc(5).
fn foreground_group(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(5)?.parse().ok()
}
