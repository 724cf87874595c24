use super::*;

#[test]
fn a_signal_has_a_name_again() {
    assert_eq!(signal_name(15), "SIGTERM");
    assert_eq!(signal_name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    assert_eq!(signal_name(99), "signal 99");
}

#[test]
fn numbers_are_go_literals() {
    let all = i64::MIN..=i64::MAX;
    for (text, number) in [
        ("0", 0),
        ("-0", 0),
        ("3000", 3000),
        ("+7", 7),
        ("-7", -7),
        ("0x10", 16),
        ("0XfF", 255),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("0x_1f", 31),
        ("0_17", 15),
        ("-0x1_0", -16),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(integer(text, all.clone()), Ok(number), "{text}");
    }
    for text in [
        "", "-", "+", "--1", "+-1", "x", "1x", " 1", "1 ", "1.5", "1e3", "08", "0x", "0b", "0o",
        "0b2", "0xg", "_1", "1_", "1__0", "0_", "0x_", "_", "3s", "\u{661}",
    ] {
        assert_eq!(
            integer(text, all.clone()),
            Err("not a number".into()),
            "{text}"
        );
    }
}

#[test]
fn a_number_out_of_range_says_the_range() {
    for text in ["0", "11", "-1", "99999999999999999999"] {
        assert_eq!(
            integer(text, 1..=10),
            Err("out of range, 1 to 10".into()),
            "{text}"
        );
    }
}

#[test]
fn booleans_are_gos() {
    for text in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!(boolean(text), Ok(true), "{text}");
    }
    for text in ["0", "f", "F", "false", "FALSE", "False"] {
        assert_eq!(boolean(text), Ok(false), "{text}");
    }
    for text in ["", "yes", "on", "tRUE", "2"] {
        assert!(boolean(text).is_err(), "{text}");
    }
}

#[test]
fn a_terminal_obeys_nothing_of_what_is_printed() {
    let text = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}31m\u{7f}\tat line 7\nnext \u{e4}";
    let shown = printable_lines(text);
    let expected = "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\r\\u{9b}31m\\u{7f}\tat line 7\nnext \u{e4}";
    assert_eq!(shown, expected);
    assert_eq!(printable_lines(&shown), shown, "twice is once");
}

#[test]
fn durations_are_as_long_as_people_want_them() {
    for (millis, text) in [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (1_949, "1.9 s"),
        (1_950, "2.0 s"),
        (119_990, "120.0 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
    ] {
        assert_eq!(duration_text(Duration::from_millis(millis)), text);
    }
}

#[test]
fn one_thing_is_not_plural() {
    assert_eq!(counted(1, "ready worker"), "1 ready worker");
    assert_eq!(counted(0, "worker"), "0 workers");
    assert_eq!(counted(2, "worker"), "2 workers");
}

#[test]
fn signals_have_gos_words() {
    assert_eq!(signal_words(9), "killed");
    assert_eq!(signal_words(15), "terminated");
    for number in [0, -1, 16, 34] {
        assert_eq!(signal_words(number), format!("signal {number}"));
    }
}
