//! The way of a message to slog, and macros like slog's: each of those makes a record of its place
//! in the source, 200 bytes that no line shows. Here all have one. It must never change the text.

use slog::{Level, Logger, Record, b, record_static};
use std::fmt::Arguments;

/// Logs `text`, a message without values.
#[inline(never)]
pub fn say(logger: &Logger, level: Level, text: Arguments) {
    logger.log(&Record::new(&record_static!(level, ""), &text, b!()));
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
