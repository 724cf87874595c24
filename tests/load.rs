//! Under load: fresh connections from several clients, and not one of them fails in 50 reloads.

mod common;

use common::{Address, Daemon, Run, TempDir, net, worker};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const CLIENTS: usize = 4;
const RELOADS: usize = 50;

/// What one client saw.
#[derive(Default)]
struct Seen {
    requests: usize,
    pids: BTreeSet<i32>,
    failures: Vec<String>,
}

/// Asks over a new connection each time, until told to end.
fn client(address: &Address, end: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !end.load(Ordering::Relaxed) {
        seen.requests += 1;
        match address.get() {
            Ok(body) => {
                seen.pids.insert(net::pid_in(&body));
            }
            Err(error) => seen.failures.push(error.to_string()),
        }
    }
    seen
}

/// The nth reload: its verdict, when the new worker serves. Without a -start to wait for, an old
/// one is asked to stop while the new one boots and the clients queue.
fn reload_and_serve(daemon: &Daemon, n: usize) -> String {
    let verdict = daemon.reload();
    daemon.wait_for_count("] up, version", n + 1);
    verdict
}

#[test]
fn no_request_fails_in_50_reloads_over_tcp_and_unix() {
    let dir = TempDir::new();
    let daemon = Run::bare()
        .args(&[
            "-listen=tcp://127.0.0.1:0",
            &format!("-listen=unix://{}", dir.word("s")),
        ])
        .args(&["-start=0", &format!("-command={}", worker()), "http"])
        .start();
    daemon.worker_that_said("up");
    let addresses = [daemon.address_number(0), daemon.address_number(1)];
    let end = AtomicBool::new(false);
    let seen: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (address, end) = (&addresses[n % 2], &end);
                scope.spawn(move || client(address, end))
            })
            .collect();
        // However this ends, the clients must: the scope waits for them.
        let verdicts: Result<Vec<String>, _> =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (1..=RELOADS)
                    .map(|n| reload_and_serve(&daemon, n))
                    .collect()
            }));
        end.store(true, Ordering::Relaxed);
        let seen = clients
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .collect();
        for verdict in verdicts.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            assert!(verdict.contains("is live"), "{verdict}");
        }
        seen
    });
    for (n, seen) in seen.iter().enumerate() {
        let address = &addresses[n % 2];
        assert_eq!(
            seen.failures,
            [] as [&str; 0],
            "{address:?}, of {} requests",
            seen.requests
        );
        assert!(
            seen.pids.len() > RELOADS / 4,
            "{address:?} saw {} workers",
            seen.pids.len()
        );
    }
    assert_eq!(daemon.stop(), 0);
}
