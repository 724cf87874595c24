//! YAML, as far as einhorn's clients and servers write it: one mapping a line, with the types of
//! YAML 1.1 as Psych understands them. It never builds an object of a type that the sender chose:
//! no anchors, no aliases, no tags but those of plain data.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Map, Value};

const FOREIGN: &str = "a tag of something else than plain data";

/// Parses one document. Dates, symbols and everything else that JSON has no type for are strings;
/// `!binary` is decoded, and what is not UTF-8 in it replaced.
///
/// Errors: malformed, nested deeper than `max_depth`, an anchor, an alias, a foreign tag, a control
/// character, no document or more than one.
pub fn parse(text: &str, max_depth: usize) -> Result<Value, &'static str> {
    // A NUL would end the text early, and YAML allows none of the others.
    let is_foreign = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    if text.contains(is_foreign) {
        return Err("a control character");
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
    };
    let (Event::StreamStart, Event::DocumentStart(_)) = (reader.next()?, reader.next()?) else {
        return Err("empty");
    };
    let event = reader.next()?;
    let value = reader.node(event, max_depth)?;
    match (reader.next()?, reader.next()?) {
        (Event::DocumentEnd, Event::StreamEnd) => Ok(value),
        _ => Err("more than one document"),
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, &'static str> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(_)) => Err("not YAML"),
            None => Err("ends early"),
        }
    }

    /// The value that begins with `event`, of so many levels at most.
    fn node(&mut self, event: Event<'a>, levels: usize) -> Result<Value, &'static str> {
        match event {
            Event::Scalar(text, style, 0, tag) => scalar(&text, style, tag.as_deref()),
            Event::SequenceStart(0, tag) => {
                check_collection(tag.as_deref(), "seq", levels)?;
                let mut values = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Value::Array(values)),
                        event => values.push(self.node(event, levels - 1)?),
                    }
                }
            }
            Event::MappingStart(0, tag) => {
                check_collection(tag.as_deref(), "map", levels)?;
                let mut fields = Map::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => return Ok(Value::Object(fields)),
                        event => self.node(event, levels - 1)?,
                    };
                    let event = self.next()?;
                    fields.insert(key_text(key)?, self.node(event, levels - 1)?);
                }
            }
            _ => Err("an anchor or an alias"),
        }
    }
}

fn check_collection(tag: Option<&Tag>, wanted: &str, levels: usize) -> Result<(), &'static str> {
    match tag.map(tag_name) {
        _ if levels == 0 => Err("nested too deep"),
        Some(name) if name != wanted => Err(FOREIGN),
        _ => Ok(()),
    }
}

/// All our keys are strings; another scalar stands for its text.
fn key_text(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Object(_) => Err("a collection as a key"),
        other => Ok(other.to_string()),
    }
}

/// `!!str` and `!<tag:yaml.org,2002:str>` are `str`, `!binary` is `!binary`.
fn tag_name(tag: &Tag) -> String {
    let name = format!("{}{}", tag.handle, tag.suffix);
    match name.strip_prefix("tag:yaml.org,2002:") {
        Some(core) => core.to_owned(),
        None => name,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, &'static str> {
    let name = tag.map(tag_name);
    match (name.as_deref(), style) {
        (None, ScalarStyle::Plain) => Ok(plain(text)),
        (None | Some("str" | "!str" | "!"), _) => Ok(Value::String(text.to_owned())),
        (Some("binary" | "!binary"), _) => match base64(text) {
            Some(bytes) => Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned())),
            None => Err("bad base64"),
        },
        (Some("int" | "float" | "bool" | "null"), _) => Ok(plain(text)),
        (Some(_), _) => Err(FOREIGN),
    }
}

/// What a scalar without quotes is to Psych.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["true", "yes", "on"]) {
        return Value::Bool(true);
    }
    if is(&["false", "no", "off"]) {
        return Value::Bool(false);
    }
    number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// YAML 1.1's integers (decimal, 0 octal, 0x, 0b, with `_` and Psych's `,`) and floats. What does
/// not fit 64 bits is no number to us.
fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(value) = unsigned(digits) {
        return match negative {
            false => Some(value.into()),
            true => i64::try_from(value).ok().map(|value| (-value).into()),
        };
    }
    let float = float(digits).filter(|float| float.is_finite())?;
    Some(if negative { -float } else { float }.into())
}

fn unsigned(digits: &str) -> Option<u64> {
    let (radix, digits) = if let Some(hex) = digits.strip_prefix("0x") {
        (16, hex)
    } else if let Some(bits) = digits.strip_prefix("0b") {
        (2, bits)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    let digits = digits.replace(['_', ','], "");
    // from_str_radix takes a sign, a number in the middle of a scalar has none.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(&digits, radix).ok()
}

/// Psych wants a point in a float: `1e3` is a string, and it writes that one without quotes.
fn float(digits: &str) -> Option<f64> {
    let digits = digits.replace('_', "");
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !digits.contains('.') || !digits.chars().all(shape) {
        return None;
    }
    digits.parse().ok()
}

/// RFC 4648 section 4, white space ignored.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    let body = text.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace());
    for byte in body.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
