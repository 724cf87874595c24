//! What `-listen` says: the addresses of sockets, read, checked and printed. No name is resolved and
//! no file is touched, so a `Uri` says what was asked for and never what the system made of it.

use crate::text::{boolean, integer, printable};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path or abstract name that fits `sun_path` with its NUL (unix(7)).
const UNIX_MAX: usize = 107;

/// A `-listen` address. `Display` prints the canonical form, which reads back as the same `Uri`, and
/// which is also its form in serde's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Uri {
    pub scheme: Scheme,
    pub address: Address,
    pub options: Options,
}

/// The kind of socket, in Go's network names, or where an inherited one is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Tcp,
    Tcp4,
    Tcp6,
    Udp,
    Udp4,
    Udp6,
    Unix,
    Unixpacket,
    Unixgram,
    Fd,
    Systemd,
}

/// Every scheme, with what stands before the `://`.
const SCHEMES: [(Scheme, &str); 11] = [
    (Scheme::Tcp, "tcp"),
    (Scheme::Tcp4, "tcp4"),
    (Scheme::Tcp6, "tcp6"),
    (Scheme::Udp, "udp"),
    (Scheme::Udp4, "udp4"),
    (Scheme::Udp6, "udp6"),
    (Scheme::Unix, "unix"),
    (Scheme::Unixpacket, "unixpacket"),
    (Scheme::Unixgram, "unixgram"),
    (Scheme::Fd, "fd"),
    (Scheme::Systemd, "systemd"),
];

/// Where the socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host` is a name, a number, or an IPv6 number without its brackets, with `%zone` when one was
    /// given; an empty one means every address. `port` is a number from 0 to 65535 or the name of a
    /// service.
    Host { host: String, port: String },
    /// A socket file, relative to the working directory unless it begins with `/`.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, without the NUL or `@` before it.
    Abstract(OsString),
    /// An inherited descriptor.
    Fd(i32),
    /// An inherited socket by its `LISTEN_FDNAMES` name; empty: all of them, in their order.
    Name(String),
}

/// What follows the `?`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The queue of connections asked for, at least 1.
    pub backlog: Option<u32>,
    /// The permission bits of a unix path, 0 to 0o777.
    pub mode: Option<u32>,
    /// The owner of a unix path, name or number.
    pub owner: Option<String>,
    /// The group of a unix path, name or number.
    pub group: Option<String>,
    pub reuseport: bool,
    /// What `LISTEN_FDNAMES` calls the socket: fit for it as sd_listen_fds(3) asks.
    pub name: Option<String>,
    /// What `FPM_SOCKETS` calls the socket.
    pub fpm: Option<String>,
}

/// Why a `-listen` value is refused. `Display` is `URI: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriError {
    /// As given, made fit for one line of text.
    pub uri: String,
    pub reason: String,
}

impl std::error::Error for UriError {}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.uri, self.reason)
    }
}

impl Scheme {
    /// As it stands before the `://`.
    pub fn name(self) -> &'static str {
        SCHEMES[self as usize].1
    }

    /// Has a path or an abstract name.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixpacket | Scheme::Unixgram)
    }

    /// Somebody else made the socket; its kind is known when it has been looked at.
    pub fn is_inherited(self) -> bool {
        matches!(self, Scheme::Fd | Scheme::Systemd)
    }

    /// Carries datagrams: there is nothing to listen on or to accept.
    pub fn is_datagram(self) -> bool {
        matches!(
            self,
            Scheme::Udp | Scheme::Udp4 | Scheme::Udp6 | Scheme::Unixgram
        )
    }
}

impl Uri {
    /// An address without options.
    pub fn new(scheme: Scheme, address: Address) -> Uri {
        Uri {
            scheme,
            address,
            options: Options::default(),
        }
    }
}

// ---- reading ----

impl TryFrom<&OsStr> for Uri {
    type Error = UriError;

    /// A unix path need not be UTF-8.
    fn try_from(text: &OsStr) -> Result<Uri, UriError> {
        parse(text.as_bytes()).map_err(|reason| UriError {
            uri: printable(text),
            reason,
        })
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::try_from(OsStr::new(text))
    }
}

impl TryFrom<String> for Uri {
    type Error = UriError;

    fn try_from(text: String) -> Result<Uri, UriError> {
        text.parse()
    }
}

/// Every `Err` here and below is the reason alone.
fn parse(text: &[u8]) -> Result<Uri, String> {
    let (scheme, rest) = split_scheme(text)?;
    let (place, query) = split_at(rest, b'?');
    let address = match scheme {
        Scheme::Fd => descriptor(place)?,
        Scheme::Systemd => Address::Name(fd_name(&decode(place)?)?),
        _ if scheme.is_unix() => unix_address(place)?,
        _ => host_and_port(scheme, place)?,
    };
    let options = parse_options(scheme, &address, query.unwrap_or_default())?;
    Ok(Uri {
        scheme,
        address,
        options,
    })
}

/// What stands before the first `mark`, and what stands after it.
fn split_at(text: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| *byte == mark);
    (parts.next().unwrap_or_default(), parts.next())
}

/// `unix:/run/x.sock` is taken too, as Go's url.Parse does.
fn split_scheme(text: &[u8]) -> Result<(Scheme, &[u8]), String> {
    let missing = "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock";
    let (name, rest) = split_at(text, b':');
    let rest = rest.ok_or(missing)?;
    let is_called = |(_, called): &&(Scheme, &str)| name.eq_ignore_ascii_case(called.as_bytes());
    let scheme = SCHEMES.iter().find(is_called).map(|known| known.0);
    match (scheme, rest.strip_prefix(b"//")) {
        (Some(scheme), Some(rest)) => Ok((scheme, rest)),
        (Some(scheme), None) if scheme.is_unix() && rest.starts_with(b"/") => Ok((scheme, rest)),
        (Some(scheme), None) => Err(format!("{}: is not followed by //", scheme.name())),
        (None, None) => Err(missing.into()),
        (None, Some(_)) => {
            let known = SCHEMES.map(|(_, name)| name).join(" ");
            let name = String::from_utf8_lossy(name);
            Err(format!("unknown scheme {name:?}; known are {known}"))
        }
    }
}

fn host_and_port(scheme: Scheme, place: &[u8]) -> Result<Address, String> {
    let text = ascii(place)?;
    // A lone slash after the port is what Go's url.Parse ignores.
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, port) = inner
                .split_once("]:")
                .ok_or("it lacks a ] or a port, as in tcp://[::1]:80")?;
            (ipv6(host)?, port)
        }
        None => {
            let (host, port) = text
                .rsplit_once(':')
                .ok_or("it has no port, as in tcp://:8080")?;
            (host_name(host)?, port)
        }
    };
    let is_ipv4_only = matches!(scheme, Scheme::Tcp4 | Scheme::Udp4);
    let is_ipv6_only = matches!(scheme, Scheme::Tcp6 | Scheme::Udp6);
    if is_ipv4_only && host.contains(':') {
        return Err(format!("{} cannot have an IPv6 address", scheme.name()));
    }
    if is_ipv6_only && host.parse::<Ipv4Addr>().is_ok() {
        return Err(format!("{} cannot have an IPv4 address", scheme.name()));
    }
    let port = port_or_service(port)?;
    Ok(Address::Host { host, port })
}

/// What stood between the brackets; the zone may follow a `%` or, as RFC 6874 has it, a `%25`.
fn ipv6(text: &str) -> Result<String, String> {
    let (number, zone) = match text.split_once('%') {
        Some((number, zone)) => (number, Some(zone.strip_prefix("25").unwrap_or(zone))),
        None => (text, None),
    };
    if number.parse::<Ipv6Addr>().is_err() || zone == Some("") {
        return Err(format!("{text:?} is not an IPv6 address"));
    }
    Ok(zone.map_or(number.into(), |zone| format!("{number}%{zone}")))
}

fn host_name(host: &str) -> Result<String, String> {
    if host.contains(':') {
        return Err("an IPv6 address needs brackets, as in tcp://[::1]:80".into());
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match host.bytes().all(fits) {
        true => Ok(host.into()),
        false => Err(format!("{host:?} is not a host name")),
    }
}

fn port_or_service(port: &str) -> Result<String, String> {
    if port.is_empty() {
        return Err("the port is empty; 0 lets the system choose".into());
    }
    if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse::<u16>();
        return number
            .map(|number| number.to_string())
            .map_err(|_| format!("port {port} is out of range"));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
    match port.starts_with(|c: char| c.is_ascii_alphanumeric()) && port.bytes().all(fits) {
        true => Ok(port.into()),
        false => Err(format!("{port:?} is neither a port nor a service name")),
    }
}

/// All that follows the `//` is the path: `unix://x.sock` is a file in the working directory. (Go's
/// url.Parse takes the first component for a host and drops it, which nobody wants.)
fn unix_address(place: &[u8]) -> Result<Address, String> {
    // The `@` is looked for before decoding, so that `%40x` is a file whose name begins with `@`.
    let (what, text) = match place.strip_prefix(b"@") {
        Some(name) => ("name", name),
        None => ("path", place),
    };
    let bytes = decode(text)?;
    if bytes.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if bytes.contains(&0) {
        return Err(format!("the {what} contains NUL"));
    }
    if bytes.len() > UNIX_MAX {
        let length = bytes.len();
        return Err(format!(
            "the {what} has {length} bytes, the limit is {UNIX_MAX}"
        ));
    }
    let text = OsString::from_vec(bytes);
    Ok(match what {
        "name" => Address::Abstract(text),
        _ => Address::Path(text.into()),
    })
}

fn descriptor(place: &[u8]) -> Result<Address, String> {
    let text = ascii(place.strip_suffix(b"/").unwrap_or(place))?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a descriptor number, as in fd://3"));
    }
    let number = text.parse();
    number
        .map(Address::Fd)
        .map_err(|_| format!("descriptor {text} is out of range"))
}

/// What may stand in `LISTEN_FDNAMES` (sd_listen_fds_with_names(3)): printable ASCII, no colon.
fn fd_name(name: &[u8]) -> Result<String, String> {
    let text = utf8(name)?;
    let fits = |b: u8| (b' '..=b'~').contains(&b) && b != b':';
    match text.len() <= 255 && text.bytes().all(fits) {
        true => Ok(text.into()),
        false => Err(format!(
            "name {text:?} is not plain ASCII without a colon, 255 at most"
        )),
    }
}

fn parse_options(scheme: Scheme, address: &Address, query: &[u8]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut seen = Vec::new();
    for item in query.split(|b| *b == b'&').filter(|item| !item.is_empty()) {
        let (key, value) = split_at(item, b'=');
        let key = utf8(key)?;
        check_option(scheme, address, key)?;
        if seen.contains(&key) {
            return Err(format!("option {key} is given twice"));
        }
        seen.push(key);
        let value = value.map(decode).transpose()?;
        options.set(key, value.as_deref().map(utf8).transpose()?)?;
    }
    Ok(options)
}

/// Whether the option is known, and means something for such a socket.
fn check_option(scheme: Scheme, address: &Address, key: &str) -> Result<(), String> {
    let is_inet = matches!(address, Address::Host { .. });
    let applies = match key {
        "backlog" => !scheme.is_datagram() && !scheme.is_inherited(),
        "mode" | "owner" | "group" if matches!(address, Address::Abstract(_)) => {
            return Err(format!("an abstract name has no {key}"));
        }
        "mode" | "owner" | "group" => scheme.is_unix(),
        "reuseport" => is_inet,
        "name" => true,
        "fpm" => !scheme.is_datagram() && scheme != Scheme::Unixpacket,
        _ => {
            let known = "backlog mode owner group reuseport name fpm";
            return Err(format!("unknown option {key:?}; known are {known}"));
        }
    };
    match applies {
        true => Ok(()),
        false => Err(format!("option {key} does not apply to {}", scheme.name())),
    }
}

impl Options {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let invalid = |value: &str, reason: String| format!("{key} {value:?}: {reason}");
        if key == "reuseport" {
            let value = value.unwrap_or("true");
            self.reuseport = boolean(value).map_err(|reason| invalid(value, reason))?;
            return Ok(());
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(format!("option {key} needs a value"));
        };
        if value.contains('\0') {
            return Err(format!("the value of {key} contains NUL"));
        }
        match key {
            "backlog" => {
                let backlog = integer(value, 1..=i32::MAX.into());
                self.backlog = Some(backlog.map_err(|reason| invalid(value, reason))? as u32);
            }
            "mode" => self.mode = Some(mode(value)?),
            "owner" => self.owner = Some(value.into()),
            "group" => self.group = Some(value.into()),
            "name" => self.name = Some(fd_name(value.as_bytes())?),
            // `FPM_SOCKETS` is `NAME=FD,NAME=FD`.
            _ if value.contains([',', '=']) => {
                return Err(format!("fpm {value:?} cannot stand in FPM_SOCKETS"));
            }
            _ => self.fpm = Some(value.into()),
        }
        Ok(())
    }
}

/// Octal, as chmod(1) takes it.
fn mode(value: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(value, 8).ok();
    // from_str_radix takes a sign.
    let bits = bits.filter(|bits| *bits <= 0o777 && !value.starts_with('+'));
    bits.ok_or_else(|| format!("mode {value:?} is not an octal number from 0 to 0777"))
}

fn ascii(text: &[u8]) -> Result<&str, String> {
    let plain = std::str::from_utf8(text).ok();
    let plain = plain.filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
    plain.ok_or_else(|| format!("{:?} is not plain ASCII", String::from_utf8_lossy(text)))
}

fn utf8(text: &[u8]) -> Result<&str, String> {
    let reason = |_| format!("{:?} is not UTF-8", String::from_utf8_lossy(text));
    std::str::from_utf8(text).map_err(reason)
}

/// Percent-decoding (RFC 3986, 2.1); a `+` stays a `+`.
fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut parts = text.split(|byte| *byte == b'%');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let code = String::from_utf8_lossy(&part[..part.len().min(2)]);
        let is_code = code.len() == 2 && code.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(&code, 16).ok().filter(|_| is_code);
        bytes.push(byte.ok_or_else(|| format!("{:?} is not a percent code", format!("%{code}")))?);
        bytes.extend_from_slice(&part[2..]);
    }
    Ok(bytes)
}

// ---- printing ----

impl From<Uri> for String {
    fn from(uri: Uri) -> String {
        uri.to_string()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        write!(f, "{scheme}://{}{}", self.address, self.options)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Host { host, port } if host.contains(':') => {
                write!(f, "[{}]:{port}", host.replacen('%', "%25", 1))
            }
            Address::Host { host, port } => write!(f, "{host}:{port}"),
            Address::Path(path) => match path.as_os_str().as_bytes() {
                [b'@', rest @ ..] => {
                    f.write_str("%40")?;
                    encode(f, rest, '?')
                }
                bytes => encode(f, bytes, '?'),
            },
            Address::Abstract(name) => {
                f.write_char('@')?;
                encode(f, name.as_bytes(), '?')
            }
            Address::Fd(fd) => write!(f, "{fd}"),
            Address::Name(name) => encode(f, name.as_bytes(), '?'),
        }
    }
}

impl fmt::Display for Options {
    /// With the `?`, or nothing when all are at their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            self.backlog.map(|backlog| format!("backlog={backlog}")),
            self.mode.map(|mode| format!("mode={mode:04o}")),
            self.reuseport.then(|| "reuseport".into()),
        ];
        let mut mark = '?';
        for option in numbers.into_iter().flatten() {
            write!(f, "{mark}{option}")?;
            mark = '&';
        }
        let texts = [
            ("owner", &self.owner),
            ("group", &self.group),
            ("name", &self.name),
            ("fpm", &self.fpm),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                write!(f, "{mark}{key}=")?;
                mark = '&';
                encode(f, value.as_bytes(), '&')?;
            }
        }
        Ok(())
    }
}

/// The opposite of `decode`: coded are `reserved`, `%`, control characters and what is not UTF-8.
fn encode(f: &mut fmt::Formatter<'_>, text: &[u8], reserved: char) -> fmt::Result {
    let percent = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
        bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
    };
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() || c == '%' || c == reserved {
                true => percent(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                false => f.write_char(c)?,
            }
        }
        percent(f, chunk.invalid())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
