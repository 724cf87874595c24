//! systemd's fd store (systemd.service(5), FileDescriptorStoreMax=): it is handed our listening
//! sockets, so that they outlive a crash of ours. Which sockets, under which names, is decided
//! elsewhere.

use super::Systemd;
use super::notify::Message;
use crate::text::error_text;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;

/// What is known of the unit's store. systemd says its size from 254 on (systemd.exec(5)); over
/// its limit it closes what it gets, and only its own journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is no store: this systemd would have said its size.
    None,
    /// For so many descriptors.
    For(usize),
    /// This systemd is too old to say.
    Unsaid,
}

impl Room {
    /// Reads `FDSTORE`, and whether there is a `MEMORY_PRESSURE_WATCH`: both came with 254.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<OsString>) -> Room {
        let said = variable("FDSTORE").and_then(|limit| limit.to_str()?.parse().ok());
        match said {
            Some(limit) => Room::For(limit),
            None if variable("MEMORY_PRESSURE_WATCH").is_some() => Room::None,
            None => Room::Unsaid,
        }
    }
}

/// What became of the sockets that were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    All,
    /// Some do not fit: FileDescriptorStoreMax= is too small.
    NotAll,
    /// Nothing is known: there is no store, or systemd is too old to say, or all were there.
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
            self.state.queue.push(Message::Remove(name.clone()));
        }
        self.state.stored = found.iter().map(|name| (*name).to_owned()).collect();
        let mut fresh = sockets.to_vec();
        fresh.retain(|(name, _)| !self.state.stored.contains(*name));
        let room = match self.room {
            Room::None => 0,
            Room::For(limit) => limit.saturating_sub(self.state.stored.len()),
            Room::Unsaid => fresh.len(),
        };
        for (name, socket) in fresh.iter().take(room) {
            self.store(name, *socket)?;
        }
        Ok(match self.room {
            Room::For(_) if fresh.is_empty() => Stored::Unsaid,
            Room::For(_) if room < fresh.len() => Stored::NotAll,
            Room::For(_) => Stored::All,
            Room::None | Room::Unsaid => Stored::Unsaid,
        })
    }

    /// A listener was bound anew: the store is to hold the new socket in place of the old one.
    pub fn store_again(&mut self, name: &str, socket: BorrowedFd) -> Result<(), String> {
        if !self.state.stored.remove(name) {
            return Ok(());
        }
        self.state.queue.push(Message::Remove(name.to_owned()));
        self.store(name, socket)
    }

    /// We serve no more: copies of our sockets that wait to be stored are closed.
    pub fn forget_sockets(&mut self) {
        self.state.queue.forget_stores();
        self.link.to_store.clear();
    }

    fn store(&mut self, name: &str, socket: BorrowedFd) -> Result<(), String> {
        if !is_name(name) {
            return Err(format!("{name:?} cannot be a name in systemd's fd store"));
        }
        let copy = socket.try_clone_to_owned();
        let copy = copy.map_err(|error| error_text(&error))?;
        self.link.to_store.insert(name.to_owned(), copy);
        self.state.queue.push(Message::Store(name.to_owned()));
        self.state.stored.insert(name.to_owned());
        Ok(())
    }
}

/// Whether systemd takes it: printable ASCII without a colon.
pub fn is_name(name: &str) -> bool {
    let is_valid = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
    (1..=255).contains(&name.len()) && name.bytes().all(is_valid)
}
