//! Workers that the kernel does not let us signal (another user's, where we have no CAP_KILL), and
//! workers that SIGKILL does not end: a stop ends all the same, and a note names each of them.

use super::script::{Script, fleet, policy};
use crate::supervisor::Policy;
use std::time::Duration;

fn stop_in(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn a_stop_ends_ten_seconds_after_a_signal_was_refused_also_where_stop_is_zero() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .refuses(&[1])
        .term()
        .does("close; TERM to 1; TERM refused by 1, GivenUp", "11000");
    s.at(11_000).tick().does("TERM to 1", "12000");
    s.at(12_000).tick().does("TERM to 1", "13000");
    s.at(20_000)
        .tick()
        .does("giving up 1, refused; exit 1", "-");
}

#[test]
fn impatient_signals_do_not_put_off_the_end_of_a_stop() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .refuses(&[1])
        .term()
        .does("close; TERM to 1; TERM refused by 1, GivenUp", "11000");
    s.at(10_900).int().does("INT to 1", "11000");
    s.at(11_000).tick().does("INT to 1", "12000");
    s.at(19_999).int().does("INT to 1", "20999");
    s.at(20_999)
        .tick()
        .does("giving up 1, refused; exit 1", "-");
}

#[test]
fn a_signal_that_was_refused_once_is_sent_again_and_the_stop_ends_well() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .refuses(&[1])
        .term()
        .does("close; TERM to 1; TERM refused by 1, GivenUp", "11000");
    s.at(11_000).refuses(&[]).tick().does("TERM to 1", "-");
    s.at(99_000).exits(1, 0).does("exit 0", "-");
}

#[test]
fn a_kill_that_is_refused_is_tried_again_and_then_given_up() {
    let stop = stop_in(5);
    let mut s = Script::up(Policy { stop, ..policy() });
    s.at(10_000).term().does("close; TERM to 1", "15000");
    s.at(15_000)
        .refuses(&[1])
        .tick()
        .does("KILL to 1; KILL refused by 1, GivenUp", "16000");
    s.at(16_000).tick().does("KILL to 1", "17000");
    s.at(16_500).term().does("TERM to 1", "17000");
    s.at(17_000).tick().does("KILL to 1", "18000");
    s.at(25_000)
        .tick()
        .does("giving up 1, refused; exit 1", "-");
}

#[test]
fn the_others_are_waited_for_when_one_is_given_up() {
    let mut s = Script::up(fleet(2));
    s.at(10_000).refuses(&[1]).term().does(
        "close; TERM to 1; TERM to 2; TERM refused by 1, GivenUp",
        "11000",
    );
    s.at(20_000).tick().does("giving up 1, refused", "-");
    s.at(99_000).exits(1, 0).does("", "-");
    s.at(99_000).exits(2, 0).does("exit 1", "-");
}

#[test]
fn a_worker_that_sigkill_does_not_end_is_given_up_at_a_stop() {
    let stop = stop_in(5);
    let mut s = Script::up(Policy { stop, ..policy() });
    s.at(10_000).term().does("close; TERM to 1", "15000");
    s.at(15_000).tick().does("KILL to 1; killed 1", "25000");
    s.at(24_999).tick().does("", "25000");
    s.at(25_000).tick().does("giving up 1; exit 1", "-");
}

#[test]
fn a_worker_that_sigkill_did_not_end_before_the_stop_has_ten_seconds_more() {
    let stop = stop_in(5);
    let mut s = Script::up(Policy { stop, ..policy() });
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_001).running(2).does("", "13001");
    s.at(13_001).tick().does("ready 2", "confirm");
    s.confirm().does("TERM to 1; live 2 1/1", "18001");
    s.at(18_001).tick().does("KILL to 1; killed 1", "-");
    s.at(90_000)
        .term()
        .does("close; TERM to 1; TERM to 2", "95000");
    s.at(90_001).exits(2, 0).does("", "100000");
    s.at(100_000).tick().does("giving up 1; exit 1", "-");
}

#[test]
fn a_reload_whose_old_workers_cannot_be_asked_is_live_and_says_so() {
    let mut s = Script::up(fleet(2));
    s.at(10_000)
        .hup()
        .does("begin 2; spawn 3 of 2; spawn 4 of 2", "13000");
    s.running(3).does("", "13000");
    s.running(4).does("", "13000");
    s.at(13_000).tick().does("ready 3; ready 4", "confirm");
    s.refuses(&[1, 2]).confirm().does(
        "TERM to 1; TERM to 2; live 2 2/2 but 2 unreached; TERM refused by 1, RunsOn; \
         TERM refused by 2, RunsOn",
        "14000",
    );
    s.at(14_000).tick().does("TERM to 1; TERM to 2", "15000");
    s.at(23_000)
        .tick()
        .does("leaving 1 alone; leaving 2 alone", "-");
    s.at(24_000).exits(1, 0).does("", "-");
    // The next verdict names who is still there.
    s.at(30_000)
        .hup()
        .does("begin 3; spawn 5 of 3; spawn 6 of 3", "33000");
    s.exits(5, 3).does(
        "TERM to 6; rolled back 3 0/2 (5 exited 3 after 0) keeping 2 but 1 unreached",
        "40000",
    );
    // A stop tries the signals again, and ends.
    s.at(35_000).term().does(
        "close; TERM to 2; TERM to 3; TERM to 4; TERM to 6; TERM refused by 2, GivenUp",
        "36000",
    );
    for id in [3, 4, 6] {
        s.exits(id, 0).does("", "36000");
    }
    s.at(45_000)
        .tick()
        .does("giving up 2, refused; exit 1", "-");
}

#[test]
fn a_rolling_reload_whose_old_workers_cannot_be_asked_comes_to_its_end() {
    let max_extra = Some(1);
    let mut s = Script::up(Policy {
        max_extra,
        ..fleet(2)
    });
    s.refuses(&[1, 2]);
    s.at(10_000).hup().does("begin 2; spawn 3 of 2", "13000");
    s.running(3).does("", "13000");
    s.at(13_000).tick().does("ready 3", "confirm");
    s.confirm().does(
        "TERM to 1; spawn 4 of 2; TERM refused by 1, RunsOn",
        "14000",
    );
    s.running(4).does("", "14000");
    s.at(16_000)
        .tick()
        .does("TERM to 1; ready 4", "confirm 17000");
    s.confirm().does(
        "TERM to 2; live 2 2/2 but 2 unreached; TERM refused by 2, RunsOn",
        "17000",
    );
}

#[test]
fn when_the_last_ready_one_leaves_one_that_cannot_be_asked_keeps_nobody() {
    let mut s = Script::up(policy());
    s.refuses(&[1]);
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.running(2).does("", "13000");
    s.at(13_000).tick().does("ready 2", "confirm");
    s.confirm().does(
        "TERM to 1; live 2 1/1 but 1 unreached; TERM refused by 1, RunsOn",
        "14000",
    );
    s.at(23_000).tick().does("leaving 1 alone", "-");
    s.at(30_000)
        .exits(2, 7)
        .does("not replacing 2, 0 ready; close", "30000");
    s.tick()
        .does("TERM to 1; TERM refused by 1, GivenUp", "31000");
    s.at(40_000)
        .tick()
        .does("giving up 1, refused; exit 1", "-");
}

#[test]
fn a_quit_that_is_refused_is_said_and_arms_nothing() {
    let mut s = Script::up(policy());
    s.at(10_000)
        .refuses(&[1])
        .quit()
        .does("QUIT to 1; QUIT refused by 1, Nothing", "-");
    s.exits(1, 0).does("close; exit 0", "-");
}

#[test]
fn a_worker_of_which_nothing_is_known_any_more_is_given_up_at_a_stop_only() {
    let mut s = Script::up(policy());
    s.at(10_000).lost(1).does("", "-");
    s.term().does("close; TERM to 1", "-");
    s.at(20_000).lost(1).does("giving up 1, lost; exit 1", "-");
}
