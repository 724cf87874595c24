use super::*;

fn request(line: &str) -> Request {
    parse_request(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"))
}

fn refusal(line: &[u8]) -> &'static str {
    match parse_request(line) {
        Err(why) => why,
        Ok(request) => panic!(
            "{:?} was read as {request:?}",
            String::from_utf8_lossy(line)
        ),
    }
}

fn encode(message: &str, id: Option<&Value>, wait: bool) -> Vec<u8> {
    let answer = Answer {
        id: id.cloned(),
        wait,
        ..Answer::new(message)
    };
    answer.encode()
}

fn answer(message: &str, id: Option<&Value>, wait: bool) -> String {
    String::from_utf8(encode(message, id, wait)).expect("answers are UTF-8")
}

/// The reverse of `decode`, as einhorn's clients do it.
fn escape(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        match c {
            '%' => line += "%25",
            '\n' => line += "%0A",
            other => line.push(other),
        }
    }
    line
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
        assert_eq!(decode(line), text, "{line}");
    }
}

#[test]
fn any_text_survives_the_way_through_the_line_codec() {
    let mut dice = Dice(7);
    for _ in 0..20_000 {
        let chars = ['%', '2', '5', '0', 'A', 'a', '\n', '\r', 'é'];
        let text: String = (0..dice.below(12)).map(|_| chars[dice.below(9)]).collect();
        let line = escape(&text);
        assert!(!line.contains('\n'));
        assert_eq!(decode(&line), text);
    }
}

#[test]
fn lines_come_out_whole_however_they_went_in() {
    let text = b"one\n\ntwo\r\nthree\nunfinished";
    let mut dice = Dice(3);
    for _ in 0..500 {
        let mut reader = LineReader::default();
        let (mut lines, mut rest) = (Vec::new(), &text[..]);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(1 + dice.below(rest.len()));
            reader.push(chunk);
            rest = after;
            while let Some(line) = reader.next_line(16).expect("no line is too long") {
                lines.push(line);
            }
        }
        assert_eq!(lines, [&b"one"[..], b"", b"two\r", b"three"]);
        assert_eq!(reader.buffer, b"unfinished");
    }
}

#[test]
fn an_endless_line_is_refused_once_the_limit_is_passed() {
    let mut reader = LineReader::default();
    reader.push(&[b'x'; 100]);
    assert_eq!(reader.next_line(100), Ok(None));
    reader.push(b"\n");
    assert_eq!(reader.next_line(100), Ok(Some(vec![b'x'; 100])));
    reader.push(&[b'x'; 101]);
    assert_eq!(reader.next_line(100), Err("line too long"));
    let mut reader = LineReader::default();
    reader.push(b"abc\n");
    assert_eq!(reader.next_line(2), Err("line too long"));
}

#[test]
fn a_reader_without_an_unfinished_line_holds_no_memory() {
    let mut reader = LineReader::default();
    reader.push(&[b"{}".repeat(9000), b"\n".to_vec()].concat());
    while reader
        .next_line(MAX_REQUEST)
        .expect("not too long")
        .is_some()
    {}
    assert_eq!(reader.buffer.capacity(), 0);
}

#[test]
fn a_request_is_read_from_json() {
    let got = request("{\"id\":\"x%25y\",\"command\":\"inc\",\"args\":[]}\r");
    assert_eq!(got.id, Some(json!("x%y")));
    assert_eq!(got.command.as_deref(), Some("inc"));
    assert_eq!(got.args, json!([]));
    let got = request(r#"{"command":"worker:ack","pid":123}"#);
    assert_eq!((got.pid, got.id, got.args), (Some(123), None, Value::Null));
    let got = request(r#"{"command":"ehlo","user":"\ud83d\ude00 root"}"#);
    assert_eq!(got.user.as_deref(), Some("\u{1f600} root"));
}

#[test]
fn of_two_fields_with_one_key_the_later_one_counts() {
    let text = r#"{"id":1,"command":"inc","args":[],"command":"dec"}"#;
    let got = request(text);
    assert_eq!((got.id, got.command), (Some(json!(1)), Some("dec".into())));
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
        assert_eq!(to_json(&id), text);
    }
    assert_eq!(to_json(&json!(1e-7)), "0.0000001");
    assert_eq!(to_json(&json!(-7)), "-7");
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
        let mut line = encode(&message, Some(&id), wait);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n') && !line.contains(&b'%') && !line.contains(&b'+'));
        let expected = Reply {
            message: message.clone(),
            request_id: Some(id),
            wait,
        };
        assert_eq!(parse_reply(&line), Ok(expected));

        let mut line = encode_request(3, &message, &[&message, ""]);
        assert_eq!(line.pop(), Some(b'\n'));
        let got = parse_request(&line).expect("our own request");
        assert_eq!(got.args, json!([message, ""]));
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
    assert_eq!(parse_reply(b"[1]"), Err("not a mapping"));
    let got = parse_reply(b"{\"wait\": false}").expect("a mapping");
    assert_eq!(
        got,
        Reply {
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
            let line = encode("x", request.id.as_ref(), true);
            let answer = parse_reply(&line[..line.len() - 1]).expect("our own answer");
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
