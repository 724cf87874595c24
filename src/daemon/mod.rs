//! The loop: it waits, translates what the kernel says into events of the core, performs what the
//! core wants done, and waits again. It owns every descriptor and every pid, and no policy: what
//! follows from an event is decided in `Supervisor`. Each subject has one owner (`Processes`,
//! `Signals`, `Listeners`, `Server`, `Systemd`, `Log`, `Poller`), and only this file acts on two of
//! them: an owner registers with the poller, writes to the log, and may look at what it is lent.
//!
//! A turn dispatches in this order: stop signals, readiness, deaths, other signals and requests,
//! deadlines, output. Four ways through the house, step by step:
//!
//! A SIGHUP
//!  1. The handler of signal-hook writes to its pipe, and ours notes who sent the signal.
//!  2. `Poller::wait` returns; `Signals::read` takes the number from the pipe.
//!  3. `dispatch` gives stops, readiness and deaths their turn, then calls `on_signal`.
//!  4. `Config::action` says that SIGHUP is a reload; `on_hangup` asks `Signals` whether it came
//!     because the terminal closed.
//!  5. `tell(Event::Reload)` hands it to the core, which pushes `Begin` and a burst of `Spawn`s, or
//!     remembers the reload while another one runs.
//!  6. `perform` starts each worker by `Processes::start`, which registers its descriptors.
//!  7. Its exec report, its READY=1, its ack or the time of `-start` comes back as an event.
//!  8. `confirm_promotion` looks once more for deaths before the core may promote the generation.
//!  9. The core pushes a signal for each old worker and then the verdict; `perform` sends them.
//! 10. `on_verdict` logs the line and answers waiting clients; systemd is told at the turn's end.
//!
//! A worker's line
//!  1. The worker writes to its pipe, and `Poller::wait` marks `Source::Output` as ready.
//!  2. `dispatch` has its turn first: no decision waits for output.
//!  3. `Processes::read_outputs` marks the pipe in `Outputs`, which shares out the turn.
//!  4. `Outputs::read` reads a chunk of each pipe in turn while the log has room for its lines.
//!  5. `worker::output::lines` cuts lines, keeps a half line, and remembers the last ones.
//!  6. `Log::push_worker_line` puts the line with its prefix into the queue.
//!  7. When the log is stuck the pipe is paused, and the worker waits; one that may lose lines is
//!     read on at a bounded rate.
//!  8. `Log::flush` writes the queue to stderr or syslog at the end of the turn.
//!  9. `Processes::resume_outputs` lets paused pipes be read in the next turn when it has moved.
//! 10. `Poller::watch_log` has the next wait end when a full log can be written to again.
//!
//! A control request
//!  1. A client connects or writes, and `Source::Control` with its number is ready.
//!  2. `on_control` lends the server a `View`: what it may know of the rest.
//!  3. `Server` accepts, checks who it is by the kernel's word, and what that one may say.
//!  4. It reads one line of each client and parses it into a `Request`.
//!  5. A worker's ack is readiness, and told to the core at once.
//!  6. Every other request waits until the deaths that we can know of are known.
//!  7. `do_orders` lets `control::commands` answer it, from the `View` and the server's own state.
//!  8. What is to be done comes back as an `Order`, which mostly becomes an event of the core.
//!  9. Who waits is told each step by the server's `on_begin`, `on_worker_ready`, `on_verdict`.
//! 10. What a client does not read waits in its connection, within a bound, until it can be sent.
//!
//! A worker's death
//!  1. Its pidfd is readable, or SIGCHLD comes; `dispatch` calls `reap`.
//!  2. `Processes::next_dead` names the pid and leaves the zombie: the pid stays the worker's.
//!  3. What it said before its end is read: its notify socket, its acks, its exec report.
//!  4. `Processes::collect` reaps it, deregisters its descriptors and keeps its last lines.
//!  5. Its end is logged when what it had written is logged.
//!  6. `Listeners::check` looks whether it took a listening socket or a path with it.
//!  7. `Server::on_worker_gone` tells waiting clients.
//!  8. `tell(Event::Gone)` hands the end to the core, which knows whether it was asked to stop.
//!  9. The core respawns, rolls back, waits (back-off) or does nothing; `perform` acts.
//! 10. When the last worker has gone and none is to come, `Action::Exit` ends the loop.

mod processes;
mod reminder;
mod signals;

use crate::clock;
use crate::config::{Config, SignalAction};
use crate::control::status::summary;
use crate::control::verdict::{self, FailedWorker, ReloadReport, end_text};
use crate::control::{Order, Server, View};
use crate::listen::{ListenerEvent, Listeners, Opened};
use crate::log::Log;
use crate::own_file::PidFile;
use crate::poller::{Interest, Poller, Source};
use crate::supervisor::{self, Action, ChildId, End, Event, Instant, Outcome, Supervisor, Worker};
use crate::sys::process;
use crate::systemd::{Stored, Systemd};
use crate::text::{counted, errno_text, error_text, signal_name};
use crate::worker::user::User;
use nix::errno::Errno;
use nix::sys::resource::rlim_t;
pub use processes::capacity;
use processes::{Death, Processes, Start};
use reminder::Reminder;
use signal_hook::consts::{SIGCHLD, SIGHUP};
use signals::HangupMeaning;
pub use signals::Signals;
use slog::{error, info, warn};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

/// How long the last lines may take to be written before we end without them.
const FINAL_FLUSH: Duration = Duration::from_secs(1);
/// A poller that fails is one line in this time at most.
const COMPLAINTS: Duration = Duration::from_secs(1);
/// How many ends are collected before a stop signal gets its turn.
const DEATHS: u32 = 1024;

/// Everything that was set up before the loop starts.
pub struct Setup {
    pub config: Config,
    pub signals: Signals,
    pub opened: Opened,
    pub user: Option<User>,
    /// RLIMIT_NOFILE as we found it, (soft, hard), and raised.
    pub nofile: (rlim_t, rlim_t),
    pub systemd: Option<Systemd>,
    pub control: Server,
    pub pidfile: Option<PidFile>,
}

pub struct Daemon {
    config: Rc<Config>,
    core: Supervisor,
    poller: Poller,
    signals: Signals,
    log: Log,
    logger: slog::Logger,
    processes: Processes,
    listeners: Listeners,
    systemd: Option<Systemd>,
    control: Server,
    pidfile: Option<PidFile>,
    reminder: Reminder,
    asked_to_stop: bool,
    /// More children have ended than one turn collects.
    has_more_dead: bool,
    /// That events cannot be waited for is not said again before this.
    next_complaint: Instant,
    exit: Option<i32>,
}

impl Daemon {
    /// Registers everything that the loop waits for. Fails only where the system refuses a
    /// descriptor; nothing has been started then, and no path of ours is left.
    pub fn new(mut setup: Setup, log: Log) -> Result<Daemon, Box<(String, Log)>> {
        let (config, logger) = (Rc::new(setup.config), log.logger());
        let mut listeners = Listeners::new(setup.opened.listeners, logger.clone());
        let register = || {
            let refused = |error: io::Error| {
                let reason = error_text(&error);
                format!("watch our descriptors: {reason}")
            };
            // This must not be found out when the first worker has ended.
            process::next_dead().map_err(|errno| {
                let reason = errno_text(errno as i32);
                format!("learn of workers' ends (waitid): {reason}")
            })?;
            let mut poller = Poller::new().map_err(refused)?;
            setup.signals.register(&mut poller).map_err(refused)?;
            listeners.register(&mut poller).map_err(refused)?;
            if let Some(systemd) = &setup.systemd {
                let added = poller.add(systemd.wait_fd(), Source::Systemd, Interest::WRITABLE);
                added.map_err(refused)?;
            }
            setup.control.register(&mut poller).map_err(refused)?;
            let processes =
                Processes::new(config.clone(), setup.user, setup.nofile, logger.clone())?;
            Ok((poller, processes))
        };
        let (poller, processes) = match register() {
            Ok(registered) => registered,
            Err(reason) => {
                listeners.abandon();
                return Err(Box::new((reason, log)));
            }
        };
        let capacity = capacity(setup.nofile.1, listeners.len(), &config);
        let mut daemon = Daemon {
            core: Supervisor::new(config.policy(capacity)),
            config,
            poller,
            signals: setup.signals,
            log,
            logger,
            processes,
            listeners,
            systemd: setup.systemd,
            control: setup.control,
            pidfile: setup.pidfile,
            reminder: Reminder::default(),
            asked_to_stop: false,
            has_more_dead: false,
            next_complaint: Instant(0),
            exit: None,
        };
        daemon.fill_store(&setup.opened.forget);
        Ok(daemon)
    }

    /// Runs until there is nothing left to run; returns our exit status.
    pub fn run(mut self) -> i32 {
        // From now on only a stop ends us.
        if process::pidfd_open(std::process::id() as i32).is_err() {
            info!(
                self.logger,
                "no pidfd_open(2) here: learning of workers' ends by SIGCHLD"
            );
        }
        if let Some(level) = self.config.nice.master {
            self.processes.renice(std::process::id() as i32, level);
        }
        // A stop that came during the set-up starts nothing.
        self.signals.read();
        self.on_stop_signals();
        self.tell(Event::Start);
        loop {
            if let Some(status) = self.exit {
                self.end(status);
                return status;
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        // Deadlines are measured by the time before the wait: whatever happened until then has been
        // seen, however long we were kept from running after it.
        let now = clock::now();
        let until = self.next_deadline(now);
        let at_once = self.has_work() || until.is_some_and(|until| until <= now);
        self.wait(until, at_once);
        self.plan_second_look(now);
        self.dispatch();
        self.tell_at(now, Event::Tick);
        self.confirm_promotion();
        self.dispatch_the_rest();
        let (listeners, poller, suspects) = self.listeners();
        let events = listeners.on_deadline(now, poller, suspects);
        self.on_listener_events(events);
        self.control.tidy(&mut self.poller);
        self.log.flush(clock::now());
        self.processes.resume_outputs(&mut self.poller, &self.log);
        self.poller.watch_log(self.log.wait_fd());
        self.tell_systemd();
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let core = self.core.next_deadline(now);
        let others = [
            self.log.retry_at(),
            self.poller.deadline(),
            self.processes.deadline(),
            self.systemd.as_ref().and_then(Systemd::deadline),
            self.control.deadline(),
            self.listeners.deadline(),
            self.reminder.deadline(),
            self.signals.deadline(),
        ];
        core.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Whether something that was found ready is still to be dispatched.
    fn has_work(&self) -> bool {
        self.signals.are_waiting()
            || self.poller.has_ready()
            || self.has_more_dead
            || self.processes.wants_turn()
            || self.log.wants_turn()
    }

    fn wait(&mut self, until: Option<Instant>, at_once: bool) {
        let Err(error) = self.poller.wait(until, at_once) else {
            return;
        };
        let now = clock::now();
        if now >= self.next_complaint {
            self.next_complaint = now + COMPLAINTS;
            let reason = error_text(&error);
            error!(
                self.logger,
                "cannot wait for events: {reason}; looking at everything instead"
            );
        }
    }

    fn plan_second_look(&mut self, now: Instant) {
        let is_idle = !self.poller.has_ready();
        if let Err(errno) = self.signals.plan_second_look(now, is_idle) {
            let reason = errno_text(errno as i32);
            error!(
                self.logger,
                "cannot unblock signals: {reason}; trying again in a second"
            );
        }
    }

    /// Dispatches what decisions depend on: stop signals, readiness, deaths, other signals,
    /// requests.
    /// Returns whether a worker has ended.
    fn dispatch(&mut self) -> bool {
        self.signals.read();
        self.on_stop_signals();
        let tells_of_readiness = |source: &Source| {
            matches!(
                source,
                Source::Report(_) | Source::Notify(_) | Source::Control(_)
            )
        };
        for source in self.poller.take_ready(tells_of_readiness) {
            match source {
                Source::Report(id) => self.on_report(id),
                Source::Notify(id) => self.on_notify(id),
                Source::Control(number) => self.on_control(number),
                _ => {}
            }
        }
        let is_death = |source: &Source| matches!(source, Source::Death(_));
        let died = self.poller.take_ready(is_death);
        let has_signal = !self.signals.take(|signal| signal == SIGCHLD).is_empty();
        let again = self.has_more_dead || self.processes.is_waitid_failing();
        let mut ended = (!died.is_empty() || has_signal || again) && self.reap();
        for source in died {
            let Source::Death(id) = source else { continue };
            let workers = self.core.policy().workers as usize;
            let (poller, log) = (&mut self.poller, &mut self.log);
            if let Some(death) = (self.processes).collect_unexplained(id, workers, poller, log) {
                self.on_death(death);
                ended = true;
            }
        }
        for signal in self.signals.take(|_| true) {
            self.on_signal(signal);
        }
        self.do_orders();
        ended
    }

    /// What is ready is promoted after one more look that found no death: a worker that was ready
    /// and has died since is no success.
    fn confirm_promotion(&mut self) {
        while self.core.awaits_confirmation() {
            self.wait(None, true);
            let ended = self.dispatch();
            if self.processes.has_unexplained() {
                return;
            }
            if !(self.reap() || ended) {
                self.tell(Event::PromotionConfirmed);
            }
        }
    }

    /// Dispatches what no decision waits for.
    fn dispatch_the_rest(&mut self) {
        for source in self
            .poller
            .take_ready(|source| !matches!(source, Source::Output(_)))
        {
            match source {
                Source::Terminal => self.look_at_terminal(),
                Source::Listener(_) | Source::Paths => {
                    let (listeners, poller, suspects) = self.listeners();
                    let events = listeners.on_event(poller, suspects);
                    self.on_listener_events(events);
                }
                // They are flushed at the end of each turn, and read at its beginning.
                Source::Log | Source::Systemd | Source::Signals | Source::Timer => {}
                // These were found ready since: the next turn begins with them.
                Source::Report(_) | Source::Notify(_) | Source::Death(_) | Source::Control(_) => {
                    self.poller.mark_ready(source);
                }
                Source::Output(_) => {}
            }
        }
        self.processes.read_outputs(&mut self.poller, &mut self.log);
        let reminder = &mut self.reminder;
        if let Some(line) = reminder.line(clock::now(), &self.core, &self.processes) {
            info!(self.logger, "{line}");
        }
    }

    // ---- signals ----

    /// Stops come before everything else in a turn.
    fn on_stop_signals(&mut self) {
        let config = self.config.clone();
        let is_stop = |signal| {
            let action = config.action(signal);
            matches!(action, SignalAction::Stop(_) | SignalAction::Leave)
        };
        for signal in self.signals.take(is_stop) {
            match self.config.action(signal) {
                SignalAction::Stop(sent) => self.on_stop_signal(&signal_name(signal), sent),
                _ => self.leave(signal),
            }
        }
    }

    /// `name`: what asks us to stop; `signal` goes to the workers.
    fn on_stop_signal(&mut self, name: &str, signal: i32) {
        let workers = counted(self.core.workers().len(), "worker");
        // Whoever asks again gets what is asked for.
        let first = self.config.first_stop;
        let first = first.filter(|_| !self.core.is_stopping());
        let what = match first.map(signal_name) {
            _ if self.core.is_stopping() => {
                format!("forwarding it to {workers}, we are stopping already")
            }
            Some(first) => format!("stopping, {workers} asked to finish with {first}"),
            None => format!("stopping, {workers} asked to finish"),
        };
        info!(self.logger, "{name}: {what}");
        let signal = first.unwrap_or(signal);
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
            SignalAction::Reload => self.on_reload_signal(&name),
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
        self.look_at_terminal();
        match self.signals.hangup_meaning(clock::now()) {
            HangupMeaning::Reload => self.on_reload_signal("SIGHUP"),
            HangupMeaning::TerminalClosed => info!(
                self.logger,
                "SIGHUP because the terminal closed: ignored, the service goes on"
            ),
            HangupMeaning::Seen => {}
        }
    }

    fn on_reload_signal(&mut self, name: &str) {
        info!(self.logger, "{name}: a reload");
        self.tell(Event::Reload(None));
    }

    fn look_at_terminal(&mut self) {
        if self.signals.has_terminal_closed(clock::now()) {
            info!(self.logger, "the terminal closed: the service goes on");
        }
    }

    // ---- the workers ----

    fn start(&mut self, id: ChildId, generation: u64, index: u32) {
        let control = match self.config.control_fd {
            true => self.control.open_for_worker(id, &mut self.poller),
            false => Ok(None),
        };
        let failed = |error: io::Error| End::Exec {
            step: "opening its connection to the control socket".to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        };
        let started = control.map_err(failed).and_then(|control| {
            let (sockets, listeners) = self.listeners.for_worker();
            let start = Start {
                id,
                generation,
                index,
                sockets,
                listeners,
                control,
            };
            self.processes.start(&start, &mut self.poller)
        });
        match started {
            Ok(pid) => {
                if self.core.rolling_out().is_some() {
                    self.control.on_started(pid, index);
                }
            }
            Err(end) => {
                error!(self.logger, "{}", end_text(&end));
                self.control.forget_worker(id);
                self.core.handle(clock::now(), Event::Gone(id, end));
            }
        }
    }

    fn on_report(&mut self, id: ChildId) {
        let event = self.processes.on_report(id, &mut self.poller);
        event.into_iter().for_each(|event| self.tell(event));
    }

    fn on_notify(&mut self, id: ChildId) {
        let event = self.processes.on_notify(id, &mut self.poller);
        event.into_iter().for_each(|event| self.tell(event));
    }

    /// Collects children that have ended. Returns whether a worker was among them, or more may be
    /// left for the next turn.
    fn reap(&mut self) -> bool {
        let mut any = false;
        self.has_more_dead = false;
        for _ in 0..DEATHS {
            let Some(pid) = self.processes.next_dead(&mut self.poller) else {
                self.give_up_uncollectable();
                return any;
            };
            // Its last words are read while its pid is still its own.
            let (_, by_pid) = self.processes.alive();
            if let Some(id) = by_pid.get(&pid).copied() {
                any = true;
                self.on_notify(id);
                let (control, view, poller) = self.control();
                let acks = control.read_last_acks(&view, poller);
                self.on_acks(acks);
                self.on_report(id);
            }
            let workers = self.core.policy().workers as usize;
            let (poller, log) = (&mut self.poller, &mut self.log);
            if let Some(death) = self.processes.collect(pid, workers, poller, log) {
                self.on_death(death);
            } else if self.processes.is_waitid_failing() {
                return any;
            }
        }
        self.has_more_dead = true;
        true
    }

    fn on_death(&mut self, Death { id, pid, end }: Death) {
        let (listeners, poller, suspects) = self.listeners();
        let events = listeners.check(poller, suspects);
        self.on_listener_events(events);
        self.control.on_worker_gone(id, pid, &self.core);
        self.tell(Event::Gone(id, end));
    }

    /// A stop does not wait for ever for workers whose ends waitid(2) does not tell.
    fn give_up_uncollectable(&mut self) {
        if self.core.is_stopping() {
            for id in self.processes.uncollectable(clock::now()) {
                self.tell(Event::Lost(id));
            }
        }
    }

    // ---- the listeners ----

    /// The listeners, and a text that names the workers that are starting or stopping.
    fn listeners(&mut self) -> (&mut Listeners, &mut Poller, impl Fn() -> String) {
        let (core, processes) = (&self.core, &self.processes);
        let suspects = || reminder::suspects(core, processes);
        (&mut self.listeners, &mut self.poller, suspects)
    }

    fn on_listener_events(&mut self, events: Vec<ListenerEvent>) {
        for event in events {
            match event {
                ListenerEvent::Rebound(index) => {
                    let listener = &self.listeners[index];
                    let store_name = listener.store_name.as_deref();
                    if let (Some(systemd), Some(name)) = (&mut self.systemd, store_name) {
                        if let Err(reason) = systemd.store_again(name, listener.as_fd()) {
                            warn!(self.logger, "cannot use systemd's fd store: {reason}");
                        }
                    }
                }
                ListenerEvent::Reload => self.tell(Event::Rebound),
            }
        }
    }

    // ---- the control socket ----

    /// The control socket, and what it may know of the rest.
    fn control(&mut self) -> (&mut Server, View<'_>, &mut Poller) {
        let (processes, by_pid) = self.processes.alive();
        let view = View {
            now: clock::now(),
            config: &self.config,
            core: &self.core,
            processes,
            by_pid,
            listeners: &self.listeners,
            #[cfg(feature = "einhorn")]
            level: self.log.level(),
        };
        (&mut self.control, view, &mut self.poller)
    }

    fn on_control(&mut self, number: u64) {
        let (control, view, poller) = self.control();
        let acks = control.on_ready_source(number, &view, poller);
        self.on_acks(acks);
    }

    fn on_acks(&mut self, acks: Vec<ChildId>) {
        for id in acks {
            self.tell(Event::Ready(id));
        }
    }

    /// Answers the clients' requests, and does what they ask for.
    fn do_orders(&mut self) {
        loop {
            let (control, view, _) = self.control();
            match control.next_order(&view) {
                None => return,
                Some(Order::Reload(style)) => self.tell(Event::Reload(style)),
                Some(Order::Stop { name, signal }) => self.on_stop_signal(name, signal),
                Some(Order::Resize(workers)) => self.tell(Event::Resize(workers)),
                #[cfg(feature = "einhorn")]
                Some(Order::Signal(signals)) => self.processes.signal_all(&signals),
                #[cfg(feature = "einhorn")]
                Some(Order::SetLevel(level)) => self.log.set_level(level),
            }
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
                } => self.start(id, generation, index),
                Action::Signal { id, signal } => {
                    let (control, view, _) = self.control();
                    control.on_worker_asked(id, signal, &view);
                    if self
                        .core
                        .workers()
                        .find(id)
                        .is_some_and(Worker::is_stopping)
                    {
                        self.processes.allow_drops(id);
                    }
                    let result = self.processes.signal(id, signal);
                    self.on_sent(id, signal, result);
                }
                Action::Kill { id } => {
                    let result = self.processes.kill(id);
                    self.on_sent(id, libc::SIGKILL, result);
                }
                Action::GiveUp { id, why } => self.processes.give_up(id, why, &mut self.poller),
                Action::CloseListeners => {
                    self.listeners.close(&mut self.poller);
                    if let Some(systemd) = &mut self.systemd {
                        systemd.forget_sockets();
                    }
                }
                Action::Verdict(verdict) => self.on_verdict(&verdict),
                Action::Note(note) => self.on_note(&note),
                Action::Exit(status) => self.exit = Some(status),
            }
        }
        debug_assert!(
            (self.processes.alive().0.keys()).all(|id| self.core.workers().find(*id).is_some()),
            "every process is a worker that the core knows"
        );
    }

    /// The core goes by what became of a signal; the loop of actions goes on with what follows.
    fn on_sent(&mut self, id: ChildId, signal: i32, result: Result<(), Errno>) {
        let result = result.map_err(|errno| errno as i32);
        let event = Event::Sent { id, signal, result };
        self.core.handle(clock::now(), event);
    }

    fn on_begin(&mut self, generation: u64, first: bool) {
        let workers = counted(self.core.policy().workers as usize, "worker");
        if !first {
            info!(self.logger, "reload {generation}: starting {workers}");
            if let Some(systemd) = &mut self.systemd {
                systemd.reloading(clock::now());
            }
        }
        self.control.on_begin(generation, first, &self.core);
    }

    fn on_verdict(&mut self, verdict: &supervisor::Verdict) {
        let worker = verdict.failure.as_ref().and_then(|failure| failure.worker);
        let failed = worker.map_or_else(FailedWorker::default, |id| self.processes.failed(id));
        let report = ReloadReport::new(verdict, failed);
        let text = report.line();
        let is_whole = verdict.failure.is_none() && verdict.unreached.is_none();
        match (verdict.outcome, is_whole) {
            (Outcome::Live, true) | (Outcome::Abandoned, _) => info!(self.logger, "{text}"),
            (Outcome::Live, false) | (Outcome::Superseded, _) => warn!(self.logger, "{text}"),
            _ => error!(self.logger, "{text}"),
        }
        if let Some(systemd) = self.systemd.as_mut().filter(|_| self.core.has_been_up()) {
            systemd.ready();
        }
        self.control.on_verdict(report);
    }

    fn on_note(&mut self, note: &supervisor::Note) {
        use supervisor::Note;
        let pid = match note {
            Note::Ready { id }
            | Note::Killed { id }
            | Note::Refused { id, .. }
            | Note::LeftAlone { id, .. }
            | Note::Replacing { id, .. }
            | Note::NotReplaced { id, .. } => self.processes.pid(*id),
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
            let (control, view, _) = self.control();
            control.on_worker_ready(*id, &view);
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
        let status = summary(&self.core, &self.control.last_verdict());
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
        let (sockets, found) = self.listeners.for_store();
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

    // ---- the end ----

    fn end(&mut self, status: i32) {
        self.control.end(status);
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
        let limit = clock::now() + FINAL_FLUSH;
        let (poller, log) = (&mut self.poller, &mut self.log);
        self.processes.finish_outputs(poller, log, limit);
        self.log.finish(limit - clock::now());
    }
}
