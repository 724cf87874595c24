//! slog's macros, for messages without values: each of slog's makes a record of its place in the
//! source, 200 bytes that no line shows. Here a level has one. It must never change the text.

use slog::{Level, Logger};
use std::fmt::Arguments;

/// Logs `text`; anything but `Info` and `Warning` is an error.
#[inline(never)]
pub fn say(logger: &Logger, level: Level, text: Arguments) {
    match level {
        Level::Info => slog::info!(logger, "{text}"),
        Level::Warning => slog::warn!(logger, "{text}"),
        _ => slog::error!(logger, "{text}"),
    }
}

/// `info!(logger, "text {with} {}", arguments)`
#[macro_export]
macro_rules! info {
    ($logger:expr, $($text:tt)+) => {
        $crate::log::say(&$logger, ::slog::Level::Info, ::std::format_args!($($text)+))
    };
}

/// `warn!(logger, "text {with} {}", arguments)`
#[macro_export]
macro_rules! warn {
    ($logger:expr, $($text:tt)+) => {
        $crate::log::say(&$logger, ::slog::Level::Warning, ::std::format_args!($($text)+))
    };
}

/// `error!(logger, "text {with} {}", arguments)`
#[macro_export]
macro_rules! error {
    ($logger:expr, $($text:tt)+) => {
        $crate::log::say(&$logger, ::slog::Level::Error, ::std::format_args!($($text)+))
    };
}
