//! Ruby's ideas of a command line, of words and of numbers, as einhorn's users know them: bundled
//! short options, attached values, abbreviated long ones. What an option means is not known here.

use crate::text;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// One option.
#[derive(Debug)]
struct Switch {
    short: Option<u8>,
    long: &'static str,
    has_value: bool,
}

impl Switch {
    /// Reads a line of a help text: `-n, --number N`, `--version`. Other lines are no option's.
    fn of(line: &'static str) -> Option<Switch> {
        let line = line.trim_start();
        let (short, rest) = match line.as_bytes() {
            [b'-', letter, b',', b' ', b'-', b'-', ..] => (Some(*letter), &line[6..]),
            [b'-', b'-', ..] => (None, &line[2..]),
            _ => return None,
        };
        let (long, value) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Switch {
            short,
            long,
            has_value: !value.is_empty(),
        })
    }
}

/// What a word turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The option's long name and its value, which is empty for an option that takes none.
    Option(&'static str, OsString),
    /// Only in permuting mode.
    Operand(OsString),
}

/// Takes a command line apart, one option at a time, so that `-h` acts before a later mistake.
#[derive(Debug)]
pub struct OptionParser {
    switches: Vec<Switch>,
    words: VecDeque<OsString>,
    /// The letters that are left of a word of short options.
    bundle: Vec<u8>,
    permute: bool,
    only_operands: bool,
}

impl OptionParser {
    /// The options are those of the help text, each on a line of its own. In order mode they end at
    /// the first word that is none, and at `--`; in permuting mode (`permute`) options and operands
    /// may be mixed, up to `--`.
    pub fn new(help: &'static str, words: Vec<OsString>, permute: bool) -> OptionParser {
        OptionParser {
            switches: help.lines().filter_map(Switch::of).collect(),
            words: words.into(),
            bundle: Vec::new(),
            permute,
            only_operands: false,
        }
    }

    /// The next option or operand; `None` where they end.
    ///
    /// Errors: in OptionParser's words: `invalid option: --x`, `missing argument: -n`, ….
    pub fn next_item(&mut self) -> Result<Option<Parsed>, String> {
        if !self.bundle.is_empty() {
            return self.short().map(Some);
        }
        let word = self.words.front().map(|word| word.as_bytes().to_vec());
        match word.as_deref() {
            None => Ok(None),
            Some(b"--") if !self.only_operands => {
                self.words.pop_front();
                self.only_operands = true;
                self.next_item()
            }
            Some([b'-', b'-', long @ ..]) if !self.only_operands => {
                self.words.pop_front();
                self.long(long).map(Some)
            }
            Some([b'-', letters @ ..])
                if !self.only_operands && letters.first().is_some_and(u8::is_ascii) =>
            {
                self.words.pop_front();
                self.bundle = letters.to_vec();
                self.short().map(Some)
            }
            Some(_) if self.permute => Ok(self.words.pop_front().map(Parsed::Operand)),
            Some(_) => Ok(None),
        }
    }

    /// What follows the options.
    pub fn rest(self) -> Vec<OsString> {
        self.words.into()
    }

    fn short(&mut self) -> Result<Parsed, String> {
        let letter = self.bundle.remove(0);
        let shown = format!("-{}", char::from(letter));
        let mut all = self.switches.iter();
        let Some(switch) = all.find(|switch| switch.short == Some(letter)) else {
            return Err(format!("invalid option: {shown}"));
        };
        let long = switch.long;
        let value = match (switch.has_value, self.bundle.is_empty()) {
            (false, _) => OsString::new(),
            (true, true) => self.following(&shown)?,
            (true, false) => OsString::from_vec(std::mem::take(&mut self.bundle)),
        };
        Ok(Parsed::Option(long, value))
    }

    fn long(&mut self, word: &[u8]) -> Result<Parsed, String> {
        let mut parts = word.splitn(2, |byte| *byte == b'=');
        let (name, attached) = (parts.next().unwrap_or_default(), parts.next());
        let shown = format!("--{}", String::from_utf8_lossy(name));
        let switch = self.complete(name, &shown)?;
        let long = switch.long;
        let value = match (switch.has_value, attached) {
            (false, None) => OsString::new(),
            (false, Some(_)) => return Err(format!("needless argument: {shown}")),
            (true, Some(value)) => OsStr::from_bytes(value).to_owned(),
            (true, None) => self.following(&shown)?,
        };
        Ok(Parsed::Option(long, value))
    }

    /// The whole name, or a beginning that only one has.
    fn complete(&self, name: &[u8], shown: &str) -> Result<&Switch, String> {
        let begins = |switch: &&Switch| {
            let start = switch.long.as_bytes().get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        let fitting: Vec<&Switch> = self.switches.iter().filter(begins).collect();
        let whole = fitting.iter().find(|it| it.long.len() == name.len());
        match (&fitting[..], whole) {
            ([switch], _) | (_, Some(switch)) => Ok(switch),
            ([], _) => Err(format!("invalid option: {shown}")),
            _ => Err(format!("ambiguous option: {shown}")),
        }
    }

    /// The next word is the value, whatever it looks like.
    fn following(&mut self, option: &str) -> Result<OsString, String> {
        let word = self.words.pop_front();
        word.ok_or_else(|| format!("missing argument: {option}"))
    }
}

// ---- words and numbers ----

/// Splits a line as `Shellwords.shellsplit` does: white space, quotes and backslashes, and nothing
/// else that a shell would do.
///
/// Errors: `Unmatched quote: LINE`.
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
            '\\' => {
                let escaped = chars.next().unwrap_or('\\');
                word.get_or_insert_default().push(escaped);
            }
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
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '_');
    let run = &digits[..end.unwrap_or(digits.len())];
    let run = run.split("__").next().unwrap_or_default();
    let value = match run.starts_with('_') {
        true => 0,
        false => run
            .bytes()
            .filter(u8::is_ascii_digit)
            .fold(0_i64, |sum, digit| {
                sum.saturating_mul(10).saturating_add((digit - b'0').into())
            }),
    };
    if text.starts_with('-') { -value } else { value }
}

/// `Integer()`: the whole text is one number, in any of the usual bases.
pub fn integer(text: &str) -> Option<i64> {
    text::integer(text.trim(), i64::MIN..=i64::MAX).ok()
}

/// `Float()`: the whole text is one decimal number, underscores only between digits.
pub fn float(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    let is_bad = digits.starts_with(['+', '-', '_'])
        || digits.ends_with(['.', '_'])
        || [".e", ".E", "__"].iter().any(|bad| digits.contains(bad))
        || !digits.chars().all(is_part);
    let value: f64 = digits.replace('_', "").parse().ok()?;
    let value = if text.starts_with('-') { -value } else { value };
    (!is_bad && value.is_finite()).then_some(value)
}

/// Seconds as a duration: nothing below zero, and no more than a century.
pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

#[cfg(test)]
mod tests;
