//! Ruby's ideas of words and numbers, as einhorn's options and its shell apply them. Pure.

use std::time::Duration;

/// Splits a line as `Shellwords.shellsplit` does: white space, quotes and backslashes, and nothing
/// else that a shell would do.
///
/// # Errors
/// `Unmatched quote: LINE`.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, c, word).ok_or_else(|| format!("Unmatched quote: {line}"))?;
            }
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().unwrap_or('\\')),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Up to the closing quote; `None` if there is none.
fn quoted(chars: &mut std::str::Chars, quote: char, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            c if c == quote => return Some(()),
            '\\' if quote == '"' => match chars.next()? {
                c @ ('$' | '`' | '"' | '\\' | '\n') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

/// `String#to_i`: the number that the text begins with, 0 if it begins with none.
pub fn to_i(text: &str) -> i64 {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut value: i64 = 0;
    let mut after_digit = false;
    for c in digits.chars() {
        match c.to_digit(10) {
            Some(digit) => value = value.saturating_mul(10).saturating_add(digit.into()),
            None if c == '_' && after_digit => {}
            None => break,
        }
        after_digit = c != '_';
    }
    if negative { -value } else { value }
}

/// `Integer()`: the whole text is one number, in any of Ruby's bases.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'd', ..] => (10, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let value = i64::from_str_radix(&without_underscores(digits)?, radix).ok()?;
    // from_str_radix takes a second sign.
    let plain = !digits.starts_with(['+', '-']);
    plain.then_some(if negative { -value } else { value })
}

/// `Float()`: the whole text is one decimal number.
pub fn float(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    let bad = digits.starts_with(['+', '-']) || digits.ends_with('.') || !digits.chars().all(shape);
    if bad || digits.contains(".e") || digits.contains(".E") {
        return None;
    }
    let value: f64 = without_underscores(digits)?.parse().ok()?;
    value
        .is_finite()
        .then_some(if text.starts_with('-') { -value } else { value })
}

/// Underscores only between digits.
fn without_underscores(text: &str) -> Option<String> {
    let bad = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!bad).then(|| text.replace('_', ""))
}

/// Seconds as a duration: nothing below zero, and no more than a century.
pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}
