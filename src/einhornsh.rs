//! The `einhornsh` face: a shell for the control socket, of ours or of a real einhorn. It blocks as
//! it likes, it is a program of its own; what it prints on stdout is the answers and nothing else.

use crate::einhorn::options::{self, Item, Switch, Words};
use crate::einhorn::{files, words};
use crate::protocol::{self, LineReader, MAX_ANSWER};
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const SWITCHES: &[Switch] = &[
    Switch {
        short: Some('h'),
        long: "help",
        value: None,
        help: "Print this text",
    },
    Switch {
        short: Some('c'),
        long: "command-name",
        value: Some("NAME"),
        help: "Talk to the einhorn that was started with this -c",
    },
    Switch {
        short: Some('d'),
        long: "socket-path",
        value: Some("PATH"),
        help: "Talk to the control socket at PATH",
    },
    Switch {
        short: Some('e'),
        long: "execute",
        value: Some("COMMANDS"),
        help: "Run these commands, separated by semicolons, and exit",
    },
];

/// What einhornsh was asked to do.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    socket: PathBuf,
    commands: Option<String>,
}

/// Runs with the words after the face's name; the exit status is 0, or 1 when the master could not
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
    match converse(&plan) {
        Ok(()) => 0,
        Err(Failure(message)) => {
            complain(&message);
            1
        }
    }
}

/// Err: the text for stderr.
fn plan(args: Vec<OsString>, directory: &Path) -> Result<Plan, String> {
    let (mut name, mut socket, mut commands) = (None, None, None);
    let mut operands = Vec::new();
    let mut words = Words::permuting(SWITCHES, args);
    while let Some(item) = words
        .next_item()
        .map_err(|why| format!("einhornsh: {why}"))?
    {
        let text = |value: OsString| value.to_string_lossy().into_owned();
        match item {
            Item::Operand(operand) => operands.push(text(operand)),
            Item::Option(switch, value) => match switch.long {
                "command-name" => name = Some(text(value)),
                "socket-path" => socket = Some(PathBuf::from(value)),
                "execute" => commands = Some(text(value)),
                _ => return Err(help()),
            },
        }
    }
    if operands.len() > 1 {
        return Err(help());
    }
    let name = name.or(operands.pop());
    let socket = socket.unwrap_or_else(|| files::default_path(directory, name.as_deref(), "sock"));
    Ok(Plan { socket, commands })
}

fn help() -> String {
    format!(
        "Usage: einhornsh [options] [NAME]\n\n\
         Sends commands to a running einhorn and prints its answers; `help` lists them.\n\
         NAME is the -c of that einhorn; one started with -d needs the same -d here.\n\n{}",
        options::help(SWITCHES)
    )
}

fn complain(text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    // Nobody is left to tell when stderr is gone.
    let _ = write!(io::stderr(), "{text}{end}");
}

/// ^C at the prompt is a way to leave, with status 0.
fn leave_quietly_on_interrupt() {
    let always = Arc::new(AtomicBool::new(true));
    // Without the handler ^C still ends us, with another status.
    let _ = signal_hook::flag::register_conditional_shutdown(libc::SIGINT, 0, always);
}

/// Why we end with status 1: one line.
struct Failure(String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(format!("einhornsh: {error}"))
    }
}

fn converse(plan: &Plan) -> Result<(), Failure> {
    let interactive = io::stdin().is_terminal();
    let mut shell = Shell {
        wire: Wire::connect(&plan.socket)?,
        path: &plan.socket,
        last_id: 0,
    };
    if interactive {
        shell.greet()?;
    }
    match &plan.commands {
        Some(commands) => shell.run_line(commands).map(drop),
        None => shell.prompt(interactive),
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
}

impl Shell<'_> {
    fn greet(&mut self) -> Result<(), Failure> {
        let user = std::env::var("USER").ok();
        self.wire
            .stream
            .write_all(&protocol::encode_ehlo(user.as_deref()))?;
        self.wire.print_answers(&mut io::stderr())
    }

    fn prompt(&mut self, interactive: bool) -> Result<(), Failure> {
        if interactive {
            complain("Enter 'help' if you're not sure what to do.\n");
            complain("Type \"quit\" or \"exit\" to quit at any time");
        }
        let mut line = Vec::new();
        loop {
            if interactive {
                write!(io::stdout(), "> ")?;
                io::stdout().flush()?;
            }
            line.clear();
            if io::stdin().lock().read_until(b'\n', &mut line)? == 0 {
                if interactive {
                    complain("");
                }
                return Ok(());
            }
            match self.run_line(&String::from_utf8_lossy(&line)) {
                Ok(Next::GoOn) => {}
                Ok(Next::Leave) => return Ok(()),
                // Above all a quote that was not closed: type it again.
                Err(Failure(message)) if interactive && self.wire.open => complain(&message),
                Err(failure) => return Err(failure),
            }
        }
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
        let words = words::split(line).map_err(|why| Failure(format!("einhornsh: {why}")))?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((command, args)) = words.split_first() else {
            return Ok(Next::GoOn);
        };
        if matches!(*command, "quit" | "exit") {
            complain("Goodbye!");
            return Ok(Next::Leave);
        }
        self.last_id += 1;
        self.send(&protocol::encode_request(self.last_id, command, args))?;
        self.wire.print_answers(&mut io::stdout())?;
        Ok(Next::GoOn)
    }

    /// A master that was restarted since the last command is connected to anew, once.
    fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        match self.wire.stream.write_all(request) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                complain("einhornsh: the master closed the connection; reconnecting");
                self.wire = Wire::connect(self.path)?;
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
    /// False once the master has closed it.
    open: bool,
}

impl Wire {
    fn connect(path: &Path) -> Result<Wire, Failure> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Wire {
                stream,
                reader: LineReader::new(MAX_ANSWER),
                open: true,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Failure(format!(
                "Could not connect to Einhorn master process:\n\n  {}: {error}\n\n\
                 HINT: Is an einhorn running? Pass the same -c NAME or -d PATH as it was started with.",
                path.display()
            ))),
            Err(error) => Err(Failure(format!(
                "einhornsh: cannot connect to {}: {error}",
                path.display()
            ))),
        }
    }

    /// Prints each message up to and with the last one, the first without `wait`.
    fn print_answers(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        loop {
            let line = self.read_line()?;
            let Ok(answer) = protocol::decode_answer(&line) else {
                writeln!(
                    out,
                    "Invalid response type: {}",
                    String::from_utf8_lossy(&line)
                )?;
                continue;
            };
            let end = if answer.message.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            write!(out, "{}{end}", answer.message)?;
            out.flush()?;
            if !answer.wait {
                return Ok(());
            }
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.reader.next_line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(error) => {
                    self.open = false;
                    return Err(Failure(format!(
                        "einhornsh: cannot read the answer: {error}"
                    )));
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.open = false;
                    return Err(Failure(
                        "einhornsh: the master closed the connection".into(),
                    ));
                }
                Ok(count) => self.reader.push(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.open = false;
                    return Err(error.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
