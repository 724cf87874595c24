//! Who is told what about a reload, without any socket.

use super::*;
use crate::control::verdict::FailedWorker;
use crate::supervisor::Verdict;
use std::time::Duration;

const BEGUN: ReloadStep = ReloadStep::Begun {
    workers: 2,
    live: 1,
};

fn report(generation: u64, outcome: Outcome) -> ReloadReport {
    let verdict = Verdict {
        generation,
        outcome,
        ready: 2,
        wanted: 2,
        failure: None,
        serving: None,
        took: Duration::from_secs(1),
        first: false,
        unreached: None,
    };
    ReloadReport::new(&verdict, FailedWorker::default())
}

/// The connection, the text, and whether it is the last answer.
fn texts(answers: &[(u64, Answer)]) -> Vec<(u64, &str, bool)> {
    let all = answers.iter();
    all.map(|(connection, it)| (*connection, it.message.as_str(), !it.wait))
        .collect()
}

/// A generation begins to come up: what those are told who wait for it.
fn begin(waiters: &mut Waiters, generation: u64, first: bool) -> Vec<(u64, Answer)> {
    waiters.begin(generation, first);
    waiters.progress(&BEGUN)
}

#[test]
fn a_client_waits_for_the_reload_that_begins_after_it_asked() {
    let mut waiters = Waiters::default();
    begin(&mut waiters, 1, true);
    waiters.add(7, Some(json!(3)), WaitFor::Reload);
    let messages = begin(&mut waiters, 2, false);
    let expected = "reload 2: starting 2 workers";
    assert_eq!(texts(&messages), [(7, expected, false)]);
    waiters.add(8, None, WaitFor::Reload);
    let messages = waiters.conclude(&report(2, Outcome::Live));
    assert_eq!(messages.len(), 1, "the other waits for the next one");
    let (connection, answer) = &messages[0];
    assert_eq!((*connection, answer.wait), (7, false));
    assert_eq!(answer.id, Some(json!(3)));
    let verdict = answer.verdict.as_ref().expect("it is the verdict");
    assert_eq!(verdict["outcome"], "live");
    assert_eq!(texts(&begin(&mut waiters, 3, false))[0].0, 8);
}

#[test]
fn a_remembered_reload_that_a_stop_abandons_is_the_one_of_those_who_have_none() {
    let mut waiters = Waiters::default();
    begin(&mut waiters, 1, true);
    waiters.add(7, None, WaitFor::Reload);
    let messages = waiters.conclude(&report(2, Outcome::Abandoned));
    assert_eq!(texts(&messages).len(), 1);
    let verdict = messages[0].1.verdict.as_ref().expect("a verdict");
    assert_eq!(verdict["outcome"], "abandoned");
    assert!(waiters.conclude_all("stopped").is_empty());
}

#[test]
fn workers_that_became_ready_at_once_are_told_one_after_the_other() {
    let mut waiters = Waiters::default();
    begin(&mut waiters, 1, true);
    assert_eq!([waiters.count_ready(2), waiters.count_ready(2)], [1, 2]);
    assert_eq!(waiters.count_ready(2), 2, "a replacement is ready");
}

#[test]
fn at_the_end_everybody_hears_of_it() {
    let mut waiters = Waiters::default();
    waiters.add(1, None, WaitFor::Exit);
    waiters.add(2, None, WaitFor::Reload);
    waiters.begin(2, false);
    waiters.add(3, None, WaitFor::Exit);
    waiters.forget(3);
    let gone = |left| ReloadStep::Gone {
        pid: 11,
        was_ready: true,
        left,
    };
    let told = waiters.progress(&gone(1));
    assert_eq!(texts(&told), [(1, "1 worker left", false)]);
    assert!(waiters.progress(&gone(0)).is_empty());
    let messages = waiters.conclude_all("stopped");
    assert_eq!(
        texts(&messages),
        [(1, "stopped", true), (2, "stopped", true)]
    );
    let outcome = |(_, answer): &(u64, Answer)| Some(answer.verdict.as_ref()?["outcome"].clone());
    assert_eq!(
        messages.iter().map(outcome).collect::<Vec<_>>(),
        [None, Some(json!("abandoned"))]
    );
}

#[test]
fn who_waits_is_plain_data() {
    let mut waiters = Waiters::default();
    waiters.add(1, Some(json!([1, "a"])), WaitFor::Reload);
    waiters.begin(4, false);
    waiters.add(2, None, WaitFor::Exit);
    let carried = serde_json::to_string(&waiters).expect("plain data");
    let mut waiters: Waiters = serde_json::from_str(&carried).expect("it comes back");
    assert_eq!(waiters.begun, 4);
    let messages = waiters.conclude(&report(4, Outcome::Live));
    assert_eq!(messages[0].1.id, Some(json!([1, "a"])));
    assert_eq!(waiters.conclude_all("x").len(), 1);
}

#[cfg(feature = "einhorn")]
mod upgrades {
    use super::*;

    fn upgrade(smooth: bool) -> Waiters {
        let mut waiters = Waiters::default();
        begin(&mut waiters, 1, true);
        waiters.add(5, Some(json!(10)), WaitFor::Upgrade { smooth });
        waiters
    }

    #[test]
    fn an_upgrade_is_told_in_einhorns_words() {
        let mut waiters = upgrade(true);
        let mut told = begin(&mut waiters, 2, false);
        for step in [
            ReloadStep::Started { pid: 11, index: 1 },
            ReloadStep::Ready {
                pid: 11,
                timer: Some(1.0),
                ready: 1,
                wanted: 1,
            },
            ReloadStep::Asked {
                pid: 10,
                signal: libc::SIGUSR2,
                old: true,
            },
            ReloadStep::Gone {
                pid: 10,
                was_ready: true,
                left: 0,
            },
        ] {
            told.extend(waiters.progress(&step));
        }
        told.extend(waiters.conclude(&report(2, Outcome::Live)));
        let (_, last) = told.pop().expect("it is over");
        assert_eq!((&*last.message, last.wait), ("Upgrade done", false));
        assert!(told.iter().all(|(_, answer)| answer.wait));
        let lines: Vec<&str> = told.iter().map(|(_, answer)| &*answer.message).collect();
        let expected = [
            "Starting smooth upgrade from version 0...",
            "===> Launched 11 (index: 1)",
            "Worker 11 has been up for 1s, so we are considering it alive.",
            "Up to 1 / 1 timer ACKs",
            "Smooth upgrade: killing off 1 old workers.",
            "Sending USR2 to [10]",
            "===> Exited worker 10",
            "Upgraded successfully to version 1 (Einhorn 1.1.1).",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_upgrade_that_is_superseded_waits_for_the_next() {
        let mut waiters = upgrade(false);
        begin(&mut waiters, 2, false);
        let messages = waiters.conclude(&report(2, Outcome::Superseded));
        assert!(messages[0].1.wait);
        begin(&mut waiters, 3, false);
        let messages = waiters.conclude(&report(3, Outcome::RolledBack));
        let (_, last) = &messages[0];
        assert!(!last.wait && last.message.starts_with("Upgrade failed: "));
    }
}
