//! What is said on the control socket: who waits for what, and the answers. It never decides what
//! becomes true, only whom it is told.

use crate::control::{Answer, Control, Incoming};
use crate::daemon::watch::{Source, Ticket, Watch};
use crate::log::RateLimit;
use crate::protocol::Id;
use crate::status::Told;
use crate::supervisor::Instant;
use crate::sys::clock;
use mio::Interest;
use std::collections::VecDeque;
use std::io;

/// At most so many clients may wait for something; the others have room beside them.
const MAX_WAITING: usize = 24;
const FAILED: Option<(&str, &str)> = Some(("failed", "true"));

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The verdict on its reload: the one with this number, or the one that is remembered.
    Reload(Option<u64>),
    /// The same in einhorn's words.
    #[cfg(feature = "einhorn")]
    Upgrade {
        generation: Option<u64>,
        smooth: bool,
    },
    /// Our end.
    End,
}

impl Wish {
    pub(super) fn generation(&mut self) -> Option<&mut Option<u64>> {
        match self {
            Wish::Reload(generation) => Some(generation),
            #[cfg(feature = "einhorn")]
            Wish::Upgrade { generation, .. } => Some(generation),
            Wish::End => None,
        }
    }

    pub(super) fn is_for(mut self, reload: Option<u64>) -> bool {
        self.generation().is_some_and(|bound| *bound == reload)
    }
}

/// Somebody who waits.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    connection: u64,
    id: Option<Id>,
    pub(super) wish: Wish,
}

/// The control socket, if there is one, and what is said on it.
pub(in crate::daemon) struct State {
    pub(super) socket: Option<Control>,
    /// Of the connections, and under 0 of the socket itself.
    pub(super) tickets: Vec<(u64, Ticket)>,
    /// Requests that wait for their place in the turn.
    pub(super) heard: VecDeque<Box<Incoming>>,
    pub(super) waiters: Vec<Waiter>,
    /// The last generation that began to come up.
    pub(super) begun: u64,
    /// How many of its workers were said to be ready.
    pub(super) ready: u32,
    pub(super) began: Instant,
    pub(super) last: Option<Told>,
    /// What clients do wrong.
    pub(super) complaints: RateLimit,
    /// Clients that were turned away.
    pub(super) refusals: RateLimit,
}

impl State {
    pub(in crate::daemon) fn new(watch: &mut Watch, socket: Option<Control>) -> io::Result<State> {
        let mut tickets = Vec::new();
        if let Some(socket) = &socket {
            let ticket = watch.add(socket.listener(), Source::Control(0), Interest::READABLE)?;
            tickets.push((0, ticket));
        }
        Ok(State {
            socket,
            tickets,
            heard: VecDeque::new(),
            waiters: Vec::new(),
            begun: 0,
            ready: 0,
            began: clock::now(),
            last: None,
            complaints: RateLimit::default(),
            refusals: RateLimit::default(),
        })
    }

    pub(in crate::daemon) fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref().and_then(Control::deadline)
    }

    pub(super) fn answer(&mut self, connection: u64, answer: &Answer) {
        if let Some(socket) = &mut self.socket {
            socket.answer(connection, answer);
        }
    }

    pub(super) fn say(&mut self, to: &Incoming, message: &str) {
        self.say_and_wait(to, message, false);
    }

    pub(super) fn say_and_wait(&mut self, to: &Incoming, message: &str, wait: bool) {
        let answer = Answer {
            message,
            id: to.request.id.as_ref(),
            wait,
            field: None,
        };
        self.answer(to.connection, &answer);
    }

    pub(super) fn refuse(&mut self, to: &Incoming, reason: &str) {
        let answer = Answer {
            message: reason,
            id: to.request.id.as_ref(),
            field: FAILED,
            ..Answer::default()
        };
        self.answer(to.connection, &answer);
    }

    /// Somebody waits from now on; the caller has seen that there is room.
    pub(super) fn wait(&mut self, who: &Incoming, wish: Wish) {
        if let Some(socket) = &mut self.socket {
            socket.hold(who.connection);
        }
        self.waiters.push(Waiter {
            connection: who.connection,
            id: who.request.id.clone(),
            wish,
        });
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.waiters.len() >= MAX_WAITING
    }

    /// One more answer, not the last, to all whose wish is meant.
    pub(super) fn progress(&mut self, message: &str, is_meant: &dyn Fn(Wish) -> bool) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        for waiter in self.waiters.iter().filter(|waiter| is_meant(waiter.wish)) {
            let answer = Answer {
                message,
                id: waiter.id.as_ref(),
                wait: true,
                field: None,
            };
            socket.answer(waiter.connection, &answer);
        }
    }

    /// The last answer to all whose wish is meant.
    pub(super) fn conclude(
        &mut self,
        message: &str,
        field: Option<(&str, &str)>,
        is_meant: &dyn Fn(Wish) -> bool,
    ) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        keep(&mut self.waiters, &mut |waiter| {
            let meant = is_meant(waiter.wish);
            if meant {
                let answer = Answer {
                    message,
                    id: waiter.id.as_ref(),
                    wait: false,
                    field,
                };
                socket.answer(waiter.connection, &answer);
                socket.release(waiter.connection);
            }
            !meant
        });
    }

    /// Lets go of connections that were closed.
    pub(super) fn tidy(&mut self, watch: &mut Watch) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        for (id, stream) in socket.take_closed() {
            let place = self.tickets.iter().position(|(of, _)| *of == id);
            if let Some((_, ticket)) = place.map(|place| self.tickets.swap_remove(place)) {
                watch.remove(&stream, ticket);
            }
            keep(&mut self.waiters, &mut |waiter| waiter.connection != id);
            self.heard.retain(|incoming| incoming.connection != id);
        }
    }
}

#[inline(never)]
fn keep(waiters: &mut Vec<Waiter>, is_kept: &mut dyn FnMut(&Waiter) -> bool) {
    waiters.retain(is_kept);
}
