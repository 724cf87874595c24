use super::*;
use std::os::unix::ffi::OsStringExt;

#[test]
fn a_configuration_written_as_data_reads_back_as_the_same() {
    let odd = OsString::from_vec(b"/\xff\n".to_vec());
    let config = Config {
        command: odd.clone(),
        arguments: vec![odd.clone()],
        user: Some("web".into()),
        listen: vec![
            "unix:///a%FF?mode=0600".parse().unwrap(),
            "tcp://:1".parse().unwrap(),
        ],
        nonblocking: vec![1],
        drop_env: vec!["A".into()],
        nice: Nice {
            master: Some(-5),
            ..Nice::default()
        },
        max_extra: Some(2),
        style: Some(Style::Rolling),
        ready: ReadyGate::Ack,
        stop: Some(Duration::from_millis(1500)),
        pace: Some(Pace {
            interval: Duration::from_secs(1),
            max_unready: 3,
        }),
        log: LogTarget::Syslog(odd.clone()),
        level: slog::Level::Warning,
        control: Some(odd.clone()),
        pidfile: Some(odd),
        ..Config::default()
    };
    for config in [config, Config::default()] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<Config>(&text).unwrap(),
            config,
            "{text}"
        );
    }
}

#[test]
fn what_an_older_image_did_not_write_is_the_default_and_what_we_do_not_know_is_ignored() {
    let config: Config = serde_json::from_str(r#"{"workers": 4, "later": true}"#).unwrap();
    let expected = Config {
        workers: 4,
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn a_signal_that_the_table_does_not_name_is_ignored() {
    let config = Config::default();
    assert_eq!(config.action(SIGINT), SignalAction::Stop(SIGINT));
    assert_eq!(config.action(libc::SIGALRM), SignalAction::Ignore);
}
