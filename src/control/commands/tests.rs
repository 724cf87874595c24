use super::*;
use crate::control::protocol::parse_request;

fn of(line: &str) -> Result<Command, String> {
    in_dialect(&Dialect::Socketmaster, line)
}

fn in_dialect(dialect: &Dialect, line: &str) -> Result<Command, String> {
    let facts = Facts {
        dialect,
        pid: 9,
        workers: 2,
        level: Level::Info,
    };
    Command::parse(&parse_request(line.as_bytes()).unwrap(), &facts)
}

fn resized(workers: u32, answer: &str) -> Result<Command, String> {
    let answer = answer.to_owned();
    Ok(Command::Resize { workers, answer })
}

#[test]
fn own_commands_take_one_word_or_none() {
    assert_eq!(
        of(r#"{"command":"reload"}"#),
        Ok(Command::Reload { wait: false })
    );
    assert_eq!(
        of(r#"{"command":"reload","args":["wait"]}"#),
        Ok(Command::Reload { wait: true })
    );
    assert_eq!(
        of(r#"{"command":"status","args":["json"]}"#),
        Ok(Command::Status { json: true })
    );
    assert!(of(r#"{"command":"stop","args":["now"]}"#).is_err());
    assert!(of(r#"{"command":"stop","args":["wait","wait"]}"#).is_err());
    assert!(of(r#"{"command":"stop","args":"wait"}"#).is_err());
}

#[test]
fn a_number_of_workers_is_checked() {
    let workers = |n: &str| of(&format!(r#"{{"command":"workers","args":[{n}]}}"#));
    assert_eq!(
        workers("\"8\""),
        resized(8, "8 workers per generation, 2 before")
    );
    for bad in ["\"0\"", "\"10001\"", "\"-1\"", "\"x\"", "8", ""] {
        assert!(workers(bad).is_err(), "{bad}");
    }
}

#[test]
#[cfg(not(feature = "einhorn"))]
fn what_is_no_command_is_answered_with_those_that_are() {
    for line in [r#"{"command":"upgrade"}"#, "{}"] {
        let answer = of(line).unwrap_err();
        assert!(answer.contains("\nreload [wait]: "), "{answer}");
    }
}

#[cfg(feature = "einhorn")]
mod einhorns {
    use super::*;

    fn einhorn(line: &str) -> Result<Command, String> {
        in_dialect(&Dialect::Einhorn(Some("demo".into())), line)
    }

    #[test]
    fn a_bare_reload_is_einhorns_only_to_einhorn() {
        let bare = r#"{"command":"reload","args":[]}"#;
        assert_eq!(of(bare), Ok(Command::Reload { wait: false }));
        let reloading = Command::Say {
            answer: "Reloading, as commanded".to_owned(),
            needs: Rights::Everything,
        };
        assert_eq!(einhorn(bare), Ok(reloading));
        let ours = r#"{"command":"reload","args":["now"]}"#;
        assert_eq!(einhorn(ours), Ok(Command::Reload { wait: false }));
    }

    #[test]
    fn einhorns_commands_are_known_under_both_command_lines() {
        for dialect in [&Dialect::Socketmaster, &Dialect::Einhorn(None)] {
            let of = |line| in_dialect(dialect, line);
            let upgrade = of(r#"{"command":"upgrade_fleet"}"#);
            assert_eq!(upgrade, Ok(Command::Upgrade { smooth: false }));
            let inc = "Incrementing number of workers from 2 -> 3";
            assert_eq!(of(r#"{"command":"inc"}"#), resized(3, inc));
            assert_eq!(of(r#"{"command":"state"}"#), Ok(Command::State));
            let die = of(r#"{"command":"die","args":["SIGTERM"]}"#);
            assert_eq!(die, Ok(Command::Die { signal: Some(15) }));
            assert!(
                of("{}")
                    .unwrap_err()
                    .starts_with("No \"command\" parameter")
            );
        }
    }

    #[test]
    fn the_list_of_commands_is_einhorns_to_einhorn_and_both_to_others() {
        let unknown = r#"{"command":"x"}"#;
        let (own, theirs) = (of(unknown).unwrap_err(), einhorn(unknown).unwrap_err());
        assert!(theirs.starts_with("Unrecognized command: \"x\"\n\nconfig: "));
        assert!(theirs.contains("\nreload: ") && !theirs.contains("reload [wait]"));
        assert!(!own.contains("\nreload: ") && own.contains("\nreload [wait]: "));
    }

    #[test]
    fn asking_changes_nothing_and_is_allowed_to_more() {
        for word in ["help", "ehlo", "state", "ping", "status"] {
            let command = einhorn(&format!("{{\"command\":\"{word}\"}}")).unwrap();
            assert_eq!(command.needs(), Rights::Questions, "{word}");
        }
        for word in ["quieter", "inc", "upgrade", "stop", "reload"] {
            let command = einhorn(&format!("{{\"command\":\"{word}\"}}")).unwrap();
            assert_eq!(command.needs(), Rights::Everything, "{word}");
        }
    }
}

#[test]
fn workers_may_report_and_nothing_else() {
    let ack = of(r#"{"command":"worker:ack","pid":1}"#).unwrap();
    assert_eq!(ack.needs(), Rights::Reports);
    let ping = of(r#"{"command":"ping"}"#).unwrap();
    assert_eq!(ping.needs(), Rights::Questions);
    assert_eq!(
        of(r#"{"command":"workers","args":["1"]}"#).unwrap().needs(),
        Rights::Everything
    );
}
