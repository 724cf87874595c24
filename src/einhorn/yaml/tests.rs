//! What einhorn's clients and servers write, and what nobody should.

use super::*;
use crate::control::protocol::{
    MAX_DEPTH, MAX_REQUEST, Reply, Request, decode, parse_reply, parse_request, to_json,
};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;

fn request(line: &str) -> Request {
    parse_request(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"))
}

fn refuse(line: &str) {
    if let Ok(request) = parse_request(line.as_bytes()) {
        panic!("{line:?} was read as {request:?}");
    }
}

/// Each pair of lines: what Psych 4.0.4 wrote (`YAML.dump`, then einhorn's escapes), and the
/// same as JSON.
const PSYCH: &str = include_str!("psych-4.0.4.txt");
/// The same from the yaml.v2 that go-einhorn uses (`yaml.Marshal`).
const YAML_V2: &str = include_str!("yaml.v2-2.4.0.txt");

#[test]
fn everything_that_psych_and_yaml_v2_write_is_read_as_it_was_meant() {
    let lines: Vec<&str> = PSYCH.lines().chain(YAML_V2.lines()).collect();
    for pair in lines.chunks(2) {
        let text = decode(pair[0]);
        let read = parse(&text, MAX_DEPTH).expect("the corpus is YAML");
        let meant: Value = serde_json::from_str(pair[1]).expect("the corpus is JSON");
        assert_eq!(read, meant, "{}", pair[0]);
    }
}

#[test]
fn the_requests_of_go_einhorn_and_of_hand_written_clients_are_read() {
    let got = request("command: worker:ack%0Apid: 123%0Arequest_id: \"7\"%0A");
    assert_eq!(
        (got.command.as_deref(), got.pid),
        (Some("worker:ack"), Some(123))
    );
    assert_eq!(got.id, None);
    let got = request("---%0Aid: 7%0Acommand: dec%0Aargs: []%0A\r");
    assert_eq!((got.id, got.args), (Some(json!(7)), json!([])));
    let got = request("{command: help, id: x}");
    assert_eq!(
        (got.id, got.command),
        (Some(json!("x")), Some("help".into()))
    );
    let got = request("command: ehlo\r%0Auser:\r%0A");
    assert_eq!((got.command, got.user), (Some("ehlo".into()), None));
}

#[test]
fn plain_scalars_have_the_types_of_yaml_1_1() {
    for (text, expected) in [
        ("~", json!(null)),
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("0x1F", json!(31)),
        ("017", json!(15)),
        ("0b101", json!(5)),
        ("1_000", json!(1000)),
        ("-5", json!(-5)),
        ("+5", json!(5)),
        ("1.5", json!(1.5)),
        ("-.5", json!(-0.5)),
        ("1.0e+06", json!(1e6)),
        ("1e+06", json!("1e+06")),
        ("18446744073709551615", json!(u64::MAX)),
        ("09", json!("09")),
        ("1-2", json!("1-2")),
        ("2026-11-22", json!("2026-11-22")),
        (".inf", json!(".inf")),
        ("infinity", json!("infinity")),
        ("nan", json!("nan")),
        (".", json!(".")),
        ("-", json!([null])),
        (":symbol", json!(":symbol")),
        ("1:30", json!("1:30")),
        ("!!str 3", json!("3")),
        ("! 3", json!("3")),
        ("!!int 3", json!(3)),
        ("!binary aGk=", json!("hi")),
        ("!!binary |%0A    aGVs%0A    bG8=", json!("hello")),
    ] {
        let got = request(&format!(
            "id:{}{text}",
            if text == "-" { "%0A" } else { " " }
        ));
        assert_eq!(
            to_json(&got.id.unwrap_or(Value::Null)),
            expected_of(expected),
            "{text}"
        );
    }
}

/// A falsy value is as good as none.
fn expected_of(value: Value) -> String {
    if matches!(value, Value::Null | Value::Bool(false)) {
        "null".into()
    } else {
        to_json(&value)
    }
}

#[test]
fn yaml_that_could_make_objects_or_copies_is_refused() {
    for line in [
        "id: &a 1",
        "id: &a [1]",
        "id: &a {b: 1}",
        "a: &a 1%0Aid: *a",
        "id: *a",
        "id: !ruby/object:Set {}",
        "id: !ruby/regexp /x/",
        "id: !!set {a}",
        "!ruby/object:Set%0Aid: 1",
        "id: !<tag:ruby.yaml.org,2002:x> 1",
        "id: !binary '***'",
        "id: 1%0A---%0Aid: 2",
        "id: a\0b",
        "id: \u{1}",
        "id: 1%0A  command: x",
        "? [1]%0A: 2",
    ] {
        refuse(line);
    }
}

/// The processor time that it takes to read or refuse the line, which other processes that keep the
/// machine busy do not lengthen.
fn effort(line: &[u8]) -> Duration {
    let used = || {
        let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        Duration::from(used.expect("every thread has this clock"))
    };
    let before = used();
    let _ = parse_request(line);
    used() - before
}

/// Quadratic work would be 64 times as much for eight times the length. One measurement may be
/// wrong by any factor, and ten in a row are not.
#[test]
fn the_effort_for_a_line_grows_with_its_length_and_not_with_its_square() {
    let shapes = [
        "[",
        "{",
        "- ",
        "? ",
        "a: ",
        "- - ",
        "[[],",
        "{a: ",
        "'",
        "\"",
        "|",
        "!",
        "&a ",
        "*a ",
        "%0A",
        "%0A ",
        " ",
        "\t",
        "#",
        "a",
        "a ",
        "a: b%0A",
        "- a%0A",
        "[a,",
        "\"a\",",
        "\\",
        "---%0A",
        "%25",
        "\r",
        "? a%0A",
        "- |%0A",
        "a%0A%0A",
        "x: |%0A  a%0A",
    ];
    let prefixes = [
        "",
        "id: ",
        "id: \"",
        "id: '",
        "id: |%0A ",
        "id: [",
        "{\"id\": [",
        "args:%0A",
    ];
    for (shape, prefix) in shapes
        .iter()
        .flat_map(|s| prefixes.iter().map(move |p| (s, p)))
    {
        let mut line = format!("{prefix}{}", shape.repeat(MAX_REQUEST / shape.len()));
        line.truncate(MAX_REQUEST);
        let line = line.as_bytes();
        let is_linear = || effort(line) < 24 * effort(&line[..MAX_REQUEST / 8]);
        assert!(
            (0..10).any(|_| is_linear()),
            "{prefix:?} and many {shape:?}"
        );
    }
}

#[test]
fn the_answers_of_a_real_einhorn_are_read() {
    let read = |line: &str| parse_reply(line.as_bytes()).expect("a mapping");
    let got = read("---%0Amessage: |%0A  text%0Arequest_id: 1%0Await: true%0A");
    assert_eq!(
        got,
        Reply {
            message: "text\n".into(),
            request_id: Some(json!(1)),
            wait: true
        }
    );
    let got =
        read("---%0Amessage: Incrementing number of workers from 2 -> 3%0Arequest_id: x%25y%0A");
    assert_eq!(got.message, "Incrementing number of workers from 2 -> 3");
    assert_eq!((got.request_id, got.wait), (Some(json!("x%y")), false));
    let got = read(
        "---%0Amessage: |%0A  Welcome, root! You are speaking to Einhorn Master Process 23578 (demo).%0A  This is Einhorn 1.1.1.%0A",
    );
    assert!(
        got.message.ends_with("(demo).\nThis is Einhorn 1.1.1.\n"),
        "{}",
        got.message
    );
    assert_eq!(read("---%0Amessage: ''%0A").message, "");
    assert!(parse_reply(b"--- Could not parse command%0A").is_err());
}
