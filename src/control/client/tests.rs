//! The command line of `ctl`, and what an answer means for the exit status.

use super::*;
use serde_json::json;

fn reply(answer: serde_json::Value) -> CtlReply {
    serde_json::from_str(&answer.to_string()).expect("it is an answer")
}

fn request(words: &[&str]) -> CtlRequest {
    match parsed(words) {
        Ok(Some(request)) => request,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn parsed(words: &[&str]) -> Result<Option<CtlRequest>, UsageError> {
    let words = words.iter().map(OsString::from).collect();
    parse(words, Some("/env".into()))
}

fn refused(words: &[&str]) -> String {
    let error = parsed(words).expect_err("it is refused");
    assert_eq!(error.status, 2);
    error.message
}

#[test]
fn flags_may_stand_before_and_after_the_command() {
    for words in [
        &["-control=/x", "reload", "-wait", "-timeout=30s"][..],
        &["reload", "--wait", "-timeout", "30000", "--control", "/x"],
        &[
            "-wait",
            "-control=/y",
            "reload",
            "-timeout=0x7530",
            "-control=/x",
        ],
    ] {
        let request = request(words);
        assert_eq!(request.control, PathBuf::from("/x"));
        assert_eq!(
            (request.command, &request.args[..]),
            ("reload", &["wait".to_owned()][..])
        );
        assert_eq!(request.timeout, Some(Duration::from_secs(30)));
    }
}

#[test]
fn each_command_has_its_words_on_the_wire() {
    for (words, command, args) in [
        (&["reload"][..], "reload", &["now"][..]),
        (&["reload", "-wait=false"], "reload", &["now"]),
        (&["status"], "status", &[]),
        (&["status", "-json"], "status", &["json"]),
        (&["stop"], "stop", &[]),
        (&["stop", "-wait"], "stop", &["wait"]),
        (&["workers", "8"], "workers", &["8"]),
        (&["ping"], "ping", &[]),
        (&["upgrade"], "self-upgrade", &[]),
    ] {
        let request = request(words);
        assert_eq!(
            (request.command, request.args),
            (command, args.iter().map(|a| a.to_string()).collect())
        );
        assert_eq!(request.control, PathBuf::from("/env"));
        assert_eq!(request.timeout, None);
    }
}

#[test]
fn mistakes_are_named() {
    for (words, text) in [
        (&[][..], "no command given"),
        (&["relaod"], "relaod is no command"),
        (&["reload", "x"], "reload takes no such arguments"),
        (&["reload", "-json"], "reload has no -json"),
        (&["status", "-wait"], "status has no -wait"),
        (&["workers"], "workers needs a number"),
        (&["workers", "0"], "workers 0: out of range"),
        (&["workers", "many"], "workers many: not a number"),
        (
            &["reload", "-timeout=soon"],
            "-timeout soon: neither milliseconds",
        ),
        (
            &["reload", "-wait=maybe"],
            "-wait maybe: neither true nor false",
        ),
        (&["reload", "-x"], "-x is not a flag"),
    ] {
        let message = refused(words);
        assert!(message.starts_with(text), "{message}");
    }
}

#[test]
fn without_a_socket_it_says_how_to_name_it() {
    let words = || vec![OsString::from("ping")];
    for variable in [None, Some(OsString::new())] {
        let error = parse(words(), variable).expect_err("no socket is named");
        assert!(
            error
                .message
                .contains("-control=PATH or by SOCKETMASTER_CONTROL")
        );
    }
}

#[test]
fn help_needs_no_socket() {
    assert_eq!(parse(vec!["-h".into()], None), Ok(None));
    assert_eq!(parse(vec!["reload".into(), "-help".into()], None), Ok(None));
}

#[test]
fn the_help_is_80_columns_wide() {
    assert!(help().lines().all(|line| line.len() <= 80), "{}", help());
}

#[test]
fn times_are_gos() {
    assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
    assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
    for bad in [
        "",
        "s",
        "1",
        "1x",
        "1s1",
        "-1s",
        "99999999999999999999s",
        "9999999999999999h",
    ] {
        assert_eq!(duration(bad), None, "{bad}");
    }
}

#[test]
fn the_outcome_is_the_exit_status() {
    for (outcome, status) in [
        ("live", 0),
        ("rolled-back", 3),
        ("half-way", 3),
        ("failed", 3),
        ("superseded", 5),
        ("abandoned", 5),
    ] {
        let answer = json!({"message": "m", "verdict": {"outcome": outcome}});
        assert_eq!(conclusion(reply(answer)), ("m".to_owned(), status));
    }
    let answer = json!({"message": "no", "failed": true});
    assert_eq!(conclusion(reply(answer)), ("no".to_owned(), 1));
    let answer = json!({"message": "yes"});
    assert_eq!(conclusion(reply(answer)), ("yes".to_owned(), 0));
}

#[test]
fn a_status_is_printed_as_it_came_and_says_whether_somebody_is_ready() {
    for (ready, status) in [(2, 0), (1, 0), (0, 3)] {
        let line = format!(
            r#"{{"message": "m", "ready": {ready}, "status": {{"z": 1, "a": {{"new": "\u0025"}}}}}}"#
        );
        let reply: CtlReply = serde_json::from_str(&line).expect("it is an answer");
        let expected = r#"{"z": 1, "a": {"new": "\u0025"}}"#;
        assert_eq!(conclusion(reply), (expected.to_owned(), status));
        let table = json!({"message": "m", "ready": ready});
        assert_eq!(conclusion(self::reply(table)), ("m".to_owned(), status));
    }
}

#[test]
fn a_roll_back_is_one_paragraph() {
    let answer = json!({"message": "m", "verdict": {
        "outcome": "rolled-back", "text": "reload 4 rolled back: …", "pid": 815,
        "lines": ["one", "two"],
    }});
    let expected = "reload 4 rolled back: …\nlast lines of worker 815:\n  one\n  two";
    assert_eq!(conclusion(reply(answer)), (expected.to_owned(), 3));
}
