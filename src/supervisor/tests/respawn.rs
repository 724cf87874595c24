//! Workers that replace dead ones: the back-off, einhorn's pace, and the limit of descriptors.

use super::script::{Script, at_ms, fleet, policy, rolling};
use crate::supervisor::{End, Event, Gate, Pace, Policy};
use std::time::Duration;

fn respawning(workers: u32) -> Policy {
    Policy {
        respawn: true,
        ..fleet(workers)
    }
}

/// einhorn's pace: starts are at least `seconds` apart, and one worker is unready at a time.
fn paced(policy: Policy, seconds: u64) -> Policy {
    let interval = Duration::from_secs(seconds);
    let max_unready = 1;
    let pace = Some(Pace {
        interval,
        max_unready,
    });
    Policy {
        pace,
        respawn: true,
        gate: Gate::Report,
        ..policy
    }
}

/// For a minute, each worker dies as soon as it is started. Returns how many were started, and the
/// delays that were announced.
fn crash_loop(s: &mut Script) -> (usize, Vec<String>) {
    let end = at_ms(70_000);
    let mut did = Vec::new();
    loop {
        did.extend(s.feed(Event::Tick));
        for id in s.core.workers().ids() {
            did.extend(s.feed(Event::Gone(id, End::Exited(1))));
        }
        let next = s.core.next_deadline(at_ms(10_000));
        match next.filter(|at| *at < end && s.core.workers().is_empty()) {
            Some(at) => s.at(at.0 / 1_000_000),
            None if s.core.workers().is_empty() => break,
            None => continue,
        };
    }
    let starts = did.iter().filter(|it| it.starts_with("spawn")).count();
    let delays = did.iter().filter_map(|it| it.strip_prefix("replacing "));
    (starts, delays.map(|it| it.to_string()).collect())
}

#[test]
fn the_back_off_doubles_from_a_tenth_to_thirty_seconds() {
    let mut s = Script::up(respawning(1));
    let (_, delays) = crash_loop(s.at(10_000));
    let expected = [
        "1 in 0",
        "2 in 100",
        "3 in 200",
        "4 in 400",
        "5 in 800",
        "6 in 1600",
        "7 in 3200",
        "8 in 6400",
        "9 in 12800",
        "10 in 25600",
        "11 in 30000",
    ];
    assert_eq!(delays, expected);
}

#[test]
fn a_crash_loop_starts_ten_workers_a_place_in_its_first_minute() {
    let mut s = Script::up(respawning(8));
    let (starts, _) = crash_loop(s.at(10_000));
    assert_eq!(starts, 80);
}

#[test]
fn the_back_off_falls_back_after_ten_seconds_of_readiness() {
    let mut s = Script::up(respawning(1));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "13000"); // it was ready for 7 s
    s.at(10_001).exits(2, 1).does("replacing 2 in 100", "10101");
    s.at(10_101).tick().does("spawn 3 of 1", "13101");
    s.at(10_101).running(3).does("", "13101");
    s.at(13_101).tick().does("ready 3", "-");
    s.at(23_100).exits(3, 1).does("replacing 3 in 200", "23300"); // ready for 9.999 s
    s.at(23_300).tick().does("spawn 4 of 1", "26300");
    s.at(23_300).running(4).does("", "26300");
    s.at(26_300).tick().does("ready 4", "-");
    s.at(36_300)
        .exits(4, 1)
        .does("replacing 4 in 0; spawn 5 of 1", "39300"); // for ten
    s.at(36_301).exits(5, 1).does("replacing 5 in 100", "36401");
}

#[test]
fn a_respawned_worker_passes_the_gate_and_failing_it_is_a_death() {
    let gate = Gate::Report;
    let mut s = Script::up(Policy {
        gate,
        ..respawning(2)
    });
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "13000");
    s.at(10_010).running(3).does("", "13010");
    s.at(13_010)
        .tick()
        .does("TERM to 3; replacing 3 in 100", "13110");
    s.at(13_110).tick().does("spawn 4 of 1", "16110");
    s.at(13_120).ready(4).does("ready 4", "23010");
}

#[test]
fn a_fleet_that_reloads_is_refilled_meanwhile() {
    let mut s = Script::up(respawning(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 5 of 1", "13000");
    s.at(10_020).exits(3, 1).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 1 after 20) keeping 1",
        "13010",
    );
    assert_eq!(s.core.workers().tally(1).staying(), 2);
}

#[test]
fn a_first_generation_that_fails_goes_on_in_its_back_off() {
    let mut s = Script::new(respawning(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(10).running(1).does("", "3010");
    s.at(20)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "3020");
    assert_eq!(s.core.gate_deadline(), None, "a retry extends no time-out");
    s.at(30).exits(2, 1).does("replacing 2 in 100", "130");
    assert_eq!(s.core.backoffs().collect::<Vec<_>>(), [at_ms(130)]);
    s.at(130).tick().does("spawn 3 of 1", "3130");
    s.at(140).running(3).does("", "3140");
    s.at(3140).tick().does("ready 3", "confirm");
    s.confirm().does("live 1 1/1", "-");
    let workers = s.core.workers().iter();
    assert_eq!(workers.map(|(_, it)| it.restarts).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_program_that_never_ran_is_not_tried_for_ever() {
    let mut s = Script::new(respawning(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    s.at(1)
        .exec_fails(1, "executing", 2)
        .does("replacing 1 in 0; spawn 3 of 1", "3000");
    s.at(2)
        .exec_fails(2, "executing", 2)
        .does("replacing 2 in 0; spawn 4 of 1", "3001");
    s.at(3)
        .exec_fails(3, "executing", 2)
        .does("replacing 3 in 100", "103");
    s.at(4)
        .exec_fails(4, "executing", 2)
        .does("not replacing 4, 0 ready", "confirm");
    s.confirm()
        .does("failed 1 0/2 (4 executing 2 after 2); close; exit 1", "-");
}

#[test]
fn a_program_that_once_ran_is_waited_for() {
    let mut s = Script::up(respawning(1));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "13000");
    s.at(10_010)
        .exec_fails(2, "executing", 2)
        .does("replacing 2 in 100", "10110");
    s.at(10_110).tick().does("spawn 3 of 1", "13110");
    s.at(10_120)
        .exec_fails(3, "executing", 2)
        .does("replacing 3 in 200", "10320");
}

#[test]
fn the_pace_starts_one_at_a_time_and_waits_until_it_is_ready() {
    let mut s = Script::new(paced(rolling(2, 1), 1));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000"); // the first generation at once
    s.at(10).ready(1).does("ready 1", "3000");
    s.at(10).ready(2).does("ready 2", "confirm");
    s.confirm().does("live 1 2/2", "-");
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.at(10_010).ready(3).does("ready 3", "confirm");
    s.confirm().does("TERM to 1", "11000");
    s.at(11_000).tick().does("spawn 4 of 2", "14000");
    s.at(11_010).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 2; live 2 2/2", "-");
}

#[test]
fn deaths_before_readiness_stretch_the_pace() {
    let mut s = Script::up(paced(fleet(1), 1));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "13000");
    s.at(10_100)
        .exits(2, 1)
        .does("replacing 2 in 1400", "11500"); // 1.5 s after the last start
    s.at(11_500).tick().does("spawn 3 of 1", "14500");
    s.at(11_600)
        .exits(3, 1)
        .does("replacing 3 in 2150", "13750"); // 2.25 s
    s.at(13_750).tick().does("spawn 4 of 1", "16750");
    s.at(13_800).ready(4).does("ready 4", "-"); // forgotten
    s.at(13_900).exits(4, 1).does("replacing 4 in 850", "14750");
}

#[test]
fn a_fleet_is_started_at_once_whatever_the_pace() {
    let mut s = Script::up(paced(fleet(3), 1));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
}

#[test]
fn unready_workers_of_a_superseded_generation_do_not_hold_the_next_one_up() {
    let start = Duration::ZERO;
    let mut s = Script::new(Policy {
        start,
        ..paced(rolling(2, 1), 1)
    });
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "30000");
    s.at(1).running(1).does("", "30000");
    s.at(1).running(2).does("", "-");
    s.at(5000).hup().does(
        "remembered; superseded 1 0/2; begin 2; spawn 3 of 2",
        "35000",
    );
    s.at(5010).ready(3).does("ready 3", "confirm");
    s.confirm().does("TERM to 1", "6000");
}

#[test]
fn a_pace_of_no_time_still_backs_off() {
    let mut s = Script::up(paced(fleet(1), 0));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "13000");
    s.at(10_000).exits(2, 1).does("replacing 2 in 100", "10100");
}

#[test]
fn a_reload_that_does_not_fit_is_not_started() {
    let capacity = 3;
    let mut s = Script::up(Policy {
        capacity,
        ..fleet(2)
    });
    s.at(10_000)
        .hup()
        .does("rolled back 2 0/2 (no room, 4 of 3) keeping 1", "-");
    s.at(10_010)
        .exits(1, 1)
        .does("not replacing 1, 1 ready", "-");
}

#[test]
fn a_first_generation_that_does_not_fit_ends_in_status_one() {
    let capacity = 1;
    let mut s = Script::new(Policy {
        capacity,
        ..fleet(2)
    });
    s.at(0)
        .start()
        .does("failed 1 0/2 (no room, 2 of 1); close; exit 1", "-");
}

#[test]
fn a_rolling_reload_waits_for_those_who_drain_when_there_is_no_room() {
    let capacity = 4;
    let mut s = Script::up(Policy {
        capacity,
        ..rolling(3, 1)
    });
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_010).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1", "-");
    s.at(20_000).exits(1, 0).does("spawn 5 of 2", "23000");
}

#[test]
fn a_place_waits_for_room() {
    let (capacity, gate) = (2, Gate::Report);
    let mut s = Script::up(Policy {
        capacity,
        gate,
        ..respawning(2)
    });
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "13000");
    s.at(13_000)
        .tick()
        .does("TERM to 3; replacing 3 in 100", "23000"); // 3 hangs, and drains
    s.at(13_100).tick().does("", "23000");
    s.at(13_200).exits(3, 0).does("spawn 4 of 1", "16200");
}

#[test]
fn a_number_of_workers_that_does_not_fit_is_refused() {
    let capacity = 10;
    let mut s = Script::up(Policy {
        capacity,
        ..policy()
    });
    s.at(10_000).resize(11).does("no room for 11 of 10", "-");
    assert_eq!(s.core.policy().workers, 1);
    s.resize(u32::MAX).does("no room for 4294967295 of 10", "-");
}

#[test]
fn the_time_that_a_gate_may_still_take_is_known() {
    let mut s = Script::new(Policy {
        gate: Gate::Report,
        ..fleet(2)
    });
    assert_eq!(s.core.gate_deadline(), None);
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    assert_eq!(s.core.gate_deadline(), Some(at_ms(3000)));
    s.at(10).running(1).does("", "3000");
    assert_eq!(s.core.gate_deadline(), Some(at_ms(3010)));
    s.at(20).ready(1).does("ready 1", "3000");
    s.at(30).ready(2).does("ready 2", "confirm");
    s.confirm().does("live 1 2/2", "-");
    assert_eq!(s.core.gate_deadline(), None);
}
