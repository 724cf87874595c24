//! Rolling reloads: an old worker is asked for each new one that is ready; half-way ends; and
//! resizes in the middle of other things.

use super::script::{Script, fleet, policy, rolling};
use crate::supervisor::{Event, Gate, Policy, Style};

fn respawning(policy: Policy) -> Policy {
    Policy {
        respawn: true,
        ..policy
    }
}

#[test]
fn an_old_worker_is_asked_for_each_new_one_that_is_ready() {
    let mut s = Script::up(rolling(3, 1));
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_100).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1; spawn 5 of 2", "13100");
    s.at(10_200).ready(5).does("ready 5", "confirm");
    s.confirm().does("TERM to 2; spawn 6 of 2", "13200");
    s.at(10_300).ready(6).does("ready 6", "confirm");
    s.confirm().does("TERM to 3; live 2 3/3", "-");
}

#[test]
fn two_at_a_time() {
    let mut s = Script::up(rolling(4, 2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 5 of 2; spawn 6 of 2", "13000");
    s.at(10_100).ready(6).does("ready 6", "confirm 13000");
    s.confirm().does("TERM to 1; spawn 7 of 2", "13000");
    s.at(10_200).ready(5).does("ready 5", "confirm 13100");
    s.at(10_200).ready(7).does("ready 7", "confirm");
    s.confirm()
        .does("TERM to 2; TERM to 3; spawn 8 of 2", "13200");
    s.at(10_300).ready(8).does("ready 8", "confirm");
    s.confirm().does("TERM to 4; live 2 4/4", "-");
}

/// Reloads N workers K at a time; there are never more than N + K, nor fewer than N ready.
fn roll(workers: u32, max_extra: u32) {
    let mut s = Script::up(rolling(workers, max_extra));
    s.at(10_000).feed(Event::Reload(Some(Style::Rolling)));
    let mut turns = 0;
    while s.core.rolling_out().is_some() {
        let all = s.core.workers().iter();
        let next = all
            .filter(|(_, it)| it.is_unready())
            .map(|(id, _)| id)
            .last();
        s.feed(Event::Ready(next.expect("somebody comes up")));
        s.feed(Event::Tick);
        while s.core.awaits_confirmation() {
            s.feed(Event::PromotionConfirmed);
        }
        let (staying, ready) = (s.core.workers().staying(), s.core.workers().ready());
        assert!(
            staying <= workers + max_extra.min(workers),
            "{staying} are there"
        );
        assert!(ready >= workers, "{ready} are ready");
        turns += 1;
        assert!(turns <= workers, "it does not end");
    }
    assert_eq!(s.core.workers().tally(2).ready, workers);
    assert_eq!(s.core.workers().tally(1).stopping, workers);
}

#[test]
fn every_k_from_one_to_n_replaces_all_of_n() {
    for workers in 1..=9 {
        for max_extra in 1..=workers + 1 {
            roll(workers, max_extra);
        }
    }
}

#[test]
fn a_new_worker_that_is_ready_but_dies_in_the_last_look_costs_no_old_one() {
    let mut s = Script::up(rolling(2, 1));
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.at(10_100).ready(3).does("ready 3", "confirm");
    s.exits(3, 1)
        .does("rolled back 2 0/2 (3 exited 1 after 100) keeping 1", "-");
}

#[test]
fn a_failure_stops_a_rolling_reload_half_way() {
    let mut s = Script::up(rolling(3, 1));
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_100).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1; spawn 5 of 2", "13100");
    s.at(10_200)
        .exits(5, 7)
        .does("half-way 2 1/3 (5 exited 7 after 100) keeping 1", "-");
    assert_eq!(s.core.live_generation(), 2);
    s.at(10_300).hup().does("begin 3; spawn 6 of 3", "13300");
    s.at(10_400).ready(6).does("ready 6", "confirm");
    s.confirm().does("TERM to 2; spawn 7 of 3", "13400"); // the oldest first, whatever its generation
}

#[test]
fn half_way_the_last_step_is_taken_after_the_last_look() {
    let mut s = Script::up(rolling(3, 2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2", "13000");
    s.at(10_100).ready(4).does("ready 4", "confirm 13000");
    s.exits(5, 7)
        .does("half-way 2 1/3 (5 exited 7 after 100) keeping 1", "confirm");
    s.confirm().does("TERM to 1", "-");
}

#[test]
fn half_way_a_death_in_the_last_look_keeps_the_old_ones() {
    let mut s = Script::up(rolling(2, 2));
    s.at(10_000)
        .reload(Style::Rolling)
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_100).ready(3).does("ready 3", "confirm 13000");
    s.exits(4, 7)
        .does("half-way 2 1/2 (4 exited 7 after 100) keeping 1", "confirm");
    s.exits(3, 7).does("not replacing 3, 2 ready", "-");
}

#[test]
fn an_old_worker_that_dies_during_a_rolling_reload_is_replaced_by_it() {
    let mut s = Script::up(respawning(rolling(3, 1)));
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_050)
        .exits(2, 1)
        .does("not replacing 2, 2 ready; spawn 5 of 2", "13000");
    s.at(10_100).ready(4).does("ready 4", "13050");
    s.at(10_110).ready(5).does("ready 5", "confirm");
    s.confirm().does("TERM to 1; spawn 6 of 2", "13110");
    s.at(10_120).ready(6).does("ready 6", "confirm");
    s.confirm().does("TERM to 3; live 2 3/3", "-");
}

#[test]
fn what_a_rolling_reload_did_not_replace_is_replaced_after_its_failure() {
    let mut s = Script::up(respawning(rolling(3, 1)));
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_050)
        .exits(2, 1)
        .does("not replacing 2, 2 ready; spawn 5 of 2", "13000");
    s.at(10_060).exits(4, 1).does(
        "TERM to 5; rolled back 2 0/3 (4 exited 1 after 60) keeping 1; spawn 6 of 1",
        "13060",
    );
    s.at(10_070).ready(6).does("ready 6", "20060");
    s.at(10_080).exits(5, 1).does("", "-");
}

#[test]
fn a_new_worker_that_took_an_old_ones_place_and_died_is_replaced_after_the_rollback() {
    let mut s = Script::up(respawning(rolling(2, 1)));
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.at(10_010).ready(3).does("ready 3", "confirm");
    s.confirm().does("TERM to 1; spawn 4 of 2", "13010");
    s.at(10_020).exits(3, 7).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 7 after 20) keeping 1; spawn 5 of 1",
        "13020",
    );
}

#[test]
fn a_dead_place_is_filled_again_before_a_remembered_fleet_comes_up() {
    let mut s = Script::up(respawning(rolling(2, 1)));
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.at(10_010)
        .exits(1, 1)
        .does("not replacing 1, 1 ready; spawn 4 of 2", "13000");
    s.at(10_020)
        .reload(Style::Fleet)
        .does("remembered", "13000");
    s.at(10_030).exits(3, 1).does("TERM to 4; rolled back 2 0/2 (3 exited 1 after 30) keeping 1; begin 3; spawn 5 of 1; spawn 6 of 3; spawn 7 of 3", "13030");
}

#[test]
fn the_first_generation_of_a_rolling_service_starts_at_once() {
    let mut s = Script::new(rolling(3, 1));
    s.at(0).start().does(
        "begin 1 first; spawn 1 of 1; spawn 2 of 1; spawn 3 of 1",
        "3000",
    );
    s.at(1).ready(1).does("ready 1", "3000");
    s.at(1).ready(2).does("ready 2", "3000");
    s.at(1)
        .exits(3, 7)
        .does("not replacing 3, 2 ready", "confirm");
    s.confirm().does("live 1 2/3 (3 exited 7 after 1)", "-");
}

#[test]
fn a_fleet_that_is_asked_for_may_be_twice_n_whatever_k_is() {
    let mut s = Script::up(rolling(3, 1));
    s.at(10_000)
        .reload(Style::Fleet)
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
    for id in [4, 5] {
        s.at(10_010).ready(id).does(&format!("ready {id}"), "13000");
    }
    s.at(10_020).ready(6).does("ready 6", "confirm");
    s.confirm()
        .does("TERM to 1; TERM to 2; TERM to 3; live 2 3/3", "-");
}

#[test]
fn a_rolling_reload_asks_those_who_do_not_serve_first() {
    let mut s = Script::up(respawning(rolling(3, 3)));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 4 of 1", "13000");
    s.at(10_010)
        .reload(Style::Rolling)
        .does("begin 2; spawn 5 of 2; spawn 6 of 2; spawn 7 of 2", "13000");
    s.at(10_020).ready(5).does("ready 5", "confirm 13000");
    s.confirm().does("TERM to 4", "13010");
}

#[test]
fn more_workers_are_started_at_once() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .resize(3)
        .does("spawn 2 of 1; spawn 3 of 1", "13000");
    s.at(10_010).running(2).does("", "13000");
    s.at(10_010).running(3).does("", "13010");
    s.at(13_010).tick().does("ready 2; ready 3", "-");
    s.at(14_000)
        .exits(3, 1)
        .does("not replacing 3, 2 ready", "-"); // without -respawn as ever
}

#[test]
fn fewer_workers_ask_who_is_not_ready_then_the_oldest() {
    let mut s = Script::up(fleet(3));
    s.at(10_000).resize(4).does("spawn 4 of 1", "13000");
    s.at(10_010).resize(2).does("TERM to 4; TERM to 1", "-");
    s.at(10_020).resize(0).does("", "-");
    s.at(10_030).resize(1).does("TERM to 2", "-");
}

#[test]
fn fewer_workers_give_up_the_places_that_wait_longest() {
    let mut s = Script::up(respawning(fleet(3)));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 4 of 1", "13000");
    s.at(10_000).exits(4, 1).does("replacing 4 in 100", "10100");
    s.at(10_010).resize(2).does("", "-");
    s.at(10_020).resize(1).does("TERM to 2", "-");
}

#[test]
fn a_reload_goes_on_with_the_new_number() {
    let mut s = Script::up(Policy {
        gate: Gate::Report,
        ..fleet(2)
    });
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010).resize(3).does("spawn 5 of 2", "13000");
    s.at(10_020).ready(3).does("ready 3", "13000");
    s.at(10_020).ready(4).does("ready 4", "13010");
    s.at(10_030)
        .resize(1)
        .does("TERM to 5; TERM to 3; TERM to 1", "confirm");
    s.confirm().does("TERM to 2; live 2 1/1", "-");
}

#[test]
fn what_the_old_ones_lack_after_a_resize_follows_a_rollback() {
    let mut s = Script::up(fleet(1));
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_010).resize(2).does("spawn 3 of 2", "13000");
    s.at(10_020).exits(2, 1).does(
        "TERM to 3; rolled back 2 0/2 (2 exited 1 after 20) keeping 1; spawn 4 of 1",
        "13020",
    );
}

#[test]
fn a_resize_before_the_start_is_the_size_of_the_first_generation() {
    let mut s = Script::new(policy());
    s.at(0).resize(2).does("", "-");
    s.start()
        .does("begin 1 first; spawn 1 of 1; spawn 2 of 1", "3000");
}

#[test]
fn a_shrinking_rolling_reload_that_ends_half_way_does_not_block_the_next() {
    let mut s = Script::up(rolling(3, 1));
    s.at(10_000).hup().does("begin 2; spawn 4 of 2", "13000");
    s.at(10_010).ready(4).does("ready 4", "confirm");
    s.confirm().does("TERM to 1; spawn 5 of 2", "13010");
    s.at(10_020).hup().does("remembered", "13010");
    s.at(10_030).resize(2).does("", "confirm 13010");
    let begins = "half-way 2 1/2 (5 exited 7 after 20) keeping 1; begin 3";
    s.exits(5, 7).does(begins, "confirm");
    s.confirm().does("TERM to 2; spawn 6 of 3", "13030");
}
