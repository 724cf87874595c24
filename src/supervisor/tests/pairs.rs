//! Every pair of a situation and an event that can happen in it: one worker, `-start` 3 s, `-stop`
//! 5 s. A row is a situation built anew, one event, its actions, and the next deadline.

use super::script::{Script, Step, policy};
use crate::supervisor::Policy;
use std::time::Duration;

fn stop_in_5s() -> Policy {
    Policy {
        stop: Some(Duration::from_secs(5)),
        ..policy()
    }
}

fn respawning() -> Policy {
    Policy {
        respawn: true,
        ..stop_in_5s()
    }
}

/// In a new `situation`, `event` leads to these actions and this deadline.
#[track_caller]
fn pair(situation: fn() -> Script, event: fn(&mut Script) -> Step<'_>, actions: &str, left: &str) {
    event(&mut situation()).does(actions, left);
}

/// Worker 1 of generation 1 serves.
fn serving() -> Script {
    let mut s = Script::up(stop_in_5s());
    s.at(10_000);
    s
}

#[test]
fn while_a_worker_serves() {
    pair(serving, |s| s.hup(), "begin 2; spawn 2 of 2", "13000");
    pair(serving, |s| s.term(), "close; TERM to 1", "15000");
    pair(serving, |s| s.int(), "close; INT to 1", "15000");
    pair(serving, |s| s.quit(), "QUIT to 1", "-");
    pair(serving, |s| s.exec_fails(2, "executing", 2), "", "-");
    pair(
        serving,
        |s| s.exits(1, 7),
        "not replacing 1, 0 ready; close; exit 7",
        "-",
    );
    pair(
        serving,
        |s| s.killed(1, 9),
        "not replacing 1, 0 ready; close; exit 137",
        "-",
    );
    pair(serving, |s| s.at(60_000).tick(), "", "-");
    pair(serving, |s| s.confirm(), "", "-");
    pair(serving, |s| s.resize(2), "spawn 2 of 1", "13000");
    pair(serving, |s| s.running(1), "", "-");
    pair(serving, |s| s.ready(1), "", "-");
}

/// Worker 1 of generation 1 is forked, not yet executed.
fn starting() -> Script {
    let mut s = Script::new(stop_in_5s());
    s.at(1000)
        .start()
        .does("begin 1 first; spawn 1 of 1", "4000");
    s.at(1500);
    s
}

#[test]
fn while_the_first_generation_is_forked() {
    pair(starting, |s| s.hup(), "remembered", "4000");
    pair(
        starting,
        |s| s.term(),
        "abandoned 1 0/1; close; TERM to 1",
        "6500",
    );
    pair(
        starting,
        |s| s.int(),
        "abandoned 1 0/1; close; INT to 1",
        "6500",
    );
    pair(starting, |s| s.quit(), "QUIT to 1", "4000");
    pair(
        starting,
        |s| s.exec_fails(1, "executing", 2),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(
        starting,
        |s| s.at(4000).tick(),
        "TERM to 1; not replacing 1, 0 ready",
        "confirm 9000",
    );
    pair(
        starting,
        |s| s.exits(1, 7),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(
        starting,
        |s| s.killed(1, 9),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(starting, |s| s.at(3999).tick(), "", "4000");
    pair(starting, |s| s.confirm(), "", "4000");
    pair(starting, |s| s.resize(2), "spawn 2 of 1", "4000");
    pair(starting, |s| s.running(1), "", "4500");
    pair(starting, |s| s.start(), "", "4000");
}

/// … and now it runs, until 5000 by the gate.
fn booting() -> Script {
    let mut s = starting();
    s.at(2000).running(1).does("", "5000");
    s
}

#[test]
fn while_the_first_generation_boots() {
    pair(booting, |s| s.hup(), "remembered", "5000");
    pair(
        booting,
        |s| s.term(),
        "abandoned 1 0/1; close; TERM to 1",
        "7000",
    );
    pair(
        booting,
        |s| s.int(),
        "abandoned 1 0/1; close; INT to 1",
        "7000",
    );
    pair(booting, |s| s.quit(), "QUIT to 1", "5000");
    pair(
        booting,
        |s| s.exits(1, 7),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(
        booting,
        |s| s.killed(1, 9),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(booting, |s| s.at(4999).tick(), "", "5000");
    pair(booting, |s| s.at(5000).tick(), "ready 1", "confirm");
    pair(booting, |s| s.confirm(), "", "5000");
    pair(booting, |s| s.resize(2), "spawn 2 of 1", "5000");
    pair(booting, |s| s.ready(1), "", "5000"); // the gate is the timer
}

/// The first generation is ready, and its promotion is not confirmed.
fn unconfirmed() -> Script {
    let mut s = booting();
    s.at(5000).tick().does("ready 1", "confirm");
    s
}

#[test]
fn while_the_first_generation_awaits_the_last_look() {
    pair(unconfirmed, |s| s.confirm(), "live 1 1/1", "-");
    pair(unconfirmed, |s| s.hup(), "remembered", "confirm");
    pair(
        unconfirmed,
        |s| s.term(),
        "abandoned 1 1/1; close; TERM to 1",
        "10000",
    );
    pair(unconfirmed, |s| s.quit(), "QUIT to 1", "confirm");
    pair(
        unconfirmed,
        |s| s.exits(1, 7),
        "not replacing 1, 0 ready",
        "confirm",
    );
    pair(unconfirmed, |s| s.tick(), "", "confirm");
}

/// Worker 1 serves, worker 2 of generation 2 is forked.
fn reloading() -> Script {
    let mut s = serving();
    s.hup().does("begin 2; spawn 2 of 2", "13000");
    s.at(10_010);
    s
}

#[test]
fn while_a_reload_forks() {
    pair(reloading, |s| s.hup(), "remembered", "13000");
    pair(
        reloading,
        |s| s.term(),
        "abandoned 2 0/1 keeping 1; close; TERM to 1; TERM to 2",
        "15010",
    );
    pair(
        reloading,
        |s| s.int(),
        "abandoned 2 0/1 keeping 1; close; INT to 1; INT to 2",
        "15010",
    );
    pair(reloading, |s| s.quit(), "QUIT to 1; QUIT to 2", "13000");
    pair(
        reloading,
        |s| s.exec_fails(2, "executing", 2),
        "rolled back 2 0/1 (2 executing 2 after 10) keeping 1",
        "-",
    );
    pair(
        reloading,
        |s| s.at(13_000).tick(),
        "TERM to 2; rolled back 2 0/1 (2 hung after 3000) keeping 1",
        "18000",
    );
    pair(
        reloading,
        |s| s.exits(2, 7),
        "rolled back 2 0/1 (2 exited 7 after 10) keeping 1",
        "-",
    );
    pair(
        reloading,
        |s| s.killed(1, 9),
        "not replacing 1, 0 ready",
        "13000",
    );
    pair(reloading, |s| s.at(12_999).tick(), "", "13000");
    pair(reloading, |s| s.resize(2), "spawn 3 of 2", "13000");
    pair(reloading, |s| s.running(2), "", "13010");
}

/// … and runs, until 13100 by the gate.
fn reload_boots() -> Script {
    let mut s = reloading();
    s.at(10_100).running(2).does("", "13100");
    s
}

#[test]
fn while_a_reload_boots() {
    pair(reload_boots, |s| s.hup(), "remembered", "13100");
    pair(
        reload_boots,
        |s| s.term(),
        "abandoned 2 0/1 keeping 1; close; TERM to 1; TERM to 2",
        "15100",
    );
    pair(reload_boots, |s| s.quit(), "QUIT to 1; QUIT to 2", "13100");
    pair(
        reload_boots,
        |s| s.exits(2, 0),
        "rolled back 2 0/1 (2 exited 0 after 100) keeping 1",
        "-",
    );
    pair(
        reload_boots,
        |s| s.killed(2, 11),
        "rolled back 2 0/1 (2 killed 11 after 100) keeping 1",
        "-",
    );
    pair(
        reload_boots,
        |s| s.exits(1, 7),
        "not replacing 1, 0 ready",
        "13100",
    );
    pair(reload_boots, |s| s.at(13_100).tick(), "ready 2", "confirm");
    pair(
        reload_boots,
        |s| s.resize(3),
        "spawn 3 of 2; spawn 4 of 2",
        "13100",
    );
}

/// Worker 2 is ready, worker 1 not yet asked.
fn reload_unconfirmed() -> Script {
    let mut s = reload_boots();
    s.at(13_100).tick().does("ready 2", "confirm");
    s
}

#[test]
fn while_a_reload_awaits_the_last_look() {
    pair(
        reload_unconfirmed,
        |s| s.confirm(),
        "TERM to 1; live 2 1/1",
        "18100",
    );
    pair(reload_unconfirmed, |s| s.hup(), "remembered", "confirm");
    pair(
        reload_unconfirmed,
        |s| s.term(),
        "abandoned 2 1/1 keeping 1; close; TERM to 1; TERM to 2",
        "18100",
    );
    pair(
        reload_unconfirmed,
        |s| s.quit(),
        "QUIT to 1; QUIT to 2",
        "confirm",
    );
    pair(
        reload_unconfirmed,
        |s| s.exits(2, 7),
        "rolled back 2 0/1 (2 exited 7 after 3100) keeping 1",
        "-",
    );
    pair(
        reload_unconfirmed,
        |s| s.exits(1, 7),
        "not replacing 1, 1 ready",
        "confirm",
    );
    pair(reload_unconfirmed, |s| s.resize(2), "spawn 3 of 2", "16100");
}

/// … and a further reload is remembered.
fn pending() -> Script {
    let mut s = reload_boots();
    s.hup().does("remembered", "13100");
    s.at(11_000);
    s
}

#[test]
fn while_a_reload_is_remembered() {
    pair(pending, |s| s.hup(), "remembered again", "13100");
    pair(
        pending,
        |s| s.term(),
        "abandoned 2 0/1 keeping 1; abandoned 3 0/1 keeping 1; close; TERM to 1; TERM to 2",
        "16000",
    );
    pair(
        pending,
        |s| s.int(),
        "abandoned 2 0/1 keeping 1; abandoned 3 0/1 keeping 1; close; INT to 1; INT to 2",
        "16000",
    );
    pair(pending, |s| s.quit(), "QUIT to 1; QUIT to 2", "13100");
    pair(
        pending,
        |s| s.exits(2, 7),
        "rolled back 2 0/1 (2 exited 7 after 1000) keeping 1; begin 3; spawn 3 of 3",
        "14000",
    );
    pair(
        pending,
        |s| s.killed(1, 9),
        "not replacing 1, 0 ready",
        "13100",
    );
    pair(pending, |s| s.at(13_100).tick(), "ready 2", "confirm");
    pair(pending, |s| s.resize(2), "spawn 3 of 2", "13100");
}

/// Worker 2 serves, worker 1 drains until 18100.
fn draining() -> Script {
    let mut s = reload_unconfirmed();
    s.confirm().does("TERM to 1; live 2 1/1", "18100");
    s.at(14_000);
    s
}

#[test]
fn while_an_old_worker_drains() {
    pair(draining, |s| s.hup(), "begin 3; spawn 3 of 3", "17000");
    pair(
        draining,
        |s| s.term(),
        "close; TERM to 1; TERM to 2",
        "18100",
    );
    pair(draining, |s| s.int(), "close; INT to 1; INT to 2", "18100");
    pair(draining, |s| s.quit(), "QUIT to 1; QUIT to 2", "18100");
    pair(draining, |s| s.exits(1, 7), "", "-");
    pair(draining, |s| s.killed(1, 9), "", "-");
    pair(
        draining,
        |s| s.exits(2, 7),
        "not replacing 2, 0 ready; close",
        "18100",
    );
    pair(
        draining,
        |s| s.at(18_100).tick(),
        "KILL to 1; killed 1",
        "-",
    );
    pair(draining, |s| s.at(18_099).tick(), "", "18100");
    pair(draining, |s| s.resize(2), "spawn 3 of 2", "17000");
    pair(draining, |s| s.running(1), "", "18100");
    pair(draining, |s| s.ready(1), "", "18100");
}

/// Worker 1 was asked by a SIGTERM at 10000.
fn stopping() -> Script {
    let mut s = serving();
    s.term().does("close; TERM to 1", "15000");
    s.at(11_000);
    s
}

#[test]
fn while_we_stop() {
    pair(stopping, |s| s.hup(), "refused", "15000");
    pair(stopping, |s| s.term(), "TERM to 1", "15000");
    pair(stopping, |s| s.int(), "INT to 1", "15000");
    pair(stopping, |s| s.quit(), "QUIT to 1", "15000");
    pair(stopping, |s| s.exits(1, 7), "exit 0", "-");
    pair(stopping, |s| s.killed(1, 15), "exit 0", "-");
    pair(
        stopping,
        |s| s.at(15_000).tick(),
        "KILL to 1; killed 1",
        "25000",
    );
    pair(stopping, |s| s.resize(2), "", "15000");
    pair(stopping, |s| s.running(1), "", "15000");
    pair(stopping, |s| s.ready(1), "", "15000");
    pair(stopping, |s| s.confirm(), "", "15000");
    pair(stopping, |s| s.start(), "", "15000");
    pair(stopping, |s| s.rebound(), "refused", "15000");
    pair(stopping, |s| s.lost(1), "giving up 1, lost; exit 1", "-");
}

/// Worker 2 is dead, worker 1 drains until 18100: nobody serves.
fn leaving() -> Script {
    let mut s = draining();
    let actions = "not replacing 2, 0 ready; close";
    s.exits(2, 7).does(actions, "18100");
    s
}

#[test]
fn while_the_last_ones_drain() {
    pair(leaving, |s| s.hup(), "refused", "18100");
    pair(leaving, |s| s.term(), "TERM to 1", "18100");
    pair(leaving, |s| s.quit(), "QUIT to 1", "18100");
    pair(leaving, |s| s.exits(1, 3), "exit 7", "-");
    pair(leaving, |s| s.killed(1, 9), "exit 7", "-");
    pair(
        leaving,
        |s| s.at(18_100).tick(),
        "KILL to 1; killed 1",
        "28100",
    );
    pair(leaving, |s| s.resize(2), "", "18100");
}

/// The only worker has died twice: the next start is due at 10110.
fn in_backoff() -> Script {
    let mut s = Script::up(respawning());
    s.at(10_000)
        .exits(1, 7)
        .does("replacing 1 in 0; spawn 2 of 1", "13000");
    s.at(10_010).exits(2, 8).does("replacing 2 in 100", "10110");
    s
}

#[test]
fn while_a_place_is_in_back_off() {
    pair(in_backoff, |s| s.hup(), "begin 2; spawn 3 of 2", "10110");
    pair(in_backoff, |s| s.term(), "close; exit 0", "-");
    pair(in_backoff, |s| s.int(), "close; exit 0", "-");
    pair(in_backoff, |s| s.quit(), "nobody to quit", "10110");
    pair(in_backoff, |s| s.exits(1, 7), "", "10110");
    pair(in_backoff, |s| s.at(10_109).tick(), "", "10110");
    pair(in_backoff, |s| s.at(10_110).tick(), "spawn 3 of 1", "13110");
    pair(in_backoff, |s| s.resize(2), "spawn 3 of 1", "10110");
    pair(
        in_backoff,
        |s| s.rebound(),
        "begin 2; spawn 3 of 2",
        "10110",
    );
}

/// The first generation has died twice: the next start is due at 1120.
fn first_in_backoff() -> Script {
    let mut s = Script::new(respawning());
    s.at(1000)
        .start()
        .does("begin 1 first; spawn 1 of 1", "4000");
    s.at(1010).running(1).does("", "4010");
    s.at(1020)
        .exits(1, 7)
        .does("replacing 1 in 0; spawn 2 of 1", "4020");
    s.at(1020).exits(2, 8).does("replacing 2 in 100", "1120");
    s
}

#[test]
fn while_the_first_generation_is_in_back_off() {
    pair(
        first_in_backoff,
        |s| s.hup(),
        "remembered; superseded 1 0/1 (2 exited 8 after 0); begin 2; spawn 3 of 2",
        "4020",
    );
    pair(
        first_in_backoff,
        |s| s.term(),
        "abandoned 1 0/1; close; exit 0",
        "-",
    );
    pair(first_in_backoff, |s| s.quit(), "nobody to quit", "1120");
    pair(
        first_in_backoff,
        |s| s.at(1120).tick(),
        "spawn 3 of 1",
        "4120",
    );
    pair(
        first_in_backoff,
        |s| s.resize(2),
        "spawn 3 of 1; spawn 4 of 1",
        "4020",
    );
}

/// Worker 1 was told to QUIT.
fn told_to_quit() -> Script {
    let mut s = Script::up(respawning());
    s.at(10_000).quit().does("QUIT to 1", "-");
    s
}

#[test]
fn while_a_worker_quits_or_does_not() {
    pair(told_to_quit, |s| s.exits(1, 0), "close; exit 0", "-");
    pair(told_to_quit, |s| s.killed(1, 3), "close; exit 0", "-");
    pair(
        told_to_quit,
        |s| s.exits(1, 1),
        "replacing 1 in 0; spawn 2 of 1",
        "13000",
    );
    pair(
        told_to_quit,
        |s| s.killed(1, 9),
        "replacing 1 in 0; spawn 2 of 1",
        "13000",
    );
    pair(told_to_quit, |s| s.at(600_000).tick(), "", "-");
    pair(told_to_quit, |s| s.hup(), "begin 2; spawn 2 of 2", "13000");
    pair(told_to_quit, |s| s.term(), "close; TERM to 1", "15000");
    pair(told_to_quit, |s| s.quit(), "QUIT to 1", "-");
}
