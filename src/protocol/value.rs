//! What a request or an answer is made of. A type of our own, since serde_json's brings a B-tree
//! and a printer of numbers with it; the parser is serde_json's all the same. It must never know
//! what the values mean.

use super::Unparsable;
use serde_core::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One value of JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// As it is written; a float always has its point, and an integer has none.
    Number(String),
    String(String),
    Array(Vec<Value>),
    /// In the order of the text. Of two with one key, `get` finds the later one.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Parses one JSON text of any type.
    ///
    /// # Errors
    /// [`Unparsable`]: malformed, or nested so deep that the parser gives up.
    pub fn parse(json: &str) -> Result<Value, Unparsable> {
        serde_json::from_str(json).map_err(|_| Unparsable("not JSON"))
    }

    /// A float always with its point and never with an exponent: `1e300` is a string to Psych, and
    /// the plus in `1.0e+300` a space to go-einhorn.
    pub fn float(float: f64) -> Value {
        let mut text = float.to_string();
        if !text.contains('.') {
            text.push_str(".0");
        }
        Value::Number(text)
    }

    /// What an object has under the key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(fields) => fields.iter().rev().find(|(name, _)| name == key),
            _ => None,
        }
        .map(|(_, value)| value)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// An integer of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The elements; none when it is no array.
    pub fn elements(&self) -> &[Value] {
        match self {
            Value::Array(values) => values,
            _ => &[],
        }
    }

    /// How deep it is nested: 0 for a scalar. The parsers bound the recursion.
    pub fn depth(&self) -> usize {
        match self {
            Value::Array(values) => 1 + values.iter().map(Value::depth).max().unwrap_or(0),
            Value::Object(fields) => {
                1 + fields
                    .iter()
                    .map(|(_, value)| value.depth())
                    .max()
                    .unwrap_or(0)
            }
            _ => 0,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

/// Makes a value of what the parser finds.
struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut found: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = found.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut found: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = found.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Value {
        Value::parse(&value.to_string()).expect("a value is JSON")
    }
}

/// A value as serde_json's macro has it written.
#[cfg(test)]
macro_rules! json {
    ($($text:tt)+) => {
        $crate::protocol::Value::from(serde_json::json!($($text)+))
    };
}

#[cfg(test)]
pub(crate) use json;
