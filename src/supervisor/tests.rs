//! Tests of the core: scripts (a line is an event, the actions that follow, and the next deadline)
//! and a simulation that finds scripts that nobody has written. Nothing here does I/O.

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
