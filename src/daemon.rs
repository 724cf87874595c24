//! The loop: it waits, translates what the kernel says into events of the core, performs what the
//! core wants done, and waits again. It owns every descriptor and every pid, and no policy.
//!
//! A turn takes things up in this order: stop signals, readiness, deaths, other signals,
//! deadlines. What is promoted is decided after one more look that found no death.

mod children;
mod control;
mod hangup;
mod outputs;
mod sockets;

use crate::config::{Config, SignalAction};
use crate::control::verdict::{self, FailedWorker, ReloadReport};
use crate::control::{Control, MAX_CLIENTS};
use crate::listen::{Listener, Opened};
use crate::log::Log;
use crate::pidfile::PidFile;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{self, Action, ChildId, Event, Instant, Outcome, Supervisor};
use crate::sys::process::{probe_pidfd, unblock_signals};
use crate::sys::{clock, signals};
use crate::systemd::{Stored, Systemd};
use crate::text::{counted, errno_text, error_text};
use crate::worker::user::User;
use children::Children;
use hangup::{Meaning, Terminal};
use nix::errno::Errno;
use nix::sys::resource::rlim_t;
use signal_hook::consts::{SIGCHLD, SIGHUP};
pub use signal_hook_mio::v1_0::Signals;
use slog::{error, info, warn};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// How long the last lines may take to be written before we end without them.
const FINAL_FLUSH: Duration = Duration::from_secs(1);
/// Descriptors that one worker may need at once: pidfd, exec report, notify socket, output pipe.
const PER_WORKER: rlim_t = 4;
/// Descriptors that are ours whatever the workers need: the loop's, the log's, the clients'.
const OUR_OWN: rlim_t = 48 + MAX_CLIENTS as rlim_t;
/// One kind of trouble is one line in this time at most.
const COMPLAINTS: Duration = Duration::from_secs(1);
/// While we wait for workers to be ready or to leave, the log says this often for whom.
const REMINDER: Duration = Duration::from_secs(30);
/// So long after a turn there is one more look for signals, whatever became of their wake-ups.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Handles these signals and SIGCHLD. They are set up before anything else is done.
pub fn install_signals(signals: impl Iterator<Item = i32>) -> io::Result<Signals> {
    signals::ignore_signals_of_writing()?;
    signals::watch_hangups()?;
    Signals::new(signals.chain([SIGCHLD]))
}

/// Everything that was set up before the loop starts.
pub struct Setup {
    pub config: Config,
    pub signals: Signals,
    pub opened: Opened,
    pub user: Option<User>,
    /// RLIMIT_NOFILE as we found it, (soft, hard), and raised.
    pub nofile: (rlim_t, rlim_t),
    pub systemd: Option<Systemd>,
    pub control: Option<Control>,
    pub pidfile: Option<PidFile>,
}

/// What the system may still refuse.
struct Registered {
    poller: Poller,
    terminal: Terminal,
    guard: sockets::GuardState,
    systemd: Option<Systemd>,
    control: control::State,
    stdin: OwnedFd,
}

impl Registered {
    fn new(setup: &mut Setup) -> Result<Registered, String> {
        let watching = |error: io::Error| {
            let reason = error_text(&error);
            format!("watch our descriptors: {reason}")
        };
        // Not to be found out when the first worker has ended.
        crate::sys::process::next_dead()
            .map_err(|errno| format!("learn of workers' ends (waitid): {}", errno.desc()))?;
        let mut poller = Poller::new().map_err(watching)?;
        poller
            .register(&mut setup.signals, Source::Signals, Interest::READABLE)
            .map_err(watching)?;
        let terminal = Terminal::open();
        if let Some(tty) = terminal.fd() {
            // There is no empty interest; a hang-up is told whatever was asked for.
            let _ = poller.add(tty, Source::Terminal, Interest::PRIORITY);
        }
        let listeners = &setup.opened.listeners;
        let guard = sockets::GuardState::new(&mut poller, listeners).map_err(watching)?;
        let systemd = setup.systemd.take();
        if let Some(systemd) = &systemd {
            poller
                .add(systemd.wait_fd(), Source::Systemd, Interest::WRITABLE)
                .map_err(watching)?;
        }
        let control = control::State::new(&mut poller, setup.control.take()).map_err(watching)?;
        let stdin = crate::worker::spawn::worker_stdin(setup.config.shares_terminal)
            .map_err(|errno| format!("open the workers' stdin: {}", errno.desc()))?;
        Ok(Registered {
            poller,
            terminal,
            guard,
            systemd,
            control,
            stdin,
        })
    }
}

pub struct Daemon {
    config: Config,
    core: Supervisor,
    poller: Poller,
    signals: Signals,
    /// Signals that were read and wait for their place in the turn.
    waiting: BTreeSet<i32>,
    log: Log,
    logger: slog::Logger,
    children: Children,
    listeners: Vec<Listener>,
    sockets: Vec<sockets::Texts>,
    guard: sockets::GuardState,
    terminal: Terminal,
    systemd: Option<Systemd>,
    control: control::State,
    user: Option<User>,
    pidfile: Option<PidFile>,
    stdin: OwnedFd,
    directory: Option<PathBuf>,
    /// The environment that we were started with.
    inherited: Vec<(OsString, OsString)>,
    nofile: Option<(rlim_t, rlim_t)>,
    last_verdict: String,
    reminder: Option<Instant>,
    second_look: Option<Instant>,
    asked_to_stop: bool,
    /// More children have ended than one turn collects.
    unreaped: bool,
    /// That events cannot be waited for is not said again before this.
    next_complaint: Instant,
    exit: Option<i32>,
}

/// The number of workers that a limit of descriptors suffices for.
pub fn capacity(hard_limit: rlim_t, listeners: usize, config: &Config) -> u32 {
    let left = hard_limit.saturating_sub(OUR_OWN + listeners as rlim_t);
    let each = PER_WORKER + rlim_t::from(config.control_fd);
    u32::try_from(left / each).unwrap_or(u32::MAX)
}

impl Daemon {
    /// Registers everything that the loop waits for. Fails only where the system refuses a
    /// descriptor; nothing has been started then, and no path of ours is left.
    pub fn new(mut setup: Setup, log: Log) -> Result<Daemon, Box<(String, Log)>> {
        match Registered::new(&mut setup) {
            Ok(registered) => Ok(Daemon::assemble(setup, registered, log)),
            Err(what) => {
                setup.opened.abandon();
                Err(Box::new((what, log)))
            }
        }
    }

    fn assemble(setup: Setup, registered: Registered, log: Log) -> Daemon {
        let Opened {
            listeners, forget, ..
        } = setup.opened;
        let capacity = capacity(setup.nofile.1, listeners.len(), &setup.config);
        let policy = setup.config.policy(capacity);
        let mut daemon = Daemon {
            core: Supervisor::new(policy),
            sockets: listeners.iter().map(sockets::Texts::new).collect(),
            stdin: registered.stdin,
            directory: crate::worker::command::logical_directory(std::env::var_os("PWD")),
            inherited: std::env::vars_os().collect(),
            nofile: Some(setup.nofile),
            config: setup.config,
            poller: registered.poller,
            signals: setup.signals,
            waiting: BTreeSet::new(),
            logger: log.logger(),
            log,
            children: Children::default(),
            listeners,
            guard: registered.guard,
            terminal: registered.terminal,
            systemd: registered.systemd,
            control: registered.control,
            user: setup.user,
            pidfile: setup.pidfile,
            last_verdict: String::new(),
            reminder: None,
            second_look: None,
            asked_to_stop: false,
            unreaped: false,
            next_complaint: Instant(0),
            exit: None,
        };
        daemon.fill_store(&forget);
        daemon
    }

    /// Runs until there is nothing left to run; returns our exit status.
    pub fn run(mut self) -> i32 {
        // From now on only a stop ends us.
        if !probe_pidfd() {
            info!(
                self.logger,
                "no pidfd_open(2) here: learning of workers' ends by SIGCHLD"
            );
        }
        if let Some(level) = self.config.nice.master {
            self.renice(std::process::id() as i32, level);
        }
        // A stop that came during the set-up starts nothing.
        self.read_signals();
        self.take_up_stops();
        self.tell(Event::Start);
        loop {
            if let Some(status) = self.exit {
                self.end_control(status);
                let why = match (self.asked_to_stop, self.core.has_given_up()) {
                    (true, false) => "stopped",
                    (true, true) => "stopped without the workers that were given up",
                    (false, false) => "the workers left",
                    (false, true) => "the workers left, but for those that were given up",
                };
                if let Some(Err(reason)) = self.pidfile.as_ref().map(PidFile::remove) {
                    warn!(self.logger, "{reason}; it stays behind");
                }
                info!(self.logger, "{why}: exiting with status {status}");
                self.finish();
                return status;
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        // Deadlines are measured by the time before the look: whatever happened until then has been
        // seen, however long we were kept from running after it.
        let now = clock::now();
        let until = self.next_deadline(now);
        let at_once = self.has_work() || until.is_some_and(|until| until <= now);
        self.look(until, at_once);
        self.plan_second_look(now);
        self.take_up();
        self.tell_at(now, Event::Tick);
        self.settle();
        self.take_up_the_rest();
        self.retry_to_mend(now);
        self.tidy_control();
        self.log.flush(clock::now());
        self.children.outputs.resume(&self.log, clock::now());
        self.poller.watch_log(self.log.wait_fd());
        self.tell_systemd();
    }

    /// A signal that comes while we wait ends the wait. One that comes during a turn is lost until
    /// the next turn if the handler's wake-up fails, and all of them are if the mask could not be
    /// given back after a fork. So every turn is followed by another a second later; when that one
    /// finds nothing we sleep as long as there is nothing to do.
    fn plan_second_look(&mut self, now: Instant) {
        let is_second = self.second_look.is_some_and(|at| at <= now);
        if is_second {
            self.second_look = None;
            let unblocked = unblock_signals();
            if let Err(errno) = unblocked {
                let reason = errno_text(errno as i32);
                error!(
                    self.logger,
                    "cannot unblock signals: {reason}; trying again in a second"
                );
            }
            self.read_signals();
            if unblocked.is_ok() && self.waiting.is_empty() && !self.poller.has_ready() {
                return;
            }
        }
        if self.second_look.is_none() {
            self.second_look = Some(clock::now() + SECOND_LOOK);
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let core = self.core.next_deadline(now);
        let others = [
            self.log.retry_at(),
            self.poller.deadline(),
            self.children.outputs.retry_at(),
            self.systemd.as_ref().and_then(Systemd::deadline),
            self.control.deadline(),
            self.guard.retry_at(),
            self.reminder,
            self.second_look,
        ];
        core.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Whether something that was found ready is still to be taken up.
    fn has_work(&self) -> bool {
        !self.waiting.is_empty()
            || self.poller.has_ready()
            || self.unreaped
            || self.children.outputs.wants_turn()
            || self.log.wants_turn()
    }

    fn look(&mut self, until: Option<Instant>, at_once: bool) {
        let Err(error) = self.poller.wait(until, at_once) else {
            return;
        };
        let now = clock::now();
        if now >= self.next_complaint {
            self.next_complaint = now + COMPLAINTS;
            error!(
                self.logger,
                "cannot wait for events: {}; looking at everything instead",
                error_text(&error)
            );
        }
    }

    /// Takes up what decisions depend on, in their order. Returns whether a worker has ended.
    fn take_up(&mut self) -> bool {
        self.read_signals();
        self.take_up_stops();
        let speaks = |source: &Source| {
            matches!(
                source,
                Source::Report(_) | Source::Notify(_) | Source::Control(_)
            )
        };
        for source in self.take(speaks) {
            match source {
                Source::Report(id) => self.on_report(id),
                Source::Notify(id) => self.on_notify(id),
                Source::Control(number) => self.on_control(number),
                _ => {}
            }
        }
        let dead = !self
            .take(|source| matches!(source, Source::Death(_)))
            .is_empty();
        let told = self.waiting.remove(&SIGCHLD);
        let again = self.unreaped || self.children.is_blind();
        let ended = (told || dead || again) && self.reap();
        while let Some(signal) = self.waiting.pop_first() {
            self.on_signal(signal);
        }
        self.obey();
        ended
    }

    fn take_up_stops(&mut self) {
        for signal in self.waiting.clone() {
            match self.config.action(signal) {
                SignalAction::Stop(sent) => self.on_stop_signal(signal_name(signal), sent),
                SignalAction::Leave => self.leave(signal),
                _ => continue,
            }
            self.waiting.remove(&signal);
        }
    }

    /// Promotes what is ready, after a look that found no death.
    fn settle(&mut self) {
        while self.core.awaits_confirmation() {
            self.look(None, true);
            let ended = self.take_up();
            if !(self.reap() || ended) {
                self.tell(Event::PromotionConfirmed);
            }
        }
    }

    /// Takes up what no decision waits for.
    fn take_up_the_rest(&mut self) {
        for source in self.take(|source| !matches!(source, Source::Output(_))) {
            match source {
                Source::Terminal => self.look_at_terminal(),
                Source::Listener(_) | Source::Paths => self.on_listener_event(),
                // Flushed at the end of each turn.
                Source::Log | Source::Systemd | Source::Signals | Source::Timer => {}
                Source::Output(_) => {} // below, in their own order
                // Found ready since: the next turn takes them up first.
                early @ (Source::Report(_)
                | Source::Notify(_)
                | Source::Death(_)
                | Source::Control(_)) => {
                    self.poller.mark_ready(early);
                }
            }
        }
        self.read_outputs();
        self.remind();
    }

    fn take(&mut self, is_meant: fn(&Source) -> bool) -> Vec<Source> {
        self.poller.take_ready(is_meant)
    }

    // ---- signals ----

    /// In every turn, whatever caused it: the wake-up may have failed.
    fn read_signals(&mut self) {
        self.take(|source| *source == Source::Signals);
        self.waiting.extend(self.signals.pending());
    }

    /// `name`: what asks us to stop; `signal` goes to the workers.
    fn on_stop_signal(&mut self, name: &str, signal: i32) {
        let workers = counted(self.core.workers().len(), "worker");
        if self.core.is_stopping() {
            info!(
                self.logger,
                "{name}: forwarding it to {workers}, we are stopping already"
            );
        } else {
            info!(self.logger, "{name}: stopping, {workers} asked to finish");
        }
        self.asked_to_stop = true;
        self.tell(Event::Stop(signal));
    }

    /// The workers get the signal, and nobody is waited for.
    fn leave(&mut self, signal: i32) {
        let name = signal_name(signal);
        let workers = counted(self.core.workers().len(), "worker");
        info!(
            self.logger,
            "{name}: forwarding it to {workers} and leaving at once"
        );
        self.tell(Event::Stop(signal));
        self.exit = Some(1);
    }

    fn on_signal(&mut self, signal: i32) {
        let name = signal_name(signal);
        match self.config.action(signal) {
            SignalAction::Reload if signal == SIGHUP => self.on_hangup(),
            SignalAction::Reload => self.on_reload_signal(name),
            SignalAction::Forward => {
                let workers = counted(self.core.workers().len(), "worker");
                info!(self.logger, "{name}: forwarding it to {workers}");
                self.tell(Event::Quit);
            }
            SignalAction::SelfUpgrade => warn!(
                self.logger,
                "{name}: self-upgrade is not available; going on"
            ),
            SignalAction::Ignore => info!(self.logger, "{name}: ignored"),
            // They were taken up before.
            SignalAction::Stop(_) | SignalAction::Leave => {}
        }
    }

    fn on_hangup(&mut self) {
        let senders = signals::take_hangups();
        self.look_at_terminal();
        match self.terminal.meaning(clock::now(), senders) {
            Meaning::Reload => self.on_reload_signal("SIGHUP"),
            Meaning::HangUp => info!(
                self.logger,
                "SIGHUP because the terminal closed: ignored, the service goes on"
            ),
            Meaning::Seen => {}
        }
    }

    fn on_reload_signal(&mut self, name: &str) {
        info!(self.logger, "{name}: a reload");
        self.tell(Event::Reload(None));
    }

    fn look_at_terminal(&mut self) {
        if self.terminal.look(clock::now()) {
            info!(self.logger, "the terminal closed: the service goes on");
        }
    }

    // ---- the core ----

    fn tell(&mut self, event: Event) {
        self.tell_at(clock::now(), event);
    }

    fn tell_at(&mut self, now: Instant, event: Event) {
        self.core.handle(now, event);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Begin { generation, first } => self.on_begin(generation, first),
                Action::Spawn {
                    id,
                    generation,
                    index,
                } => {
                    self.start(id, generation, index);
                    self.control_started(id, index);
                }
                Action::Signal { id, signal } => {
                    self.control_asks(id, signal);
                    let result = self.signal(id, signal);
                    self.on_sent(id, signal, result);
                }
                Action::Kill { id } => {
                    let result = self.kill_group(id);
                    self.on_sent(id, libc::SIGKILL, result);
                }
                Action::GiveUp { id, why } => self.give_up(id, why),
                Action::CloseListeners => self.close_listeners(),
                Action::Verdict(verdict) => self.on_verdict(&verdict),
                Action::Note(note) => self.on_note(&note),
                Action::Exit(status) => self.exit = Some(self.exit_status(status)),
            }
        }
        debug_assert!(
            self.children
                .alive
                .keys()
                .all(|id| self.core.workers().find(*id).is_some()),
            "every process is a worker that the core knows"
        );
    }

    /// The core goes by what became of a signal; the loop of actions goes on with what follows.
    fn on_sent(&mut self, id: ChildId, signal: i32, result: Result<(), Errno>) {
        let result = result.map_err(|errno| errno as i32);
        let event = Event::Sent { id, signal, result };
        self.core.handle(clock::now(), event);
    }

    fn exit_status(&self, status: i32) -> i32 {
        let stops_well = self.config.stop_is_success && !self.core.has_given_up();
        match stops_well && self.asked_to_stop {
            true => 0,
            false => status,
        }
    }

    fn on_begin(&mut self, generation: u64, first: bool) {
        let workers = counted(self.core.policy().workers as usize, "worker");
        if !first {
            info!(self.logger, "reload {generation}: starting {workers}");
            if let Some(systemd) = &mut self.systemd {
                systemd.reloading(clock::now());
            }
        }
        self.control_begins(generation, first);
    }

    fn on_verdict(&mut self, verdict: &supervisor::Verdict) {
        let worker = verdict.failure.as_ref().and_then(|failure| failure.worker);
        let failed = worker.map_or_else(FailedWorker::default, |id| self.children.failed(id));
        let report = ReloadReport::new(verdict, failed);
        let text = report.line();
        let is_whole = verdict.failure.is_none() && verdict.unreached.is_none();
        match (verdict.outcome, is_whole) {
            (Outcome::Live, true) | (Outcome::Abandoned, _) => info!(self.logger, "{text}"),
            (Outcome::Live, false) | (Outcome::Superseded, _) => warn!(self.logger, "{text}"),
            _ => error!(self.logger, "{text}"),
        }
        self.last_verdict = text;
        if let Some(systemd) = self.systemd.as_mut().filter(|_| self.core.has_been_up()) {
            systemd.ready();
        }
        self.control_verdict(report);
    }

    fn on_note(&mut self, note: &supervisor::Note) {
        use supervisor::Note;
        let pid = match note {
            Note::Ready { id }
            | Note::Killed { id }
            | Note::Refused { id, .. }
            | Note::LeftAlone { id, .. }
            | Note::Replacing { id, .. }
            | Note::NotReplaced { id, .. } => self.children.pid(*id),
            _ => None,
        };
        let mut text = verdict::note_text(note, pid);
        if matches!(note, Note::NotReplaced { .. }) && !self.core.policy().respawn {
            text += " (-respawn is off)";
        }
        match note {
            Note::Ready { .. } | Note::ReloadRemembered { .. } => info!(self.logger, "{text}"),
            _ => warn!(self.logger, "{text}"),
        }
        if let Note::Ready { id } = note {
            self.control_ready(*id);
        }
    }

    /// A long wait says what it waits for, every now and then.
    fn remind(&mut self) {
        let now = clock::now();
        let coming = self.core.rolling_out();
        match self.reminder {
            _ if !self.core.is_stopping() && coming.is_none() => self.reminder = None,
            None => self.reminder = Some(now + REMINDER),
            Some(at) if at <= now => {
                self.reminder = Some(now + REMINDER);
                self.say_what_we_wait_for(coming);
            }
            Some(_) => {}
        }
    }

    fn say_what_we_wait_for(&self, coming: Option<u64>) {
        let mut pids = Vec::new();
        for (id, worker) in self.core.workers().iter() {
            if coming.is_none() || worker.is_unready() {
                pids.extend(self.children.pid(id).map(|pid| pid.to_string()));
            }
        }
        let (workers, pids) = (counted(pids.len(), "worker"), pids.join(", "));
        match coming {
            None => info!(self.logger, "waiting for {workers} to finish: {pids}"),
            Some(generation) if pids.is_empty() => {
                info!(
                    self.logger,
                    "generation {generation}: no worker is up, backing off"
                );
            }
            Some(generation) => {
                info!(
                    self.logger,
                    "generation {generation}: waiting for {workers} to be ready: {pids}"
                );
            }
        }
    }

    // ---- systemd ----

    /// At the end of a turn.
    fn tell_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else {
            return;
        };
        let now = clock::now();
        if self.core.is_stopping() {
            systemd.stopping();
        }
        let status = crate::control::status::summary(&self.core, &self.last_verdict);
        systemd.tell(now, &status, self.core.gate_deadline());
        if let Err(reason) = systemd.flush(now) {
            warn!(self.logger, "{reason}; will try again");
        }
    }

    /// Our own listening sockets go into systemd's fd store. `forget`: what there is of no use.
    fn fill_store(&mut self, forget: &[String]) {
        let Some(systemd) = &mut self.systemd else {
            return;
        };
        let (mut sockets, mut found) = (Vec::new(), Vec::new());
        for listener in &self.listeners {
            let Some(name) = listener.store_name() else {
                continue;
            };
            sockets.push((name, listener.as_fd()));
            if listener.is_stored() {
                found.push(name);
            }
        }
        match systemd.hand_over(&sockets, &found, forget) {
            Ok(Stored::All) => info!(
                self.logger,
                "systemd's fd store holds our listening sockets: they outlive a crash of \
                 socketmaster"
            ),
            Ok(Stored::NotAll) => warn!(
                self.logger,
                "systemd's fd store is too small for our listening sockets: raise \
                 FileDescriptorStoreMax=, or a crash closes some"
            ),
            Ok(Stored::Unsaid) => {}
            Err(reason) => warn!(self.logger, "cannot use systemd's fd store: {reason}"),
        }
    }

    // ---- the log ----

    /// The last lines, for a second at most.
    fn finish(&mut self) {
        let limit = clock::now() + FINAL_FLUSH;
        while !self.children.outputs.all_announced() && clock::now() < limit {
            let outputs = &mut self.children.outputs;
            let events = outputs.read_all(&mut self.log, clock::now());
            self.on_output_events(events);
            self.log.finish(Duration::from_millis(20));
        }
        self.log.finish(limit - clock::now());
    }
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}
