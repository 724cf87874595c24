//! What `-listen` says: socket addresses read, checked and printed. Pure: it resolves no name and
//! touches no file, so a `Uri` says what was asked for, never what the system made of it.

use crate::flags;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path or abstract name that fits `sun_path` with its NUL (unix(7)).
const UNIX_MAX: usize = 107;

/// A `-listen` address. `Display` prints the canonical form, which reads back as the same `Uri`.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Where the socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host`: a name, a number, or an IPv6 number without its brackets, with `%zone` when one was
    /// given; empty means every address. `port`: a number from 0 to 65535 or a service name.
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
    const ALL: [Scheme; 11] = [
        Scheme::Tcp,
        Scheme::Tcp4,
        Scheme::Tcp6,
        Scheme::Udp,
        Scheme::Udp4,
        Scheme::Udp6,
        Scheme::Unix,
        Scheme::Unixpacket,
        Scheme::Unixgram,
        Scheme::Fd,
        Scheme::Systemd,
    ];

    /// As it stands before the `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Tcp4 => "tcp4",
            Scheme::Tcp6 => "tcp6",
            Scheme::Udp => "udp",
            Scheme::Udp4 => "udp4",
            Scheme::Udp6 => "udp6",
            Scheme::Unix => "unix",
            Scheme::Unixpacket => "unixpacket",
            Scheme::Unixgram => "unixgram",
            Scheme::Fd => "fd",
            Scheme::Systemd => "systemd",
        }
    }

    /// Has a host and a port.
    pub fn is_inet(self) -> bool {
        !self.is_unix() && !self.is_inherited()
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

    fn is_ipv4_only(self) -> bool {
        matches!(self, Scheme::Tcp4 | Scheme::Udp4)
    }

    fn is_ipv6_only(self) -> bool {
        matches!(self, Scheme::Tcp6 | Scheme::Udp6)
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::try_from(OsStr::new(text))
    }
}

impl TryFrom<&OsStr> for Uri {
    type Error = UriError;

    /// As `from_str`; a unix path need not be UTF-8.
    fn try_from(text: &OsStr) -> Result<Uri, UriError> {
        parse(text.as_bytes()).map_err(|reason| UriError {
            uri: flags::printable(text),
            reason,
        })
    }
}

/// Every `Err` here and below is the reason alone.
fn parse(text: &[u8]) -> Result<Uri, String> {
    let (scheme, rest) = split_scheme(text)?;
    let (place, query) = match rest.iter().position(|&b| b == b'?') {
        Some(mark) => (&rest[..mark], &rest[mark + 1..]),
        None => (rest, &rest[rest.len()..]),
    };
    let address = match scheme {
        Scheme::Fd => descriptor(place)?,
        Scheme::Systemd => Address::Name(fd_name(&decode(place)?)?),
        _ if scheme.is_unix() => unix_address(place)?,
        _ => host_and_port(scheme, place)?,
    };
    let options = parse_options(scheme, &address, query)?;
    Ok(Uri {
        scheme,
        address,
        options,
    })
}

/// `unix:/run/x.sock` is taken too, as Go's url.Parse does.
fn split_scheme(text: &[u8]) -> Result<(Scheme, &[u8]), String> {
    let missing = "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock";
    let colon = text.iter().position(|&b| b == b':').ok_or(missing)?;
    let (name, rest) = (&text[..colon], &text[colon + 1..]);
    let called = |scheme: &Scheme| name.eq_ignore_ascii_case(scheme.name().as_bytes());
    let known = Scheme::ALL.iter().copied().find(called);
    match (known, rest.strip_prefix(b"//")) {
        (Some(scheme), Some(rest)) => Ok((scheme, rest)),
        (Some(scheme), None) if scheme.is_unix() && rest.starts_with(b"/") => Ok((scheme, rest)),
        (Some(scheme), None) => Err(format!("{}: is not followed by //", scheme.name())),
        (None, None) => Err(missing.into()),
        (None, Some(_)) => {
            let name = String::from_utf8_lossy(name);
            let mut reason = format!("unknown scheme {name:?}; known are");
            for scheme in Scheme::ALL {
                reason += " ";
                reason += scheme.name();
            }
            Err(reason)
        }
    }
}

fn host_and_port(scheme: Scheme, place: &[u8]) -> Result<Address, String> {
    let text = ascii(place)?;
    // A lone slash after the port is what Go's url.Parse ignores.
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let end = inner.as_bytes().windows(2).position(|pair| pair == b"]:");
            let end = end.ok_or("it lacks a ] or a port, as in tcp://[::1]:80")?;
            (ipv6(&inner[..end])?, &inner[end + 2..])
        }
        None => {
            let end = text.bytes().rposition(|byte| byte == b':');
            let end = end.ok_or("it has no port, as in tcp://:8080")?;
            (host_name(&text[..end])?, &text[end + 1..])
        }
    };
    if scheme.is_ipv4_only() && host.contains(':') {
        return Err(format!("{} cannot have an IPv6 address", scheme.name()));
    }
    if scheme.is_ipv6_only() && host.parse::<Ipv4Addr>().is_ok() {
        return Err(format!("{} cannot have an IPv4 address", scheme.name()));
    }
    Ok(Address::Host {
        host,
        port: port_or_service(port)?,
    })
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
    Ok(match zone {
        Some(zone) => format!("{number}%{zone}"),
        None => number.to_string(),
    })
}

fn host_name(host: &str) -> Result<String, String> {
    if host.as_bytes().contains(&b':') {
        return Err("an IPv6 address needs brackets, as in tcp://[::1]:80".into());
    }
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match host.bytes().all(named) {
        true => Ok(host.to_string()),
        false => Err(format!("{host:?} is not a host name")),
    }
}

fn port_or_service(port: &str) -> Result<String, String> {
    let Some(first) = port.bytes().next() else {
        return Err("the port is empty; 0 lets the system choose".into());
    };
    if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse::<u16>();
        return number
            .map(|n| n.to_string())
            .map_err(|_| format!("port {port} is out of range"));
    }
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
    match first.is_ascii_alphanumeric() && port.bytes().all(named) {
        true => Ok(port.to_string()),
        false => Err(format!("{port:?} is neither a port nor a service name")),
    }
}

/// All that follows the `//` is the path: `unix://x.sock` is a file in the working directory. (Go's
/// url.Parse takes the first component for a host and drops it, which nobody wants.)
fn unix_address(place: &[u8]) -> Result<Address, String> {
    // Before decoding, so that `%40x` is a file whose name begins with `@`.
    let abstract_name = place.strip_prefix(b"@");
    let what = if abstract_name.is_some() {
        "name"
    } else {
        "path"
    };
    let bytes = decode(abstract_name.unwrap_or(place))?;
    if bytes.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if bytes.contains(&0) {
        return Err(format!("the {what} contains NUL"));
    }
    if bytes.len() > UNIX_MAX {
        return Err(format!(
            "the {what} has {} bytes, the limit is {UNIX_MAX}",
            bytes.len()
        ));
    }
    let text = OsString::from_vec(bytes);
    Ok(match abstract_name {
        Some(_) => Address::Abstract(text),
        None => Address::Path(text.into()),
    })
}

fn descriptor(place: &[u8]) -> Result<Address, String> {
    let text = ascii(place.strip_suffix(b"/").unwrap_or(place))?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<i32>() {
        Ok(fd) if digits => Ok(Address::Fd(fd)),
        _ if digits => Err(format!("descriptor {text} is out of range")),
        _ => Err(format!("{text:?} is not a descriptor number, as in fd://3")),
    }
}

/// What may stand in `LISTEN_FDNAMES` (sd_listen_fds_with_names(3)): printable ASCII, no colon.
fn fd_name(name: &[u8]) -> Result<String, String> {
    let text = utf8(name)?;
    let fits = |b: u8| (b' '..=b'~').contains(&b) && b != b':';
    match text.len() <= 255 && text.bytes().all(fits) {
        true => Ok(text.to_string()),
        false => Err(format!(
            "name {text:?} is not plain ASCII without a colon, 255 at most"
        )),
    }
}

fn parse_options(scheme: Scheme, address: &Address, query: &[u8]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut seen = Vec::new();
    for item in query.split(|&b| b == b'&').filter(|item| !item.is_empty()) {
        let (key, value) = match item.iter().position(|&b| b == b'=') {
            Some(mark) => (&item[..mark], Some(decode(&item[mark + 1..])?)),
            None => (item, None),
        };
        let key = utf8(key)?;
        allowed(scheme, address, key)?;
        if seen.contains(&key) {
            return Err(format!("option {key} is given twice"));
        }
        seen.push(key);
        options.set(key, value.as_deref())?;
    }
    Ok(options)
}

fn allowed(scheme: Scheme, address: &Address, key: &str) -> Result<(), String> {
    let fits = match key {
        "backlog" => !scheme.is_datagram() && !scheme.is_inherited(),
        "mode" | "owner" | "group" if matches!(address, Address::Abstract(_)) => {
            return Err(format!("an abstract name has no {key}"));
        }
        "mode" | "owner" | "group" => scheme.is_unix(),
        "reuseport" => scheme.is_inet(),
        "name" => true,
        "fpm" => !scheme.is_datagram() && scheme != Scheme::Unixpacket,
        _ => {
            let known = "backlog mode owner group reuseport name fpm";
            return Err(format!("unknown option {key:?}; known are {known}"));
        }
    };
    match fits {
        true => Ok(()),
        false => Err(format!("option {key} does not apply to {}", scheme.name())),
    }
}

impl Options {
    fn set(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), String> {
        let value = value.map(utf8).transpose()?;
        if key == "reuseport" {
            let value = value.unwrap_or("true");
            self.reuseport = flags::boolean(value).map_err(|e| format!("{key} {value:?}: {e}"))?;
            return Ok(());
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(format!("option {key} needs a value"));
        };
        if value.contains('\0') {
            return Err(format!("the value of {key} contains NUL"));
        }
        match key {
            "backlog" => self.backlog = Some(backlog(value)?),
            "mode" => self.mode = Some(mode(value)?),
            "owner" => self.owner = Some(value.to_string()),
            "group" => self.group = Some(value.to_string()),
            "name" => self.name = Some(fd_name(value.as_bytes())?),
            _ => self.fpm = Some(fpm_name(value)?),
        }
        Ok(())
    }
}

fn backlog(value: &str) -> Result<u32, String> {
    let limits = 1..=i64::from(i32::MAX);
    match flags::integer(value, limits) {
        Ok(n) => Ok(n as u32),
        Err(reason) => Err(format!("backlog {value:?}: {reason}")),
    }
}

/// Octal, as chmod(1) takes it.
fn mode(value: &str) -> Result<u32, String> {
    let octal = value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(value, 8) {
        Ok(bits) if octal && bits <= 0o777 => Ok(bits),
        _ => Err(format!(
            "mode {value:?} is not an octal number from 0 to 0777"
        )),
    }
}

/// `FPM_SOCKETS` is `NAME=FD,NAME=FD`.
fn fpm_name(value: &str) -> Result<String, String> {
    match value.contains([',', '=']) {
        true => Err(format!("fpm {value:?} cannot stand in FPM_SOCKETS")),
        false => Ok(value.to_string()),
    }
}

fn ascii(text: &[u8]) -> Result<&str, String> {
    match std::str::from_utf8(text) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text),
        _ => Err(format!(
            "{:?} is not plain ASCII",
            String::from_utf8_lossy(text)
        )),
    }
}

fn utf8(text: &[u8]) -> Result<&str, String> {
    let reason = |_| format!("{:?} is not UTF-8", String::from_utf8_lossy(text));
    std::str::from_utf8(text).map_err(reason)
}

/// Percent-decoding (RFC 3986, 2.1); a `+` stays a `+`.
fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let Some(byte) = after
            .get(..2)
            .and_then(|code| Some(hex(code[0])? << 4 | hex(code[1])?))
        else {
            let code = String::from_utf8_lossy(&rest[..rest.len().min(3)]);
            return Err(format!("{code:?} is not a percent code"));
        };
        bytes.push(byte);
        rest = &after[2..];
    }
    Ok(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

/// The opposite of `decode`: coded are `reserved`, `%`, control characters and what is not UTF-8.
fn encode(f: &mut fmt::Formatter<'_>, text: &[u8], reserved: &str) -> fmt::Result {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() || c == '%' || reserved.contains(c) {
                true => percent(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                false => fmt::Write::write_char(f, c)?,
            }
        }
        percent(f, chunk.invalid())?;
    }
    Ok(())
}

fn percent(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.scheme.name(),
            self.address,
            self.options
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Host { host, port } if host.contains(':') => {
                write!(f, "[{}]:{port}", host.replacen('%', "%25", 1))
            }
            Address::Host { host, port } => write!(f, "{host}:{port}"),
            Address::Path(path) => {
                let bytes = path.as_os_str().as_bytes();
                let file = bytes.strip_prefix(b"@");
                f.write_str(if file.is_some() { "%40" } else { "" })?;
                encode(f, file.unwrap_or(bytes), "?")
            }
            Address::Abstract(name) => {
                f.write_str("@")?;
                encode(f, name.as_bytes(), "?")
            }
            Address::Fd(fd) => write!(f, "{fd}"),
            Address::Name(name) => encode(f, name.as_bytes(), "?"),
        }
    }
}

impl fmt::Display for Options {
    /// With the `?`, or nothing when all are at their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mark = "?";
        if let Some(backlog) = self.backlog {
            write!(f, "{mark}backlog={backlog}")?;
            mark = "&";
        }
        if let Some(mode) = self.mode {
            write!(f, "{mark}mode={mode:04o}")?;
            mark = "&";
        }
        if self.reuseport {
            write!(f, "{mark}reuseport")?;
            mark = "&";
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
                mark = "&";
                encode(f, value.as_bytes(), "&")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
