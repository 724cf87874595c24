//! `einhornsh`: a shell for the control socket of ours or of a real einhorn. It is a program of its
//! own and may block; on stdout it prints the answers and nothing else.

use super::files;
use super::options::{OptionParser, split};
use crate::control::client::{PROMPTLY, Wire};
use crate::control::protocol::{encode_ehlo, encode_request, parse_reply};
use crate::sys::io::{stderr, write_all};
use crate::text::{error_text, printable, printable_lines};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Error, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The help; the parser reads the options from it.
const HELP: &str = "\
Usage: einhornsh [options] [NAME]

Sends commands to a running einhorn and prints its answers; `help` lists them.
NAME is the -c of that einhorn; one started with -d needs the same -d here.

    -h, --help                  Print this text
    -c, --command-name NAME     Talk to the einhorn that was started with this -c
    -d, --socket-path PATH      Talk to the control socket at PATH
    -e, --execute COMMANDS      Run these commands, separated by semicolons, and exit
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
    // ^C at the prompt is a way to leave, with status 0. Without the handler ^C still ends us.
    let always = Arc::new(AtomicBool::new(true));
    let _ = signal_hook::flag::register_conditional_shutdown(libc::SIGINT, 0, always);
    let tty = io::stdin().is_terminal();
    match converse(&session, tty, &mut io::stdin().lock(), &mut io::stdout()) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("einhornsh: {}", error_text(&error)));
            1
        }
    }
}

/// Reads the command line. Errors: the text for stderr.
fn session(args: Vec<OsString>, directory: &Path) -> Result<Session, String> {
    let (mut name, mut socket, mut commands, mut operand) = (None, None, None, None);
    let mut words = OptionParser::new(HELP, args);
    let text = |value: OsString| Some(value.to_string_lossy().into_owned());
    // Options and the operand may be mixed.
    loop {
        let option = words.next_option();
        match option.map_err(|reason| format!("einhornsh: {reason}"))? {
            Some(("command-name", value)) => name = text(value),
            Some(("socket-path", value)) => socket = Some(PathBuf::from(value)),
            Some(("execute", value)) => commands = text(value),
            Some(_) => return Err(HELP.to_owned()),
            None => match words.next_operand() {
                Some(word) if operand.is_none() => operand = text(word),
                Some(_) => return Err(HELP.to_owned()),
                None => break,
            },
        }
    }
    let name = name.or(operand);
    let socket = socket.unwrap_or_else(|| files::default_path(directory, name.as_deref(), "sock"));
    Ok(Session { socket, commands })
}

/// Prints on stderr. A stderr that is closed is no reason to fail.
fn complain(text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write_all(stderr(), format!("{text}{end}").as_bytes());
}

/// Runs the session's commands or those of `input`; `tty`: a person is to be greeted and prompted.
///
/// Errors: of kind `InvalidInput`, what was typed makes no words; all others, the master cannot be
/// reached, or has gone.
fn converse(
    session: &Session,
    tty: bool,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut shell = Shell {
        wire: connect(&session.socket)?,
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

struct Shell<'a> {
    wire: Wire,
    path: &'a Path,
    last_id: u64,
    tty: bool,
    out: &'a mut dyn Write,
}

impl Shell<'_> {
    fn greet(&mut self) -> io::Result<()> {
        let user = std::env::var("USER").ok();
        self.wire.send(&encode_ehlo(user.as_deref()))?;
        print_answers(&mut self.wire, &mut io::stderr())
    }

    fn prompt(&mut self, input: &mut dyn BufRead) -> io::Result<()> {
        if self.tty {
            complain("Enter 'help' if you're not sure what to do.\n\n");
            complain("Type \"quit\" or \"exit\" to quit at any time");
        }
        loop {
            if self.tty {
                self.out.write_all(b"> ")?;
                self.out.flush()?;
            }
            let mut line = Vec::new();
            if input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match self.run_line(&String::from_utf8_lossy(&line)) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                // A person can type it again.
                Err(error) if self.tty && error.kind() == ErrorKind::InvalidInput => {
                    complain(&error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if self.tty {
            complain("\n");
        }
        Ok(())
    }

    /// Runs the commands of a line until one asks to leave.
    fn run_line(&mut self, line: &str) -> io::Result<ControlFlow<()>> {
        // A semicolon separates commands also inside quotes, as in einhorn's einhornsh.
        for command in line.split(';') {
            let invalid = |reason| Error::new(ErrorKind::InvalidInput, reason);
            let words = split(command).map_err(invalid)?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[..] {
                [] => {}
                ["quit" | "exit", ..] => {
                    complain("Goodbye!");
                    return Ok(ControlFlow::Break(()));
                }
                [command, ref args @ ..] => {
                    self.last_id += 1;
                    self.send(&encode_request(self.last_id, command, args))?;
                    print_answers(&mut self.wire, self.out)?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// If the master has been restarted since the last command, it connects again, once.
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.wire.restart();
        match self.wire.send(request) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                complain("einhornsh: the master closed the connection; reconnecting");
                self.wire = connect(self.path)?;
                if self.tty {
                    self.greet()?;
                }
                self.wire.send(request)
            }
            other => other,
        }
    }
}

fn connect(path: &Path) -> io::Result<Wire> {
    Wire::connect(path, PROMPTLY).map_err(|error| {
        let (shown, word) = (path.display(), error_text(&error));
        Error::other(match error.kind() {
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
fn print_answers(wire: &mut Wire, out: &mut dyn Write) -> io::Result<()> {
    loop {
        let line = wire.next_line()?;
        let line = line.ok_or_else(|| Error::other("the master closed the connection"))?;
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
