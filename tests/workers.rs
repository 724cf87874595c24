//! What a worker finds: its descriptors, environment, process group, signals, limits, working
//! directory and user.

mod common;

use common::{Report, Run, TempDir, example, worker};
use nix::sys::signal::Signal;
use std::fs;
use std::process::{Command, Stdio};

const NO_FLAGS: &[&str] = &[];

fn reporting(flags: &[&str]) -> Run {
    Run::worker(flags, &["report"])
}

/// The program with a worker of shell.
fn shell(script: &str) -> Run {
    Run::bare().args(&[
        "-listen=tcp://127.0.0.1:0",
        "-command=sh",
        "--",
        "-c",
        script,
    ])
}

#[test]
fn the_first_socket_is_fd_3_and_einhorn_fds_is_exactly_3() {
    let daemon = reporting(NO_FLAGS).start();
    let report = Report::first(&daemon);
    assert_eq!(report.env("EINHORN_FDS"), Some("3"));
    assert_eq!(report.env("EINHORN_FD_COUNT"), Some("1"));
    assert_eq!(report.env("EINHORN_FD_0"), Some("3"));
    assert_eq!(report.env("EINHORN_FD_FAMILY_0"), Some("AF_INET"));
    for absent in [
        "EINHORN_MASTER_PID",
        "EINHORN_SOCK_PATH",
        "EINHORN_CHILD_INDEX",
        "LISTEN_FDS",
    ] {
        assert_eq!(report.env(absent), None, "{absent}");
    }
    assert!(report.fd(3).starts_with("socket:"), "{}", report.fd(3));
}

#[test]
fn several_sockets_are_listed_with_their_families() {
    let dir = TempDir::new();
    let unix = format!("-listen=unix://{}", dir.word("s"));
    let daemon = reporting(&[&unix, "-listen=tcp6://[::1]:0"]).start();
    let report = Report::first(&daemon);
    assert_eq!(report.env("EINHORN_FDS"), Some("3 4 5"));
    assert_eq!(report.env("EINHORN_FD_COUNT"), Some("3"));
    for (n, family) in ["AF_INET", "AF_UNIX", "AF_INET6"].into_iter().enumerate() {
        let number = (n + 3).to_string();
        assert_eq!(
            report.env(&format!("EINHORN_FD_{n}")),
            Some(number.as_str())
        );
        assert_eq!(report.env(&format!("EINHORN_FD_FAMILY_{n}")), Some(family));
    }
}

#[test]
fn what_was_meant_for_us_does_not_reach_a_worker_and_the_rest_does() {
    let daemon = reporting(NO_FLAGS)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDNAMES", "x")
        .env("LISTEN_PIDFDID", "77")
        .env("WATCHDOG_USEC", "30000000")
        .env("WATCHDOG_PID", "1")
        .env("EINHORN_FDS", "17")
        .env("EINHORN_FD_7", "17")
        .env("SERVER_STARTER_PORT", "1=1")
        .env("SERVER_STARTER_GENERATION", "9")
        .env("NGINX", "5;")
        .env("FPM_SOCKETS", "x=5")
        .env("KEPT", "as it is")
        .env("LISTENER", "kept too")
        .start();
    let report = Report::first(&daemon);
    assert_eq!(report.env("KEPT"), Some("as it is"));
    assert_eq!(report.env("LISTENER"), Some("kept too"));
    let ours = [
        "EINHORN_FDS",
        "EINHORN_FD_COUNT",
        "EINHORN_FD_0",
        "EINHORN_FD_FAMILY_0",
    ];
    let prefixes = [
        "LISTEN_",
        "NOTIFY_",
        "WATCHDOG_",
        "EINHORN_",
        "SERVER_STARTER_",
        "NGINX",
        "FPM_",
    ];
    for name in report.env_names() {
        let protocol = prefixes.iter().any(|prefix| name.starts_with(prefix));
        assert!(
            !protocol || ours.contains(&name),
            "{name} reached the worker"
        );
    }
    assert_eq!(report.env("EINHORN_FDS"), Some("3"));
}

#[test]
fn a_notify_socket_of_ours_does_not_reach_a_worker() {
    let dir = TempDir::new();
    let _manager = std::os::unix::net::UnixDatagram::bind(dir.join("n")).expect("it can be bound");
    let daemon = reporting(NO_FLAGS)
        .env("NOTIFY_SOCKET", dir.join("n"))
        .start();
    assert_eq!(Report::first(&daemon).env("NOTIFY_SOCKET"), None);
}

#[test]
fn the_environment_of_each_protocol_is_its_own() {
    let flags = ["-protocol=systemd,server-starter,nginx,php-fpm", "-start=0"];
    let daemon = reporting(&flags).start();
    let report = Report::first(&daemon);
    let port = daemon.address().port();
    assert_eq!(report.env("EINHORN_FDS"), None);
    assert_eq!(report.env("LISTEN_FDS"), Some("1"));
    assert_eq!(
        report.env("LISTEN_PID"),
        Some(report.pid.to_string().as_str())
    );
    assert!(report.env("LISTEN_FDNAMES").is_some());
    let starter = format!("127.0.0.1:{port}=3");
    assert_eq!(report.env("SERVER_STARTER_PORT"), Some(starter.as_str()));
    assert_eq!(report.env("SERVER_STARTER_GENERATION"), Some("1"));
    assert_eq!(report.env("NGINX"), Some("3;"));
    assert_eq!(report.env("FPM_SOCKETS"), Some(starter.as_str()));
    daemon.reload();
    let second = Report::number(&daemon, 1);
    assert_eq!(
        second.env("LISTEN_PID"),
        Some(second.pid.to_string().as_str())
    );
    assert_eq!(second.env("SERVER_STARTER_GENERATION"), Some("2"));
}

#[test]
fn a_socket_s_names_are_those_given_with_it() {
    let flags = [
        "-protocol=systemd,php-fpm",
        "-listen=tcp://127.0.0.1:0?name=api&fpm=pool",
    ];
    let daemon = reporting(&flags).start();
    let report = Report::first(&daemon);
    assert_eq!(report.env("LISTEN_FDS"), Some("2"));
    let names = report.env("LISTEN_FDNAMES").expect("the names");
    assert!(names.ends_with(":api"), "{names}");
    let pools = report.env("FPM_SOCKETS").expect("the pools");
    assert!(pools.ends_with(",pool=4"), "{pools}");
}

#[test]
fn started_with_many_descriptors_open_none_of_them_reaches_a_worker() {
    let dir = TempDir::new();
    let unix = format!("-listen=unix://{}", dir.word("s"));
    let open = "for n in $(seq 3 20); do eval \"exec $n</dev/null\"; done";
    let script = format!("{open}; exec \"$@\"");
    let daemon = reporting(&[&unix])
        .through(&["bash", "-c", &script, "sh"])
        .start();
    for n in 0..2 {
        let report = Report::number(&daemon, n);
        assert_eq!(report.fd_numbers(), [0, 1, 2, 3, 4]);
        for fd in [3, 4] {
            assert!(
                report.fd(fd).contains("listening=true"),
                "{fd}: {}",
                report.fd(fd)
            );
        }
        if n == 0 {
            daemon.signal(Signal::SIGHUP);
        }
    }
}

#[test]
fn started_with_stdin_stdout_and_stderr_closed_the_sockets_are_still_at_3() {
    let dir = TempDir::new();
    let out = dir.word("out");
    let script = format!(
        "cat /proc/self/status > {out}.d; ls -l /proc/self/fd > {out}.l; mv {out}.l {out}; exec sleep 60"
    );
    let daemon = shell(&script).after_shell("exec 0<&- 1>&- 2>&-").start();
    daemon.wait_until("the worker's list of descriptors", || {
        dir.join("out").exists()
    });
    let list = fs::read_to_string(dir.join("out")).expect("it is there");
    assert!(
        list.lines().any(|line| line.contains(" 3 -> socket:")),
        "{list}"
    );
    let sockets = list.lines().filter(|line| line.contains("socket:")).count();
    assert_eq!(sockets, 1, "{list}");
}

#[test]
fn stdout_and_stderr_are_the_same_pipe() {
    let daemon = reporting(NO_FLAGS).start();
    let report = Report::first(&daemon);
    assert!(report.fd(1).starts_with("pipe:"), "{}", report.fd(1));
    assert_eq!(report.fd(1), report.fd(2));
    assert!(report.fd(1).contains("nonblock=false"), "{}", report.fd(1));
}

#[test]
fn stdin_is_ours() {
    let dir = TempDir::new();
    let file = fs::File::open(dir.write("input", "hello")).expect("it is there");
    let daemon = reporting(NO_FLAGS).stdin(Stdio::from(file)).start();
    assert!(Report::first(&daemon).fd(0).starts_with(&dir.word("input")));
}

#[test]
fn a_worker_leads_a_process_group_and_a_session_of_its_own() {
    let daemon = reporting(NO_FLAGS).start();
    let report = Report::first(&daemon);
    assert_eq!(report.fact("pgid"), report.pid.to_string());
    assert_eq!(report.fact("ppid"), daemon.pid().to_string());
    assert_eq!(report.fact("sid"), report.pid.to_string());
}

#[test]
fn signals_are_clean_in_a_worker_whatever_we_were_started_with() {
    let worker = example("worker");
    let status = "grep -E '^Sig(Blk|Ign):' /proc/self/status; exec sleep 60";
    for wrapped in [false, true] {
        let run = shell(status);
        let run = if wrapped {
            run.through(&[worker.as_os_str(), "with-signals".as_ref()])
        } else {
            run
        };
        let daemon = run.start();
        for set in ["SigBlk:", "SigIgn:"] {
            let line = daemon.wait_for_line(set);
            assert!(
                line.ends_with("0000000000000000"),
                "started so: {wrapped}: {line}"
            );
        }
    }
}

#[test]
fn started_with_all_signals_blocked_and_ignored_we_still_obey() {
    let worker = example("worker");
    let daemon = Run::worker(&["-start=0"], &["up"])
        .through(&[worker.as_os_str(), "with-signals".as_ref()])
        .start();
    let first = daemon.worker_that_said("up");
    daemon.reload();
    daemon.wait_until("another worker", || {
        daemon.workers().iter().all(|pid| *pid != first)
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn umask_and_limits_are_those_we_were_started_with() {
    let daemon = reporting(NO_FLAGS)
        .after_shell("umask 0137; ulimit -Sn 200")
        .start();
    let report = Report::first(&daemon);
    assert_eq!(report.fact("Umask"), "0137");
    assert_eq!(report.fact("nofile").split(' ').next(), Some("200"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("proc(5)");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        words[3], words[4],
        "our own soft limit is raised to the hard one"
    );
}

#[test]
fn the_working_directory_is_ours() {
    let dir = TempDir::new();
    let daemon = reporting(NO_FLAGS).dir(dir.path()).start();
    assert_eq!(
        Report::first(&daemon).fact("cwd"),
        dir.path().display().to_string()
    );
}

#[test]
fn a_relative_command_follows_a_current_symlink_that_is_flipped() {
    let dir = TempDir::new();
    for release in ["one", "two"] {
        fs::create_dir_all(dir.join(release).join("bin")).expect("the directory is ours");
        dir.link(&format!("{release}/bin/server"), example("server"));
        fs::write(dir.join(release).join("VERSION"), release).expect("the directory is ours");
    }
    dir.link("current", "one");
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-command=bin/server",
        ])
        .dir(&dir.join("current"))
        .start();
    daemon.worker_that_said("version one");
    dir.link("current", "two");
    daemon.reload();
    daemon.worker_that_said("version two");
    daemon.wait_until("the second version to answer alone", || {
        daemon
            .address()
            .get()
            .is_ok_and(|body| body.contains("version two"))
    });
}

#[test]
fn an_absolute_command_follows_a_current_symlink_that_is_flipped() {
    let dir = TempDir::new();
    for release in ["one", "two"] {
        fs::create_dir(dir.join(release)).expect("the directory is ours");
        dir.link(&format!("{release}/w"), worker());
    }
    dir.link("current", "one");
    let command = format!("-command={}", dir.word("current/w"));
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", &command, "report"])
        .start();
    assert_eq!(Report::first(&daemon).argv()[0], dir.word("current/w"));
    fs::remove_dir_all(dir.join("one")).expect("the directory is ours");
    dir.link("current", "two");
    daemon.reload();
    Report::number(&daemon, 1);
}

#[test]
fn a_pwd_that_named_another_directory_is_not_believed() {
    let (dir, other) = (TempDir::new(), TempDir::new());
    let daemon = reporting(NO_FLAGS)
        .dir(dir.path())
        .env("PWD", other.path())
        .start();
    assert_eq!(
        Report::first(&daemon).fact("cwd"),
        dir.path().display().to_string()
    );
}

/// A user of this system that is not root and is in a supplementary group: name, uid, gid, home
/// and that group's number.
fn user_with_group() -> Option<(String, String, String, String, String)> {
    let read = |database: &str| {
        let output = Command::new("getent").arg(database).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let (groups, users) = (read("group")?, read("passwd")?);
    groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let member = fields
            .get(3)?
            .split(',')
            .find(|name| !name.is_empty() && *name != "root")?;
        let user = users
            .lines()
            .find(|line| line.split(':').next() == Some(member))?;
        let user: Vec<String> = user.split(':').map(str::to_owned).collect();
        (user[3] != fields[2]).then(|| {
            (
                user[0].clone(),
                user[2].clone(),
                user[3].clone(),
                user[5].clone(),
                fields[2].to_owned(),
            )
        })
    })
}

/// The worker where every user can run it, reporting, with these flags.
fn reporting_as(dir: &TempDir, flags: &[&str]) -> Run {
    let command = dir.copy_program(&example("worker"), "worker");
    Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0"])
        .args(flags)
        .arg(format!("-command={command}"))
        .dir(dir.path())
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LOGNAME", "root")
        .arg("report")
}

#[test]
fn a_user_gets_its_uid_gid_supplementary_groups_and_home() {
    if !common::root_or_skip() {
        return;
    }
    let Some((name, uid, gid, home, group)) = user_with_group() else {
        return common::skip("no user here is in a supplementary group");
    };
    let dir = TempDir::new();
    let daemon = reporting_as(&dir, &[&format!("-user={name}")]).start();
    let report = Report::first(&daemon);
    assert_eq!(report.fact("Uid"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(report.fact("Gid"), format!("{gid} {gid} {gid} {gid}"));
    let groups: Vec<&str> = report.fact("Groups").split(' ').collect();
    assert!(
        groups.contains(&group.as_str()),
        "{group} is not in {groups:?}"
    );
    assert!(!groups.contains(&"0"), "root's group stayed: {groups:?}");
    assert_eq!(report.env("HOME"), Some(home.as_str()));
    assert_eq!(report.env("USER"), Some(name.as_str()));
    assert_eq!(report.env("LOGNAME"), Some(name.as_str()));
    // The same by number.
    let daemon = reporting_as(&dir, &[&format!("-user={uid}")]).start();
    let report = Report::first(&daemon);
    assert_eq!(report.env("USER"), Some(name.as_str()));
    assert!(
        report
            .fact("Groups")
            .split(' ')
            .any(|number| number == group)
    );
}

#[test]
fn a_group_can_be_given_with_the_user() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let daemon = reporting_as(&dir, &["-user=nobody:1234"]).start();
    let report = Report::first(&daemon);
    assert_eq!(report.fact("Uid"), "65534 65534 65534 65534");
    assert_eq!(report.fact("Gid"), "1234 1234 1234 1234");
}

#[test]
fn a_user_without_an_entry_can_be_given_by_number_with_a_group() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let daemon = reporting_as(&dir, &["-user=54321:54322"]).start();
    let report = Report::first(&daemon);
    assert_eq!(report.fact("Uid"), "54321 54321 54321 54321");
    assert_eq!(report.fact("Gid"), "54322 54322 54322 54322");
    assert!(!report.fact("Groups").split(' ').any(|number| number == "0"));
}

#[test]
fn a_worker_of_another_user_can_open_its_stdout_again() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let command = dir.copy_program(&example("worker"), "worker");
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-user=nobody",
            &format!("-command={command}"),
        ])
        .arg("open-stdout")
        .start();
    daemon.wait_for_line("] opened stdout");
}

#[test]
fn only_root_can_change_the_user_and_the_error_names_the_step() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let program = dir.copy_program(common::SOCKETMASTER.as_ref(), "socketmaster");
    let command = dir.copy_program(&example("worker"), "worker");
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            &program,
            "-user=root",
        ])
        .args([
            "-listen=tcp://127.0.0.1:0",
            &format!("-command={command}"),
            "up",
        ])
        .output();
    let Ok(output) = output else {
        return common::skip("no setpriv");
    };
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("root"), "{log}");
}

#[test]
fn an_unknown_group_is_an_error_at_start() {
    let output = reporting(&["-user=nobody:no-such-group-here"]).output();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("no-such-group-here"), "{log}");
}

#[test]
fn a_flipped_link_is_followed_by_the_name_that_chdir_gives() {
    let dir = TempDir::new();
    for release in ["1", "2"] {
        fs::create_dir(dir.join(release)).expect("it is ours");
    }
    let current = dir.join("current");
    let lead_to = |release: &str| {
        let _ = fs::remove_file(&current);
        std::os::unix::fs::symlink(dir.join(release), &current).expect("it is ours");
    };
    lead_to("1");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0"])
        .arg(format!("-chdir={}", current.display()))
        .args(&["-command=sh", "--", "-c", "pwd -P; exec sleep 60"])
        .env("PWD", "/")
        .start();
    daemon.wait_for_line(&format!("] {}", dir.word("1")));
    lead_to("2");
    daemon.reload();
    daemon.wait_for_line(&format!("] {}", dir.word("2")));
    fs::remove_file(&current).expect("it is there");
    let verdict = daemon.reload();
    let reason = format!("entering {}: No such file or directory", current.display());
    assert!(verdict.contains("rolled back"), "{verdict}");
    assert!(verdict.contains(&reason), "{verdict}");
}

#[test]
fn a_working_directory_that_was_removed_is_named() {
    let dir = TempDir::new();
    let gone = dir.join("gone");
    fs::create_dir(&gone).expect("it is ours");
    let daemon = Run::worker(&["-start=0"], &["up"])
        .dir(&gone)
        .env("PWD", &gone)
        .start();
    daemon.wait_until_live();
    fs::remove_dir(&gone).expect("it is empty");
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    let named = format!("the working directory {} was removed", gone.display());
    assert_eq!(daemon.count(&named), 1, "{}", daemon.log());
}
