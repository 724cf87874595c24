//! JSON out. The writer's output is what all of einhorn's clients read alike: Psych,
//! yaml.v2 behind a URL unescaping, and every JSON parser.

use super::Value;
use std::fmt::Write;

/// The value on one line.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

/// Appends the value on one line.
pub fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(number),
        Value::String(text) => write_string(out, text),
        Value::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                write(out, value);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (n, (key, value)) in fields.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                write_string(out, key);
                out.push_str(": ");
                write(out, value);
            }
            out.push('}');
        }
    }
}

/// Appends the text as a quoted string. Beside what JSON asks for, these are escaped: `%` and `+`
/// (einhorn's own escape, and go-einhorn's URL unescaping), DEL and U+0080 to U+FFFF (Psych
/// refuses or folds some of them raw). What lies above stays raw: Psych dies of surrogate pairs.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '%' | '+' | '\u{7f}'..='\u{ffff}' => {
                write!(out, "\\u{:04x}", c as u32).expect("a String takes everything");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
