//! The workers' output on its way into the log: which pipe is read when, which is left alone while
//! the log is stuck, and how long one is kept whose worker is gone. It must never let a pipe, or a
//! stuck log, hold up anything else of the loop.

use super::Daemon;
use super::watch::{Source, Ticket};
use crate::config::Output;
use crate::log::Room;
use crate::output::{Drained, Pipe, TURN};
use crate::supervisor::{ChildId, Instant};
use crate::sys::clock;
use crate::table::{Set, Table};
use crate::{info, warn};
use std::os::fd::OwnedFd;

/// How many pipes of dead workers are kept beside one of each worker of a generation, for their
/// grandchildren or for a stuck log.
const PIPES_OF_THE_DEAD: usize = 64;

/// Up to so many workers have wide pipes: with a stuck log, a quarter of a megabyte each.
const WIDE_PIPES: u32 = 16;

/// A worker's output; it may outlive the worker.
struct Stream {
    pipe: Pipe,
    ticket: Ticket,
    pid: i32,
    /// Its end, to be logged when what it had written is.
    end: Option<String>,
    reported: bool,
}

/// The output of all workers.
#[derive(Default)]
pub(super) struct Outputs {
    streams: Table<ChildId, Stream>,
    /// Those of workers that are gone.
    dead: Set<ChildId>,
    /// Streams that are not read now: until the log moves, or (if lines may be dropped) until then.
    parked: Table<ChildId, Option<Instant>>,
    /// Whose pipe was the last to be read while the log had room.
    last_read: Option<ChildId>,
}

impl Outputs {
    /// The last lines of a worker whose output is still open.
    pub fn last_lines(&self, id: ChildId) -> Option<Vec<String>> {
        self.streams.get(&id).map(|stream| stream.pipe.last_lines())
    }

    /// When a parked stream is to be read again, whatever the log does.
    pub fn retry_at(&self) -> Option<Instant> {
        self.parked.iter().filter_map(|(_, until)| *until).min()
    }

    /// Whether everything that dead workers had written is logged.
    pub fn all_reported(&self) -> bool {
        self.streams.values().all(|stream| stream.end.is_none())
    }

    pub fn ids(&self) -> Vec<ChildId> {
        self.streams.keys()
    }
}

impl Daemon {
    /// From now on what this worker writes goes into the log.
    pub(super) fn adopt_output(&mut self, id: ChildId, pid: i32, output: OwnedFd, ticket: Ticket) {
        let mut pipe = Pipe::new(output, pid as u32);
        if self.config.workers <= WIDE_PIPES {
            pipe.widen();
        }
        if self.config.output == Output::Lossy {
            pipe.allow_drops();
        }
        let stream = Stream {
            pipe,
            ticket,
            pid,
            end: None,
            reported: false,
        };
        self.children.outputs.streams.insert(id, stream);
    }

    /// Logs a worker's end, now or when what it had written is logged.
    pub(super) fn close_stream(&mut self, id: ChildId, end: String) {
        match self.children.outputs.streams.get_mut(&id) {
            None => info!(self.logger, "{end}"),
            Some(stream) => {
                stream.pipe.mark_death();
                stream.end = Some(end);
                self.children.outputs.dead.insert(id);
                self.on_output(id);
                self.limit_pipes_of_the_dead();
            }
        }
    }

    /// Reads the pipes that have something, beginning after the one that found room last: each may
    /// fill the log's queue.
    pub(super) fn take_up_outputs(&mut self) {
        let mut ids = Vec::new();
        for source in self.take(|source| matches!(source, Source::Output(_))) {
            if let Source::Output(id) = source {
                ids.push(id);
            }
        }
        let last = self.children.outputs.last_read;
        let before = ids.partition_point(|id| Some(*id) <= last);
        ids.rotate_left(before);
        for id in ids {
            if self.log.room() == Room::Free {
                self.children.outputs.last_read = Some(id);
            }
            self.on_output(id);
        }
    }

    /// Moves what a worker has written into the log, within a turn's budget.
    pub(super) fn on_output(&mut self, id: ChildId) {
        let outputs = &mut self.children.outputs;
        let Some(stream) = outputs.streams.get_mut(&id) else {
            return;
        };
        let state = stream.pipe.drain(&mut self.log, clock::now(), TURN);
        if stream.pipe.is_complete() || state == Drained::Eof {
            if let Some(end) = stream.end.take() {
                info!(self.logger, "{end}");
                stream.reported = true;
            }
        }
        match state {
            Drained::Eof => self.drop_stream(id),
            Drained::More => drop(self.watch.inbox.insert(Source::Output(id))),
            Drained::Held => drop(outputs.parked.insert(id, None)),
            Drained::Wait(until) => drop(outputs.parked.insert(id, Some(until))),
            Drained::Empty => {}
        }
    }

    /// Goes on reading what could not be read before; after each flush, whose success nothing else
    /// announces.
    pub(super) fn unpark(&mut self) {
        let (now, room) = (clock::now(), self.log.room());
        let stays = |until: &Option<Instant>| match (room, *until) {
            (Room::Held, None) => true,
            (Room::Held | Room::Gone, Some(until)) => until > now,
            _ => false,
        };
        let parked = &mut self.children.outputs.parked;
        for id in parked.keys() {
            if parked.get(&id).is_some_and(|until| !stays(until)) {
                parked.remove(&id);
                self.watch.inbox.insert(Source::Output(id));
            }
        }
    }

    /// A worker that has been asked to stop must be able to say good-bye and leave.
    pub(super) fn let_go(&mut self, id: ChildId) {
        let outputs = &mut self.children.outputs;
        if let Some(stream) = outputs.streams.get_mut(&id) {
            stream.pipe.allow_drops();
            if outputs.parked.remove(&id).is_some() {
                self.watch.inbox.insert(Source::Output(id));
            }
        }
    }

    fn drop_stream(&mut self, id: ChildId) {
        let outputs = &mut self.children.outputs;
        outputs.parked.remove(&id);
        outputs.dead.remove(&id);
        if let Some(stream) = outputs.streams.remove(&id) {
            self.watch.remove(stream.pipe.fd(), stream.ticket);
            if let Some(child) = self.children.alive.get_mut(&id) {
                child.last_lines = stream.pipe.last_lines();
            }
        }
    }

    /// At each death, the oldest of too many goes. What a stuck log has kept of its lines from us
    /// is lost, and counted.
    fn limit_pipes_of_the_dead(&mut self) {
        let most = PIPES_OF_THE_DEAD + self.core.policy().workers as usize;
        let outputs = &mut self.children.outputs;
        if outputs.dead.len() <= most {
            return;
        }
        let Some(id) = outputs.dead.first() else {
            return;
        };
        let Some(stream) = outputs.streams.get_mut(&id) else {
            return;
        };
        match stream.end.take() {
            Some(end) => {
                self.log.count_lost(stream.pipe.abandon());
                info!(self.logger, "{end}");
            }
            None => warn!(
                self.logger,
                "closing the output of worker {}, which is gone: \
                too many descendants of dead workers still hold theirs",
                stream.pid
            ),
        }
        self.drop_stream(id);
    }
}
