//! Readiness messages, sd_notify(3)'s protocol, in both directions: `inbound` hears each worker on
//! a socket of its own, `systemd` tells systemd about us, `store` puts our sockets into its fd
//! store. Nothing here ever passes a worker's message on: what systemd hears, the daemon decided.

mod inbound;
mod store;
mod systemd;

pub use inbound::{Message, Others, WorkerSocket};
pub use store::{HandOver, StoreCheck, Stored, hand_over};
pub use systemd::Systemd;

/// The text with each control character as a space and none at its ends: one line of a log, or
/// one value of a message that newlines separate and a NUL would spoil.
fn one_line(text: &str) -> String {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    spaced.trim().to_owned()
}
