//! The core under test: scripts (one line an event, with what it does and the deadline it
//! leaves) and a simulation that looks for scripts nobody thought of. Nothing here does I/O.

mod endings;
mod generations;
mod kernel;
mod pairs;
mod refusals;
mod remembered;
mod respawn;
mod rolling;
mod script;
mod simulation;
mod state;
mod symptoms;
