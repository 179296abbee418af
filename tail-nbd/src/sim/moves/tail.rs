//! One tail: the real store and shard, on a ring and a disk that are made up.

use super::super::chance::Chance;
use super::super::disk::Disk;
use super::super::network::Network;
use super::super::ring::{Faults, Outside, Ring};
use super::super::stage;
use super::super::world::Pools;
use crate::address::Addresses;
use crate::config::{PoolConfig, SidecarPlace};
use crate::disc::mode::IoMode;
use crate::jobs::{Cancel, Jobs};
use crate::mailbox::{Letter, MailboxReceiver, Post};
use crate::migration::budgets::Budgets;
use crate::migration::link::{self, Link};
use crate::pool::Pool;
use crate::ring::op::Completion;
use crate::shard::engine::Engine;
use crate::shard::{Patience, ShardEvent, Shards};
use crate::sidecar::slots::{SLOT_BYTES, decode};
use crate::sidecar::{Owner, Sidecar};
use crate::store::start::Scan;
use crate::store::{Parts, Store};
use crate::time::Instant;
use spine::address::StoragePrefix;
use spine::id::{DiscName, NodeName};
use spine::resource::disc::DiscReport;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, yield_now};

/// A tail's files, and its process while there is one.
pub(super) struct Tail {
    pub(super) name: NodeName,
    /// Where other tails reach it.
    pub(super) address: SocketAddr,
    /// Its clients.
    pub(super) network: Network,
    pub(super) ring: Ring,
    pub(super) process: Option<Process>,
    disc: DiscName,
    prefix: StoragePrefix,
    pool: PoolConfig,
    pools: Pools,
    disk: Option<Rc<RefCell<Disk>>>,
}

/// A running tail.
pub(super) struct Process {
    pub(super) store: Arc<Store>,
    /// Asks all jobs to end.
    pub(super) stopping: Cancel,
    engine: Engine,
    mailbox: MailboxReceiver,
    events: mpsc::Receiver<ShardEvent>,
    up: Arc<Mutex<BTreeSet<Ipv6Addr>>>,
    /// What it does besides serving: gone with it, at once.
    tasks: LocalSet,
    completions: Vec<Completion>,
    /// A turn is due, whatever else: the ring was full.
    is_overdue: bool,
}

impl Tail {
    /// The tail of this number, counted from 1, with its files in `folder`.
    pub(super) fn new(number: u16, disc: &DiscName, io: IoMode, folder: &Path, pools: Pools) -> Self {
        let own = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 0x20 + number);
        let pool = PoolConfig {
            name: "sata1".parse().expect("a name"),
            grade: disc.grade.clone(),
            path: folder.join(format!("tail{number}")),
            io,
            note: String::new(),
            sidecars: SidecarPlace::Pool,
        };
        Self {
            name: format!("tail{number}").parse().expect("a name"),
            address: (own, 7771).into(),
            network: Network::default(),
            ring: Ring::new(pools.receive.clone()),
            process: None,
            disc: disc.clone(),
            prefix: "fd00:0:0:d::/64".parse().expect("a prefix"),
            pool,
            pools,
            disk: None,
        }
    }

    /// Starts the process: it serves what it finds.
    pub(super) fn start(&mut self) {
        let SocketAddr::V6(listen) = self.address else { unreachable!("it is made so") };
        let pool = Pool::open(&self.pool, &self.pool.path).expect("memory");
        let pools = BTreeMap::from([(pool.name.clone(), pool)]);
        let scan = Scan::read(&pools, self.prefix).expect("the pool can be read");
        let (shards, mailbox) = Shards::without_thread().expect("descriptors");
        let (jobs, work, stopping) = Jobs::without_thread().expect("a thread");
        let up = Arc::new(Mutex::new(scan.addresses().collect()));
        let (addresses, keeping) = Addresses::without_interface(Arc::clone(&up));
        let parts = Parts {
            prefix: self.prefix,
            own_address: *listen.ip(),
            images_dir: PathBuf::new(),
            pools,
            shards,
            jobs,
            network: Some(link::Network {
                listen: self.address,
                own_address: *listen.ip(),
                identity: None,
                budgets: Arc::new(Budgets::new(None)),
            }),
            addresses,
        };
        let store = Store::new(parts, Arc::default());
        let (door, mut callers) = mpsc::unbounded_channel();
        stage::with(|stage| stage.lan.open_door(self.address, door));
        let (starting, taking) = (store.clone(), store.clone());
        let tasks = LocalSet::new();
        tasks.spawn_local(work);
        tasks.spawn_local(keeping);
        tasks.spawn_local(async move { starting.start(scan).await });
        tasks.spawn_local(async move {
            let mut sessions = JoinSet::new();
            while let Some((end, peer)) = callers.recv().await {
                let store = taking.clone();
                sessions.spawn_local(async move { store.serve_link(Link::new(end, None), peer).await });
            }
        });
        let (sender, events) = mpsc::channel(1);
        let engine = Engine::new(sender, Patience::default(), self.pools.data.clone());
        let process =
            Process { store, stopping, engine, mailbox, events, up, tasks, completions: Vec::new(), is_overdue: false };
        self.process = Some(process);
    }

    /// Carries an order out.
    pub(super) fn work(&mut self, order: impl Future<Output = ()> + 'static) {
        if let Some(process) = &mut self.process {
            process.tasks.spawn_local(order);
        }
    }

    /// Goes on with what can go on besides its shard.
    pub(super) async fn go_on(&self) {
        if let Some(process) = &self.process {
            process.tasks.run_until(yield_now()).await;
        }
    }

    /// The process is killed.
    pub(super) fn kill(&mut self, chance: &mut Chance) {
        let Some(process) = self.process.take() else { return };
        stage::with(|stage| stage.lan.close_door(self.address));
        process.store.abandon();
        drop(process);
        let mut disk = self.disk.as_ref().map(|disk| disk.borrow_mut());
        let disks = disk.iter_mut().map(|disk| &mut **disk).collect();
        self.ring.crash(&mut Outside { disks, network: &mut self.network, chance });
        self.network.crash();
    }

    /// What was not synced is lost or torn, the record that is being written too. The tail is not running.
    /// Returns the content of the disc when this tail is its owner.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) -> Option<Vec<u8>> {
        let data = self.pool.path.join(format!("discs/{}.data", self.disc.number));
        let sidecar = self.pool.path.join(format!("discs/{}.sidecar", self.disc.number));
        let image = stage::disk_at(&data).map(|disk| disk.borrow_mut().lose_power(chance));
        if !sidecar.exists() {
            return None;
        }
        if chance.one_in(3) {
            tear(&sidecar, chance);
        }
        let is_owner = Sidecar::open(&sidecar).expect("one half is whole").record().owner == Owner::Owner;
        image.filter(|_| is_owner)
    }

    /// The disc's content now.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        std::fs::read(self.pool.path.join(format!("discs/{}.data", self.disc.number))).ok()
    }

    /// What it says of the disc; `None` when it does not run or has none.
    pub(super) fn report(&self) -> Option<DiscReport> {
        Some(self.process.as_ref()?.store.report(self.disc.number)?.1)
    }

    /// True when its shard has more to submit than the ring took.
    pub(super) fn is_overdue(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.is_overdue)
    }

    /// True when it answers clients of the disc.
    pub(super) fn answers(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.engine.answers(self.disc.number))
    }

    /// True when the disc's address leads here.
    pub(super) fn has_address(&self) -> bool {
        let address = self.prefix.address_of(self.disc.number);
        self.process.as_ref().is_some_and(|process| process.up.lock().expect("no panics").contains(&address))
    }

    /// One step of its shard. True when something has happened.
    pub(super) fn step(&mut self, now: Instant, faults: Faults, chance: &mut Chance) -> Result<bool, String> {
        let Some(process) = &mut self.process else { return Ok(false) };
        self.network.deliver(chance);
        {
            let mut disk = self.disk.as_ref().map(|disk| disk.borrow_mut());
            let disks = disk.iter_mut().map(|disk| &mut **disk).collect();
            let mut outside = Outside { disks, network: &mut self.network, chance };
            self.ring.step(&mut outside, faults, &mut process.completions);
        }
        let mut letters = Vec::new();
        process.mailbox.acknowledge();
        while let Post::Letter(letter) = process.mailbox.take() {
            if let Letter::Open(disc, _) = &letter {
                self.ring.name(&disc.data, 0);
                self.ring.name(disc.listener.as_ref().expect("the store listens"), 0);
                self.disk = Some(stage::disk_of(&disc.data));
            }
            tracing::debug!(tail = %self.name, ?letter, "to the shard");
            letters.push(letter);
        }
        let is_due = process.engine.wake_at().is_some_and(|at| at <= now);
        if process.completions.is_empty() && letters.is_empty() && !is_due && !process.is_overdue {
            return Ok(false);
        }
        process.is_overdue = false;
        process.engine.begin(now);
        process.completions.drain(..).for_each(|completion| process.engine.apply(completion));
        letters.into_iter().for_each(|letter| process.engine.deliver(letter));
        process.engine.maintain(self.ring.has_receive_buffers());
        while let Some((owner, op)) = process.engine.next_op() {
            if chance.one_in(faults.fill) {
                process.engine.put_back(owner, op);
                process.is_overdue = true;
                break;
            }
            self.ring.submit(owner, op, &self.network);
        }
        process.engine.end(now);
        if process.engine.takes_cancels() {
            self.ring.cancel(|owner| process.engine.is_held(owner));
        }
        self.network.look();
        while let Ok(event) = process.events.try_recv() {
            if let ShardEvent::Panicked { message, .. } = &event {
                return Err(format!("{} panicked: {message}", self.name));
            }
            process.store.handle_shard_event(event);
        }
        self.ring.wrong.take().map_or(Ok(true), Err)
    }
}

/// The half that is not in force was being overwritten.
fn tear(sidecar: &Path, chance: &mut Chance) {
    let mut bytes = std::fs::read(sidecar).expect("it is there");
    let other = decode(&bytes).expect("one half is whole").slot.other();
    let cut = chance.between(1, SLOT_BYTES as u64) as usize;
    bytes[other.offset()..][..cut].fill_with(|| chance.number() as u8);
    std::fs::write(sidecar, bytes).expect("memory");
}
