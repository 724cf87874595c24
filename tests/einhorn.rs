//! The `einhorn` and `einhornsh` faces of the real program: command line, environment, files,
//! signals, and workers and clients that know only einhorn.

#![cfg(feature = "einhorn")]

mod common;

#[path = "einhorn/client.rs"]
mod client;
#[path = "einhorn/need.rs"]
mod need;
#[path = "einhorn/place.rs"]
mod place;
#[path = "einhorn/shell.rs"]
mod shell;
#[path = "einhorn/signals.rs"]
mod signals;
#[path = "einhorn/upgrades.rs"]
mod upgrades;
#[path = "einhorn/world.rs"]
mod world;

use common::{Address, Daemon, Report, Run, SOCKETMASTER, TempDir, facts, root_or_skip, worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::Place;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};

/// The report of a worker that writes it to the file `report` of the place, PID after its name.
fn reports(place: &Place, daemon: &Daemon, count: usize) -> Vec<Report> {
    daemon.wait_for(&format!("{count} whole reports"), || {
        let names = place.dir.names().into_iter();
        let texts = names
            .filter(|name| name.starts_with("report."))
            .filter_map(|name| fs::read_to_string(place.dir.join(&name)).ok());
        let whole: Vec<String> = texts
            .filter(|text| text.ends_with("report=done\n"))
            .collect();
        let read = |text: &String| Report::read(text);
        (whole.len() >= count).then(|| whole.iter().map(read).collect())
    })
}

/// A start whose workers report, as a shell's only command does: it becomes the worker.
fn reporting(place: &Place, options: &str) -> Run {
    let script = format!(
        "exec {} report \"$@\" > {}.$$",
        worker(),
        place.dir.word("report")
    );
    place
        .einhorn(options)
        .args(&["--", "/bin/sh", "-c", &script, "sh"])
}

fn output(words: &[&str]) -> Output {
    let mut command = Command::new(SOCKETMASTER);
    command.args(words).output().expect("it can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn addresses(daemon: &Daemon, count: usize) -> Vec<Address> {
    (0..count).map(|n| daemon.address_number(n)).collect()
}

// ---- who we are called ----

#[test]
fn the_name_that_it_is_called_by_chooses_the_face() {
    let dir = TempDir::new();
    dir.link("einhorn", SOCKETMASTER);
    dir.link("einhornsh", SOCKETMASTER);
    let run = |name: &str, word: &str| {
        let mut command = Command::new(dir.join(name));
        command.arg(word).output().expect("it can be started")
    };
    let version = run("einhorn", "--version");
    assert_eq!(
        (text(&version.stdout).as_str(), version.status.code()),
        ("1.1.1\n", Some(0))
    );
    let help = run("einhorn", "-h");
    assert!(text(&help.stdout).contains("--max-upgrade-additional"));
    assert_eq!(help.status.code(), Some(1));
    let help = run("einhornsh", "-h");
    assert!(text(&help.stderr).contains("einhornsh"), "{help:?}");
    assert_eq!(help.status.code(), Some(1));
    assert_eq!(text(&output(&["einhorn", "--version"]).stdout), "1.1.1\n");
}

#[test]
fn the_word_einhorn_is_a_face_only_where_it_comes_first() {
    let daemon = Run::worker(&["-start=0"], &["einhorn", "never"]).start();
    // It is the worker's word: that one misses einhorn's variables and says so.
    daemon.wait_for_line("no EINHORN_MASTER_PID");
}

#[test]
fn mistakes_on_the_command_line_exit_as_einhorns_do() {
    for (words, status, said) in [
        (&["einhorn"][..], 1, ""),
        (&["einhorn", "-n", "0", "true"], 0, "-n 0"),
        (&["einhorn", "-b", ":80", "true"], 1, "HOST:PORT"),
        (&["einhorn", "--what", "true"], 1, "invalid option: --what"),
        (&["einhorn", "-p", "x.rb", "true"], 1, "Ruby"),
        // So that a Ruby master does not exec us.
        (&["einhorn", "--upgrade-check", "--", "true"], 1, ""),
    ] {
        let output = output(words);
        assert_eq!(output.status.code(), Some(status), "{words:?}");
        assert!(text(&output.stderr).contains(said), "{output:?}");
    }
    let place = Place::new();
    let missing = place.einhorn("--").arg("/nonexistent/worker").output();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nonexistent/worker"));
    assert_eq!(place.dir.names(), [] as [&str; 0]);
}

// ---- what a worker finds ----

#[test]
fn four_workers_that_know_only_einhorn_serve_and_ack() {
    let place = Place::new();
    let daemon = place.live("-n 4 -b 127.0.0.1:0,r -m manual", "einhorn at-once");
    let workers: BTreeSet<i32> = daemon.workers().into_iter().collect();
    assert_eq!(workers.len(), 4);
    assert!(workers.contains(&daemon.address().answering_pid()));
    let (printed, status) = place::printed(&place.shell(&["-e", "upgrade"]));
    assert!(printed.ends_with("Upgrade done\n"), "{printed}");
    assert_eq!(status, 0);
    daemon.wait_until("all workers to be new ones", || {
        let now = daemon.workers();
        now.len() == 4 && now.iter().all(|pid| !workers.contains(pid))
    });
    for pid in &workers {
        daemon.wait_for_line(&format!("[{pid}] asked by signal {}", libc::SIGUSR2));
    }
    assert!(daemon.workers().contains(&daemon.address().answering_pid()));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(place.dir.names(), ["behaviour", "lock"]);
}

#[test]
fn a_worker_finds_what_einhorn_promises() {
    let place = Place::new();
    let run = reporting(&place, "-n2 -b 127.0.0.1:0,r,n -b 127.0.0.1:0 -l 7 -q");
    let daemon = run.arg("word").env("EINHORN_CHILD_INDEX", "77").start();
    let reports = reports(&place, &daemon, 2);
    let report = &reports[0];
    let master = daemon.real_pid().to_string();
    assert_eq!(report.env("EINHORN_MASTER_PID"), Some(master.as_str()));
    assert_eq!(report.fact("ppid"), master);
    assert_eq!(report.fact("pgid"), report.pid.to_string());
    assert_eq!(
        report.env("EINHORN_SOCK_PATH"),
        Some(place.socket().as_str())
    );
    assert_eq!(report.env("EINHORN_SOCK_FD"), None);
    assert_eq!(report.env("EINHORN_FD_COUNT"), Some("2"));
    assert_eq!(report.env("EINHORN_FDS"), Some("3 4"));
    assert_eq!(report.env("EINHORN_FD_1"), Some("4"));
    assert_eq!(report.env("EINHORN_FD_FAMILY_0"), Some("AF_INET"));
    let indexes: BTreeSet<_> = reports
        .iter()
        .map(|r| r.env("EINHORN_CHILD_INDEX"))
        .collect();
    assert_eq!(indexes, BTreeSet::from([Some("0"), Some("1")]));
    assert!(report.fd(3).contains("nonblock=true"), "{}", report.fd(3));
    assert!(report.fd(4).contains("nonblock=false"), "{}", report.fd(4));
    assert!(report.fd(4).contains("backlog=7"), "{}", report.fd(4));
    assert_eq!(report.fd_numbers(), [0, 1, 2, 3, 4]);
    assert!(report.argv().ends_with(&["report", "word"]));
    assert_eq!(daemon.log(), "", "-q says nothing while all is well");
}

#[test]
fn without_a_socket_a_worker_is_told_so() {
    let place = Place::new();
    let daemon = reporting(&place, "").start();
    let report = &reports(&place, &daemon, 1)[0];
    assert_eq!(report.env("EINHORN_FD_COUNT"), Some("0"));
    assert_eq!(report.env("EINHORN_FDS"), Some(""));
    assert_eq!(report.fd_numbers(), [0, 1, 2]);
}

#[test]
fn ipv6_and_unix_sockets_work_too() {
    let place = Place::new();
    let path = place.dir.word("web");
    let run = reporting(&place, &format!("-b [::1]:0 -b unix:{path}"));
    let daemon = run.start();
    let report = &reports(&place, &daemon, 1)[0];
    assert_eq!(report.env("EINHORN_FD_FAMILY_0"), Some("AF_INET6"));
    assert_eq!(report.env("EINHORN_FD_FAMILY_1"), Some("AF_UNIX"));
    for address in addresses(&daemon, 2) {
        address.connect().expect("it listens");
    }
    assert_eq!(daemon.stop(), 0);
    assert!(!place.dir.join("web").exists());
}

#[test]
fn srv_arguments_become_numbers_of_descriptors() {
    let place = Place::new();
    let run = reporting(&place, "-b 127.0.0.1:0");
    let daemon = run
        .args(&["srv:127.0.0.1:0,r", "web=srv:localhost:0"])
        .start();
    let report = &reports(&place, &daemon, 1)[0];
    assert!(
        report.argv().ends_with(&["report", "3", "web=4"]),
        "{:?}",
        report.argv()
    );
    assert_eq!(report.env("EINHORN_FD_COUNT"), Some("2"));
}

#[test]
fn output_is_inherited_and_nothing_is_put_before_it() {
    let place = Place::new();
    let run = place
        .einhorn("-q")
        .args(&["sh", "-c", "echo here >&2; exec sleep 60"]);
    let daemon = run.start();
    daemon.wait_for_line("here");
    assert_eq!(daemon.log(), "here\n");
}

#[test]
fn a_dropped_variable_is_gone_from_the_first_upgrade_on() {
    let place = Place::new();
    let run = reporting(&place, "-m 0.1 -s 0.1 --drop-env-var OLD_RELEASE");
    let daemon = run.env("OLD_RELEASE", "1").env("KEPT", "2").start();
    daemon.wait_until_live();
    daemon.reload();
    let reports = reports(&place, &daemon, 2);
    let seen: Vec<_> = reports.iter().map(|r| r.env("OLD_RELEASE")).collect();
    assert!(
        seen.contains(&Some("1")) && seen.contains(&None),
        "{seen:?}"
    );
    assert!(reports.iter().all(|r| r.env("KEPT") == Some("2")));
}

#[test]
fn workers_are_as_nice_as_asked() {
    let nice = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(16)?.parse::<i32>().ok()
    };
    let place = Place::new();
    let daemon = place.live("-n 1 -m 0 --nice 1:5", "einhorn never");
    let worker = daemon.workers()[0];
    assert_eq!((nice(daemon.real_pid()), nice(worker)), (Some(1), Some(5)));
    drop(daemon);
    let renice = format!("1:5:touch {} #", place.dir.word("reniced"));
    let run = place.einhorn("-m 0 --nice").arg(renice);
    let daemon = run.args(&["sleep", "60"]).start();
    daemon.wait_until("the renice command to run", || {
        place.dir.join("reniced").exists()
    });
    let master = daemon.real_pid();
    daemon.wait_until("its process to be reaped", || {
        facts::children(master).len() == 1
    });
}

/// einhorn's workers stay in the directory that was current at the start; ours follow the link.
#[test]
fn a_worker_in_the_next_release_finds_a_socket_with_a_relative_path() {
    let place = Place::new();
    for release in ["one", "two"] {
        fs::create_dir(place.dir.join(release)).expect("the directory is ours");
    }
    place.dir.link("current", place.dir.join("one"));
    let daemon = Run::bare()
        .args(&["einhorn", "-d", "sock", "-e", "pid", "-f", "lock", "-m"])
        .args(&["manual", &worker(), "einhorn", "at-once"])
        .dir(&place.dir.join("current"))
        .start();
    daemon.wait_until_live();
    place.dir.link("current", place.dir.join("two"));
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(
        fs::read_dir(place.dir.join("one"))
            .expect("it is there")
            .count(),
        1
    );
}

// ---- its connection to the control socket ----

#[test]
fn with_g_a_worker_acks_over_the_connection_that_it_was_given() {
    let place = Place::new();
    let daemon = place.live("-n 2 -g -m manual -b 127.0.0.1:0", "einhorn fd");
    assert_eq!(daemon.workers().len(), 2);
    let before = facts::open_fds(daemon.real_pid()).len();
    for _ in 0..3 {
        let verdict = daemon.reload();
        assert!(verdict.contains("is live"), "{verdict}");
    }
    daemon.wait_until("two workers, and no descriptor left over", || {
        daemon.workers().len() == 2 && facts::open_fds(daemon.real_pid()).len() <= before
    });
}

#[test]
fn a_worker_that_gave_up_root_can_still_ack_over_its_connection() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    let worker = place.dir.copy_program(worker().as_ref(), "worker");
    let run = place
        .einhorn("-g -m manual")
        .args(&[&worker, "einhorn", "drop-user"]);
    run.start().wait_until_live();
}

#[test]
fn nobody_acks_for_a_worker_but_itself() {
    let place = Place::new();
    place.next("einhorn never");
    let daemon = place.run("-m manual").start();
    let pid = daemon.worker_that_said("up");
    for ack in [
        format!("{{\"command\":\"worker:ack\",\"pid\":{pid}}}"),
        format!("---%0Acommand: worker:ack%0Apid: {pid}%0A"),
        "{\"command\":\"worker:ack\",\"pid\":\"12\"}".to_owned(),
    ] {
        let mut client = place.client();
        client.send(&ack);
        assert_eq!(client.read(), None, "the connection is closed");
    }
    assert_eq!(daemon.count("is ready"), 0);
    place.next(&format!("einhorn for {pid}"));
    let mut client = place.client();
    client.order("set_workers", &["2"]);
    daemon.wait_for_line("neither that worker nor its descendant");
    assert_eq!(daemon.count("is ready"), 0);
}

// ---- files ----

#[test]
fn the_files_are_where_einhorns_are_and_as_einhorns_are() {
    let dir = TempDir::new();
    let daemon = Run::bare()
        .args(&["einhorn", "-c", "web", "-m", "0", "sleep", "60"])
        .env("TMPDIR", dir.path())
        .start();
    daemon.wait_until_live();
    assert_eq!(
        dir.names(),
        ["einhorn-web.lock", "einhorn-web.pid", "einhorn-web.sock"]
    );
    let pid = fs::read_to_string(dir.join("einhorn-web.pid")).expect("it is there");
    assert_eq!(pid, daemon.real_pid().to_string());
    let lock = fs::metadata(dir.join("einhorn-web.lock")).expect("it is there");
    assert_eq!((lock.len(), lock.mode() & 0o777), (0, 0o600));
    // Not held: another einhorn's start fails at the socket.
    assert_eq!(daemon.stop(), 0);
    assert_eq!(dir.names(), ["einhorn-web.lock"]);
}

#[test]
fn a_losing_second_start_takes_nothing_from_the_first() {
    let place = Place::new();
    let daemon = place.live("-b 127.0.0.1:0", "einhorn at-once");
    let second = place.run("-b 127.0.0.1:0").output();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("in use"), "{second:?}");
    let pid = fs::read_to_string(place.dir.join("pid")).expect("it is still there");
    assert_eq!(pid, daemon.real_pid().to_string());
    assert!(place.client().ask("help", &[]).contains("upgrade_fleet"));
    daemon.address().get().expect("it serves");
}

#[test]
fn a_start_that_fails_later_leaves_nothing_behind() {
    let place = Place::new();
    let blocked = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = blocked.local_addr().expect("it is bound").port();
    let output = place
        .einhorn(&format!("-b 127.0.0.1:{port} sleep 60"))
        .output();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.dir.names(), ["lock"]);
}

#[test]
fn a_stale_socket_is_taken_over_and_a_file_is_not() {
    let place = Place::new();
    drop(UnixListener::bind(place.dir.join("sock")).expect("the directory is ours"));
    let daemon = place.live("", "einhorn at-once");
    place.client();
    assert_eq!(daemon.stop(), 0);
    place.dir.write("sock", "a letter");
    let output = place.run("").output();
    assert_eq!(output.status.code(), Some(1));
    let kept = fs::read_to_string(place.dir.join("sock")).expect("it is still there");
    assert_eq!(kept, "a letter");
}

#[test]
fn somebody_elses_pid_file_survives_us() {
    let place = Place::new();
    let daemon = place.live("", "einhorn at-once");
    place.dir.write("pid", "1");
    assert_eq!(daemon.stop(), 0);
    let kept = fs::read_to_string(place.dir.join("pid")).expect("it is still there");
    assert_eq!(kept, "1");
}

#[test]
fn other_users_may_ask_and_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    place.next("einhorn at-once");
    let daemon = place.run("-m 0").after_shell("umask 0").start();
    daemon.wait_until_live();
    let mode = fs::metadata(place.socket())
        .expect("it is there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o777);
    let program = place.dir.copy_program(SOCKETMASTER.as_ref(), "einhornsh");
    let shell = |command: &str| {
        let words = ["--reuid", "65534", "--clear-groups", &program];
        let mut setpriv = Command::new("setpriv");
        setpriv
            .args(words)
            .args(["-d", &place.socket(), "-e", command]);
        text(&setpriv.output().expect("setpriv is there").stdout)
    };
    assert!(shell("help").contains("upgrade_fleet"));
    assert!(shell("state").contains(":children:"));
    for changing in [
        "inc",
        "upgrade",
        "die",
        "signal KILL",
        "config ':verbosity: 0'",
    ] {
        assert!(
            shell(changing).starts_with("You may only ask"),
            "{changing}"
        );
    }
    assert_eq!(daemon.workers().len(), 1);
    assert_eq!(daemon.count("reload"), 0);
}

#[test]
fn the_usual_umask_keeps_other_users_out() {
    let place = Place::new();
    place.next("einhorn at-once");
    let daemon = place.run("-m 0").after_shell("umask 022").start();
    daemon.wait_until_live();
    let mode = fs::metadata(place.socket())
        .expect("it is there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o755);
}

// ---- requests ----

#[test]
fn the_commands_answer_as_einhorns_do() {
    let place = Place::new();
    let daemon = place.live("-n 2 -m 0 -c demo", "einhorn never");
    daemon.wait_for_count("] up", 2);
    let mut client = place.client();
    client.send("{\"command\":\"ehlo\",\"user\":\"root\"}");
    let answer = client.read().expect("an answer");
    let welcome = format!(
        "Welcome, root! You are speaking to Einhorn Master Process {} (demo).\n",
        daemon.real_pid()
    );
    let message = answer["message"].as_str().expect("it has one");
    assert!(message.starts_with(&welcome), "{message}");
    assert_eq!(answer.get("request_id"), None);
    for (command, args, expected) in [
        ("inc", &[][..], "Incrementing number of workers from 2 -> 3"),
        ("dec", &[], "Decrementing number of workers from 3 -> 2"),
        ("quieter", &[], "Verbosity set to 2"),
        ("quieter", &[], "Verbosity set to 2"),
        ("louder", &[], "Verbosity set to 1"),
        ("set_workers", &["2"], ""),
        (
            "set_workers",
            &["0"],
            "Invalid count: '0'. Must be an integer in [1,1000).",
        ),
        (
            "set_workers",
            &["3"],
            "Altering worker count, 2 -> 3. Will spin up additional workers.",
        ),
        ("signal", &[], ""),
        ("signal", &["sigcont", "CONT"], "\n"),
        ("signal", &["BOGUS"], "Invalid signal: \"BOGUS\""),
        ("reload", &[], "Reloading, as commanded"),
        (
            "config",
            &[":verbosity: 1"],
            "Successfully merged in config: {:verbosity=>1}",
        ),
    ] {
        assert_eq!(client.ask(command, args), expected, "{command} {args:?}");
    }
    daemon.wait_for_line("] up, index 2");
    assert!(
        client
            .ask("nonsense", &[])
            .starts_with("Unrecognized command: \"nonsense\"\n\n")
    );
    assert_eq!(client.ask("die", &[]), "Einhorn is going down! ");
    assert_eq!(daemon.exit_code(), 0);
    assert_eq!(
        client.read(),
        None,
        "the end of the master is the end of the line"
    );
    assert_eq!(
        daemon.count(&format!("asked by signal {}", libc::SIGUSR2)),
        3
    );
}

#[test]
fn die_sends_the_signal_that_it_is_told() {
    let place = Place::new();
    let daemon = place.live("-m 0", "einhorn never");
    daemon.worker_that_said("up");
    assert_eq!(
        place.client().ask("die", &["SIGTERM"]),
        "Einhorn is going down! "
    );
    assert_eq!(daemon.exit_code(), 0);
    assert_eq!(
        daemon.count(&format!("asked by signal {}", libc::SIGTERM)),
        1
    );
}

/// Each of these ended a real einhorn.
#[test]
fn no_request_can_end_the_master() {
    let place = Place::new();
    let daemon = place.live("-m 0 -b 127.0.0.1:0", "einhorn at-once");
    let deep = format!("{{\"id\":{}{}}}", "[".repeat(60_000), "]".repeat(2));
    let bomb = "a: &a [x,x,x,x]%0Ab: &b [*a,*a,*a,*a]%0Ac: [*b,*b,*b,*b]%0Acommand: help";
    for line in [
        "---%0Aid: 2024-01-01%0Acommand: help%0A",
        "---%0Aid: 2024-01-01 00:00:00.5 +01:00%0Acommand: inc%0Aargs: []%0A",
        "--- !ruby/object:Object {}%0A",
        "---%0Acommand: !ruby/regexp /x/%0A",
        "--- &a%0Acommand: help%0Aid: *a%0A",
        bomb,
        &deep,
        "---%0Aid: \"\u{e9}\u{1f600}\u{85}\"%0Acommand: \"\u{e9}\"%0A",
        "%",
        "%0",
        "%0A%0A",
        "- a%0A- b%0A",
        "{\"command\":\"config\",\"args\":[\":pidfile: /etc/passwd\"]}",
        "{\"command\":\"config\",\"args\":[\"--- !ruby/object:Gem::Installer {}\"]}",
        "{\"command\":{\"a\":1},\"args\":{\"b\":2},\"pid\":[],\"user\":[1]}",
        "\u{0}\u{1}\u{7f}",
        "",
    ] {
        let mut client = place.client();
        client.send(line);
        client.read();
    }
    let raw = |bytes: &[u8]| {
        use std::io::Write;
        let mut stream = UnixStream::connect(place.socket()).expect("it accepts");
        let _ = stream.write_all(bytes);
    };
    raw(&[0xff; 1000]);
    raw(b"\xc3\n");
    assert!(place.client().ask("help", &[]).contains("upgrade"));
    daemon.address().get().expect("it serves");
    assert_eq!(daemon.workers().len(), 1);
}

// ---- what else goes on ----

#[test]
fn a_worker_that_crashes_is_started_again_ever_more_slowly() {
    let place = Place::new();
    place.next("exit 3");
    let daemon = place.run("-s 0.2 -m 1").start();
    daemon.wait_for_count("exit status 3", 4);
    assert_eq!(place.client().ask("die", &[]), "Einhorn is going down! ");
    assert_eq!(daemon.exit_code(), 0, "what was asked to stop has stopped");
}

#[test]
fn with_k_workers_are_asked_to_leave_when_the_master_is_killed() {
    let place = Place::new();
    let daemon = place.live("-k -n 2 -m 0", "einhorn never");
    for _ in 0..2 {
        daemon.wait_for_count("] up", 2);
    }
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit();
    daemon.wait_for_count(&format!("asked by signal {}", libc::SIGUSR2), 2);
    daemon.wait_for_log_end();
}

#[test]
fn a_worker_that_does_not_leave_in_time_is_killed() {
    let place = Place::new();
    place.next("ignore-term");
    let daemon = place.run("-t 1 -m 0").start();
    daemon.wait_until_live();
    let pid = daemon.workers()[0];
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is there");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("SIGKILL");
    assert_eq!(daemon.exit_code(), 0);
}
