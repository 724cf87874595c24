//! Names that others may replace: nobody gets a right, a file or our service by them.

mod common;

use common::attacker::{Attacker, STRANGER};
use common::{Daemon, Run, TempDir, example, facts, worker};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::{Duration, Instant};

/// How long a race is run: a by-hand run may give it more.
fn race() -> Duration {
    let seconds = std::env::var("SOCKETMASTER_RACE_SECONDS").unwrap_or_default();
    Duration::from_secs(seconds.parse().unwrap_or(2))
}

/// A directory below it that the stranger owns.
fn folder_of_the_stranger(dir: &TempDir) -> String {
    let folder = dir.join("theirs");
    fs::create_dir(&folder).expect("the directory is ours");
    chown(&folder, Some(STRANGER), Some(STRANGER)).expect("we are root");
    dir.word("theirs")
}

/// A file of root's that nobody else may read or write.
fn victim(dir: &TempDir) -> std::path::PathBuf {
    let victim = dir.write("victim", "precious");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("it is ours");
    victim
}

fn is_untouched(victim: &std::path::Path) {
    let found = fs::metadata(victim).expect("it is there");
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
    assert_eq!(fs::read_to_string(victim).expect("it is ours"), "precious");
}

fn ends_well(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
}

#[test]
fn a_workers_user_cannot_make_root_chmod_or_chown_a_file_through_the_sockets_path() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let folder = folder_of_the_stranger(&dir);
    let victim = victim(&dir);
    let uri = format!("-listen=unix://{folder}/s?mode=0666&owner={STRANGER}");
    let daemon = Run::bare()
        .args(&[&uri, "-start=0", &format!("-command={}", worker()), "up"])
        .start();
    daemon.worker_that_said("up");
    let words = [
        "swap",
        &format!("{folder}/s"),
        &victim.display().to_string(),
    ];
    let attacker = Attacker::start(&dir, &words);
    daemon.stays_up_for(race());
    drop(attacker);
    is_untouched(&victim);
    // What it left at the path is not ours to remove.
    let _ = fs::remove_file(format!("{folder}/s"));
    daemon.wait_until("an answer", || daemon.address().connect().is_ok());
    ends_well(&daemon);
    is_untouched(&victim);
}

#[test]
fn where_nothing_proves_which_file_is_ours_nobody_is_made_its_owner() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let folder = folder_of_the_stranger(&dir);
    let run = |path: &str| {
        Run::bare()
            .through(&[&worker(), "without-netlink"])
            .arg(format!("-listen=unix://{path}?mode=0660&owner={STRANGER}"))
            .args(&["-start=0", &format!("-command={}", worker()), "http"])
    };
    let output = run(&format!("{folder}/s")).output();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let said = log.lines().filter(|line| line.contains("AF_NETLINK"));
    assert_eq!(said.count(), 1, "{log}");
    let left = fs::read_dir(&folder).expect("it is there").count();
    assert_eq!(left, 0, "{log}");
    // In a directory of ours the name is the proof.
    let daemon = run(&dir.word("s")).start();
    daemon.worker_that_said("up");
    let found = fs::metadata(dir.join("s")).expect("it is bound");
    assert_eq!((found.uid(), found.mode() & 0o777), (STRANGER, 0o660));
    ends_well(&daemon);
}

#[test]
fn a_pid_file_is_not_written_through_a_link_nor_into_a_file_that_another_user_made() {
    if !common::root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    let victim = victim(&dir);
    symlink(&victim, dir.join("link")).expect("the directory is ours");
    fs::hard_link(&victim, dir.join("hard")).expect("the directory is ours");
    let theirs = dir.write("theirs", "1\n");
    chown(&theirs, Some(STRANGER), None).expect("we are root");
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("it is ours");
    for (name, reason) in [
        ("link", "it is a symbolic link"),
        ("hard", "it has 2 names"),
        ("theirs", "it belongs to user 65534"),
        ("fifo", "it is a FIFO"),
    ] {
        let pidfile = format!("-pidfile={}", dir.word(name));
        let einhorn = ["einhorn", "-d", &dir.word("sock"), "-f", &dir.word("lock")];
        let runs = [
            Run::worker(&[&pidfile], &["up"]),
            Run::bare()
                .args(&einhorn)
                .args(&["-e", &dir.word(name), &worker(), "up"]),
            Run::bare()
                .args(&["einhorn", "-d", &dir.word("sock"), "-e", &dir.word("pid")])
                .args(&["-f", &dir.word(name), &worker(), "up"]),
        ];
        for run in runs {
            let output = run.output();
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{log}");
            let said = log.lines().filter(|line| line.contains(reason));
            let said: Vec<&str> = said.filter(|line| line.contains(&dir.word(name))).collect();
            assert_eq!(said.len(), 1, "{name}: {log}");
        }
    }
    assert_eq!(fs::read_to_string(&theirs).expect("it is there"), "1\n");
    fs::remove_file(dir.join("hard")).expect("the directory is ours");
    is_untouched(&victim);
}

#[test]
fn a_reader_of_the_pid_file_cannot_keep_us_from_starting() {
    let dir = TempDir::new();
    let pidfile = format!("-pidfile={}", dir.word("pid"));
    let first = Run::worker(&["-start=0", &pidfile], &["up"]).start();
    first.worker_that_said("up");
    let reader = fs::File::open(dir.join("pid")).expect("everybody may read it");
    let flag = nix::fcntl::FlockArg::LockExclusive;
    let held = nix::fcntl::Flock::lock(reader, flag).expect("everybody may");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let second = Run::worker(&["-start=0", &pidfile], &["up"]).start();
    second.worker_that_said("up");
    drop(held);
    ends_well(&second);
    assert!(!dir.join("pid").exists());
}

#[test]
fn of_two_that_start_at_once_on_one_path_exactly_one_serves() {
    let dir = TempDir::new();
    for round in 0..10 {
        let path = dir.word(&format!("s{round}"));
        // A stale socket there makes the race harder.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("the directory is ours"));
        let start = || {
            Run::bare()
                .args(&[&format!("-listen=unix://{path}"), "-start=0"])
                .args(&[&format!("-command={}", worker()), "http"])
                .start()
        };
        let both: Vec<Daemon> = (0..4).map(|_| start()).collect();
        let decided = |daemon: &Daemon| {
            daemon.exit_status().is_some() || daemon.count("is live") + daemon.count(": live") > 0
        };
        both[0].wait_until("all to be decided", || both.iter().all(decided));
        let (losers, winners): (Vec<&Daemon>, Vec<&Daemon>) = both
            .iter()
            .partition(|daemon| daemon.exit_status().is_some());
        assert_eq!(winners.len(), 1, "{}", both[0].log());
        for loser in losers {
            assert_eq!(loser.exit_code(), 1);
            assert!(loser.log().contains("in use"), "{}", loser.log());
        }
        let winner = winners[0];
        let answering = winner.address().answering_pid();
        assert!(winner.workers().contains(&answering), "{}", winner.log());
        ends_well(winner);
    }
    assert_eq!(dir.names(), [""; 0]);
}

#[test]
fn a_worker_that_shuts_the_socket_down_in_a_loop_makes_few_lines_and_little_work() {
    let attacker = example("attacker").display().to_string();
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0"])
        .args(&[&format!("-command={attacker}"), "shutdown"])
        .start();
    daemon.worker_that_said("up");
    daemon.wait_for_line("listening again");
    let (lines, reads) = (daemon.count(""), facts::switches(daemon.real_pid()));
    daemon.stays_up_for(Duration::from_secs(3));
    let lines = daemon.count("") - lines;
    assert!(lines <= 8, "{lines} lines in 3 s: {}", daemon.log());
    let woken = facts::switches(daemon.real_pid()) - reads;
    assert!(woken < 3000, "woken {woken} times in 3 s");
    ends_well(&daemon);
}

#[test]
fn a_socket_that_is_renamed_away_again_and_again_costs_one_watch() {
    let dir = TempDir::new();
    let path = dir.word("s");
    let daemon = Run::bare()
        .args(&[&format!("-listen=unix://{path}"), "-start=0"])
        .args(&[&format!("-command={}", worker()), "http"])
        .start();
    daemon.worker_that_said("up");
    let watches = || {
        let pid = daemon.real_pid();
        let fds = facts::open_fds(pid);
        let inotify = fds.iter().find(|(_, what)| what.contains("inotify"));
        let number = inotify.expect("the guard watches").0;
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        let info = info.expect("it lives");
        info.lines()
            .filter(|line| line.starts_with("inotify "))
            .count()
    };
    let inode = |path: &std::path::Path| fs::metadata(path).map(|found| found.ino()).ok();
    for round in 1..=20 {
        let kept = dir.join(&format!("kept-{round}"));
        fs::hard_link(&path, &kept).expect("the directory is ours");
        // Whenever it is linked back, it goes again, until another socket stands there.
        daemon.wait_until("another socket", || {
            let there = inode(path.as_ref());
            if there.is_none() || there == inode(&kept) {
                let own = |name: &String| name.starts_with(".s.") || name == "s";
                for name in dir.names().iter().filter(|name| own(name)) {
                    let _ = fs::remove_file(dir.join(name));
                }
                return false;
            }
            true
        });
    }
    assert!(watches() <= 2, "{} watches", watches());
    ends_well(&daemon);
}

/// It serves on the path `s` in the directory.
fn serving(dir: &TempDir, flags: &[&str]) -> Run {
    Run::bare()
        .args(&[&format!("-listen=unix://{}", dir.word("s")), "-start=0"])
        .args(flags)
        .args(&[&format!("-command={}", worker()), "http"])
}

#[test]
fn who_removes_the_hidden_link_again_and_again_does_not_blind_the_guard() {
    let dir = TempDir::new();
    let daemon = serving(&dir, &[]).start();
    let pid = daemon.worker_that_said("up");
    let links = || {
        let mut names = dir.names();
        names.retain(|name| name.starts_with(".s."));
        names
    };
    for _ in 0..3 {
        // Long enough that the guard stops listening for a while, and begins again in between.
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end {
            for name in links() {
                let _ = fs::remove_file(dir.join(&name));
            }
        }
        daemon.wait_until("a hidden link", || !links().is_empty());
        fs::remove_file(dir.join("s")).expect("the directory is ours");
        daemon.wait_until("an answer", || daemon.address().connect().is_ok());
    }
    assert_eq!(daemon.workers(), [pid]);
    ends_well(&daemon);
}

#[test]
fn a_path_that_cannot_be_watched_is_looked_at_every_second() {
    for fault in [
        "inotify_init1:error=EMFILE",
        "inotify_add_watch:error=ENOSPC",
    ] {
        let dir = TempDir::new();
        let Some(run) = common::strace::injected(serving(&dir, &[]), &[fault]) else {
            return;
        };
        let daemon = run.start();
        daemon.worker_that_said("up");
        for _ in 0..2 {
            fs::remove_file(dir.join("s")).expect("the directory is ours");
            daemon.wait_until("an answer", || daemon.address().connect().is_ok());
        }
        assert_eq!(daemon.count("looking at it every second"), 1, "{fault}");
        assert_eq!(daemon.count("Starting "), 1, "{fault}");
        ends_well(&daemon);
    }
}

#[test]
fn a_directory_that_was_renamed_away_is_noticed_when_a_worker_ends() {
    let dir = TempDir::new();
    let inner = TempDir::new();
    let (path, away) = (inner.path().to_owned(), dir.join("away"));
    let daemon = serving(&inner, &["-respawn", "-workers=2"]).start();
    daemon.wait_until("two workers", || daemon.workers().len() == 2);
    let end_one = || {
        let worker = Pid::from_raw(daemon.workers()[0]);
        nix::sys::signal::kill(worker, Signal::SIGKILL).expect("it is ours");
    };
    fs::rename(&path, &away).expect("both are ours");
    end_one();
    daemon.wait_for_line("clients are refused, trying again every second");
    fs::create_dir(&path).expect("it is gone");
    daemon.wait_until("an answer", || daemon.address().connect().is_ok());
    // An old socket does not answer for the new one: each worker gets the new one.
    daemon.wait_for_line("bound anew");
    ends_well(&daemon);
    assert_eq!(inner.names(), [""; 0]);
}

/// A start on a unix path with one call that fails, and what is left in the directory.
fn failing(fault: &str) -> Option<(String, Vec<String>)> {
    let dir = TempDir::new();
    let run = Run::bare()
        .args(&[&format!("-listen=unix://{}?mode=0600", dir.word("s"))])
        .args(&[&format!("-control={}", dir.word("control")), "-start=0"])
        .args(&[&format!("-pidfile={}", dir.word("pid"))])
        .args(&[&format!("-command={}", worker()), "exit", "0"]);
    let output = common::strace::injected(run, &[fault])?.output();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Some((log, dir.names()))
}

#[test]
fn a_start_that_fails_leaves_no_path_no_hidden_link_and_no_pid_file() {
    for fault in [
        "getsockname:error=EIO:when=1",
        "getsockname:error=EIO",
        "bind:error=EACCES:when=2",
        "listen:error=EIO:when=1",
        "listen:error=EIO:when=2",
        "fchmod:error=EIO",
        "newfstatat:error=EIO:when=8",
        "newfstatat:error=EIO:when=12",
        "newfstatat:error=EIO:when=16",
        "epoll_create1:error=EMFILE",
    ] {
        let Some((log, left)) = failing(fault) else {
            return;
        };
        assert_eq!(left, [""; 0], "{fault}: {log}");
    }
}

#[test]
fn workers_that_cut_off_each_socket_that_they_get_do_not_make_us_reload_without_a_pause() {
    let dir = TempDir::new();
    let listen = format!("-listen=unix://{}", dir.join("socket").display());
    let daemon = Run::bare()
        .args(&[&listen, "-start=0", &format!("-command={}", worker())])
        .arg("shutdown")
        .start();
    daemon.wait_for_line("bound anew, reloading so that");
    // A line a second at most: some are not there.
    daemon.wait_for_line("bound anew, reloading in 4.0 s, because this goes on");
    assert_eq!(daemon.stop(), 0);
}
