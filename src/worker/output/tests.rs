//! Workers' pipes into a log whose reader the test is.

use super::*;
use crate::config::LogTarget;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};
use std::os::fd::AsRawFd;

const START: Instant = Instant(0);
/// When a log that has been full since the start counts as stuck.
const STUCK: Instant = Instant(100_000_000);
/// How many pipes of dead workers are kept, where that is not the question.
const MANY: usize = 64;

/// The end that we read, which does not block, and the other, which does.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (end, start) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((end, start))
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

/// Fills a pipe with whole lines; says how many.
fn fill(start: &OwnedFd) -> usize {
    let mut count = 0;
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    while crate::sys::io::write_nowait(start.as_fd(), &line) == Ok(1024) {
        count += 1;
    }
    count
}

/// The outputs, and the log that they go to.
struct Pipes {
    outputs: Outputs,
    log: Log,
    /// Where the log can be read; none of it goes elsewhere.
    end: OwnedFd,
    now: Instant,
    closed: Vec<ChildId>,
    /// How often the system refused to read a pipe.
    unread: usize,
}

impl Pipes {
    fn new() -> Pipes {
        let (end, start) = pipe().unwrap();
        Pipes {
            outputs: Outputs::default(),
            log: Log::open(&LogTarget::Stderr, start.as_fd(), None).unwrap(),
            end,
            now: START,
            closed: Vec::new(),
            unread: 0,
        }
    }

    /// A worker whose id is its pid, and the end that it holds.
    fn worker(&mut self, pid: u32) -> (ChildId, OwnedFd) {
        let (end, start) = pipe().unwrap();
        let id = ChildId(pid.into());
        self.outputs.adopt(id, pid, end);
        (id, start)
    }

    /// What the loop does in a turn in which these pipes were readable.
    fn turn(&mut self, readable: &[ChildId]) {
        for id in readable {
            self.outputs.mark_readable(*id);
        }
        let events = self.outputs.read(&mut self.log, self.now);
        self.take(events);
        self.log.flush(self.now);
        self.outputs.resume(&self.log, self.now);
    }

    fn die(&mut self, id: ChildId, most: usize) {
        let end = format!("{} exit status 1", id.0);
        let log = &mut self.log;
        let events = self.outputs.end(id, end, most, log, self.now);
        self.take(events);
    }

    fn take(&mut self, events: Vec<OutputEvent>) {
        for event in events {
            match event {
                OutputEvent::Ended(text) => slog::info!(self.log.logger(), "{}", text),
                OutputEvent::CutOff(pid) => slog::warn!(self.log.logger(), "cut off {}", pid),
                OutputEvent::Unread => self.unread += 1,
                OutputEvent::Closed(id, _) => self.closed.push(id),
            }
        }
    }

    /// What is logged from now on until nothing more comes of itself.
    fn rest(&mut self) -> String {
        let mut logged = text(&self.end);
        while self.outputs.wants_turn() || self.log.is_pending() {
            self.turn(&[]);
            logged += &text(&self.end);
        }
        logged
    }

    /// The same, as lines without their dates.
    fn lines(&mut self) -> Vec<String> {
        let message = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
        self.rest().lines().map(message).collect()
    }

    /// Lets a worker write until the log is stuck with all that it can hold.
    fn block(&mut self) {
        let (id, start) = self.worker(1);
        for _ in 0..20 {
            fill(&start);
            self.turn(&[id]);
            if self.outputs.paused.contains_key(&id) {
                // What the pipe holds does not matter here.
                self.outputs.close(id);
                return;
            }
        }
        panic!("a log that nobody reads holds workers back at last");
    }

    /// How much waits in a worker's pipe.
    fn unread(&self, id: ChildId) -> usize {
        bytes_waiting(self.outputs.pipes[&id].as_fd()).unwrap()
    }
}

#[test]
fn a_worker_s_lines_are_logged_with_its_pid() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(815);
    write(&start, b"GET /\n\nhalf").unwrap();
    world.turn(&[id]);
    assert_eq!(world.lines(), ["[815] GET /", "[815] "]);
    drop(start);
    world.turn(&[id]);
    assert_eq!(world.lines(), ["[815] half"]);
    assert_eq!(world.closed, [id]);
}

#[test]
fn one_turn_reads_no_more_of_a_pipe_than_its_share_and_comes_back() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(1);
    let wide = fcntl(&start, FcntlArg::F_SETPIPE_SZ(2 * TURN as i32)).unwrap();
    fill(&start);
    let before = world.unread(id);
    assert!(before > TURN && wide as usize >= before);
    world.turn(&[id]);
    assert_eq!(world.unread(id), before - TURN);
    assert!(world.outputs.wants_turn());
}

#[test]
fn each_of_many_floods_gets_its_turn() {
    let mut world = Pipes::new();
    let workers: Vec<_> = (1..=5).map(|pid| world.worker(pid)).collect();
    let ids: Vec<ChildId> = workers.iter().map(|(id, _)| *id).collect();
    let mut logged = String::new();
    for _ in 0..30 {
        for (_, start) in &workers {
            fill(start);
        }
        world.turn(&ids);
        logged += &text(&world.end);
    }
    for pid in 1..=5 {
        let lines = logged.matches(&format!(" [{pid}] x")).count();
        assert!(lines > 60, "{lines} of worker {pid}");
    }
}

#[test]
fn a_stuck_log_leaves_the_pipe_unread_and_loses_nothing() {
    let mut world = Pipes::new();
    let mut expected = Vec::new();
    let (id, start) = world.worker(7);
    while !world.outputs.paused.contains_key(&id) {
        while world.unread(id) < 32 * 1024 {
            let line = format!("{:0200}", expected.len());
            write(&start, format!("{line}\n").as_bytes()).unwrap();
            expected.push(format!("[7] {line}"));
        }
        world.turn(&[id]);
    }
    let unread = world.unread(id);
    world.turn(&[]);
    assert_eq!(world.unread(id), unread);
    assert!(!world.outputs.wants_turn() && world.outputs.retry_at().is_none());
    drop(start);
    let logged = world.lines();
    assert!(logged == expected, "{} of {}", logged.len(), expected.len());
    assert_eq!(world.closed, [id]);
}

#[test]
fn a_worker_that_must_not_wait_is_read_on_at_a_bounded_rate_and_its_lines_are_counted() {
    let mut world = Pipes::new();
    world.block();
    let (id, start) = world.worker(2);
    world.outputs.allow_drops(id);
    world.now = STUCK;
    let mut dropped = fill(&start);
    let mut turns = 0;
    while world.outputs.retry_at().is_none() {
        world.turn(&[id]);
        dropped += fill(&start);
        turns += 1;
        assert!(turns < 1000, "the rate is bounded");
    }
    let next = Instant(STUCK.0 + 10_000_000);
    assert_eq!(world.outputs.retry_at(), Some(next));
    // One second later the reader reads, and the worker goes on.
    world.now = Instant(1_000_000_000);
    while world.unread(id) > 0 {
        world.turn(&[]);
        world.now = Instant(world.now.0 + 10_000_000);
    }
    let mut logged = world.rest();
    write(&start, b"good-bye\n").unwrap();
    world.turn(&[id]);
    logged += &world.rest();
    let note = format!(" {dropped} lines were lost: the log did not take more\n");
    let end = &logged[logged.len() - 300..];
    assert!(logged.contains(&note), "{note} not in {end}");
    assert!(logged.ends_with("[2] good-bye\n"));
}

#[test]
fn a_log_that_is_only_slow_holds_even_such_a_worker_back_and_loses_nothing() {
    let mut world = Pipes::new();
    world.block();
    let (id, start) = world.worker(2);
    world.outputs.allow_drops(id);
    fill(&start);
    let before = world.unread(id);
    for millis in 0..1000 {
        // A slow reader takes a page a millisecond, 4 MB/s.
        world.now = Instant(millis * 1_000_000);
        read(&world.end, &mut [0; 4096]).unwrap();
        fill(&start);
        world.turn(&[id]);
        assert!(
            world
                .outputs
                .retry_at()
                .is_none_or(|later| later > world.now)
        );
    }
    assert_eq!(world.log.state().lost, 0, "no line was lost");
    assert!(world.unread(id) + CHUNK >= before);
}

#[test]
fn what_a_dead_worker_said_is_logged_before_its_end_although_a_grandchild_holds_the_pipe() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(3);
    for _ in 0..3000 {
        write(&start, b"last words\n").unwrap();
    }
    write(&start, b"without newline").unwrap();
    world.block();
    world.die(id, MANY);
    assert!(!world.outputs.all_announced());
    write(&start, b"the grandchild speaks\n").unwrap();
    let logged = world.rest();
    assert!(world.outputs.all_announced());
    assert_eq!(logged.matches("[3] last words\n").count(), 3000);
    world.turn(&[id]);
    let logged = logged + &world.rest();
    let last: Vec<&str> = logged.lines().rev().take(3).collect();
    assert!(last[2].ends_with("[3] without newline"), "{last:?}");
    assert!(last[1].ends_with("3 exit status 1"), "{last:?}");
    assert!(last[0].ends_with("[3] the grandchild speaks"), "{last:?}");
    assert_eq!(world.closed, [], "the pipe is still read");
}

#[test]
fn a_dead_worker_that_has_filled_a_large_pipe_is_logged_whole_and_not_a_byte_more() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(3);
    fcntl(&start, FcntlArg::F_SETPIPE_SZ(4 * CHUNK as i32)).unwrap();
    let written = fill(&start) - 1;
    read(&world.outputs.pipes[&id], &mut [0; 1024]).unwrap();
    world.block();
    world.die(id, MANY);
    assert!(world.unread(id) > CHUNK, "memory is bounded");
    write(&start, b"the grandchild speaks\n").unwrap();
    let logged = world.rest();
    let end = logged.find(" 3 exit status 1\n").unwrap();
    assert_eq!(logged[..end].matches("[3] x").count(), written);
    assert!(logged.ends_with("[3] the grandchild speaks\n"));
}

#[test]
fn a_silent_worker_s_end_is_logged_at_its_death_although_the_log_is_stuck() {
    let mut world = Pipes::new();
    world.block();
    let (id, _start) = world.worker(3);
    world.die(id, MANY);
    assert!(world.outputs.all_announced());
    assert!(world.lines().contains(&"3 exit status 1".to_owned()));
}

#[test]
fn a_worker_that_closed_its_output_is_remembered_until_its_end() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(3);
    write(&start, b"I am a daemon\n").unwrap();
    drop(start);
    world.turn(&[id]);
    assert_eq!(world.lines(), ["[3] I am a daemon"]);
    assert_eq!(world.closed, [id]);
    assert_eq!(world.outputs.last_lines(id), ["I am a daemon"]);
    world.die(id, MANY);
    assert_eq!(world.lines(), ["3 exit status 1"]);
    assert!(world.outputs.streams.is_empty());
}

#[test]
fn a_verdict_has_the_last_lines_although_the_log_is_stuck() {
    let mut world = Pipes::new();
    world.block();
    let (id, start) = world.worker(4);
    write(&start, b"cannot open config\nno such file\n").unwrap();
    drop(start);
    let expected = ["cannot open config", "no such file"];
    assert_eq!(world.outputs.last_lines(id), expected);
    world.die(id, MANY);
    assert!(!world.outputs.all_announced());
    let lines = world.lines();
    let last = &lines[lines.len() - 3..];
    assert_eq!(
        last,
        [
            "[4] cannot open config",
            "[4] no such file",
            "4 exit status 1"
        ]
    );
}

#[test]
fn a_verdict_has_the_last_lines_that_were_logged_already() {
    let mut world = Pipes::new();
    let (id, start) = world.worker(4);
    write(&start, b"one\ntwo\n").unwrap();
    world.turn(&[id]);
    write(&start, b"three").unwrap();
    assert_eq!(world.outputs.last_lines(id), ["one", "two", "three"]);
    assert_eq!(world.lines(), ["[4] one", "[4] two"]);
    write(&start, b" and more\n").unwrap();
    world.turn(&[id]);
    assert_eq!(world.lines(), ["[4] three and more"]);
}

#[test]
fn a_verdict_asked_for_again_and_again_costs_a_bounded_amount_of_memory() {
    let mut world = Pipes::new();
    world.block();
    let (id, start) = world.worker(4);
    for _ in 0..20 {
        fill(&start);
        assert_eq!(world.outputs.last_lines(id).len(), 1);
    }
    assert!(world.outputs.streams[&id].lines.len() <= 2 * CHUNK);
}

#[test]
fn the_oldest_of_too_many_dead_workers_pipes_is_closed_and_what_is_lost_is_counted() {
    let mut world = Pipes::new();
    world.block();
    let (first, talker) = world.worker(2);
    write(&talker, b"one\ntwo\n").unwrap();
    let (second, _grandchild) = world.worker(3);
    let (third, _another) = world.worker(4);
    let (fourth, _one_more) = world.worker(5);
    world.die(first, 2);
    world.die(second, 2);
    assert_eq!(world.closed, []);
    world.die(third, 2);
    assert_eq!(world.closed, [first]);
    world.die(fourth, 2);
    assert_eq!(world.closed, [first, second]);
    let lines = world.lines();
    let said = |text: &str| lines.iter().filter(|line| *line == text).count();
    assert_eq!(said("2 exit status 1"), 1);
    assert_eq!(said("2 lines were lost: the log did not take more"), 1);
    assert_eq!(said("cut off 3"), 1);
    assert_eq!(said("[2] one"), 0);
}

#[test]
fn a_full_disk_costs_lines_not_the_service() {
    let mut world = Pipes::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    world.log = Log::open(&LogTarget::Stderr, full.as_fd(), None).unwrap();
    assert!(full.as_raw_fd() > 2);
    let (id, start) = world.worker(5);
    let mut waits = 0;
    for turn in 0..100 {
        fill(&start);
        world.now = Instant(turn * 1_000_000);
        world.turn(&[id]);
        let paused = world.outputs.paused.get(&id);
        assert_ne!(
            paused,
            Some(&None),
            "nobody may be held back by a full disk"
        );
        waits += usize::from(paused.is_some());
    }
    assert!(waits > 0, "dropping has a bounded rate");
    assert_eq!(world.log.wait_fd(), None);
    assert_eq!(world.log.retry_at(), Some(Instant(1_000_000_000)));
    assert!(world.log.state().lost > 0, "lost lines are counted");
}

#[test]
fn a_pipe_that_the_system_refuses_to_read_is_tried_again_and_closed_when_its_worker_is_gone() {
    let mut world = Pipes::new();
    let id = ChildId(6);
    let directory = std::fs::File::open("/").unwrap();
    world.outputs.adopt(id, 6, directory.into());
    world.turn(&[id]);
    world.turn(&[]);
    assert_eq!(world.unread, 1);
    assert!(!world.outputs.wants_turn());
    // The poller marks it again in a moment.
    world.turn(&[id]);
    assert_eq!(world.unread, 2);
    world.die(id, MANY);
    assert_eq!(world.lines(), ["6 exit status 1"]);
    assert_eq!(world.closed, [id]);
}

#[test]
fn another_image_goes_on_with_half_read_lines_and_what_a_dead_worker_left() {
    let mut world = Pipes::new();
    world.block();
    let (alive, start) = world.worker(2);
    write(&start, b"half").unwrap();
    assert_eq!(world.outputs.last_lines(alive), ["half"]);
    let (dead, _grandchild) = world.worker(3);
    write(&_grandchild, b"last words").unwrap();
    world.die(dead, MANY);
    let state = serde_json::to_string(&world.outputs.streams).unwrap();
    let pipes = std::mem::take(&mut world.outputs.pipes);
    world.outputs = Outputs {
        streams: serde_json::from_str(&state).unwrap(),
        pipes,
        ..Outputs::default()
    };
    world.rest();
    write(&start, b" and half\n").unwrap();
    let events = world.outputs.read_all(&mut world.log, START);
    world.take(events);
    let lines = world.lines();
    assert_eq!(
        lines,
        ["[2] half and half", "[3] last words", "3 exit status 1"]
    );
}
