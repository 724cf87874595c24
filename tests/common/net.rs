//! Clients. Everything has a limit, and an error says what the system said.

use super::LIMIT;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Where a server listens, as the log says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Path(PathBuf),
    Abstract(String),
}

/// Both kinds of connection.
pub trait Stream: Read + Write + Send {
    fn limit(&self, limit: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Stream for UnixStream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Address {
    /// `tcp://[::]:8080`, `tcp4://…`, `unix:///run/x`, `unix://@name`.
    pub fn parse(uri: &str) -> Address {
        let (scheme, rest) = uri
            .split_once("://")
            .unwrap_or_else(|| panic!("no URI: {uri}"));
        let rest = rest.split('?').next().unwrap_or_default();
        match (scheme.starts_with("unix"), rest.strip_prefix('@')) {
            (true, Some(name)) => Address::Abstract(name.to_owned()),
            (true, None) => Address::Path(rest.into()),
            (false, _) => Address::Tcp(rest.parse().unwrap_or_else(|e| panic!("{uri}: {e}"))),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Address::Tcp(address) => address.port(),
            _ => panic!("{self:?} has no port"),
        }
    }

    /// A new connection.
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match self {
            Address::Tcp(address) => Box::new(TcpStream::connect_timeout(address, *LIMIT)?),
            Address::Path(path) => Box::new(UnixStream::connect(path)?),
            Address::Abstract(name) => Box::new(UnixStream::connect_addr(
                &UnixAddr::from_abstract_name(name)?,
            )?),
        };
        stream.limit(*LIMIT)?;
        Ok(stream)
    }

    /// The body of `GET /`, over a connection of its own.
    pub fn get(&self) -> io::Result<String> {
        self.request("/")
    }

    pub fn request(&self, path: &str) -> io::Result<String> {
        let mut connection = self.connect()?;
        send_request(connection.as_mut(), path)?;
        read_answer(connection.as_mut())
    }

    /// The pid in the answer of our example server.
    pub fn answering_pid(&self) -> i32 {
        let body = self
            .get()
            .unwrap_or_else(|error| panic!("GET from {self:?}: {error}"));
        pid_in(&body)
    }
}

pub fn send_request(connection: &mut dyn Stream, path: &str) -> io::Result<()> {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// The whole answer, checked to be whole.
pub fn read_answer(connection: &mut dyn Stream) -> io::Result<String> {
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") && body.ends_with('\n') => {
            Ok(body.to_owned())
        }
        _ => Err(io::Error::other(format!("not a whole answer: {answer:?}"))),
    }
}

/// `pid 12 version 3` → 12
pub fn pid_in(body: &str) -> i32 {
    let mut words = body.split_whitespace();
    words
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no pid: {body:?}"))
}
