use super::line::TooLong;
use super::*;

fn request(line: &str) -> Request {
    parse_request(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refusal(line: &[u8]) -> &'static str {
    match parse_request(line) {
        Err(Unparsable(why)) => why,
        Ok(request) => panic!(
            "{:?} was read as {request:?}",
            String::from_utf8_lossy(line)
        ),
    }
}

fn answer(message: &str, id: Option<&Id>, wait: bool) -> String {
    String::from_utf8(encode_answer(message, id, wait)).expect("answers are UTF-8")
}

/// Own generator: the same cases on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }
}

#[test]
fn only_two_escapes_are_undone_and_each_once() {
    for (line, text) in [
        ("a%0Ab", "a\nb"),
        ("%2525", "%25"),
        ("%250A", "%0A"),
        ("%0a %2B %", "%0a %2B %"),
        ("%2", "%2"),
        ("%%25%0A%0", "%%\n%0"),
        ("", ""),
    ] {
        assert_eq!(&*line::decode(line.as_bytes()), text.as_bytes(), "{line}");
    }
}

#[test]
fn any_bytes_survive_the_way_through_the_line_codec() {
    let mut dice = Dice(7);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..dice.below(12))
            .map(|_| b"%250Aa\n\r\xff"[dice.below(9)])
            .collect();
        let line = line::encode(&bytes);
        assert!(!line.contains(&b'\n'));
        assert_eq!(&*line::decode(&line), &bytes[..]);
    }
}

#[test]
fn lines_come_out_whole_however_they_went_in() {
    let text = b"one\n\ntwo\r\nthree\nunfinished";
    let mut dice = Dice(3);
    for _ in 0..500 {
        let mut reader = LineReader::new(16);
        let (mut lines, mut rest) = (Vec::new(), &text[..]);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(1 + dice.below(rest.len()));
            reader.push(chunk);
            rest = after;
            while let Some(line) = reader.next_line().expect("no line is too long") {
                lines.push(line);
            }
        }
        assert_eq!(lines, [&b"one"[..], b"", b"two\r", b"three"]);
        assert_eq!(reader.pending(), b"unfinished");
    }
}

#[test]
fn an_endless_line_is_refused_once_the_limit_is_passed() {
    let mut reader = LineReader::new(100);
    reader.push(&[b'x'; 100]);
    assert_eq!(reader.next_line(), Ok(None));
    reader.push(b"\n");
    assert_eq!(reader.next_line(), Ok(Some(vec![b'x'; 100])));
    reader.push(&[b'x'; 101]);
    assert_eq!(reader.next_line(), Err(TooLong));
    let mut reader = LineReader::new(2);
    reader.push(b"abc\n");
    assert_eq!(reader.next_line(), Err(TooLong));
}

#[test]
fn a_reader_without_an_unfinished_line_holds_no_memory() {
    let mut reader = LineReader::new(MAX_REQUEST);
    reader.push(&[b"{}".repeat(9000), b"\n".to_vec()].concat());
    while reader.next_line().expect("not too long").is_some() {}
    assert_eq!(reader.buffer.capacity(), 0);
}

#[test]
fn a_request_is_read_from_json() {
    let got = request("{\"id\":\"x%25y\",\"command\":\"inc\",\"args\":[]}\r");
    assert_eq!(got.id, Some(json!("x%y")));
    assert_eq!(got.command.as_deref(), Some("inc"));
    assert_eq!(got.args, Args::List(vec![]));
    let got = request(r#"{"command":"worker:ack","pid":123}"#);
    assert_eq!((got.pid, got.id, got.args), (Some(123), None, Args::Absent));
    let got = request(r#"{"command":"ehlo","user":"\ud83d\ude00 root"}"#);
    assert_eq!(got.user.as_deref(), Some("\u{1f600} root"));
}

#[test]
fn of_two_fields_with_one_key_the_later_one_counts() {
    let text = r#"{"id":1,"command":"inc","args":[],"command":"dec"}"#;
    let got = request(text);
    assert_eq!((got.id, got.command), (Some(json!(1)), Some("dec".into())));
    let value = Value::parse(text).expect("it is JSON");
    assert_eq!(value.get("command"), Some(&json!("dec")));
}

#[test]
fn null_and_false_are_no_id_and_zero_is_one() {
    for (id, expected) in [
        ("null", None),
        ("false", None),
        ("0", Some(json!(0))),
        ("\"\"", Some(json!(""))),
        ("[1, \"a\"]", Some(json!([1, "a"]))),
        ("1.5", Some(json!(1.5))),
        ("true", Some(json!(true))),
    ] {
        assert_eq!(request(&format!("{{\"id\": {id}}}")).id, expected, "{id}");
    }
}

#[test]
fn only_an_integer_is_a_pid() {
    for (pid, expected) in [
        ("7", Some(7)),
        ("\"7\"", None),
        ("7.0", None),
        ("[7]", None),
        ("99999999999", None),
        ("null", None),
    ] {
        assert_eq!(
            request(&format!("{{\"pid\": {pid}}}")).pid,
            expected,
            "{pid}"
        );
    }
}

#[test]
fn args_that_are_no_strings_are_refused_in_einhorns_words() {
    for (args, expected) in [
        ("null", Err("No args provided".to_string())),
        ("\"3\"", Err("Args must be an array".to_string())),
        (
            "[3]",
            Err("Argument is a Integer, not a string: 3".to_string()),
        ),
        (
            "[true]",
            Err("Argument is a TrueClass, not a string: true".to_string()),
        ),
        ("[\"3\", \"b\"]", Ok(vec!["3", "b"])),
    ] {
        let request = request(&format!("{{\"args\": {args}}}"));
        assert_eq!(request.args.strings(), expected, "{args}");
    }
}

#[test]
fn what_is_no_mapping_is_no_request() {
    for line in [
        "",
        "\r",
        "3",
        "\"help\"",
        "[]",
        "[{\"command\": \"help\"}]",
        "{",
        "{}x",
    ] {
        refusal(line.as_bytes());
    }
    refusal(b"{\"command\": \"\xff\"}");
    refusal(&[b'x'; MAX_REQUEST + 1]);
    assert_eq!(request("{}").command, None);
}

#[test]
fn nesting_is_bounded() {
    let nested = |n: usize| format!("{{\"id\": {}1{}}}", "[".repeat(n), "]".repeat(n));
    request(&nested(MAX_DEPTH - 1));
    for n in [MAX_DEPTH, 127, 255, 20_000] {
        refusal(nested(n).as_bytes());
    }
}

#[test]
fn an_answer_has_only_what_was_asked_for() {
    assert_eq!(
        answer("Upgrade done", None, false),
        "{\"message\": \"Upgrade done\"}\n"
    );
    assert_eq!(
        answer("x", Some(&json!("7")), true),
        "{\"message\": \"x\", \"request_id\": \"7\", \"wait\": true}\n"
    );
    assert_eq!(
        answer("", Some(&json!(7)), false),
        "{\"message\": \"\", \"request_id\": 7}\n"
    );
    let nested = json!([1, null, {"a": false}]);
    assert!(answer("", Some(&nested), false).contains("[1, null, {\"a\": false}]"));
}

#[test]
fn an_answer_escapes_what_some_client_would_misread() {
    assert_eq!(
        answer(
            "%25 a+b\n\t\"\\\x01\x7f\u{80}\u{85}é\u{2028}\u{feff}\u{ffff}\u{1f600}",
            None,
            false
        ),
        "{\"message\": \"\\u002525 a\\u002bb\\n\\t\\\"\\\\\\u0001\\u007f\\u0080\\u0085\\u00e9\
         \\u2028\\ufeff\\uffff\u{1f600}\"}\n"
    );
}

#[test]
fn a_float_stays_a_float_for_psych() {
    for (id, text) in [
        (json!(1.0), "1.0"),
        (json!(1e20), "100000000000000000000.0"),
    ] {
        assert_eq!(json::text(&id), text);
    }
    assert_eq!(json::text(&json!(1e-7)), "0.0000001");
    assert_eq!(json::text(&json!(-7)), "-7");
}

#[test]
fn our_own_answers_and_requests_come_back_as_they_were() {
    let mut dice = Dice(11);
    for _ in 0..20_000 {
        let message: String = (0..dice.below(20)).map(|_| any_char(&mut dice)).collect();
        let id = json!([
            message,
            dice.roll() as i64,
            dice.below(9) as f64 / 4.0,
            true
        ]);
        let wait = dice.below(2) == 0;
        let mut line = encode_answer(&message, Some(&id), wait);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n') && !line.contains(&b'%') && !line.contains(&b'+'));
        let expected = Answer {
            message: message.clone(),
            request_id: Some(id),
            wait,
        };
        assert_eq!(decode_answer(&line), Ok(expected));

        let mut line = encode_request(3, &message, &[&message, ""]);
        assert_eq!(line.pop(), Some(b'\n'));
        let got = parse_request(&line).expect("our own request");
        assert_eq!(got.args.strings(), Ok(vec![&message[..], ""]));
        assert_eq!((got.id, got.command), (Some(json!(3)), Some(message)));
    }
    assert_eq!(
        encode_ehlo(None),
        b"{\"command\": \"ehlo\", \"user\": null}\n"
    );
    assert_eq!(
        request("{\"command\": \"ehlo\", \"user\": null}").user,
        None
    );
}

fn any_char(dice: &mut Dice) -> char {
    let limit = [0x80, 0x100, 0x3000, 0x11_0000][dice.below(4)];
    char::from_u32(dice.below(limit) as u32).unwrap_or('\n')
}

#[test]
fn an_answer_that_is_no_mapping_is_told_apart() {
    assert_eq!(decode_answer(b"[1]"), Err(Unparsable("not a mapping")));
    let got = decode_answer(b"{\"wait\": false}").expect("a mapping");
    assert_eq!(
        got,
        Answer {
            message: String::new(),
            request_id: None,
            wait: false
        }
    );
}

/// Not a guided fuzzer: pieces of the languages thrown together, and valid lines damaged.
#[test]
fn no_line_makes_the_parser_panic() {
    const PIECES: [&str; 56] = [
        "---",
        "...",
        "%0A",
        "%25",
        "%",
        "- ",
        "? ",
        ": ",
        ":",
        "command",
        "id",
        "args",
        "pid",
        "help",
        "worker:ack",
        " ",
        "  ",
        "\t",
        "\r",
        "|",
        "|-",
        "|+2",
        ">",
        ">-",
        "'",
        "''",
        "\"",
        "\\",
        "\\u00",
        "\\x",
        "\\U0010FFFF",
        "\\ud800",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a",
        "*a",
        "!",
        "!!str ",
        "!binary ",
        "!ruby/object:Set",
        "!<",
        "#",
        "~",
        "null",
        "3",
        "-1.5e300",
        "0x",
        "<<",
        "@",
        "\0",
        "\u{85}",
        "\u{feff}",
        "é",
    ];
    const WHOLE: [&str; 4] = [
        "---%0Aid: 1%0Acommand: set_workers%0Aargs:%0A- '3'%0A- |-%0A  x%0A  y%0A",
        "{\"id\":[1,\"a\"],\"command\":\"ehlo\",\"user\":\"\\u00e9\",\"pid\":-1}",
        "command: worker:ack%0Apid: 123%0Aargs: !binary |-%0A  //79%0Auser: \"a%0A  b\"%0A",
        "---%0Amessage: |2-%0A    text%0Arequest_id: !!str '<<'%0Await: true%0A",
    ];
    let mut dice = Dice(0x5eed);
    for case in 0..200_000 {
        let mut line = Vec::new();
        if case % 2 == 0 {
            for _ in 0..dice.below(16) {
                line.extend_from_slice(PIECES[dice.below(PIECES.len())].as_bytes());
            }
        } else {
            line.extend_from_slice(WHOLE[dice.below(WHOLE.len())].as_bytes());
            for _ in 0..1 + dice.below(4) {
                damage(&mut line, &mut dice, &PIECES);
            }
        }
        if let Ok(request) = parse_request(&line) {
            let line = encode_answer("x", request.id.as_ref(), true);
            let answer = decode_answer(&line[..line.len() - 1]).expect("our own answer");
            assert_eq!(answer.request_id, request.id, "{request:?}");
        }
    }
}

fn damage(line: &mut Vec<u8>, dice: &mut Dice, pieces: &[&str]) {
    let at = dice.below(line.len() + 1);
    match dice.below(4) {
        0 => line.truncate(at),
        1 => line.insert(at, dice.roll() as u8),
        2 if at < line.len() => line[at] = dice.roll() as u8,
        _ => {
            let piece = pieces[dice.below(pieces.len())];
            line.splice(at..at, piece.bytes());
        }
    }
}

#[cfg(feature = "einhorn")]
mod yaml_lines {
    use super::*;
    use std::time::{Duration, Instant};

    /// Each pair of lines: what Psych 4.0.4 wrote (`YAML.dump`, then einhorn's escapes), and the
    /// same as JSON.
    const PSYCH: &str = include_str!("psych-4.0.4.txt");
    /// The same from the yaml.v2 that go-einhorn uses (`yaml.Marshal`).
    const YAML_V2: &str = include_str!("yaml.v2-2.4.0.txt");

    #[test]
    fn everything_that_psych_and_yaml_v2_write_is_read_as_it_was_meant() {
        let lines: Vec<&str> = PSYCH.lines().chain(YAML_V2.lines()).collect();
        for pair in lines.chunks(2) {
            let in_any_order = |json: &str| -> serde_json::Value {
                serde_json::from_str(json).expect("the corpus is JSON")
            };
            let decoded = line::decode(pair[0].as_bytes());
            let text = std::str::from_utf8(&decoded).expect("the corpus is UTF-8");
            let read = yaml::parse(text).expect("the corpus is YAML");
            let (read, meant) = (in_any_order(&json::text(&read)), in_any_order(pair[1]));
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
        assert_eq!((got.id, got.request_id), (None, Some(json!("7"))));
        let got = request("---%0Aid: 7%0Acommand: dec%0Aargs: []%0A\r");
        assert_eq!((got.id, got.args), (Some(json!(7)), Args::List(vec![])));
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
                "request_id:{}{text}",
                if text == "-" { "%0A" } else { " " }
            ));
            assert_eq!(
                json::text(&got.request_id.unwrap_or(Value::Null)),
                expected_of(expected),
                "{text}"
            );
        }
    }

    /// A falsy value is as good as none.
    fn expected_of(value: Value) -> String {
        if is_falsy(&value) {
            "null".into()
        } else {
            json::text(&value)
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
            refusal(line.as_bytes());
        }
    }

    #[test]
    fn a_line_as_long_as_allowed_is_read_or_refused_at_once() {
        let fill = |piece: &str| piece.repeat(MAX_REQUEST / piece.len());
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
            let mut line = format!("{prefix}{}", fill(shape));
            line.truncate(MAX_REQUEST);
            let start = Instant::now();
            let _ = parse_request(line.as_bytes());
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(2),
                "{prefix:?} and many {shape:?}: {took:?}"
            );
        }
    }

    #[test]
    fn the_answers_of_a_real_einhorn_are_read() {
        let read = |line: &str| decode_answer(line.as_bytes()).expect("a mapping");
        let got = read("---%0Amessage: |%0A  text%0Arequest_id: 1%0Await: true%0A");
        assert_eq!(
            got,
            Answer {
                message: "text\n".into(),
                request_id: Some(json!(1)),
                wait: true
            }
        );
        let got = read(
            "---%0Amessage: Incrementing number of workers from 2 -> 3%0Arequest_id: x%25y%0A",
        );
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
        assert!(decode_answer(b"--- Could not parse command%0A").is_err());
    }
}
