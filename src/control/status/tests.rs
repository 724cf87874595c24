//! What a status looks like, from a core that was driven through a life.

use super::*;
use crate::config::Config;
use crate::control::protocol::to_json;
use crate::control::verdict::FailedWorker;
use crate::supervisor::{Action, ChildId, End, Event, Gate, Instant, Policy};
use crate::worker::Process;
use serde_json::Value;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

/// Two workers, respawned, that are ready after 100 ms.
fn core() -> Supervisor {
    let mut core = Supervisor::new(Policy {
        workers: 2,
        max_extra: None,
        style: None,
        gate: Gate::Timer,
        start: Duration::from_millis(100),
        stop: None,
        stop_signal: 15,
        respawn: true,
        pace: None,
        capacity: 100,
    });
    core.handle(Instant(0), Event::Start);
    for id in [1, 2] {
        core.handle(Instant(0), Event::Running(ChildId(id)));
    }
    core.handle(Instant(100 * MS), Event::Tick);
    core.handle(Instant(100 * MS), Event::PromotionConfirmed);
    core
}

/// A reload whose first worker exits with 7: its verdict.
fn roll_back(core: &mut Supervisor) -> (ReloadReport, Instant) {
    let now = Instant(200 * MS);
    core.handle(now, Event::Reload(None));
    core.handle(now, Event::Gone(ChildId(3), End::Exited(7)));
    let mut verdict = None;
    while let Some(action) = core.next_action() {
        if let Action::Verdict(it) = action {
            verdict = Some(it);
        }
    }
    let failed = FailedWorker {
        pid: Some(815),
        last_lines: vec!["cannot open \"x\"".to_owned()],
    };
    let verdict = verdict.expect("it is over");
    (ReloadReport::new(&verdict, failed), now)
}

fn sockets() -> Vec<SocketStatus> {
    let socket = |address: &str, queue| SocketStatus {
        uri: "tcp://:80".to_owned(),
        address: address.to_owned(),
        name: "web".to_owned(),
        queue,
        backlog: queue.map(|_| 4096),
    };
    vec![
        socket("tcp://[::]:80", Some(17)),
        socket("udp://[::]:53", None),
    ]
}

fn status(core: &Supervisor, last: Option<&(ReloadReport, Instant)>) -> Status {
    let processes = core.workers().ids().into_iter().map(|id| {
        let process = Process {
            pid: 1000 + id.0 as i32,
            status: (id.0 == 1).then(|| "serving".to_owned()),
            ..Process::default()
        };
        (id, process)
    });
    let config = Config {
        command: "/srv/app".into(),
        ..Config::default()
    };
    let state = ControlState {
        last_verdict: last.cloned(),
        ..ControlState::default()
    };
    let view = View {
        now: Instant(1200 * MS),
        config: &config,
        core,
        processes: &processes.collect(),
        by_pid: &BTreeMap::new(),
        listeners: &[],
        level: slog::Level::Info,
    };
    Status {
        sockets: sockets(),
        ..Status::new(&state, &view)
    }
}

#[test]
fn the_table_says_all_on_one_screen() {
    let mut core = core();
    let last = roll_back(&mut core);
    core.handle(Instant(1200 * MS), Event::Gone(ChildId(4), End::Exited(0)));
    let table = status(&core, Some(&last)).table();
    let expected = "\
up 1.2 s, runs /srv/app
generation 1: 2 of 2 workers ready
1.0 s ago: reload 2 rolled back: worker 815 exited with status 7 after 0 ms; keeping generation 1";
    let (_, from_up) = table.split_at(table.find("up ").expect("it says how long"));
    assert!(from_up.starts_with(expected), "{table}");
    let rest = "
  | cannot open \"x\"

SOCKET         QUEUE
tcp://[::]:80  17/4096
udp://[::]:53  -

PID   GENERATION  STATE  AGE    RESTARTS
1001  1           ready  1.2 s  0         serving
1002  1           ready  1.2 s  0
";
    assert!(table.ends_with(rest), "{table}");
}

#[test]
fn the_object_has_everything_that_the_table_has() {
    let mut core = core();
    let last = roll_back(&mut core);
    let json = to_json(&status(&core, Some(&last)));
    let value: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(value["uptime_ms"], 1200);
    assert_eq!(value["live_generation"], 1);
    assert_eq!(value["reload_generation"], Value::Null);
    assert_eq!(value["sockets"][0]["queue"], 17);
    assert_eq!(value["sockets"][1]["backlog"], Value::Null);
    assert_eq!(value["workers"][0]["status"], "serving");
    assert_eq!(value["workers"][0]["age_ms"], 1200);
    assert_eq!(value["workers"][2]["state"], "stopping");
    assert_eq!(value["generations"][1]["stopping"], 1);
    let last = &value["last_verdict"];
    assert_eq!(last["outcome"], "rolled-back");
    assert_eq!(last["serving"], 1);
    assert_eq!(last["ago_ms"], 1000);
    assert_eq!(last["lines"][0], "cannot open \"x\"");
    assert_eq!(last["reason"], "worker 815 exited with status 7 after 0 ms");
}

#[test]
fn before_the_first_verdict_there_is_none() {
    let core = core();
    let json = to_json(&status(&core, None));
    let value: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(value["last_verdict"], Value::Null);
}

#[test]
fn a_place_that_waits_for_its_worker_is_shown() {
    let mut core = core();
    let at = |ms: u64| Instant(ms * MS);
    core.handle(at(150), Event::Gone(ChildId(2), End::Exited(1)));
    core.handle(at(160), Event::Gone(ChildId(3), End::Exited(1)));
    core.handle(at(160), Event::Tick);
    let table = status(&core, None).table();
    assert!(table.contains("1 worker to be started within "), "{table}");
}
