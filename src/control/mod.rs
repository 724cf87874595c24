//! The control socket: who may connect and what they may say, what each request is answered and
//! asks the daemon to do, and what clients are told that wait for a reload or for our end. It never
//! blocks and never acts on workers: what is to be done is returned to the daemon.

pub mod client;
mod commands;
mod connection;
mod peer;
pub mod protocol;
mod server;
pub mod status;
pub mod verdict;
pub mod waiters;

pub use commands::{Order, View};
pub use peer::Access;
pub use server::{MAX_CLIENTS, Server};
