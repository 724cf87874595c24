//! Answers to the letter, and arguments as einhorn takes them.

use super::*;
use serde_json::json;

#[test]
fn the_number_of_workers_is_answered_as_einhorn_does() {
    assert_eq!(incremented(2), "Incrementing number of workers from 2 -> 3");
    assert_eq!(
        decremented(3, 9),
        Ok("Decrementing number of workers from 3 -> 2".into())
    );
    assert_eq!(
        decremented(1, 9).unwrap_err(),
        "Can't decrease number of workers (already at 1).  Run kill 9 if you really want to kill einhorn."
    );
    for (given, expected) in [
        (json!(null), Err("No args provided")),
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
        assert_eq!(wanted_workers(&given), expected.map_err(String::from));
    }
    assert_eq!(altered(2, 2), "");
    assert_eq!(
        altered(2, 3),
        "Altering worker count, 2 -> 3. Will spin up additional workers."
    );
    assert!(altered(3, 2).ends_with("Will gracefully terminate workers."));
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
    assert!(unrecognized("x").starts_with("Unrecognized command: \"x\"\n\nconfig: "));
    assert!(help().contains("\nset_workers: ") && COMMANDS.lines().is_sorted());
    assert_eq!(
        verbosity_set(Verbosity(1).quieter().quieter()),
        "Verbosity set to 2"
    );
    assert_eq!(
        verbosity_set(Verbosity(1).louder().louder()),
        "Verbosity set to 0"
    );
    assert_eq!(launched(25751, 1), "===> Launched 25751 (index: 1)");
    assert_eq!(sending("SIGUSR2", 23954), "Sending USR2 to [23954]");
    assert_eq!(
        upgraded(1),
        "Upgraded successfully to version 1 (Einhorn 1.1.1)."
    );
    assert_eq!(exited(7, false), "===> Exited worker 7 before it was ACKed");
}

#[test]
fn config_changes_the_verbosity_and_nothing_by_half() {
    for given in [json!([":verbosity: 1"]), json!(["{verbosity:", "1}"])] {
        assert_eq!(wanted_config(&given), Ok(Verbosity(1)));
    }
    let merged = "Successfully merged in config: {:verbosity=>1}";
    assert_eq!(config_merged(Verbosity(1)), merged);
    for given in [
        json!(null),
        json!([]),
        json!(["x"]),
        json!(["{"]),
        json!(["{}"]),
    ] {
        assert!(wanted_config(&given).is_err(), "{given:?}");
    }
    let refused = wanted_config(&json!(["{:verbosity: 1, :respawn: false}"]));
    assert_eq!(
        refused.unwrap_err(),
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
