//! Clients that keep coming: one new connection every few milliseconds, each with a request, and
//! what became of them. They must never wait for each other.

use super::net::Address;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What became of the clients.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// They had a whole answer.
    pub answered: usize,
    /// Nobody listened: ECONNREFUSED, or ENOENT for a path.
    pub refused: usize,
    /// They were connected, and reset, or had no whole answer.
    pub cut: usize,
    /// Anything else, in the system's words.
    pub others: Vec<String>,
    /// The longest that one waited for its answer.
    pub longest: Duration,
}

impl Tally {
    pub fn all(&self) -> usize {
        self.answered + self.refused + self.cut + self.others.len()
    }

    fn add(&mut self, took: Duration, outcome: io::Result<String>) {
        let Err(error) = outcome else {
            self.answered += 1;
            self.longest = self.longest.max(took);
            return;
        };
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => self.refused += 1,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::Other => self.cut += 1,
            _ => self.others.push(error.to_string()),
        }
    }
}

/// Clients that come until they are told to end.
pub struct Clients {
    end: Sender<()>,
    thread: JoinHandle<Tally>,
}

impl Clients {
    /// One `GET path` every `every`; `prepare` runs first, in the thread that all of them start from.
    pub fn start(
        address: Address,
        path: &'static str,
        every: Duration,
        prepare: impl FnOnce() + Send + 'static,
    ) -> Clients {
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            prepare();
            let mut clients = Vec::new();
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
                let address = address.clone();
                clients.push(thread::spawn(move || {
                    let start = Instant::now();
                    let outcome = address.request(path);
                    (start.elapsed(), outcome)
                }));
            }
            let mut tally = Tally::default();
            for client in clients {
                let (took, outcome) = client.join().expect("a client does not panic");
                tally.add(took, outcome);
            }
            tally
        });
        Clients { end, thread }
    }

    /// Lets no more come, waits for those that are there, and counts.
    pub fn finish(self) -> Tally {
        let _ = self.end.send(());
        self.thread.join().expect("the clients do not panic")
    }
}
