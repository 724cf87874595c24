//! Reloads that are asked for while one is running: they are remembered once, supersede the
//! running one, or are abandoned.

use super::script::{Script, fleet, policy};
use crate::supervisor::{Gate, Policy, Style};
use std::time::Duration;

fn unlimited(workers: u32) -> Policy {
    Policy {
        gate: Gate::Report,
        start: Duration::ZERO,
        ..fleet(workers)
    }
}

fn respawning(workers: u32) -> Policy {
    Policy {
        respawn: true,
        ..fleet(workers)
    }
}

#[test]
fn three_hups_are_two_reloads() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_050).hup().does("remembered", "13000");
    s.at(10_100).hup().does("remembered again", "13000");
    s.at(10_150).running(2).does("", "13150");
    s.at(13_150).tick().does("ready 2", "confirm");
    s.confirm()
        .does("TERM to 1; live 2 1/1; begin 3; spawn 3 of 3", "16150");
    s.at(13_160).running(3).does("", "16160");
    s.at(16_160).tick().does("ready 3", "confirm");
    s.confirm().does("TERM to 2; live 3 1/1", "-");
}

#[test]
fn a_remembered_reload_runs_after_a_failure_too() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_050).hup().does("remembered", "13000");
    s.at(10_100).exits(2, 1).does(
        "rolled back 2 0/1 (2 exited 1 after 100) keeping 1; begin 3; spawn 3 of 3",
        "13100",
    );
    s.at(10_200).running(3).does("", "13200");
}

#[test]
fn a_remembered_reload_runs_also_when_the_live_set_is_empty() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_050).hup().does("remembered", "13000");
    s.at(10_060)
        .exits(1, 1)
        .does("not replacing 1, 0 ready", "13000");
    s.at(10_070)
        .exits(2, 2)
        .does("not replacing 2, 0 ready", "confirm");
    s.confirm().does(
        "failed 2 0/1 (2 exited 2 after 70); begin 3; spawn 3 of 3",
        "13070",
    );
    s.at(10_080).running(3).does("", "13080");
    s.at(13_080).tick().does("ready 3", "confirm");
    s.confirm().does("live 3 1/1", "-");
}

#[test]
fn a_reload_of_a_first_generation_that_failed_is_its_second_chance() {
    let mut s = Script::new(policy());
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(1).hup().does("remembered", "3000");
    s.at(2)
        .exits(1, 1)
        .does("not replacing 1, 0 ready", "confirm");
    s.confirm().does(
        "failed 1 0/1 (1 exited 1 after 2); begin 2; spawn 2 of 2",
        "3002",
    );
    s.at(3).running(2).does("", "3003");
    s.at(3003).tick().does("ready 2", "confirm");
    s.confirm().does("live 2 1/1", "-");
    s.term().does("close; TERM to 2", "-");
    s.exits(2, 0).does("exit 0", "-");
}

#[test]
fn a_hup_before_the_start_is_remembered() {
    let mut s = Script::new(policy());
    s.at(0).hup().does("remembered", "-");
    s.at(1).start().does("begin 1 first; spawn 1 of 1", "3001");
    s.at(2).running(1).does("", "3002");
    s.at(3002).tick().does("ready 1", "confirm");
    s.confirm()
        .does("live 1 1/1; begin 2; spawn 2 of 2", "6002");
}

#[test]
fn the_style_that_was_asked_for_last_is_remembered() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .reload(Style::Rolling)
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.reload(Style::Rolling).does("remembered", "13000");
    s.reload(Style::Fleet).does("remembered again", "13000");
    s.at(10_001).exits(3, 1).does("TERM to 4; rolled back 2 0/2 (3 exited 1 after 1) keeping 1; begin 3; spawn 5 of 3; spawn 6 of 3", "13001");
    s.at(10_010).running(5).does("", "13001");
    s.at(10_020).running(6).does("", "13010");
    s.at(13_010).tick().does("ready 5", "13020"); // a rolling one would ask an old worker
}

#[test]
fn a_reload_without_a_limit_gives_way_at_once() {
    let mut s = Script::new(unlimited(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(1).running(1).does("", "-");
    s.at(2).ready(1).does("ready 1", "confirm");
    s.confirm().does("live 1 1/1", "-");
    s.at(10).hup().does("begin 2; spawn 2 of 2", "30010");
    s.at(11).running(2).does("", "-");
    s.at(20).hup().does(
        "remembered; TERM to 2; superseded 2 0/1 keeping 1; begin 3; spawn 3 of 3",
        "10020",
    );
    s.at(21).hup().does("remembered", "10020"); // an exec has its limit
    s.at(22).running(3).does(
        "TERM to 3; superseded 3 0/1 keeping 1; begin 4; spawn 4 of 4",
        "10020",
    );
    s.at(30).ready(4).does("ready 4", "confirm 10020");
    s.confirm().does("TERM to 1; live 4 1/1", "10020");
}

#[test]
fn a_first_generation_without_a_limit_gives_way_when_the_next_is_ready() {
    let mut s = Script::new(unlimited(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "30000");
    s.at(1).running(1).does("", "30000");
    s.at(1).running(2).does("", "-");
    s.at(10).hup().does(
        "remembered; superseded 1 0/2; begin 2; spawn 3 of 2; spawn 4 of 2",
        "30010",
    );
    s.at(11)
        .exits(1, 1)
        .does("not replacing 1, 0 ready", "30010"); // superseded: nobody follows it
    s.at(12).ready(3).does("ready 3", "30010");
    s.at(13).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 2; live 2 2/2", "-");
}

#[test]
fn a_superseded_worker_that_becomes_ready_is_something_to_go_back_to() {
    let mut s = Script::new(unlimited(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(1).running(1).does("", "-");
    s.at(10).hup().does(
        "remembered; superseded 1 0/1; begin 2; spawn 2 of 2",
        "30010",
    );
    s.at(11).ready(1).does("ready 1", "30010");
    s.at(12)
        .exits(2, 1)
        .does("rolled back 2 0/1 (2 exited 1 after 2) keeping 1", "-");
    assert_eq!((s.core.live_generation(), s.core.has_been_up()), (1, true));
    s.at(13).term().does("close; TERM to 1", "-");
    s.at(14).exits(1, 0).does("exit 0", "-");
}

#[test]
fn a_superseded_worker_that_became_ready_is_replaced_like_any_other() {
    let mut s = Script::new(Policy {
        respawn: true,
        ..unlimited(1)
    });
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(1).running(1).does("", "-");
    s.at(10).hup().does(
        "remembered; superseded 1 0/1; begin 2; spawn 2 of 2",
        "30010",
    );
    s.at(11).ready(1).does("ready 1", "30010");
    s.at(12)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "30010");
}

#[test]
fn what_is_ready_of_a_superseded_generation_goes_on_serving() {
    let mut s = Script::new(unlimited(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "30000");
    s.at(1).running(1).does("", "30000");
    s.at(1).running(2).does("", "-");
    s.at(2).ready(1).does("ready 1", "-");
    s.at(10).hup().does(
        "remembered; TERM to 2; superseded 1 1/2; begin 2; spawn 3 of 2; spawn 4 of 2",
        "10010",
    );
    s.at(11).exits(3, 1).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 1 after 1) keeping 1",
        "10010",
    );
}

#[test]
fn a_third_generation_dismisses_those_who_never_were_ready() {
    let mut s = Script::new(unlimited(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "30000");
    s.at(1).running(1).does("", "-");
    s.at(10).hup().does(
        "remembered; superseded 1 0/1; begin 2; spawn 2 of 2",
        "30010",
    );
    s.at(11).running(2).does("", "-");
    s.at(20).hup().does(
        "remembered; TERM to 1; superseded 2 0/1; begin 3; spawn 3 of 3",
        "10020",
    );
    s.at(10_020).tick().does("KILL to 1; killed 1", "30020");
}

#[test]
fn a_crash_looping_first_generation_gives_way_in_its_back_off() {
    let mut s = Script::new(respawning(1));
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(10).running(1).does("", "3010");
    s.at(20)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 2 of 1", "3020");
    s.at(30).running(2).does("", "3030");
    s.at(35).hup().does("remembered", "3030"); // this one may still make it
    s.at(40).exits(2, 1).does(
        "replacing 2 in 100; superseded 1 0/1 (2 exited 1 after 20); begin 2; spawn 3 of 2",
        "3040",
    );
    s.at(50).running(3).does("", "3050");
    s.at(3050).tick().does("ready 3", "confirm");
    s.confirm().does("live 2 1/1", "-");
}

#[test]
fn one_crash_looper_does_not_make_the_others_give_way() {
    let mut s = Script::new(respawning(2));
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
    s.at(10).running(1).does("", "3000");
    s.at(10).running(2).does("", "3010");
    s.at(20)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "3010");
    s.at(20).exits(3, 1).does("replacing 3 in 100", "120");
    s.at(30).hup().does("remembered", "120");
    s.at(120).tick().does("spawn 4 of 1", "3010");
    s.at(3010).tick().does("ready 2", "confirm 3120");
    s.confirm().does(
        "live 1 1/2 (3 exited 1 after 0); begin 2; spawn 5 of 2; spawn 6 of 2",
        "3120",
    );
}

#[test]
fn a_generation_does_not_wait_for_those_that_keep_crashing() {
    let start = Duration::from_secs(60);
    let mut s = Script::new(Policy {
        start,
        ..respawning(2)
    });
    s.at(0)
        .start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "60000");
    s.at(10).running(1).does("", "60000");
    s.at(10).running(2).does("", "60010");
    s.at(20)
        .exits(2, 1)
        .does("replacing 2 in 0; spawn 3 of 1", "60010");
    s.at(20).running(3).does("", "60010");
    s.at(30).exits(3, 1).does("replacing 3 in 100", "130");
    s.at(60_000).tick().does("spawn 4 of 1", "60010");
    s.running(4).does("", "60010");
    s.at(60_010).tick().does("ready 1", "confirm 120000"); // 1 is ready, 4 is the third in its place
    s.confirm()
        .does("live 1 1/2 (3 exited 1 after 10)", "120000");
}

#[test]
fn a_rebound_listener_brings_one_reload_in_each_generation() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .rebound()
        .does("begin 2; spawn 2 of 2", "13000");
    s.rebound().does("no second rebound", "13000");
    s.at(10_010).running(2).does("", "13010");
    s.at(13_010).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.rebound().does("begin 3; spawn 3 of 3", "16010");
}

#[test]
fn a_rebound_listener_during_a_reload_is_remembered() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).rebound().does("remembered", "13000");
    s.at(10_010).exits(2, 1).does(
        "rolled back 2 0/1 (2 exited 1 after 10) keeping 1; begin 3; spawn 3 of 3",
        "13010",
    );
}

#[test]
fn nothing_is_remembered_of_a_stop() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.hup().does("remembered", "13000");
    s.term().does(
        "abandoned 2 0/1 keeping 1; abandoned 3 0/1 keeping 1; close; TERM to 1; TERM to 2",
        "-",
    );
    assert!(!s.core.has_pending_reload());
    s.exits(1, 0).does("", "-");
    s.exits(2, 0).does("exit 0", "-");
    s.hup().does("refused", "-");
    s.tick().does("", "-");
}
