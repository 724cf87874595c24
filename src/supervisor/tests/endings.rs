//! Stops, SIGQUIT, and what we exit with.

use super::script::{Script, fleet, policy};
use crate::supervisor::{Gate, Policy};
use std::time::Duration;

fn respawning(workers: u32) -> Policy {
    Policy {
        respawn: true,
        ..fleet(workers)
    }
}

#[test]
fn each_stop_signal_is_forwarded_to_all_also_to_those_who_drain() {
    let stop = Some(Duration::from_secs(5));
    let mut s = Script::up(Policy { stop, ..policy() });
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "18001");
    s.at(14_000)
        .term()
        .does("close; TERM to 1; TERM to 2", "18001");
    s.at(14_001).int().does("INT to 1; INT to 2", "18001");
    s.at(18_001).tick().does("KILL to 1; killed 1", "19000"); // the first deadline stands
    s.at(19_000).tick().does("KILL to 2; killed 2", "28001");
    s.at(19_001).killed(1, 9).does("", "29000");
    s.at(19_002).killed(2, 9).does("exit 0", "-");
    s.term().does("", "-");
    s.quit().does("nobody to quit", "-");
    s.tick().does("", "-");
}

#[test]
fn a_stop_waits_for_ever_where_stop_is_zero() {
    let mut s = Script::up(policy());
    s.at(10_000).term().does("close; TERM to 1", "-");
    s.at(9_000_000).tick().does("", "-");
    s.exits(1, 3).does("exit 0", "-");
}

#[test]
fn a_stop_before_anything_was_started_is_at_once() {
    let mut s = Script::new(policy());
    s.at(0).term().does("close; exit 0", "-");
    s.start().does("", "-");
    s.hup().does("refused", "-");
}

#[test]
fn a_stop_in_the_middle_of_a_burst_starts_nobody_any_more() {
    let mut s = Script::new(fleet(17));
    s.at(0);
    assert_eq!(s.feed(crate::supervisor::Event::Start).len(), 17); // a begin and 16 of them
    assert_eq!(s.feed(crate::supervisor::Event::Stop(15)).len(), 18); // verdict, close, 16 signals
    s.tick().does("", "-");
}

#[test]
fn a_stop_two_tenths_into_the_start_of_a_reload() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_200).term().does(
        "abandoned 2 0/1 keeping 1; close; TERM to 1; TERM to 2",
        "-",
    );
    s.at(10_300).exits(2, 0).does("", "-");
    s.at(10_400).exits(1, 0).does("exit 0", "-");
}

#[test]
fn a_resize_is_not_carried_out_by_a_stop() {
    let mut s = Script::up(fleet(3));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 4 of 2; spawn 5 of 2; spawn 6 of 2", "13000");
    s.at(10_001).resize(2).does("TERM to 4; TERM to 1", "13000");
    s.at(10_002).term().does("abandoned 2 0/2 keeping 1; close; TERM to 1; TERM to 2; TERM to 3; TERM to 4; TERM to 5; TERM to 6", "-");
}

#[test]
fn quit_is_forwarded_and_arms_nothing() {
    let stop = Some(Duration::from_secs(5));
    let mut s = Script::up(Policy { stop, ..fleet(2) });
    s.at(10_000).quit().does("QUIT to 1; QUIT to 2", "-");
    s.at(10_001).quit().does("QUIT to 1; QUIT to 2", "-");
    s.at(10_002).exits(1, 0).does("", "-");
    s.at(10_003).killed(2, 3).does("close; exit 0", "-");
}

#[test]
fn a_worker_that_quits_is_not_respawned() {
    let mut s = Script::up(respawning(2));
    s.at(10_000).quit().does("QUIT to 1; QUIT to 2", "-");
    s.at(10_001).exits(1, 0).does("", "-");
    s.at(10_002)
        .exits(2, 1)
        .does("replacing 2 in 0; spawn 3 of 1", "13002"); // that was a death
    s.at(10_003).exits(3, 0).does("replacing 3 in 100", "10103"); // it was not told to quit
}

#[test]
fn a_place_in_back_off_does_not_outlive_those_who_quit() {
    let mut s = Script::up(respawning(2));
    s.at(10_000)
        .exits(1, 1)
        .does("replacing 1 in 0; spawn 3 of 1", "13000");
    s.at(10_000).exits(3, 1).does("replacing 3 in 100", "10100");
    s.at(10_010).quit().does("QUIT to 2", "10100");
    s.at(10_020).exits(2, 0).does("close; exit 0", "-");
}

#[test]
fn a_new_worker_that_quits_does_not_go_live() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.at(10_010)
        .quit()
        .does("QUIT to 1; QUIT to 2; QUIT to 3; QUIT to 4", "13000");
    s.at(10_020).exits(3, 0).does(
        "TERM to 4; rolled back 2 0/2 (3 exited 0 after 20) keeping 1",
        "20020",
    );
    s.at(10_030).exits(1, 0).does("", "20020");
    s.at(10_030).exits(2, 0).does("close", "20020");
    s.at(10_040).exits(4, 0).does("exit 0", "-");
}

#[test]
fn a_first_generation_that_quits_was_abandoned() {
    let mut s = Script::new(policy());
    s.at(0).start().does("begin 1 first; spawn 1 of 1", "3000");
    s.at(1).quit().does("QUIT to 1", "3000");
    s.at(2).killed(1, 3).does("", "confirm");
    s.confirm().does("abandoned 1 0/1; close; exit 1", "-");
}

#[test]
fn one_that_hangs_after_a_quit_does_not_spoil_the_exit_status() {
    let gate = Gate::Report;
    let mut s = Script::up(Policy { gate, ..policy() });
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_010).quit().does("QUIT to 1; QUIT to 2", "13000");
    s.at(10_020).exits(1, 0).does("", "13000");
    s.at(13_000).tick().does("TERM to 2", "confirm 23000");
    s.confirm().does("abandoned 2 0/1; close", "23000");
    s.at(13_010).killed(2, 15).does("exit 0", "-");
}

/// Each row: what happens to a service of one worker, and the status that we exit with.
#[track_caller]
fn exits_with(status: i32, live: impl Fn(&mut Script)) {
    let mut s = Script::new(policy());
    s.start().does("begin 1 first; spawn 1 of 1", "3000");
    live(&mut s);
    s.tick().does("", "-");
    let exits = s.seen().filter(|it| it.starts_with("exit")).count();
    assert_eq!(exits, 1);
    assert_eq!(s.seen().next_back(), Some(&*format!("exit {status}")));
}

fn up(s: &mut Script) {
    s.at(0).running(1).does("", "3000");
    s.at(3000).tick().does("ready 1", "confirm");
    s.confirm().does("live 1 1/1", "-");
}

#[test]
fn the_table_of_exit_statuses() {
    use crate::supervisor::{ChildId, End, Event};
    let gone = |status| Event::Gone(ChildId(1), End::Exited(status));
    let killed = |signal| {
        let core_dumped = false;
        Event::Gone(
            ChildId(1),
            End::Signaled {
                signal,
                core_dumped,
            },
        )
    };
    let never = || {
        Event::Gone(
            ChildId(1),
            End::Exec {
                step: "executing".into(),
                errno: 2,
            },
        )
    };
    let tell = |s: &mut Script, events: &[Event]| {
        for event in events {
            s.feed(event.clone());
        }
    };
    // We were asked to stop after the service had been up: how the workers ended does not matter.
    for end in [gone(0), gone(3), killed(15), killed(9)] {
        exits_with(0, |s| {
            up(s);
            tell(s, &[Event::Stop(15), end.clone()]);
        });
    }
    exits_with(0, |s| {
        up(s);
        tell(s, &[Event::Quit, gone(0)]);
    });
    // The workers left by themselves.
    for (end, status) in [
        (gone(0), 0),
        (gone(7), 7),
        (killed(9), 137),
        (killed(11), 139),
    ] {
        exits_with(status, |s| {
            up(s);
            s.feed(end.clone());
        });
    }
    exits_with(1, |s| {
        up(s);
        tell(s, &[Event::Quit, gone(1)]);
    });
    // A first generation that never became ready: its own status, else 1.
    exits_with(7, |s| tell(s, &[gone(7), Event::PromotionConfirmed]));
    exits_with(1, |s| tell(s, &[never(), Event::PromotionConfirmed]));
    // To be stopped before anybody was ready is no failure.
    exits_with(0, |s| tell(s, &[Event::Stop(15), killed(15)]));
    exits_with(0, |s| tell(s, &[Event::Stop(2), gone(7)]));
    exits_with(1, |s| {
        tell(s, &[Event::Quit, gone(0), Event::PromotionConfirmed])
    });
}

#[test]
fn the_last_one_that_died_unasked_gives_the_status_not_one_that_drained() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.at(14_000)
        .exits(2, 5)
        .does("not replacing 2, 0 ready; close", "-");
    s.at(15_000).exits(1, 6).does("exit 5", "-");
}

#[test]
fn a_stop_while_the_last_ones_drain_is_a_stop() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "-");
    s.at(14_000)
        .exits(2, 5)
        .does("not replacing 2, 0 ready; close", "-");
    s.at(15_000).term().does("TERM to 1", "-");
    s.at(15_001).exits(1, 6).does("exit 0", "-");
}

#[test]
fn strangers_and_dead_workers_change_nothing() {
    let mut s = Script::up(policy());
    s.at(10_000).exits(77, 1).does("", "-");
    s.running(77).does("", "-");
    s.ready(77).does("", "-");
    s.killed(0, 9).does("", "-");
    s.start().does("", "-");
    s.confirm().does("", "-");
    s.exits(1, 3)
        .does("not replacing 1, 0 ready; close; exit 3", "-");
    s.exits(1, 4).does("", "-");
}
