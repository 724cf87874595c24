//! YAML, as far as einhorn's clients and servers write it: one mapping a line, with the types of
//! YAML 1.1 as Psych understands them. It never builds an object of a type that the sender chose:
//! no anchors, no aliases, no tags but those of plain data.

use crate::text::integer;
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
    let mut parser = Parser::new_from_str(text);
    let mut next = || next_event(&mut parser);
    let (Event::StreamStart, Event::DocumentStart(_), first) = (next()?, next()?, next()?) else {
        return Err("empty");
    };
    let value = node(&mut parser, first, max_depth)?;
    match (next_event(&mut parser)?, next_event(&mut parser)?) {
        (Event::DocumentEnd, Event::StreamEnd) => Ok(value),
        _ => Err("more than one document"),
    }
}

fn next_event<'a>(parser: &mut Parser<'a, StrInput<'a>>) -> Result<Event<'a>, &'static str> {
    match parser.next_event() {
        Some(Ok((event, _))) => Ok(event),
        Some(Err(_)) => Err("not YAML"),
        None => Err("ends early"),
    }
}

/// The value that begins with the event `first`, of so many levels at most.
fn node<'a>(
    parser: &mut Parser<'a, StrInput<'a>>,
    first: Event<'a>,
    levels: usize,
) -> Result<Value, &'static str> {
    match first {
        Event::Scalar(text, style, 0, tag) => scalar(&text, style, tag.as_deref()),
        Event::SequenceStart(0, _) | Event::MappingStart(0, _) if levels == 0 => {
            Err("nested too deep")
        }
        Event::SequenceStart(0, tag) if tag.as_deref().is_none_or(|tag| tag_name(tag) == "seq") => {
            let mut values = Vec::new();
            loop {
                match next_event(parser)? {
                    Event::SequenceEnd => return Ok(Value::Array(values)),
                    event => values.push(node(parser, event, levels - 1)?),
                }
            }
        }
        Event::MappingStart(0, tag) if tag.as_deref().is_none_or(|tag| tag_name(tag) == "map") => {
            let mut fields = Map::new();
            loop {
                let key = match next_event(parser)? {
                    Event::MappingEnd => return Ok(Value::Object(fields)),
                    event => match node(parser, event, levels - 1)? {
                        Value::String(text) => text,
                        Value::Array(_) | Value::Object(_) => return Err("a collection as a key"),
                        // All our keys are strings; another scalar stands for its text.
                        other => other.to_string(),
                    },
                };
                let event = next_event(parser)?;
                fields.insert(key, node(parser, event, levels - 1)?);
            }
        }
        Event::SequenceStart(0, _) | Event::MappingStart(0, _) => Err(FOREIGN),
        _ => Err("an anchor or an alias"),
    }
}

/// `!!str` and `!<tag:yaml.org,2002:str>` are `str`, `!binary` is `!binary`.
fn tag_name(tag: &Tag) -> String {
    let name = format!("{}{}", tag.handle, tag.suffix);
    let core = name.strip_prefix("tag:yaml.org,2002:");
    core.map_or(name.clone(), str::to_owned)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, &'static str> {
    let name = tag.map(tag_name);
    match (name.as_deref(), style) {
        (None, ScalarStyle::Plain) | (Some("int" | "float" | "bool" | "null"), _) => {
            Ok(plain(text))
        }
        (None | Some("str" | "!str" | "!"), _) => Ok(Value::String(text.to_owned())),
        (Some("binary" | "!binary"), _) => {
            let bytes = base64(text).ok_or("bad base64")?;
            Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        }
        (Some(_), _) => Err(FOREIGN),
    }
}

/// What a scalar without quotes is to Psych.
fn plain(text: &str) -> Value {
    match text.to_ascii_lowercase().as_str() {
        "" | "~" | "null" => Value::Null,
        "true" | "yes" | "on" => Value::Bool(true),
        "false" | "no" | "off" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

/// YAML 1.1's integers (decimal, 0 octal, 0x, 0b, with `_` and Psych's `,`) and floats. A number
/// that does not fit into 64 bits is a string to us.
fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    // Go's integers can also be written like this, and Psych's cannot.
    let is_go = |prefix: &&str| unsigned.starts_with(*prefix);
    if ["0o", "0O", "0X", "0B"].iter().any(is_go) {
        return None;
    }
    let digits = text.replace(',', "");
    if let Ok(number) = integer(&digits, i64::MIN..=i64::MAX) {
        return Some(number.into());
    }
    let large = digits.parse::<u64>().ok();
    if let Some(number) = large.filter(|number| *number > i64::MAX as u64) {
        return Some(number.into());
    }
    // Psych wants a point in a float: it writes the string `1e3` without quotes.
    let is_float = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    if !text.contains('.') || !text.chars().all(is_float) {
        return None;
    }
    let float: f64 = text.replace('_', "").parse().ok()?;
    float.is_finite().then(|| float.into())
}

/// RFC 4648 section 4, white space ignored.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0, 0);
    let body = text.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace());
    for c in body.chars().filter(|c| !c.is_ascii_whitespace()) {
        bits = (bits << 6 | DIGITS.find(c)?) & 0xffff;
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
