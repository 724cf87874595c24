//! The workers' output: each worker's pipe is read, cut into lines, and handed to the log. This file
//! decides which pipe is read when, which is not read while the log is stuck, and how long the pipe
//! of a dead worker is kept. It reads only what the log takes, except where a worker must not be
//! held back: then it drops lines at a bounded rate and counts them. It never waits.

mod lines;

use crate::log::{Capacity, Log};
use crate::supervisor::{ChildId, Instant};
use crate::sys::io::{bytes_waiting, read_append};
use lines::{LineBuffer, Tail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// One read(2), in bytes: all that a pipe holds. Less would wake its writer more often.
const CHUNK: usize = 64 * 1024;
/// How many bytes of one pipe are read in a turn.
const TURN: usize = 64 * 1024;
/// While lines are dropped: how many bytes may be read in which time, of all pipes together.
const DROP_BYTES: usize = 256 * 1024;
const DROP_TIME: Duration = Duration::from_millis(10);

/// What the owner of the loop has to do.
#[derive(Debug)]
pub enum OutputEvent {
    /// All that a dead worker had written is logged: log its end, this text.
    Ended(String),
    /// The pipe of this dead worker was closed although its descendants still hold it, because too
    /// many pipes of dead workers are open.
    CutOff(u32),
    /// The system refused to read a pipe: mark it readable again in a moment.
    Unread,
    /// This pipe is no longer read: deregister it, then close it.
    Closed(ChildId, OwnedFd),
}

/// Who may still write into a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Writer {
    /// The worker.
    #[default]
    Alive,
    /// The worker is gone; `unread` bytes of its own are still in the pipe. The text `end` is
    /// announced when they are logged.
    Ended { unread: usize, end: String },
    /// Its end has been announced; its descendants write what comes now.
    Gone,
}

/// A worker's output, but for the descriptor. It may outlive the worker.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stream {
    pid: u32,
    writer: Writer,
    lines: LineBuffer,
    tail: Tail,
    /// Lines may be lost rather than the worker held back.
    may_drop: bool,
}

/// How far a pipe was read, which says when it is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// It is empty: when it is readable again.
    Empty,
    /// This turn's share was read: in the next turn, after the others and after the log's flush.
    More,
    /// It was left alone: when the log moves, or this moment comes.
    Paused(Option<Instant>),
    /// The system refused to read it.
    Refused,
    /// The other end is closed, and all lines are logged: never.
    Eof,
}

/// The output of all workers.
#[derive(Default)]
pub struct Outputs {
    /// What another image of the program must carry on with. A worker that has closed its output
    /// and lives has a stream and no pipe.
    streams: BTreeMap<ChildId, Stream>,
    /// The read ends.
    pipes: BTreeMap<ChildId, OwnedFd>,
    /// Pipes that may have something to read.
    ready: BTreeSet<ChildId>,
    /// Pipes that are not read until the log moves, or this moment comes.
    paused: BTreeMap<ChildId, Option<Instant>>,
    /// The last one that was read while the log had room.
    last_read: Option<ChildId>,
    dropping: DropRate,
}

impl Outputs {
    /// From now on what the worker `pid` writes goes into the log. `pipe` is the read end, which
    /// does not block and is watched for READABLE.
    pub fn adopt(&mut self, id: ChildId, pid: u32, pipe: OwnedFd) {
        let stream = Stream {
            pid,
            ..Stream::default()
        };
        self.streams.insert(id, stream);
        self.pipes.insert(id, pipe);
    }

    /// From now on a stuck log does not hold this worker back, and its lines may be lost: with
    /// `-output=lossy`, and for a worker that has been asked to stop, which must be able to leave.
    pub fn allow_drops(&mut self, id: ChildId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.may_drop = true;
            if self.paused.remove(&id).is_some() {
                self.ready.insert(id);
            }
        }
    }

    /// There is something to read, or the other end was closed.
    pub fn mark_readable(&mut self, id: ChildId) {
        if self.pipes.contains_key(&id) {
            self.ready.insert(id);
        }
    }

    /// Whether this pipe is left alone for the moment.
    pub fn is_paused(&self, id: ChildId) -> bool {
        self.paused.contains_key(&id)
    }

    pub fn pipe(&self, id: ChildId) -> Option<BorrowedFd<'_>> {
        self.pipes.get(&id).map(AsFd::as_fd)
    }

    /// Whether a pipe is to be read in the next turn: the loop must not go to sleep.
    pub fn wants_turn(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When a paused pipe is to be read again, whatever the log does.
    pub fn retry_at(&self) -> Option<Instant> {
        self.paused.values().copied().flatten().min()
    }

    /// Whether everything that dead workers had written is logged.
    pub fn all_announced(&self) -> bool {
        let mut streams = self.streams.values();
        !streams.any(|stream| matches!(stream.writer, Writer::Ended { .. }))
    }

    /// Reads each pipe that is ready. Each may fill the log's queue, so this begins after the one
    /// that was the last to find room in it.
    pub fn read(&mut self, log: &mut Log, now: Instant) -> Vec<OutputEvent> {
        let mut ids: Vec<ChildId> = std::mem::take(&mut self.ready).into_iter().collect();
        let before = ids.partition_point(|id| Some(*id) <= self.last_read);
        ids.rotate_left(before);
        let mut events = Vec::new();
        log.tick();
        for id in ids {
            if log.capacity() == Capacity::Free {
                self.last_read = Some(id);
            }
            events.extend(self.read_one(id, log, now));
        }
        events
    }

    /// The same for all pipes, paused or not: for the last lines before we end.
    pub fn read_all(&mut self, log: &mut Log, now: Instant) -> Vec<OutputEvent> {
        self.ready.extend(self.pipes.keys());
        self.read(log, now)
    }

    fn read_one(&mut self, id: ChildId, log: &mut Log, now: Instant) -> Vec<OutputEvent> {
        let mut events = Vec::new();
        let (Some(stream), Some(pipe)) = (self.streams.get_mut(&id), self.pipes.get(&id)) else {
            return events;
        };
        let drained = stream.drain(pipe.as_fd(), log, now, &mut self.dropping);
        stream.lines.settle();
        if let Writer::Ended { unread, end } = &mut stream.writer {
            if drained == Drained::Eof || (*unread == 0 && stream.lines.is_empty()) {
                events.push(OutputEvent::Ended(std::mem::take(end)));
                stream.writer = Writer::Gone;
            }
        }
        match drained {
            Drained::Empty => {}
            Drained::More => drop(self.ready.insert(id)),
            Drained::Paused(until) => drop(self.paused.insert(id, until)),
            Drained::Refused => events.push(OutputEvent::Unread),
            Drained::Eof => events.extend(self.close(id)),
        }
        events
    }

    /// Ends the pauses that are over. To be called after each flush of the log.
    pub fn resume(&mut self, log: &Log, now: Instant) {
        let capacity = log.capacity();
        self.paused.retain(|id, until| {
            let is_on = match (*until, capacity) {
                (Some(until), Capacity::Full { .. } | Capacity::Broken) => until > now,
                (None, Capacity::Full { .. }) => true,
                _ => false,
            };
            if !is_on {
                self.ready.insert(*id);
            }
            is_on
        });
    }

    /// The last lines of a worker's output for a verdict, also those that are still in its pipe: at
    /// most five, two kilobytes in all.
    pub fn last_lines(&mut self, id: ChildId) -> Vec<String> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Vec::new();
        };
        if let Some(pipe) = self.pipes.get(&id) {
            stream.read_ahead(pipe.as_fd());
        }
        stream.tail.lines()
    }

    /// The worker is dead: what is in its pipe now is its own, and what comes later is written by
    /// others who hold the pipe. `end` is announced when its own is logged, which may be at once.
    /// Of the pipes of dead workers at most `most` are kept: the oldest is closed, and the lines in
    /// it that a stuck log did not take are lost, and counted.
    pub fn end(
        &mut self,
        id: ChildId,
        end: String,
        most: usize,
        log: &mut Log,
        now: Instant,
    ) -> Vec<OutputEvent> {
        let (Some(stream), Some(pipe)) = (self.streams.get_mut(&id), self.pipes.get(&id)) else {
            self.streams.remove(&id);
            return vec![OutputEvent::Ended(end)];
        };
        stream.read_ahead(pipe.as_fd());
        let unread = bytes_waiting(pipe.as_fd()).unwrap_or(0);
        stream.writer = Writer::Ended { unread, end };
        if unread == 0 {
            stream.lines.end();
        }
        self.paused.remove(&id);
        log.tick();
        let mut events = self.read_one(id, log, now);

        let is_dead = |stream: &Stream| stream.writer != Writer::Alive;
        let mut dead = self.streams.iter().filter(|(_, stream)| is_dead(stream));
        if let (Some((&oldest, _)), true) = (dead.next(), dead.count() >= most) {
            events.extend(self.abandon(oldest, log));
            events.extend(self.close(oldest));
        }
        events
    }

    /// Reads what a dead worker had written only to drop it, and counts the lines.
    fn abandon(&mut self, id: ChildId, log: &mut Log) -> Option<OutputEvent> {
        let (stream, pipe) = (self.streams.get_mut(&id)?, self.pipes.get(&id)?);
        let Writer::Ended { end, .. } = &mut stream.writer else {
            return Some(OutputEvent::CutOff(stream.pid));
        };
        let end = std::mem::take(end);
        log.count_lost(stream.lines.discard());
        while let Ok(1..) = stream.read(pipe.as_fd()) {
            log.count_lost(stream.lines.discard());
        }
        Some(OutputEvent::Ended(end))
    }

    fn close(&mut self, id: ChildId) -> Option<OutputEvent> {
        self.ready.remove(&id);
        self.paused.remove(&id);
        if self.streams.get(&id)?.writer != Writer::Alive {
            self.streams.remove(&id);
        }
        let pipe = self.pipes.remove(&id)?;
        Some(OutputEvent::Closed(id, pipe))
    }
}

impl Stream {
    /// Reads about a turn's share and hands its lines to the log, as far as that takes them.
    fn drain(
        &mut self,
        pipe: BorrowedFd<'_>,
        log: &mut Log,
        now: Instant,
        dropping: &mut DropRate,
    ) -> Drained {
        let mut budget = TURN;
        loop {
            if log.capacity() == Capacity::Free {
                while let Some(line) = self.lines.next_line() {
                    if !log.push_worker_line(self.pid, line.bytes, line.cut) {
                        break;
                    }
                }
            }
            match log.capacity() {
                Capacity::Free => {}
                Capacity::AfterFlush => return Drained::More,
                Capacity::Full { .. } if !self.may_drop => return Drained::Paused(None),
                Capacity::Full { drop_from } if now < drop_from => {
                    return Drained::Paused(Some(drop_from));
                }
                Capacity::Full { .. } | Capacity::Broken => match dropping.ask(now) {
                    Ok(()) => log.count_lost(self.lines.discard()),
                    Err(later) => return Drained::Paused(Some(later)),
                },
            }
            if budget == 0 || matches!(self.writer, Writer::Ended { unread: 0, .. }) {
                return Drained::More;
            }
            match self.read(pipe) {
                Ok(0) if self.lines.is_empty() => return Drained::Eof,
                Ok(count) => budget = budget.saturating_sub(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Drained::Empty,
                // Closing the pipe would kill a worker that lives.
                Err(_) => return Drained::Refused,
            }
        }
    }

    /// One read, of a dead worker's own bytes only. At the end of the output, which is 0, a last
    /// line without newline becomes a line.
    fn read(&mut self, pipe: BorrowedFd<'_>) -> nix::Result<usize> {
        let limit = match self.writer {
            Writer::Ended { unread, .. } => unread.min(CHUNK),
            Writer::Alive | Writer::Gone => CHUNK,
        };
        let count = match self.lines.fill(|bytes| read_append(pipe, bytes, limit)) {
            Err(errno @ (Errno::EINTR | Errno::EAGAIN)) => return Err(errno),
            // Nothing else is known to happen to a pipe. It may get better while there is a
            // writer; the end of a dead worker does not wait for that.
            Err(errno) if self.writer == Writer::Alive => return Err(errno),
            result => result.unwrap_or(0),
        };
        self.tail.push(self.lines.last(count));
        let mut is_last = count == 0;
        if let Writer::Ended { unread, .. } = &mut self.writer {
            *unread -= count;
            is_last |= *unread == 0;
        }
        if is_last {
            self.lines.end();
        }
        Ok(count)
    }

    /// Reads what waits in the pipe although the log may have no room for it, within bounds.
    fn read_ahead(&mut self, pipe: BorrowedFd<'_>) {
        if self.lines.len() < CHUNK {
            // An error comes again when the pipe is read in its turn.
            let _ = self.read(pipe);
            self.lines.settle();
        }
    }
}

/// How much has been read only to be dropped in the present span of time.
#[derive(Default)]
struct DropRate {
    until: Instant,
    bytes: usize,
}

impl DropRate {
    /// Whether a chunk may be read only to be dropped; if not, when to ask again.
    fn ask(&mut self, now: Instant) -> Result<(), Instant> {
        if now >= self.until {
            self.until = now + DROP_TIME;
            self.bytes = 0;
        }
        if self.bytes >= DROP_BYTES {
            return Err(self.until);
        }
        self.bytes += CHUNK;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
