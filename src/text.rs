//! Words and numbers as people and terminals want them: once for the whole program. This file
//! imports nothing of ours.

use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Text from outside as one line that a terminal survives: control characters are escaped.
pub fn printable(text: &OsStr) -> String {
    let mut line = String::new();
    for c in text.to_string_lossy().chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// Text of several lines that a terminal survives: all control characters but line ends and tabs
/// are escaped. What has been escaped already stays as it is.
pub fn printable_lines(text: &str) -> String {
    let mut lines = String::new();
    for c in text.chars() {
        match c.is_control() && c != '\n' && c != '\t' {
            true => lines.extend(c.escape_default()),
            false => lines.push(c),
        }
    }
    lines
}

/// The text with each control character as a space and none at its ends: one line of a log, or one
/// value of a message that newlines separate and a NUL would spoil.
pub fn one_line(text: &str) -> String {
    let space = |c: char| if c.is_control() { ' ' } else { c };
    let spaced: String = text.chars().map(space).collect();
    spaced.trim().to_owned()
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
    let words = [
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
    ];
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    let known = words.get(index).map(|words| (*words).to_owned());
    known.unwrap_or_else(|| format!("signal {number}"))
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
    let offset = |text: &str| text.parse::<u8>().ok().map(i32::from);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(first),
        (_, Some("")) => Some(last),
        (Some(rest), _) => rest.strip_prefix('+').and_then(offset).map(|n| first + n),
        (_, Some(rest)) => rest.strip_prefix('-').and_then(offset).map(|n| last - n),
        _ => None,
    };
    let real_time = real_time.filter(|number| (first..=last).contains(number));
    let is_named = |signal: &Signal| signal.as_str().strip_prefix("SIG") == Some(name);
    let named = || {
        Signal::iterator()
            .find(is_named)
            .map(|signal| signal as i32)
    };
    real_time
        .or_else(named)
        .ok_or_else(|| "not a signal".into())
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
    match text.rsplit_once('(') {
        Some((word, _os_error)) => word.trim_end().to_owned(),
        None => text,
    }
}

/// The system's word for an error, without its number; where the error is not the system's, its text.
pub fn error_text(error: &std::io::Error) -> String {
    let errno = error.raw_os_error();
    errno.map_or_else(|| error.to_string(), errno_text)
}

#[cfg(test)]
mod tests;
