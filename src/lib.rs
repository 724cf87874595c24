//! The parts of the `socketmaster` program, as a library so that tests and benchmarks can reach
//! them. Nothing here is a stable interface.

pub mod args;
pub mod control;
pub mod ctl;
pub mod daemon;
#[cfg(feature = "einhorn")]
pub mod einhorn;
#[cfg(feature = "einhorn")]
pub mod einhornsh;
pub mod environment;
pub mod flags;
pub mod guard;
pub mod listen;
pub mod log;
pub mod manners;
pub mod notify;
pub mod output;
pub mod pidfile;
pub mod program;
pub mod protocol;
pub mod spawn;
pub mod status;
pub mod strings;
pub mod supervisor;
pub mod sys;
pub mod syslog;
pub mod table;
pub mod uri;
pub mod user;
