//! A thousand reloads leave nothing behind: no descriptor, no memory, no process.

mod common;

use common::{Daemon, Run, facts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// What it holds when only one worker is left.
fn at_rest(daemon: &Daemon) -> (usize, u64) {
    daemon.wait_until("one worker", || facts::children(daemon.pid()).len() == 1);
    let mut open = 0;
    daemon.wait_until("the descriptors of the others to be closed", || {
        let now = facts::open_fds(daemon.pid()).len();
        std::mem::replace(&mut open, now) == now
    });
    (open, facts::anonymous(daemon.pid()))
}

#[test]
fn a_thousand_reloads_leave_neither_descriptors_nor_memory_behind() {
    let daemon = Run::worker(&["-start=0"], &["silent"]).start();
    daemon.wait_until_live();
    let mut early = (0, 0);
    for n in 1..=1000 {
        let verdict = daemon.reload();
        assert!(verdict.contains("is live"), "{verdict}");
        if n == 100 {
            early = at_rest(&daemon);
        }
    }
    let late = at_rest(&daemon);
    assert_eq!(
        early.0,
        late.0,
        "descriptors: {:#?}",
        facts::open_fds(daemon.pid())
    );
    assert!(
        late.1 <= early.1 + 128,
        "memory grew from {} to {} kB",
        early.1,
        late.1
    );
    assert_eq!(daemon.count("Starting "), 1001);
    assert_eq!(daemon.stop(), 0);
}

/// Numbers without rhyme that are the same in every run.
fn next(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 16
}

#[test]
fn a_storm_of_signals_and_deaths_ends_in_one_worker_and_a_clean_stop() {
    let daemon = Run::worker(&["-start=300", "-respawn"], &["up"]).start();
    daemon.wait_until_live();
    let mut seed = 812;
    for _ in 0..200 {
        match next(&mut seed) % 8 {
            0..=2 => daemon.signal(Signal::SIGHUP),
            3 => daemon.signal(Signal::SIGUSR2),
            4 => daemon.signal(Signal::SIGWINCH),
            5 => daemon.signal(Signal::SIGCHLD),
            _ => {
                // A worker that is gone by now is a zombie of the program's or nobody at all.
                if let Some(pid) = daemon.workers().first() {
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
            }
        }
        daemon.stays_up_for(Duration::from_millis(u64::from(next(&mut seed) % 50)));
    }
    // Quiet again: the back-off ends, and what is there then stays.
    daemon.reload();
    daemon.wait_until("one worker", || facts::children(daemon.pid()).len() == 1);
    assert_eq!(daemon.stop(), 0);
}
