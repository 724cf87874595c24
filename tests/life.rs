//! Reload, rollback, stop and exit status: the life of generations, through the real program.

mod common;

use common::{Daemon, Run, TempDir, example, facts, worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// A "deploy" is what the file says that the next worker does.
struct Deploys {
    dir: TempDir,
}

impl Deploys {
    fn of(behaviour: &str) -> Deploys {
        let deploys = Deploys {
            dir: TempDir::new(),
        };
        deploys.next(behaviour);
        deploys
    }

    fn next(&self, behaviour: &str) {
        self.dir.write("behaviour", behaviour);
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        self.run(flags).start()
    }

    fn run(&self, flags: &[&str]) -> Run {
        Run::worker(flags, &["from", &self.dir.word("behaviour")])
    }
}

/// The only worker, once it is up.
fn first_worker(daemon: &Daemon) -> i32 {
    let pid = daemon.worker_that_said("up");
    daemon.wait_until_live();
    pid
}

fn signal_worker(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the worker is there");
}

/// Waits until the only living worker is another than these; its pid.
fn another_worker(daemon: &Daemon, known: &[i32]) -> i32 {
    daemon.wait_for("another worker alone", || match daemon.workers()[..] {
        [pid] if !known.contains(&pid) => Some(pid),
        _ => None,
    })
}

#[test]
fn a_reload_starts_a_new_worker_waits_and_then_asks_the_old_one_to_stop() {
    let daemon = Run::worker(&["-start=600"], &["drain", "/dev/null"]).start();
    let old = first_worker(&daemon);
    let verdict = daemon.reload();
    assert!(
        verdict.contains("reload 2") && verdict.contains("is live"),
        "{verdict}"
    );
    let new = another_worker(&daemon, &[old]);
    daemon.wait_for_line(&format!("[{old}] draining"));
    daemon.wait_for_line(&format!("{old} exit status 0"));
    let log = daemon.log();
    let verdict = log.find(&verdict).expect("it was read from there");
    let draining = log
        .find(&format!("[{old}] draining"))
        .expect("it was waited for");
    assert!(
        log.find(&format!("[{new}] up"))
            .is_some_and(|up| up < draining)
    );
    assert!(
        verdict
            < log
                .find(&format!("{old} exit status 0"))
                .expect("it was waited for")
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn with_start_0_the_old_worker_is_asked_at_once() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    let old = daemon.worker_that_said("up");
    daemon.reload();
    another_worker(&daemon, &[old]);
    daemon.wait_for_line(&format!("{old} signal: terminated"));
}

#[test]
fn term_in_the_start_wait_is_obeyed_at_once() {
    let daemon = Run::worker(&["-start=2000"], &["up"]).start();
    daemon.worker_that_said("up");
    daemon.stays_up_for(Duration::from_millis(200));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(daemon.count(": live"), 0, "it waited for readiness first");
}

#[test]
fn term_in_the_start_wait_of_a_reload_wins_and_the_verdict_says_abandoned() {
    let daemon = Run::worker(&["-start=2000"], &["up"]).start();
    let old = first_worker(&daemon);
    let mark = daemon.mark();
    daemon.signal(Signal::SIGHUP);
    let new = daemon.wait_for("the second worker", || {
        daemon.workers().into_iter().find(|pid| *pid != old)
    });
    daemon.stays_up_for(Duration::from_millis(200));
    assert_eq!(daemon.stop(), 0);
    let verdict = daemon.verdict_after(mark);
    assert!(verdict.contains("abandoned"), "{verdict}");
    for pid in [old, new] {
        assert_eq!(
            daemon.count(&format!("{pid} signal: terminated")),
            1,
            "worker {pid}"
        );
    }
}

#[test]
fn three_hups_50_ms_apart_make_exactly_two_further_generations() {
    let daemon = Run::worker(&["-start=1000"], &["up"]).start();
    first_worker(&daemon);
    for _ in 0..3 {
        daemon.signal(Signal::SIGHUP);
        daemon.stays_up_for(Duration::from_millis(50));
    }
    daemon.wait_until("two verdicts", || daemon.verdicts() == 2);
    daemon.stays_up_for(Duration::from_millis(1500));
    assert_eq!(daemon.count("Starting "), 3);
    assert_eq!(daemon.verdicts(), 2);
    daemon.wait_until("one worker", || daemon.workers().len() == 1);
}

#[test]
fn a_hup_before_the_first_generation_is_live_is_not_lost() {
    let daemon = Run::worker(&["-start=500"], &["up"]).start();
    let old = daemon.worker_that_said("up");
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    another_worker(&daemon, &[old]);
    assert_eq!(daemon.count("Starting "), 2);
}

#[test]
fn sigusr2_reloads_as_well() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    let old = daemon.worker_that_said("up");
    let mark = daemon.mark();
    daemon.signal(Signal::SIGUSR2);
    daemon.verdict_after(mark);
    another_worker(&daemon, &[old]);
}

#[test]
fn a_new_worker_that_fails_is_rolled_back_at_once_and_the_old_one_never_notices() {
    let deploys = Deploys::of("trap /nonexistent");
    let daemon = deploys.start(&["-start=1500"]);
    let old = first_worker(&daemon);
    deploys.next("exit 7 50");
    let verdict = daemon.reload();
    for wanted in ["rolled back", "status 7", "keeping generation 1"] {
        assert!(verdict.contains(wanted), "{wanted:?} is not in: {verdict}");
    }
    daemon.wait_for_workers(&[old]);
    assert_eq!(daemon.count("got SIG"), 0, "the old worker was signalled");
    // And the next deploy is a reload like any other.
    deploys.next("up");
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
}

#[test]
fn the_verdict_shows_the_last_words_of_the_worker_that_failed() {
    let deploys = Deploys::of("up");
    let daemon = deploys.start(&["-start=600"]);
    first_worker(&daemon);
    deploys.next("no-such-behaviour");
    let verdict = daemon.reload();
    assert!(verdict.contains("rolled back"), "{verdict}");
    assert!(
        verdict.contains("no behaviour is called \"no-such-behaviour\""),
        "{verdict}"
    );
}

#[test]
fn a_new_worker_that_is_killed_is_rolled_back() {
    let deploys = Deploys::of("up");
    let daemon = deploys.start(&["-start=600"]);
    let old = first_worker(&daemon);
    deploys.next("kill-self 9");
    let verdict = daemon.reload();
    assert!(
        verdict.contains("rolled back") && verdict.contains("killed"),
        "{verdict}"
    );
    daemon.wait_for_workers(&[old]);
    daemon.wait_for_line(" signal: killed");
}

#[test]
fn a_new_worker_fails_while_an_older_generation_still_drains() {
    // The original stops the good one here, and nobody serves any more.
    let deploys = Deploys::of("");
    let end = deploys.dir.word("end");
    deploys.next(&format!("drain {end}"));
    let daemon = deploys.start(&["-start=600"]);
    let draining = first_worker(&daemon);
    deploys.next("trap /nonexistent");
    daemon.reload();
    daemon.wait_for_line(&format!("[{draining}] draining"));
    let good = daemon.wait_for("the good worker", || {
        daemon.workers().into_iter().find(|pid| *pid != draining)
    });
    deploys.next("exit 7 20");
    let verdict = daemon.reload();
    assert!(
        verdict.contains("rolled back") && verdict.contains("keeping generation 2"),
        "{verdict}"
    );
    daemon.wait_for_workers(&[draining, good]);
    assert_eq!(daemon.count("got SIG"), 0, "the good worker was signalled");
    fs::write(&end, "").expect("the directory is ours");
    daemon.wait_for_line(&format!("{draining} exit status 0"));
    daemon.wait_for_workers(&[good]);
}

#[test]
fn an_old_generation_that_drains_for_long_blocks_nothing_and_is_asked_only_once() {
    let deploys = Deploys::of("");
    let end = deploys.dir.word("end");
    deploys.next(&format!("trap {end}"));
    let daemon = deploys.start(&["-start=0"]);
    let old = daemon.worker_that_said("up");
    deploys.next("up");
    for _ in 0..3 {
        let verdict = daemon.reload();
        assert!(verdict.contains("is live"), "{verdict}");
    }
    daemon.wait_for_line(&format!("[{old}] got SIGTERM"));
    daemon.wait_until("the new worker and the old one", || {
        daemon.workers().len() == 2
    });
    assert_eq!(daemon.count(&format!("[{old}] got SIGTERM")), 1);
    assert!(facts::alive(old));
    fs::write(&end, "").expect("the directory is ours");
    daemon.wait_for_line(&format!("{old} exit status 0"));
}

#[test]
fn the_command_is_missing_at_one_hup_and_back_at_the_next() {
    let dir = TempDir::new();
    dir.link("w", worker());
    let command = format!("-command={}", dir.word("w"));
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=600", &command, "up"])
        .start();
    let old = first_worker(&daemon);
    fs::remove_file(dir.join("w")).expect("the directory is ours");
    let verdict = daemon.reload();
    assert!(verdict.contains("rolled back"), "{verdict}");
    assert!(verdict.contains("No such file or directory"), "{verdict}");
    daemon.wait_for_workers(&[old]);
    dir.link("w", worker());
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    another_worker(&daemon, &[old]);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_file_that_is_no_program_is_a_failed_start_with_the_system_s_word() {
    let dir = TempDir::new();
    let garbage = dir.copy_program("/etc/passwd".as_ref(), "garbage");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", &format!("-command={garbage}")])
        .start();
    assert_eq!(daemon.exit_code(), 1);
    daemon.wait_for_line("Exec format error");
}

#[test]
fn without_a_worker_left_we_leave_with_the_status_of_the_last_one() {
    for (behaviour, code) in [("exit 0 50", 0), ("exit 3 50", 3), ("kill-self 15", 143)] {
        let deploys = Deploys::of(behaviour);
        let daemon = deploys.start(&["-start=0"]);
        assert_eq!(daemon.exit_code(), code, "{behaviour}");
    }
}

#[test]
fn a_first_generation_that_never_became_ready_gives_its_own_status() {
    let daemon = Run::worker(&["-start=5000"], &["exit", "9", "50"]).start();
    assert_eq!(daemon.exit_code(), 9);
    daemon.wait_for_line(" exit status 9");
}

#[test]
fn sigkill_of_the_only_worker_ends_us_with_137() {
    let daemon = Run::worker(&["-start=600"], &["up"]).start();
    let pid = first_worker(&daemon);
    signal_worker(pid, Signal::SIGKILL);
    assert_eq!(daemon.exit_code(), 137);
    daemon.wait_for_line(&format!("{pid} signal: killed"));
}

#[test]
fn the_live_worker_dies_during_a_reload_and_the_new_one_goes_live() {
    let daemon = Run::worker(&["-start=700"], &["up"]).start();
    let old = first_worker(&daemon);
    let mark = daemon.mark();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the second worker", || daemon.workers().len() == 2);
    signal_worker(old, Signal::SIGKILL);
    let verdict = daemon.verdict_after(mark);
    assert!(verdict.contains("is live"), "{verdict}");
    another_worker(&daemon, &[old]);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn nobody_is_left_when_the_live_worker_died_and_the_new_one_fails() {
    let deploys = Deploys::of("up");
    let daemon = deploys.start(&["-start=2000"]);
    let old = first_worker(&daemon);
    deploys.next("exit 7 600");
    let mark = daemon.mark();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the second worker", || daemon.workers().len() == 2);
    signal_worker(old, Signal::SIGKILL);
    assert_eq!(daemon.exit_code(), 7);
    let verdict = daemon.verdict_after(mark);
    assert!(
        verdict.contains("failed") && verdict.contains("status 7"),
        "{verdict}"
    );
}

#[test]
fn a_worker_that_ignores_the_stop_is_killed_with_its_whole_group() {
    let script = "trap '' TERM; sleep 100 & echo child $!; while :; do wait; done";
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-stop=300",
            "-command=sh",
        ])
        .args(&["--", "-c", script])
        .start();
    let line = daemon.wait_for_line("] child ");
    let child: i32 = line
        .rsplit(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a pid");
    let old = daemon.workers()[0];
    daemon.reload();
    daemon.wait_for_line(&format!("{old} signal: killed"));
    daemon.wait_until("the worker's child to be gone too", || !facts::alive(child));
    assert_eq!(daemon.stop(), 0);
    assert!(daemon.log().contains("SIGKILL"));
}

#[test]
fn without_stop_a_worker_is_never_killed() {
    let dir = TempDir::new();
    let daemon = Run::worker(&["-start=0"], &["drain", &dir.word("end")]).start();
    daemon.worker_that_said("up");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("draining");
    daemon.stays_up_for(Duration::from_millis(500));
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn another_stop_signal_is_for_reloads_and_for_the_first_stop() {
    let dir = TempDir::new();
    let flags = ["-start=0", "-stop-signal=USR2"];
    let daemon = Run::worker(&flags, &["trap", &dir.word("end")]).start();
    let old = daemon.worker_that_said("up");
    daemon.reload();
    daemon.wait_for_line(&format!("[{old}] got SIGUSR2"));
    let new = daemon.wait_for("the new worker to be up", || {
        daemon
            .workers()
            .into_iter()
            .find(|pid| *pid != old && daemon.count(&format!("[{pid}] up")) == 1)
    });
    daemon.signal(Signal::SIGINT);
    daemon.wait_for_line(&format!("[{new}] got SIGUSR2"));
    daemon.signal(Signal::SIGINT);
    daemon.wait_for_line(&format!("[{new}] got SIGINT"));
    daemon.wait_for_line(&format!("[{old}] got SIGINT"));
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn term_and_int_are_forwarded_each_time_they_come() {
    let dir = TempDir::new();
    let daemon = Run::worker(&["-start=0"], &["trap", &dir.word("end")]).start();
    daemon.worker_that_said("up");
    for (n, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM]
        .iter()
        .enumerate()
    {
        daemon.signal(*signal);
        daemon.wait_for_count("got SIG", n + 1);
    }
    assert_eq!(daemon.count("got SIGTERM"), 2);
    assert_eq!(daemon.count("got SIGINT"), 1);
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_hup_after_a_stop_starts_nothing() {
    let dir = TempDir::new();
    let daemon = Run::worker(&["-start=0"], &["trap", &dir.word("end")]).start();
    daemon.worker_that_said("up");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("got SIGTERM");
    daemon.signal(Signal::SIGHUP);
    daemon.stays_up_for(Duration::from_millis(200));
    assert_eq!(daemon.count("Starting "), 1);
    assert_eq!(daemon.count("got SIGHUP"), 0);
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn sigquit_is_forwarded_and_ends_nothing_by_itself() {
    let dir = TempDir::new();
    let daemon = Run::worker(&["-start=0", "-stop=100"], &["trap", &dir.word("end")]).start();
    let pid = daemon.worker_that_said("up");
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_for_line(&format!("[{pid}] got SIGQUIT"));
    // It arms no -stop: the worker prints its threads and lives on.
    daemon.stays_up_for(Duration::from_millis(400));
    assert_eq!(daemon.workers(), [pid]);
    dir.write("end", "");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn a_worker_that_dies_of_sigquit_counts_as_asked() {
    let daemon = Run::worker(&["-start=600"], &["up"]).start();
    first_worker(&daemon);
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(daemon.exit_code(), 0);
    daemon.wait_for_line(" signal: quit");
}

#[test]
fn sigusr1_and_unlisted_signals_are_not_deadly() {
    let daemon = Run::worker(&["-start=0"], &["http"]).start();
    let pid = daemon.worker_that_said("up");
    for signal in [
        Signal::SIGUSR1,
        Signal::SIGWINCH,
        Signal::SIGPIPE,
        Signal::SIGCONT,
    ] {
        daemon.signal(signal);
        daemon.stays_up_for(Duration::from_millis(50));
        assert_eq!(daemon.address().answering_pid(), pid, "after {signal}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_request_in_flight_survives_a_reload() {
    let daemon = Run::worker(&["-start=600"], &["http"]).start();
    let old = first_worker(&daemon);
    let address = daemon.address();
    let slow = std::thread::spawn(move || address.request("/slow/600"));
    daemon.wait_until("the old worker to have a thread for it", || {
        fs::read_dir(format!("/proc/{old}/task")).is_ok_and(|tasks| tasks.count() > 1)
    });
    daemon.reload();
    let body = slow.join().expect("no panic").expect("an answer");
    assert!(body.starts_with(&format!("pid {old} ")), "{body}");
    daemon.wait_for_line(&format!("{old} exit status 0"));
}

#[test]
fn a_generation_of_several_workers_goes_live_as_one_and_is_rolled_back_as_one() {
    let deploys = Deploys::of("up");
    let daemon = deploys.start(&["-start=600", "-workers=3"]);
    daemon.wait_until_live();
    let old = daemon.workers();
    assert_eq!(old.len(), 3);
    deploys.next(&format!("one-fails {}", deploys.dir.word("claimed")));
    let verdict = daemon.reload();
    assert!(
        verdict.contains("rolled back") && verdict.contains("status 7"),
        "{verdict}"
    );
    daemon.wait_for_workers(&old);
    // The directory is there now, so nobody fails.
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    daemon.wait_until("three new workers alone", || {
        let now = daemon.workers();
        now.len() == 3 && now.iter().all(|pid| !old.contains(pid))
    });
}

#[test]
fn a_refused_pidfd_open_makes_no_difference() {
    let refuse = example("refuse");
    for errno in [libc::ENOSYS, libc::EPERM, libc::EINVAL] {
        let errno = errno.to_string();
        let deploys = Deploys::of("up");
        let daemon = deploys
            .run(&["-start=600"])
            .through(&[refuse.as_os_str(), "pidfd_open".as_ref(), errno.as_ref()])
            .start();
        let first = first_worker(&daemon);
        let pidfds = || {
            let open = facts::open_fds(daemon.real_pid());
            open.iter()
                .filter(|(_, what)| what.contains("pidfd"))
                .count()
        };
        assert_eq!(pidfds(), 0, "errno {errno}");
        deploys.next("exit 7 10");
        let verdict = daemon.reload();
        assert!(
            verdict.contains("rolled back") && verdict.contains("status 7"),
            "{verdict}"
        );
        deploys.next("up");
        daemon.reload();
        let second = another_worker(&daemon, &[first]);
        signal_worker(second, Signal::SIGKILL);
        assert_eq!(daemon.exit_code(), 137, "errno {errno}");
    }
}

#[test]
fn a_refused_close_range_makes_no_difference() {
    let refuse = example("refuse");
    let errno = libc::ENOSYS.to_string();
    let daemon = Run::worker(&["-start=0", "-workers=2"], &["up"])
        .through(&[refuse.as_os_str(), "close_range".as_ref(), errno.as_ref()])
        .start();
    daemon.wait_until("two workers", || daemon.workers().len() == 2);
    let old = daemon.workers();
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    daemon.wait_until("two new workers alone", || {
        let now = daemon.workers();
        now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
    });
    for pid in daemon.workers() {
        let open = facts::open_fds(pid);
        let numbers: Vec<_> = open.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3], "{open:?}");
    }
}

#[test]
fn workers_are_watched_by_pidfd_where_there_is_one() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    daemon.worker_that_said("up");
    daemon.reload();
    daemon.wait_until("one pidfd for the one worker", || {
        let open = facts::open_fds(daemon.pid());
        open.iter()
            .filter(|(_, what)| what.contains("pidfd"))
            .count()
            == 1
    });
}

#[test]
fn a_pid_file_is_locked_and_a_stale_one_does_not_matter() {
    let dir = TempDir::new();
    dir.write("pid", "1\n");
    let flag = format!("-pidfile={}", dir.word("pid"));
    let daemon = Run::worker(&["-start=0", &flag], &["up"]).start();
    daemon.worker_that_said("up");
    let content = fs::read_to_string(dir.join("pid")).expect("it is there");
    assert_eq!(content.trim(), daemon.pid().to_string());
    let second = Run::worker(&[&flag], &["up"]).output();
    let log = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{log}");
    assert!(log.contains(&dir.word("pid")), "{log}");
    let content = fs::read_to_string(dir.join("pid")).expect("it is there");
    assert_eq!(
        content.trim(),
        daemon.pid().to_string(),
        "the second one wrote into it"
    );
    assert_eq!(daemon.stop(), 0);
    let third = Run::worker(&["-start=0", &flag], &["up"]).start();
    third.worker_that_said("up");
}

#[test]
fn the_first_stop_asks_with_the_stop_signal_and_the_next_one_is_forwarded() {
    let script = "trap 'echo got QUIT' QUIT; trap 'echo got TERM; exit 3' TERM; echo up; \
                  while :; do sleep 0.05; done";
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-stop-signal=QUIT"])
        .args(&["-command=sh", "--", "-c", script])
        .start();
    daemon.worker_that_said("up");
    daemon.wait_until_live();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("] got QUIT");
    daemon.wait_for_line("SIGTERM: stopping, 1 worker asked to finish with SIGQUIT");
    assert_eq!(daemon.count("] got TERM"), 0);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("] got TERM");
    assert_eq!(daemon.exit_code(), 0);
}

#[test]
fn signals_that_mean_nothing_neither_suspend_nor_end_us() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    daemon.wait_until_live();
    let mut numbers = vec![
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGXCPU,
        libc::SIGSTKFLT,
        libc::SIGPIPE,
    ];
    numbers.extend(libc::SIGRTMIN()..=libc::SIGRTMAX());
    let pid = daemon.real_pid();
    for number in numbers {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{number} {pid}")])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "{number}");
    }
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    assert_eq!(daemon.stop(), 0);
}
