//! Command lines of einhorn's, and the configurations that they are.

use super::*;
use crate::supervisor::Gate;

fn words(line: &str) -> Vec<OsString> {
    split(line)
        .expect("a test's own line")
        .into_iter()
        .map(OsString::from)
        .collect()
}

fn read(line: &str) -> Result<Invocation, Rejected> {
    parse(words(line), Path::new("/tmp"), 4)
}

/// The configuration, and what a person is told about it.
fn both(line: &str) -> (Config, Vec<String>) {
    match read(line) {
        Ok(Invocation::Run { config, warnings }) => (*config, warnings),
        other => panic!("einhorn {line}: {other:?}"),
    }
}

fn config(line: &str) -> Config {
    both(line).0
}

fn refusal(line: &str) -> Rejected {
    match read(line) {
        Err(refusal) => refusal,
        Ok(call) => panic!("einhorn {line}: {call:?}"),
    }
}

fn listen(config: &Config) -> Vec<String> {
    config.listen.iter().map(|uri| uri.to_string()).collect()
}

fn path(path: &str) -> Option<OsString> {
    Some(path.into())
}

fn pace(millis: u64, max_unready: u32) -> Option<Pace> {
    let interval = Duration::from_millis(millis);
    Some(Pace {
        interval,
        max_unready,
    })
}

#[test]
fn without_options_all_is_as_einhorn_has_it() {
    let (config, warnings) = both("-b h:1 prog");
    assert_eq!(config.command, "prog");
    assert_eq!((config.workers, config.max_extra), (1, None));
    assert_eq!(listen(&config), ["tcp4://h:1?backlog=100"]);
    assert_eq!(verbosity(config.level), 1);
    assert_eq!(config.ready, ReadyGate::Timer);
    assert_eq!(config.start, Duration::from_secs(1));
    assert_eq!((config.pace, config.stop), (pace(1000, 4), None));
    assert_eq!(config.control, path("/tmp/einhorn.sock"));
    assert_eq!(config.pidfile, path("/tmp/einhorn.pid"));
    assert_eq!(config.lockfile, path("/tmp/einhorn.lock"));
    assert_eq!(config.dialect, Dialect::Einhorn(None));
    assert!(self::config("prog").listen.is_empty() && warnings.is_empty());
}

#[test]
fn options_may_be_bundled_attached_and_abbreviated() {
    for (line, expected) in [
        ("-qn2 prog", (2, 2)),
        ("-vvqn 2 prog", (2, 1)),
        ("--num 2 prog", (2, 1)),
        ("--num=2 -v prog", (2, 0)),
        ("--NUMBER 2 --quiet prog", (2, 2)),
        ("-n 7x --number 2y prog", (2, 1)),
    ] {
        let got = config(line);
        let found = (got.workers, verbosity(got.level));
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn options_end_at_the_program_or_at_a_double_dash() {
    let got = config("-n2 prog -n 3 -- x");
    assert_eq!((got.workers, got.arguments), (2, words("-n 3 -- x")));
    let got = config("-n2 -- -prog -- x");
    assert_eq!(
        (got.command, got.arguments),
        ("-prog".into(), words("-- x"))
    );
    let got = config("-c -- - x");
    assert_eq!(
        (got.dialect, got.command),
        (Dialect::Einhorn(Some("--".into())), "-".into())
    );
}

#[test]
fn every_option_reaches_its_field() {
    let got = config(
        "-b 127.0.0.1:80,r,N -c web -d run/e.sock -e p -f l -g -k -l 7 -m manual -n 3 -q -s 0.5 -t 0x10 \
         --max-unacked 2 --max-upgrade-additional=1 --drop-env-var A --drop-env-var B \
         --reexec-as 'bundle exec \"ein horn\"' --nice -5:3:/bin/renice --gc-before-fork prog a",
    );
    assert_eq!(got.control, path("run/e.sock"));
    assert_eq!((got.pidfile, got.lockfile), (path("p"), path("l")));
    assert!(got.control_fd && got.die_with_parent);
    assert_eq!(got.nonblocking, [0]);
    assert_eq!(got.listen[0].options.backlog, Some(7));
    assert_eq!((got.ready, got.workers), (ReadyGate::Ack, 3));
    assert_eq!(got.stop, Some(Duration::from_secs(16)));
    assert_eq!((got.pace, got.max_extra), (pace(500, 2), Some(1)));
    assert_eq!(got.drop_env, ["A", "B"]);
    assert_eq!(verbosity(got.level), 2);
    let nice = Nice {
        master: Some(-5),
        worker: Some(3),
        renice: Some("/bin/renice".into()),
    };
    assert_eq!(got.nice, nice);
}

#[test]
fn a_name_names_the_files() {
    let got = config("-c web prog");
    assert_eq!(got.control, path("/tmp/einhorn-web.sock"));
    assert_eq!(got.pidfile, path("/tmp/einhorn-web.pid"));
    assert_eq!(got.lockfile, path("/tmp/einhorn-web.lock"));
    assert_eq!(got.dialect, Dialect::Einhorn(Some("web".into())));
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
            Rejected {
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
        Ok(Invocation::Say { text, status }) => (text, status),
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
    for option in ["bind", "number", "max-unacked", "with-state-fd", "version"] {
        assert!(usage.contains(&format!("--{option}")), "{option}");
    }
}

#[test]
fn integers_are_read_as_ruby_reads_them() {
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
        assert_eq!(integer("-t", text).ok(), expected, "{text}");
    }
}

#[test]
fn ack_modes_are_manual_or_any_float() {
    for (mode, expected) in [
        ("manual", (ReadyGate::Ack, Duration::ZERO)),
        ("0", (ReadyGate::Timer, Duration::ZERO)),
        ("-3", (ReadyGate::Timer, Duration::ZERO)),
        ("1_0.5", (ReadyGate::Timer, Duration::from_millis(10_500))),
        (" 2 ", (ReadyGate::Timer, Duration::from_secs(2))),
        ("1e1", (ReadyGate::Timer, Duration::from_secs(10))),
    ] {
        let got = config(&format!("-m '{mode}' prog"));
        assert_eq!((got.ready, got.start), expected, "{mode}");
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
            listen(&config(&format!("-b '{bind}' prog"))),
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
    let (got, warnings) = both("-b 127.0.0.1:80,rn -b 127.0.0.1:81,x,r prog");
    assert_eq!(got.nonblocking, [0]);
    assert_eq!(
        warnings,
        [
            "bind 127.0.0.1:80,rn: taking rn for r,n",
            "bind 127.0.0.1:81,x,r: unknown flag x ignored"
        ]
    );
}

#[test]
fn srv_arguments_become_descriptor_numbers() {
    let (got, warnings) = both(
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
    assert_eq!(warnings.len(), 3);
}

#[test]
fn the_core_is_told_what_einhorn_does() {
    let config = self::config("-n 4 -m manual -t 5 -k --max-upgrade-additional 9 prog");
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
    let policy =
        self::config("-n 4 -s 2 --max-unacked 0 --max-upgrade-additional 0 prog").policy(50);
    assert_eq!(policy.max_extra, Some(1));
    assert_eq!(policy.style, Some(Style::Rolling));
    assert_eq!((policy.pace, policy.gate), (pace(2000, 1), Gate::Timer));
}
