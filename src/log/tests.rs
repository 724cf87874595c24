//! The log into everything that stderr can be, and into a syslog that misbehaves.

use super::drain::MESSAGE_LIMIT;
use super::queue::{LogState, QUEUE_LIMIT};
use super::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{pipe2, read};
use slog::{error, info, warn};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

const START: Instant = Instant(0);

fn seconds(count: u64) -> Instant {
    Instant(count * 1_000_000_000)
}

fn over(stderr: impl AsFd) -> Log {
    Log::open(&LogTarget::Stderr, stderr.as_fd(), None).unwrap()
}

/// A log into a pipe whose end does not block.
fn piped() -> (Log, OwnedFd, OwnedFd) {
    let (end, start) = pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (over(&start), end, start)
}

/// What can be read now.
fn text(end: impl AsFd) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 64 * 1024];
    while let Ok(count @ 1..) = read(&end, &mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Log {
    /// What another image carries on with.
    pub(crate) fn state(&self) -> LogState {
        self.queue.borrow().state.clone()
    }

    fn restore(&mut self, state: LogState) {
        self.queue.borrow_mut().state = state;
    }

    /// Adds one line, or counts it as lost.
    pub(crate) fn worker_line(&mut self, pid: u32, line: &[u8], cut: u64) {
        match self.capacity() {
            Capacity::Free => drop(self.push_worker_line(pid, line, cut)),
            _ => self.count_lost(1),
        }
    }

    /// Waits until the watched descriptor is writable, if one is watched.
    pub(crate) fn await_writable(&self) {
        if self.wait_fd().is_none() {
            return;
        }
        let fd = self.fd().expect("what is watched is open");
        let mut watched = [PollFd::new(fd, PollFlags::POLLOUT)];
        let ready = poll(&mut watched, PollTimeout::from(10_000_u16)).unwrap();
        assert_eq!(ready, 1, "waited for the log to be writable");
    }
}

/// Adds workers' lines and flushes until neither goes on.
fn stick(log: &mut Log) {
    for _ in 0..100_000 {
        if matches!(log.capacity(), Capacity::Full { .. }) {
            return;
        }
        while log.capacity() == Capacity::Free {
            log.worker_line(9, &[b'x'; 200], 0);
        }
        log.flush(START);
    }
    panic!("a log that nobody reads is blocked at last");
}

#[test]
fn a_line_of_our_own_has_the_original_s_form() {
    let (mut log, end, _start) = piped();
    info!(log.logger(), "Listening on {}", "tcp://[::]:8080");
    log.flush(START);
    let line = text(&end);
    let pid = std::process::id();
    let date = line
        .strip_prefix(&format!("socketmaster[{pid}] "))
        .and_then(|line| line.strip_suffix(" Listening on tcp://[::]:8080\n"))
        .unwrap_or_else(|| panic!("{line}"));
    let shape: String = date
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000/00/00 00:00:00");
}

#[test]
fn a_message_of_several_lines_is_several_lines_of_the_log() {
    let (mut log, end, _start) = piped();
    info!(log.logger(), "815 exit status 3\nlast line: no\n");
    log.flush(START);
    let lines = text(&end);
    assert!(lines.lines().all(|line| line.starts_with("socketmaster[")));
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn the_journal_is_told_the_level_and_never_the_worker_s() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let stat = fstat(&ours).unwrap();
    let named = format!("{}:{}", stat.st_dev, stat.st_ino);
    let stream = Some(OsStr::new(&named));
    let mut log = Log::open(&LogTarget::Stderr, ours.as_fd(), stream).unwrap();
    info!(log.logger(), "Starting /bin/x");
    log.worker_line(815, b"<3>GET\0/", 0);
    warn!(log.logger(), "cut");
    error!(log.logger(), "cannot start worker");
    log.flush(START);
    assert_eq!(
        text(&theirs),
        "<6>Starting /bin/x\n<6>[815] <3>GET\\x00/\n<4>cut\n<3>cannot start worker\n"
    );
}

#[test]
fn another_process_s_journal_stream_is_not_ours() {
    let (_end, start) = pipe2(OFlag::O_CLOEXEC).unwrap();
    for named in ["1:2", "", "x:y", "8:12345678901234567890123"] {
        assert!(
            Format::of_stderr(start.as_fd(), Some(OsStr::new(named))) == Format::Plain,
            "{named}"
        );
    }
    assert_eq!(Format::of_stderr(start.as_fd(), None), Format::Plain);
}

#[test]
fn a_cut_line_says_how_much_is_missing() {
    let (mut log, end, _start) = piped();
    log.worker_line(1, b"long", 0);
    log.worker_line(1, b"long", 1);
    log.worker_line(1, b"long", 50_000_000);
    log.flush(START);
    let lines = text(&end);
    let ends: Vec<&str> = lines
        .lines()
        .map(|line| &line[line.find("[1]").unwrap()..])
        .collect();
    let expected = [
        "[1] long",
        "[1] long [cut: 1 more byte]",
        "[1] long [cut: 50000000 more bytes]",
    ];
    assert_eq!(ends, expected);
}

#[test]
fn a_stuck_pipe_blocks_nothing_and_comes_back() {
    let (mut log, end, start) = piped();
    stick(&mut log);
    assert!(log.wait_fd().is_some() && !log.wants_turn());
    assert_eq!(log.retry_at(), None);
    let mode = fcntl(&start, FcntlArg::F_GETFL).unwrap();
    assert_eq!(
        mode & libc::O_NONBLOCK,
        0,
        "the shared description is as it was"
    );
    info!(log.logger(), "said while it was stuck");
    let mut logged = String::new();
    while log.is_pending() {
        logged += &text(&end);
        log.await_writable();
        log.flush(START);
    }
    logged += &text(&end);
    assert!(logged.ends_with(" said while it was stuck\n"));
    assert!(logged.lines().all(|line| line.starts_with("socketmaster[")));
    assert_eq!(log.wait_fd(), None);
}

#[test]
fn our_own_messages_are_bounded_and_counted_while_nobody_reads() {
    let (mut log, end, _start) = piped();
    stick(&mut log);
    let logger = log.logger();
    for number in 0..100_000 {
        info!(logger, "message {number}");
    }
    let lost = log.state().lost;
    assert!(log.queue.borrow().len() <= QUEUE_LIMIT + MESSAGE_LIMIT);
    assert!(lost > 90_000, "{lost}");
    let mut logged = String::new();
    while log.is_pending() {
        logged += &text(&end);
        log.flush(START);
    }
    logged += &text(&end);
    let note = format!(" {lost} lines were lost: the log did not take more\n");
    assert!(logged.ends_with(&note), "{}", &logged[logged.len() - 300..]);
    assert_eq!(log.retry_at(), Some(seconds(1)));
    log.flush(seconds(1));
    assert_eq!(log.queue.borrow().state.bytes.capacity(), 0);
    assert_eq!(log.retry_at(), None);
}

#[test]
fn lost_lines_are_spoken_of_once_a_second_at_most() {
    let (mut log, end, _start) = piped();
    log.count_lost(1);
    log.flush(START);
    assert!(text(&end).ends_with(" 1 line was lost: the log did not take more\n"));
    log.count_lost(2);
    log.flush(START);
    assert_eq!(text(&end), "");
    assert_eq!(log.retry_at(), Some(seconds(1)));
    log.flush(seconds(1));
    assert!(text(&end).contains(" 2 lines were lost"));
    assert_eq!(log.retry_at(), None);
}

#[test]
fn a_terminal_on_hold_blocks_nothing_and_comes_back() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    fcntl(&terminal.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut log = over(&terminal.slave);
    nix::sys::termios::tcflow(&terminal.slave, nix::sys::termios::FlowArg::TCOOFF).unwrap();
    info!(log.logger(), "said on hold");
    log.flush(START);
    assert!(log.is_pending() && log.wait_fd().is_some());
    stick(&mut log);
    assert_eq!(text(&terminal.master), "");
    nix::sys::termios::tcflow(&terminal.slave, nix::sys::termios::FlowArg::TCOON).unwrap();
    log.await_writable();
    let mut logged = String::new();
    for _ in 0..100_000 {
        log.flush(START);
        logged += &text(&terminal.master);
        if !log.is_pending() {
            break;
        }
    }
    assert!(!log.is_pending());
    assert!(logged.contains(" said on hold\r\n"), "{logged:.300}");
}

#[test]
fn a_terminal_that_is_gone_is_survived() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut log = over(&terminal.slave);
    drop(terminal.master);
    info!(log.logger(), "to nobody");
    log.flush(START);
    assert_eq!((log.wait_fd(), log.retry_at()), (None, Some(seconds(1))));
    assert!(!log.wants_turn() && !log.finish(Duration::from_secs(10)));
}

#[test]
fn a_stuck_stream_socket_blocks_nothing_and_comes_back() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut log = over(&ours);
    stick(&mut log);
    info!(log.logger(), "the end");
    let mut logged = String::new();
    while log.is_pending() {
        logged += &text(&theirs);
        log.flush(START);
    }
    logged += &text(&theirs);
    assert!(logged.ends_with(" the end\n"));
    let mode = fcntl(&ours, FcntlArg::F_GETFL).unwrap();
    assert_eq!(mode & libc::O_NONBLOCK, 0);
}

#[test]
fn a_file_is_appended_to_where_others_have_written() {
    let path = temporary("file");
    let file = std::fs::File::create(&path).unwrap();
    let mut log = over(&file);
    std::io::Write::write_all(&mut &file, b"another's line\n").unwrap();
    info!(log.logger(), "ours");
    log.flush(START);
    assert!(!log.is_pending() && log.wait_fd().is_none());
    let logged = std::fs::read_to_string(&path).unwrap();
    assert!(
        logged.starts_with("another's line\nsocketmaster["),
        "{logged}"
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_reader_that_leaves_costs_lines_and_the_next_one_hears_how_many() {
    let path = temporary("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = || {
        let mut options = std::fs::File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        options.read(true).open(&path).unwrap()
    };
    let first = reader();
    let mut log = over(std::fs::File::options().write(true).open(&path).unwrap());
    drop(first);
    log.worker_line(1, b"kept", 0);
    log.flush(START);
    assert_eq!((log.wait_fd(), log.retry_at()), (None, Some(seconds(1))));
    while log.capacity() == Capacity::Free {
        log.worker_line(1, b"kept", 0);
    }
    assert_eq!(log.capacity(), Capacity::Broken);
    log.worker_line(1, b"lost", 0);
    let second = reader();
    log.flush(Instant(1));
    assert_eq!(text(&second), "", "not before its time");
    let mut logged = String::new();
    log.flush(seconds(1));
    while log.is_pending() {
        logged += &text(&second);
        log.flush(seconds(1));
    }
    logged += &text(&second);
    assert!(logged.ends_with(" 1 line was lost: the log did not take more\n"));
    assert!(!logged.contains("] lost\n"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_last_flush_ends_in_time_when_nobody_reads() {
    let (mut log, _end, _start) = piped();
    stick(&mut log);
    let begun = clock::now();
    assert!(!log.finish(Duration::from_millis(50)));
    let taken = Duration::from_nanos(clock::now().0 - begun.0);
    assert!(taken >= Duration::from_millis(50) && taken < Duration::from_secs(10));
}

#[test]
fn the_last_flush_writes_all_to_a_reader_that_reads() {
    let (mut log, end, _start) = piped();
    stick(&mut log);
    log.count_lost(3);
    fcntl(&end, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let reader = std::thread::spawn(move || text(&end));
    info!(log.logger(), "good-bye");
    assert!(log.finish(Duration::from_secs(10)));
    drop((log, _start));
    let logged = reader.join().unwrap();
    assert!(logged.contains(" good-bye\n") && logged.contains(" 3 lines were lost"));
}

#[test]
fn another_image_goes_on_where_this_one_stopped() {
    let (mut log, _end, _start) = piped();
    log.worker_line(1, b"half-", 0);
    let line = log.queue.borrow().bytes().to_vec();
    log.queue.borrow_mut().consume(10);
    log.count_lost(4);
    log.set_level(Level::Warning);
    let state = serde_json::to_string(&log.state()).unwrap();
    let (mut next, end, _start) = piped();
    next.restore(serde_json::from_str(&state).unwrap());
    assert!(next.finish(Duration::from_secs(10)));
    let logged = text(&end);
    assert!(logged.as_bytes().starts_with(&line[10..]), "{logged}");
    assert!(logged.contains(" 4 lines were lost"));
    assert_eq!(next.level(), Level::Warning);
}

#[test]
fn what_an_older_image_did_not_say_has_its_default() {
    let state: LogState = serde_json::from_str("{\"lost\": 3, \"later\": 1}").unwrap();
    let lost = 3;
    assert_eq!(
        state,
        LogState {
            lost,
            ..LogState::default()
        }
    );
}

/// A path nobody else uses.
fn temporary(name: &str) -> PathBuf {
    let pid = std::process::id();
    std::env::temp_dir().join(format!("socketmaster-log-{pid}-{name}"))
}
