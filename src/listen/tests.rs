use super::*;
use nix::poll::{PollFd, PollFlags, poll};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of the test's own, gone with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketmaster-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The names in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

pub(crate) fn unix_uri(path: &Path, options: &str) -> Uri {
    uri(&format!("unix://{}{options}", path.display()))
}

pub(crate) fn open(text: &str) -> Listener {
    let mut opened = open_all(&[uri(text)], &Inherited::default()).unwrap();
    assert_eq!(opened.listeners.len(), 1);
    opened.listeners.remove(0)
}

pub(crate) fn open_unix(path: &Path) -> Listener {
    open(&format!("unix://{}", path.display()))
}

/// A client's connection must be there to be accepted within ten seconds.
pub(crate) fn accepts(listener: &Listener) {
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let found = poll(&mut waiting, 10_000_u16).unwrap();
    assert_eq!(
        found,
        1,
        "waited 10 s for a client of {}",
        listener.address()
    );
    let client = nix::sys::socket::accept(listener.fd.as_raw_fd()).unwrap();
    nix::unistd::close(client).unwrap();
}

pub(crate) fn port(listener: &Listener) -> u16 {
    let Bound::Inet(address) = &listener.bound else {
        panic!("not an internet socket")
    };
    address.port()
}

/// Ends a listener for everybody at once. (Closing it is not enough: a child that another test forks
/// at this moment holds a copy until it executes its program.)
pub(crate) fn close(listener: impl Into<OwnedFd>) {
    let fd: OwnedFd = listener.into();
    nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
}

/// A socket file that nobody answers on.
pub(crate) fn leave_stale(path: &Path) {
    close(UnixListener::bind(path).unwrap());
}

/// A TCP address that was free a moment ago.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    close(listener);
    address
}

/// The number of a socket that looks as if it had come through our exec: without close-on-exec.
pub(crate) fn pass_on(socket: impl Into<OwnedFd>) -> i32 {
    let fd: OwnedFd = socket.into();
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fd.into_raw_fd()
}

#[test]
fn the_texts_of_an_internet_socket() {
    let listener = open("tcp://127.0.0.1:0?name=web");
    let port = port(&listener);
    assert_eq!(listener.address(), format!("tcp://127.0.0.1:{port}"));
    assert_eq!(
        listener.as_socket().server_starter,
        *format!("127.0.0.1:{port}")
    );
    assert_eq!(listener.as_socket().php_fpm, *format!("127.0.0.1:{port}"));
    assert_eq!(
        (listener.as_socket().family, &*listener.name),
        ("AF_INET", "web")
    );
    assert_eq!(
        (listener.kind, listener.is_inherited()),
        (SockType::Stream, false)
    );
}

#[test]
fn a_socket_on_all_addresses_is_its_port_to_server_starter() {
    let listener = open("tcp4://:0");
    let port = port(&listener);
    assert_eq!(listener.address(), format!("tcp4://0.0.0.0:{port}"));
    assert_eq!(listener.as_socket().server_starter, *port.to_string());
    assert_eq!(&*listener.name, "unknown");
}

#[test]
fn the_texts_of_a_unix_socket() {
    let folder = Folder::new();
    let path = folder.join("x.sock");
    let mut listener = open(&format!("unix://{}?fpm=127.0.0.1:9000", path.display()));
    assert_eq!(listener.address(), format!("unix://{}", path.display()));
    assert_eq!(listener.as_socket().server_starter, path.to_string_lossy());
    assert_eq!(
        (&*listener.as_socket().php_fpm, listener.as_socket().family),
        ("127.0.0.1:9000", "AF_UNIX")
    );
    listener.remove();
}

#[test]
fn the_texts_of_an_abstract_socket() {
    let name = format!("socketmaster-test-{}-texts", std::process::id());
    let listener = open(&format!("unix://@{name}"));
    assert_eq!(listener.address(), format!("unix://@{name}"));
    assert_eq!(listener.as_socket().server_starter, *format!("@{name}"));
    assert!(listener.file.is_none());
}

#[test]
fn the_queue_is_what_the_kernel_says_also_after_a_worker_changed_it() {
    let listener = open("tcp://127.0.0.1:0?backlog=50");
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    assert_eq!(listener.queue(), Some((1, 50)));
    crate::sys::socket::listen(listener.as_fd(), 7).unwrap();
    assert_eq!(listener.queue(), Some((1, 7)));
    assert_eq!(open("udp://127.0.0.1:0").queue(), None);
}

#[test]
fn the_queue_of_a_unix_socket_is_known_by_sock_diag() {
    let folder = Folder::new();
    let path = folder.join("s");
    let listener = open(&format!("unix://{}?backlog=5", path.display()));
    let _client = UnixStream::connect(&path).unwrap();
    if unix_diag(listener.as_fd()).is_none() {
        return eprintln!("skipped: no sock_diag here");
    }
    assert_eq!(listener.queue(), Some((1, 5)));
}

#[test]
fn an_adopted_socket_is_checked() {
    let adopt = |fd: OwnedFd| {
        Listener::adopt(uri("fd://9"), fd, None)
            .unwrap_err()
            .to_string()
    };
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(adopt(file.into()), "cannot use fd://9: it is not a socket");
    let (one, _other) = UnixStream::pair().unwrap();
    assert_eq!(adopt(one.into()), "cannot use fd://9: it is not listening");
    let unbound = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert_eq!(
        adopt(unbound.into()),
        "cannot use fd://9: it has no address"
    );
}

#[test]
fn an_adopted_socket_has_the_scheme_of_what_it_is() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = Listener::adopt(uri("fd://9"), tcp.into(), Some("web")).unwrap();
    assert_eq!(listener.address(), format!("tcp://{address}"));
    assert_eq!(
        (&*listener.name, listener.store_name.as_deref()),
        ("web", None)
    );
    assert!(listener.is_inherited());
    let folder = Folder::new();
    let packet = std::os::unix::net::UnixDatagram::bind(folder.join("d")).unwrap();
    let listener = Listener::adopt(uri("fd://9?name=log"), packet.into(), Some("x")).unwrap();
    assert_eq!(
        listener.address(),
        format!("unixgram://{}", folder.join("d").display())
    );
    assert_eq!(&*listener.name, "log");
}

#[test]
fn the_path_of_an_inherited_socket_is_never_removed() {
    let folder = Folder::new();
    let path = folder.join("s");
    let fd = UnixListener::bind(&path).unwrap();
    let mut listener = Listener::adopt(uri("fd://9"), fd.into(), None).unwrap();
    assert_eq!(folder.names().len(), 2, "the path and the hidden link");
    listener.remove();
    assert_eq!(folder.names(), ["s"]);
}

#[test]
fn what_we_open_is_close_on_exec_and_blocking() {
    let listener = open("tcp://127.0.0.1:0");
    let flags = fcntl(&listener.fd, FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, nix::libc::FD_CLOEXEC);
    let status = fcntl(&listener.fd, FcntlArg::F_GETFL).unwrap();
    assert_eq!(status & nix::libc::O_NONBLOCK, 0);
}
