//! A worker: how it becomes a process, what it finds there, and what we hear of it.

pub mod output;
