//! The one task per machine: wait, apply the event, do what it asks for.

use super::{
    cdrom,
    ending::{Evidence, reason},
    report::{changes, redacted},
    start::{CDROM_ERROR, Job, Parts, StartError, clean_up, open_console, start, stop_console, users, write_record},
    state::{Action, Event, State},
    update::{Press, Update, check},
};
use crate::{
    control::refusal,
    disc::{self, DiscError},
    host::Host,
    hypervisor::{
        monitor::{Announcement, Ending, Monitor, MonitorError},
        process::{Exit, Qemu, bound_log, last_line},
    },
    limits::{COMMAND_DEADLINE, KILL_DEADLINE, LOG_PERIOD, START_DEADLINE, STOP_DEADLINE},
};
use serde_json::{Value, json};
use spine::{
    id::VmId,
    message::{Answer, Refusal},
    resource::{
        Attributes,
        vm::{NbdAddress, VmResource},
    },
    transport::Ticket,
};
use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};

/// What the brain orders of a machine that is here.
#[derive(Debug)]
pub enum Order {
    /// Change some attributes.
    Update {
        /// For the answer.
        ticket: Ticket,
        /// Which, and to what.
        changes: Attributes,
    },
    /// End it.
    Remove {
        /// For the answer; none when the supervisor itself ends it.
        ticket: Option<Ticket>,
        /// Why.
        reason: String,
    },
}

/// What a machine's task tells the supervisor, which tells the brain, in this order.
#[derive(Debug)]
pub enum News {
    /// Its guest runs; this is what may be said of it.
    Created(VmId, Attributes),
    /// What may be said of it changed.
    Updated(VmId, Attributes),
    /// A command is done.
    Answer(Ticket, Answer),
    /// Nothing is left of the machine: its id, uid and memory are free. With a reason when it was told of: who hears it
    /// may create it again at once.
    Gone(VmId, Option<String>),
}

/// The task of one machine.
#[derive(Debug)]
pub struct Driver {
    host: Arc<Host>,
    job: Job,
    orders: mpsc::Receiver<Order>,
    /// The supervisor ends: no more orders come.
    orders_closed: bool,
    news: mpsc::Sender<News>,
    parts: Parts,
    state: State,
    /// Orders that came during the start.
    waiting: VecDeque<Order>,
    stop_deadline: Option<Instant>,
    /// What qemu said of its end, over monitor connections that are closed by now.
    said: Ending,
    /// Discs that did not answer when it was killed.
    away: Vec<NbdAddress>,
    removals: Vec<Ticket>,
    /// A change of sizes that is under way: who waits for it, which discs, and to how many bytes.
    resizing: Option<(Ticket, Vec<(usize, u64)>)>,
    resizes: JoinSet<Result<(), DiscError>>,
    /// What was last said of it.
    report: Attributes,
}

/// What a turn of the loop is about.
enum Turn {
    Exited(Exit),
    Order(Option<Order>),
    Announced(Announcement),
    Deadline,
    Resized(Result<(), String>),
    Tick,
}

impl Driver {
    /// A task for a machine.
    pub fn new(host: Arc<Host>, job: Job, orders: mpsc::Receiver<Order>, news: mpsc::Sender<News>) -> Self {
        let mut driver = Self {
            host,
            job,
            orders,
            orders_closed: false,
            news,
            parts: Parts::default(),
            state: State::Running,
            waiting: VecDeque::new(),
            stop_deadline: None,
            said: Ending::default(),
            away: Vec::new(),
            removals: Vec::new(),
            resizing: None,
            resizes: JoinSet::new(),
            report: Attributes::new(),
        };
        driver.report = driver.current_report();
        driver
    }

    /// What may be said of the machine, as far as it is known before its task runs.
    pub fn report(&self) -> &Attributes {
        &self.report
    }

    /// Starts the machine, answers `ticket`, and stays with it to its end.
    pub async fn create(mut self, ticket: Ticket) {
        match self.start().await {
            Ok(()) => {
                tracing::info!(vm = %self.job.id, uid = self.job.uid, "a machine runs");
                self.report = self.current_report();
                self.tell(News::Created(self.job.id.clone(), self.report.clone())).await;
                self.tell(News::Answer(ticket, Answer::Ok(Attributes::new()))).await;
                self.run().await;
            }
            Err(error) => {
                tracing::warn!(vm = %self.job.id, %error, "a machine did not start");
                clean_up(&self.host, &self.job.id, self.job.uid, &mut self.parts).await;
                self.leave(None, Some((ticket, Answer::No(error.refusal())))).await;
            }
        }
    }

    /// Takes over a machine that an earlier supervisor started. Its guest is left as it is.
    pub async fn adopt(mut self, qemu: Qemu) {
        self.parts.qemu = Some(qemu);
        self.connect().await;
        open_console(&self.host, &self.job, &mut self.parts).await;
        self.report_changes().await;
        self.run().await;
    }

    /// Takes over a machine whose task failed. `said` is what was last said of it.
    pub async fn resume(mut self, qemu: Qemu, said: Option<Attributes>) {
        match said {
            Some(said) => self.report = said,
            None => self.tell(News::Created(self.job.id.clone(), self.report.clone())).await,
        }
        self.adopt(qemu).await;
    }

    async fn start(&mut self) -> Result<(), StartError> {
        let removed = wait_for_removal(&mut self.orders, &mut self.waiting);
        let (ticket, result) = tokio::select! {
            result = timeout(START_DEADLINE, start(&self.host, &self.job, &mut self.parts)) => {
                return result.unwrap_or(Err(StartError::Late));
            }
            ticket = removed => (ticket, Err(StartError::Removed)),
        };
        self.removals.extend(ticket);
        result
    }

    async fn run(mut self) {
        let mut ticks = interval(LOG_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            let exit = match self.turn(&mut ticks).await {
                Turn::Exited(exit) => Some(exit),
                Turn::Order(None) if self.state == State::Running => return self.detach().await,
                Turn::Order(None) => {
                    // Its end is near, and wants cleaning up.
                    self.orders_closed = true;
                    None
                }
                Turn::Order(Some(order)) => self.handle_order(order).await,
                Turn::Announced(Announcement::Shutdown) => self.handle(Event::Announced).await,
                Turn::Announced(Announcement::Closed) => self.monitor_closed(),
                Turn::Deadline => self.handle(Event::Deadline).await,
                Turn::Resized(result) => self.finish_resize(result).await,
                Turn::Tick => self.maintain().await,
            };
            if let Some(exit) = exit {
                self.handle(Event::Exited).await;
                return self.finish(exit).await;
            }
        }
    }

    async fn turn(&mut self, ticks: &mut Interval) -> Turn {
        if let Some(order) = self.waiting.pop_front() {
            return Turn::Order(Some(order));
        }
        let running = self.state == State::Running;
        let monitor = self.parts.monitor.clone();
        let announced = async {
            match &monitor {
                Some(monitor) if running => monitor.announced().await,
                _ => pending().await,
            }
        };
        let deadline = async {
            match self.stop_deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let exited = async {
            match &mut self.parts.qemu {
                Some(qemu) => qemu.wait().await,
                None => pending().await,
            }
        };
        tokio::select! {
            exit = exited => Turn::Exited(exit),
            order = self.orders.recv(), if !self.orders_closed => Turn::Order(order),
            announcement = announced => Turn::Announced(announcement),
            () = deadline => Turn::Deadline,
            Some(result) = self.resizes.join_next() => Turn::Resized(match result {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }),
            _ = ticks.tick() => Turn::Tick,
        }
    }

    /// Moves the state machine, and does all it asks for but the last.
    async fn handle(&mut self, event: Event) -> Option<Exit> {
        let (state, actions) = std::mem::replace(&mut self.state, State::Running).handle(event);
        self.state = state;
        for action in actions {
            match action {
                Action::Quit => self.quit(),
                Action::ArmDeadline => {
                    let killed = matches!(self.state, State::Stopping { killed: true, .. });
                    self.stop_deadline = Some(Instant::now() + if killed { KILL_DEADLINE } else { STOP_DEADLINE });
                }
                Action::Kill => {
                    self.away = disc::away(&self.job.spec.discs).await;
                    tracing::warn!(vm = %self.job.id, away = ?self.away, "qemu does not end: it is killed");
                    self.parts.qemu.iter().for_each(Qemu::kill);
                }
                // Done by the caller, who has the exit status.
                Action::Finish => {}
            }
        }
        None
    }

    /// Not waited for: with a disc away `quit` never answers (safety rule 14).
    fn quit(&self) {
        match (&self.parts.monitor, &self.parts.qemu) {
            (Some(monitor), _) => {
                let monitor = monitor.clone();
                tokio::spawn(async move { monitor.execute("quit", json!({}), COMMAND_DEADLINE).await });
            }
            (None, Some(qemu)) => qemu.kill(),
            (None, None) => {}
        }
    }

    async fn handle_order(&mut self, order: Order) -> Option<Exit> {
        match order {
            Order::Remove { ticket, reason } => {
                self.removals.extend(ticket);
                self.handle(Event::Remove(reason)).await
            }
            Order::Update { ticket, .. } if self.state != State::Running => {
                let stopping = refusal("stopping", format!("vm.{} is stopping", self.job.id));
                self.tell(News::Answer(ticket, Answer::No(stopping))).await;
                None
            }
            Order::Update { ticket, changes } => {
                if let Some(answer) = self.update(ticket, &changes).await {
                    self.tell(News::Answer(ticket, answer)).await;
                }
                None
            }
        }
    }

    /// The answer, or none when it comes later.
    async fn update(&mut self, ticket: Ticket, changes: &Attributes) -> Option<Answer> {
        let update = match check(&self.job.resource, changes, &self.host.config) {
            Ok(update) => update,
            Err(refusal) => return Some(Answer::No(refusal)),
        };
        if !update.sizes.is_empty() && self.resizing.is_some() {
            return Some(Answer::No(refusal("busy", "discs: an earlier change of size is still under way")));
        }
        if self.parts.monitor.is_none() {
            self.connect().await;
        }
        if let Err(refusal) = self.apply(&update).await {
            return Some(Answer::No(refusal));
        }
        let mut next = update.next;
        // Sizes are not in force before the guest has seen them.
        for (disc, before) in next.discs.iter_mut().zip(&self.job.resource.discs) {
            disc.size = before.size;
        }
        self.accept(next).await;
        match &self.parts.monitor {
            _ if update.sizes.is_empty() => Some(Answer::Ok(Attributes::new())),
            None => Some(Answer::No(no_monitor())),
            Some(monitor) => {
                self.resizes.spawn(resize(monitor.clone(), self.job.spec.discs.clone(), update.sizes.clone()));
                self.resizing = Some((ticket, update.sizes));
                None
            }
        }
    }

    /// Does to the guest what an update asks for, but for sizes.
    async fn apply(&mut self, update: &Update) -> Result<(), Refusal> {
        let drains = update.cdrom.is_some() || update.signal == Some(Press::Reset);
        if drains {
            self.all_discs_there().await?;
        }
        if let Some(cd) = &update.cdrom {
            let monitor = self.parts.monitor.as_ref().ok_or_else(no_monitor)?;
            let changed = cdrom::change(monitor, cd.as_ref()).await;
            changed.map_err(|error| refusal("cdrom-unreadable", cdrom::complaint(&error)))?;
            self.parts.notes.remove(CDROM_ERROR);
        }
        if let Some(press) = &update.signal {
            let monitor = self.parts.monitor.as_ref().ok_or_else(no_monitor)?;
            press_key(monitor, press).await.map_err(|error| refusal("qemu-error", format!("signal: {error}")))?;
        }
        if let (true, Some(console)) = (update.users_changed, &self.parts.console) {
            console.set_users(users(&update.next));
        }
        Ok(())
    }

    /// Safety rule 14: what waits for requests in flight never comes back while a disc is away.
    async fn all_discs_there(&self) -> Result<(), Refusal> {
        match disc::away(&self.job.spec.discs).await.as_slice() {
            [] => Ok(()),
            [disc, ..] => Err(refusal("disc-away", format!("disc {disc} does not answer: try again when it is back"))),
        }
    }

    /// The machine is like this now: keep it, and tell what changed.
    async fn accept(&mut self, next: VmResource) {
        self.job.resource = next;
        let mark = self.parts.qemu.as_ref().map(Qemu::mark);
        if let Err(error) = write_record(&self.host, &self.job, mark, true) {
            tracing::warn!(vm = %self.job.id, %error, "a new supervisor would not know of the last update");
        }
        self.report_changes().await;
    }

    async fn report_changes(&mut self) {
        let report = self.current_report();
        if report != self.report {
            let changed = changes(&self.report, &report);
            self.report = report;
            self.tell(News::Updated(self.job.id.clone(), changed)).await;
        }
    }

    async fn finish_resize(&mut self, result: Result<(), String>) -> Option<Exit> {
        let (ticket, sizes) = self.resizing.take()?;
        let answer = match result {
            Ok(()) => {
                let mut next = self.job.resource.clone();
                for (n, size) in sizes {
                    next.discs[n].size = Some(size);
                }
                self.accept(next).await;
                Answer::Ok(Attributes::new())
            }
            Err(error) => Answer::No(refusal("disc-size", error)),
        };
        self.tell(News::Answer(ticket, answer)).await;
        None
    }

    fn monitor_closed(&mut self) -> Option<Exit> {
        // Mostly the end of qemu, which its pidfd is about to tell.
        self.said = self.parts.monitor.take().map(|monitor| monitor.ending()).unwrap_or_default();
        None
    }

    async fn connect(&mut self) {
        match Monitor::connect(&self.host.files.monitor(&self.job.id), COMMAND_DEADLINE).await {
            Ok(monitor) => self.parts.monitor = Some(monitor),
            Err(error) => tracing::warn!(vm = %self.job.id, %error, "a machine runs that cannot be talked to"),
        }
    }

    async fn maintain(&mut self) -> Option<Exit> {
        if self.parts.monitor.is_none() && self.state == State::Running {
            self.connect().await;
        }
        let log = self.host.files.log(&self.job.id);
        if let Err(error) = bound_log(&log) {
            tracing::warn!(vm = %self.job.id, %error, "cannot cut a machine's log");
        }
        None
    }

    /// qemu has ended: report why, clean up, and answer whoever waits.
    async fn finish(mut self, exit: Exit) {
        if let Some(monitor) = self.parts.monitor.take() {
            // Its last words may still be on their way.
            let _ = timeout(Duration::from_secs(1), monitor.closed()).await;
            self.said = monitor.ending();
        }
        let complaint = last_line(&self.host.files.log(&self.job.id));
        let (ordered, killed) = match &self.state {
            State::Gone { ordered, killed } => (ordered.clone(), *killed),
            State::Running | State::Stopping { .. } => (None, false),
        };
        let reason = reason(&Evidence {
            ordered: ordered.as_deref(),
            killed,
            said: &self.said,
            exit,
            complaint: complaint.as_deref(),
            away: &self.away,
        });
        tracing::info!(vm = %self.job.id, reason, "a machine ended");
        self.resizes.abort_all();
        clean_up(&self.host, &self.job.id, self.job.uid, &mut self.parts).await;
        let resizing = self.resizing.take().map(|(ticket, _)| (ticket, Answer::No(gone(&self.job.id))));
        self.leave(Some(reason), resizing).await;
    }

    /// The last words of a task whose machine is gone. It is free before anybody has an answer: the next
    /// command may be to create it again.
    async fn leave(mut self, reason: Option<String>, last: Option<(Ticket, Answer)>) {
        self.orders.close();
        self.tell(News::Gone(self.job.id.clone(), reason)).await;
        if let Some((ticket, answer)) = last {
            self.tell(News::Answer(ticket, answer)).await;
        }
        for ticket in std::mem::take(&mut self.removals) {
            self.tell(News::Answer(ticket, Answer::Ok(Attributes::new()))).await;
        }
        while let Some(order) = match self.waiting.pop_front() {
            Some(order) => Some(order),
            None => self.orders.recv().await,
        } {
            refuse(order, &self.job.id, &self.news).await;
        }
    }

    /// The supervisor ends; the machine does not.
    async fn detach(mut self) {
        self.resizes.abort_all();
        stop_console(&self.job.id, &mut self.parts).await;
    }

    fn current_report(&self) -> Attributes {
        let mut report = redacted(&self.job.resource);
        report.insert("accel".into(), Value::String(self.host.accelerator.as_str().into()));
        report.extend(self.parts.notes.clone());
        report
    }

    async fn tell(&self, news: News) {
        // The supervisor ends only after its machines' tasks, or with the process.
        let _ = self.news.send(news).await;
    }
}

/// Answers an order for a machine that is gone.
pub async fn refuse(order: Order, id: &VmId, news: &mpsc::Sender<News>) {
    if let Order::Update { ticket, .. } | Order::Remove { ticket: Some(ticket), .. } = order {
        // As in `Driver::tell`.
        let _ = news.send(News::Answer(ticket, Answer::No(gone(id)))).await;
    }
}

/// Sees to orders while a machine starts: everything waits, but for its removal.
async fn wait_for_removal(orders: &mut mpsc::Receiver<Order>, waiting: &mut VecDeque<Order>) -> Option<Ticket> {
    loop {
        match orders.recv().await {
            Some(Order::Remove { ticket, .. }) => return ticket,
            Some(order) => waiting.push_back(order),
            // The supervisor ends: a machine that does not run yet is not left half-made.
            None => return None,
        }
    }
}

async fn press_key(monitor: &Monitor, press: &Press) -> Result<(), MonitorError> {
    let (command, arguments) = match press {
        Press::Powerdown => ("system_powerdown", json!({})),
        Press::Reset => ("system_reset", json!({})),
        Press::Keys(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| json!({"type": "qcode", "data": key})).collect();
            ("send-key", json!({"keys": keys}))
        }
    };
    monitor.execute(command, arguments, COMMAND_DEADLINE).await.map(drop)
}

async fn resize(monitor: Monitor, discs: Vec<super::spec::Disc>, sizes: Vec<(usize, u64)>) -> Result<(), DiscError> {
    for (n, size) in sizes {
        disc::resize(&monitor, n, &discs[n], size).await?;
    }
    Ok(())
}

fn no_monitor() -> Refusal {
    refusal("qemu-error", "qemu's monitor does not answer")
}

/// The machine of an order is not here (any more).
pub fn gone(id: &VmId) -> Refusal {
    refusal("not-found", format!("vm.{id} does not run on this head"))
}
