//! The loop of the head: orders from the brain to the machines, news from the machines to the brain.

use super::{
    adoption::Adopted,
    recovery::{Lost, recover},
    refusal,
};
use crate::{
    config::RestartPolicy,
    host::Host,
    limits::{FENCE_PERIOD, KILL_DEADLINE, LOAD_PERIOD, ORDERS_MAX, STOP_DEADLINE},
    vm::{
        driver::{Driver, News, Order, gone},
        requests::{Share, admit, free_memory_mib},
        spec::{Spec, SpecError, read},
        start::Job,
    },
};
use serde_json::{Value, json};
use spine::{
    id::{Epoch, ResourceName, VmId},
    limits::VERSIONS,
    message::{Answer, Command, Complaint, Hello, Notice, Refusal, Role},
    resource::{Attributes, apply_update},
    transport::{NodeConfig, NodeEvent, NodeLink, Ticket, connect_node},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    future::Future,
    sync::Arc,
};
use tokio::{
    sync::mpsc,
    task::{self, JoinError, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

/// A head at work.
#[derive(Debug)]
pub struct Supervisor {
    host: Arc<Host>,
    link: NodeLink,
    machines: BTreeMap<VmId, Machine>,
    /// Commands that a machine's task still has to answer.
    open: HashMap<Ticket, VmId>,
    drivers: JoinSet<()>,
    news: mpsc::Receiver<News>,
    news_sender: mpsc::Sender<News>,
    /// What was said last of the head as a whole.
    load: Value,
    memory: Value,
}

/// A machine, as the supervisor knows it.
#[derive(Debug)]
struct Machine {
    orders: mpsc::Sender<Order>,
    share: Share,
    /// What may be said of it; none until its guest runs.
    report: Option<Attributes>,
    task: Option<task::Id>,
    /// How often its task has failed.
    failures: u32,
}

/// News that may wait: one each of a few hundred machines.
const NEWS_MAX: usize = 1024;

impl Supervisor {
    /// Connects to the brain, and takes over the machines that run.
    pub fn new(host: Host, adopted: Vec<Adopted>) -> Self {
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let config = NodeConfig { brains: host.config.brains.clone(), bind: None, hello: hello(&host) };
        let mut supervisor = Self {
            host: Arc::new(host),
            link: connect_node(config),
            machines: BTreeMap::new(),
            open: HashMap::new(),
            drivers: JoinSet::new(),
            news,
            news_sender,
            load: load(),
            memory: Value::Null,
        };
        for Adopted { job, qemu } in adopted {
            let id = job.id.clone();
            let driver = supervisor.add(job);
            // It is in the first dump, whatever its task does until then.
            if let Some(machine) = supervisor.machines.get_mut(&id) {
                machine.report = Some(driver.report().clone());
            }
            supervisor.spawn(&id, driver.adopt(qemu));
        }
        supervisor.memory = supervisor.free_memory();
        supervisor
    }

    /// Works until `stop` is done, and then leaves in order: machines go on, or are ended when the restart
    /// policy says so.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut ticks = interval(LOAD_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fence_ticks = interval(FENCE_PERIOD);
        fence_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                event = self.link.next() => self.handle_event(event),
                Some(news) = self.news.recv() => self.handle_news(news),
                _ = ticks.tick() => self.report_load(),
                _ = fence_ticks.tick() => {
                    let host = Arc::clone(&self.host);
                    tokio::spawn(async move { host.firewall.mend().await });
                }
                Some(result) = self.drivers.join_next() => {
                    if let Err(error) = result {
                        self.handle_failure(&error);
                    }
                }
            }
        }
        self.leave().await;
    }

    async fn leave(mut self) {
        if self.host.config.restart_policy == RestartPolicy::Die {
            for machine in self.machines.values() {
                let order = Order::Remove { ticket: None, reason: "the head was stopped".into() };
                let _ = machine.orders.send(order).await;
            }
        }
        while let Ok(news) = self.news.try_recv() {
            self.handle_news(news);
        }
        // Without orders to come a task leaves its machine alone, and undoes a start that is not finished.
        self.machines.clear();
        let ended = async {
            loop {
                tokio::select! {
                    next = self.drivers.join_next() => if next.is_none() { return },
                    Some(news) = self.news.recv() => self.say(&news),
                }
            }
        };
        if timeout(STOP_DEADLINE + KILL_DEADLINE, ended).await.is_err() {
            tracing::warn!("some machines' tasks did not end in time");
        }
    }

    fn handle_event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Welcomed(welcome) => {
                tracing::info!(epoch = %welcome.epoch, "connected to the brain");
                self.dump();
            }
            NodeEvent::Disconnected { reason } => tracing::warn!(reason, "not connected to the brain"),
            NodeEvent::Command { ticket, command } => {
                let name = command.name().clone();
                let ResourceName::Vm(id) = name else {
                    let message = format!("a head has no resource {name} that could be changed");
                    return self.link.answer(ticket, Answer::Bad(Complaint { message }));
                };
                if let Err(refusal) = self.handle_command(ticket, id, command) {
                    self.link.answer(ticket, Answer::No(refusal));
                }
            }
        }
    }

    /// An error is answered at once; all else is answered by the machine's task.
    fn handle_command(&mut self, ticket: Ticket, id: VmId, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Create(_, attributes) => self.create(ticket, id, &attributes),
            Command::Update(_, changes) => self.order(&id, Order::Update { ticket, changes }),
            Command::Remove(_, attributes) => {
                let reason = attributes.get("reason").and_then(Value::as_str).unwrap_or("removed by the brain");
                let reason = reason.chars().take(REASON_CHARS_MAX).collect();
                self.order(&id, Order::Remove { ticket: Some(ticket), reason })
            }
        }
    }

    fn create(&mut self, ticket: Ticket, id: VmId, attributes: &Attributes) -> Result<(), Refusal> {
        if self.machines.contains_key(&id) {
            return Err(refusal("exists", format!("vm.{id} is on this head already")));
        }
        let refused = |error: SpecError| refusal(error.code, error.to_string());
        let resource = read(attributes).map_err(refused)?;
        let spec = Spec::check(&resource, &self.host.config).map_err(refused)?;
        let here: Vec<_> = self.machines.values().map(|machine| machine.share).collect();
        let uid = admit(&self.host.config, &spec, &here)?;
        let driver = self.add(Job { id: id.clone(), uid, resource, spec });
        self.open.insert(ticket, id.clone());
        self.spawn(&id, driver.create(ticket));
        self.report_memory();
        Ok(())
    }

    fn add(&mut self, job: Job) -> Driver {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let share = Share { uid: job.uid, memory_mib: job.spec.memory_mib };
        self.machines.insert(job.id.clone(), Machine { orders, share, report: None, task: None, failures: 0 });
        Driver::new(Arc::clone(&self.host), job, receiver, self.news_sender.clone())
    }

    fn spawn(&mut self, id: &VmId, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.drivers.spawn(task).id();
        if let Some(machine) = self.machines.get_mut(id) {
            machine.task = Some(task);
        }
    }

    /// A machine's task panicked: a fault of this program. Whoever waits for it is told, and the machine is
    /// taken over again.
    fn handle_failure(&mut self, error: &JoinError) {
        // What it said before it failed is true.
        while let Ok(news) = self.news.try_recv() {
            self.handle_news(news);
        }
        let lost = self.machines.iter_mut().find(|(_, machine)| machine.task == Some(error.id()));
        let Some((id, machine)) = lost else {
            return tracing::error!(%error, "the task of a machine that was gone failed");
        };
        tracing::error!(vm = %id, %error, "a machine's task failed");
        let id = id.clone();
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        machine.orders = sender;
        machine.failures += 1;
        let (uid, said, failures) = (machine.share.uid, machine.report.clone(), machine.failures);
        let lost = Lost { id: id.clone(), uid, said, failures, orders, news: self.news_sender.clone() };
        for (ticket, _) in self.open.extract_if(|_, of| *of == id) {
            let message = format!("the task of vm.{id} on this head failed before it was done: the log has more");
            self.link.answer(ticket, Answer::No(refusal("head-error", message)));
        }
        self.spawn(&id, recover(Arc::clone(&self.host), lost));
    }

    fn order(&mut self, id: &VmId, order: Order) -> Result<(), Refusal> {
        let machine = self.machines.get(id).ok_or_else(|| gone(id))?;
        let ticket = match &order {
            Order::Update { ticket, .. } => Some(*ticket),
            Order::Remove { ticket, .. } => *ticket,
        };
        machine.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => refusal("busy", format!("vm.{id} has {ORDERS_MAX} orders waiting")),
            mpsc::error::TrySendError::Closed(_) => gone(id),
        })?;
        self.open.extend(ticket.map(|ticket| (ticket, id.clone())));
        Ok(())
    }

    fn handle_news(&mut self, news: News) {
        match &news {
            News::Created(id, report) => {
                if let Some(machine) = self.machines.get_mut(id) {
                    machine.report = Some(report.clone());
                }
            }
            News::Updated(id, changes) => {
                if let Some(report) = self.machines.get_mut(id).and_then(|machine| machine.report.as_mut()) {
                    apply_update(report, changes);
                }
            }
            News::Answer(ticket, _) => drop(self.open.remove(ticket)),
            News::Gone(id, _) => drop(self.machines.remove(id)),
        }
        self.say(&news);
        if matches!(news, News::Gone(..)) {
            self.report_memory();
        }
    }

    fn say(&self, news: &News) {
        let name = |id: &VmId| ResourceName::Vm(id.clone());
        match news {
            News::Created(id, report) => self.link.notify(Notice::Created(name(id), Value::Object(report.clone()))),
            News::Updated(id, changes) => self.link.notify(Notice::Updated(name(id), Value::Object(changes.clone()))),
            News::Gone(id, Some(reason)) => {
                self.link.notify(Notice::Destroyed(name(id), json!({"reason": reason})));
            }
            News::Gone(_, None) => {}
            News::Answer(ticket, answer) => self.link.answer(*ticket, answer.clone()),
        }
    }

    /// Everything this head has (R066, R133).
    fn dump(&mut self) {
        self.load = load();
        self.memory = self.free_memory();
        let machine = |(id, machine): (&VmId, &Machine)| {
            machine.report.clone().map(|report| (ResourceName::Vm(id.clone()), Value::Object(report)))
        };
        let global = |name: &str| ResourceName::Global(name.to_owned());
        let whole = [(global(MEMORY), self.memory.clone()), (global(LOAD), self.load.clone())];
        self.link.dump(whole.into_iter().chain(self.machines.iter().filter_map(machine)).collect());
    }

    fn free_memory(&self) -> Value {
        let shares = self.machines.values().map(|machine| machine.share);
        Value::from(free_memory_mib(&self.host.config, shares))
    }

    fn report_memory(&mut self) {
        let memory = self.free_memory();
        if memory != self.memory {
            self.memory = memory.clone();
            self.link.notify(Notice::Updated(ResourceName::Global(MEMORY.into()), memory));
        }
    }

    fn report_load(&mut self) {
        let load = load();
        if load != self.load {
            self.load = load.clone();
            self.link.notify(Notice::Updated(ResourceName::Global(LOAD.into()), load));
        }
    }
}

const MEMORY: &str = "memory";
const LOAD: &str = "load";

/// Of a reason that the brain gives.
const REASON_CHARS_MAX: usize = 500;

fn hello(host: &Host) -> Hello {
    let config = &host.config;
    let extra = json!({
        "storage_address": config.storage_address,
        "memory_total": free_memory_mib(config, std::iter::empty()),
        "cores": config.cores,
        "accel": host.accelerator.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let Value::Object(extra) = extra else { unreachable!("an object was written") };
    Hello {
        node: config.name.clone(),
        role: Role::Head,
        spine: VERSIONS,
        boot: Uuid::new_v4(),
        cluster: None,
        epoch: Epoch::default(),
        extra,
    }
}

/// The load averages (R070); zeroes when the kernel does not tell.
fn load() -> Value {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut averages = text.split_ascii_whitespace().map(|word| word.parse::<f64>().unwrap_or_default());
    let load: spine::resource::global::Load = std::array::from_fn(|_| averages.next().unwrap_or_default());
    json!(load)
}

#[cfg(test)]
mod tests;
