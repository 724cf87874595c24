//! The control socket with clients in the same process.

use super::*;
use crate::control::protocol::MAX_REQUEST;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const SECOND: u64 = 1_000_000_000;

/// A control socket in a directory of its own.
struct Place {
    control: Connections,
    folder: PathBuf,
    now: Instant,
    far_ends: Vec<UnixStream>,
}

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketmaster-control-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let control = open(&folder.join("c")).unwrap();
        Place {
            control,
            folder,
            now: Instant(SECOND),
            far_ends: Vec::new(),
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.join("c")).unwrap()
    }

    /// A client that is accepted, and its number.
    fn client(&mut self) -> (UnixStream, u64) {
        let stream = self.connect();
        let accepted = self.control.accept(self.now, |_| Origin::Stranger);
        (stream, *accepted.fresh.last().unwrap())
    }

    fn next(&mut self, id: u64) -> Next {
        self.control.next_request(id, self.now)
    }

    /// The commands that come, until nothing does.
    fn commands(&mut self, id: u64) -> Vec<String> {
        let mut commands = Vec::new();
        loop {
            match self.next(id) {
                Next::Request(incoming) => {
                    commands.push(incoming.request.command.unwrap_or_default());
                }
                Next::More => {}
                Next::Nothing => return commands,
            }
        }
    }

    fn answer(&mut self, id: u64, message: &str) {
        let answer = Answer {
            message,
            ..Answer::default()
        };
        self.control.answer(id, &answer);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn open(path: &Path) -> Result<Connections, listen::Error> {
    Connections::open(path, Access::of(None))
}

fn send(mut stream: &UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn requests_come_one_at_a_time_and_in_order() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(
        &client,
        b"{\"command\":\"a\"}\n{\"command\":\"b\"}\n{\"comm",
    );
    assert_eq!(place.commands(id), ["a", "b"]);
    send(&client, b"and\":\"c\"}\n");
    assert_eq!(place.commands(id), ["c"]);
}

#[test]
fn a_last_line_may_lack_its_end_and_the_client_is_still_answered() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(place.next(id), Next::More);
    let Next::Request(incoming) = place.next(id) else {
        panic!("no request")
    };
    assert_eq!(incoming.request.command.as_deref(), Some("a"));
    assert_eq!(incoming.rights, Rights::Everything);
    place.answer(id, "yes");
    assert_eq!(place.next(id), Next::Nothing);
    assert_eq!(place.control.take_closed().len(), 1, "it is over");
    assert_eq!(read_line(&client), "{\"message\": \"yes\"}\n");
}

#[test]
fn who_waits_is_kept_though_it_sends_no_more_until_it_leaves() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(place.next(id), Next::Request(_)));
    place.control.hold(id);
    assert_eq!(place.commands(id), [] as [&str; 0]);
    assert!(place.control.fd(id).is_some(), "it waits");
    drop(client);
    place.next(id);
    assert!(place.control.fd(id).is_none(), "nobody waits any more");
}

#[test]
fn an_answer_has_its_field_and_its_id() {
    let id = json!("x%y");
    let answer = Answer {
        message: "m",
        id: Some(&id),
        wait: true,
        verdict: Some(&json!({"a": 1})),
        ..Answer::default()
    };
    let line: serde_json::Value = serde_json::from_slice(&answer.encode()).unwrap();
    assert_eq!(line["message"], "m");
    assert_eq!(line["request_id"], "x%y");
    assert_eq!(line["wait"], true);
    assert_eq!(line["verdict"]["a"], 1);
}

#[test]
fn an_endless_line_closes_the_connection() {
    let mut place = Place::new();
    let (mut client, id) = place.client();
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while place.control.fd(id).is_some() {
        sent += client.write(&[b'x'; 4096]).unwrap_or(0);
        place.next(id);
        assert!(sent <= MAX_REQUEST + 400_000, "{sent} bytes");
    }
    assert_eq!(place.control.take_closed()[0].0, id);
}

#[test]
fn a_client_that_does_not_read_is_not_listened_to_and_closed_at_last() {
    let mut place = Place::new();
    let (client, id) = place.client();
    let text = "x".repeat(100_000);
    while !place.control.client(id).unwrap().is_congested() {
        place.answer(id, &text);
    }
    send(&client, b"{\"command\":\"a\"}\n");
    assert_eq!(place.commands(id), [] as [&str; 0]);
    for _ in 0..5 {
        place.answer(id, &text);
    }
    assert!(place.control.fd(id).is_none());
}

#[test]
fn a_client_that_reads_again_is_listened_to_again() {
    let mut place = Place::new();
    let (mut client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}\n");
    let text = "x".repeat(100_000);
    while !place.control.client(id).unwrap().is_congested() {
        place.answer(id, &text);
    }
    assert_eq!(place.commands(id), [] as [&str; 0]);
    client.set_nonblocking(true).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..100 {
        while client.read(&mut chunk).is_ok() {}
        if place.commands(id) == ["a"] {
            return;
        }
    }
    panic!("its request was never read");
}

#[test]
fn of_one_process_only_so_many_connections_stay_and_the_newest_do() {
    let mut place = Place::new();
    let mut clients: Vec<_> = (0..MAX_OF_ONE).map(|_| place.client()).collect();
    let (_, oldest) = clients[0];
    let (_, second) = clients[1];
    place.control.hold(oldest);
    clients.push(place.client());
    let closed: Vec<u64> = (place.control.take_closed().into_iter())
        .map(|(id, _)| id)
        .collect();
    assert_eq!(closed, [second], "the oldest waits and stays");
    assert_eq!(place.control.ids().len(), MAX_OF_ONE);
}

/// Clients as of other processes.
fn stranger(place: &mut Place, pid: i32) -> (UnixStream, u64) {
    let (client, id) = place.client();
    place.control.client_mut(id).unwrap().peer.pid = pid;
    (client, id)
}

#[test]
fn when_it_is_full_who_has_been_silent_for_longest_goes_but_not_at_once() {
    let mut place = Place::new();
    let clients: Vec<_> = (0..MAX_CLIENTS as i32)
        .map(|n| stranger(&mut place, -1 - n))
        .collect();
    let _newcomer = place.connect();
    let accepted = place.control.accept(place.now, |_| Origin::Stranger);
    assert_eq!(accepted, Accepted::default(), "all have only just come");
    let retry = place.control.deadline().unwrap();
    assert_eq!(retry, place.now + GRACE);
    place.now = retry;
    send(&clients[0].0, b"{\"command\":\"a\"}\n");
    assert_eq!(place.commands(clients[0].1), ["a"]);
    let accepted = place.control.accept(place.now, |_| Origin::Stranger);
    assert_eq!(accepted.fresh.len(), 1);
    assert_eq!(place.control.deadline(), None);
    let closed = place.control.take_closed();
    assert_eq!(closed[0].0, clients[1].1);
}

/// A client of another user that asks for a place: its number, or None if there was none.
fn ask(place: &mut Place, uid: u32, origin: Origin) -> Option<u64> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    place.far_ends.push(theirs);
    let mut peer = Peer::of(ours.as_fd()).unwrap();
    (peer.uid, peer.pid) = (uid, -1000);
    let now = place.now;
    if !place.control.make_room_for_another(uid, origin, now) {
        return None;
    }
    let id = place.control.keep(ours, peer, Rights::Reports, now);
    place.control.client_mut(id).unwrap().origin = origin;
    Some(id)
}

#[test]
fn no_user_holds_more_than_a_quarter_of_the_others_places_and_none_those_of_root() {
    let mut place = Place::new();
    for uid in 1000..1010 {
        for _ in 0..2 * MAX_OF_A_USER {
            ask(&mut place, uid, Origin::Stranger);
            let all = place.control.clients.iter();
            assert!(all.filter(|it| it.peer.uid == uid).count() <= MAX_OF_A_USER);
        }
    }
    assert_eq!(place.control.ids().len(), MAX_OTHERS);
    // Root finds its places, and the last one of them costs another's.
    for n in MAX_OTHERS..=MAX_CLIENTS {
        let (client, _) = stranger(&mut place, -(n as i32));
        place.far_ends.push(client);
    }
    assert_eq!(place.control.ids().len(), MAX_CLIENTS);
    assert_eq!(place.control.others().count(), MAX_OTHERS - 1);
}

#[test]
fn a_worker_that_is_coming_up_finds_a_place_among_strangers_and_other_workers() {
    let mut place = Place::new();
    let worker = |n| Origin::Worker(ChildId(n));
    for _ in 0..MAX_OF_A_USER {
        ask(&mut place, 1000, Origin::Stranger);
    }
    for n in 0..5 {
        for _ in 0..5 {
            assert!(ask(&mut place, 1000, worker(n)).is_some(), "strangers go");
        }
    }
    assert_eq!(place.control.ids().len(), MAX_OF_A_USER);
    assert_eq!(ask(&mut place, 1000, Origin::Stranger), None);
    for n in 100..120 {
        for _ in 0..5 {
            ask(&mut place, 1000, Origin::StartingWorker(ChildId(n)));
            assert!(place.control.ids().len() <= MAX_OTHERS);
        }
    }
    // Those that are silent give way to one that has something to say, but not at once.
    let last = Origin::StartingWorker(ChildId(200));
    assert_eq!(ask(&mut place, 1000, last), None);
    place.now = place.now + GRACE;
    assert!(ask(&mut place, 1000, last).is_some());
}

#[test]
fn one_workers_connections_do_not_take_another_ones_place() {
    let mut place = Place::new();
    let first = Origin::StartingWorker(ChildId(1));
    let honest = ask(&mut place, 1000, first).unwrap();
    for _ in 0..100 {
        ask(&mut place, 1000, Origin::StartingWorker(ChildId(2)));
    }
    assert!(place.control.fd(honest).is_some());
    assert_eq!(place.control.ids().len(), 1 + MAX_OF_A_WORKER);
}

#[test]
fn what_workers_were_started_with_leaves_the_others_places_alone() {
    let mut place = Place::new();
    for n in 0..2 * MAX_OTHERS as u64 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        place.far_ends.push(theirs);
        place.control.adopt(ours, ChildId(n), place.now);
    }
    assert!(ask(&mut place, 1000, Origin::Stranger).is_some());
}

#[test]
fn of_those_who_make_us_hold_much_root_is_closed_last() {
    let mut place = Place::new();
    let text = "x".repeat(250_000);
    let (_roots, root) = stranger(&mut place, -1);
    place.answer(root, &text);
    place.answer(root, &text);
    for n in 0..10 {
        let other = ask(&mut place, 1000 + n, Origin::Stranger).unwrap();
        place.answer(other, &text);
    }
    assert!(place.control.fd(root).is_some(), "though it holds most");
}

#[test]
fn what_all_clients_together_make_us_hold_is_bounded() {
    let mut place = Place::new();
    let text = "x".repeat(250_000);
    let clients: Vec<_> = (0..60).map(|n| stranger(&mut place, -1 - n)).collect();
    for (_, id) in &clients {
        place.answer(*id, &text);
    }
    let held: usize = place.control.clients.iter().map(Connection::held).sum();
    assert!(held <= MAX_HELD, "{held}");
    assert!(!place.control.clients.is_empty());
}

#[test]
fn a_workers_own_connection_takes_nobodys_room() {
    let mut place = Place::new();
    for n in 0..2 * MAX_CLIENTS as u64 {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        place.control.adopt(ours, ChildId(n), place.now);
    }
    let (_client, id) = place.client();
    assert!(place.control.fd(id).is_some());
}

#[test]
fn the_file_is_private_and_goes_and_a_second_one_fails() {
    let place = Place::new();
    let path = place.folder.join("c");
    let error = open(&path).unwrap_err().to_string();
    let expected = format!(
        "-control: cannot bind unix://{}: Address already in use",
        path.display()
    );
    assert_eq!(error, expected);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&place.folder).unwrap().count(), 1);
    let Place { folder, .. } = &place;
    let folder = folder.clone();
    drop(place);
    assert!(!folder.exists());
}

#[test]
fn rights_depend_on_the_user() {
    let own = nix::unistd::geteuid().as_raw();
    let access = Access {
        mode: None,
        group: None,
        worker: Some(40404),
        others: Rights::Nothing,
    };
    assert_eq!(access.rights(0), Rights::Everything);
    assert_eq!(access.rights(own), Rights::Everything);
    assert_eq!(access.rights(40404), Rights::Reports);
    assert_eq!(access.rights(40405), Rights::Nothing);
}
