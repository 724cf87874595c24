use super::*;
use crate::listen::tests::Folder;
use std::io::Seek;

#[test]
fn the_file_holds_the_pid_and_goes_with_us() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let file = PidFile::take(&path, 812).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "812\n");
    assert_eq!(file.path(), path);
    drop(file);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_second_instance_fails_and_harms_nothing() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let _first = PidFile::take(&path, 812).unwrap();
    let error = PidFile::take(&path, 813).unwrap_err().to_string();
    let wanted = format!(
        "cannot lock pid file {}: another instance runs (pid 812)",
        path.display()
    );
    assert_eq!(error, wanted);
    assert_eq!(fs::read_to_string(&path).unwrap(), "812\n");
}

#[test]
fn a_holder_that_has_not_written_yet_is_not_named() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let first = PidFile::take(&path, 812).unwrap();
    first.file.set_len(0).unwrap();
    let error = PidFile::take(&path, 813).unwrap_err().to_string();
    assert!(error.ends_with(": another instance runs"), "{error}");
}

#[test]
fn a_stale_file_is_taken_over_whatever_it_says() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    fs::write(&path, "999999 and a long line of something else\n").unwrap();
    let _file = PidFile::take(&path, 5).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "5\n");
}

#[test]
fn a_file_that_is_another_ones_by_now_stays() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let first = PidFile::take(&path, 812).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = PidFile::take(&path, 813).unwrap();
    drop(first);
    assert_eq!(fs::read_to_string(&path).unwrap(), "813\n");
}

#[test]
fn a_file_removed_between_open_and_lock_is_not_the_one() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let opened = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!is_same(&opened, fs::metadata(&path)));
    let _second = PidFile::take(&path, 813).unwrap();
    assert!(!is_same(&opened, fs::metadata(&path)));
}

#[test]
fn what_is_not_a_file_is_refused() {
    let folder = Folder::new();
    let fifo = folder.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = PidFile::take(&fifo, 5).unwrap_err().to_string();
    assert!(error.ends_with("fifo: File exists"), "{error}");
    let error = PidFile::take(&folder.join("no/x"), 5)
        .unwrap_err()
        .to_string();
    let wanted = format!("cannot open pid file {}/no/x: ", folder.path().display());
    assert_eq!(error, wanted + "No such file or directory");
}

#[test]
fn the_lock_survives_in_the_descriptor_that_an_exec_passes_on() {
    let folder = Folder::new();
    let path = folder.join("x.pid");
    let file = PidFile::take(&path, 812).unwrap();
    let copy = file.as_fd().try_clone_to_owned().unwrap();
    let mut resumed = PidFile::resume(&path, copy).unwrap();
    std::mem::forget(file);
    assert!(PidFile::take(&path, 813).is_err());
    resumed.file.rewind().unwrap();
    drop(resumed);
    assert_eq!(folder.names(), [""; 0]);
}
