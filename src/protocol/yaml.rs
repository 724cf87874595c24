//! YAML, as far as einhorn's clients and servers write it: one mapping a line, with the types of
//! YAML 1.1 as Psych understands them. It must never build an object of a type the sender chose:
//! no anchors, no aliases, no tags but those of plain data.

use super::{MAX_DEPTH, Unparsable, Value};
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

const FOREIGN: &str = "a tag of something else than plain data";

/// Parses one document. Dates, symbols and everything else that JSON has no type for are strings;
/// `!binary` is decoded, and what is not UTF-8 in it replaced.
///
/// # Errors
/// [`Unparsable`]: malformed, nested deeper than [`MAX_DEPTH`], an anchor, an alias, a foreign
/// tag, a control character, no document or more than one.
pub fn parse(text: &str) -> Result<Value, Unparsable> {
    // A NUL would end the text early, and YAML allows none of these.
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
    {
        return refuse("a control character");
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
    };
    reader.expect_start()?;
    let event = reader.next()?;
    let value = reader.node(event, 0)?;
    reader.expect_end()?;
    Ok(value)
}

fn refuse<T>(why: &'static str) -> Result<T, Unparsable> {
    Err(Unparsable(why))
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, Unparsable> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(_)) => refuse("not YAML"),
            None => refuse("ends early"),
        }
    }

    fn expect_start(&mut self) -> Result<(), Unparsable> {
        match (self.next()?, self.next()?) {
            (Event::StreamStart, Event::DocumentStart(_)) => Ok(()),
            _ => refuse("empty"),
        }
    }

    fn expect_end(&mut self) -> Result<(), Unparsable> {
        match (self.next()?, self.next()?) {
            (Event::DocumentEnd, Event::StreamEnd) => Ok(()),
            _ => refuse("more than one document"),
        }
    }

    /// The value that begins with `event`; recursion ends at [`MAX_DEPTH`].
    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Value, Unparsable> {
        match event {
            Event::Scalar(text, style, 0, tag) => scalar(&text, style, tag.as_deref()),
            Event::SequenceStart(0, tag) => {
                check_collection(tag.as_deref(), "seq", depth)?;
                self.sequence(depth + 1)
            }
            Event::MappingStart(0, tag) => {
                check_collection(tag.as_deref(), "map", depth)?;
                self.mapping(depth + 1)
            }
            _ => refuse("an anchor or an alias"),
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, Unparsable> {
        let mut values = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::Array(values)),
                event => values.push(self.node(event, depth)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Unparsable> {
        let mut fields = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Value::Object(fields)),
                event => key(self.node(event, depth)?)?,
            };
            let event = self.next()?;
            let value = self.node(event, depth)?;
            fields.push((key, value));
        }
    }
}

fn check_collection(tag: Option<&Tag>, wanted: &str, depth: usize) -> Result<(), Unparsable> {
    if depth >= MAX_DEPTH {
        return refuse("nested too deep");
    }
    match tag.map(tag_name) {
        None => Ok(()),
        Some(name) if name == wanted => Ok(()),
        Some(_) => refuse(FOREIGN),
    }
}

/// All our keys are strings; another scalar stands for its text.
fn key(value: Value) -> Result<String, Unparsable> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Object(_) => refuse("a collection as a key"),
        other => Ok(super::json::text(&other)),
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

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, Unparsable> {
    let name = tag.map(tag_name);
    match (name.as_deref(), style) {
        (None, ScalarStyle::Plain) => Ok(plain(text)),
        (None | Some("str" | "!str" | "!"), _) => Ok(Value::String(text.to_owned())),
        (Some("binary" | "!binary"), _) => match base64(text) {
            Some(bytes) => Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned())),
            None => refuse("bad base64"),
        },
        (Some("int" | "float" | "bool" | "null"), _) => Ok(plain(text)),
        (Some(_), _) => refuse(FOREIGN),
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
        return match (negative, i64::try_from(value)) {
            (false, _) => Some(Value::Number(value.to_string())),
            (true, Ok(value)) => Some(Value::Number((-value).to_string())),
            (true, Err(_)) => None,
        };
    }
    let float = float(digits).filter(|float| float.is_finite())?;
    Some(Value::float(if negative { -float } else { float }))
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
