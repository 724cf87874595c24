//! The log when its reader does not read, goes away or has no room, on the real program: signals
//! act, nothing spins, nothing grows, nothing is lost that can be kept, and what is lost is
//! counted.

mod common;

use common::report::said;
use common::terminal::Terminal;
use common::{Daemon, Run, TempDir, facts, root_or_skip};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Ten times less than the original grows to on one long line; the program needs about a quarter.
const MEMORY_KB: u64 = 2048;
/// One tick of the processor's clock, as utime and stime count it.
const TICK: Duration = Duration::from_millis(10);

// ---- sinks that are stuck until they are freed ----

/// What a sink has taken: a flood's lines only counted, all else kept.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    kept: Vec<u8>,
    flood: u64,
}

impl Text {
    /// Adds a line with its newline.
    fn push(&self, line: &[u8]) {
        let mut taken = self.0.lock().expect("nobody panics here");
        // A terminal adds a carriage return.
        match line.trim_ascii_end().ends_with(FLOOD) {
            true => taken.flood += 1,
            false => taken.kept.extend(line),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("nobody panics here").kept.clone()
    }

    /// Without the carriage returns that a terminal adds.
    fn get(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).replace('\r', "")
    }

    fn flood(&self) -> u64 {
        self.0.lock().expect("nobody panics here").flood
    }

    /// Takes all that comes, until there is no more.
    fn read(self, from: impl Read + Send + 'static) {
        let mut from = BufReader::with_capacity(65536, from);
        thread::spawn(move || {
            let mut line = Vec::new();
            while let Ok(1..) = from.read_until(b'\n', &mut line) {
                self.push(&line);
                line.clear();
            }
        });
    }
}

/// How the lines of `worker flood` and `worker lines` end.
const FLOOD: &[u8] = b" of a worker that has much to say";

/// A place for the log that takes nothing before it is freed.
struct Stuck {
    stderr: Option<Stdio>,
    flags: Vec<String>,
    environment: Option<(&'static str, OsString)>,
    opening: Option<Box<dyn FnOnce(Text)>>,
    text: Text,
    _dir: Option<TempDir>,
}

impl Stuck {
    fn stderr(stderr: impl Into<Stdio>, opening: impl FnOnce(Text) + 'static) -> Stuck {
        Stuck {
            stderr: Some(stderr.into()),
            flags: Vec::new(),
            environment: None,
            opening: Some(Box::new(opening)),
            text: Text::default(),
            _dir: None,
        }
    }

    fn pipe() -> Stuck {
        let (end, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        Stuck::stderr(start, |text| text.read(File::from(end)))
    }

    /// Somebody typed ^S, and will type ^Q.
    fn terminal() -> Stuck {
        let mut terminal = Terminal::new();
        let stderr = terminal.open();
        terminal.master.write_all(b"\x13").expect("it is ours");
        Stuck::stderr(stderr, |text| {
            let mut master = terminal.master;
            master.write_all(b"\x11").expect("it is ours");
            text.read(master);
        })
    }

    /// The stream that systemd gives to a service.
    fn journal() -> Stuck {
        let (theirs, ours) = UnixStream::pair().expect("a pair");
        let theirs = File::from(OwnedFd::from(theirs));
        let meta = theirs.metadata().expect("it is open");
        let named = format!("{}:{}", meta.dev(), meta.ino());
        let mut stuck = Stuck::stderr(theirs, |text| text.read(ours));
        stuck.environment = Some(("JOURNAL_STREAM", named.into()));
        stuck
    }

    /// A syslog daemon that takes nothing off its socket.
    fn syslog() -> Stuck {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.join("log")).expect("the directory is ours");
        let mut stuck = Stuck::stderr(Stdio::null(), |text| {
            thread::spawn(move || {
                let mut message = [0; 65536];
                while let Ok(n) = socket.recv(&mut message) {
                    text.push(&[&message[..n], b"\n"].concat());
                }
            });
        });
        stuck.flags = vec![
            "-syslog".into(),
            format!("-syslog-socket={}", dir.word("log")),
        ];
        stuck._dir = Some(dir);
        stuck
    }

    fn start(&mut self, flags: &[&str], words: &[&str]) -> Daemon {
        let own: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let mut run = Run::worker(&[&own[..], flags].concat(), words);
        if let Some((name, value)) = self.environment.take() {
            run = run.env(name, value);
        }
        run.start_with_stderr(self.stderr.take().expect("it is started once"))
    }

    fn free(&mut self) {
        let open = self.opening.take().expect("it is freed once");
        open(self.text.clone());
    }
}

// ---- what must hold ----

/// It uses no processor and no memory while nothing can be written.
fn rests(daemon: &Daemon) {
    let before = facts::processor(daemon.real_pid());
    daemon.stays_up_for(Duration::from_secs(1));
    let used = facts::processor(daemon.real_pid()) - before;
    assert!(
        used <= TICK,
        "{used:?} of processor in a second while stuck"
    );
    is_small(daemon);
}

fn is_small(daemon: &Daemon) {
    let kilobytes = facts::anonymous(daemon.real_pid());
    assert!(kilobytes <= MEMORY_KB, "{kilobytes} kB");
}

/// SIGUSR1 and SIGHUP do what they do otherwise; all workers are new then.
fn acts(daemon: &Daemon) {
    for _ in 0..2 {
        let old = daemon.workers();
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("a new worker, and it alone", || {
            let now = daemon.workers();
            now.len() == 1 && !old.contains(&now[0])
        });
    }
    is_small(daemon);
}

fn stops(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
}

fn first_worker(daemon: &Daemon) -> i32 {
    daemon.wait_for("the first worker", || daemon.workers().first().copied())
}

/// The numbers of `line N of …`, in the order in which they were logged.
fn numbers(log: &str) -> Vec<u64> {
    log.lines()
        .filter_map(|line| {
            line.split_once("] line ")?
                .1
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

/// How many lines were lost, by all that the log says about it.
fn lost(log: &str) -> u64 {
    let number = |line: &str| {
        let (before, _) = line
            .split_once(" lines were lost:")
            .or_else(|| line.split_once(" line was lost:"))?;
        before.rsplit([' ', '>']).next()?.parse::<u64>().ok()
    };
    log.lines().filter_map(number).sum()
}

/// `line 0 of it` to `line N-1 of it` in a file.
fn numbered(dir: &TempDir, count: u64) -> PathBuf {
    let text: String = (0..count).map(|n| format!("line {n} of it\n")).collect();
    dir.write("numbered", text)
}

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
    assert_eq!(facts::state(daemon.real_pid()).as_deref(), Some("S"));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
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
    takes_a_bounded_share(&daemon);
    acts(&daemon);
    stops(&daemon);
}

/// Lines are dropped at a rate, not as fast as they come: it sleeps after each little work, also
/// where the machine is too busy for a share of it to say anything.
fn takes_a_bounded_share(daemon: &Daemon) {
    let pid = daemon.real_pid();
    daemon.stays_up_for(Duration::from_millis(500));
    let begun = Instant::now();
    let before = (facts::processor(pid), facts::sleeps(pid));
    daemon.stays_up_for(Duration::from_secs(2));
    let used = facts::processor(pid) - before.0;
    let sleeps = facts::sleeps(pid) - before.1;
    let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.5, "{:.0} % of a core", share * 100.0);
    assert!(
        used < TICK * sleeps as u32,
        "{used:?} and only {sleeps} sleeps"
    );
    is_small(daemon);
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
    takes_a_bounded_share(&daemon);
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

// ---- -output=lossy ----

#[test]
fn lossy_lets_a_worker_finish_though_the_log_is_stuck_and_counts_each_lost_line() {
    let dir = TempDir::new();
    let path = numbered(&dir, 60_000);
    let done = dir.join("done");
    let script = format!(
        "cat {}; touch {}; exec sleep 100",
        path.display(),
        done.display()
    );
    let mut daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-output=lossy",
            "-command=sh",
        ])
        .args(&["--", "-c", &script])
        .start_unread();
    daemon.wait_until("the worker to have written all", || done.exists());
    daemon.wait_until_blocked(first_worker(&daemon));
    rests(&daemon);
    daemon.read_log();
    daemon.wait_for_line("lines were lost");
    assert_eq!(daemon.stop(), 0);
    let log = daemon.log();
    let kept = numbers(&log);
    assert_eq!(kept.len() as u64 + lost(&log), 60_000);
    assert!(
        kept.iter().copied().eq(0..kept.len() as u64),
        "the oldest are kept"
    );
}

#[test]
fn lossy_takes_a_bounded_share_of_a_core_from_a_worker_that_writes_as_fast_as_it_can() {
    let mut stuck = Stuck::pipe();
    let daemon = stuck.start(&["-output=lossy", "-start=0"], &["flood"]);
    let worker = first_worker(&daemon);
    let before = facts::processor(worker);
    takes_a_bounded_share(&daemon);
    assert!(facts::processor(worker) > before, "the worker goes on");
    acts(&daemon);
    stuck.free();
    daemon.wait_until("the log to say what was lost", || {
        lost(&stuck.text.get()) > 0
    });
    stops(&daemon);
}

// ---- fairness ----

#[test]
fn a_stop_is_handled_within_10_ms_of_work_while_a_worker_floods() {
    let mut taken: Vec<Duration> = (0..5).map(|_| work_until_stopped()).collect();
    taken.sort_unstable();
    assert!(taken[2] < TICK, "{taken:?}");
}

/// The processor time that it takes from TERM to its end, with all that is in the pipe; a flooding
/// worker ends by TERM, so nothing comes after.
fn work_until_stopped() -> Duration {
    let mut stuck = Stuck::pipe();
    let daemon = stuck.start(&["-start=0"], &["flood"]);
    first_worker(&daemon);
    stuck.free();
    daemon.wait_until("the flood", || stuck.text.flood() > 10_000);
    let pid = daemon.real_pid();
    let before = facts::processor(pid);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
    facts::processor(pid) - before
}

#[test]
fn two_flooding_workers_get_like_shares_and_a_quiet_one_is_heard() {
    let dir = TempDir::new();
    // The third to come is the quiet one.
    let script = format!(
        "mkdir {0} 2>/dev/null && exec yes one; mkdir {1} 2>/dev/null && exec yes two; \
         for n in 1 2 3 4 5 6 7 8 9; do echo quiet $n; sleep 0.1; done; exec sleep 100",
        dir.word("1"),
        dir.word("2")
    );
    let log = dir.join("log");
    let file = File::create(&log).expect("the directory is ours");
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-workers=3",
            "-command=sh",
        ])
        .args(&["--", "-c", &script])
        .start_with_stderr(Stdio::from(file));
    let text = || String::from_utf8_lossy(&fs::read(&log).expect("it is there")).into_owned();
    daemon.wait_until("the quiet worker's last line", || {
        text().contains("] quiet 9\n")
    });
    stops(&daemon);
    let text = text();
    let count = |end: &str| text.lines().filter(|line| line.ends_with(end)).count();
    let (one, two) = (count("] one"), count("] two"));
    assert!(one.min(two) * 4 > one.max(two), "{one} and {two} lines");
}

#[test]
fn a_readiness_message_acts_while_a_worker_floods() {
    let dir = TempDir::new();
    let script = format!(
        "mkdir {} 2>/dev/null && exec {} flood-ready; exec {} ready",
        dir.word("first"),
        common::worker(),
        common::worker()
    );
    let mut stuck = Stuck::pipe();
    stuck.free();
    let run = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-ready=notify", "-command=sh"])
        .args(&["--", "-c", &script]);
    let stderr = stuck.stderr.take().expect("it is not started yet");
    let daemon = run.start_with_stderr(stderr);
    let flooding = first_worker(&daemon);
    daemon.wait_until("the flood", || stuck.text.flood() > 10_000);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until(
        "the new worker alone",
        || matches!(daemon.workers()[..], [pid] if pid != flooding),
    );
    stops(&daemon);
}

// ---- much, and odd ----

/// Runs to its end with the log in a pipe; returns how many lines there were of a worker, how many
/// of them were not `expected`, and the most memory in kB.
fn count_lines(words: &[&str], expected: &str) -> (u64, u64, u64) {
    let (end, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0"])
        .args(words)
        .start_with_stderr(Stdio::from(start));
    let wanted = expected.to_owned();
    let counter = thread::spawn(move || {
        let (mut good, mut other) = (0, 0);
        for line in BufReader::new(File::from(end)).split(b'\n') {
            let line = String::from_utf8_lossy(&line.expect("it can be read")).into_owned();
            match said(&line) {
                Some((_, text)) if text == wanted => good += 1,
                Some(_) => other += 1,
                None => {}
            }
        }
        (good, other)
    });
    let mut most = 0;
    daemon.wait_until("the end", || {
        most = most.max(facts::anonymous(daemon.real_pid()));
        daemon.exit_status().is_some()
    });
    let (good, other) = counter.join().expect("it does not panic");
    (good, other, most)
}

#[test]
fn a_million_lines_go_through_a_pipe_without_falling_asleep() {
    let words = [
        "-command=sh",
        "--",
        "-c",
        "yes 'one of a million' | head -n 1000000",
    ];
    let (good, other, most) = count_lines(&words, "one of a million");
    assert_eq!((good, other), (1_000_000, 0));
    assert!(most < MEMORY_KB, "{most} kB");
}

#[test]
fn a_million_empty_lines_are_a_million_lines() {
    let words = ["-command=sh", "--", "-c", "yes '' | head -n 1000000"];
    let (good, other, most) = count_lines(&words, "");
    assert_eq!((good, other), (1_000_000, 0));
    assert!(most < MEMORY_KB, "{most} kB");
}

/// What a sink gets of a worker that writes these bytes.
fn through(mut stuck: Stuck, bytes: &[u8]) -> Vec<u8> {
    let dir = TempDir::new();
    let path = dir.write("bytes", bytes);
    stuck.free();
    let daemon = stuck.start(&["-start=0"], &["cat", path.to_str().expect("UTF-8")]);
    let end = daemon.wait_for("the last line", || {
        let bytes = stuck.text.bytes();
        bytes
            .windows(6)
            .any(|window| window == b"] end\n")
            .then_some(bytes)
    });
    stops(&daemon);
    end
}

/// The lines of the worker, without what is before them.
fn texts(log: &[u8]) -> Vec<Vec<u8>> {
    let text = |line: &[u8]| {
        let at = line.windows(2).rposition(|window| window == b"] ")?;
        Some(line[at + 2..].to_vec())
    };
    let of_a_worker = |line: &&[u8]| {
        let text = String::from_utf8_lossy(line).into_owned();
        said(&text).is_some() || text.starts_with("<6>[") || text.contains("]: [")
    };
    log.split(|b| *b == b'\n')
        .filter(of_a_worker)
        .filter_map(text)
        .collect()
}

const ODD: &[u8] = b"nul\0nul\ncaf\xe9\xff\ncrlf\r\n\x1b[1mesc\n\ntab\t.\nend\n";

#[test]
fn odd_bytes_pass_a_pipe_unchanged() {
    let expected: Vec<&[u8]> = ODD[..ODD.len() - 1].split(|b| *b == b'\n').collect();
    assert_eq!(texts(&through(Stuck::pipe(), ODD)), expected);
}

#[test]
fn odd_bytes_pass_the_journal_unchanged_but_for_nul_which_is_spelt_out() {
    let expected: [&[u8]; 7] = [
        b"nul\\x00nul",
        b"caf\xe9\xff",
        b"crlf\r",
        b"\x1b[1mesc",
        b"",
        b"tab\t.",
        b"end",
    ];
    assert_eq!(texts(&through(Stuck::journal(), ODD)), expected);
}

#[test]
fn odd_bytes_are_spelt_out_for_syslog() {
    let expected: [&[u8]; 7] = [
        b"nul\\x00nul",
        b"caf\\xe9\\xff",
        b"crlf\\r",
        b"\\x1b[1mesc",
        b"",
        b"tab\\t.",
        b"end",
    ];
    assert_eq!(texts(&through(Stuck::syslog(), ODD)), expected);
}
