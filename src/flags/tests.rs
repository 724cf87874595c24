use super::*;
use std::os::unix::ffi::OsStringExt;

fn taken(words: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
    let words = split(words.iter().map(OsString::from)).map_err(|error| error.message)?;
    let text = |word: OsString| word.into_string().expect("UTF-8 went in");
    let flags = words
        .flags
        .into_iter()
        .map(|(flag, value)| format!("{}={}", flag.name, text(value)));
    Ok((
        flags.collect(),
        words.arguments.into_iter().map(text).collect(),
    ))
}

#[test]
fn go_and_gnu_spellings_are_the_same() {
    for words in [
        &["-start", "5"][..],
        &["-start=5"],
        &["--start", "5"],
        &["--start=5"],
    ] {
        assert_eq!(
            taken(words),
            Ok((vec!["start=5".into()], vec![])),
            "{words:?}"
        );
    }
}

#[test]
fn flags_end_where_go_ends_them() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["-syslog", "false", "-x"],
            &["syslog=true"],
            &["false", "-x"],
        ),
        (&["-syslog=false", "a"], &["syslog=false"], &["a"]),
        (&["--syslog=", "a"], &["syslog="], &["a"]),
        (
            &["-start=1", "-", "-start=2"],
            &["start=1"],
            &["-", "-start=2"],
        ),
        (
            &["-start=1", "", "-start=2"],
            &["start=1"],
            &["", "-start=2"],
        ),
        (
            &["-start=1", "--", "-start=2", "--"],
            &["start=1"],
            &["-start=2", "--"],
        ),
        (&["--", "--"], &[], &["--"]),
        (&["a", "--", "-h"], &[], &["a", "--", "-h"]),
        (&["-start", "--", "a"], &["start=--"], &["a"]),
        (&["-command", "-help"], &["command=-help"], &[]),
        (
            &["-start", "1", "-start", "2"],
            &["start=1", "start=2"],
            &[],
        ),
        (
            &["-listen=unix:///a?name=b=c"],
            &["listen=unix:///a?name=b=c"],
            &[],
        ),
        (&[], &[], &[]),
    ];
    for (words, flags, arguments) in cases {
        let owned = |words: &[&str]| {
            words
                .iter()
                .map(|word| word.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            taken(words),
            Ok((owned(flags), owned(arguments))),
            "{words:?}"
        );
    }
}

#[test]
fn words_that_are_no_flags_are_refused_on_one_line() {
    let cases: &[(&[&str], &str)] = &[
        (&["---start"], "---start is not a flag"),
        (&["---"], "--- is not a flag"),
        (&["-=5"], "-=5 is not a flag"),
        (&["--=5"], "--=5 is not a flag"),
        (&["-begin"], "-begin is not a flag of socketmaster"),
        (&["--begin=5"], "-begin is not a flag of socketmaster"),
        (&["-sta", "5"], "-sta is not a flag of socketmaster"),
        (&["-Start", "5"], "-Start is not a flag of socketmaster"),
        (&["-a\nb"], "-a\\nb is not a flag of socketmaster"),
        (&["-start"], "-start needs a value"),
    ];
    for (words, problem) in cases {
        let message = format!("{problem}; see socketmaster -help");
        assert_eq!(taken(words), Err(message), "{words:?}");
    }
}

#[test]
fn help_is_found_among_the_flags_only() {
    let help = |words: &[&str]| split(words.iter().map(OsString::from)).unwrap().help;
    for words in [
        &["-h"][..],
        &["--h"],
        &["-help"],
        &["--help"],
        &["-start=1", "-help=x", "-bad"],
    ] {
        assert!(help(words), "{words:?}");
    }
    for words in [
        &["help"][..],
        &["--", "-help"],
        &["-command", "--help"],
        &["a", "-h"],
    ] {
        assert!(!help(words), "{words:?}");
    }
}

#[test]
fn words_after_the_flags_are_passed_unchanged() {
    let odd = OsString::from_vec(b"\xff=\xfe".to_vec());
    let words = split([OsString::from("-syslog"), odd.clone(), OsString::from("--")]).unwrap();
    assert_eq!(words.arguments, [odd, OsString::from("--")]);
}

#[test]
fn a_value_may_be_any_bytes() {
    let words = split([OsString::from_vec(b"--pidfile=\xff=\n".to_vec())]).unwrap();
    assert_eq!(words.flags[0].1.as_bytes(), b"\xff=\n");
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
fn the_help_shows_every_flag_with_its_default_in_80_columns() {
    let help = help();
    assert!(
        help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
    assert!(help.ends_with('\n'), "{help}");
    for flag in FLAGS {
        let head = match flag.value {
            Some(value) => format!("\n  -{}={value}\n", flag.name),
            None => format!("\n  -{}\n", flag.name),
        };
        let rest = help
            .split_once(&head)
            .unwrap_or_else(|| panic!("no {head} in {help}"))
            .1;
        let own = rest.split("\n  -").next().unwrap_or(rest);
        let own = own.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(own.starts_with(flag.help), "{own}");
        let default = match flag.default {
            "" => continue,
            "required" => "(required)".to_string(),
            default => format!("(default {default})"),
        };
        assert!(own.contains(&default), "{own}");
    }
    for face in ["ctl", "einhorn", "einhornsh"] {
        let shown = help.contains(&format!("\n  socketmaster {face} "));
        assert_eq!(shown, face == "ctl" || cfg!(feature = "einhorn"), "{face}");
    }
}

#[test]
fn no_flag_is_in_the_table_twice() {
    for (index, flag) in FLAGS.iter().enumerate() {
        assert!(
            FLAGS[..index].iter().all(|other| other.name != flag.name),
            "{}",
            flag.name
        );
    }
}
