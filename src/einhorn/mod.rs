//! The programs `einhorn` and `einhornsh`, and what einhorn's clients expect of the control socket.

pub mod cli;
pub mod commands;
pub mod files;
pub mod options;
pub mod shell;
pub mod yaml;

/// The einhorn whose words and commands we speak; `--version` prints it alone, as scripts expect.
pub const SPOKEN_VERSION: &str = "1.1.1";
