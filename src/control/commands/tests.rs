//! What each request leads to, without any socket.

use super::*;
use crate::config::Dialect;
use crate::control::protocol::parse_request;

/// A request to one that has two workers and has just been started.
fn of(line: &str) -> Result<Response, String> {
    in_dialect(&Dialect::Socketmaster, line)
}

fn in_dialect(dialect: &Dialect, line: &str) -> Result<Response, String> {
    let config = Config {
        dialect: dialect.clone(),
        workers: 2,
        ..Config::default()
    };
    let view = View {
        now: Instant(0),
        config: &config,
        core: &Supervisor::new(config.policy(100)),
        processes: &BTreeMap::new(),
        by_pid: &BTreeMap::new(),
        listeners: &[],
        level: Level::Info,
    };
    let response = respond(
        &request(line),
        Rights::Everything,
        &ControlState::default(),
        &view,
    );
    match response.answers.first() {
        Some(answer) if answer.failed => Err(answer.message.clone()),
        _ => Ok(response),
    }
}

fn request(line: &str) -> Request {
    parse_request(line.as_bytes()).unwrap()
}

fn command(word: &str) -> Request {
    request(&format!("{{\"command\":\"{word}\"}}"))
}

/// What the daemon shall do, and what the client waits for.
fn done(response: Result<Response, String>) -> (Option<Order>, Option<WaitFor>) {
    let response = response.unwrap();
    (response.order, response.wait_for)
}

fn resized(response: Result<Response, String>) -> (Option<Order>, String) {
    let response = response.unwrap();
    (response.order, response.answers[0].message.clone())
}

#[test]
fn own_commands_take_one_word_or_none() {
    let reload = Some(Order::Reload(None));
    let plain = done(of(r#"{"command":"reload"}"#));
    assert_eq!(plain, (reload.clone(), None));
    let waiting = done(of(r#"{"command":"reload","args":["wait"]}"#));
    assert_eq!(waiting, (reload, Some(WaitFor::Reload)));
    let status = of(r#"{"command":"status","args":["json"]}"#).unwrap();
    assert!(status.answers[0].status.is_some());
    assert!(of(r#"{"command":"stop","args":["now"]}"#).is_err());
    assert!(of(r#"{"command":"stop","args":["wait","wait"]}"#).is_err());
    assert!(of(r#"{"command":"stop","args":"wait"}"#).is_err());
}

#[test]
fn a_number_of_workers_is_checked() {
    let workers = |n: &str| of(&format!(r#"{{"command":"workers","args":[{n}]}}"#));
    let answer = "8 workers per generation, 2 before".to_owned();
    assert_eq!(resized(workers("\"8\"")), (Some(Order::Resize(8)), answer));
    for bad in ["\"0\"", "\"10001\"", "\"-1\"", "\"x\"", "8", ""] {
        assert!(workers(bad).is_err(), "{bad}");
    }
}

#[test]
fn as_many_workers_as_the_limit_of_descriptors_suffices_for_and_no_more() {
    let workers = |n: u32| of(&format!(r#"{{"command":"workers","args":["{n}"]}}"#));
    assert_eq!(done(workers(100)).0, Some(Order::Resize(100)));
    let refusal = workers(101).unwrap_err();
    assert!(refusal.starts_with("cannot run 101 workers: "), "{refusal}");
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

    fn einhorn(line: &str) -> Result<Response, String> {
        in_dialect(&Dialect::Einhorn(Some("demo".into())), line)
    }

    #[test]
    fn a_bare_reload_is_einhorns_only_to_einhorn() {
        let bare = r#"{"command":"reload","args":[]}"#;
        let reload = (Some(Order::Reload(None)), None);
        assert_eq!(done(of(bare)), reload);
        let response = einhorn(bare).unwrap();
        assert_eq!(response.answers[0].message, "Reloading, as commanded");
        assert_eq!(response.order, None);
        assert_eq!(needs(&request(bare)), Rights::Everything);
        let ours = r#"{"command":"reload","args":["now"]}"#;
        assert_eq!(done(einhorn(ours)), reload);
    }

    #[test]
    fn einhorns_commands_are_known_under_both_command_lines() {
        for (dialect, fleet) in [
            (&Dialect::Socketmaster, None),
            (&Dialect::Einhorn(None), Some(Style::Fleet)),
        ] {
            let of = |line| in_dialect(dialect, line);
            let upgrade = done(of(r#"{"command":"upgrade_fleet","id":1}"#));
            let waits = WaitFor::Upgrade { smooth: false };
            assert_eq!(upgrade, (Some(Order::Reload(fleet)), Some(waits)));
            let inc = "Incrementing number of workers from 2 -> 3".to_owned();
            let resize = (Some(Order::Resize(3)), inc);
            assert_eq!(resized(of(r#"{"command":"inc"}"#)), resize);
            let state = of(r#"{"command":"state"}"#).unwrap();
            assert!(state.answers[0].message.starts_with("---\n:state:"));
            let die = done(of(r#"{"command":"die","args":["SIGTERM"]}"#));
            let (name, signal) = ("die", 15);
            assert_eq!(die.0, Some(Order::Stop { name, signal }));
            let nothing = of("{}").unwrap_err();
            assert!(nothing.starts_with("No \"command\" parameter"));
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
            assert_eq!(needs(&command(word)), Rights::Questions, "{word}");
            let response = einhorn(&format!("{{\"command\":\"{word}\"}}")).unwrap();
            assert_eq!(response.order, None, "{word}");
        }
        for word in ["quieter", "inc", "upgrade", "stop", "reload"] {
            assert_eq!(needs(&command(word)), Rights::Everything, "{word}");
        }
    }
}

#[test]
fn workers_may_report_and_nothing_else() {
    assert_eq!(needs(&command("worker:ack")), Rights::Reports);
    assert_eq!(needs(&command("ping")), Rights::Questions);
    assert_eq!(needs(&command("workers")), Rights::Everything);
}

#[test]
fn who_may_not_ask_for_it_is_told_what_it_may_say() {
    let config = Config::default();
    let view = View {
        now: Instant(0),
        config: &config,
        core: &Supervisor::new(config.policy(100)),
        processes: &BTreeMap::new(),
        by_pid: &BTreeMap::new(),
        listeners: &[],
        level: Level::Info,
    };
    for (rights, word, answer) in [
        (Rights::Questions, "stop", "You may only ask here: "),
        (Rights::Reports, "ping", "You may say worker:ack and "),
    ] {
        let response = respond(&command(word), rights, &ControlState::default(), &view);
        assert_eq!(response.order, None);
        assert!(response.answers[0].failed);
        assert!(response.answers[0].message.starts_with(answer), "{word}");
    }
}
