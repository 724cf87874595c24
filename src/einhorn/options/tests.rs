//! Words and numbers as Ruby takes them.

use super::*;

#[test]
fn words_are_split_as_shellwords_does() {
    for (line, expected) in [
        ("", vec![]),
        ("  a\tb ", vec!["a", "b"]),
        ("a'b c'd\"e f\"", vec!["ab cde f"]),
        ("'' \"\"", vec!["", ""]),
        (r#"a\ b \\ "\n\"\$" '\'"#, vec!["a b", "\\", "\\n\"$", "\\"]),
        ("#x $y `z`", vec!["#x", "$y", "`z`"]),
        ("end\\", vec!["end\\"]),
    ] {
        assert_eq!(
            split(line),
            Ok(expected.iter().map(|s| s.to_string()).collect())
        );
    }
    assert_eq!(split("it's"), Err("Unmatched quote: it's".into()));
    assert!(split("\"a\\\"").is_err());
}

#[test]
fn numbers_are_read_as_ruby_reads_them() {
    for (text, expected) in [
        ("12ab", 12),
        ("", 0),
        ("x", 0),
        (" -7", -7),
        ("1_000", 1000),
        ("1__0", 1),
        ("0x10", 0),
    ] {
        assert_eq!(to_i(text), expected, "{text}");
    }
    assert_eq!(to_i("99999999999999999999"), i64::MAX);
    for (text, expected) in [
        ("1.5", Some(1.5)),
        ("-.5", Some(-0.5)),
        ("1.", None),
        ("1.e3", None),
        ("", None),
        ("inf", None),
        ("1e999", None),
        ("+-1", None),
        ("0x1", None),
        ("1_0", Some(10.0)),
        ("_1", None),
    ] {
        assert_eq!(float(text), expected, "{text}");
    }
}
