use super::*;
use crate::config::{Dialect, Nice, signals};
use crate::listen::uri::Address;
use std::path::PathBuf;

/// What the flag's text says at its end, between `(default ` and `)`.
fn default_of(flag: &Flag) -> Option<&'static str> {
    let (_, default) = flag.description.rsplit_once(" (default ")?;
    default.strip_suffix(')')
}

fn split_words(words: impl IntoIterator<Item = OsString>) -> Result<Words, UsageError> {
    split(table::<Flags>(), words)
}

fn call(words: &[&str]) -> Result<CommandLine, UsageError> {
    parse(words.iter().map(OsString::from))
}

/// The configuration of `-command=c` and these words.
fn config_of(words: &[&str]) -> Config {
    match call(&[&["-command=c"], words].concat()) {
        Ok(CommandLine::Run(config)) => *config,
        other => panic!("{words:?} gave {other:?}"),
    }
}

/// The one line that refuses `-command=c` and these words, without its pointer to the help.
fn refused(words: &[&str]) -> String {
    let error = call(&[&["-command=c"], words].concat()).expect_err(&format!("{words:?}"));
    assert_eq!(error.status, 2, "{words:?}");
    assert!(!error.message.contains('\n'), "{words:?}");
    let pointer = "; see socketmaster -help";
    error
        .message
        .strip_suffix(pointer)
        .expect("every refusal points to the help")
        .to_string()
}

fn uris(words: &[&str]) -> Vec<String> {
    config_of(words).listen.iter().map(Uri::to_string).collect()
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let plain = config_of(&[]);
    let expected = Config {
        command: "c".into(),
        arguments: vec![],
        user: None,
        listen: vec!["tcp://:8080".parse().unwrap()],
        chdir: None,
        nonblocking: vec![],
        protocols: Protocols {
            einhorn: true,
            ..Protocols::default()
        },
        drop_env: vec![],
        control_fd: false,
        shares_terminal: false,
        nice: Nice::default(),
        die_with_parent: false,
        workers: 1,
        max_extra: None,
        style: None,
        ready: ReadyGate::Timer,
        start: Duration::from_millis(3000),
        stop_signal: libc::SIGTERM,
        first_stop: None,
        stop: None,
        respawn: false,
        pace: None,
        signals: signals(),
        output: Output::Prefix,
        log: LogTarget::Stderr,
        level: slog::Level::Info,
        control: None,
        dialect: Dialect::Socketmaster,
        pidfile: None,
        lockfile: None,
        takeover: None,
    };
    assert_eq!(plain, expected);
    for flag in table::<Flags>() {
        let value = match default_of(flag) {
            // N: whatever number that is.
            None | Some("none" | "N") => continue,
            Some("off") => "false",
            Some(default) => default,
        };
        let word = format!("-{}={value}", flag_name(flag));
        // To name the signal is to have the first stop ask with it.
        let first_stop = (flag.long == "--stop-signal").then_some(libc::SIGTERM);
        let expected = Config {
            first_stop,
            ..plain.clone()
        };
        assert_eq!(config_of(&[&word]), expected, "{word}");
    }
    let socket = table::<Flags>()
        .iter()
        .find(|flag| flag.long == "--syslog-socket");
    let socket = default_of(socket.unwrap()).unwrap();
    assert_eq!(
        config_of(&["-syslog"]).log,
        LogTarget::Syslog(socket.into())
    );
}

#[test]
fn the_last_one_wins_but_listen_repeats() {
    assert_eq!(
        config_of(&["-start=1", "--start", "2"]).start,
        Duration::from_millis(2)
    );
    assert_eq!(config_of(&["-command=d"]).command, "d");
    assert!(!config_of(&["-respawn", "-respawn=false"]).respawn);
    assert_eq!(config_of(&["-syslog", "-syslog=0"]).log, LogTarget::Stderr);
    let two = [
        "-listen=tcp://:2",
        "--listen",
        "unix:///x",
        "-listen=tcp://:2",
    ];
    assert_eq!(uris(&two), ["tcp://:2", "unix:///x", "tcp://:2"]);
    assert_eq!(refused(&["-start=x", "-start=1"]), "-start x: not a number");
}

#[test]
fn booleans_take_a_value_only_after_an_equals_sign() {
    let config = config_of(&["-respawn", "false"]);
    assert!(config.respawn);
    assert_eq!(config.arguments, ["false"]);
    assert!(!config_of(&["-die-with-parent=F"]).die_with_parent);
    assert!(config_of(&["--die-with-parent=T"]).die_with_parent);
    assert_eq!(
        refused(&["-respawn=maybe"]),
        "-respawn maybe: neither true nor false"
    );
    assert_eq!(
        refused(&["-syslog="]),
        "-syslog \"\": neither true nor false"
    );
}

#[test]
fn times_are_milliseconds() {
    assert_eq!(config_of(&["-start=0"]).start, Duration::ZERO);
    assert_eq!(
        config_of(&["-start=1_500"]).start,
        Duration::from_millis(1500)
    );
    assert_eq!(
        config_of(&["-stop", "0x10"]).stop,
        Some(Duration::from_millis(16))
    );
    assert_eq!(config_of(&["-stop=0"]).stop, None);
    assert_eq!(
        refused(&["-start", "-1"]),
        "-start -1: out of range, 0 to 9223372036854"
    );
    assert_eq!(refused(&["-stop=3s"]), "-stop 3s: not a number");
}

#[test]
fn workers_and_extra_workers_are_bounded() {
    assert_eq!(config_of(&["-workers=10000"]).max_extra, None);
    let extra = config_of(&["-workers=4", "-max-extra=2"]).max_extra;
    assert_eq!(extra, Some(2));
    let text = config_of(&["-max-extra=9", "-workers=4"]).to_string();
    assert!(text.contains("all at once with at most 4 more"), "{text}");
    assert_eq!(
        refused(&["-workers=0"]),
        "-workers 0: out of range, 1 to 10000"
    );
    assert_eq!(
        refused(&["-workers=10001"]),
        "-workers 10001: out of range, 1 to 10000"
    );
    assert_eq!(
        refused(&["-max-extra=0"]),
        "-max-extra 0: out of range, 1 to 4294967295"
    );
}

#[test]
fn signals_go_by_name_and_number() {
    for (text, number) in [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigquit", 3),
        ("Usr2", libc::SIGUSR2),
        ("15", 15),
        ("0xf", 15),
        ("KILL", 9),
        ("RTMIN", libc::SIGRTMIN()),
        ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
        ("rtmax-1", libc::SIGRTMAX() - 1),
    ] {
        assert_eq!(
            config_of(&["-stop-signal", text]).stop_signal,
            number,
            "{text}"
        );
    }
    for text in [
        "",
        "SIG",
        "TERMINATE",
        "SIGSIGTERM",
        "RTMIN-1",
        "RTMIN+99",
        "RTMAX+1",
        "RTMIN+",
    ] {
        let shown = if text.is_empty() { "\"\"" } else { text };
        let expected = format!("-stop-signal {shown}: not a signal");
        assert_eq!(refused(&["-stop-signal", text]), expected);
    }
    for text in ["0", "-9", "65", "1000"] {
        let range = format!(
            "-stop-signal {text}: out of range, 1 to {}",
            libc::SIGRTMAX()
        );
        assert_eq!(refused(&["-stop-signal", text]), range);
    }
}

#[test]
fn gates_outputs_and_protocols_are_words() {
    assert_eq!(config_of(&["-ready=notify"]).ready, ReadyGate::Notify);
    assert_eq!(
        config_of(&["-ready=ack", "-control=/c"]).ready,
        ReadyGate::Ack
    );
    assert_eq!(config_of(&["-output=lossy"]).output, Output::Lossy);
    assert_eq!(config_of(&["-output=inherit"]).output, Output::Inherit);
    let all = "einhorn,systemd,server-starter,nginx,php-fpm";
    assert_eq!(config_of(&["-protocol", all]).protocols.to_string(), all);
    assert_eq!(
        config_of(&["-protocol=systemd, nginx"])
            .protocols
            .to_string(),
        "systemd,nginx"
    );
    assert_eq!(
        refused(&["-ready=soon"]),
        "-ready soon: not one of timer, notify, ack"
    );
    assert_eq!(
        refused(&["-output=x"]),
        "-output x: not one of prefix, lossy, inherit"
    );
    for text in ["systemd,x", "", "einhorn,", "SYSTEMD"] {
        assert!(
            refused(&["-protocol", text]).contains("not among einhorn, systemd"),
            "{text}"
        );
    }
}

#[test]
fn the_ack_gate_needs_a_control_socket() {
    let expected = "-ready ack: needs -control, the socket on which workers report";
    assert_eq!(refused(&["-ready=ack"]), expected);
    assert_eq!(refused(&["-ready=ack", "-control="]), expected);
    assert_eq!(
        refused(&["-ready=ack", "-control=/c", "-protocol=systemd"]),
        "-ready ack: needs einhorn in -protocol, which tells workers where to report"
    );
}

#[test]
fn syslog_and_its_socket() {
    assert_eq!(config_of(&["-syslog-socket=/s"]).log, LogTarget::Stderr);
    let both = config_of(&["-syslog", "-syslog-socket=/s", "-output=inherit"]);
    assert_eq!(both.log, LogTarget::Syslog("/s".into()));
    assert_eq!(both.output, Output::Inherit);
}

#[test]
fn an_empty_name_is_none() {
    let config = config_of(&["-user=", "-control=", "-pidfile", ""]);
    assert_eq!(
        (config.user, config.control, config.pidfile),
        (None, None, None)
    );
}

#[test]
fn a_process_to_take_over_from_is_a_pid() {
    assert_eq!(config_of(&["-takeover=812"]).takeover, Some(812));
    assert_eq!(
        refused(&["-takeover=0"]),
        "-takeover 0: out of range, 1 to 2147483647"
    );
    assert_eq!(
        refused(&["-takeover", "-1"]),
        "-takeover -1: out of range, 1 to 2147483647"
    );
    assert_eq!(
        refused(&["-takeover=nginx"]),
        "-takeover nginx: not a number"
    );
}

#[test]
fn a_bad_listen_uri_names_itself_and_the_reason() {
    let words = ["-listen", "tcp://:99999"];
    assert_eq!(
        refused(&words),
        "-listen tcp://:99999: port 99999 is out of range"
    );
    assert_eq!(
        refused(&["-listen=tcp://:1?mode=1"]),
        "-listen tcp://:1?mode=1: option mode does not apply to tcp"
    );
    assert!(refused(&["-listen="]).starts_with("-listen \"\": it needs a scheme"));
}

#[test]
fn values_and_arguments_need_not_be_utf_8() {
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let words = [
        odd(b"-command=/\xff"),
        odd(b"--pidfile"),
        odd(b"/\xe9\xff"),
        odd(b"-control=/caf\xc3\xa9"),
        odd(b"-listen=unix:///\xfe"),
        odd(b"a\xff"),
        odd(b"--b=\xff"),
    ];
    let Ok(CommandLine::Run(config)) = parse(words) else {
        panic!("refused")
    };
    assert_eq!(config.command, odd(b"/\xff"));
    assert_eq!(config.pidfile, Some(odd(b"/\xe9\xff")));
    assert_eq!(config.control, Some("/caf\u{e9}".into()));
    assert_eq!(
        config.listen[0].address,
        Address::Path(PathBuf::from(odd(b"/\xfe")))
    );
    assert_eq!(config.arguments, [odd(b"a\xff"), odd(b"--b=\xff")]);
}

#[test]
fn a_bad_value_of_any_bytes_is_named_on_one_line() {
    let words = |bytes: &[u8]| {
        [
            OsString::from("-command=c"),
            OsString::from_vec(bytes.to_vec()),
        ]
    };
    let error = parse(words(b"-start=\xff\n")).unwrap_err();
    assert_eq!(
        error.message,
        "-start \u{fffd}\\n: not a number; see socketmaster -help"
    );
    let error = parse(words(b"-listen=tcp://a\nb\xff:1")).unwrap_err();
    assert!(
        error.message.starts_with("-listen tcp://a\\nb\u{fffd}:1: "),
        "{error}"
    );
    let error = parse(words(b"-user=\xff")).unwrap_err();
    assert_eq!(
        error.message,
        "-user \u{fffd}: not UTF-8; see socketmaster -help"
    );
    assert_eq!(refused(&["-start=\u{e9}"]), "-start \u{e9}: not a number");
}

#[test]
fn a_missing_command_is_status_1_and_a_bad_flag_status_2() {
    for words in [
        &[][..],
        &["-command="],
        &["-start=5", "server"],
        &["-check"],
        &["--"],
    ] {
        let error = call(words).unwrap_err();
        assert_eq!(error.status, 1, "{words:?}");
        assert!(error.message.starts_with("no command given"), "{words:?}");
    }
    for words in [
        &["-x"][..],
        &["-start=x"],
        &["-command"],
        &["---x"],
        &["-=x"],
    ] {
        assert_eq!(call(words).unwrap_err().status, 2, "{words:?}");
    }
}

#[test]
fn arguments_of_the_command_are_passed_on() {
    let arguments = |words: &[&str]| config_of(words).arguments;
    assert_eq!(arguments(&["a", "-start=x", "--"]), ["a", "-start=x", "--"]);
    assert_eq!(
        arguments(&["--", "-start=x", "--", ""]),
        ["-start=x", "--", ""]
    );
    assert_eq!(arguments(&["-", "help"]), ["-", "help"]);
    assert_eq!(arguments(&["help"]), ["help"]);
}

#[test]
fn help_and_version_need_no_command() {
    for word in ["-h", "-help", "--help", "--h"] {
        assert_eq!(call(&[word]), Ok(CommandLine::Help(help())));
    }
    assert_eq!(call(&["-start=x", "-help"]), Ok(CommandLine::Help(help())));
    assert_eq!(call(&["-version"]), Ok(CommandLine::Version));
    assert_eq!(
        call(&["-check", "--version=true"]),
        Ok(CommandLine::Version)
    );
    assert!(matches!(
        call(&["-command=c", "-version=false"]),
        Ok(CommandLine::Run(_))
    ));
}

#[test]
fn check_is_the_same_configuration() {
    let Ok(CommandLine::Check(config)) = call(&["-command=c", "-check", "-workers=2"]) else {
        panic!("not a check")
    };
    assert_eq!(*config, config_of(&["-workers=2"]));
    assert!(matches!(
        call(&["-command=c", "-check=false"]),
        Ok(CommandLine::Run(_))
    ));
}

#[test]
fn the_plan_says_what_would_be_done() {
    assert_eq!(
        config_of(&["-user=web", "--", "a b"]).to_string(),
        "listen on tcp://:8080, descriptor 3 of the workers\n\
         run \"c\" [\"a b\"]\n\
         as user web\n\
         tell the workers by einhorn\n\
         keep 1 of them, at a reload all at once with at most 1 more\n\
         ready: alive after 3000 ms\n\
         an old worker is asked to stop with SIGTERM and never killed\n\
         log the workers' output line by line\n\
         log to stderr\n"
    );
    let long = config_of(&[
        "-listen=systemd://",
        "-listen=tcp://:1",
        "-takeover=7",
        "-workers=4",
        "-max-extra=1",
        "-ready=ack",
        "-start=0",
        "-stop=50",
        "-stop-signal=QUIT",
        "-respawn",
        "-die-with-parent",
        "-protocol=einhorn,nginx",
        "-output=inherit",
        "-syslog",
        "-control=/c",
        "-pidfile=/p",
    ]);
    assert_eq!(
        long.to_string(),
        "listen on systemd://\n\
         listen on tcp://:1\n\
         take the sockets over from process 7, then stop it\n\
         run \"c\" []\n\
         tell the workers by einhorn,nginx\n\
         keep 4 of them, at a reload rolling with at most 1 more\n\
         ready: worker:ack to the control socket without a limit\n\
         an old worker is asked to stop with SIGQUIT and SIGKILL after 50 ms\n\
         a worker that dies is replaced\n\
         workers are stopped when socketmaster dies\n\
         leave the workers' output alone\n\
         log to syslog at /dev/log\n\
         open the control socket /c\n\
         write and lock the pid file /p\n"
    );
}

fn taken(words: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
    let words = split_words(words.iter().map(OsString::from)).map_err(|error| error.message)?;
    let text = |word: OsString| word.into_string().expect("UTF-8 went in");
    let flags = words
        .flags
        .into_iter()
        .map(|(flag, value)| format!("{}={}", flag_name(flag), text(value)));
    Ok((
        flags.collect(),
        words.arguments.into_iter().map(text).collect(),
    ))
}

#[test]
fn go_and_gnu_spellings_are_the_same() {
    for words in [
        &["-start", "5"][..],
        &["-start=5"],
        &["--start", "5"],
        &["--start=5"],
    ] {
        assert_eq!(
            taken(words),
            Ok((vec!["start=5".into()], vec![])),
            "{words:?}"
        );
    }
}

#[test]
fn flags_end_where_go_ends_them() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["-syslog", "false", "-x"],
            &["syslog=true"],
            &["false", "-x"],
        ),
        (&["-syslog=false", "a"], &["syslog=false"], &["a"]),
        (&["--syslog=", "a"], &["syslog="], &["a"]),
        (
            &["-start=1", "-", "-start=2"],
            &["start=1"],
            &["-", "-start=2"],
        ),
        (
            &["-start=1", "", "-start=2"],
            &["start=1"],
            &["", "-start=2"],
        ),
        (
            &["-start=1", "--", "-start=2", "--"],
            &["start=1"],
            &["-start=2", "--"],
        ),
        (&["--", "--"], &[], &["--"]),
        (&["a", "--", "-h"], &[], &["a", "--", "-h"]),
        (&["-start", "--", "a"], &["start=--"], &["a"]),
        (&["-command", "-help"], &["command=-help"], &[]),
        (
            &["-start", "1", "-start", "2"],
            &["start=1", "start=2"],
            &[],
        ),
        (
            &["-listen=unix:///a?name=b=c"],
            &["listen=unix:///a?name=b=c"],
            &[],
        ),
        (&[], &[], &[]),
    ];
    for (words, flags, arguments) in cases {
        let owned = |words: &[&str]| {
            words
                .iter()
                .map(|word| word.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            taken(words),
            Ok((owned(flags), owned(arguments))),
            "{words:?}"
        );
    }
}

#[test]
fn words_that_are_no_flags_are_refused_on_one_line() {
    let cases: &[(&[&str], &str)] = &[
        (&["---start"], "---start is not a flag"),
        (&["---"], "--- is not a flag"),
        (&["-=5"], "-=5 is not a flag"),
        (&["--=5"], "--=5 is not a flag"),
        (&["-begin"], "-begin is not a flag of socketmaster"),
        (&["--begin=5"], "-begin is not a flag of socketmaster"),
        (&["-sta", "5"], "-sta is not a flag of socketmaster"),
        (&["-Start", "5"], "-Start is not a flag of socketmaster"),
        (&["-a\nb"], "-a\\nb is not a flag of socketmaster"),
        (&["-start"], "-start needs a value"),
    ];
    for (words, problem) in cases {
        let message = format!("{problem}; see socketmaster -help");
        assert_eq!(taken(words), Err(message), "{words:?}");
    }
}

#[test]
fn help_is_found_among_the_flags_only() {
    let help = |words: &[&str]| split_words(words.iter().map(OsString::from)).unwrap().help;
    for words in [
        &["-h"][..],
        &["--h"],
        &["-help"],
        &["--help"],
        &["-start=1", "-help=x", "-bad"],
    ] {
        assert!(help(words), "{words:?}");
    }
    for words in [
        &["help"][..],
        &["--", "-help"],
        &["-command", "--help"],
        &["a", "-h"],
    ] {
        assert!(!help(words), "{words:?}");
    }
}

#[test]
fn words_after_the_flags_are_passed_unchanged() {
    let odd = OsString::from_vec(b"\xff=\xfe".to_vec());
    let words =
        split_words([OsString::from("-syslog"), odd.clone(), OsString::from("--")]).unwrap();
    assert_eq!(words.arguments, [odd, OsString::from("--")]);
}

#[test]
fn a_value_may_be_any_bytes() {
    let words = split_words([OsString::from_vec(b"--pidfile=\xff=\n".to_vec())]).unwrap();
    assert_eq!(words.flags[0].1.as_bytes(), b"\xff=\n");
}

#[test]
fn the_help_shows_every_flag_with_its_default_in_80_columns() {
    let help = help();
    assert!(
        help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
    assert!(help.ends_with('\n'), "{help}");
    for flag in table::<Flags>() {
        let name = flag_name(flag);
        let head = match flag.kind {
            FlagInfoKind::Option { arg_name } => format!("\n  -{name}={arg_name}\n"),
            FlagInfoKind::Switch => format!("\n  -{name}\n"),
        };
        let rest = help
            .split_once(&head)
            .unwrap_or_else(|| panic!("no {head} in {help}"))
            .1;
        let own = rest.split("\n  -").next().unwrap_or(rest);
        let own = own.split_whitespace().collect::<Vec<_>>().join(" ");
        let (first, text) = flag.description.split_at(1);
        let sentence = first.to_uppercase() + text;
        assert!(own.starts_with(&sentence), "{own}");
        let is_plain = matches!(name, "command" | "version");
        assert_eq!(default_of(flag).is_none(), is_plain, "{own}");
    }
    assert!(help.contains("(required)"), "{help}");
    assert!(help.contains("\n  -help\n"), "{help}");
    for face in ["ctl", "einhorn", "einhornsh"] {
        let shown = help.contains(&format!("\n  socketmaster {face} "));
        assert_eq!(shown, face == "ctl" || cfg!(feature = "einhorn"), "{face}");
    }
}

#[test]
fn no_flag_is_in_the_table_twice() {
    for (index, flag) in table::<Flags>().iter().enumerate() {
        let before = &table::<Flags>()[..index];
        assert!(
            before.iter().all(|other| other.long != flag.long),
            "{}",
            flag.long
        );
    }
}
