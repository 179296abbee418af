//! Discs, clients and what happens to them.

mod copying;
mod sizes;
mod succession;

use super::chance::Chance;
use super::client::{Client, Manner, Scene, key_of};
use super::disk::Disk;
use super::history::{Content, History, Tick};
use super::network::{LinkId, Network};
use super::ring::{Faults, Outside, Ring};
use crate::buffer::Pool;
use crate::disc::mode::IoMode;
use crate::limits::TCP_USER_TIMEOUT_MS;
use crate::mailbox::Letter;
use crate::ring::op::Completion;
use crate::shard::engine::{Census, Engine};
use crate::shard::{Access, OpenDisc, Patience, ShardError, ShardEvent};
use crate::time::Instant;
use copying::Copying;
use sizes::Resize;
use spine::id::DiscNumber;
use spine::secret::Secret;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use succession::Upgrade;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The size of each disc, in bytes.
    pub(super) disc_bytes: Vec<u64>,
    /// Clients of each disc.
    pub(super) clients_count: usize,
    /// Requests that a client has in flight at most.
    pub(super) depth: usize,
    /// Steps in which clients ask.
    pub(super) steps_count: usize,
    pub(super) faults: Faults,
    /// Once in so many steps, or never when it is 0: the network cuts a client off.
    pub(super) cut: u64,
    /// The network cuts all clients off at once, and they all come back.
    pub(super) storm: u64,
    /// The control side orders something.
    pub(super) order: u64,
    /// A disc is frozen; it goes on soon.
    pub(super) freeze: u64,
    /// Something happens to the copying of a disc that is being moved.
    pub(super) copy: u64,
    /// Another process takes over, or fails to.
    pub(super) upgrade: u64,
    /// The process or the machine crashes.
    pub(super) crash: u64,
    /// Our code panics.
    pub(super) panic: u64,
    /// Some clients are not honest.
    pub(super) villains: bool,
}

/// A world, from its beginning to its end.
pub(super) struct World {
    plan: Plan,
    chance: Chance,
    tick: Tick,
    now_ns: u64,
    cookies: u64,
    pub(super) exports: Vec<Export>,
    pub(super) clients: Vec<Client>,
    network: Network,
    ring: Ring,
    engine: Option<Engine>,
    events: mpsc::Receiver<ShardEvent>,
    pools: Pools,
    /// Clients ask, and things happen.
    active: bool,
    /// A turn is due, whatever else: the ring was full.
    overdue: bool,
    /// Connections that were accepted since all operations were submitted.
    accepted: Vec<LinkId>,
    idle_count: u64,
    completions: Vec<Completion>,
    /// All discs are being frozen, for another process.
    upgrading: Option<Upgrade>,
    pub(super) upgrades_count: u64,
    pub(super) turns_count: u64,
    pub(super) peak: Census,
}

/// The memory of a shard, which many worlds use one after the other.
#[derive(Clone)]
pub(super) struct Pools {
    pub(super) data: Pool,
    pub(super) receive: Pool,
}

/// A disc of the world.
pub(super) struct Export {
    number: DiscNumber,
    disk: Disk,
    io: IoMode,
    history: History,
    /// Which attachments have access.
    access: [bool; ATTACHMENTS],
    standing: Standing,
    withdrawals: Vec<Withdrawal>,
    /// It was ordered to freeze, and not yet to go on.
    frozen: Option<Frozen>,
    copying: Option<Copying>,
    sync_failed: Option<Tick>,
    /// It was told to panic.
    doomed: bool,
    orphans: Vec<Orphan>,
}

enum Standing {
    Serving,
    Resizing(Resize),
    Closing(Answer),
    Closed,
}

type Answer = oneshot::Receiver<Result<(), ShardError>>;

enum Frozen {
    Ordered(Answer),
    /// Nothing of the disc may be in flight.
    Answered,
}

struct Withdrawal {
    answer: Answer,
    attachments: Vec<usize>,
}

/// A write of a connection that was lost.
struct Orphan {
    link: LinkId,
    write: u64,
    range: (u64, u64),
}

/// Attachments of a disc. Each has its own part of the disc to write to, so that it is known whose a write is.
const ATTACHMENTS: usize = 2;

/// Steps without any event after which nothing will happen any more.
const IDLE_STEPS_MAX: u64 = 60;

/// Steps after which everything that was asked is answered, and everybody gone.
const END_STEPS_MAX: usize = 100_000;

impl World {
    pub(super) fn new(seed: u64, plan: Plan, pools: Pools) -> Self {
        let mut chance = Chance::new(seed);
        let exports: Vec<Export> =
            plan.disc_bytes.iter().enumerate().map(|(disc, bytes)| Export::new(disc, *bytes, &mut chance)).collect();
        let mut clients = Vec::new();
        for (disc, bytes) in plan.disc_bytes.iter().enumerate() {
            for index in 0..plan.clients_count {
                let stranger = plan.villains && chance.one_in(12);
                let attachment = index % ATTACHMENTS;
                let mut client =
                    Client::new(disc, (!stranger).then_some(attachment), region(*bytes, attachment), *bytes);
                client.depth = plan.depth;
                client.manner = match chance.below(8) {
                    0 if plan.villains => Manner::Rude,
                    1 if plan.villains => Manner::Silent,
                    2 if plan.villains => Manner::Deaf,
                    _ => Manner::Honest,
                };
                clients.push(client);
            }
        }
        let (_, events) = mpsc::channel(1);
        let ring = Ring::new(pools.receive.clone());
        let mut world = Self {
            plan,
            chance,
            tick: 0,
            now_ns: 0,
            cookies: 0,
            exports,
            clients,
            network: Network::default(),
            ring,
            engine: None,
            events,
            pools,
            active: true,
            overdue: false,
            accepted: Vec::new(),
            idle_count: 0,
            completions: Vec::new(),
            upgrading: None,
            upgrades_count: 0,
            turns_count: 0,
            peak: Census::default(),
        };
        world.start();
        world
    }

    /// The whole life of the world.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.steps_count {
            self.step()?;
        }
        self.end()
    }

    /// One step: a little time passes, and everybody may do something.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.now_ns += self.chance.between(1_000, 300_000);
        let mut busy = self.let_clients_act()?;
        self.network.deliver(&mut self.chance);
        let letters = self.orders()?;
        for client in &self.clients {
            self.exports[client.disc].excuse(client, &mut self.network);
        }
        let mut completions = std::mem::take(&mut self.completions);
        let (faults, ring) = (self.plan.faults, &mut self.ring);
        ring.step(&mut outside(&mut self.exports, &mut self.network, &mut self.chance), faults, &mut completions);
        let wake_at = self.engine.as_ref().and_then(Engine::wake_at);
        let is_due = wake_at.is_some_and(|at| at <= self.now());
        if !completions.is_empty() || !letters.is_empty() || is_due || self.overdue {
            busy |= !completions.is_empty() || !letters.is_empty() || self.overdue;
            self.turn(&mut completions, letters)?;
        }
        self.completions = completions;
        self.idle_count = if busy { 0 } else { self.idle_count + 1 };
        if self.idle_count > IDLE_STEPS_MAX {
            self.idle_count = 0;
            let freezes = |export: &Export| matches!(export.frozen, Some(Frozen::Ordered(_)));
            if self.upgrading.is_some() || self.exports.iter().any(freezes) {
                return Err(format!("a freeze does not end, in flight {:?}", self.ring.describe()));
            }
            match wake_at {
                Some(at) => self.now_ns = self.now_ns.max(at.since(Instant::default()).as_nanos() as u64),
                None if self.active => {}
                None if self.network.time_out() => {
                    self.now_ns += u64::from(TCP_USER_TIMEOUT_MS) * 1_000_000;
                }
                None => return Err(self.stuck()),
            }
        }
        Ok(())
    }

    fn turn(&mut self, completions: &mut Vec<Completion>, letters: Vec<Letter>) -> Result<(), String> {
        let now = self.now();
        let Some(engine) = &mut self.engine else { return Ok(()) };
        self.turns_count += 1;
        self.overdue = false;
        engine.begin(now);
        for completion in completions.drain(..) {
            self.accepted.extend(completion.socket.as_ref().map(|socket| self.network.find(socket.as_raw_fd())));
            engine.apply(completion);
        }
        for letter in letters {
            tracing::debug!(?letter, now_ns = self.now_ns, "ordered");
            engine.deliver(letter);
        }
        engine.maintain(self.ring.has_receive_buffers());
        while let Some((owner, op)) = engine.next_op() {
            if self.chance.one_in(self.plan.faults.fill) {
                engine.put_back(owner, op);
                self.overdue = true;
                break;
            }
            self.ring.submit(owner, op, &self.network);
        }
        engine.end(now);
        if engine.takes_cancels() {
            self.ring.cancel(|owner| engine.is_held(owner));
        }
        if let Some(wrong) = self.ring.wrong.take() {
            return Err(wrong);
        }
        self.network.look();
        if !self.overdue {
            // For whom nothing is submitted although his disc is not frozen is refused.
            let (exports, links, upgrading) = (&self.exports, &self.network.links, self.upgrading.is_some());
            let is_known =
                |id: &mut LinkId| links.get(id).is_none_or(|link| !upgrading && exports[link.disc].frozen.is_none());
            for id in self.accepted.extract_if(.., is_known).collect::<Vec<_>>() {
                if !self.ring.kept.contains(&id) && self.network.links.contains_key(&id) {
                    self.network.refuse(id);
                }
            }
        }
        self.check_rights()?;
        self.check_bounds()?;
        self.take_answers()?;
        self.check_frozen()?;
        self.check_copies()?;
        self.go_on_with_upgrade()?;
        self.take_events()
    }

    /// Who lost its right is cut off in the same turn (safety rule 4).
    fn check_rights(&mut self) -> Result<(), String> {
        for client in &self.clients {
            let (Some(id), Some(attachment)) = (client.link, client.attachment) else { continue };
            let (export, link) = (&self.exports[client.disc], &self.network.links[&id]);
            if client.attached && !export.access[attachment] && !link.shut && !link.broken {
                return Err(format!("disc {}: a client without a right is still connected", export.number));
            }
        }
        Ok(())
    }

    /// Of what is frozen nothing is in flight.
    fn check_frozen(&mut self) -> Result<(), String> {
        for (disc, export) in self.exports.iter_mut().enumerate() {
            if let Some(Frozen::Ordered(answer)) = &mut export.frozen {
                match answer.try_recv() {
                    Err(TryRecvError::Empty) => {}
                    Ok(Ok(())) => export.frozen = Some(Frozen::Answered),
                    other => return Err(format!("disc {}: the freeze ends with {other:?}", export.number)),
                }
            }
            let uses = self.ring.uses_of(disc, &self.network);
            if matches!(export.frozen, Some(Frozen::Answered)) && !uses.is_empty() {
                return Err(format!("disc {} is frozen, and in flight are {uses:?}", export.number));
            }
        }
        Ok(())
    }

    /// Nothing grows beyond what clients can cause.
    fn check_bounds(&mut self) -> Result<(), String> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let census = engine.census();
        // A connection that is cut stays until its last operation is over; meanwhile its client comes back.
        let most = 8 * (self.clients.len() + 1);
        let peak = &mut self.peak;
        peak.connections_count = peak.connections_count.max(census.connections_count);
        peak.transfers_count = peak.transfers_count.max(census.transfers_count);
        peak.batches_count = peak.batches_count.max(census.batches_count);
        let fits = census.connections_count <= most
            && census.transfers_count <= census.connections_count * self.plan.depth
            && census.waiting_count <= 2 * most + census.transfers_count
            && census.batches_count <= 2 * most;
        if fits { Ok(()) } else { Err(format!("too much of something: {census:?}, with {most} connections")) }
    }

    fn let_clients_act(&mut self) -> Result<bool, String> {
        let mut busy = false;
        let mut clients = std::mem::take(&mut self.clients);
        let mut oldest = vec![self.tick; self.exports.len()];
        for client in &clients {
            oldest[client.disc] = oldest[client.disc].min(client.oldest().unwrap_or(Tick::MAX));
        }
        for client in &mut clients {
            busy |= self.let_act(client, oldest[client.disc]).map_err(|error| {
                format!("disc {}, client {}: {error}", self.exports[client.disc].number, client.address)
            })?;
        }
        self.clients = clients;
        self.settle_orphans();
        Ok(busy)
    }

    /// One client does something, or nothing.
    fn let_act(&mut self, client: &mut Client, oldest: Tick) -> Result<bool, String> {
        let export = &mut self.exports[client.disc];
        let Some(id) = client.link else {
            if !self.active || !self.chance.one_in(6) {
                return Ok(false);
            }
            let id = self.network.dial(client.disc, client.address);
            tracing::debug!(id, disc = client.disc, address = %client.address, "a call");
            client.greet(id, self.network.get(id), &mut self.chance);
            export.excuse(client, &mut self.network);
            return Ok(true);
        };
        export.excuse(client, &mut self.network);
        let link = self.network.get(id);
        let over = link.broken || (link.shut && (link.to_client.is_empty() || client.silent || client.is_deaf()));
        if over || (!self.active && !link.is_accepted()) {
            if !link.excused && link.is_accepted() {
                return Err("it was cut off for no reason".to_owned());
            }
            (link.excused, link.broken) = (true, true);
            let unknown = client.lose().into_iter();
            export.orphans.extend(unknown.map(|(write, range)| Orphan { link: id, write, range }));
            return Ok(true);
        }
        if self.active && self.chance.one_in(self.plan.cut) {
            (link.broken, link.excused) = (true, true);
            return Ok(true);
        }
        let before = (link.to_client.len(), link.to_server.len());
        let mut scene = Scene {
            chance: &mut self.chance,
            history: &mut export.history,
            link,
            tick: &mut self.tick,
            disk_failed: export.disk.failures_count > 0,
            can_punch: export.disk.can_punch,
            sync_failed: export.sync_failed,
            sync_may_fail: export.sync_failed.is_some() || export.disk.lost_syncs_count > 0,
            oldest,
        };
        if !scene.chance.one_in(3) {
            client.listen(&mut scene)?;
        }
        if self.active && !scene.chance.one_in(3) && !scene.link.finished {
            client.ask(&mut scene, &mut self.cookies);
        }
        if !self.active {
            client.leave(scene.link);
        }
        Ok(before != (scene.link.to_client.len(), scene.link.to_server.len()))
    }

    /// Writes of lost connections take effect no more when the connection is shut down and nothing is in flight.
    fn settle_orphans(&mut self) {
        let (links, ring) = (&mut self.network.links, &self.ring);
        for (disc, export) in self.exports.iter_mut().enumerate() {
            let (tick, history) = (self.tick, &mut export.history);
            export.orphans.retain(|orphan| {
                let is_over = links.get(&orphan.link).is_none_or(|link| link.shut || !link.is_accepted())
                    && ring.changes_count(disc, orphan.range) == 0;
                if is_over {
                    history.finish(orphan.write, orphan.range, tick);
                }
                !is_over
            });
        }
        let (clients, overdue) = (&self.clients, self.overdue);
        links.retain(|id, link| {
            let is_over = link.broken && (link.shut || !link.is_accepted());
            !is_over || overdue || ring.uses(*id) || clients.iter().any(|client| client.link == Some(*id))
        });
    }

    /// What the control side orders in this step, or what happens to the machine.
    fn orders(&mut self) -> Result<Vec<Letter>, String> {
        let mut letters = Vec::new();
        if !self.active {
            return Ok(letters);
        }
        if self.chance.one_in(self.plan.crash) {
            self.crash()?;
        }
        if self.chance.one_in(self.plan.storm) {
            self.network.cut_all();
        }
        if self.upgrading.is_none() && self.chance.one_in(self.plan.upgrade) {
            self.begin_upgrade();
        }
        if self.upgrading.is_some() {
            return Ok(self.freeze_for_upgrade().into_iter().collect());
        }
        if self.chance.one_in(self.plan.panic) && !self.exports.iter().any(|export| export.doomed) {
            let disc = self.chance.below(self.exports.len() as u64) as usize;
            if matches!(self.exports[disc].standing, Standing::Serving) {
                self.exports[disc].doomed = true;
                letters.push(Letter::Panic(self.exports[disc].number));
            }
        }
        for disc in 0..self.exports.len() {
            if matches!(self.exports[disc].standing, Standing::Closed) && self.chance.one_in(10) {
                letters.push(self.open(disc));
            } else if self.exports[disc].frozen.is_some() && self.chance.one_in(20) {
                letters.push(self.thaw(disc));
            } else if self.chance.one_in(self.plan.freeze) {
                letters.extend(self.freeze(disc));
            } else if self.chance.one_in(self.plan.copy) {
                letters.extend(self.copy(disc));
            } else if self.chance.one_in(self.plan.order) {
                letters.extend(self.order(disc));
            }
        }
        Ok(letters)
    }

    fn freeze(&mut self, disc: usize) -> Option<Letter> {
        let export = &mut self.exports[disc];
        if !matches!(export.standing, Standing::Serving) || export.doomed || export.frozen.is_some() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        export.frozen = Some(Frozen::Ordered(answer));
        Some(Letter::Freeze(export.number, reply))
    }

    fn thaw(&mut self, disc: usize) -> Letter {
        self.exports[disc].frozen = None;
        Letter::Thaw(self.exports[disc].number, oneshot::channel().0)
    }

    fn order(&mut self, disc: usize) -> Option<Letter> {
        let export = &mut self.exports[disc];
        if !matches!(export.standing, Standing::Serving) || export.doomed {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        match self.chance.below(6) {
            0 => {
                (export.standing, export.frozen) = (Standing::Closing(answer), None);
                Some(Letter::Close(export.number, reply))
            }
            1 if export.frozen.is_some() || export.copying.is_some() => None,
            1 => Some(self.resize(disc)),
            _ => {
                let mut attachments = Vec::new();
                for attachment in 0..ATTACHMENTS {
                    // Whose withdrawal is not answered is not let in again: it could not be told whose writes they are.
                    let pending = export.withdrawals.iter().any(|other| other.attachments.contains(&attachment));
                    export.access[attachment] = !pending && !self.chance.one_in(3);
                    if !export.access[attachment] {
                        attachments.push(attachment);
                    }
                }
                export.withdrawals.push(Withdrawal { answer, attachments });
                Some(Letter::SetAccess(export.number, export.allowed(disc), reply))
            }
        }
    }

    fn take_answers(&mut self) -> Result<(), String> {
        for (disc, export) in self.exports.iter_mut().enumerate() {
            let size = self.plan.disc_bytes[disc];
            let (mut early, doomed) = (false, export.doomed);
            export.withdrawals.retain_mut(|withdrawal| match withdrawal.answer.try_recv() {
                Err(TryRecvError::Empty) => true,
                Ok(Ok(())) => {
                    let mut regions = withdrawal.attachments.iter().map(|attachment| region(size, *attachment));
                    early |= regions.any(|region| self.ring.changes_count(disc, region) > 0);
                    false
                }
                // The disc has panicked, or is being closed.
                Ok(Err(_)) | Err(TryRecvError::Closed) => false,
            });
            if early {
                return Err(format!("disc {}: a withdrawal is answered while it still writes", export.number));
            }
            let (answer, closes) = match &mut export.standing {
                Standing::Serving | Standing::Closed => continue,
                Standing::Resizing(resize) => (resize.answer.try_recv(), false),
                Standing::Closing(answer) => (answer.try_recv(), true),
            };
            match answer {
                Err(TryRecvError::Empty) => {}
                Ok(result) if !closes => {
                    self.tick += 1;
                    export.finish_resize(&result, self.tick)?;
                }
                Err(TryRecvError::Closed) if !closes && doomed => export.standing = Standing::Serving,
                Ok(answer) if closes && self.ring.file_ops_count(disc) == 0 => {
                    export.standing = Standing::Closed;
                    self.tick += 1;
                    match answer {
                        // Answers to reads may still be on their way.
                        Ok(()) => export.history.flushed(self.tick, 0),
                        Err(ShardError::Os { .. })
                            if export.disk.lost_syncs_count > 0 || export.sync_failed.is_some() =>
                        {
                            export.sync_failed.get_or_insert(self.tick);
                        }
                        Err(error) => return Err(format!("cannot close disc {}: {error}", export.number)),
                    }
                }
                other => {
                    let in_flight = self.ring.file_ops_count(disc);
                    return Err(format!("disc {}: {other:?} with {in_flight} operations", export.number));
                }
            }
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), String> {
        while let Ok(event) = self.events.try_recv() {
            match event {
                ShardEvent::SyncFailed { number, .. } => {
                    let export = self.exports.iter_mut().find(|export| export.number == number).expect("it is open");
                    if export.disk.lost_syncs_count == 0 {
                        return Err(format!("disc {number}: no sync has failed"));
                    }
                    self.tick += 1;
                    export.sync_failed.get_or_insert(self.tick);
                }
                ShardEvent::Panicked { number, message } => {
                    let export = self.exports.iter_mut().find(|export| export.number == number).expect("it is open");
                    if !export.doomed {
                        return Err(format!("disc {number} panicked: {message}"));
                    }
                    export.frozen = None;
                    let (reply, answer) = oneshot::channel();
                    if !matches!(export.standing, Standing::Closing(_)) {
                        export.standing = Standing::Closing(answer);
                        let engine = self.engine.as_mut().expect("it has just spoken");
                        engine.deliver(Letter::Close(number, reply));
                    }
                    self.overdue = true;
                }
                #[allow(unreachable_patterns, reason = "others may be added")]
                _ => {}
            }
        }
        Ok(())
    }

    /// A process that serves all discs.
    fn start(&mut self) {
        let (sender, events) = mpsc::channel(1);
        self.events = events;
        self.engine = Some(Engine::new(sender, Patience::default(), self.pools.data.clone()));
        for disc in 0..self.exports.len() {
            let letter = self.open(disc);
            self.engine.as_mut().expect("it is there").deliver(letter);
        }
        self.overdue = true;
    }

    fn open(&mut self, disc: usize) -> Letter {
        let export = &mut self.exports[disc];
        // Nobody knows what became of a change of size that was under way.
        export.disk.resize(export.disk.size());
        let (data, listener) = (export.disk.open(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback"));
        self.ring.name(&data, disc);
        self.ring.name(&listener, disc);
        export.standing = Standing::Serving;
        export.doomed = false;
        let disc = OpenDisc {
            number: export.number,
            data,
            io: export.io,
            size_bytes: export.disk.size(),
            listener: Some(listener),
            access: export.allowed(disc),
            own_address: IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1)),
            sync_failed: export.sync_failed.is_some(),
        };
        Letter::Open(Box::new(disc), oneshot::channel().0)
    }

    /// The process is killed, or the machine loses its power; then it starts again.
    fn crash(&mut self) -> Result<(), String> {
        let power = self.chance.one_in(2);
        tracing::debug!(power, now_ns = self.now_ns, "a crash");
        (self.engine, self.upgrading) = (None, None);
        self.ring.crash(&mut outside(&mut self.exports, &mut self.network, &mut self.chance));
        self.network.crash();
        self.accepted.clear();
        self.completions.clear();
        self.check_memory()?;
        self.tick += 1;
        for export in &mut self.exports {
            export.withdrawals.clear();
            export.orphans.clear();
            (export.frozen, export.copying) = (None, None);
            export.history.finish_all(self.tick);
            if power {
                export.lose_power(&mut self.chance)?;
            }
        }
        self.start();
        Ok(())
    }

    /// Everybody leaves, everything is closed, and nothing is left.
    fn end(&mut self) -> Result<(), String> {
        self.step_until(|world| world.upgrading.is_none())?;
        self.active = false;
        // An operation that waits could be interrupted for ever, so that nobody would be idle.
        let shorten = self.plan.faults.shorten;
        self.plan.faults = Faults { shorten, ..Faults::default() };
        let frozen = (0..self.exports.len()).filter(|disc| self.exports[*disc].frozen.is_some()).collect::<Vec<_>>();
        let letters = frozen.into_iter().map(|disc| self.thaw(disc)).collect();
        self.turn(&mut Vec::new(), letters)?;
        self.step_until(|world| world.clients.iter().all(|client| client.link.is_none()))?;
        self.step_until(|world| world.exports.iter().all(|export| !matches!(export.standing, Standing::Resizing(_))))?;
        let mut letters = Vec::new();
        for export in &mut self.exports {
            if matches!(export.standing, Standing::Serving) {
                let (reply, answer) = oneshot::channel();
                export.standing = Standing::Closing(answer);
                letters.push(Letter::Close(export.number, reply));
            }
        }
        self.turn(&mut Vec::new(), letters)?;
        self.step_until(|world| world.exports.iter().all(|export| matches!(export.standing, Standing::Closed)))?;
        // A connection whose disc has panicked is forgotten before its receive is over.
        self.step_until(|world| world.ring.in_flight_count() == 0)?;
        let (reply, mut answer) = oneshot::channel();
        self.turn(&mut Vec::new(), vec![Letter::Stop(reply)])?;
        let mut engine = self.engine.take().expect("it runs");
        let is_finished = engine.is_finished();
        engine.finish();
        let census = Census { batches_count: 0, ..engine.census() };
        let is_told = answer.try_recv().is_ok();
        if census != Census::default() || !is_finished || !is_told || self.ring.in_flight_count() > 0 {
            let in_flight = self.ring.describe();
            return Err(format!("at the end there are still {census:?}, and in flight {in_flight:?}"));
        }
        drop(engine);
        self.check_memory()?;
        self.exports.iter_mut().try_for_each(|export| export.lose_power(&mut self.chance))
    }

    fn step_until(&mut self, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), String> {
        for _ in 0..END_STEPS_MAX {
            if is_so(self) {
                return Ok(());
            }
            self.step()?;
        }
        Err(self.stuck())
    }

    fn check_memory(&self) -> Result<(), String> {
        let (data, receive) = (self.pools.data.taken_count(), self.ring.taken_count());
        if (data, receive) == (0, 0) { Ok(()) } else { Err(format!("{data} and {receive} buffers are lost")) }
    }

    fn stuck(&self) -> String {
        let waiting = self.clients.iter().filter(|client| client.link.is_some());
        let waiting: Vec<String> = waiting
            .map(|client| format!("disc {} {:?}: {} requests", client.disc, client.manner, client.waiting_count()))
            .collect();
        let census = self.engine.as_ref().map(Engine::census);
        format!("nothing happens any more: {waiting:?}, {census:?}, in flight {:?}", self.ring.describe())
    }

    fn now(&self) -> Instant {
        Instant::from_nanoseconds(self.now_ns)
    }
}

impl Export {
    fn new(disc: usize, bytes: u64, chance: &mut Chance) -> Self {
        let can_punch = !chance.one_in(4);
        Self {
            number: DiscNumber(disc as u64 + 1),
            disk: Disk::new(bytes, can_punch),
            // Of a size that is no whole number of blocks it is copied all the same.
            io: if can_punch && chance.one_in(2) { IoMode::Direct } else { IoMode::Cached },
            history: History::new(bytes),
            access: [true; ATTACHMENTS],
            standing: Standing::Closed,
            withdrawals: Vec::new(),
            frozen: None,
            copying: None,
            sync_failed: None,
            doomed: false,
            orphans: Vec::new(),
        }
    }

    fn allowed(&self, disc: usize) -> Access {
        let allowed = (0..ATTACHMENTS).filter(|attachment| self.access[*attachment]);
        let entry = |attachment| {
            let client = Client::new(disc, Some(attachment), (0, 0), 0);
            (IpAddr::V4(client.address), Secret::new(key_of(disc, attachment)).hash())
        };
        Access::Attachments(allowed.map(entry).collect())
    }

    /// A client may be refused or cut off when it has no right, or when its disc is not being served.
    fn excuse(&self, client: &Client, network: &mut Network) {
        let Some(id) = client.link else { return };
        let allowed = client.attachment.is_some_and(|attachment| self.access[attachment]);
        if !allowed || self.doomed || !matches!(self.standing, Standing::Serving) {
            network.get(id).excused = true;
        }
    }

    /// Power is lost: what is left must be legal, and is what the disc has from then on.
    fn lose_power(&mut self, chance: &mut Chance) -> Result<(), String> {
        let image = self.disk.lose_power(chance);
        let checked = self.history.check_image(&image);
        checked.map_err(|error| format!("disc {}, after a loss of power: {error}", self.number))?;
        self.history.forget(self.disk.size(), Content::Image(Rc::new(image)));
        (self.sync_failed, self.disk.lost_syncs_count) = (None, 0);
        Ok(())
    }
}

fn outside<'a>(exports: &'a mut [Export], network: &'a mut Network, chance: &'a mut Chance) -> Outside<'a> {
    Outside { disks: exports.iter_mut().map(|export| &mut export.disk).collect(), network, chance }
}

/// The part of a disc that an attachment writes to, from the size that the disc began with; the last one has what follows.
fn region(disc_bytes: u64, attachment: usize) -> (u64, u64) {
    let part = disc_bytes / ATTACHMENTS as u64;
    let end = if attachment + 1 == ATTACHMENTS { u64::MAX } else { part * (attachment as u64 + 1) };
    (part * attachment as u64, end)
}
