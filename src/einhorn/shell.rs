//! `einhornsh`: a shell for the control socket of ours or of a real einhorn. It is a program of its
//! own and blocks as it likes; on stdout it prints the answers and nothing else.

use super::files;
use super::options::{Item, Words, split};
use crate::control::protocol::{LineReader, MAX_ANSWER, encode_ehlo, encode_request, parse_reply};
use crate::sys::io::{stderr, write_all};
use crate::sys::socket::connect;
use crate::text::{error_text, printable, printable_lines};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The help; the parser reads the options from it.
const HELP: &str = "\
Usage: einhornsh [options] [NAME]

Sends commands to a running einhorn and prints its answers; `help` lists them.
NAME is the -c of that einhorn; one started with -d needs the same -d here.

    -h, --help
            Print this text
    -c, --command-name NAME
            Talk to the einhorn that was started with this -c
    -d, --socket-path PATH
            Talk to the control socket at PATH
    -e, --execute COMMANDS
            Run these commands, separated by semicolons, and exit
";

/// What einhornsh was asked to do.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    socket: PathBuf,
    commands: Option<String>,
}

/// Runs with the words after the program's name. The exit status is 0, or 1 when the master could not
/// be reached or went away, and for usage errors and `-h`.
pub fn run(args: Vec<OsString>) -> i32 {
    let plan = match plan(args, &files::default_directory()) {
        Ok(plan) => plan,
        Err(text) => {
            complain(&text);
            return 1;
        }
    };
    leave_quietly_on_interrupt();
    let tty = io::stdin().is_terminal();
    match converse(&plan, tty, &mut io::stdin().lock(), &mut io::stdout()) {
        Ok(()) => 0,
        Err(Failure::Typing(message) | Failure::Wire(message)) => {
            complain(&format!("einhornsh: {message}"));
            1
        }
    }
}

/// Errors: the text for stderr.
fn plan(args: Vec<OsString>, directory: &Path) -> Result<Plan, String> {
    let (mut name, mut socket, mut commands, mut operand) = (None, None, None, None);
    let mut words = Words::new(HELP, args, true);
    let next = |words: &mut Words| words.next_item().map_err(|why| format!("einhornsh: {why}"));
    while let Some(item) = next(&mut words)? {
        let text = |value: OsString| Some(value.to_string_lossy().into_owned());
        match item {
            Item::Operand(word) if operand.is_none() => operand = text(word),
            Item::Option("command-name", value) => name = text(value),
            Item::Option("socket-path", value) => socket = Some(PathBuf::from(value)),
            Item::Option("execute", value) => commands = text(value),
            _ => return Err(HELP.to_owned()),
        }
    }
    let name = name.or(operand);
    let socket = socket.unwrap_or_else(|| files::default_path(directory, name.as_deref(), "sock"));
    Ok(Plan { socket, commands })
}

/// Nobody is left to tell when stderr is gone.
fn complain(text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write_all(stderr(), format!("{text}{end}").as_bytes());
}

/// ^C at the prompt is a way to leave, with status 0.
fn leave_quietly_on_interrupt() {
    let always = Arc::new(AtomicBool::new(true));
    // Without the handler ^C still ends us, with another status.
    let _ = signal_hook::flag::register_conditional_shutdown(libc::SIGINT, 0, always);
}

/// Why we end with status 1.
#[derive(Debug)]
enum Failure {
    /// What was typed makes no words.
    Typing(String),
    /// The master cannot be reached, or is gone.
    Wire(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Wire(error_text(&error))
    }
}

/// `tty`: a person sits there, to be greeted and prompted.
fn converse(
    plan: &Plan,
    tty: bool,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let wire = Wire::connect(&plan.socket)?;
    let mut shell = Shell {
        wire,
        path: &plan.socket,
        last_id: 0,
        tty,
        out,
    };
    if tty {
        shell.greet()?;
    }
    match &plan.commands {
        Some(commands) => shell.run_line(commands).map(drop),
        None => shell.prompt(input),
    }
}

/// Whether the next line shall be read.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

struct Shell<'a> {
    wire: Wire,
    path: &'a Path,
    last_id: u64,
    tty: bool,
    out: &'a mut dyn Write,
}

impl Shell<'_> {
    fn greet(&mut self) -> Result<(), Failure> {
        let user = std::env::var("USER").ok();
        self.wire.stream.write_all(&encode_ehlo(user.as_deref()))?;
        self.wire.print_answers(&mut io::stderr())
    }

    fn prompt(&mut self, input: &mut dyn BufRead) -> Result<(), Failure> {
        if self.tty {
            complain("Enter 'help' if you're not sure what to do.\n\n");
            complain("Type \"quit\" or \"exit\" to quit at any time");
        }
        while let Some(line) = self.read_line(input)? {
            match self.run_line(&line) {
                Ok(Next::GoOn) => {}
                Ok(Next::Leave) => return Ok(()),
                // A person types it again.
                Err(Failure::Typing(message)) if self.tty => complain(&message),
                Err(failure) => return Err(failure),
            }
        }
        if self.tty {
            complain("\n");
        }
        Ok(())
    }

    fn read_line(&mut self, input: &mut dyn BufRead) -> Result<Option<String>, Failure> {
        if self.tty {
            self.out.write_all(b"> ")?;
            self.out.flush()?;
        }
        let mut line = Vec::new();
        let count = input.read_until(b'\n', &mut line)?;
        Ok((count > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
    }

    /// Runs what is on the line; a semicolon separates also inside quotes, as einhornsh has it.
    fn run_line(&mut self, line: &str) -> Result<Next, Failure> {
        for command in line.split(';') {
            if self.run_command(command)? == Next::Leave {
                return Ok(Next::Leave);
            }
        }
        Ok(Next::GoOn)
    }

    fn run_command(&mut self, line: &str) -> Result<Next, Failure> {
        let words = split(line).map_err(Failure::Typing)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((command, args)) = words.split_first() else {
            return Ok(Next::GoOn);
        };
        if matches!(*command, "quit" | "exit") {
            complain("Goodbye!");
            return Ok(Next::Leave);
        }
        self.last_id += 1;
        self.send(&encode_request(self.last_id, command, args))?;
        self.wire.print_answers(self.out)?;
        Ok(Next::GoOn)
    }

    /// A master that was restarted since the last command is connected to anew, once.
    fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        match self.wire.stream.write_all(request) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                complain("einhornsh: the master closed the connection; reconnecting");
                self.wire = Wire::connect(self.path)?;
                if self.tty {
                    self.greet()?;
                }
                Ok(self.wire.stream.write_all(request)?)
            }
            other => Ok(other?),
        }
    }
}

/// A connection to the master.
struct Wire {
    stream: UnixStream,
    reader: LineReader,
}

impl Wire {
    fn connect(path: &Path) -> Result<Wire, Failure> {
        let shown = path.display();
        let error = match connect(path) {
            Ok(stream) => {
                let reader = LineReader::new(MAX_ANSWER);
                return Ok(Wire { stream, reader });
            }
            Err(error) => error,
        };
        let word = error_text(&error);
        Err(Failure::Wire(match error.kind() {
            ErrorKind::NotFound => format!(
                "Could not connect to Einhorn master process: {shown}: {word}. \
                 Is one running? It needs the same -c NAME or -d PATH here as there."
            ),
            _ => format!("cannot connect to {shown}: {word}"),
        }))
    }

    /// Prints each message up to and with the last one, the first without `wait`.
    fn print_answers(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        loop {
            let line = self.read_line()?;
            let Ok(answer) = parse_reply(&line) else {
                let line = printable(OsStr::from_bytes(&line));
                writeln!(out, "Invalid response type: {line}")?;
                continue;
            };
            // A master's answer may quote what a worker wrote.
            let message = printable_lines(&answer.message);
            let end = if message.ends_with('\n') { "" } else { "\n" };
            write!(out, "{message}{end}")?;
            out.flush()?;
            if !answer.wait {
                return Ok(());
            }
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let line = self.reader.next_line();
            if let Some(line) = line.map_err(|error| Failure::Wire(error.0.to_owned()))? {
                return Ok(line);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::Wire("the master closed the connection".into())),
                Ok(count) => self.reader.push(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
