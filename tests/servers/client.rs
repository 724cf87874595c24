//! One request over a connection of its own, for servers that speak HTTP and for those that speak
//! FastCGI (php-fpm). An answer that is not whole is an error.

use crate::common::Address;
use std::io::{self, Read, Write};

/// Asks, and returns the body: `pid N`, the process that answered.
pub type Fetch = fn(&Address) -> io::Result<String>;

/// `GET /`.
pub fn http(address: &Address) -> io::Result<String> {
    let mut connection = address.connect()?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => whole(body),
        _ => Err(io::Error::other(format!("not a whole answer: {answer:?}"))),
    }
}

/// Some servers send the body in chunks: a line with its length before it, and others after it.
fn whole(body: &str) -> io::Result<String> {
    body.lines()
        .find(|line| line.starts_with("pid ") && body.contains(&format!("{line}\n")))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("not a whole body: {body:?}")))
}

// Types of records, and the one role (FastCGI specification 1.0, section 8).
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const RESPONDER: u8 = 1;

/// The script that php-fpm runs for each request, in its working directory.
pub const SCRIPT: &str = "pid.php";

/// The script's output, asked for as a web server does.
pub fn fastcgi(address: &Address) -> io::Result<String> {
    let mut connection = address.connect()?;
    let mut request = record(BEGIN_REQUEST, &[0, RESPONDER, 0, 0, 0, 0, 0, 0]);
    let params = [("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", SCRIPT)];
    request.extend(record(PARAMS, &pairs(&params)));
    request.extend(record(PARAMS, &[]));
    request.extend(record(STDIN, &[]));
    connection.write_all(&request)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let output = output(&answer).ok_or_else(|| {
        io::Error::other(format!("not a whole answer: {}", answer.escape_ascii()))
    })?;
    match output.split_once("\r\n\r\n") {
        Some((_, body)) => whole(body),
        None => Err(io::Error::other(format!("no body: {output:?}"))),
    }
}

/// Version 1, request 1, no padding.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("our records are short");
    let [high, low] = length.to_be_bytes();
    [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
}

/// Names and values, each shorter than 128 bytes.
fn pairs(params: &[(&str, &str)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (name, value) in params {
        content.extend([name.len() as u8, value.len() as u8]);
        content.extend([name.as_bytes(), value.as_bytes()].concat());
    }
    content
}

/// What the records carry of stdout, if they are whole and the last one ends the request.
fn output(mut records: &[u8]) -> Option<String> {
    let mut output = Vec::new();
    loop {
        let (head, rest) = records.split_at_checked(8)?;
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let (content, rest) = rest.split_at_checked(length)?;
        match head[1] {
            STDOUT => output.extend_from_slice(content),
            END_REQUEST => return String::from_utf8(output).ok(),
            _ => {}
        }
        records = rest.get(usize::from(head[6])..)?;
    }
}
