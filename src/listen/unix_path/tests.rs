use super::*;
use crate::listen::tests::{Folder, leave_stale};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

/// The pid of another process, dead or alive: it does not matter.
const OTHER: &str = "4194305";

/// The file of a socket that somebody has just bound there.
fn bound(path: &Path) -> SocketFile {
    let id = FileId::at(path).unwrap_or_else(|| panic!("no socket at {}", path.display()));
    SocketFile::bound(path, id, SockType::Stream)
}

#[test]
fn the_hidden_link_is_beside_the_path_and_names_its_process() {
    let link = hidden(Path::new("/run/x.sock"), "812");
    assert_eq!(link, Path::new("/run/.x.sock.812.socketmaster"));
    assert_eq!(hidden(Path::new("x"), "1"), Path::new(".x.1.socketmaster"));
    let is_link = |entry: &str| is_link_of(entry.as_ref(), "x.sock".as_ref());
    assert!(is_link(".x.sock.812.socketmaster"));
    for other in [
        ".x.sock.socketmaster",
        ".y.sock.812.socketmaster",
        ".x.sock.-1.socketmaster",
        ".x.sock.lock.socketmaster",
    ] {
        assert!(!is_link(other), "{other}");
    }
}

#[test]
fn a_stale_socket_is_cleared_away() {
    let folder = Folder::new();
    let path = folder.join("s");
    leave_stale(&path);
    assert_eq!(clear(&path, SockType::Stream, None), Ok(true));
    assert_eq!(clear(&path, SockType::Stream, None), Ok(false));
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_socket_that_answers_is_left_alone() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    assert_eq!(clear(&path, SockType::Stream, None), Err(Errno::EADDRINUSE));
    assert_eq!(
        clear(&path, SockType::Datagram, None),
        Err(Errno::EADDRINUSE),
        "EPROTOTYPE is an answer"
    );
    let _log = UnixDatagram::bind(folder.join("d")).unwrap();
    assert_eq!(
        clear(&folder.join("d"), SockType::Datagram, None),
        Err(Errno::EADDRINUSE)
    );
}

#[test]
fn a_full_queue_is_an_answer() {
    let folder = Folder::new();
    let path = folder.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    crate::sys::socket::listen(std::os::fd::AsFd::as_fd(&listener), 0).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    assert_eq!(clear(&path, SockType::Stream, None), Err(Errno::EADDRINUSE));
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = Folder::new();
    fs::write(folder.join("file"), "precious").unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("link")).unwrap();
    for name in ["file", "link"] {
        assert_eq!(
            clear(&folder.join(name), SockType::Stream, None),
            Err(Errno::EEXIST),
            "{name}"
        );
    }
    assert_eq!(
        clear(&folder.join("file/s"), SockType::Stream, None),
        Err(Errno::ENOTDIR)
    );
    assert_eq!(folder.names(), ["file", "link"]);
}

#[test]
fn both_names_go_at_the_end() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut file = bound(&path);
    assert_eq!(folder.names().len(), 2);
    assert_eq!(file.link().unwrap().parent(), Some(folder.path()));
    assert_eq!(file.remove(), [""; 0]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_path_that_is_somebody_elses_by_now_stays() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _ours = UnixListener::bind(&path).unwrap();
    let mut file = bound(&path);
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    assert_eq!(file.is_at_its_path(), Ok(false));
    assert_eq!(file.restore(SockType::Stream), Err(Errno::EADDRINUSE));
    assert_eq!(file.remove(), [""; 0]);
    assert_eq!(folder.names(), ["s"]);
}

#[test]
fn a_removed_path_is_restored_with_the_same_inode() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let file = bound(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(file.is_at_its_path(), Ok(false));
    file.restore(SockType::Stream).unwrap();
    assert_eq!(file.is_at_its_path(), Ok(true));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_second_name_that_was_tidied_away_is_made_again() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut file = bound(&path);
    fs::remove_file(file.link().unwrap()).unwrap();
    file.keep_link();
    assert_eq!(folder.names().len(), 2);
    // A path that is not ours is not linked.
    fs::remove_file(file.link().unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    file.keep_link();
    assert_eq!((folder.names().len(), file.link()), (1, None));
}

#[test]
fn links_that_nobody_needs_are_swept_and_others_are_not() {
    let folder = Folder::new();
    let path = folder.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    // Of the same socket, which has our own link; of one that is gone; of one that lives.
    fs::hard_link(&path, hidden(&path, "1")).unwrap();
    leave_stale(&hidden(&path, OTHER));
    let _living = UnixListener::bind(hidden(&path, "2")).unwrap();
    fs::write(hidden(&path, "3"), "not a socket").unwrap();
    let mut file = bound(&path);
    let own = hidden(&path, &Pid::this().to_string());
    let stay = [&path, &hidden(&path, "2"), &hidden(&path, "3"), &own];
    let mut stay = stay.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    stay.sort();
    assert_eq!(folder.names(), stay);
    assert_eq!(file.remove(), [""; 0]);
    drop(listener);
}

#[test]
fn of_two_that_want_a_path_one_waits_for_the_other() {
    let folder = Folder::new();
    let path = folder.join("s");
    let first = lock(&path, ONCE).unwrap_or_else(|_| panic!("it is free"));
    assert!(matches!(
        lock(&path, ONCE),
        Err(FileRefusal::System(Errno::EADDRINUSE))
    ));
    drop(first);
    assert!(lock(&path, ONCE).is_ok());
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn after_a_crash_the_path_is_restored_from_the_dead_processs_link() {
    for know_inode in [true, false] {
        let folder = Folder::new();
        let path = folder.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino() as u32;
        fs::rename(&path, hidden(&path, OTHER)).unwrap();
        let mut file = SocketFile::reclaim(&path, know_inode.then_some(inode), SockType::Stream);
        assert_eq!(file.is_at_its_path(), Ok(true));
        UnixStream::connect(&path).unwrap();
        assert_eq!(
            folder.names().len(),
            2,
            "the path and our own link: {:?}",
            folder.names()
        );
        assert_eq!(file.remove(), [""; 0]);
        drop(listener);
    }
}

#[test]
fn after_a_crash_somebody_elses_socket_is_not_taken_for_ours() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _theirs = UnixListener::bind(&path).unwrap();
    let other = fs::metadata(&path).unwrap().ino() as u32 ^ 1;
    let mut file = SocketFile::reclaim(&path, Some(other), SockType::Stream);
    assert_ne!(file.is_at_its_path(), Ok(true));
    assert_eq!(file.remove(), [""; 0]);
    assert_eq!(folder.names(), ["s"]);
}

#[test]
fn numbers_need_no_user_and_unknown_names_are_said() {
    let uri = crate::listen::tests::uri("unix:///x?owner=54321&group=54322&mode=0640");
    let rights = FileRights::of(&uri.options).unwrap();
    assert_eq!(rights.owner, Some(Uid::from_raw(54321)));
    assert_eq!(rights.group, Some(Gid::from_raw(54322)));
    let uri = crate::listen::tests::uri("unix:///x?owner=nobody-has-this-name");
    let error = FileRights::of(&uri.options).unwrap_err();
    assert_eq!(error, "cannot find user nobody-has-this-name");
    // The system would take the one for "leave it", and the other is no number.
    for options in ["owner=4294967295", "group=4294967295", "group=+7"] {
        let uri = crate::listen::tests::uri(&format!("unix:///x?{options}"));
        assert!(FileRights::of(&uri.options).is_err(), "{options}");
    }
}

#[test]
fn another_sockets_file_gets_no_hidden_link() {
    let folder = Folder::new();
    let path = folder.join("s");
    let _socket = UnixListener::bind(&path).unwrap();
    let mut file = bound(&path);
    let link = file.link().unwrap().to_owned();
    fs::remove_file(&link).unwrap();
    leave_stale(&folder.join("other"));
    fs::rename(folder.join("other"), &path).unwrap();
    let id = file.id.unwrap();
    assert_eq!(link_beside(&path, &link, id), Err(Errno::ESTALE));
    file.keep_link();
    assert_eq!((file.link(), FileId::at(&link)), (None, None));
}

#[test]
fn a_socket_that_was_bound_where_a_link_led_does_not_stay_there() {
    let folder = Folder::new();
    let foreign = folder.join("foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::symlink(&foreign, folder.join("link")).unwrap();
    let path = folder.join("link").join("s");
    let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
    if file_inode(socket.as_fd()).is_none() {
        return eprintln!("skipped: the kernel does not tell the inode");
    }
    let another = OwnedFd::from(UnixListener::bind(folder.join("s")).unwrap());
    remove_stray(&another, &path);
    assert!(
        fs::exists(foreign.join("s")).unwrap(),
        "it is another one's"
    );
    remove_stray(&socket, &path);
    assert!(!fs::exists(foreign.join("s")).unwrap());
}
