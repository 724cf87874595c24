//! Einhorn's commands on the control socket, and the lines that an upgrade streams. The words are
//! `einhorn::answers`'; here they meet the core.

use super::{Daemon, Incoming, Wish};
use crate::config::{Dialect, ReadyGate};
use crate::control::{Rights, command};
use crate::einhorn::{Verbosity, answers};
use crate::error;
use crate::protocol::Args;
use crate::status::Told;
use crate::supervisor::{ChildId, Event, Outcome, Style};
use std::fmt::Write;

impl Daemon {
    fn einhorn_face(&self) -> Option<&Option<String>> {
        match self.control.socket.as_ref()?.dialect() {
            Dialect::Einhorn(name) => Some(name),
            Dialect::Socketmaster => None,
        }
    }

    /// einhorn's `reload` has no words after it, and reloads the master alone.
    pub(super) fn is_einhorns_reload(&self, incoming: &Incoming) -> bool {
        let bare = match &incoming.request.args {
            Args::List(words) => words.is_empty(),
            _ => true,
        };
        bare && incoming.request.command.as_deref() == Some("reload")
            && self.einhorn_face().is_some()
    }

    pub(super) fn on_einhorn(&mut self, incoming: &Incoming) {
        let request = &incoming.request;
        let answer = match request.command.as_deref() {
            None => answers::NO_COMMAND.to_owned(),
            Some("help") => self.help(),
            Some("ehlo") => self.ehlo(request.user.as_deref()),
            Some("state") => self.state(),
            Some("upgrade") => return self.on_upgrade(incoming, true),
            Some("upgrade_fleet") => return self.on_upgrade(incoming, false),
            Some("reload") => answers::RELOADING.to_owned(),
            Some("inc") => self.on_inc(),
            Some("dec") => self.on_dec(),
            Some("set_workers") => self.on_set_workers(&request.args),
            Some("signal") => self.on_signal_asked(incoming),
            Some("die") => return self.on_die(incoming),
            Some("quieter") => self.set_verbosity(self.verbosity().quieter()),
            Some("louder") => self.set_verbosity(self.verbosity().louder()),
            Some("config") => self.on_config(&request.args),
            Some(other) => self.unrecognized(other),
        };
        self.control.say(incoming, &answer);
    }

    /// What a client must be allowed for a command that is not socketmaster's own.
    pub(super) fn einhorn_needs(command: Option<&str>) -> Rights {
        match command {
            Some("help" | "ehlo" | "state") => Rights::Questions,
            _ => Rights::Everything,
        }
    }

    fn help(&self) -> String {
        match self.einhorn_face() {
            Some(_) => answers::help(),
            None => with_ours(&answers::help()),
        }
    }

    fn unrecognized(&self, command: &str) -> String {
        match self.einhorn_face() {
            Some(_) => answers::unrecognized(command),
            None => with_ours(&answers::unrecognized(command)),
        }
    }

    fn ehlo(&self, user: Option<&str>) -> String {
        let name = self.einhorn_face().and_then(Option::as_deref);
        answers::ehlo(user, std::process::id(), name)
    }

    /// Under einhorn's names, for people and for what greps in it.
    fn state(&self) -> String {
        let core = &self.core;
        let mut text = String::from("---\n:state:\n  :children:\n");
        for (id, worker) in core.workers().iter() {
            let pid = self.children.pid(id).unwrap_or(0);
            let version = worker.generation.saturating_sub(1);
            let acked = worker.is_ready();
            let signaled = if worker.is_asked() { "true" } else { "false" };
            let _ = write!(
                text,
                "    {pid}:\n      :type: :worker\n      :version: {version}\n      \
                 :acked: {acked}\n      :signaled: {signaled}\n      :index: {}\n",
                worker.index
            );
        }
        let version = core.live_generation().saturating_sub(1);
        let _ = write!(
            text,
            "  :config:\n    :number: {}\n  :version: {version}\n  :upgrading: {}\n  \
             :respawn: {}\n  :verbosity: {}\n",
            core.policy().workers,
            core.rolling_out().is_some() && core.has_been_up(),
            !core.is_stopping(),
            self.verbosity().number()
        );
        text
    }

    // ---- how many workers ----

    fn on_inc(&mut self) -> String {
        let old = self.core.policy().workers;
        match self.resize(old + 1) {
            Ok(_) => answers::incremented(old),
            Err(reason) => reason,
        }
    }

    fn on_dec(&mut self) -> String {
        let old = self.core.policy().workers;
        let (new, text) = answers::decremented(old, std::process::id());
        match new.map(|new| self.resize(new)) {
            Some(Err(reason)) => reason,
            _ => text,
        }
    }

    fn on_set_workers(&mut self, args: &Args) -> String {
        let new = match answers::wanted_workers(args) {
            Ok(new) => new,
            Err(answer) => return answer,
        };
        let old = self.core.policy().workers;
        if new == old {
            return answers::altered(old, new);
        }
        match self.resize(new) {
            Ok(_) => answers::altered(old, new),
            Err(reason) => reason,
        }
    }

    // ---- signals ----

    fn on_signal_asked(&mut self, incoming: &Incoming) -> String {
        let signals = match answers::wanted_signals(&incoming.request.args) {
            Ok(signals) => signals,
            Err(answer) => return answer,
        };
        for (number, name) in &signals {
            self.log_request(incoming, &format!("SIG{name} to all workers"));
            for id in self.core.workers().ids() {
                if let Err(errno) = self.signal(id, *number) {
                    let (pid, reason) = (self.children.pid(id).unwrap_or(0), errno.desc());
                    error!(
                        self.logger,
                        "cannot send SIG{name} to worker {pid}: {reason}"
                    );
                }
            }
        }
        answers::signalled(signals.len())
    }

    fn on_die(&mut self, incoming: &Incoming) {
        let signal = match answers::wanted_death(&incoming.request.args) {
            Ok((signal, _)) => signal,
            Err(answer) => return self.control.say(incoming, &answer),
        };
        let named = matches!(&incoming.request.args, Args::List(words) if !words.is_empty());
        // Workers that are not einhorn's know no USR2.
        let signal = if named {
            signal
        } else {
            self.core.policy().stop_signal
        };
        self.log_request(incoming, "die");
        self.control.say(incoming, answers::GOING_DOWN);
        self.on_stop_signal("die", signal);
    }

    // ---- verbosity ----

    fn verbosity(&self) -> Verbosity {
        Verbosity::of(self.log.level())
    }

    fn set_verbosity(&mut self, verbosity: Verbosity) -> String {
        self.log.set_level(verbosity.level());
        answers::verbosity(verbosity)
    }

    fn on_config(&mut self, args: &Args) -> String {
        let (change, answer) = answers::config(args);
        if let Some(change) = change {
            self.set_verbosity(change.verbosity);
        }
        answer
    }

    // ---- upgrades ----

    /// `upgrade` and `upgrade_fleet`: with an id, every line about it and `Upgrade done` follow.
    fn on_upgrade(&mut self, incoming: &Incoming, smooth: bool) {
        if self.core.is_stopping() {
            let answer = answers::upgrade_failed("stopping");
            return self.control.say(incoming, &answer);
        }
        let wait = incoming.request.id.is_some() && !self.control.is_crowded();
        let text = match smooth {
            true => answers::UPGRADING_SMOOTHLY,
            false => answers::UPGRADING_FLEET,
        };
        self.control.say_and_wait(incoming, text, wait);
        self.log_request(incoming, "upgrade");
        if wait {
            let generation = None;
            self.control
                .wait(incoming, Wish::Upgrade { generation, smooth });
        }
        let running = self.core.rolling_out();
        let before = self.control.begun;
        self.tell(Event::Reload(self.upgrade_style(smooth)));
        let remembered = wait && self.control.begun == before;
        if let Some(generation) = running.filter(|_| remembered) {
            let acked = self.core.workers().tally(generation).ready;
            let line = answers::upgrade_remembered(acked, self.core.policy().workers);
            self.control.say_and_wait(incoming, &line, true);
        }
    }

    /// Under our own command line the administrator has said how reloads go.
    fn upgrade_style(&self, smooth: bool) -> Option<Style> {
        let style = if smooth { Style::Rolling } else { Style::Fleet };
        self.einhorn_face().map(|_| style)
    }

    /// A line about the upgrade that is running, for those who asked for it.
    fn stream(&mut self, generation: u64, line: &str) {
        self.control.progress(line, &|wish| {
            matches!(wish, Wish::Upgrade { .. }) && wish.is_for(Some(generation))
        });
    }

    pub(super) fn upgrade_begins(&mut self, generation: u64) {
        let version = self.core.live_generation().saturating_sub(1);
        for smooth in [true, false] {
            let line = answers::upgrade_starts(smooth, version);
            let bound = Wish::Upgrade {
                generation: Some(generation),
                smooth,
            };
            self.control.progress(&line, &|wish| wish == bound);
        }
    }

    pub(super) fn upgrade_launched(&mut self, id: ChildId, index: u32) {
        let Some(pid) = self.children.alive.get(&id).map(|child| child.pid) else {
            return;
        };
        if let Some(generation) = self.core.rolling_out() {
            self.stream(generation, &answers::launched(pid, index));
        }
    }

    pub(super) fn upgrade_acked(&mut self, id: ChildId, generation: u64, acked: u32) {
        let pid = self.children.pid(id).unwrap_or(0);
        let manual = self.config.ready == ReadyGate::Ack;
        let line = match manual {
            true => answers::manual_ack(pid),
            false => answers::timer_ack(pid, self.config.start.as_secs_f64()),
        };
        self.stream(generation, &line);
        let target = self.core.policy().workers;
        self.stream(generation, &answers::acks(acked, target, manual, 0));
    }

    pub(super) fn upgrade_asks(&mut self, id: ChildId, signal: i32) {
        let Some(pid) = self.children.pid(id) else {
            return;
        };
        // The last ones are asked just before the verdict, when nothing is rolled out any more.
        let begun = self.control.begun;
        let worker = self.core.workers().find(id);
        if worker.is_some_and(|worker| worker.generation < begun) {
            let smooth = Wish::Upgrade {
                generation: Some(begun),
                smooth: true,
            };
            let line = answers::culling_smoothly(1);
            self.control.progress(&line, &|wish| wish == smooth);
        }
        let name = crate::text::signal_name(signal);
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        self.stream(begun, &answers::sending(name, &[pid]));
    }

    pub(super) fn upgrade_exited(&mut self, id: ChildId, pid: i32) {
        let worker = self.core.workers().find(id);
        let acked = worker.is_some_and(|worker| worker.is_ready() || worker.is_asked());
        self.stream(self.control.begun, &answers::exited(pid, acked));
    }

    pub(super) fn upgrade_ends(&mut self, told: &Told, bound: Option<u64>) {
        let is_meant = |wish: Wish| matches!(wish, Wish::Upgrade { .. }) && wish.is_for(bound);
        let verdict = &told.verdict;
        if verdict.outcome == Outcome::Superseded {
            // The one that begins now is newer still: theirs is done when that is.
            self.control.progress(&told.text(), &is_meant);
            for waiter in &mut self.control.waiters {
                match &mut waiter.wish {
                    Wish::Upgrade { generation, .. } if *generation == bound => *generation = None,
                    _ => {}
                }
            }
        } else if verdict.outcome == Outcome::Live {
            let line = answers::upgraded(verdict.generation.saturating_sub(1));
            self.control.progress(&line, &is_meant);
            self.control
                .conclude(answers::UPGRADE_DONE, None, &is_meant);
        } else {
            let line = answers::upgrade_failed(&told.text());
            self.control.conclude(&line, None, &is_meant);
        }
    }
}

/// einhorn's list and ours; `reload` is ours.
fn with_ours(text: &str) -> String {
    let others = text.replace("reload: Reload Einhorn\n", "");
    format!("{others}{}", command::HELP)
}
