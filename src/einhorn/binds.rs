//! What `-b` and the old `srv:` arguments say. Pure.

use crate::listen::uri::Uri;
use crate::text::printable;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A socket that the workers shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    place: Place,
    /// Flag `n`: the listening socket gets O_NONBLOCK when it is made.
    pub nonblocking: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A name or an IPv4 address, as einhorn has it.
    Four { host: String, port: String },
    /// `[::1]:80`, which einhorn has not.
    Six { host: String, port: String },
    /// `unix:/path` or `unix:@name`, which einhorn has not.
    Unix(Vec<u8>),
}

impl Bind {
    /// Reads `HOST:PORT[,FLAG…]`, and beyond einhorn `[IPv6]:PORT[,FLAG…]` and `unix:PATH[,FLAG…]`.
    /// What a person should know about it is appended to `warnings`.
    ///
    /// # Errors
    /// One line that names the value.
    pub fn parse(text: &OsStr, warnings: &mut Vec<String>) -> Result<Bind, String> {
        let (place, flags) = split_flags(text.as_bytes());
        let form = || {
            format!(
                "cannot bind {}: it must be HOST:PORT, [IPV6]:PORT or unix:PATH, with flags as in 127.0.0.1:80,r,n",
                printable(text)
            )
        };
        let place = four(place)
            .or_else(|| six(place))
            .or_else(|| unix(place))
            .ok_or_else(form)?;
        let nonblocking = is_nonblocking(&flags, text, warnings);
        let bind = Bind { place, nonblocking };
        bind.uri(1).map(|_| bind)
    }

    /// The same as `-listen` says it. SO_REUSEADDR is always set, so flag `r` changes nothing.
    ///
    /// # Errors
    /// One line that names the address: a port out of range, a path too long.
    pub fn uri(&self, backlog: u32) -> Result<Uri, String> {
        let mut text = match &self.place {
            Place::Four { host, port } => format!("tcp4://{host}:{port}").into_bytes(),
            Place::Six { host, port } => format!("tcp6://[{host}]:{port}").into_bytes(),
            Place::Unix(path) => [b"unix://", &escaped(path)[..]].concat(),
        };
        text.extend_from_slice(format!("?backlog={backlog}").as_bytes());
        let text = OsString::from_vec(text);
        let name = printable(&text);
        Uri::try_from(text.as_os_str()).map_err(|reason| format!("cannot bind {name}: {reason}"))
    }
}

fn escaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'?' => out.extend_from_slice(b"%3F"),
            other => out.push(other),
        }
    }
    out
}

const FLAGS: [&str; 6] = ["r", "so_reuseaddr", "n", "o_nonblock", "rn", "nr"];

/// Cuts `,word,word` off the end; off a path only words that are flags, for it may have commas.
fn split_flags(text: &[u8]) -> (&[u8], Vec<String>) {
    let is_path = text.starts_with(b"unix:/") || text.starts_with(b"unix:@");
    let is_flag = |word: &[u8]| {
        let known = FLAGS
            .iter()
            .any(|flag| word.eq_ignore_ascii_case(flag.as_bytes()));
        let word_like = word.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'_');
        known || (!is_path && !word.is_empty() && word_like)
    };
    let (mut place, mut flags) = (text, Vec::new());
    while let Some(comma) = place.iter().rposition(|&byte| byte == b',') {
        let word = &place[comma + 1..];
        if !is_flag(word) {
            break;
        }
        flags.push(String::from_utf8_lossy(word).to_ascii_lowercase());
        place = &place[..comma];
    }
    (place, flags)
}

fn is_nonblocking(flags: &[String], text: &OsStr, warnings: &mut Vec<String>) -> bool {
    let mut nonblocking = false;
    for flag in flags {
        match flag.as_str() {
            "r" | "so_reuseaddr" => {}
            "n" | "o_nonblock" => nonblocking = true,
            "rn" | "nr" => {
                warnings.push(format!("bind {}: taking {flag} for r,n", printable(text)));
                nonblocking = true;
            }
            _ => warnings.push(format!(
                "bind {}: unknown flag {flag} ignored",
                printable(text)
            )),
        }
    }
    nonblocking
}

fn four(place: &[u8]) -> Option<Place> {
    let (host, port) = host_and_port(place)?;
    (!host.contains(':')).then_some(Place::Four { host, port })
}

fn six(place: &[u8]) -> Option<Place> {
    let (host, port) = host_and_port(place)?;
    let host = host.strip_prefix('[')?.strip_suffix(']')?.to_owned();
    Some(Place::Six { host, port })
}

fn host_and_port(place: &[u8]) -> Option<(String, String)> {
    let (host, port) = std::str::from_utf8(place).ok()?.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (!host.is_empty() && digits).then(|| (host.to_owned(), port.to_owned()))
}

fn unix(place: &[u8]) -> Option<Place> {
    let path = place.strip_prefix(b"unix:")?;
    let path = path.strip_prefix(b"//").unwrap_or(path);
    (!path.is_empty()).then(|| Place::Unix(path.to_vec()))
}

/// Replaces each `srv:HOST:PORT[,FLAG…]` and `name=srv:…` by the number that its socket will have
/// in the workers, and adds to `binds` what is not there yet. `first` is the number of `binds[0]`.
/// (Deprecated in einhorn 0.8, passed through unchanged by 1.x.)
pub fn take_srv(
    arguments: &mut [OsString],
    binds: &mut Vec<Bind>,
    first: usize,
    warnings: &mut Vec<String>,
) {
    for argument in arguments {
        let Some((name, bind)) = srv(argument, warnings) else {
            continue;
        };
        let at = binds
            .iter()
            .position(|other| other.place == bind.place)
            .unwrap_or_else(|| {
                binds.push(bind);
                binds.len() - 1
            });
        warnings.push(format!(
            "{}: srv: arguments are deprecated, EINHORN_FD_{at} says the same",
            printable(argument)
        ));
        let mut replaced = OsString::from_vec(name);
        replaced.push((first + at).to_string());
        *argument = replaced;
    }
}

fn srv(argument: &OsStr, warnings: &mut Vec<String>) -> Option<(Vec<u8>, Bind)> {
    let bytes = argument.as_bytes();
    let start = match bytes.windows(5).rposition(|window| window == b"=srv:") {
        Some(at) => at + 1,
        None => bytes.starts_with(b"srv:").then_some(0)?,
    };
    let address = &bytes[start + 4..];
    four(split_flags(address).0)?;
    let bind = Bind::parse(OsStr::from_bytes(address), warnings).ok()?;
    Some((bytes[..start].to_vec(), bind))
}
