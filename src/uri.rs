//! What `-listen` says: parsing and printing of socket addresses. Pure.

/// A `-listen` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri;
