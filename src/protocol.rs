//! Einhorn's line protocol, both sides of it: what a request line means, and the bytes of an
//! answer. It must never do I/O, never log, and no input may make it panic or need more memory
//! than a small multiple of the line's length.

pub mod json;
pub mod line;
mod value;
#[cfg(feature = "einhorn")]
pub mod yaml;

pub use line::LineReader;
use std::fmt;
pub use value::Value;
#[cfg(test)]
pub(crate) use value::json;

/// The longest request line that is read, in bytes without the LF.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer that our clients read: einhorn's `state` is one line, and it may be long.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How deep a request's sequences and mappings may be nested; the outermost mapping is 1.
pub const MAX_DEPTH: usize = 8;

/// A request's id: any scalar or sequence, given back with the type it came with.
pub type Id = Value;

/// Why a line is not a request or not an answer, in a few words. The client is told
/// [`UNPARSABLE`] and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unparsable(pub &'static str);

impl fmt::Display for Unparsable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unparsable {}

/// What einhorn answers to a line that is not a mapping.
pub const UNPARSABLE: &str = "Could not parse command";

/// The `args` of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Args {
    /// Not there, null or false.
    Absent,
    /// Anything else that is not a sequence.
    NotArray,
    List(Vec<Value>),
}

impl Args {
    /// The arguments, when they are a sequence of strings; else the answer that einhorn gives.
    pub fn strings(&self) -> Result<Vec<&str>, String> {
        match self {
            Args::Absent => Err("No args provided".into()),
            Args::NotArray => Err("Args must be an array".into()),
            Args::List(values) => values.iter().map(string).collect(),
        }
    }
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| {
        format!(
            "Argument is a {}, not a string: {}",
            ruby_class(value),
            json::text(value)
        )
    })
}

/// What Ruby calls the type, since einhorn's answers name it.
fn ruby_class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NilClass",
        Value::Bool(true) => "TrueClass",
        Value::Bool(false) => "FalseClass",
        Value::Number(number) if number.contains('.') => "Float",
        Value::Number(_) => "Integer",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Hash",
    }
}

/// One request. Unknown keys are ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Absent when null or false: einhorn takes both for "no id".
    pub id: Option<Id>,
    /// A command that is no string is kept as its JSON text: it names no command in any case.
    pub command: Option<String>,
    pub args: Args,
    /// Only an integer counts: einhorn ignores `"pid": "123"`.
    pub pid: Option<i32>,
    pub user: Option<String>,
    /// What `worker:ping` carries; nobody is answered by it.
    pub request_id: Option<Value>,
}

/// Reads one line, without its LF: JSON, or (feature `einhorn`) the YAML of einhorn's clients.
///
/// # Errors
/// [`Unparsable`] when it is not a mapping, too long, nested deeper than [`MAX_DEPTH`], or YAML
/// with anchors, aliases or foreign tags.
pub fn parse_request(line: &[u8]) -> Result<Request, Unparsable> {
    let mut fields = mapping(line, MAX_REQUEST)?;
    let mut take = |key| take(&mut fields, key);
    Ok(Request {
        id: take("id"),
        command: take("command").map(into_text),
        args: match take("args") {
            None => Args::Absent,
            Some(Value::Array(values)) => Args::List(values),
            Some(_) => Args::NotArray,
        },
        pid: take("pid").and_then(|pid| i32::try_from(pid.as_i64()?).ok()),
        user: take("user").map(into_text),
        request_id: take("request_id"),
    })
}

type Fields = Vec<(String, Value)>;

/// What a field holds: null and false are as good as nothing.
fn take(fields: &mut Fields, key: &str) -> Option<Value> {
    let place = fields.iter().rposition(|(name, _)| name == key)?;
    let (_, value) = fields.remove(place);
    Some(value).filter(|value| !is_falsy(value))
}

fn is_falsy(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false))
}

fn into_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => json::text(&other),
    }
}

fn mapping(line: &[u8], limit: usize) -> Result<Fields, Unparsable> {
    if line.len() > limit {
        return Err(Unparsable("too long"));
    }
    let line = line::decode(line);
    let text = std::str::from_utf8(&line).map_err(|_| Unparsable("not UTF-8"))?;
    let value = parse_text(text)?;
    if value.depth() > MAX_DEPTH {
        return Err(Unparsable("nested too deep"));
    }
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Unparsable("not a mapping")),
    }
}

#[cfg(feature = "einhorn")]
fn parse_text(text: &str) -> Result<Value, Unparsable> {
    // A JSON object first: YAML has no surrogate pairs, and JSON writers use them.
    match Value::parse(text) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        _ => yaml::parse(text),
    }
}

#[cfg(not(feature = "einhorn"))]
fn parse_text(text: &str) -> Result<Value, Unparsable> {
    Value::parse(text)
}

/// One answer as a line with its LF, in the JSON that Psych, yaml.v2 and JSON parsers all read
/// alike. `wait` says that more answers for this id will follow.
pub fn encode_answer(message: &str, request_id: Option<&Id>, wait: bool) -> Vec<u8> {
    let mut line = String::with_capacity(message.len() + 48);
    line.push_str("{\"message\": ");
    json::write_string(&mut line, message);
    if let Some(id) = request_id {
        line.push_str(", \"request_id\": ");
        json::write(&mut line, id);
    }
    if wait {
        line.push_str(", \"wait\": true");
    }
    line.push_str("}\n");
    line.into_bytes()
}

/// A command as a client sends it: one line with its LF, readable by a real einhorn too.
pub fn encode_request(id: u64, command: &str, args: &[&str]) -> Vec<u8> {
    let mut line = format!("{{\"id\": {id}, \"command\": ");
    json::write_string(&mut line, command);
    line.push_str(", \"args\": [");
    for (n, arg) in args.iter().enumerate() {
        line.push_str(if n == 0 { "" } else { ", " });
        json::write_string(&mut line, arg);
    }
    line.push_str("]}\n");
    line.into_bytes()
}

/// The greeting of an interactive client: it has no id, and null for an unknown user.
pub fn encode_ehlo(user: Option<&str>) -> Vec<u8> {
    let mut line = String::from("{\"command\": \"ehlo\", \"user\": ");
    match user {
        Some(user) => json::write_string(&mut line, user),
        None => line.push_str("null"),
    }
    line.push_str("}\n");
    line.into_bytes()
}

/// An answer as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Empty when the answer has none.
    pub message: String,
    pub request_id: Option<Id>,
    /// More answers for this id will follow.
    pub wait: bool,
}

/// Reads one answer line, without its LF: ours, or a real einhorn's (feature `einhorn`).
///
/// # Errors
/// [`Unparsable`] when the line is not a mapping: einhorn's own client then says so and reads on.
pub fn decode_answer(line: &[u8]) -> Result<Answer, Unparsable> {
    let mut fields = mapping(line, MAX_ANSWER)?;
    let mut take = |key| take(&mut fields, key);
    Ok(Answer {
        message: take("message").map(into_text).unwrap_or_default(),
        request_id: take("request_id"),
        wait: take("wait").is_some(),
    })
}

#[cfg(test)]
mod tests;
