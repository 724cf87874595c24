//! Upgrades: what a client hears of them, how many workers serve meanwhile, and what a failed one
//! costs.

use super::Place;
use super::common::Daemon;
use super::place::printed;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[test]
fn an_upgrade_streams_what_happens_and_ends_with_upgrade_done() {
    let place = Place::new();
    let daemon = place.live("-n 2 -m manual -s 0.1 -b 127.0.0.1:0", "einhorn at-once");
    let old = daemon.workers();
    let mut client = place.client();
    client.order("upgrade", &[]);
    let lines = client.messages();
    assert_eq!(lines[0], "Upgrading smoothly, as commanded");
    assert_eq!(lines[1], "Starting smooth upgrade from version 0...");
    assert_eq!(lines.last().map(String::as_str), Some("Upgrade done"));
    for wanted in [
        "===> Launched ",
        "Received a manual ACK from ",
        "Up to 2 / 2 manual ACKs",
        "Upgraded successfully to version 1 (Einhorn 1.1.1).",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(wanted)),
            "{lines:?}"
        );
    }
    for pid in old {
        assert!(
            lines.contains(&format!("Sending USR2 to [{pid}]")),
            "{lines:?}"
        );
    }
    // The connection is as good as before.
    assert_eq!(client.ask("louder", &[]), "Verbosity set to 0");
}

#[test]
fn without_an_id_there_is_one_answer() {
    let place = Place::new();
    let daemon = place.live("-m 0 -s 0.1", "einhorn never");
    let mut client = place.client();
    client.send("{\"command\":\"upgrade\"}");
    let answer = client.read().expect("an answer");
    assert_eq!(answer["message"], "Upgrading smoothly, as commanded");
    assert_eq!(answer.get("wait"), None);
    daemon.wait_for_line("generation 2 is live");
    assert_eq!(client.ask("louder", &[]), "Verbosity set to 0");
}

#[test]
fn a_fleet_comes_up_at_once_and_needs_no_leave() {
    let place = Place::new();
    let options = "-n 3 -m manual -s 60 --max-upgrade-additional 1";
    let daemon = place.live(options, "einhorn at-once");
    let (out, status) = printed(&place.shell(&["-e", "upgrade_fleet"]));
    assert!(out.starts_with("Upgrading fleet, as commanded\n"), "{out}");
    assert!(out.ends_with("Upgrade done\n"), "{out}");
    assert_eq!(status, 0);
    daemon.wait_until("three workers", || daemon.workers().len() == 3);
}

#[test]
fn a_smooth_upgrade_starts_one_worker_at_a_time() {
    let place = Place::new();
    let daemon = place.live("-n 3 -m 0 -s 0.4", "einhorn at-once");
    let old: BTreeSet<i32> = daemon.workers().into_iter().collect();
    let began = Instant::now();
    let mut most = 0;
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the upgrade to be over", || {
        most = most.max(daemon.workers().len());
        let now = daemon.workers();
        now.len() == 3 && now.iter().all(|pid| !old.contains(pid))
    });
    // Two intervals lie between three starts.
    assert!(
        began.elapsed() >= Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
    assert!(most <= 5, "{most} workers at a time");
}

#[test]
fn max_upgrade_additional_bounds_the_workers() {
    let place = Place::new();
    let daemon = place.live(
        "-n 4 -m manual -s 0.01 --max-unacked 9 --max-upgrade-additional 1",
        "einhorn at-once",
    );
    let end = place.dir.word("go");
    place.next(&format!("einhorn when {end}"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("a fifth worker", || daemon.workers().len() == 5);
    daemon.stays_up_for(Duration::from_millis(300));
    assert_eq!(daemon.workers().len(), 5);
    place.dir.write("go", "");
    daemon.wait_for_line("generation 2 is live");
}

#[test]
fn max_unacked_bounds_those_that_start() {
    let place = Place::new();
    let daemon = place.live("-n 4 -m manual -s 0.01 --max-unacked 2", "einhorn at-once");
    let go = place.dir.word("go");
    place.next(&format!("einhorn when {go}"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("two new workers", || daemon.workers().len() == 6);
    daemon.stays_up_for(Duration::from_millis(300));
    assert_eq!(daemon.workers().len(), 6);
    place.dir.write("go", "");
    daemon.wait_for_line("generation 2 is live");
}

/// einhorn lets this client wait for ever.
#[test]
fn a_failed_upgrade_tells_who_waits_and_keeps_the_old_workers() {
    for mode in ["-m manual", "-m 1"] {
        let place = Place::new();
        let options = format!("-n 2 {mode} -s 0.1 -b 127.0.0.1:0");
        place.next("einhorn at-once");
        let daemon = place.run(&options).start();
        daemon.wait_until_live();
        let old = daemon.workers();
        place.next("einhorn fail");
        let (out, status) = printed(&place.shell(&["-e", "upgrade"]));
        let last = out.lines().last().expect("it says something");
        assert!(last.starts_with("Upgrade failed: "), "{out}");
        assert!(last.contains("exited with status 7"), "{out}");
        assert_eq!(status, 0);
        daemon.wait_for_workers(&old);
        daemon.address().get().expect("they serve");
        place.next("einhorn at-once");
        let (out, _) = printed(&place.shell(&["-e", "upgrade"]));
        assert!(out.ends_with("Upgrade done\n"), "{out}");
    }
}

fn oldest(daemon: &Daemon, old: &[i32]) -> usize {
    let now = daemon.workers();
    old.iter().filter(|pid| now.contains(pid)).count()
}

/// einhorn counts un-acked workers of the first as capacity, and stops those that serve.
#[test]
fn a_second_upgrade_during_the_first_stops_nobody_who_serves() {
    let place = Place::new();
    let options = "-n 2 -m manual -s 0.1 --max-unacked 4 -b 127.0.0.1:0";
    let daemon = place.live(options, "einhorn at-once");
    let old = daemon.workers();
    place.next(&format!("einhorn when {}", place.dir.word("go")));
    let mut first = place.client();
    first.order("upgrade", &[]);
    // A worker that is superseded may be asked to stop before it has said anything.
    daemon.wait_for_count("] up", 4);
    let mut second = place.client();
    second.order("upgrade", &[]);
    daemon.wait_for_line("superseded");
    daemon.wait_for_line("reload 3");
    assert_eq!(oldest(&daemon, &old), 2, "both old ones serve");
    daemon.address().get().expect("they serve");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("reload 4");
    assert_eq!(oldest(&daemon, &old), 2, "both old ones serve");
    place.dir.write("go", "");
    // Whoever asked hears of the last one, which is newer than what they asked for.
    for client in [&mut first, &mut second] {
        let lines = client.messages();
        assert_eq!(
            lines.last().map(String::as_str),
            Some("Upgrade done"),
            "{lines:?}"
        );
    }
    daemon.wait_until("two new workers alone", || {
        daemon.workers().len() == 2 && oldest(&daemon, &old) == 0
    });
}

#[test]
fn many_hups_in_a_row_leave_n_workers() {
    let place = Place::new();
    let daemon = place.live("-n 3 -m 0.1 -s 0.05 -b 127.0.0.1:0", "einhorn at-once");
    let old = daemon.workers();
    for _ in 0..20 {
        daemon.signal(Signal::SIGHUP);
        daemon.address().get().expect("somebody serves");
    }
    daemon.wait_until("three new workers alone", || {
        daemon.workers().len() == 3 && oldest(&daemon, &old) == 0
    });
    daemon.address().get().expect("they serve");
}

#[test]
fn a_stop_during_an_upgrade_tells_who_waits() {
    let place = Place::new();
    let daemon = place.live("-m manual -s 0.1", "einhorn at-once");
    place.next("einhorn never");
    let mut client = place.client();
    client.order("upgrade", &[]);
    daemon.wait_for_count("] up", 2);
    daemon.signal(Signal::SIGTERM);
    let lines = client.messages();
    let last = lines.last().expect("it says something");
    assert!(last.starts_with("Upgrade failed: "), "{lines:?}");
    assert_eq!(daemon.exit_code(), 0);
}
