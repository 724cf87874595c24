//! (essay being written)

/// A moment on CLOCK_MONOTONIC, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// The core's own name for a worker: never a pid, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u64);

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It never became the program: the step that failed, and errno.
    Exec { step: String, errno: i32 },
    /// exit(3) status.
    Exited(i32),
    /// Killed by a signal.
    Signaled { signal: i32, core_dumped: bool },
}
