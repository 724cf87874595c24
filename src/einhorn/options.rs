//! Ruby's ideas of a command line, of words and of numbers, as einhorn's users know them: bundled
//! short options, attached values, abbreviated long ones. What an option means is not known here.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One option, as a help text shows it.
#[derive(Debug, Clone, Copy)]
struct Switch {
    short: Option<u8>,
    long: &'static str,
    has_value: bool,
}

impl Switch {
    /// Reads a line of a help text: `-n, --number N  Number of workers`. The other lines of the
    /// text yield `None`.
    fn of(line: &'static str) -> Option<Switch> {
        let (option, _description) = line.trim().split_once("  ")?;
        let (short, rest) = match option.split_once(", ") {
            Some((short, rest)) => (short.as_bytes().last().copied(), rest),
            None => (None, option),
        };
        let mut words = rest.strip_prefix("--")?.split(' ');
        Some(Switch {
            short,
            long: words.next()?,
            has_value: words.next().is_some(),
        })
    }
}

/// Takes a command line apart, one option at a time, so that `-h` acts before a later mistake.
#[derive(Debug)]
pub struct OptionParser {
    switches: Vec<Switch>,
    words: VecDeque<OsString>,
    /// A `--` was read: all other words are operands.
    options_ended: bool,
}

impl OptionParser {
    /// The options are those of the help text, each on a line of its own.
    pub fn new(help: &'static str, words: Vec<OsString>) -> OptionParser {
        OptionParser {
            switches: help.lines().filter_map(Switch::of).collect(),
            words: words.into(),
            options_ended: false,
        }
    }

    /// The next option, by its long name, and its value, which is empty for an option that takes
    /// none. `None`: the next word is not an option, or there is no word.
    ///
    /// Errors: in OptionParser's words: `invalid option: --x`, `missing argument: -n`, ….
    pub fn next_option(&mut self) -> Result<Option<(&'static str, OsString)>, String> {
        let word = self.words.front().map(|word| word.as_bytes().to_vec());
        let (switch, shown, attached) = match word.as_deref() {
            _ if self.options_ended => return Ok(None),
            Some(b"--") => {
                self.words.pop_front();
                self.options_ended = true;
                return Ok(None);
            }
            Some([b'-', b'-', word @ ..]) => {
                let mut parts = word.splitn(2, |byte| *byte == b'=');
                let (name, attached) = (parts.next().unwrap_or_default(), parts.next());
                let shown = format!("--{}", String::from_utf8_lossy(name));
                (self.complete(name, &shown)?, shown, attached)
            }
            Some([b'-', letter, rest @ ..]) => {
                let shown = format!("-{}", char::from(*letter));
                let mut all = self.switches.iter();
                let switch = all.find(|switch| switch.short == Some(*letter));
                let switch = *switch.ok_or_else(|| format!("invalid option: {shown}"))?;
                (switch, shown, Some(rest).filter(|rest| !rest.is_empty()))
            }
            _ => return Ok(None),
        };
        self.words.pop_front();
        let value = match (switch.has_value, attached) {
            (true, Some(value)) => OsStr::from_bytes(value).to_owned(),
            // The next word is the value, whatever it looks like.
            (true, None) => {
                let word = self.words.pop_front();
                word.ok_or_else(|| format!("missing argument: {shown}"))?
            }
            (false, None) => OsString::new(),
            (false, Some(_)) if shown.starts_with("--") => {
                return Err(format!("needless argument: {shown}"));
            }
            // The other letters of a bundle are options too.
            (false, Some(letters)) => {
                let word = OsString::from_vec([b"-", letters].concat());
                self.words.push_front(word);
                OsString::new()
            }
        };
        Ok(Some((switch.long, value)))
    }

    /// Finds a long option by its whole name, or by a beginning that only one has.
    fn complete(&self, name: &[u8], shown: &str) -> Result<Switch, String> {
        let begins = |switch: &&Switch| {
            let start = switch.long.as_bytes().get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        let fitting: Vec<&Switch> = self.switches.iter().filter(begins).collect();
        let whole = fitting.iter().find(|it| it.long.len() == name.len());
        match (&fitting[..], whole) {
            ([switch], _) | (_, Some(switch)) => Ok(**switch),
            ([], _) => Err(format!("invalid option: {shown}")),
            _ => Err(format!("ambiguous option: {shown}")),
        }
    }

    /// The next word, where it is not an option.
    pub fn next_operand(&mut self) -> Option<OsString> {
        self.words.pop_front()
    }
}

/// Splits a line as `Shellwords.shellsplit` does: white space, quotes and backslashes, and nothing
/// else that a shell would do.
///
/// Errors: `Unmatched quote: LINE`.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"'), '\\') => {
                let escaped = chars.next().unwrap_or_default();
                let word = word.get_or_insert_default();
                word.extend((!"$`\"\\\n".contains(escaped)).then_some('\\'));
                word.push(escaped);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => {
                let escaped = chars.next().unwrap_or('\\');
                word.get_or_insert_default().push(escaped);
            }
            (None, _) if c.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(_) => Err(format!("Unmatched quote: {line}")),
    }
}

/// `String#to_i`: the number that the text begins with, 0 if it begins with none.
pub fn to_i(text: &str) -> i64 {
    let text = text.trim_start();
    let (mut value, mut last) = (0_i64, '_');
    for c in text.strip_prefix(['-', '+']).unwrap_or(text).chars() {
        match c.to_digit(10) {
            Some(digit) => value = value.saturating_mul(10).saturating_add(digit.into()),
            // One underscore may stand between two digits.
            None if c == '_' && last != '_' => {}
            None => break,
        }
        last = c;
    }
    if text.starts_with('-') { -value } else { value }
}

/// `Float()`: the whole text is one decimal number, underscores only between digits.
pub fn float(text: &str) -> Option<f64> {
    let text = text.trim().to_ascii_lowercase();
    let is_digit = |c: char| c.is_ascii_digit();
    // Rust takes `inf` and a point without digits behind it, and Ruby does not.
    let is_decimal = text.chars().all(|c| is_digit(c) || ".e+-_".contains(c))
        && !text.ends_with('.')
        && !text.contains(".e");
    let groups: Vec<&str> = text.split('_').collect();
    let mut seams = groups.windows(2);
    let is_grouped = seams.all(|two| two[0].ends_with(is_digit) && two[1].starts_with(is_digit));
    let value: f64 = groups.concat().parse().ok()?;
    (is_decimal && is_grouped && value.is_finite()).then_some(value)
}

#[cfg(test)]
mod tests;
