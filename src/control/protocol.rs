//! Einhorn's line protocol, both sides of it: where a line ends, what a request means, and the bytes
//! of an answer. It does no I/O and never logs. No input makes it panic, or need more memory than a
//! small multiple of the line's length.

use super::status::Status;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value, json};
use std::io;
use std::ops::Not;

/// The longest request line that is read, in bytes without the LF.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer that our clients read: einhorn's `state` is one line, and it may be long.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How deep a request's arrays and objects may be nested; the outermost object is 1.
pub const MAX_DEPTH: usize = 8;
/// What einhorn answers to a line that is not a mapping, whatever the reason.
pub const UNPARSABLE: &str = "Could not parse command";

// ---- lines ----

/// Splits what arrives into lines. When it holds nothing, it holds no memory either.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LineReader {
    buffer: Vec<u8>,
    /// There is no LF before this place: no byte of an unfinished line is searched twice.
    searched: usize,
}

impl LineReader {
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How many bytes of memory it holds.
    pub fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes in what was read. Call [`LineReader::next_line`] until it says `None` in between.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, without its LF; `None` until more is pushed.
    ///
    /// Errors: the line has more than `limit` bytes, whether its LF has come or not. The reader is
    /// of no use then.
    pub fn next_line(&mut self, limit: usize) -> Result<Option<Vec<u8>>, &'static str> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
        let end = found.map_or(self.buffer.len(), |offset| self.searched + offset);
        if end > limit {
            return Err("line too long");
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.truncate(end);
        self.searched = 0;
        Ok(Some(line))
    }
}

/// Undoes einhorn's `%0A` and `%25`, each once and nothing else: `%250A` is `%0A`, and `%0a` stays.
pub fn decode(line: &str) -> String {
    // In this order, so that a `%` of the second step begins no escape.
    line.replace("%0A", "\n").replace("%25", "%")
}

// ---- what a line means ----

/// One request. Unknown keys are ignored, and null and false are as good as nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Given back with the type that it came with.
    pub id: Option<Value>,
    /// A command that is no string is kept as its JSON text, which names no command either.
    pub command: Option<String>,
    /// Null where there are none.
    pub args: Value,
    /// Only an integer counts: einhorn ignores `"pid": "123"`.
    pub pid: Option<i32>,
    pub user: Option<String>,
}

/// Reads one line, without its LF: JSON, or (feature `einhorn`) the YAML of einhorn's clients.
///
/// Errors: it is not a mapping, too long, nested deeper than [`MAX_DEPTH`], or YAML with anchors,
/// aliases or foreign tags.
pub fn parse_request(line: &[u8]) -> Result<Request, &'static str> {
    let mut fields = mapping(line, MAX_REQUEST)?;
    Ok(Request {
        id: take(&mut fields, "id"),
        command: take(&mut fields, "command").map(into_text),
        args: take(&mut fields, "args").unwrap_or_default(),
        pid: take(&mut fields, "pid").and_then(|pid| i32::try_from(pid.as_i64()?).ok()),
        user: take(&mut fields, "user").map(into_text),
    })
}

/// An answer in any dialect, as einhorn's shell reads it.
#[cfg_attr(not(feature = "einhorn"), allow(dead_code))] // einhornsh needs it
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Empty when the answer has none.
    pub message: String,
    pub request_id: Option<Value>,
    /// More answers for this id will follow.
    pub wait: bool,
}

/// Reads one answer, without its LF: ours, or a real einhorn's (feature `einhorn`).
///
/// Errors: it is not a mapping. Einhorn's own client then says so and reads on.
#[cfg_attr(not(feature = "einhorn"), allow(dead_code))] // einhornsh needs it
pub fn parse_reply(line: &[u8]) -> Result<Reply, &'static str> {
    let mut fields = mapping(line, MAX_ANSWER)?;
    Ok(Reply {
        message: take(&mut fields, "message").map_or_else(String::new, into_text),
        request_id: take(&mut fields, "request_id"),
        wait: take(&mut fields, "wait").is_some(),
    })
}

fn take(fields: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let value = fields.remove(key)?;
    (!matches!(value, Value::Null | Value::Bool(false))).then_some(value)
}

fn into_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => to_json(&other),
    }
}

fn mapping(line: &[u8], limit: usize) -> Result<Map<String, Value>, &'static str> {
    if line.len() > limit {
        return Err("too long");
    }
    let text = decode(std::str::from_utf8(line).map_err(|_| "not UTF-8")?);
    let parsed = match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => Value::Object(fields),
        // JSON comes first: its writers use surrogate pairs, which YAML does not have.
        #[cfg(feature = "einhorn")]
        _ => crate::einhorn::yaml::parse(&text, MAX_DEPTH)?,
        #[cfg(not(feature = "einhorn"))]
        _ => return Err("not a mapping"),
    };
    match parsed {
        Value::Object(fields) if fields.values().all(|value| depth(value) < MAX_DEPTH) => {
            Ok(fields)
        }
        Value::Object(_) => Err("nested too deep"),
        _ => Err("not a mapping"),
    }
}

/// How deep a value is nested: 0 for a scalar. The parsers bound the recursion.
fn depth(value: &Value) -> usize {
    let inside = match value {
        Value::Array(values) => values.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + inside.unwrap_or(0)
}

// ---- what is written ----

/// One answer of ours. Einhorn's clients ignore the fields that they do not know.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Answer {
    pub message: String,
    #[serde(rename = "request_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// More answers for this id will follow.
    #[serde(skip_serializing_if = "Not::not")]
    pub wait: bool,
    /// What was asked for was not done.
    #[serde(skip_serializing_if = "Not::not")]
    pub failed: bool,
    /// What became of a reload that the client waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// How many workers are ready; only a status says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<u32>,
}

impl Answer {
    pub fn new(message: impl Into<String>) -> Answer {
        Answer {
            message: message.into(),
            ..Answer::default()
        }
    }

    /// The answer as a line with its LF.
    pub fn encode(&self) -> Vec<u8> {
        line(self)
    }
}

/// A command as a client sends it: one line with its LF, readable by a real einhorn too.
pub fn encode_request(id: u64, command: &str, args: &[impl Serialize]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Sent<'a, A> {
        id: u64,
        command: &'a str,
        args: &'a [A],
    }
    line(&Sent { id, command, args })
}

/// The greeting of an interactive client: it has no id, and null for an unknown user.
#[cfg_attr(not(feature = "einhorn"), allow(dead_code))] // einhornsh needs it
pub fn encode_ehlo(user: Option<&str>) -> Vec<u8> {
    line(&json!({"command": "ehlo", "user": user}))
}

fn line(data: &impl Serialize) -> Vec<u8> {
    let mut line = to_json(data).into_bytes();
    line.push(b'\n');
    line
}

/// The data on one line, in the JSON that Psych, yaml.v2 and JSON parsers all read alike.
pub fn to_json(data: &impl Serialize) -> String {
    let mut out = Vec::new();
    let written = data.serialize(&mut Serializer::with_formatter(&mut out, ForEinhorn));
    written.expect("plain data is JSON, and a Vec takes everything");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// JSON that is YAML to einhorn's clients.
struct ForEinhorn;

impl Formatter for ForEinhorn {
    /// A float always with its point and never with an exponent: `1e300` is a string to Psych, and
    /// the plus in `1.0e+300` a space to go-einhorn.
    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        let text = value.to_string();
        let point = if text.contains('.') { "" } else { ".0" };
        write!(out, "{text}{point}")
    }

    /// Beside what JSON asks for, these are escaped: `%` and `+` (einhorn's own escape, and
    /// go-einhorn's URL unescaping), DEL and U+0080 to U+FFFF (Psych refuses or folds some of them).
    /// What lies above stays raw: Psych dies of surrogate pairs.
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            match c {
                '%' | '+' | '\u{7f}'..='\u{ffff}' => write!(out, "\\u{:04x}", c as u32)?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    // A space after the colon, as YAML has it.
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
