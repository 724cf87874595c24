//! Workers' pipes into a log whose reader the test is.

use super::*;
use crate::config::LogTarget;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, write};
use std::os::fd::AsRawFd;

/// When a log that has been full since 0 counts as stuck.
const STUCK: Instant = Instant(100_000_000);

/// The end that we read, which does not block, and the other, which does.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (end, start) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((end, start))
}

/// A log into a pipe, and the pipe's end.
fn log() -> (Log, OwnedFd) {
    let (end, start) = pipe().unwrap();
    let log = Log::open(&LogTarget::Stderr, start.as_fd(), None).unwrap();
    (log, end)
}

/// A worker's pipe and the end that the worker holds.
fn worker(pid: u32) -> (Pipe, OwnedFd) {
    let (end, start) = pipe().unwrap();
    (Pipe::new(end, pid), start)
}

/// What can be read now.
fn text(end: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 64 * 1024];
    while let Ok(count @ 1..) = read(end, &mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

/// The log's lines without their dates.
fn lines(end: &OwnedFd) -> Vec<String> {
    let lines = text(end);
    let message = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    lines.lines().map(message).collect()
}

/// Fills a pipe with whole lines; says how many.
fn fill(start: &OwnedFd) -> usize {
    let mut count = 0;
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    while crate::sys::io::write_nowait(start.as_fd(), &line) == Ok(1024) {
        count += 1;
    }
    count
}

/// Drains and flushes until the log is stuck with all it can hold.
fn block(log: &mut Log, pid: u32) -> usize {
    let (mut pipe, start) = worker(pid);
    let mut count = 0;
    for _ in 0..20 {
        count += fill(&start);
        let drained = pipe.drain(log, Instant(0), TURN);
        log.flush(Instant(0));
        if drained == Drained::Held {
            // What the dropped pipe held does not matter here.
            return count;
        }
    }
    panic!("a log that nobody reads holds workers back at last");
}

#[test]
fn a_worker_s_lines_are_logged_with_its_pid() {
    let (mut log, end) = log();
    let (mut pipe, start) = worker(815);
    write(&start, b"GET /\n\nhalf").unwrap();
    assert_eq!(pipe.drain(&mut log, Instant(0), TURN), Drained::Empty);
    log.flush(Instant(0));
    assert_eq!(lines(&end), ["[815] GET /", "[815] "]);
    drop(start);
    assert_eq!(pipe.drain(&mut log, Instant(0), TURN), Drained::Eof);
    log.flush(Instant(0));
    assert_eq!(lines(&end), ["[815] half"]);
}

#[test]
fn one_call_reads_no_more_than_its_budget() {
    let (mut log, _end) = log();
    let (mut pipe, start) = worker(1);
    fill(&start);
    let before = bytes_waiting(pipe.fd()).unwrap();
    assert_eq!(pipe.drain(&mut log, Instant(0), CHUNK), Drained::More);
    assert_eq!(bytes_waiting(pipe.fd()).unwrap(), before - CHUNK);
}

#[test]
fn a_stuck_log_leaves_the_pipe_unread_and_loses_nothing() {
    let (mut log, end) = log();
    let mut expected = Vec::new();
    let (mut pipe, start) = worker(7);
    let mut number = 0;
    loop {
        while bytes_waiting(pipe.fd()).unwrap() < 32 * 1024 {
            let line = format!("{number:0200}");
            write(&start, format!("{line}\n").as_bytes()).unwrap();
            expected.push(format!("[7] {line}"));
            number += 1;
        }
        let drained = pipe.drain(&mut log, Instant(0), TURN);
        log.flush(Instant(0));
        if drained == Drained::Held {
            break;
        }
    }
    assert!(log.is_blocked());
    let unread = bytes_waiting(pipe.fd()).unwrap();
    assert_eq!(pipe.drain(&mut log, Instant(0), TURN), Drained::Held);
    assert_eq!(bytes_waiting(pipe.fd()).unwrap(), unread);
    drop(start);
    let mut logged = Vec::new();
    let mut ended = false;
    while !ended || log.pending() {
        logged.push(text(&end));
        log.flush(Instant(0));
        ended |= pipe.drain(&mut log, Instant(0), TURN) == Drained::Eof;
    }
    logged.push(text(&end));
    let logged = logged.concat();
    let logged: Vec<&str> = logged
        .lines()
        .map(|line| &line[line.find("[7]").unwrap()..])
        .collect();
    assert!(logged == expected, "{} of {}", logged.len(), expected.len());
}

#[test]
fn a_worker_that_must_not_wait_is_read_on_at_a_bounded_rate_and_its_lines_are_counted() {
    let (mut log, end) = log();
    block(&mut log, 1);
    let (mut pipe, start) = worker(2);
    pipe.allow_drops();
    let mut dropped = fill(&start);
    let mut read_in_one_span = 0;
    let next = loop {
        match pipe.drain(&mut log, STUCK, TURN) {
            Drained::Wait(next) => break next,
            Drained::Empty | Drained::More => {
                read_in_one_span += 1;
                dropped += fill(&start);
            }
            other => panic!("{other:?}"),
        }
        assert!(read_in_one_span < 1000, "the rate is bounded");
    };
    assert_eq!(next, Instant(STUCK.0 + 10_000_000));
    // One second later the reader reads, and the worker goes on.
    let mut now = Instant(1_000_000_000);
    while pipe.drain(&mut log, now, TURN) != Drained::Empty {
        now = Instant(now.0 + 10_000_000);
    }
    let mut logged = String::new();
    while log.pending() {
        logged += &text(&end);
        log.flush(now);
    }
    write(&start, b"good-bye\n").unwrap();
    assert_eq!(pipe.drain(&mut log, now, TURN), Drained::Empty);
    log.flush(now);
    logged += &text(&end);
    let note = format!(" {dropped} lines were lost: the log did not take more\n");
    assert!(
        logged.contains(&note),
        "{note} not in {}",
        &logged[logged.len() - 300..]
    );
    assert!(logged.ends_with("[2] good-bye\n"));
}

#[test]
fn a_log_that_is_only_slow_holds_even_such_a_worker_back_and_loses_nothing() {
    let (mut log, end) = log();
    block(&mut log, 1);
    let (mut pipe, start) = worker(2);
    pipe.allow_drops();
    fill(&start);
    let before = bytes_waiting(pipe.fd()).unwrap();
    for millis in 0..1000 {
        // A slow reader takes a page a millisecond, 4 MB/s.
        let now = Instant(millis * 1_000_000);
        read(&end, &mut [0; 4096]).unwrap();
        log.flush(now);
        fill(&start);
        match pipe.drain(&mut log, now, TURN) {
            Drained::Wait(later) => assert!(later > now),
            other => assert_eq!(other, Drained::More),
        }
    }
    assert_eq!(log.unwritten().1, 0, "no line was lost");
    assert!(bytes_waiting(pipe.fd()).unwrap() + CHUNK >= before);
}

#[test]
fn what_a_dead_worker_said_is_complete_although_a_grandchild_holds_the_pipe() {
    let (mut log, end) = log();
    let (mut pipe, start) = worker(3);
    for _ in 0..3000 {
        write(&start, b"last words\n").unwrap();
    }
    write(&start, b"without newline").unwrap();
    pipe.mark_death();
    assert!(!pipe.is_complete());
    write(&start, b"the grandchild speaks\n").unwrap();
    let mut logged = String::new();
    while !pipe.is_complete() {
        pipe.drain(&mut log, Instant(0), CHUNK);
        log.flush(Instant(0));
        logged += &text(&end);
    }
    assert!(bytes_waiting(pipe.fd()).unwrap() > 0, "not a byte too many");
    while pipe.drain(&mut log, Instant(0), TURN) != Drained::Empty || log.pending() {
        log.flush(Instant(0));
        logged += &text(&end);
    }
    assert_eq!(logged.matches("[3] last words\n").count(), 3000);
    let last: Vec<&str> = logged.lines().rev().take(2).collect();
    assert!(last[1].ends_with("[3] without newline"), "{last:?}");
    assert!(last[0].ends_with("[3] the grandchild speaks"), "{last:?}");
}

#[test]
fn a_silent_worker_is_complete_at_its_death() {
    let (mut log, _end) = log();
    let (mut pipe, _start) = worker(3);
    pipe.mark_death();
    assert!(pipe.is_complete());
    assert_eq!(pipe.drain(&mut log, Instant(0), TURN), Drained::Empty);
    assert!(!log.pending());
}

#[test]
fn a_verdict_has_the_last_lines_although_the_log_is_stuck() {
    let (mut log, _end) = log();
    block(&mut log, 1);
    let (mut pipe, start) = worker(4);
    write(&start, b"cannot open config\nno such file\n").unwrap();
    drop(start);
    pipe.mark_death();
    assert_eq!(pipe.drain(&mut log, Instant(0), TURN), Drained::Held);
    assert_eq!(pipe.last_lines(), ["cannot open config", "no such file"]);
    assert!(!pipe.is_complete());
}

#[test]
fn a_verdict_has_the_last_lines_that_were_logged_already() {
    let (mut log, _end) = log();
    let (mut pipe, start) = worker(4);
    write(&start, b"one\ntwo\n").unwrap();
    pipe.drain(&mut log, Instant(0), TURN);
    write(&start, b"three").unwrap();
    assert_eq!(pipe.last_lines(), ["one", "two", "three"]);
}

#[test]
fn a_full_disk_costs_lines_not_the_service() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut log = Log::open(&LogTarget::Stderr, full.as_fd(), None).unwrap();
    assert!(full.as_raw_fd() > 2);
    let (mut pipe, start) = worker(5);
    let mut waits = 0;
    for turn in 0..100 {
        fill(&start);
        let now = Instant(turn * 1_000_000);
        match pipe.drain(&mut log, now, TURN) {
            Drained::Held => panic!("nobody may be held back by a full disk"),
            Drained::Wait(_) => waits += 1,
            _ => {}
        }
        log.flush(now);
    }
    assert!(waits > 0, "dropping has a bounded rate");
    assert_eq!(log.wait_fd(), None);
    assert_eq!(log.retry_at(), Some(Instant(1_000_000_000)));
    assert!(log.unwritten().1 > 0, "lost lines are counted");
}
