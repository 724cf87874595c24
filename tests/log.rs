//! The log: its form, what of a worker's output is in it, and that it never stalls anything.

mod common;

use common::terminal::Terminal;
use common::{Daemon, Run, TempDir, facts, report::said, worker};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

/// A worker of shell.
fn shell(flags: &[&str], script: &str) -> Run {
    Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh"])
        .args(flags)
        .args(&["--", "-c", script])
}

/// What the worker said, line for line, as bytes.
fn lines_of(daemon: &Daemon, pid: i32) -> Vec<Vec<u8>> {
    let start = format!(" [{pid}] ").into_bytes();
    daemon
        .log_bytes()
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = line
                .windows(start.len())
                .position(|window| window == start)?;
            Some(line[at + start.len()..].to_vec())
        })
        .collect()
}

#[test]
fn every_line_has_the_original_s_form() {
    let daemon = Run::worker(&["-start=0"], &["up"]).start();
    let pid = daemon.worker_that_said("up");
    daemon.reload();
    daemon.wait_for_line(&format!("{pid} signal: terminated"));
    assert_eq!(daemon.stop(), 0);
    let log = daemon.log();
    let header = format!("socketmaster[{}] ", daemon.pid());
    for line in log.lines() {
        let rest = line
            .strip_prefix(&header)
            .unwrap_or_else(|| panic!("no header: {line}"));
        let shape: String = rest
            .chars()
            .take(20)
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000/00/00 00:00:00 ", "{line}");
    }
    let messages: Vec<&str> = log.lines().map(|line| &line[header.len() + 20..]).collect();
    assert!(
        messages
            .iter()
            .any(|m| m.starts_with("Listening on tcp://127.0.0.1:")),
        "{log}"
    );
    let starting = format!("Starting {} [{} up]", worker(), worker());
    assert!(
        messages.contains(&starting.as_str()),
        "{starting:?} is not in: {log}"
    );
    assert!(messages.contains(&format!("[{pid}] up").as_str()), "{log}");
    assert!(
        messages
            .iter()
            .any(|m| m.starts_with(&format!("{pid} signal: terminated"))),
        "{log}"
    );
}

#[test]
fn times_are_local_times() {
    let hour = || {
        let output = Command::new("date")
            .arg("+%Y/%m/%d %H")
            .env("TZ", "XXX-9")
            .output();
        String::from_utf8(output.expect("date is there").stdout).expect("digits")
    };
    let before = hour();
    let daemon = Run::worker(&["-start=0"], &["up"])
        .env("TZ", "XXX-9")
        .start();
    let line = daemon.wait_for_line("Listening on");
    let after = hour();
    assert!(
        [before, after]
            .iter()
            .any(|hour| line.contains(hour.trim())),
        "{line}"
    );
}

#[test]
fn stdout_and_stderr_are_merged_and_an_unterminated_last_line_is_kept() {
    let daemon = shell(&[], "echo one; echo two >&2; echo; printf 'no end'; exit 3").start();
    assert_eq!(daemon.exit_code(), 3);
    let log = daemon.log();
    let pid = log
        .lines()
        .find_map(said)
        .expect("the worker said something")
        .0;
    let lines = lines_of(&daemon, pid);
    assert_eq!(lines, [&b"one"[..], b"two", b"", b"no end"]);
    let end = log
        .find(&format!("{pid} exit status 3"))
        .expect("its end is logged");
    assert!(log.find("no end").is_some_and(|at| at < end), "{log}");
}

#[test]
fn bytes_pass_through_unchanged() {
    let dir = TempDir::new();
    let bytes: &[u8] = b"caf\xe9 \xff\xfe\r\n\0nul\0\n\x1b[31mred\x1b[0m\n\xe2\x82\n";
    let path = dir.write("bytes", bytes);
    let words = ["cat", path.to_str().expect("UTF-8"), "0"];
    let daemon = Run::worker(&["-start=0"], &words).start();
    assert_eq!(daemon.exit_code(), 0);
    let pid = daemon
        .log()
        .lines()
        .find_map(said)
        .expect("it said something")
        .0;
    let wanted: Vec<&[u8]> = bytes
        .strip_suffix(b"\n")
        .expect("so")
        .split(|b| *b == b'\n')
        .collect();
    assert_eq!(lines_of(&daemon, pid), wanted);
}

#[test]
fn a_worker_that_prints_30000_lines_and_exits_at_once_loses_none_of_them() {
    for _ in 0..3 {
        let daemon = Run::worker(&["-start=0"], &["lines", "30000", "3"]).start();
        assert_eq!(daemon.exit_code(), 3);
        let log = daemon.log();
        let pid = log.lines().find_map(said).expect("it said something").0;
        let lines = lines_of(&daemon, pid);
        assert_eq!(lines.len(), 30_000);
        for (n, line) in lines.iter().enumerate() {
            assert!(
                line.starts_with(format!("line {n} ").as_bytes()),
                "line {n}"
            );
        }
        let last = log.find("line 29999 ").expect("it is there");
        let end = log
            .find(&format!("{pid} exit status 3"))
            .expect("its end is logged");
        assert!(last < end, "the end was reported before the last line");
    }
}

#[test]
fn a_grandchild_that_holds_the_pipe_delays_neither_the_end_s_line_nor_ours() {
    let dir = TempDir::new();
    let alive = dir.word("");
    let daemon = Run::worker(&["-start=0"], &["grandchild", &alive]).start();
    assert_eq!(daemon.wait_for_exit().code(), Some(5));
    daemon.wait_for_line("leaving a grandchild");
    daemon.wait_for_line(" exit status 5");
}

#[test]
fn after_a_worker_with_a_grandchild_a_reload_goes_on_and_its_words_are_logged() {
    let dir = TempDir::new();
    let script = format!(
        "(trap '' TERM; while [ -d {0} ]; do echo still here; sleep 0.1; done) & wait",
        dir.path().display()
    );
    let daemon = shell(&[], &script).start();
    let old = daemon.worker_that_said("still here");
    daemon.reload();
    daemon.wait_for_line(&format!("{old} signal: terminated"));
    daemon.worker_that_said("still here");
    drop(dir);
    daemon.wait_for_exit();
}

#[test]
fn a_long_line_is_cut_and_marked_and_the_next_one_is_whole() {
    let daemon = Run::worker(&["-start=0"], &["longline", "1000000"]).start();
    daemon.wait_for_line("] after the long line");
    let pid = daemon.workers()[0];
    let lines = lines_of(&daemon, pid);
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert!(first.starts_with(&[b'x'; 8000]), "{} bytes", first.len());
    assert!(first.len() < 8192 + 200, "{} bytes", first.len());
    assert!(!first.ends_with(b"x"), "the cut is not marked");
    assert_eq!(last, b"after the long line");
    assert!(lines.len() < 200, "{} lines", lines.len());
}

#[test]
fn a_line_of_50_mb_costs_no_memory() {
    let daemon = Run::worker(&["-start=0"], &["longline", "50000000"]).start();
    daemon.wait_for_line("] after the long line");
    let kilobytes = facts::anonymous(daemon.pid());
    assert!(kilobytes < 4096, "{kilobytes} kB");
}

/// A flood into a log that nobody reads: a reload and a stop must work, without a busy loop.
fn survives_a_stuck_log(daemon: &Daemon) {
    let old = daemon.wait_for("the first worker", || daemon.workers().first().copied());
    daemon.wait_until_blocked(old);
    daemon.wait_until_idle();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the new worker alone", || match daemon.workers()[..] {
        [pid] => pid != old,
        _ => false,
    });
    assert!(
        facts::anonymous(daemon.pid()) < 4096,
        "{} kB",
        facts::anonymous(daemon.pid())
    );
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_for_exit();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_pipe_that_nobody_reads_stalls_no_reload_and_no_stop() {
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_unread();
    survives_a_stuck_log(&daemon);
}

#[test]
fn a_terminal_that_nobody_reads_stalls_no_reload_and_no_stop() {
    let terminal = Terminal::new();
    let stderr = Stdio::from(terminal.open());
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_with_stderr(stderr);
    survives_a_stuck_log(&daemon);
    drop(terminal);
}

#[test]
fn a_stream_socket_that_nobody_reads_stalls_no_reload_and_no_stop() {
    let (theirs, ours) = UnixStream::pair().expect("a pair");
    let stderr = Stdio::from(OwnedFd::from(theirs));
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_with_stderr(stderr);
    survives_a_stuck_log(&daemon);
    drop(ours);
}

#[test]
fn the_log_goes_on_when_somebody_reads_it_again() {
    let mut daemon = Run::worker(&["-start=0"], &["flood"]).start_unread();
    let old = daemon.wait_for("the first worker", || daemon.workers().first().copied());
    daemon.wait_until_blocked(old);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the new worker alone", || match daemon.workers()[..] {
        [pid] => pid != old,
        _ => false,
    });
    daemon.read_log();
    daemon.wait_for_line(&format!("{old} signal: terminated"));
    daemon.wait_until("the verdict", || daemon.verdicts() == 1);
    // Every line is whole: nothing was torn by the full pipe.
    let header = format!("socketmaster[{}] ", daemon.pid());
    let log = daemon.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    assert!(whole.lines().all(|line| line.starts_with(&header)));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn lossy_lets_the_service_go_on_while_the_log_is_stuck_and_counts_what_is_lost() {
    let dir = TempDir::new();
    // More than any pipe holds, then the file that shows that the worker came through.
    let script = format!(
        "yes 'a line' | head -c 8000000; touch {}; exec sleep 60",
        dir.word("through")
    );
    let mut daemon = shell(&["-output=lossy"], &script).start_unread();
    daemon.wait_until("the worker to have written it all", || {
        dir.join("through").exists()
    });
    daemon.read_log();
    daemon.wait_for_line("lost");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_reader_that_takes_everything_now_and_then_gets_everything() {
    // The log once stood still when one write emptied its whole queue.
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    // Lines of 128 bytes with what we put before them, so that they fill pipe and queue exactly.
    let script = "head=\"socketmaster[$PPID] 0000/00/00 00:00:00 [$$] \"
        line=$(head -c $((127 - ${#head})) /dev/zero | tr '\\0' x)
        yes \"$line\" | head -n 5000
        exit 3";
    let daemon = shell(&[], script).start_with_stderr(Stdio::from(writer));
    let (mut reader, mut log) = (File::from(reader), Vec::new());
    let mut all_at_once = vec![0; 1 << 20];
    loop {
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(*common::LIMIT).expect("it is short");
        assert_eq!(poll(&mut fds, limit), Ok(1), "the log stands still");
        match reader.read(&mut all_at_once).expect("a pipe") {
            0 => break,
            n => log.extend_from_slice(&all_at_once[..n]),
        }
        // The worker is faster: the pipe and the queue are full again by then.
        let _ = poll(&mut [], 10u8);
    }
    assert_eq!(daemon.wait_for_exit().code(), Some(3));
    let lines = log.split(|byte| *byte == b'\n');
    assert_eq!(lines.filter(|line| line.ends_with(b"xxx")).count(), 5000);
}

#[test]
fn a_reader_that_went_away_does_not_end_the_service() {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let stderr = Stdio::from(writer);
    let dir = TempDir::new();
    let daemon = Run::bare()
        .args(&[&format!("-listen=unix://{}", dir.word("s")), "-start=0"])
        .args(&[&format!("-command={}", worker()), "http"])
        .start_with_stderr(stderr);
    drop(reader);
    let address = common::Address::Path(dir.join("s"));
    let first = daemon.wait_for("an answer", || address.get().ok());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("an answer of another worker", || {
        address.get().ok().filter(|body| *body != first)
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
}

#[test]
fn a_full_disk_does_not_end_the_service() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let daemon = Run::worker(&["-start=0"], &["flood"]).start_with_stderr(Stdio::from(full));
    let old = daemon.wait_for("the first worker", || daemon.workers().first().copied());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("another worker", || {
        daemon.workers().iter().any(|pid| *pid != old)
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
}

#[test]
fn the_log_can_be_a_file() {
    let dir = TempDir::new();
    let file = File::create(dir.join("log")).expect("the directory is ours");
    let words = ["lines", "1000", "3"];
    let daemon = Run::worker(&["-start=0"], &words).start_with_stderr(Stdio::from(file));
    assert_eq!(daemon.wait_for_exit().code(), Some(3));
    let log = fs::read_to_string(dir.join("log")).expect("it is there");
    assert_eq!(
        log.lines().filter(|line| line.contains("] line ")).count(),
        1000
    );
    assert!(log.contains(" exit status 3"), "{log:.2000}");
}

#[test]
fn inherit_puts_nothing_between_a_worker_and_our_own_output() {
    let script = "readlink /proc/self/fd/1 /proc/self/fd/2 >&2; echo plain >&2; exec sleep 60";
    let daemon = shell(&["-output=inherit"], script).start();
    daemon.wait_until("the worker's line as it is", || {
        daemon.log().lines().any(|l| l == "plain")
    });
    let stderr = facts::open_fds(daemon.pid())
        .into_iter()
        .find(|(fd, _)| *fd == 2);
    let link = stderr.expect("stderr is open").1;
    assert!(daemon.log().lines().any(|line| line == link), "{link}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_journal_gets_its_own_form() {
    let (theirs, mut ours) = UnixStream::pair().expect("a pair");
    let theirs = File::from(OwnedFd::from(theirs));
    let meta = theirs.metadata().expect("it is open");
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let daemon = shell(&[], "echo '<3>hello'; exit 3")
        .env("JOURNAL_STREAM", stream)
        .start_with_stderr(Stdio::from(theirs));
    let mut log = String::new();
    ours.read_to_string(&mut log).expect("UTF-8");
    assert_eq!(daemon.wait_for_exit().code(), Some(3));
    for line in log.lines() {
        let level = line.strip_prefix('<').and_then(|rest| rest.get(..2));
        assert!(level.is_some_and(|l| l.ends_with('>')), "no level: {line}");
        assert!(!line.contains("socketmaster["), "{line}");
    }
    assert!(
        log.lines()
            .any(|l| l.starts_with("<6>[") && l.ends_with("] <3>hello")),
        "{log}"
    );
    assert!(log.contains(" exit status 3"), "{log}");
}

#[test]
fn a_journal_stream_that_is_not_our_stderr_is_not_believed() {
    let daemon = Run::worker(&["-start=0"], &["up"])
        .env("JOURNAL_STREAM", "8:123")
        .start();
    let line = daemon.wait_for_line("Listening on");
    assert!(line.starts_with("socketmaster["), "{line}");
}

#[test]
fn syslog_gets_one_message_a_line_with_our_tag_and_the_daemon_facility() {
    let dir = TempDir::new();
    let syslog = UnixDatagram::bind(dir.join("log")).expect("it can be bound");
    syslog
        .set_read_timeout(Some(*common::LIMIT))
        .expect("a limit");
    let flags = ["-syslog", &format!("-syslog-socket={}", dir.word("log"))];
    let daemon = shell(&flags, "echo hello; exit 3").start();
    let mut buffer = [0; 65536];
    let mut messages = Vec::new();
    while !messages
        .iter()
        .any(|message: &String| message.contains(" exit status 3"))
    {
        let n = syslog
            .recv(&mut buffer)
            .expect("a message before the limit");
        messages.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    for message in &messages {
        let number = message
            .strip_prefix('<')
            .and_then(|rest| rest.split('>').next());
        let number: u8 = number
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{message}"));
        assert_eq!(number >> 3, 3, "the facility is daemon: {message}");
        assert!(
            message.contains(&format!("socketmaster[{}]: ", daemon.pid())),
            "{message}"
        );
        assert!(!message.trim_end().contains('\n'), "{message}");
    }
    assert!(
        messages.iter().any(|m| m.contains("Listening on")),
        "{messages:?}"
    );
    assert!(
        messages.iter().any(|m| m.trim_end().ends_with("] hello")),
        "{messages:?}"
    );
    assert_eq!(daemon.exit_code(), 3);
    assert_eq!(daemon.log(), "");
}

#[test]
fn an_absent_syslog_is_an_error_at_start() {
    let dir = TempDir::new();
    let flags = ["-syslog", &format!("-syslog-socket={}", dir.word("nobody"))];
    let output = Run::worker(&flags, &["up"]).output();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains(&dir.word("nobody")), "{log}");
}
