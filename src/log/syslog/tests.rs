//! A syslog daemon that is full, dead, restarted or picky, played by a datagram socket.

use super::super::format::Format;
use super::*;
use crate::config::LogTarget;
use crate::log::{Capacity, Log};
use crate::supervisor::Instant;
use slog::{crit, error, info, warn};
use std::time::Duration;

const START: Instant = Instant(0);
const LATER: Instant = Instant(1_000_000_000);

/// The daemon's side; it removes its path at the end.
struct SyslogDaemon {
    socket: UnixDatagram,
    path: PathBuf,
}

impl SyslogDaemon {
    fn start(name: &str) -> SyslogDaemon {
        let pid = std::process::id();
        let path = std::env::temp_dir().join(format!("socketmaster-syslog-{pid}-{name}"));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        SyslogDaemon { socket, path }
    }

    /// What has arrived, one string a message, without the date.
    fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 64 * 1024];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let (priority, rest) = message.split_once('>').unwrap();
            assert_eq!(rest[15..].find(' '), Some(0), "{message}");
            messages.push(format!("{priority}>{}", &rest[16..]));
        }
        messages
    }

    fn log(&self) -> Log {
        let target = LogTarget::Syslog(self.path.clone().into());
        Log::open(&target, std::io::stderr().as_fd(), None).unwrap()
    }
}

impl Drop for SyslogDaemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn tagged(severity: u8, text: &str) -> String {
    format!("<{severity}>socketmaster[{}]: {text}", std::process::id())
}

#[test]
fn facility_level_tag_and_pid_are_right() {
    let daemon = SyslogDaemon::start("levels");
    let mut log = daemon.log();
    let logger = log.logger();
    info!(logger, "Listening on tcp://[::]:8080");
    warn!(logger, "cut");
    error!(logger, "cannot");
    crit!(logger, "never");
    log.worker_line(815, b"GET /", 0);
    log.flush(START);
    let expected = [
        tagged(30, "Listening on tcp://[::]:8080"),
        tagged(28, "cut"),
        tagged(27, "cannot"),
        tagged(26, "never"),
        tagged(30, "[815] GET /"),
    ];
    assert_eq!(daemon.messages(), expected);
}

#[test]
fn a_queued_message_looks_like_one_that_was_sent_at_once() {
    let daemon = SyslogDaemon::start("queued");
    let mut log = daemon.log();
    log.worker_line(1, b"first", 0);
    for number in 0..2 {
        warn!(log.logger(), "twice");
        error!(log.logger(), "thrice\nfour times");
        info!(log.logger(), "five");
        log.flush(START);
        let messages = daemon.messages();
        let expected = [
            tagged(28, "twice"),
            tagged(27, "thrice"),
            tagged(27, "four times"),
            tagged(30, "five"),
        ];
        assert_eq!(messages[1 - number..], expected);
    }
}

#[test]
fn what_could_break_a_message_is_escaped() {
    let daemon = SyslogDaemon::start("escape");
    let mut log = daemon.log();
    log.worker_line(1, b"a\0b\x1b[0m\tc\r\xff\xe2\x82\xac\xc2\x9b", 0);
    info!(log.logger(), "x\0y");
    log.flush(START);
    let expected = [
        tagged(30, "[1] a\\x00b\\x1b[0m\\tc\\r\\xff\u{20ac}\\xc2\\x9b"),
        tagged(30, "x\\x00y"),
    ];
    assert_eq!(daemon.messages(), expected);
}

#[test]
fn a_daemon_absent_at_start_is_an_error() {
    let path = std::env::temp_dir().join("socketmaster-syslog-absent");
    let target = LogTarget::Syslog(path.clone().into());
    let error = Log::open(&target, std::io::stderr().as_fd(), None)
        .err()
        .unwrap();
    let expected = format!(
        "cannot connect to syslog at {}: No such file or directory",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn nothing_of_a_burst_is_lost_by_a_daemon_that_reads_slowly() {
    let daemon = SyslogDaemon::start("burst");
    let mut log = daemon.log();
    let logger = log.logger();
    let mut expected = Vec::new();
    let mut arrived = Vec::new();
    for number in 0..3000 {
        while log.capacity() != Capacity::Free {
            arrived.extend(daemon.messages());
            log.await_writable();
            log.flush(START);
        }
        match number % 2 {
            0 => log.worker_line(5, format!("{number}").as_bytes(), 0),
            _ => info!(logger, "[5] {number}"),
        }
        expected.push(tagged(30, &format!("[5] {number}")));
        log.flush(START);
    }
    while log.is_pending() {
        arrived.extend(daemon.messages());
        log.flush(START);
    }
    arrived.extend(daemon.messages());
    assert!(arrived == expected, "{} arrived", arrived.len());
}

#[test]
fn a_daemon_that_stalls_holds_the_workers_and_nothing_else() {
    let daemon = SyslogDaemon::start("stall");
    let mut log = daemon.log();
    while !matches!(log.capacity(), Capacity::Full { .. }) {
        log.worker_line(5, &[b'x'; 100], 0);
        log.flush(START);
    }
    assert!(log.wait_fd().is_some() && !log.wants_turn());
    let logger = log.logger();
    for number in 0..100_000 {
        info!(logger, "{number}");
    }
    let lost = log.state().lost;
    assert!(log.queue.borrow().len() < 400 * 1024 && lost > 90_000);
    let mut last = Vec::new();
    while log.is_pending() {
        log.flush(START);
        last.extend(daemon.messages().pop());
    }
    let note = format!("{lost} lines were lost: the log did not take more");
    assert_eq!(last.last(), Some(&tagged(28, &note)));
}

#[test]
fn a_restarted_daemon_gets_what_was_said_meanwhile() {
    let daemon = SyslogDaemon::start("restart");
    let mut log = daemon.log();
    info!(log.logger(), "before");
    assert_eq!(daemon.messages(), [tagged(30, "before")]);
    drop(daemon);
    info!(log.logger(), "meanwhile");
    log.worker_line(8, b"meanwhile too", 0);
    log.flush(START);
    assert_eq!((log.wait_fd(), log.retry_at()), (None, Some(LATER)));
    assert!(!log.wants_turn());
    let daemon = SyslogDaemon::start("restart");
    log.flush(LATER);
    info!(log.logger(), "after");
    log.flush(LATER);
    let expected = [
        tagged(30, "meanwhile"),
        tagged(30, "[8] meanwhile too"),
        tagged(30, "after"),
    ];
    assert_eq!(daemon.messages(), expected);
    assert_eq!(log.retry_at(), None);
}

#[test]
fn a_daemon_replaced_between_two_messages_is_followed_at_once() {
    let daemon = SyslogDaemon::start("replaced");
    let mut log = daemon.log();
    info!(log.logger(), "one");
    drop(daemon);
    let daemon = SyslogDaemon::start("replaced");
    info!(log.logger(), "two");
    log.flush(START);
    info!(log.logger(), "three");
    assert_eq!(daemon.messages(), [tagged(30, "two"), tagged(30, "three")]);
}

#[test]
fn a_daemon_that_is_full_and_then_dies_is_followed() {
    let daemon = SyslogDaemon::start("full-dead");
    let mut log = daemon.log();
    for number in 0..100 {
        info!(log.logger(), "{number}");
    }
    log.flush(START);
    assert!(log.wait_fd().is_some());
    let taken = daemon.messages().len();
    drop(daemon);
    let daemon = SyslogDaemon::start("full-dead");
    let mut arrived = Vec::new();
    while log.is_pending() {
        log.flush(START);
        arrived.extend(daemon.messages());
    }
    assert_eq!(taken + arrived.len(), 100);
    assert_eq!(arrived.last(), Some(&tagged(30, "99")));
}

#[test]
fn a_long_line_is_cut_and_marked() {
    let daemon = SyslogDaemon::start("long");
    let mut log = daemon.log();
    log.worker_line(1, &[b'x'; 8192], 77);
    log.worker_line(1, &[0xff; 8192], 0);
    info!(log.logger(), "{}", "\u{20ac}".repeat(5000));
    log.flush(START);
    let messages = daemon.messages();
    assert_eq!(messages.len(), 3);
    assert!(messages[0].ends_with("x [cut] [cut: 77 more bytes]"));
    assert!(messages.iter().all(|message| message.len() < 8192));
    assert!(messages[2].ends_with("\u{20ac} [cut]"));
}

#[test]
fn a_message_the_socket_refuses_for_its_length_is_sent_short() {
    let daemon = SyslogDaemon::start("short");
    let mut queue = Queue::new(Format::Syslog, 1);
    let (mut syslog, _) = Syslog::open(&daemon.path, queue.formatter.syslog.clone()).unwrap();
    nix::sys::socket::setsockopt(&syslog.socket, nix::sys::socket::sockopt::SndBuf, &0).unwrap();
    for text in [&[b'y'; 7000][..], b"next"] {
        let line = queue.own_line(Level::Info, text);
        queue.push_own_line(&line);
    }
    while !queue.is_empty() {
        assert_ne!(syslog.flush(&mut queue), SinkState::Absent);
        let messages = daemon.messages();
        assert!(
            messages
                .iter()
                .all(|m| m.ends_with("y [cut]") || m.ends_with("next"))
        );
    }
}

#[test]
fn the_last_flush_waits_for_a_daemon_that_is_just_restarting() {
    let daemon = SyslogDaemon::start("finish");
    let path = daemon.path.clone();
    let mut log = daemon.log();
    drop(daemon);
    info!(log.logger(), "good-bye");
    assert!(!log.finish(Duration::from_millis(10)));
    let daemon = SyslogDaemon::start("finish");
    assert_eq!(daemon.path, path);
    assert!(log.finish(Duration::from_secs(10)));
    assert_eq!(daemon.messages(), [tagged(30, "good-bye")]);
}
