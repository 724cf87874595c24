//! The command line as its users write it (spec: Go's grammar and GNU's), through the real program.

mod common;

use common::{Report, Run, TempDir, worker};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(words: &[&str]) -> Output {
    Run::bare().arg("-check").args(words).output()
}

/// Exit status 1 and one line on stderr that contains all of these.
#[track_caller]
fn fails_to_start(run: Run, texts: &[&str]) {
    let output = run.output();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    for wanted in texts {
        assert!(log.contains(wanted), "{wanted:?} is not in: {log}");
    }
}

/// Exit status 2, nothing on stdout, and one line that names all of these and `-help`.
#[track_caller]
fn is_usage_error(words: &[&str], texts: &[&str]) {
    let output = Run::bare().args(words).output();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {log}");
    assert_eq!(text(&output.stdout), "", "{words:?}");
    assert_eq!(log.lines().count(), 1, "{words:?}: one line: {log}");
    for wanted in texts.iter().chain(&["-help"]) {
        assert!(
            log.contains(wanted),
            "{words:?}: {wanted:?} is not in: {log}"
        );
    }
}

#[test]
fn help_goes_to_stdout_and_succeeds_in_all_three_spellings() {
    for word in ["-h", "-help", "--help"] {
        let output = Run::bare().arg(word).output();
        assert_eq!(output.status.code(), Some(0), "{word}");
        assert_eq!(text(&output.stderr), "", "{word}");
        let help = text(&output.stdout);
        for flag in [
            "-command", "-listen", "-start", "-user", "-syslog", "-output", "-pidfile",
        ] {
            assert!(help.contains(flag), "{word}: {flag} is not in: {help}");
        }
        for default in ["tcp://:8080", "3000", "prefix"] {
            assert!(
                help.contains(default),
                "{word}: the default {default} is not in: {help}"
            );
        }
    }
}

#[test]
fn version_goes_to_stdout_and_succeeds() {
    let output = Run::bare().arg("-version").output();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_usage_error_names_the_flag_and_the_value_in_one_line() {
    is_usage_error(&["-wat"], &["wat"]);
    is_usage_error(&["--wat=1"], &["wat"]);
    is_usage_error(&["-start=abc", "-command=true"], &["start", "abc"]);
    is_usage_error(&["-start", "1.5", "-command=true"], &["start", "1.5"]);
    is_usage_error(&["-start=", "-command=true"], &["start"]);
    is_usage_error(&["-syslog=maybe", "-command=true"], &["syslog", "maybe"]);
    is_usage_error(
        &["-output=nowhere", "-command=true"],
        &["output", "nowhere"],
    );
    is_usage_error(&["-command=true", "-start"], &["start"]);
    is_usage_error(&["-command"], &["command"]);
    is_usage_error(
        &["-listen=tcp://:99999", "-command=true"],
        &["listen", "99999"],
    );
    is_usage_error(
        &["-listen=pigeon://x", "-command=true"],
        &["listen", "pigeon"],
    );
    is_usage_error(&["---start=1"], &["---start=1"]);
    is_usage_error(&["-=1"], &["-=1"]);
}

#[test]
fn a_start_that_cannot_be_is_one_line_and_status_1() {
    let dir = TempDir::new();
    let plain = dir.write("plain", "not a program");
    fails_to_start(Run::bare().arg("-listen=tcp://127.0.0.1:0"), &["command"]);
    fails_to_start(
        Run::bare().args(&["-command=", "-listen=tcp://127.0.0.1:0"]),
        &["command"],
    );
    for (command, wanted) in [
        (dir.word("missing"), "No such file or directory"),
        (plain.display().to_string(), "Permission denied"),
        (dir.path().display().to_string(), "is a directory"),
        (
            "no-such-program-anywhere".to_owned(),
            "no-such-program-anywhere",
        ),
    ] {
        let run = Run::bare()
            .arg("-listen=tcp://127.0.0.1:0")
            .arg(format!("-command={command}"));
        fails_to_start(run, &[&command, wanted]);
    }
    fails_to_start(
        Run::worker(&["-user=no-such-user-here"], &["up"]),
        &["no-such-user-here"],
    );
    fails_to_start(
        Run::worker(&["-listen=tcp://203.0.113.7:1"], &["up"]),
        &["cannot bind"],
    );
}

#[test]
fn every_flag_takes_both_dashes_and_both_ways_of_giving_a_value() {
    for start in ["-start=600", "--start=600", "-start 600", "--start 600"] {
        let words: Vec<&str> = start.split(' ').collect();
        let daemon = Run::worker(&words, &["up"]).start();
        daemon.wait_until_live();
        assert_eq!(daemon.stop(), 0, "{start}");
    }
}

#[test]
fn numbers_are_go_literals() {
    let command = format!("-command={}", worker());
    for number in ["0x10", "0b101", "0o17", "017", "1_000", "0X1F", "0"] {
        let start = format!("-start={number}");
        let output = check(&[&start, &command]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{number}: {}",
            text(&output.stderr)
        );
    }
    for number in ["1__0", "0x", "_1", "1e3", "0b2"] {
        is_usage_error(&[&format!("-start={number}"), &command], &["start", number]);
    }
}

#[test]
fn booleans_are_go_booleans_and_take_their_value_only_after_an_equals_sign() {
    for value in [
        "1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False",
    ] {
        let syslog = format!("-syslog={value}");
        let output = check(&[&syslog, &format!("-command={}", worker())]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{value}: {}",
            text(&output.stderr)
        );
    }
    // The word after a boolean is not its value: it ends the flags.
    let command = format!("-command={}", worker());
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            &command,
            "-syslog=false",
            "-check=false",
            "report",
        ])
        .start();
    assert_eq!(Report::first(&daemon).argv(), [worker().as_str(), "report"]);
}

#[test]
fn the_word_after_a_boolean_is_the_command_s_first_argument() {
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            &format!("-command={}", worker()),
        ])
        .args(&["-die-with-parent", "false"])
        .start();
    daemon.wait_for_line("no behaviour is called \"false\"");
}

#[test]
fn the_last_of_a_repeated_flag_wins_but_listen_adds_up() {
    let daemon = Run::bare()
        .args(&[
            "-command=/nonexistent",
            "-listen=tcp://127.0.0.1:0",
            "-start=nonsense",
        ])
        .args(&[
            "-start=1000",
            "-listen=tcp://127.0.0.1:0",
            &format!("-command={}", worker()),
        ])
        .arg("up");
    // A bad value is one even when a later one would win, as in Go.
    assert_eq!(daemon.output().status.code(), Some(2));

    let daemon = Run::bare()
        .args(&[
            "-command=/nonexistent",
            "-listen=tcp://127.0.0.1:0",
            "-start=5000",
        ])
        .args(&[
            "-start=1000",
            "-listen=tcp://127.0.0.1:0",
            &format!("-command={}", worker()),
        ])
        .arg("up")
        .start();
    daemon.worker_that_said("up");
    assert_ne!(daemon.address_number(0), daemon.address_number(1));
}

#[test]
fn the_first_word_that_is_no_flag_ends_the_flags() {
    let command = format!("-command={}", worker());
    let start = || Run::bare().args(&["-listen=tcp://127.0.0.1:0", &command]);
    let worker = worker();
    let path = worker.as_str();
    for (words, argv) in [
        (
            vec!["report", "-start", "--", "-x"],
            vec![path, "report", "-start", "--", "-x"],
        ),
        (
            vec!["--", "report", "--", "-h"],
            vec![path, "report", "--", "-h"],
        ),
        (vec!["--", "report", ""], vec![path, "report", ""]),
        (
            vec!["report", "help", "--help"],
            vec![path, "report", "help", "--help"],
        ),
    ] {
        let daemon = start().args(&words).start();
        assert_eq!(Report::first(&daemon).argv(), argv, "{words:?}");
    }
    // A lone dash is an argument, not a flag.
    let daemon = start().arg("-").start();
    daemon.wait_for_line("no behaviour is called \"-\"");
}

#[test]
fn arguments_pass_through_unchanged_when_they_are_not_utf_8() {
    let bytes = OsStr::from_bytes(b"caf\xe9\n=");
    let report = OsStr::new("report");
    let daemon = Run::worker(&[] as &[&str], &[report, bytes]).start();
    assert_eq!(
        Report::first(&daemon).argv(),
        [worker().as_str(), "report", "caf\\xe9\\n="]
    );
}

#[test]
fn check_says_what_would_be_done_and_opens_and_starts_nothing() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let dir = TempDir::new();
    let tcp = format!("tcp://{}", busy.local_addr().expect("it is bound"));
    let (unix, trace) = (dir.word("web.sock"), dir.word("trace"));
    let output = check(&[
        &format!("-listen={tcp}"),
        &format!("-listen=unix://{unix}"),
        &format!("-pidfile={trace}"),
        &format!("-command={}", worker()),
        "cat",
        &trace,
    ]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for wanted in [tcp.as_str(), unix.as_str(), worker().as_str()] {
        assert!(said.contains(wanted), "{wanted:?} is not in: {said}");
    }
    assert_eq!(dir.names(), [] as [&str; 0]);
}

#[test]
fn nobody_reading_what_we_say_is_no_reason_to_abort() {
    for (words, status) in [
        (["-check", "-command=true"], 0),
        (["-start=1", "-no-such-flag"], 2),
    ] {
        let (end, start) = nix::unistd::pipe().expect("a pipe");
        drop(end);
        let copy = start.try_clone().expect("a copy");
        let ended = std::process::Command::new(common::SOCKETMASTER)
            .args(words)
            .stdout(start)
            .stderr(copy)
            .status();
        assert_eq!(ended.expect("it runs").code(), Some(status), "{words:?}");
    }
}

#[test]
fn check_fails_where_a_start_would() {
    for words in [
        ["-command=/nonexistent/program", "-start=1"],
        ["-command=true", "-user=no-such-user-here"],
        ["-listen=tcp://:8080", "-start=1"],
        ["-command=true", "-takeover=1"],
        [
            "-command=true",
            "-listen=unix:///run/x?owner=no-such-user-here",
        ],
        [
            "-command=true",
            "-listen=tcp://127.0.0.1:no-such-service-here",
        ],
    ] {
        let output = check(&words);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{words:?}: {}",
            text(&output.stdout)
        );
    }
}

#[test]
fn the_command_is_looked_up_in_the_path_as_a_shell_would() {
    let dir = TempDir::new();
    dir.link("my-worker", worker());
    let daemon = Run::bare()
        .env(
            "PATH",
            format!("/nonexistent:{}:/usr/bin:/bin", dir.path().display()),
        )
        .args(&["-listen=tcp://127.0.0.1:0", "-command=my-worker", "report"])
        .start();
    assert_eq!(
        Report::first(&daemon).argv(),
        [&dir.word("my-worker"), "report"]
    );
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_named_with_the_limit() {
    let dir = TempDir::new();
    let path = dir.word(&"x".repeat(107));
    let reason = format!(
        "{path}: the path has {} bytes, the limit is 107",
        path.len()
    );
    let control = format!("-control={path}");
    let says = |run: Run| {
        let output = run.output();
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&reason), "{log}");
    };
    says(Run::bare().args(&["ctl", &control, "ping"]));
    says(Run::bare().args(&["ctl", &control, "reload", "-wait"]));
    says(Run::worker(&[control.as_str()], &["up"]));
    if cfg!(feature = "einhorn") {
        says(Run::bare().args(&["einhornsh", "-d", &path, "-e", "help"]));
        says(Run::bare().args(&["einhorn", "-d", &path, &worker(), "up"]));
    }
    let flags = ["-syslog".to_owned(), format!("-syslog-socket={path}")];
    fails_to_start(Run::worker(&flags, &["up"]), &[&reason]);
    let daemon = Run::worker(&["-start=0"], &["up"])
        .env("NOTIFY_SOCKET", &path)
        .start();
    daemon.wait_for_line(&reason);
    daemon.wait_until_live();
}

#[test]
fn an_error_of_the_system_is_its_word_without_a_number() {
    let dir = TempDir::new();
    let missing = dir.word("no/such");
    let mut runs = vec![
        Run::bare().args(&["ctl", &format!("-control={missing}"), "ping"]),
        Run::worker(&[format!("-pidfile={missing}")], &["up"]),
        Run::worker(&[format!("-control={missing}")], &["up"]),
        Run::worker(&[format!("-listen=unix://{missing}")], &["up"]),
    ];
    if cfg!(feature = "einhorn") {
        runs.push(Run::bare().args(&["einhornsh", "-d", &missing, "-e", "help"]));
        for (option, other) in [("-f", "-e"), ("-e", "-f")] {
            let files = [
                option,
                &missing,
                other,
                &dir.word("other"),
                "-d",
                &dir.word("sock"),
            ];
            runs.push(Run::bare().arg("einhorn").args(&files).arg(worker()));
        }
    }
    for run in runs {
        let log = text(&run.output().stderr);
        assert!(log.contains("No such file or directory"), "{log}");
        assert!(!log.contains("os error"), "{log}");
    }
}
