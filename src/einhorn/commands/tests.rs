//! Answers to the letter, and arguments as einhorn takes them.

use super::*;
use serde_json::json;

#[test]
fn the_number_of_workers_is_answered_as_einhorn_does() {
    let none = json!(null);
    let up = "Incrementing number of workers from 2 -> 3";
    assert_eq!(resized("inc", &none, 2, 9), Ok((3, up.into())));
    let down = "Decrementing number of workers from 3 -> 2";
    assert_eq!(resized("dec", &none, 3, 9), Ok((2, down.into())));
    assert_eq!(
        resized("dec", &none, 1, 9).unwrap_err(),
        "Can't decrease number of workers (already at 1).  Run kill 9 if you really want to kill einhorn."
    );
    for (given, expected) in [
        (none, Err("No args provided")),
        (json!("3"), Err("Args must be an array")),
        (json!([3]), Err("Argument is a Integer, not a string: 3")),
        (
            json!([]),
            Err("Invalid count: ''. Must be an integer in [1,1000)."),
        ),
        (
            json!(["0"]),
            Err("Invalid count: '0'. Must be an integer in [1,1000)."),
        ),
        (
            json!(["1001"]),
            Err("Invalid count: '1001'. Must be an integer in [1,1000)."),
        ),
        (json!(["1000"]), Ok(1000)),
        (json!(["3", "x"]), Ok(3)),
    ] {
        let new = resized("set_workers", &given, 2, 9).map(|(new, _)| new);
        assert_eq!(new, expected.map_err(String::from));
    }
    let answer = |old| {
        resized("set_workers", &json!(["2"]), old, 9)
            .expect("2 is a number")
            .1
    };
    assert_eq!(answer(2), "");
    assert_eq!(
        answer(1),
        "Altering worker count, 1 -> 2. Will spin up additional workers."
    );
    assert!(answer(3).ends_with("Will gracefully terminate workers."));
}

#[test]
fn signals_are_answered_as_einhorn_does() {
    let two = wanted_signals(&json!(["sigusr1", "HUP"])).expect("both are signals");
    assert_eq!(two, [10, 1]);
    assert_eq!(
        (signalled(0), signalled(1), signalled(2)),
        ("".into(), "".into(), "\n".into())
    );
    let bad = wanted_signals(&json!(["USR1", "BOGUS"]));
    assert_eq!(bad, Err("Invalid signal: \"BOGUS\"".into()));
    let iot = wanted_signals(&json!(["IOT", "cld", "SIGPOLL"]));
    assert_eq!(iot, Ok(vec![libc::SIGABRT, libc::SIGCHLD, libc::SIGIO]));
    assert_eq!(wanted_signals(&json!(null)), Err("No args provided".into()));
    assert_eq!(wanted_signals(&json!([])), Ok(vec![]));
    assert_eq!(wanted_signals(&json!(["SIGTERM"])), Ok(vec![15]));
    assert!(
        wanted_signals(&json!(["9"])).is_err(),
        "numbers are no names"
    );
}

#[test]
fn greetings_and_lists_begin_as_einhorns_do() {
    let text = ehlo(Some("root"), 23578, Some("demo"));
    assert!(text.starts_with(
        "Welcome, root! You are speaking to Einhorn Master Process 23578 (demo).\nThis is Einhorn 1.1.1"
    ));
    assert!(ehlo(None, 1, None).contains("Process 1.\n"));
    assert!(list(Some("x"), None).starts_with("Unrecognized command: \"x\"\n\nconfig: "));
    assert!(list(None, None).contains("\nset_workers: ") && COMMANDS.lines().is_sorted());
    let both = list(None, Some("reload: ours\n"));
    assert!(both.ends_with("\nreload: ours\n") && !both.contains("Reload Einhorn"));
    let step = |step| upgrade_step(step, true).concat();
    let (pid, index) = (25751, 1);
    assert_eq!(
        step(ReloadStep::Started { pid, index }),
        "===> Launched 25751 (index: 1)"
    );
    let (signal, old) = (libc::SIGUSR2, false);
    assert_eq!(
        step(ReloadStep::Asked { pid, signal, old }),
        "Sending USR2 to [25751]"
    );
    let was_ready = false;
    assert_eq!(
        step(ReloadStep::Gone {
            pid,
            was_ready,
            left: 0
        }),
        "===> Exited worker 25751 before it was ACKed"
    );
    assert_eq!(
        upgraded(1),
        "Upgraded successfully to version 1 (Einhorn 1.1.1)."
    );
}

#[test]
fn verbosity_is_changed_by_one_and_has_two_ends() {
    for (command, old, new) in [
        ("quieter", 1, 2),
        ("quieter", 2, 2),
        ("louder", 1, 0),
        ("louder", 0, 0),
    ] {
        assert_eq!(
            changed_level(command, &json!(null), level_of(old)),
            Ok((level_of(new), format!("Verbosity set to {new}")))
        );
    }
}

#[test]
fn config_changes_the_verbosity_and_nothing_by_half() {
    let config = |args| changed_level("config", &args, Level::Warning);
    for given in [json!([":verbosity: 1"]), json!(["{verbosity:", "1}"])] {
        let merged = "Successfully merged in config: {:verbosity=>1}";
        assert_eq!(config(given), Ok((Level::Info, merged.into())));
    }
    for given in [
        json!(null),
        json!([]),
        json!(["x"]),
        json!(["{"]),
        json!(["{}"]),
        json!(["{verbosity: 3}"]),
    ] {
        assert!(config(given.clone()).is_err(), "{given:?}");
    }
    assert_eq!(
        config(json!(["{:verbosity: 1, :respawn: false}"])).unwrap_err(),
        "respawn cannot be changed while running; nothing changed"
    );
}

#[test]
fn args_that_are_no_strings_are_refused_in_einhorns_words() {
    for (args, expected) in [
        (json!(null), Err("No args provided")),
        (json!("3"), Err("Args must be an array")),
        (json!([3]), Err("Argument is a Integer, not a string: 3")),
        (json!([1.5]), Err("Argument is a Float, not a string: 1.5")),
        (
            json!([true]),
            Err("Argument is a TrueClass, not a string: true"),
        ),
        (json!(["3", "b"]), Ok(vec!["3", "b"])),
    ] {
        assert_eq!(strings(&args), expected.map_err(String::from), "{args}");
    }
}
