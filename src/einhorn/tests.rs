use super::*;
use crate::protocol::{Args, Value, json};

fn around() -> Surroundings {
    Surroundings {
        directory: "/tmp".into(),
        processors: 4,
    }
}

fn words(line: &str) -> Vec<OsString> {
    words::split(line)
        .expect("a test's own line")
        .into_iter()
        .map(OsString::from)
        .collect()
}

fn read(line: &str) -> Result<Call, Refusal> {
    parse(words(line), &around())
}

fn face(line: &str) -> Face {
    match read(line) {
        Ok(Call::Run(face)) => *face,
        other => panic!("einhorn {line}: {other:?}"),
    }
}

fn refusal(line: &str) -> Refusal {
    match read(line) {
        Err(refusal) => refusal,
        Ok(call) => panic!("einhorn {line}: {call:?}"),
    }
}

fn listen(face: &Face) -> Vec<String> {
    let config = face.config().expect("the addresses are good");
    config.listen.iter().map(|uri| uri.to_string()).collect()
}

#[test]
fn without_options_all_is_as_einhorn_has_it() {
    let face = face("prog");
    assert_eq!(face.command, "prog");
    assert_eq!(
        (
            face.number,
            face.backlog,
            face.verbosity,
            face.max_unacked,
            face.max_upgrade_additional
        ),
        (1, 100, Verbosity::Info, 4, None)
    );
    assert_eq!(face.ack, Ack::Timer(Duration::from_secs(1)));
    assert_eq!(
        (face.spin_up, face.signal_timeout),
        (Duration::from_secs(1), None)
    );
    assert_eq!(face.socket, PathBuf::from("/tmp/einhorn.sock"));
    assert_eq!(face.pidfile, PathBuf::from("/tmp/einhorn.pid"));
    assert_eq!(face.lockfile, PathBuf::from("/tmp/einhorn.lock"));
    assert!(face.binds.is_empty() && face.warnings.is_empty());
}

#[test]
fn options_may_be_bundled_attached_and_abbreviated() {
    for (line, expected) in [
        ("-qn2 prog", (2, Verbosity::Errors)),
        ("-vvqn 2 prog", (2, Verbosity::Info)),
        ("--num 2 prog", (2, Verbosity::Info)),
        ("--num=2 -v prog", (2, Verbosity::Debug)),
        ("--NUMBER 2 --quiet prog", (2, Verbosity::Errors)),
        ("-n 7x --number 2y prog", (2, Verbosity::Info)),
    ] {
        let face = face(line);
        assert_eq!((face.number, face.verbosity), expected, "{line}");
    }
}

#[test]
fn options_end_at_the_program_or_at_a_double_dash() {
    let got = face("-n2 prog -n 3 -- x");
    assert_eq!((got.number, got.arguments), (2, words("-n 3 -- x")));
    let got = face("-n2 -- -prog -- x");
    assert_eq!(
        (got.command, got.arguments),
        ("-prog".into(), words("-- x"))
    );
    let got = face("-c -- - x");
    assert_eq!((got.name.as_deref(), got.command), (Some("--"), "-".into()));
}

#[test]
fn every_option_reaches_its_field() {
    let got = face(
        "-b 127.0.0.1:80,r,N -c web -d run/e.sock -e p -f l -g -k -l 7 -m manual -n 3 -q -s 0.5 -t 0x10 \
         --max-unacked 2 --max-upgrade-additional=1 --drop-env-var A --drop-env-var B \
         --reexec-as 'bundle exec \"ein horn\"' --nice -5:3:/bin/renice --gc-before-fork prog a",
    );
    assert_eq!(got.socket, PathBuf::from("run/e.sock"));
    assert_eq!(
        (got.pidfile.to_str(), got.lockfile.to_str()),
        (Some("p"), Some("l"))
    );
    assert!(got.command_socket_as_fd && got.kill_children_on_exit && got.binds[0].nonblocking);
    assert_eq!((got.backlog, got.ack, got.number), (7, Ack::Manual, 3));
    assert_eq!(got.spin_up, Duration::from_millis(500));
    assert_eq!(got.signal_timeout, Some(Duration::from_secs(16)));
    assert_eq!((got.max_unacked, got.max_upgrade_additional), (2, Some(1)));
    assert_eq!(got.drop_env, ["A", "B"]);
    assert_eq!(got.reexec_as, ["bundle", "exec", "ein horn"]);
    let nice = Nice {
        master: Some(-5),
        worker: Some(3),
        renice: Some("/bin/renice".into()),
    };
    assert_eq!(got.nice, nice);
}

#[test]
fn a_name_names_the_files() {
    let got = face("-c web prog");
    assert_eq!(got.socket, PathBuf::from("/tmp/einhorn-web.sock"));
    assert_eq!(got.pidfile, PathBuf::from("/tmp/einhorn-web.pid"));
    assert_eq!(got.lockfile, PathBuf::from("/tmp/einhorn-web.lock"));
}

#[test]
fn a_bad_command_line_costs_one_line_and_status_1() {
    for (line, expected) in [
        ("-x prog", "einhorn: invalid option: -x"),
        ("--bogus prog", "einhorn: invalid option: --bogus"),
        ("--max-u 3 prog", "einhorn: ambiguous option: --max-u"),
        ("--quiet=1 prog", "einhorn: needless argument: --quiet"),
        ("-n", "einhorn: missing argument: -n"),
        ("--number", "einhorn: missing argument: --number"),
        (
            "-m x prog",
            "einhorn: invalid ack-mode \"x\" (valid modes: FLOAT or manual)",
        ),
        (
            "-m nan prog",
            "einhorn: invalid ack-mode \"nan\" (valid modes: FLOAT or manual)",
        ),
        (
            "-s 0 prog",
            "einhorn: invalid value for -s: \"0\" is no number of seconds above 0",
        ),
        (
            "-t 1.5 prog",
            "einhorn: invalid value for -t: \"1.5\" is no integer",
        ),
        (
            "--nice x prog",
            "einhorn: invalid value for --nice: \"x\" is no integer",
        ),
        ("--reexec-as \"a'b\" prog", "einhorn: Unmatched quote: a'b"),
        ("-n 10001 prog", "einhorn: -n 10001: it must be 1 to 10000"),
    ] {
        assert_eq!(
            refusal(line),
            Refusal {
                message: expected.into(),
                status: 1
            },
            "{line}"
        );
    }
    assert!(refusal("-p app.rb prog").message.contains("Ruby"));
    assert!(
        refusal("--with-state-fd 11 prog")
            .message
            .contains("take over")
    );
    assert_eq!(refusal("-n 0 prog").status, 0, "so einhorn does");
}

#[test]
fn help_usage_and_version_exit_as_einhorns_do() {
    let say = |line: &str| match read(line) {
        Ok(Call::Say { text, status }) => (text, status),
        other => panic!("einhorn {line}: {other:?}"),
    };
    assert_eq!(say("--version --bogus"), ("1.1.1\n".into(), 0));
    // A Ruby master that asks must not exec us: we cannot read its state.
    assert_eq!(say("-q --upgrade-check -- prog").1, 1);
    let (usage, status) = say("-n 2");
    assert_eq!(status, 1);
    let (help, status) = say("-h -x");
    assert_eq!(status, 1);
    assert!(help.starts_with(&usage) && help.len() > usage.len());
    for switch in SWITCHES {
        assert!(
            usage.contains(&format!("--{}", switch.long)),
            "{}",
            switch.long
        );
    }
}

#[test]
fn ack_modes_are_manual_or_any_float() {
    for (mode, expected) in [
        ("manual", Ack::Manual),
        ("0", Ack::Timer(Duration::ZERO)),
        ("-3", Ack::Timer(Duration::ZERO)),
        ("1_0.5", Ack::Timer(Duration::from_millis(10_500))),
        (" 2 ", Ack::Timer(Duration::from_secs(2))),
        ("1e1", Ack::Timer(Duration::from_secs(10))),
    ] {
        assert_eq!(face(&format!("-m '{mode}' prog")).ack, expected, "{mode}");
    }
}

#[test]
fn binds_are_read_as_einhorn_reads_them_and_two_kinds_more() {
    for (bind, expected) in [
        ("127.0.0.1:8080", "tcp4://127.0.0.1:8080?backlog=100"),
        ("localhost:0,r", "tcp4://localhost:0?backlog=100"),
        (
            "0.0.0.0:80,SO_REUSEADDR,o_nonblock",
            "tcp4://0.0.0.0:80?backlog=100",
        ),
        ("[::1]:80,r", "tcp6://[::1]:80?backlog=100"),
        ("unix:/run/x.sock", "unix:///run/x.sock?backlog=100"),
        ("unix:///run/x,y.sock,n", "unix:///run/x,y.sock?backlog=100"),
        ("unix:/run/what?", "unix:///run/what%3F?backlog=100"),
        ("unix:@x", "unix://@x?backlog=100"),
        ("unix:80", "tcp4://unix:80?backlog=100"),
    ] {
        assert_eq!(
            listen(&face(&format!("-b '{bind}' prog"))),
            [expected],
            "{bind}"
        );
    }
    for bind in [
        ":80",
        "80",
        "host",
        "host:",
        "host:x",
        "1.2.3.4:80,",
        "a:b:80",
        "host:80,r-n",
        "unix:",
        "h:70000",
        "::1:80",
    ] {
        assert_eq!(refusal(&format!("-b {bind} prog")).status, 1, "{bind}");
    }
}

#[test]
fn a_flag_that_means_nothing_is_said_and_rn_is_healed() {
    let got = face("-b 127.0.0.1:80,rn -b 127.0.0.1:81,x,r prog");
    assert!(got.binds[0].nonblocking && !got.binds[1].nonblocking);
    assert_eq!(
        got.warnings,
        [
            "bind 127.0.0.1:80,rn: taking rn for r,n",
            "bind 127.0.0.1:81,x,r: unknown flag x ignored"
        ]
    );
}

#[test]
fn srv_arguments_become_descriptor_numbers() {
    let got = face(
        "-b 127.0.0.1:80 prog srv:127.0.0.1:81,r --fd=srv:127.0.0.1:81 x srv:bad srv:127.0.0.1:80",
    );
    assert_eq!(got.arguments, ["4", "--fd=4", "x", "srv:bad", "3"]);
    assert_eq!(
        listen(&got),
        [
            "tcp4://127.0.0.1:80?backlog=100",
            "tcp4://127.0.0.1:81?backlog=100"
        ]
    );
    assert_eq!(got.warnings.len(), 3);
}

#[test]
fn the_face_says_to_the_core_what_einhorn_does() {
    let got = face("-n 4 -m manual -t 5 -k --max-upgrade-additional 9 prog");
    let config = got.config().expect("it has no addresses");
    assert_eq!(
        (config.ready, config.start, config.workers),
        (ReadyGate::Ack, Duration::ZERO, 4)
    );
    assert_eq!(
        (config.stop_signal, config.stop),
        (12, Some(Duration::from_secs(5)))
    );
    assert!(config.respawn && config.die_with_parent && config.protocols.einhorn);
    assert_eq!(
        (config.max_extra, config.output),
        (Some(9), Output::Inherit)
    );
    let policy = face("-n 4 -s 2 --max-unacked 0 --max-upgrade-additional 0 prog")
        .config()
        .expect("it has no addresses")
        .policy(50);
    assert_eq!(policy.max_extra, Some(1));
    assert_eq!(policy.style, Some(Style::Rolling));
    let pace = Pace {
        interval: Duration::from_secs(2),
        max_unready: 1,
    };
    assert_eq!(
        (policy.pace, policy.gate),
        (Some(pace), crate::supervisor::Gate::Timer)
    );
}

#[test]
fn words_are_split_as_shellwords_does() {
    for (line, expected) in [
        ("", vec![]),
        ("  a\tb ", vec!["a", "b"]),
        ("a'b c'd\"e f\"", vec!["ab cde f"]),
        ("'' \"\"", vec!["", ""]),
        (r#"a\ b \\ "\n\"\$" '\'"#, vec!["a b", "\\", "\\n\"$", "\\"]),
        ("#x $y `z`", vec!["#x", "$y", "`z`"]),
        ("end\\", vec!["end\\"]),
    ] {
        assert_eq!(
            words::split(line),
            Ok(expected.iter().map(|s| s.to_string()).collect())
        );
    }
    assert_eq!(words::split("it's"), Err("Unmatched quote: it's".into()));
    assert!(words::split("\"a\\\"").is_err());
}

#[test]
fn numbers_are_read_as_ruby_reads_them() {
    for (text, expected) in [
        ("12ab", 12),
        ("", 0),
        ("x", 0),
        (" -7", -7),
        ("1_000", 1000),
        ("1__0", 1),
        ("0x10", 0),
    ] {
        assert_eq!(words::to_i(text), expected, "{text}");
    }
    assert_eq!(words::to_i("99999999999999999999"), i64::MAX);
    for (text, expected) in [
        ("12", Some(12)),
        (" -0b11 ", Some(-3)),
        ("010", Some(8)),
        ("0", Some(0)),
        ("1_0", Some(10)),
        ("1__0", None),
        ("_1", None),
        ("12ab", None),
        ("", None),
        ("--1", None),
        ("0x", None),
        ("0x-1", None),
        ("08", None),
    ] {
        assert_eq!(words::integer(text), expected, "{text}");
    }
    for (text, expected) in [
        ("1.5", Some(1.5)),
        ("-.5", Some(-0.5)),
        ("1.", None),
        ("1.e3", None),
        ("", None),
        ("inf", None),
        ("1e999", None),
        ("+-1", None),
        ("0x1", None),
        ("1_0", Some(10.0)),
        ("_1", None),
    ] {
        assert_eq!(words::float(text), expected, "{text}");
    }
}

fn args(value: Value) -> Args {
    match value {
        Value::Array(values) => Args::List(values),
        Value::Null => Args::Absent,
        _ => Args::NotArray,
    }
}

#[test]
fn the_number_of_workers_is_answered_as_einhorn_does() {
    use answers::*;
    assert_eq!(incremented(2), "Incrementing number of workers from 2 -> 3");
    assert_eq!(
        decremented(3, 9),
        (Some(2), "Decrementing number of workers from 3 -> 2".into())
    );
    let (none, text) = decremented(1, 9);
    assert_eq!(none, None);
    assert_eq!(
        text,
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
        assert_eq!(wanted_workers(&args(given)), expected.map_err(String::from));
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
    use answers::*;
    let two = wanted_signals(&args(json!(["sigusr1", "HUP"]))).expect("both are signals");
    assert_eq!(two, [(10, "USR1".to_string()), (1, "HUP".to_string())]);
    assert_eq!(
        (signalled(0), signalled(1), signalled(2)),
        ("".into(), "".into(), "\n".into())
    );
    let bad = wanted_signals(&args(json!(["USR1", "BOGUS"])));
    assert_eq!(bad, Err("Invalid signal: \"BOGUS\"".into()));
    assert_eq!(
        wanted_death(&args(json!(null))),
        Err("No args provided".into())
    );
    assert_eq!(wanted_death(&args(json!([]))), Ok((12, "USR2".into())));
    assert_eq!(
        wanted_death(&args(json!(["SIGTERM"]))),
        Ok((15, "TERM".into()))
    );
}

#[test]
fn greetings_and_lists_begin_as_einhorns_do() {
    use answers::*;
    let text = ehlo(Some("root"), 23578, Some("demo"));
    assert!(text.starts_with(
        "Welcome, root! You are speaking to Einhorn Master Process 23578 (demo).\nThis is Einhorn 1.1.1"
    ));
    assert!(ehlo(None, 1, None).contains("Process 1.\n"));
    assert!(unrecognized("x").starts_with("Unrecognized command: \"x\"\n\nconfig: "));
    assert!(help().contains("\nset_workers: ") && COMMANDS.is_sorted());
    assert_eq!(
        verbosity(Verbosity::Info.quieter().quieter()),
        "Verbosity set to 2"
    );
    assert_eq!(
        verbosity(Verbosity::Info.louder().louder()),
        "Verbosity set to 0"
    );
    assert_eq!(launched(25751, 1), "===> Launched 25751 (index: 1)");
    assert_eq!(sending("USR2", &[23954, 7]), "Sending USR2 to [23954, 7]");
    assert_eq!(
        upgraded(1),
        "Upgraded successfully to version 1 (Einhorn 1.1.1)."
    );
    assert_eq!(exited(7, false), "===> Exited worker 7 before it was ACKed");
}

#[test]
fn config_changes_the_verbosity_and_nothing_by_half() {
    use answers::*;
    let change = Some(Change {
        verbosity: Verbosity::Info,
    });
    let merged = "Successfully merged in config: {:verbosity=>1}".to_string();
    assert_eq!(
        config(&args(json!([":verbosity: 1"]))),
        (change, merged.clone())
    );
    assert_eq!(
        config(&args(json!(["{verbosity:", "1}"]))),
        (change, merged)
    );
    for given in [
        json!(null),
        json!([]),
        json!(["x"]),
        json!(["{"]),
        json!(["{}"]),
    ] {
        assert_eq!(config(&args(given.clone())).0, None, "{given:?}");
    }
    let (none, text) = config(&args(json!(["{:verbosity: 1, :respawn: false}"])));
    assert_eq!(
        (none, text.as_str()),
        (
            None,
            "respawn cannot be changed while running; nothing changed"
        )
    );
}
