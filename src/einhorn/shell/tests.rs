use super::*;
use std::io::BufReader;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A master that answers as it was told and keeps what it was asked.
struct Master {
    directory: PathBuf,
    thread: JoinHandle<Vec<String>>,
}

impl Master {
    /// For each request, the lines to answer it with; one more request closes the connection.
    fn saying(answers: &'static [&'static str]) -> Master {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("einhornsh-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the test");
        let listener = UnixListener::bind(directory.join("einhorn.sock")).expect("a socket");
        let thread = thread::spawn(move || serve(&listener, answers));
        Master { directory, thread }
    }

    fn session(&self, commands: &str) -> Session {
        let socket = self.directory.join("einhorn.sock");
        Session {
            socket,
            commands: Some(commands.into()),
        }
    }

    /// The requests that came.
    fn requests(self) -> Vec<String> {
        let requests = self.thread.join().expect("the master did not panic");
        std::fs::remove_dir_all(&self.directory).expect("the test's own directory");
        requests
    }
}

fn serve(listener: &UnixListener, answers: &[&str]) -> Vec<String> {
    let (stream, _) = listener.accept().expect("a client");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit");
    let mut requests = Vec::new();
    let mut answers = answers.iter();
    for line in BufReader::new(&stream).lines() {
        requests.push(line.expect("a request within 10 s"));
        match answers.next() {
            Some(text) => (&stream)
                .write_all(text.as_bytes())
                .expect("the client listens"),
            None => break,
        }
    }
    requests
}

fn say(session: &Session, input: &str) -> (io::Result<()>, String) {
    let mut out = Vec::new();
    let result = converse(session, false, &mut input.as_bytes(), &mut out);
    (result, String::from_utf8(out).expect("messages are text"))
}

#[test]
fn the_command_line_says_which_socket_and_what_to_run() {
    let session = |line: &str| {
        let words = split(line).expect("a test's own line");
        session(
            words.into_iter().map(OsString::from).collect(),
            Path::new("/tmp"),
        )
    };
    for (line, socket, commands) in [
        ("", "/tmp/einhorn.sock", None),
        ("web", "/tmp/einhorn-web.sock", None),
        ("-c web", "/tmp/einhorn-web.sock", None),
        ("-e 'a; b' --socket /x/y web", "/x/y", Some("a; b")),
        ("web -ehelp", "/tmp/einhorn-web.sock", Some("help")),
        ("-c a b", "/tmp/einhorn-a.sock", None),
    ] {
        let expected = Session {
            socket: socket.into(),
            commands: commands.map(String::from),
        };
        assert_eq!(session(line), Ok(expected), "{line}");
    }
    for line in ["a b", "-h", "--help -x"] {
        assert_eq!(session(line), Err(HELP.to_owned()), "{line}");
    }
    assert_eq!(session("-x"), Err("einhornsh: invalid option: -x".into()));
    assert_eq!(session("-e"), Err("einhornsh: missing argument: -e".into()));
}

#[test]
fn each_command_is_a_request_and_each_message_a_line() {
    let master = Master::saying(&[
        "---%0Amessage: Incrementing number of workers from 2 -> 3%0Arequest_id: 1%0A\n",
        "{\"message\": \"\", \"request_id\": 2}\n",
    ]);
    let (result, out) = say(&master.session("inc ; ;set_workers 'a b' \"c\""), "");
    result.expect("both were answered");
    assert_eq!(out, "Incrementing number of workers from 2 -> 3\n\n");
    assert_eq!(
        master.requests(),
        [
            r#"{"id": 1, "command": "inc", "args": []}"#,
            r#"{"id": 2, "command": "set_workers", "args": ["a b", "c"]}"#
        ]
    );
}

#[test]
fn an_upgrade_is_printed_until_the_answer_without_wait() {
    let master = Master::saying(&[
        "---%0Amessage: |%0A  one%0A  two%0Await: true%0A\n- no%0A\n---%0Amessage: ''%0Await: true%0A\n---%0Amessage: Upgrade done%0A\n",
    ]);
    let (result, out) = say(&master.session("upgrade"), "");
    result.expect("it was answered");
    assert_eq!(
        out,
        "one\ntwo\nInvalid response type: - no%0A\n\nUpgrade done\n"
    );
    master.requests();
}

#[test]
fn commands_are_read_from_a_pipe_until_it_ends_or_quits() {
    for input in ["help\n\nhelp", "help\nhelp\nexit now\nhelp\n"] {
        let master = Master::saying(&["{\"message\": \"x\\n\"}\n", "{\"message\": \"y\"}\n"]);
        let session = Session {
            commands: None,
            ..master.session("")
        };
        let (result, out) = say(&session, input);
        result.expect("both were answered");
        assert_eq!(out, "x\ny\n", "there is no prompt without a terminal");
        assert_eq!(master.requests().len(), 2);
    }
}

#[test]
fn quit_is_said_to_nobody() {
    let master = Master::saying(&[]);
    let (result, out) = say(&master.session("quit; help"), "");
    result.expect("nothing was asked");
    assert_eq!((out.as_str(), master.requests().len()), ("", 0));
}

#[test]
fn a_master_that_goes_away_is_a_failure() {
    let master = Master::saying(&[]);
    match say(&master.session("die"), "") {
        (Err(error), _) => assert_eq!(error_text(&error), "the master closed the connection"),
        other => panic!("{other:?}"),
    }
    master.requests();
}

#[test]
fn an_open_quote_is_a_failure() {
    let master = Master::saying(&[]);
    match say(&master.session("help it's"), "") {
        (Err(error), _) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error_text(&error), "Unmatched quote: help it's");
        }
        other => panic!("{other:?}"),
    }
    master.requests();
}

#[test]
fn no_socket_is_told_from_a_refusing_one() {
    let master = Master::saying(&[]);
    let missing = Session {
        socket: master.directory.join("none"),
        commands: None,
    };
    match say(&missing, "") {
        (Err(error), _) => {
            let message = error_text(&error);
            assert!(
                message.starts_with("Could not connect to Einhorn"),
                "{message}"
            );
            assert!(!message.contains('\n'));
        }
        other => panic!("{other:?}"),
    }
    let stale = master.directory.join("stale");
    drop(UnixListener::bind(&stale).expect("a socket"));
    match say(
        &Session {
            socket: stale,
            commands: None,
        },
        "",
    ) {
        (Err(error), _) => assert!(error_text(&error).contains("refused"), "{error}"),
        other => panic!("{other:?}"),
    }
    say(&master.session("quit"), "").0.expect("it listens");
    master.requests();
}
