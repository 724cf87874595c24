//! `einhornsh`: a shell for the control socket of ours or of a real einhorn. It is a program of its
//! own and blocks as it likes; on stdout it prints the answers and nothing else.

use super::files;
use super::options::{OptionParser, Parsed, split};
use crate::control::client::{PROMPTLY, Wire};
use crate::control::protocol::{encode_ehlo, encode_request, parse_reply};
use crate::sys::io::{stderr, write_all};
use crate::text::{error_text, printable, printable_lines};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
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
struct Session {
    socket: PathBuf,
    commands: Option<String>,
}

/// Runs with the words after the program's name. The exit status is 0, or 1 when the master could not
/// be reached or went away, and for usage errors and `-h`.
pub fn run(args: Vec<OsString>) -> i32 {
    let session = match session(args, &files::default_directory()) {
        Ok(session) => session,
        Err(text) => {
            complain(&text);
            return 1;
        }
    };
    leave_quietly_on_interrupt();
    let tty = io::stdin().is_terminal();
    match converse(&session, tty, &mut io::stdin().lock(), &mut io::stdout()) {
        Ok(()) => 0,
        Err(ShellError::Typing(message) | ShellError::Wire(message)) => {
            complain(&format!("einhornsh: {message}"));
            1
        }
    }
}

/// Errors: the text for stderr.
fn session(args: Vec<OsString>, directory: &Path) -> Result<Session, String> {
    let (mut name, mut socket, mut commands, mut operand) = (None, None, None, None);
    let mut words = OptionParser::new(HELP, args, true);
    let next =
        |words: &mut OptionParser| words.next_item().map_err(|why| format!("einhornsh: {why}"));
    while let Some(item) = next(&mut words)? {
        let text = |value: OsString| Some(value.to_string_lossy().into_owned());
        match item {
            Parsed::Operand(word) if operand.is_none() => operand = text(word),
            Parsed::Option("command-name", value) => name = text(value),
            Parsed::Option("socket-path", value) => socket = Some(PathBuf::from(value)),
            Parsed::Option("execute", value) => commands = text(value),
            _ => return Err(HELP.to_owned()),
        }
    }
    let name = name.or(operand);
    let socket = socket.unwrap_or_else(|| files::default_path(directory, name.as_deref(), "sock"));
    Ok(Session { socket, commands })
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
enum ShellError {
    /// What was typed makes no words.
    Typing(String),
    /// The master cannot be reached, or is gone.
    Wire(String),
}

impl From<io::Error> for ShellError {
    fn from(error: io::Error) -> ShellError {
        ShellError::Wire(error_text(&error))
    }
}

/// `tty`: a person sits there, to be greeted and prompted.
fn converse(
    session: &Session,
    tty: bool,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), ShellError> {
    let wire = reach(&session.socket)?;
    let mut shell = Shell {
        wire,
        path: &session.socket,
        last_id: 0,
        tty,
        out,
    };
    if tty {
        shell.greet()?;
    }
    match &session.commands {
        Some(commands) => shell.run_line(commands).map(drop),
        None => shell.prompt(input),
    }
}

/// Whether the next line shall be read.
#[derive(Debug, PartialEq, Eq)]
enum Prompt {
    Again,
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
    fn greet(&mut self) -> Result<(), ShellError> {
        let user = std::env::var("USER").ok();
        self.wire.send(&encode_ehlo(user.as_deref()))?;
        print_answers(&mut self.wire, &mut io::stderr())
    }

    fn prompt(&mut self, input: &mut dyn BufRead) -> Result<(), ShellError> {
        if self.tty {
            complain("Enter 'help' if you're not sure what to do.\n\n");
            complain("Type \"quit\" or \"exit\" to quit at any time");
        }
        while let Some(line) = self.read_line(input)? {
            match self.run_line(&line) {
                Ok(Prompt::Again) => {}
                Ok(Prompt::Leave) => return Ok(()),
                // A person types it again.
                Err(ShellError::Typing(message)) if self.tty => complain(&message),
                Err(failure) => return Err(failure),
            }
        }
        if self.tty {
            complain("\n");
        }
        Ok(())
    }

    fn read_line(&mut self, input: &mut dyn BufRead) -> Result<Option<String>, ShellError> {
        if self.tty {
            self.out.write_all(b"> ")?;
            self.out.flush()?;
        }
        let mut line = Vec::new();
        let count = input.read_until(b'\n', &mut line)?;
        Ok((count > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
    }

    /// Runs what is on the line; a semicolon separates also inside quotes, as einhornsh has it.
    fn run_line(&mut self, line: &str) -> Result<Prompt, ShellError> {
        for command in line.split(';') {
            if self.run_command(command)? == Prompt::Leave {
                return Ok(Prompt::Leave);
            }
        }
        Ok(Prompt::Again)
    }

    fn run_command(&mut self, line: &str) -> Result<Prompt, ShellError> {
        let words = split(line).map_err(ShellError::Typing)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((command, args)) = words.split_first() else {
            return Ok(Prompt::Again);
        };
        if matches!(*command, "quit" | "exit") {
            complain("Goodbye!");
            return Ok(Prompt::Leave);
        }
        self.last_id += 1;
        self.send(&encode_request(self.last_id, command, args))?;
        print_answers(&mut self.wire, self.out)?;
        Ok(Prompt::Again)
    }

    /// A master that was restarted since the last command is connected to anew, once.
    fn send(&mut self, request: &[u8]) -> Result<(), ShellError> {
        self.wire.restart();
        match self.wire.send(request) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                complain("einhornsh: the master closed the connection; reconnecting");
                self.wire = reach(self.path)?;
                if self.tty {
                    self.greet()?;
                }
                Ok(self.wire.send(request)?)
            }
            other => Ok(other?),
        }
    }
}

fn reach(path: &Path) -> Result<Wire, ShellError> {
    Wire::connect(path, PROMPTLY).map_err(|error| {
        let (shown, word) = (path.display(), error_text(&error));
        ShellError::Wire(match error.kind() {
            ErrorKind::NotFound => format!(
                "Could not connect to Einhorn master process: {shown}: {word}. \
                 Is one running? It needs the same -c NAME or -d PATH here as there."
            ),
            ErrorKind::TimedOut => word,
            _ => format!("cannot connect to {shown}: {word}"),
        })
    })
}

/// Prints each message up to and with the last one, the first without `wait`.
fn print_answers(wire: &mut Wire, out: &mut dyn Write) -> Result<(), ShellError> {
    loop {
        let Some(line) = wire.next_line()? else {
            return Err(ShellError::Wire("the master closed the connection".into()));
        };
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
        wire.wait_without_limit();
    }
}

#[cfg(test)]
mod tests;
