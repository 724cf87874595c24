//! The `einhornsh` face, against our master.

use super::common::terminal::Terminal;
use super::common::{LIMIT, Run, SOCKETMASTER, TempDir};
use super::place::printed;
use super::{Place, text};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
fn commands_are_separated_by_semicolons_and_answered_on_stdout() {
    let place = Place::new();
    let _daemon = place.live("-m 0", "einhorn never");
    let output = place.shell(&["-e", "louder; signal CONT; quieter"]);
    let (out, status) = printed(&output);
    assert_eq!(out, "Verbosity set to 0\n\nVerbosity set to 1\n");
    assert_eq!((status, text(&output.stderr).as_str()), (0, ""));
}

#[test]
fn quit_is_local_and_ends_what_follows() {
    let place = Place::new();
    let daemon = place.live("-m 0", "einhorn never");
    let output = place.shell(&["-e", "louder; quit; die"]);
    assert_eq!(printed(&output), ("Verbosity set to 0\n".to_owned(), 0));
    assert!(text(&output.stderr).contains("Goodbye"));
    assert_eq!(daemon.exit_status(), None);
}

#[test]
fn a_name_is_enough_to_find_the_master() {
    let dir = TempDir::new();
    let run = Run::bare().args(&["einhorn", "-c", "web", "-m", "0", "sleep", "60"]);
    let daemon = run.env("TMPDIR", dir.path()).start();
    daemon.wait_until_live();
    for words in [&["-c", "web"][..], &["web"]] {
        let mut shell = Command::new(SOCKETMASTER);
        shell.arg("einhornsh").args(words).args(["-e", "louder"]);
        let output = shell.env("TMPDIR", dir.path()).output();
        let output = output.expect("it can be started");
        assert_eq!(printed(&output), ("Verbosity set to 0\n".to_owned(), 0));
    }
}

#[test]
fn without_a_master_the_status_is_1() {
    let place = Place::new();
    let output = place.shell(&["-e", "help"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("Could not connect"),
        "{output:?}"
    );
}

#[test]
fn a_master_that_goes_away_is_an_error_in_the_middle_and_not_at_the_end() {
    let place = Place::new();
    let daemon = place.live("-m 0", "einhorn never");
    let (out, status) = printed(&place.shell(&["-e", "die"]));
    assert_eq!((out.as_str(), status), ("Einhorn is going down! \n", 0));
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn commands_come_from_stdin_without_a_prompt() {
    let place = Place::new();
    let _daemon = place.live("-m 0", "einhorn never");
    let mut shell = Command::new(SOCKETMASTER)
        .args(["einhornsh", "-d", &place.socket()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let mut stdin = shell.stdin.take().expect("it is a pipe");
    stdin
        .write_all(b"louder\n\nquieter; quieter\n")
        .expect("it reads");
    drop(stdin);
    let output = shell.wait_with_output().expect("it is our child");
    let expected = "Verbosity set to 0\nVerbosity set to 1\nVerbosity set to 2\n";
    assert_eq!(printed(&output), (expected.to_owned(), 0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn on_a_terminal_there_is_a_greeting_and_a_prompt() {
    let place = Place::new();
    let daemon = place.live("-m 0", "einhorn never");
    let mut terminal = Terminal::new();
    let side = || Stdio::from(terminal.open());
    let mut shell = Command::new(SOCKETMASTER)
        .args(["einhornsh", "-d", &place.socket()])
        .env("USER", "somebody")
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .expect("it can be started");
    let mut seen = String::new();
    wait_for(&mut terminal, &mut seen, "Welcome, somebody!");
    assert!(seen.contains(&daemon.real_pid().to_string()), "{seen}");
    wait_for(&mut terminal, &mut seen, "> ");
    type_line(&mut terminal, "louder");
    wait_for(&mut terminal, &mut seen, "Verbosity set to 0");
    type_line(&mut terminal, "signal 'CONT");
    wait_for(&mut terminal, &mut seen, "Unmatched quote");
    type_line(&mut terminal, "exit");
    wait_for(&mut terminal, &mut seen, "Goodbye!");
    let status = shell.wait().expect("it is our child");
    assert_eq!(status.code(), Some(0));
    assert_eq!(daemon.exit_status(), None);
}

fn type_line(terminal: &mut Terminal, line: &str) {
    writeln!(terminal.master, "{line}").expect("the keys are pressed");
}

/// Reads what the terminal shows until the text is there.
fn wait_for(terminal: &mut Terminal, seen: &mut String, wanted: &str) {
    let deadline = Instant::now() + *LIMIT;
    while !seen.contains(wanted) {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(terminal.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, wait).expect("the terminal can be waited for");
        assert!(ready > 0, "waited {:?} for {wanted:?}: {seen}", *LIMIT);
        let mut chunk = [0; 4096];
        let count = terminal
            .master
            .read(&mut chunk)
            .expect("it shows something");
        seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}
