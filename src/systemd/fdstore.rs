//! systemd's fd store (systemd.service(5), FileDescriptorStoreMax=): it is handed our listening
//! sockets, so that they outlive a crash of ours. Which sockets, under which names, is decided
//! elsewhere.

use super::Systemd;
use super::notify::Notification;
use crate::text::error_text;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;

/// How many descriptors the unit's store can hold. systemd says so from version 254 on
/// (systemd.exec(5)); into a store that is full an older one puts nothing, and only its own journal
/// tells. `Some(0)`: there is no store; `None`: systemd is too old to say.
pub fn capacity(variable: impl Fn(&str) -> Option<OsString>) -> Option<usize> {
    let said = variable("FDSTORE").and_then(|limit| limit.to_str()?.parse().ok());
    // MEMORY_PRESSURE_WATCH came with the same version: whoever has that alone has no store.
    said.or_else(|| variable("MEMORY_PRESSURE_WATCH").map(|_| 0))
}

/// What became of the sockets that were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    All,
    /// Some do not fit: FileDescriptorStoreMax= is too small.
    NotAll,
    /// Nothing can be said: there is no store, systemd is too old, or all were in it before.
    Unsaid,
}

impl Systemd {
    /// Hands over our listening sockets, so that they outlive us: once each, under a name that a
    /// later start finds again. `found` are the names of those that came back from the store;
    /// `forget` are names in the store that hold nothing of use.
    ///
    /// Errors: no descriptor is left for a copy, or a name is none.
    pub fn hand_over(
        &mut self,
        sockets: &[(&str, BorrowedFd)],
        found: &[&str],
        forget: &[String],
    ) -> Result<Stored, String> {
        for name in forget.iter().filter(|name| is_name(name)) {
            self.state.push(Notification::Remove(name.clone()));
        }
        self.state.stored = found.iter().map(|name| (*name).to_owned()).collect();
        let mut fresh = sockets.to_vec();
        fresh.retain(|(name, _)| !found.contains(name));
        let capacity = self.store_capacity.unwrap_or(usize::MAX);
        let room = capacity.saturating_sub(self.state.stored.len());
        for (name, socket) in fresh.iter().take(room) {
            self.store(name, *socket)?;
        }
        Ok(match self.store_capacity {
            None | Some(0) => Stored::Unsaid,
            Some(_) if fresh.is_empty() => Stored::Unsaid,
            Some(_) if room < fresh.len() => Stored::NotAll,
            Some(_) => Stored::All,
        })
    }

    /// Replaces a stored socket by the new one of a listener that was bound anew.
    pub fn store_again(&mut self, name: &str, socket: BorrowedFd) -> Result<(), String> {
        if !self.state.stored.iter().any(|stored| stored == name) {
            return Ok(());
        }
        self.state.push(Notification::Remove(name.to_owned()));
        self.store(name, socket)
    }

    /// Closes the copies of our sockets that wait to be stored: we do not serve any more.
    pub fn forget_sockets(&mut self) {
        let is_store = |message: &Notification| matches!(message, Notification::Store(_));
        self.state.queue.retain(|message| !is_store(message));
        self.link.to_store.clear();
    }

    fn store(&mut self, name: &str, socket: BorrowedFd) -> Result<(), String> {
        if !is_name(name) {
            return Err(format!("{name:?} cannot be a name in systemd's fd store"));
        }
        let copy = socket.try_clone_to_owned();
        let copy = copy.map_err(|error| error_text(&error))?;
        self.link.to_store.retain(|(of, _)| of != name);
        self.link.to_store.push((name.to_owned(), copy));
        self.state.push(Notification::Store(name.to_owned()));
        self.state.stored.retain(|stored| stored != name);
        self.state.stored.push(name.to_owned());
        Ok(())
    }
}

/// Whether systemd takes it: printable ASCII without a colon.
pub fn is_name(name: &str) -> bool {
    let is_valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
    (1..=255).contains(&name.len()) && name.bytes().all(is_valid)
}
