//! Words and numbers for people and terminals, and how they are read: the only place for each. It
//! must never import anything of ours.

use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Text from outside as one line that a terminal survives: control characters are escaped.
pub fn printable(text: &OsStr) -> String {
    escaped(&text.to_string_lossy(), char::is_control)
}

/// Text of several lines that a terminal survives: all control characters but line ends and tabs
/// are escaped. What has been escaped already stays as it is.
pub fn printable_lines(text: &str) -> String {
    escaped(text, |c| c.is_control() && c != '\n' && c != '\t')
}

fn escaped(text: &str, is_escaped: fn(char) -> bool) -> String {
    let mut line = String::new();
    for c in text.chars() {
        match is_escaped(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// The text as one line of a log or one value of a message: each control character is a space, and
/// none stands at the ends.
pub fn one_line(text: &str) -> String {
    let space = |c: char| if c.is_control() { ' ' } else { c };
    let spaced: String = text.chars().map(space).collect();
    spaced.trim().to_owned()
}

/// The first `limit` bytes of a text, or a little less, so that no character is cut in two.
pub fn first_bytes(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `SIGTERM`, `SIGRTMIN+3`, or `signal 99` for a number that is no signal's.
pub fn signal_name(number: i32) -> String {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().into(),
        Err(_) if number == first => "SIGRTMIN".into(),
        Err(_) if (first..=last).contains(&number) => format!("SIGRTMIN+{}", number - first),
        Err(_) => format!("signal {number}"),
    }
}

/// Go's words for a signal, which the original printed: `killed`, `signal 34`.
pub fn signal_words(number: i32) -> String {
    let words = "hangup, interrupt, quit, illegal instruction, trace/breakpoint trap, aborted, \
                 bus error, floating point exception, killed, user defined signal 1, \
                 segmentation fault, user defined signal 2, broken pipe, alarm clock, terminated";
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    match words.split(", ").nth(index) {
        Some(words) => words.into(),
        None => format!("signal {number}"),
    }
}

/// Reads a signal's number or name, with or without SIG, in any case; also `RTMIN+N` and `RTMAX-N`
/// (signal(7)). Errors: the reason alone.
pub fn signal_number(text: &str) -> Result<i32, String> {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        return integer(text, 1..=last.into()).map(|number| number as i32);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        Some(number) => number
            .parse()
            .ok()
            .filter(|n| (0..=last - first).contains(n)),
        None => text.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').map(|n| first + n)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').map(|n| last - n)
    } else {
        let signal = format!("SIG{name}").parse::<Signal>();
        signal.ok().map(|signal| signal as i32)
    };
    number.ok_or_else(|| "not a signal".into())
}

/// Reads a Go integer literal (strconv.ParseInt with base 0): a sign, `0x`, `0o`, `0b`, a leading
/// `0` for octal, `_` between digits. Errors: the reason alone.
pub fn integer(text: &str, limits: RangeInclusive<i64>) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // After a prefix, an underscore may also stand before the first digit: 0x_1f.
    let grouped = match base {
        10 => digits,
        _ => digits.strip_prefix('_').unwrap_or(digits),
    };
    let is_group = |group: &str| !group.is_empty() && group.chars().all(|c| c.is_digit(base));
    if !grouped.split('_').all(is_group) {
        return Err("not a number".into());
    }
    let number = i64::from_str_radix(&format!("{sign}{}", grouped.replace('_', "")), base);
    let number = number.ok().filter(|number| limits.contains(number));
    number.ok_or_else(|| format!("out of range, {} to {}", limits.start(), limits.end()))
}

/// Reads a Go boolean (strconv.ParseBool). Errors: the reason alone.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".into()),
    }
}

/// `1 worker`, `3 workers`.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// `12 ms`, `3.0 s`, `5 min`, `26 h`.
pub fn duration_text(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.subsec_millis()),
        1..=119 => {
            let tenths = (duration.as_millis() + 50) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// The system's word for an errno.
pub fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let number = format!(" (os error {errno})");
    text.trim_end_matches(&number).to_owned()
}

/// The system's word for an error, or the error's own text if it does not come from the system.
pub fn error_text(error: &std::io::Error) -> String {
    let errno = error.raw_os_error();
    errno.map_or_else(|| error.to_string(), errno_text)
}

#[cfg(test)]
mod tests;
