//! What workers say of themselves: sd_notify(3)'s protocol, on a socket of each worker's own.

mod inbound;

pub use inbound::{Others, WorkerSocket};
