//! The workers' output in the loop: its pipes are watched, and what comes of them is said.

use super::Daemon;
use crate::clock;
use crate::config::Output;
use crate::poller::Source;
use crate::supervisor::ChildId;
use crate::worker::output::OutputEvent;
use slog::{info, warn};
use std::os::fd::OwnedFd;

/// How many pipes of dead workers are kept beside one of each worker of a generation, for their
/// grandchildren or for a stuck log.
const PIPES_OF_THE_DEAD: usize = 64;

impl Daemon {
    /// From now on what this worker writes goes into the log.
    pub(super) fn adopt_output(&mut self, id: ChildId, pid: i32, pipe: OwnedFd) {
        self.children.outputs.adopt(id, pid as u32, pipe);
        if self.config.output == Output::Lossy {
            self.children.outputs.allow_drops(id);
        }
    }

    /// Reads the pipes that have something.
    pub(super) fn read_outputs(&mut self) {
        for source in self.take(|source| matches!(source, Source::Output(_))) {
            if let Source::Output(id) = source {
                self.children.outputs.mark_readable(id);
            }
        }
        let events = self.children.outputs.read(&mut self.log, clock::now());
        self.on_output_events(events);
    }

    /// Logs a worker's end, now or when what it had written is logged.
    pub(super) fn end_output(&mut self, id: ChildId, end: String) {
        let most = PIPES_OF_THE_DEAD + self.core.policy().workers as usize;
        let outputs = &mut self.children.outputs;
        let events = outputs.end(id, end, most, &mut self.log, clock::now());
        self.on_output_events(events);
    }

    pub(super) fn on_output_events(&mut self, events: Vec<OutputEvent>) {
        for event in events {
            match event {
                OutputEvent::Ended(text) => info!(self.logger, "{text}"),
                OutputEvent::CutOff(pid) => warn!(
                    self.logger,
                    "closing the output of worker {pid}, which is gone: \
                    too many descendants of dead workers still hold theirs"
                ),
                OutputEvent::Closed(id, pipe) => {
                    self.poller.remove(&pipe, Source::Output(id));
                }
            }
        }
    }
}
