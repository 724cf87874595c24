//! Bugs of the past, most of which the simulation found: each script is named after its symptom.

use super::script::{Script, fleet, policy, rolling};
use crate::supervisor::{Gate, Policy, Style};
use std::time::Duration;

/// The reload waited for ever: N + K left room for only a part of the fleet.
#[test]
fn a_fleet_larger_than_k_was_never_whole() {
    let mut s = Script::up(rolling(2, 1));
    s.at(10_000)
        .reload(Style::Fleet)
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010).ready(3).does("ready 3", "13000");
    s.at(10_020).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1; TERM to 2; live 2 2/2", "-");
}

/// The worker had generation 0, to which no rollout belonged.
#[test]
fn a_worker_was_started_before_the_start() {
    let mut s = Script::new(policy());
    s.at(0).resize(3).does("", "-");
    s.at(1).tick().does("", "-");
}

/// A new worker was asked to stop by the resize, then again by the stop.
#[test]
fn a_stop_finished_a_resize_first() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_001).resize(1).does("TERM to 3; TERM to 1", "13000");
    s.at(10_002)
        .resize(3)
        .does("spawn 5 of 2; spawn 6 of 2", "13000");
    s.at(10_003).term().does("abandoned 2 0/3 keeping 1; close; TERM to 1; TERM to 2; TERM to 3; TERM to 4; TERM to 5; TERM to 6", "-");
}

/// Their generation was superseded, and the generation that superseded it was rolled back.
#[test]
fn superseded_workers_that_died_left_the_live_set_short() {
    let (gate, start) = (Gate::Report, Duration::ZERO);
    let policy = Policy {
        gate,
        start,
        respawn: true,
        ..fleet(2)
    };
    let mut s = Script::new(policy);
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "30000");
    s.at(1).running(1).does("", "30000");
    s.at(1).running(2).does("", "-");
    s.at(2).hup().does(
        "remembered; superseded 1 0/2; begin 2; spawn 3 of 2; spawn 4 of 2",
        "30002",
    );
    s.at(3).ready(1).does("ready 1", "30002");
    s.at(4)
        .exits(2, 1)
        .does("not replacing 2, 1 ready", "30002");
    s.at(5).exits(3, 1).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 1 after 3) keeping 1; spawn 5 of 1",
        "10005",
    );
}

/// The same in a service that had been up: the missing workers were counted before these died.
#[test]
fn superseded_workers_that_died_later_left_the_live_set_short() {
    let (gate, start) = (Gate::Report, Duration::ZERO);
    let policy = Policy {
        gate,
        start,
        respawn: true,
        ..fleet(2)
    };
    let mut s = Script::up(policy);
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "40000");
    s.running(3).does("", "40000");
    s.running(4).does("", "-");
    s.at(10_001)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 5 of 1", "40001");
    s.at(10_001)
        .exits(2, 1)
        .does("replacing 2 in 0; spawn 6 of 1", "40001");
    s.at(10_002).hup().does(
        "remembered; TERM to 5; TERM to 6; superseded 2 0/2; begin 3; spawn 7 of 3; spawn 8 of 3",
        "20002",
    );
    s.at(10_003)
        .exits(3, 1)
        .does("not replacing 3, 0 ready", "20002");
    s.at(10_004).ready(4).does("ready 4", "20002");
    s.at(10_005).exits(7, 1).does(
        "TERM to 8; rolled back 3 0/2 (7 exited 1 after 3) keeping 2; spawn 9 of 2",
        "20002",
    );
}

/// A reload that exceeded our descriptors superseded a crash loop that could still have become
/// ready, and then we exited.
#[test]
fn a_reload_without_room_ended_a_crash_loop() {
    let policy = Policy {
        respawn: true,
        capacity: 3,
        ..fleet(2)
    };
    let mut s = Script::new(policy);
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    s.at(3000).tick().does(
        "TERM to 1; replacing 1 in 0; TERM to 2; replacing 2 in 0; spawn 3 of 1",
        "6000",
    );
    s.at(3002)
        .hup()
        .does("remembered; failed 2 0/2 (no room, 5 of 3)", "6000");
    s.at(3003)
        .exits(3, 1)
        .does("replacing 3 in 100; spawn 4 of 1", "6003");
    s.at(3103).exits(1, 1).does("spawn 5 of 1", "6003");
}

/// Old workers that died during a rolling reload that failed were not replaced while a fleet came
/// up.
#[test]
fn a_service_stayed_short_during_the_next_reload() {
    let mut s = Script::up(Policy {
        respawn: true,
        ..fleet(2)
    });
    s.at(10_000)
        .reload(Style::Rolling)
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010)
        .exits(1, 1)
        .does("not replacing 1, 1 ready", "13000");
    s.at(10_020).hup().does("remembered", "13000");
    s.at(10_030).exits(3, 1).does("TERM to 4; rolled back 2 0/2 (3 exited 1 after 30) keeping 1; begin 3; spawn 5 of 1; spawn 6 of 3; spawn 7 of 3", "13030");
}

/// A replacement was started beside the last old worker, and N + K left no room for the new one.
#[test]
fn a_resize_left_a_place_of_the_old_ones_that_blocked_the_new() {
    let mut s = Script::up(Policy {
        respawn: true,
        ..fleet(2)
    });
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "13000");
    s.at(10_000).exits(3, 1).does("replacing 3 in 100", "10100");
    s.at(10_010)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2", "10100");
    s.at(10_020).resize(1).does("TERM to 4", "13010");
    s.at(10_100).tick().does("", "13010");
    assert_eq!(s.core.backoffs().count(), 0);
}

/// An old worker's replacement was started instead of a worker of the new generation, and hung.
#[test]
fn an_old_place_took_the_room_of_the_new_generation() {
    let start = Duration::ZERO;
    let policy = Policy {
        start,
        respawn: true,
        ..rolling(2, 1)
    };
    let mut s = Script::up(policy);
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "40000");
    s.at(10_000).exits(3, 1).does("replacing 3 in 100", "10100");
    s.at(10_001)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2", "40001");
    s.running(4).does("", "40001");
    s.running(5).does("", "-");
    s.at(10_002)
        .exits(2, 1)
        .does("not replacing 2, 0 ready", "10100");
    s.at(10_003).hup().does(
        "remembered; superseded 2 0/2; begin 3; spawn 6 of 3",
        "40003",
    );
    s.at(10_200)
        .exits(6, 1)
        .does("replacing 6 in 0; spawn 7 of 3", "40200");
}
