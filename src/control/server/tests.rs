//! The control socket with clients in the same process.

use super::*;
use crate::config::Config;
use crate::control::protocol::MAX_REQUEST;
use crate::control::waiters::WaitFor;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const SECOND: u64 = 1_000_000_000;

/// A control socket in a directory of its own.
struct Place {
    server: Server,
    poller: Poller,
    folder: PathBuf,
    now: Instant,
    far_ends: Vec<UnixStream>,
}

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A timer may send them while a connection is read or closed.
        crate::sys::interrupt::handle_interrupts().unwrap();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketmaster-control-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Place {
            server: open(&folder.join("c")).unwrap(),
            poller: Poller::new().unwrap(),
            folder,
            now: Instant(SECOND),
            far_ends: Vec::new(),
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.join("c")).unwrap()
    }

    /// Lets the server do something with what it may look at: a supervisor that does nothing.
    fn with_view<T>(&mut self, act: impl FnOnce(&mut Server, &View, &mut Poller) -> T) -> T {
        let config = Config::default();
        let view = View {
            now: self.now,
            config: &config,
            core: &Supervisor::new(config.policy(100)),
            processes: &BTreeMap::new(),
            by_pid: &BTreeMap::new(),
            listeners: &[],
            level: slog::Level::Info,
        };
        act(&mut self.server, &view, &mut self.poller)
    }

    fn accept(&mut self) {
        self.with_view(|server, view, poller| server.accept(view, poller));
    }

    /// A client that is accepted, and its number.
    fn client(&mut self) -> (UnixStream, u64) {
        let stream = self.connect();
        self.accept();
        (stream, self.server.state.last_number)
    }

    /// Reads a client once; returns whether there may be more.
    fn read(&mut self, id: u64) -> bool {
        self.with_view(|server, view, poller| server.read(id, view, poller))
    }

    /// The commands that come, until nothing does.
    fn commands(&mut self, id: u64) -> Vec<String> {
        while self.read(id) {}
        let mut commands = Vec::new();
        while let Some((_, request)) = self.server.requests.pop_front() {
            self.connection(id).waiting -= 1;
            commands.push(request.command.unwrap_or_default());
        }
        commands
    }

    fn answer(&mut self, id: u64, message: &str) {
        self.server.answer(id, &Answer::new(message));
    }

    fn connection(&mut self, id: u64) -> &mut Connection {
        self.server.state.connections.get_mut(&id).unwrap()
    }

    fn is_open(&self, id: u64) -> bool {
        let connection = self.server.state.connections.get(&id);
        connection.is_some_and(|it| !it.is_over)
    }

    /// The numbers of the clients that are there at the end of a turn.
    fn open(&mut self) -> Vec<u64> {
        self.server.tidy(&mut self.poller);
        self.server.numbers()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn open(path: &Path) -> Result<Server, String> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    Server::open(Some((path, Access::of(None))), logger)
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
    assert!(place.read(id), "there may be more");
    assert_eq!(place.commands(id), ["a"]);
    assert_eq!(place.connection(id).rights, Rights::Everything);
    place.answer(id, "yes");
    assert_eq!(place.open(), [0; 0], "it is over");
    assert_eq!(read_line(&client), "{\"message\": \"yes\"}\n");
}

#[test]
fn a_client_is_kept_until_its_request_had_its_turn() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(&client, b"{\"command\":\"ping\"}\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    while place.read(id) {}
    assert_eq!(place.open(), [id]);
    let order = place.with_view(|server, view, _| server.next_order(view));
    assert_eq!(order, None);
    assert!(read_line(&client).contains("socketmaster"));
    assert_eq!(place.open(), [0; 0]);
}

#[test]
fn who_waits_is_kept_though_it_sends_no_more_until_it_leaves() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(place.commands(id), ["a"]);
    place.connection(id).waiting += 1;
    assert_eq!(place.commands(id), [] as [&str; 0]);
    assert_eq!(place.open(), [id], "it waits");
    drop(client);
    place.read(id);
    assert_eq!(place.open(), [0; 0], "nobody waits any more");
}

#[test]
fn an_answer_has_its_field_and_its_id() {
    let answer = Answer {
        id: Some(json!("x%y")),
        wait: true,
        verdict: Some(json!({"a": 1})),
        ..Answer::new("m")
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
    while place.is_open(id) {
        sent += client.write(&[b'x'; 4096]).unwrap_or(0);
        place.read(id);
        assert!(sent <= MAX_REQUEST + 400_000, "{sent} bytes");
    }
    assert_eq!(place.open(), [0; 0]);
}

#[test]
fn a_client_that_does_not_read_is_not_listened_to_and_closed_at_last() {
    let mut place = Place::new();
    let (client, id) = place.client();
    let text = "x".repeat(100_000);
    while !place.connection(id).is_congested() {
        place.answer(id, &text);
    }
    send(&client, b"{\"command\":\"a\"}\n");
    assert_eq!(place.commands(id), [] as [&str; 0]);
    for _ in 0..5 {
        place.answer(id, &text);
    }
    assert!(!place.is_open(id));
}

#[test]
fn a_client_that_reads_again_is_listened_to_again() {
    let mut place = Place::new();
    let (mut client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}\n");
    let text = "x".repeat(100_000);
    while !place.connection(id).is_congested() {
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
    place.connection(oldest).waiting += 1;
    clients.push(place.client());
    assert!(place.is_open(oldest), "the oldest waits and stays");
    assert!(!place.is_open(second));
    assert_eq!(place.open().len(), MAX_OF_ONE);
}

/// Clients as of other processes.
fn stranger(place: &mut Place, pid: i32) -> (UnixStream, u64) {
    let (client, id) = place.client();
    place.connection(id).peer.pid = pid;
    (client, id)
}

#[test]
fn when_it_is_full_who_has_been_silent_for_longest_goes_but_not_at_once() {
    let mut place = Place::new();
    let clients: Vec<_> = (0..MAX_CLIENTS as i32)
        .map(|n| stranger(&mut place, -1 - n))
        .collect();
    let all = place.open();
    let _newcomer = place.connect();
    place.accept();
    assert_eq!(place.open(), all, "all have only just come");
    let retry = place.server.deadline().unwrap();
    assert_eq!(retry, place.now + GRACE);
    place.now = retry;
    send(&clients[0].0, b"{\"command\":\"a\"}\n");
    assert_eq!(place.commands(clients[0].1), ["a"]);
    place.accept();
    assert_eq!(place.server.deadline(), None);
    assert!(!place.is_open(clients[1].1));
    assert_eq!(place.open().len(), MAX_CLIENTS);
    assert_eq!(place.open().last(), Some(&place.server.state.last_number));
}

/// A client of another user that asks for a place: its number, or None if there was none.
fn ask(place: &mut Place, uid: u32, origin: Origin) -> Option<u64> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    place.far_ends.push(theirs);
    let mut peer = Peer::of(ours.as_fd()).unwrap();
    (peer.uid, peer.pid) = (uid, -1000);
    let (now, poller) = (place.now, &mut place.poller);
    let client = Connection::new(peer, Rights::Reports, origin, now);
    if !place.server.make_room(&client, poller, now) {
        return None;
    }
    Some(place.server.keep(ours, client, poller).unwrap())
}

#[test]
fn no_user_holds_more_than_a_quarter_of_the_others_places_and_none_those_of_root() {
    let mut place = Place::new();
    for uid in 1000..1010 {
        for _ in 0..2 * MAX_OF_A_USER {
            ask(&mut place, uid, Origin::Stranger);
            let all = place.server.state.connections.values();
            assert!(all.filter(|it| it.peer.uid == uid).count() <= MAX_OF_A_USER);
        }
    }
    assert_eq!(place.open().len(), MAX_OTHERS);
    // Root finds its places, and the last one of them costs another's.
    for n in MAX_OTHERS..=MAX_CLIENTS {
        let (client, _) = stranger(&mut place, -(n as i32));
        place.far_ends.push(client);
    }
    assert_eq!(place.open().len(), MAX_CLIENTS);
    let all = place.server.state.connections.values();
    let others = all.filter(|it| it.origin != Origin::Trusted);
    assert_eq!(others.count(), MAX_OTHERS - 1);
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
    assert_eq!(place.open().len(), MAX_OF_A_USER);
    assert_eq!(ask(&mut place, 1000, Origin::Stranger), None);
    for n in 100..120 {
        for _ in 0..5 {
            ask(&mut place, 1000, Origin::StartingWorker(ChildId(n)));
            assert!(place.open().len() <= MAX_OTHERS);
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
    assert!(place.is_open(honest));
    assert_eq!(place.open().len(), 1 + MAX_OF_A_WORKER);
}

/// Two times so many connections that workers were started with.
fn start_workers(place: &mut Place, half: usize) {
    for n in 0..2 * half as u64 {
        let opened = place.server.open_for_worker(ChildId(n), &mut place.poller);
        place.far_ends.extend(opened.unwrap());
    }
}

#[test]
fn what_workers_were_started_with_leaves_the_others_places_alone() {
    let mut place = Place::new();
    start_workers(&mut place, MAX_OTHERS);
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
    assert!(place.is_open(root), "though it holds most");
}

#[test]
fn what_all_clients_together_make_us_hold_is_bounded() {
    let mut place = Place::new();
    let text = "x".repeat(250_000);
    let clients: Vec<_> = (0..60).map(|n| stranger(&mut place, -1 - n)).collect();
    for (_, id) in &clients {
        place.answer(*id, &text);
    }
    let held: usize = (place.server.state.connections.values())
        .map(Connection::held)
        .sum();
    assert!(held <= MAX_HELD, "{held}");
    assert!(clients.iter().any(|(_, id)| place.is_open(*id)));
}

#[test]
fn a_workers_own_connection_takes_nobodys_room_and_ends_with_it() {
    let mut place = Place::new();
    start_workers(&mut place, MAX_CLIENTS);
    let (_client, id) = place.client();
    assert!(place.is_open(id));
    place.server.forget_worker(ChildId(7));
    assert_eq!(place.open().len(), 2 * MAX_CLIENTS);
}

#[test]
fn the_file_is_private_and_goes_and_a_second_one_fails() {
    let place = Place::new();
    let path = place.folder.join("c");
    let error = open(&path).err().unwrap().to_string();
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
fn what_a_later_image_carries_on_with_is_plain_data() {
    let mut place = Place::new();
    let (client, id) = place.client();
    send(&client, b"{\"command\":\"a\"}\n{\"comm");
    assert_eq!(place.commands(id), ["a"]);
    place.connection(id).waiting += 1;
    (place.server.state.waiters).add(id, Some(json!(3)), WaitFor::Exit);
    let carried = serde_json::to_string(&place.server.state).unwrap();
    place.server.state = serde_json::from_str(&carried).unwrap();
    send(&client, b"and\":\"b\"}\n");
    assert_eq!(place.commands(id), ["b"]);
    place.server.end(0);
    let answer = read_line(&client);
    assert!(answer.contains("stopped, exit status 0"), "{answer}");
    assert!(answer.contains("\"request_id\": 3"), "{answer}");
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
