//! The raw system calls that nix lacks, each wrapped so that it is safe to call from outside.
//! Nothing here decides anything, and nothing of ours is imported.
#![allow(unsafe_code)]

pub mod datagram;
pub mod interrupt;
pub mod io;
pub mod proc;
pub mod process;
pub mod signals;
pub mod socket;
