//! JSON in and out. The writer's output is what all of einhorn's clients read alike: Psych,
//! yaml.v2 behind a URL unescaping, and every JSON parser.

use super::Unparsable;
use serde_json::Value;
use std::fmt::Write;

/// Parses one JSON text of any type.
///
/// # Errors
/// [`Unparsable`], with the parser's words.
pub fn parse(text: &str) -> Result<Value, Unparsable> {
    serde_json::from_str(text).map_err(|error| Unparsable(error.to_string()))
}

/// How deep the value is nested: 0 for a scalar. The parsers bound the recursion.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

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
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                write(out, value);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (n, (key, value)) in map.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                write_string(out, key);
                out.push_str(": ");
                write(out, value);
            }
            out.push('}');
        }
    }
}

/// A float always with its point and never with an exponent: `1e300` is a string to Psych, and
/// the plus in `1.0e+300` a space to go-einhorn. (serde_json's own
/// words for a number would bring a second printer of floats into the binary.)
fn write_number(out: &mut String, number: &serde_json::Number) {
    let start = out.len();
    let written = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(integer), _, _) => write!(out, "{integer}"),
        (_, Some(integer), _) => write!(out, "{integer}"),
        (_, _, float) => write!(out, "{}", float.unwrap_or_default()),
    };
    written.expect("a String takes everything");
    if number.is_f64() && !out[start..].contains('.') {
        out.push_str(".0");
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
