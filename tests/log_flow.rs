//! What goes through the log: much, odd, from many workers at once, and with `-output=lossy`, on
//! the real program.

mod common;

use common::report::said;
use common::sink::{
    MEMORY_KB, Stuck, acts, first_worker, lost, numbered, numbers, reads_at_a_bounded_rate, rests,
    stops,
};
use common::{Run, TempDir, facts};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

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
fn a_worker_that_writes_to_its_full_pipe_on_and_on_wakes_nobody_while_the_log_is_stuck() {
    let mut daemon = Run::worker(&["-start=0"], &["hammer"]).start_unread();
    let worker = first_worker(&daemon);
    daemon.wait_until("the worker to be busy", || {
        facts::processor(worker) > Duration::ZERO
    });
    rests(&daemon);
    daemon.read_log();
    daemon.wait_for_line("hammer");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
}

#[test]
fn lossy_reads_at_a_bounded_rate_from_a_worker_that_writes_as_fast_as_it_can() {
    let mut stuck = Stuck::pipe();
    let daemon = stuck.start(&["-output=lossy", "-start=0"], &["flood"]);
    let worker = first_worker(&daemon);
    let before = facts::processor(worker);
    reads_at_a_bounded_rate(&daemon);
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
fn a_stop_is_handled_while_a_worker_floods() {
    for _ in 0..5 {
        let mut stuck = Stuck::pipe();
        let daemon = stuck.start(&["-start=0"], &["flood"]);
        first_worker(&daemon);
        stuck.free();
        daemon.wait_until("the flood", || stuck.text.flood() > 10_000);
        stops(&daemon);
    }
}

#[test]
fn two_flooding_workers_get_like_shares_and_a_quiet_one_is_heard() {
    let dir = TempDir::new();
    // The third to come is the quiet one.
    let script = format!(
        "mkdir {0} 2>/dev/null && exec {2} flood; mkdir {1} 2>/dev/null && exec {2} flood; \
         for n in 1 2 3 4 5 6 7 8 9; do echo quiet $n; sleep 0.1; done; exec sleep 100",
        dir.word("1"),
        dir.word("2"),
        common::worker()
    );
    let mut stuck = Stuck::pipe();
    stuck.free();
    let run = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            "-start=0",
            "-workers=3",
            "-command=sh",
        ])
        .args(&["--", "-c", &script]);
    let daemon = run.start_with_stderr(stuck.stderr.take().expect("it is not started yet"));
    daemon.wait_until("the quiet worker's last line", || {
        stuck.text.get().contains("] quiet 9\n")
    });
    daemon.wait_until("both floods", || stuck.text.floods().len() == 2);
    let before = stuck.text.floods();
    daemon.wait_until("more of the floods", || {
        stuck.text.flood() > before.iter().sum::<u64>() + 100_000
    });
    let after = stuck.text.floods();
    let (one, two) = (after[0] - before[0], after[1] - before[1]);
    assert!(one.min(two) * 2 > one.max(two), "{one} and {two} lines");
    stops(&daemon);
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

#[test]
fn memory_that_a_flood_has_taken_goes_back() {
    let dir = TempDir::new();
    let script = format!(
        "echo up; until [ -e {} ]; do sleep 0.1; done; yes | head -n 500000; echo done; \
         exec sleep 100",
        dir.word("go")
    );
    let daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh"])
        .args(&["--", "-c", &script])
        .start();
    daemon.wait_for_line("] up");
    let before = facts::anonymous(daemon.pid());
    dir.write("go", "");
    daemon.wait_for_line("] done");
    daemon.wait_until("its memory to be what it was", || {
        facts::anonymous(daemon.pid()) <= before + 40
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_line_that_is_too_long_for_a_datagram_is_cut_for_syslog_and_not_lost() {
    let mut stuck = Stuck::syslog();
    stuck.free();
    let daemon = stuck.start(&["-start=0"], &["longline", "1000000"]);
    daemon.wait_until("the next line", || {
        stuck.text.get().contains("] after the long line\n")
    });
    let log = stuck.text.get();
    let long = log
        .lines()
        .find(|line| line.contains("] xxx"))
        .expect("it is there");
    assert!(
        long.len() > 7000 && long.len() < 8192,
        "{} bytes",
        long.len()
    );
    assert!(long.contains(" [cut"), "{}", &long[long.len() - 100..]);
    stops(&daemon);
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
