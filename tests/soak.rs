//! A thousand reloads leave nothing behind: no descriptor, no memory, no process.

mod common;

use common::{Daemon, Run, facts};

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
