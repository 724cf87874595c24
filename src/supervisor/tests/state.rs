//! The core's state as JSON, as one image of the program writes it for the next.

use super::script::{Script, fleet, policy};
use crate::supervisor::{Event, Supervisor};
use serde_json::{Value, json};

/// The supervisor as another image of the program reads it.
pub fn read_back(core: &Supervisor) -> Supervisor {
    let text = serde_json::to_string(core).expect("the state can be written");
    serde_json::from_str(&text).expect("the state can be read")
}

#[test]
fn a_remembered_reload_in_the_configured_style_outlives_an_image() {
    let mut s = Script::up(policy());
    s.at(10_000).hup().does("begin 2; spawn 2 of 2", "13000");
    s.running(2).does("", "13000");
    s.at(10_001).hup().does("remembered", "13000");
    s.core = read_back(&s.core);
    s.at(13_000).tick().does("ready 2", "confirm");
    s.confirm()
        .does("TERM to 1; live 2 1/1; begin 3; spawn 3 of 3", "16000");
}

#[test]
fn a_state_of_another_version_is_read() {
    let mut s = Script::up(fleet(2));
    s.at(10_000).feed(Event::Reload(None));
    let mut state = serde_json::to_value(&s.core).expect("the state can be written");
    for (object, field) in [
        ("", "rebound"),
        ("", "started_since_tick"),
        ("/policy", "respawn"),
        ("/workers/map/1", "restarts"),
        ("/workers/map/1", "refusal"),
        ("/rollout", "pending_starts"),
    ] {
        let object = state.pointer_mut(object).and_then(Value::as_object_mut);
        let object = object.expect("an object");
        assert!(object.remove(field).is_some(), "{field}");
        object.insert("of a later version".to_owned(), json!([1]));
    }
    let read: Supervisor = serde_json::from_value(state).expect("the state can be read");
    let expected = Supervisor {
        started_since_tick: 0,
        ..s.core
    };
    assert_eq!(read, expected);
}
