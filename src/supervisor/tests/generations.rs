//! The first generation, the gates, reloads of whole fleets, and their rollbacks.

use super::script::{Script, fleet, policy, rolling};
use crate::supervisor::{Event, Gate, Phase, Policy};
use std::time::Duration;

fn reporting(workers: u32) -> Policy {
    Policy {
        gate: Gate::Report,
        ..fleet(workers)
    }
}

#[test]
fn a_generation_is_live_when_its_workers_lived_for_the_time_of_the_gate() {
    let mut s = Script::new(fleet(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    s.at(10).running(1).does("", "3000");
    s.at(30).running(2).does("", "3010");
    s.at(3010).tick().does("ready 1", "3030");
    s.at(3030).tick().does("ready 2", "confirm");
    s.confirm().does("live 1 2/2", "-");
    s.tick().does("", "-");
}

#[test]
fn the_time_of_the_gate_runs_from_exec() {
    let mut s = Script::new(policy());
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(2999).running(1).does("", "5999");
    s.at(3000).tick().does("", "5999");
    s.at(5999).tick().does("ready 1", "confirm");
}

#[test]
fn start_zero_means_no_waiting_with_the_timer() {
    let start = Duration::ZERO;
    let mut s = Script::new(Policy { start, ..policy() });
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000"); // an exec may take 30 s
    s.at(10).running(1).does("ready 1", "confirm");
    s.confirm().does("live 1 1/1", "-");
    s.hup().does("begin 2; spawn 2 of 2", "30010");
    s.at(20).running(2).does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.at(30).exits(1, 0).does("", "-");
}

#[test]
fn start_zero_means_no_limit_with_the_other_gates() {
    let start = Duration::ZERO;
    let mut s = Script::new(Policy {
        start,
        ..reporting(1)
    });
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(10).running(1).does("", "-");
    s.at(1_000_000).tick().does("", "-");
    s.ready(1).does("ready 1", "confirm");
    s.confirm().does("live 1 1/1", "-");
}

#[test]
fn an_exec_that_hangs_fails_after_thirty_seconds_where_start_is_zero() {
    let start = Duration::ZERO;
    let mut s = Script::new(Policy { start, ..policy() });
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(29_999).tick().does("", "30000");
    s.at(30_000)
        .tick()
        .does("TERM to 1; not replacing 1, 0 ready", "confirm 40000");
    s.confirm()
        .does("failed 1 0/1 (1 hung after 30000); close", "40000");
    s.at(40_000).tick().does("KILL to 1; killed 1", "50000");
    s.at(40_001).killed(1, 9).does("exit 1", "-");
}

#[test]
fn a_worker_that_reports_is_ready_at_once() {
    let mut s = Script::new(reporting(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    s.at(5).running(2).does("", "3000");
    s.at(9).ready(1).does("ready 1", "3005"); // it spoke before its exec was seen
    s.at(10).running(1).does("", "3005");
    s.at(11).ready(2).does("ready 2", "confirm");
    s.ready(2).does("", "confirm"); // said twice
    s.confirm().does("live 1 2/2", "-");
    s.ready(1).does("", "-");
}

#[test]
fn a_silent_worker_fails_at_the_end_of_the_gate() {
    let mut s = Script::up(reporting(1));
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_010).running(2).does("", "13010");
    s.at(13_010).tick().does(
        "TERM to 2; rolled back 2 0/1 (2 silent after 3010) keeping 1",
        "23010",
    );
    s.at(13_020).ready(2).does("", "23010"); // too late
    s.at(23_010).tick().does("KILL to 2; killed 2", "-"); // no -stop: ten seconds for a rollback
    s.at(23_020).killed(2, 9).does("", "-");
}

#[test]
fn a_first_generation_that_is_silent_ends_in_status_one() {
    let mut s = Script::new(reporting(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(10).running(1).does("", "3010");
    s.at(3010)
        .tick()
        .does("TERM to 1; not replacing 1, 0 ready", "confirm 13010");
    s.confirm()
        .does("failed 1 0/1 (1 silent after 3010); close", "13010");
    s.at(3020).exits(1, 9).does("exit 1", "-"); // it was asked: not its own status
}

#[test]
fn a_fleet_is_promoted_only_when_all_of_it_are_ready() {
    let mut s = Script::up(reporting(3));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
    s.at(10_001).ready(4).does("ready 4", "13000");
    s.at(10_002).ready(5).does("ready 5", "13000");
    s.confirm().does("", "13000");
    s.at(10_003).ready(6).does("ready 6", "confirm");
    s.confirm()
        .does("TERM to 1; TERM to 2; TERM to 3; live 2 3/3", "-");
    for id in [1, 2, 3] {
        s.exits(id, 0).does("", "-");
    }
}

#[test]
fn one_new_worker_that_fails_rolls_all_of_them_back_at_once() {
    let mut s = Script::up(reporting(3));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
    s.at(10_001).ready(4).does("ready 4", "13000");
    s.at(10_002).exits(5, 3).does(
        "TERM to 6; TERM to 4; rolled back 2 0/3 (5 exited 3 after 2) keeping 1",
        "20002",
    );
    s.at(20_002)
        .tick()
        .does("KILL to 4; KILL to 6; killed 4; killed 6", "-");
    s.killed(4, 9).does("", "-");
    s.killed(6, 9).does("", "-");
}

#[test]
fn a_death_in_the_last_look_undoes_a_promotion() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_001).running(3).does("", "13000");
    s.at(10_001).running(4).does("", "13001");
    s.at(13_001).tick().does("ready 3; ready 4", "confirm");
    s.killed(4, 11).does(
        "TERM to 3; rolled back 2 0/2 (4 killed 11 after 3001) keeping 1",
        "23001",
    );
}

#[test]
fn a_worker_that_is_rolled_back_in_the_tick_of_its_own_deadline_is_not_killed_at_once() {
    let stop = Some(Duration::from_secs(5));
    let mut s = Script::up(Policy {
        stop,
        ..reporting(2)
    });
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(13_000).tick().does(
        "TERM to 3; TERM to 4; rolled back 2 0/2 (3 hung after 3000) keeping 1",
        "18000",
    );
    s.at(18_000)
        .tick()
        .does("KILL to 3; KILL to 4; killed 3; killed 4", "-");
}

#[test]
fn the_last_old_worker_dies_and_then_the_candidate_fails() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(10_002)
        .exits(1, 3)
        .does("not replacing 1, 0 ready", "13001");
    s.at(10_003)
        .exits(2, 4)
        .does("not replacing 2, 0 ready", "confirm");
    s.confirm()
        .does("failed 2 0/1 (2 exited 4 after 3); close; exit 4", "-");
}

#[test]
fn without_anything_to_go_back_to_seven_of_eight_go_live() {
    let mut s = Script::new(reporting(8));
    s.at(0).start().does("begin 1 first; spawn 1 of 1; spawn 2 of 1; spawn 3 of 1; spawn 4 of 1; spawn 5 of 1; spawn 6 of 1; spawn 7 of 1; spawn 8 of 1", "3000");
    s.at(10)
        .exits(3, 7)
        .does("not replacing 3, 0 ready", "3000");
    for id in [1, 2, 4, 5, 6, 7] {
        s.at(20).ready(id).does(&format!("ready {id}"), "3000");
    }
    s.at(30).ready(8).does("ready 8", "confirm");
    s.confirm().does("live 1 7/8 (3 exited 7 after 10)", "-");
}

#[test]
fn seven_of_eight_also_when_the_old_ones_died_meanwhile() {
    let mut s = Script::up(reporting(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_001)
        .killed(1, 9)
        .does("not replacing 1, 1 ready", "13000");
    s.at(10_002)
        .killed(2, 9)
        .does("not replacing 2, 0 ready", "13000");
    s.at(10_003)
        .exits(3, 1)
        .does("not replacing 3, 0 ready", "13000");
    s.at(10_004).ready(4).does("ready 4", "confirm");
    s.confirm().does("live 2 1/2 (3 exited 1 after 3)", "-");
}

#[test]
fn a_second_generation_that_fails_too_ends_us_with_its_status() {
    let mut s = Script::new(reporting(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(1)
        .exits(1, 7)
        .does("not replacing 1, 0 ready", "confirm");
    s.hup().does("remembered", "confirm");
    s.confirm().does(
        "failed 1 0/1 (1 exited 7 after 1); begin 2; spawn 2 of 2",
        "3001",
    );
    s.at(2)
        .exits(2, 8)
        .does("not replacing 2, 0 ready", "confirm");
    s.confirm()
        .does("failed 2 0/1 (2 exited 8 after 1); close; exit 8", "-");
}

#[test]
fn a_straggler_of_a_failed_reload_does_not_harm_the_next() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010).exits(3, 1).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 1 after 10) keeping 1",
        "20010",
    );
    s.at(10_020)
        .hup()
        .does("begin 3; spawn 5 of 3; spawn 6 of 3", "13020");
    s.at(10_030).exits(4, 1).does("", "13020");
    s.at(10_040).running(5).does("", "13020");
    s.running(6).does("", "13040");
    s.at(13_040).tick().does("ready 5; ready 6", "confirm");
    s.confirm().does("TERM to 1; TERM to 2; live 3 2/2", "-");
}

#[test]
fn old_generations_drain_for_hours_and_block_nothing() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.at(7_200_000)
        .hup()
        .does("begin 3; spawn 3 of 3", "7203000");
    s.at(7_200_001).running(3).does("", "7203001");
    s.at(7_203_001).tick().does("ready 3", "confirm");
    s.confirm().does("TERM to 2; live 3 1/1", "-");
    s.at(7_300_000).exits(1, 0).does("", "-");
    s.at(7_300_001).exits(2, 0).does("", "-");
}

#[test]
fn a_new_worker_fails_while_an_older_generation_still_drains() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.at(20_000).hup().does("begin 3; spawn 3 of 3", "23000");
    s.at(20_100)
        .exits(3, 1)
        .does("rolled back 3 0/1 (3 exited 1 after 100) keeping 2", "-");
    s.at(20_200).exits(1, 0).does("", "-");
}

#[test]
fn an_asked_worker_is_killed_after_stop_once() {
    let stop = Some(Duration::from_secs(5));
    let mut s = Script::up(Policy {
        stop,
        stop_signal: 12,
        ..policy()
    });
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("USR2 to 1; live 2 1/1", "18001");
    s.at(18_000).tick().does("", "18001");
    s.at(18_001).tick().does("KILL to 1; killed 1", "-");
    s.at(90_000).tick().does("", "-");
    s.killed(1, 9).does("", "-");
}

#[test]
fn what_an_asked_worker_says_changes_nothing() {
    let mut s = Script::up(rolling(2, 1));
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.at(10_001)
        .exits(3, 1)
        .does("rolled back 2 0/2 (3 exited 1 after 1) keeping 1", "-");
    s.at(10_002).hup().does("begin 3; spawn 4 of 3", "13002");
    s.at(10_003).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1; spawn 5 of 3", "13003");
    s.at(10_004).ready(1).does("", "13003");
    s.at(10_005).running(1).does("", "13003");
    let phase = s.core.workers().iter().next().map(|(_, it)| it.phase);
    assert!(matches!(phase, Some(Phase::Stopping { .. })));
}

#[test]
fn a_large_fleet_is_started_in_bursts_with_a_look_at_the_kernel_between() {
    let mut s = Script::new(fleet(40));
    s.at(0);
    let starts = |did: Vec<String>| did.iter().filter(|it| it.starts_with("spawn")).count();
    assert_eq!(starts(s.feed(crate::supervisor::Event::Start)), 16);
    assert_eq!(starts(s.feed(crate::supervisor::Event::Tick)), 16);
    assert_eq!(starts(s.feed(crate::supervisor::Event::Tick)), 8);
    assert_eq!(starts(s.feed(crate::supervisor::Event::Tick)), 0);
}

#[test]
fn indexes_are_the_smallest_that_nobody_has() {
    let mut s = Script::up(fleet(3));
    s.at(10_000)
        .exits(2, 1)
        .does("not replacing 2, 2 ready", "-");
    s.hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
    let workers = s.core.workers();
    let indexes: Vec<_> = workers.iter().map(|(_, it)| it.index).collect();
    assert_eq!(indexes, [0, 2, 1, 3, 4]);
}

#[test]
fn a_verdict_says_how_long_it_took_and_of_what_it_is_the_first() {
    let mut s = Script::up(policy());
    let first = s.last_verdict.clone().expect("a verdict");
    assert_eq!((first.took, first.first), (Duration::from_secs(3), true));
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_500)
        .exits(2, 1)
        .does("rolled back 2 0/1 (2 exited 1 after 500) keeping 1", "-");
    let second = s.last_verdict.clone().expect("a verdict");
    assert_eq!(
        (second.took, second.first),
        (Duration::from_millis(500), false)
    );
}

#[test]
fn whether_a_reload_begins_at_once_can_be_asked_before() {
    let s = Script::new(reporting(1));
    assert_eq!(s.core.reload_would_begin(), None, "before the start");
    let mut s = Script::up(reporting(1));
    assert_eq!(s.core.reload_would_begin(), Some(2));
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_000).running(2).does("", "13000");
    assert_eq!(s.core.reload_would_begin(), None, "one is under way");
    s.feed(Event::Stop(15));
    assert_eq!(s.core.reload_would_begin(), None, "we stop");
    // A worker that may take as long as it likes gives way to the next generation.
    let start = Duration::ZERO;
    let mut s = Script::up(Policy {
        start,
        ..reporting(1)
    });
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "40000");
    s.at(10_000).running(2).does("", "-");
    assert_eq!(s.core.reload_would_begin(), Some(3));
    let did = s.at(10_001).feed(Event::Reload(None));
    assert!(did.contains(&"begin 3".to_owned()), "{did:?}");
}
