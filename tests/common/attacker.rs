//! A process of another user that attacks us while a test looks on.

use super::{TempDir, example};
use std::process::{Child, Command, Stdio};

/// A user who is neither root nor ours.
pub const STRANGER: u32 = 65534;

/// An attacker of the stranger's, until it is dropped.
pub struct Attacker(Child);

impl Attacker {
    /// One of our own user's, who may do more.
    pub fn of_ours(words: &[&str]) -> Attacker {
        let mut command = Command::new(example("attacker"));
        let child = command.args(words).stdout(Stdio::null()).spawn();
        Attacker(child.expect("it is built"))
    }

    pub fn start(dir: &TempDir, words: &[&str]) -> Attacker {
        let program = dir.copy_program(&example("attacker"), "attacker");
        let child = Command::new("setpriv")
            .args([
                &format!("--reuid={STRANGER}"),
                &format!("--regid={STRANGER}")[..],
            ])
            .args(["--clear-groups", &program])
            .args(words)
            .stdout(Stdio::null())
            .spawn();
        Attacker(child.expect("setpriv is there"))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
