//! The log when its reader does not read, goes away or has no room, on the real program: signals
//! act, nothing spins, nothing grows, nothing is lost that can be kept, and what is lost is
//! counted.

mod common;

use common::sink::{
    Stuck, Text, acts, first_worker, lost, numbered, numbers, reads_at_a_bounded_rate, rests, stops,
};
use common::terminal::Terminal;
use common::{Daemon, Run, TempDir, facts, root_or_skip};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A reload and a stop while stuck; freed, it says what was lost.
fn a_flood_stalls_nothing(mut stuck: Stuck) {
    let daemon = stuck.start(&["-start=0"], &["flood"]);
    daemon.wait_until_blocked(first_worker(&daemon));
    rests(&daemon);
    acts(&daemon);
    daemon.wait_until_blocked(daemon.workers()[0]);
    rests(&daemon);
    stuck.free();
    daemon.wait_until("the log to say what was lost", || {
        lost(&stuck.text.get()) > 0
    });
    acts(&daemon);
    stops(&daemon);
}

fn a_stop_acts(mut stuck: Stuck) {
    let daemon = stuck.start(&["-start=0"], &["flood"]);
    daemon.wait_until_blocked(first_worker(&daemon));
    stops(&daemon);
}

/// Held back and let go, a worker's output is complete.
fn nothing_is_lost(mut stuck: Stuck) {
    let dir = TempDir::new();
    let path = numbered(&dir, 60_000);
    let daemon = stuck.start(&["-start=0"], &["cat", path.to_str().expect("UTF-8")]);
    daemon.wait_until_blocked(first_worker(&daemon));
    rests(&daemon);
    stuck.free();
    daemon.wait_until("the last line", || {
        stuck.text.get().contains("] line 59999 of it\n")
    });
    let log = stuck.text.get();
    assert!(numbers(&log).into_iter().eq(0..60_000));
    assert_eq!(lost(&log), 0);
    stops(&daemon);
}

#[test]
fn a_full_pipe_stalls_nothing_and_its_losses_are_counted() {
    a_flood_stalls_nothing(Stuck::pipe());
}

#[test]
fn a_terminal_on_control_s_stalls_nothing_and_its_losses_are_counted() {
    a_flood_stalls_nothing(Stuck::terminal());
}

#[test]
fn a_stuck_journal_stalls_nothing_and_its_losses_are_counted() {
    a_flood_stalls_nothing(Stuck::journal());
}

#[test]
fn a_full_syslog_socket_stalls_nothing_and_its_losses_are_counted() {
    a_flood_stalls_nothing(Stuck::syslog());
}

#[test]
fn a_stop_acts_whatever_is_stuck() {
    a_stop_acts(Stuck::pipe());
    a_stop_acts(Stuck::terminal());
    a_stop_acts(Stuck::journal());
    a_stop_acts(Stuck::syslog());
}

#[test]
fn a_full_pipe_loses_nothing() {
    nothing_is_lost(Stuck::pipe());
}

#[test]
fn a_terminal_on_control_s_loses_nothing() {
    nothing_is_lost(Stuck::terminal());
}

#[test]
fn a_stuck_journal_loses_nothing() {
    nothing_is_lost(Stuck::journal());
}

#[test]
fn a_full_syslog_socket_loses_nothing() {
    nothing_is_lost(Stuck::syslog());
}

/// A background job on a terminal that stops background jobs that write to it.
#[test]
fn a_background_job_is_not_stopped_by_its_own_log() {
    let terminal = Terminal::new();
    let path = terminal.path.to_str().expect("UTF-8");
    let script = format!("stty tostop; set -m; \"$@\" 2>{path} & wait");
    let worker = common::worker();
    let words = [&worker, "on-terminal", path, "sh", "-c", &script, "sh"];
    let daemon = Run::worker(&["-start=0"], &["up"])
        .through(&words)
        .start_with_stderr(Stdio::null());
    let text = Text::default();
    text.clone().read(terminal.master);
    daemon.wait_until("its log on the terminal", || text.get().contains("] up\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the verdict on the terminal", || {
        text.get().contains(" reload 2: generation 2 is live")
    });
    // Stopped it would be T.
    daemon.wait_until("it to sleep", || {
        facts::state(daemon.real_pid()).as_deref() == Some("S")
    });
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
}

#[test]
fn workers_that_die_while_the_log_is_stuck_leave_a_bounded_number_of_pipes() {
    let dir = TempDir::new();
    // Enough output that none of it finds room; and a mark for each worker that was there.
    let script = format!(
        "mkdir {0} 2>/dev/null && exec {1} flood-ready; touch {2}/$$; echo one; echo two; exit 1",
        dir.word("first"),
        common::worker(),
        dir.word("")
    );
    let mut daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-command=sh"])
        .args(&["--", "-c", &script])
        .start_unread();
    daemon.wait_until_blocked(first_worker(&daemon));
    let flooding = first_worker(&daemon);
    for deaths in 1..=100 {
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("another worker to have come and gone", || {
            dir.names().len() > deaths && daemon.workers() == [flooding]
        });
    }
    let pipes = facts::open_fds(daemon.pid())
        .into_iter()
        .filter(|(_, link)| link.starts_with("pipe:"));
    assert!(pipes.count() < 80, "{:#?}", facts::open_fds(daemon.pid()));
    daemon.read_log();
    daemon.wait_for_count(" exit status 1", 100);
    let kept = daemon.count("] one") + daemon.count("] two");
    assert_eq!(kept as u64 + lost(&daemon.log()), 200);
    assert_eq!(daemon.stop(), 0);
}

// ---- no room, no reader ----

/// The program with its log in a file on a file system of 64 kB that is nearly full, in a mount
/// namespace of its own.
fn on_a_small_disk(run: Run, dir: &TempDir) -> Daemon {
    let script = format!(
        "mount -t tmpfs -o size=64k none {0} && head -c 40000 /dev/zero >{0}/ballast && \
         exec 2>{0}/log && exec \"$@\"",
        dir.path().display()
    );
    run.through(&["unshare", "--mount", "sh", "-c", &script, "sh"])
        .start_with_stderr(Stdio::null())
}

/// What is in the file.
fn on_disk(daemon: &Daemon, dir: &TempDir) -> String {
    let path = format!("/proc/{}/root{}", daemon.real_pid(), dir.word("log"));
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn enlarge(daemon: &Daemon, dir: &TempDir) {
    let status = Command::new("nsenter")
        .args(["--mount", "--target", &daemon.real_pid().to_string()])
        .args(["mount", "-o", "remount,size=64m"])
        .arg(dir.path())
        .status();
    assert!(status.expect("nsenter is there").success());
}

#[test]
fn a_full_disk_costs_lines_that_are_counted_and_holds_nobody_back() {
    if !root_or_skip() {
        return;
    }
    let (dir, done) = (TempDir::new(), TempDir::new());
    let path = numbered(&dir, 60_000);
    let script = format!(
        "cat {}; touch {}/$$; exec sleep 100",
        path.display(),
        done.word("")
    );
    let disk = TempDir::new();
    let run = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh"])
        .args(&["--", "-c", &script]);
    let daemon = on_a_small_disk(run, &disk);
    daemon.wait_until("the worker to have written all", || done.names().len() == 1);
    rests(&daemon);
    daemon.signal(Signal::SIGUSR1);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("another worker to have written all", || {
        done.names().len() == 2
    });
    daemon.wait_until("the new worker alone", || daemon.workers().len() == 1);
    let kept = numbers(&on_disk(&daemon, &disk)).len();
    assert!(kept > 0 && kept < 2000, "{kept} lines are on the disk");
    enlarge(&daemon, &disk);
    daemon.wait_until("the log to say what was lost", || {
        let log = on_disk(&daemon, &disk);
        log.ends_with('\n') && numbers(&log).len() as u64 + lost(&log) >= 120_000
    });
    let log = on_disk(&daemon, &disk);
    let kept = numbers(&log);
    assert_eq!(kept.len() as u64 + lost(&log), 120_000);
    assert!(kept.iter().copied().eq(0..kept.len() as u64));
    assert!(log.lines().all(|line| line.starts_with("socketmaster[")));
    stops(&daemon);
}

#[test]
fn a_flood_onto_a_full_disk_stalls_no_signal() {
    if !root_or_skip() {
        return;
    }
    let disk = TempDir::new();
    let daemon = on_a_small_disk(Run::worker(&["-start=0"], &["flood"]), &disk);
    first_worker(&daemon);
    reads_at_a_bounded_rate(&daemon);
    acts(&daemon);
    stops(&daemon);
}

#[test]
fn a_reader_that_leaves_stalls_nothing_and_the_next_one_hears_what_was_lost() {
    let dir = TempDir::new();
    let path = dir.join("fifo");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("the directory is ours");
    let first = open_fifo(&path);
    let writer = File::options()
        .write(true)
        .open(&path)
        .expect("it has a reader");
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_with_stderr(Stdio::from(writer));
    first_worker(&daemon);
    drop(first);
    reads_at_a_bounded_rate(&daemon);
    acts(&daemon);
    let text = Text::default();
    let second = open_fifo(&path);
    nix::fcntl::fcntl(&second, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).expect("it is open");
    text.clone().read(second);
    daemon.wait_until("the log to say what was lost", || lost(&text.get()) > 0);
    acts(&daemon);
    stops(&daemon);
}

/// Open for reading although nobody writes yet.
fn open_fifo(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).expect("it exists")
}

#[test]
fn a_stop_acts_when_the_reader_has_gone() {
    let (end, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_with_stderr(Stdio::from(start));
    first_worker(&daemon);
    drop(end);
    acts(&daemon);
    stops(&daemon);
}
