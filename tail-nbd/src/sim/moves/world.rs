//! What happens to the tails, and what must hold.

use super::super::chance::Chance;
use super::super::client::{Client, Scene, key_of};
use super::super::history::{Content, History, Tick};
use super::super::network::LinkId;
use super::super::ring::Faults;
use super::super::stage::{self, Mishaps};
use super::super::world::Pools;
use super::brain::Brain;
use super::tail::Tail;
use crate::disc::mode::IoMode;
use crate::time::Instant;
use spine::id::DiscName;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::yield_now;

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) disc_bytes: u64,
    pub(super) clients_count: usize,
    /// Requests that a client has in flight at most.
    pub(super) depth: usize,
    /// Steps in which things happen.
    pub(super) steps_count: usize,
    pub(super) io: IoMode,
    pub(super) faults: Faults,
    pub(super) mishaps: Mishaps,
    /// Once in so many steps, or never when it is 0: a client's connection breaks.
    pub(super) cut: u64,
    /// A tail is killed, or loses power; it starts again some time.
    pub(super) crash: u64,
    /// A tail's jobs are asked to end; it is killed soon.
    pub(super) stop: u64,
    /// The connections between the tails break.
    pub(super) lan_cut: u64,
    /// Nothing arrives between the tails for a while.
    pub(super) lan_silence: u64,
    /// The brain is away for a while.
    pub(super) brain_away: u64,
}

/// A world, from its beginning to its end.
pub(super) struct World {
    plan: Plan,
    chance: Chance,
    tick: Tick,
    cookies: u64,
    began: tokio::time::Instant,
    tails: [Tail; 2],
    pub(super) brain: Brain,
    /// Each with the tail that it is connected to.
    clients: Vec<(Client, usize)>,
    history: History,
    orphans: Vec<Orphan>,
    is_active: bool,
    quiet_count: u64,
    pub(super) crashes_count: u64,
}

/// A write of a connection that was lost.
struct Orphan {
    tail: usize,
    link: LinkId,
    write: u64,
    range: (u64, u64),
}

/// Steps after which everything is in its place.
const END_STEPS_MAX: usize = 30_000;

impl World {
    pub(super) fn new(seed: u64, plan: Plan, folder: &Path, pools: &Pools) -> Self {
        let disc: DiscName = "sata.7".parse().expect("a name");
        let tails = [1, 2].map(|number| Tail::new(number, &disc, plan.io, folder, pools.clone()));
        let clients = (0..plan.clients_count).map(|_| {
            let mut client = Client::new(0, Some(0), (0, u64::MAX), plan.disc_bytes);
            client.depth = plan.depth;
            (client, 0)
        });
        Self {
            chance: Chance::new(seed),
            tick: 0,
            cookies: 0,
            began: tokio::time::Instant::now(),
            tails,
            brain: Brain::new(disc, plan.disc_bytes),
            clients: clients.collect(),
            history: History::new(plan.disc_bytes),
            orphans: Vec::new(),
            is_active: false,
            quiet_count: 0,
            crashes_count: 0,
            plan,
        }
    }

    /// The whole life of the world.
    pub(super) async fn run(&mut self) -> Result<(), String> {
        self.tails.iter_mut().for_each(Tail::start);
        let head = self.clients[0].0.address.to_string();
        self.brain.make(&mut self.tails, &head, &key_of(0, 0));
        self.until("the disc is made", |world| world.tails[0].has_address()).await?;
        (self.is_active, self.brain.is_tired) = (true, false);
        for _ in 0..self.plan.steps_count {
            self.step().await?;
        }
        self.end().await
    }

    async fn step(&mut self) -> Result<(), String> {
        self.pass_time().await;
        if self.is_active {
            self.strike()?;
        }
        let mut is_busy = self.let_clients_act()?;
        stage::with(|stage| stage.lan.deliver(&mut stage.chance));
        let now = Instant::from_nanoseconds(self.began.elapsed().as_nanos() as u64);
        for tail in &mut self.tails {
            is_busy |= tail.step(now, self.plan.faults, &mut self.chance)?;
        }
        if !self.chance.one_in(3) && !self.is_brain_away() {
            self.brain.think(&mut self.tails, &mut self.chance);
        }
        self.quiet_count = if is_busy { 0 } else { self.quiet_count + 1 };
        match self.tails.each_ref().map(Tail::answers) {
            [true, true] => Err("two tails answer for the disc".to_owned()),
            _ => Ok(()),
        }
    }

    /// Most steps are short; when nothing happens, whole deadlines pass.
    async fn pass_time(&mut self) {
        let micros = match self.chance.below(60) {
            _ if self.quiet_count > 30 => self.chance.between(1_000, 600_000),
            0 => self.chance.between(1_000, 60_000),
            1..8 => self.chance.between(300, 3_000),
            _ => self.chance.between(1, 300),
        };
        tokio::time::advance(Duration::from_micros(micros)).await;
        for _ in 0..self.chance.below(4) {
            for tail in &self.tails {
                tail.go_on().await;
            }
            yield_now().await;
        }
    }

    /// What goes wrong in this step.
    fn strike(&mut self) -> Result<(), String> {
        let tail = self.chance.below(2) as usize;
        // What is rare and matters is not left to luck.
        let haste = if self.brain.is_critical { 6 } else { 1 };
        if self.chance.one_in(self.plan.crash / haste) {
            self.crash(tail)?;
            if self.chance.one_in(4) {
                self.crash(1 - tail)?;
            }
        }
        if self.chance.one_in(self.plan.stop)
            && let Some(process) = &self.tails[tail].process
        {
            process.stopping.cancel();
        }
        let is_stopping = |tail: &Tail| tail.process.as_ref().is_some_and(|process| process.stopping.is_cancelled());
        for tail in 0..2 {
            if is_stopping(&self.tails[tail]) && self.chance.one_in(20) {
                self.crash(tail)?;
            }
            if self.tails[tail].process.is_none() && self.chance.one_in(25) {
                self.tails[tail].start();
            }
        }
        let plan = &self.plan;
        let (cut, falls_silent) = (self.chance.one_in(plan.lan_cut), self.chance.one_in(plan.lan_silence));
        let speaks = self.chance.one_in(40);
        stage::with(|stage| {
            if cut {
                stage.lan.cut_all();
            }
            stage.lan.is_silent = falls_silent || (stage.lan.is_silent && !speaks);
        });
        Ok(())
    }

    fn is_brain_away(&mut self) -> bool {
        // Away for as long as the chance says so: a whole run of steps, by what the clock shows.
        let period = self.began.elapsed().as_millis() as u64 / 200;
        self.is_active && Chance::new(period ^ self.plan.disc_bytes).one_in(self.plan.brain_away)
    }

    /// A tail ends without a warning, or its machine does.
    fn crash(&mut self, tail: usize) -> Result<(), String> {
        let power = self.chance.one_in(2);
        self.crashes_count += u64::from(self.tails[tail].process.is_some());
        tracing::debug!(tail = %self.tails[tail].name, power, "a crash");
        self.tails[tail].kill(&mut self.chance);
        self.brain.forget_orders(tail);
        if power && let Some(image) = self.tails[tail].lose_power(&mut self.chance) {
            self.tick += 1;
            let checked = self.history.check_image(&image);
            checked.map_err(|error| format!("{}, after a loss of power: {error}", self.tails[tail].name))?;
            self.history.forget(self.plan.disc_bytes, Content::Image(Rc::new(image)));
        }
        Ok(())
    }

    fn let_clients_act(&mut self) -> Result<bool, String> {
        let mut is_busy = false;
        let mut clients = std::mem::take(&mut self.clients);
        let oldest = clients.iter().filter_map(|(client, _)| client.oldest()).min().unwrap_or(Tick::MAX).min(self.tick);
        for (client, at) in &mut clients {
            is_busy |= self.let_act(client, at, oldest)?;
        }
        self.clients = clients;
        self.settle_orphans();
        Ok(is_busy)
    }

    /// One client does something, or nothing.
    fn let_act(&mut self, client: &mut Client, at: &mut usize, oldest: Tick) -> Result<bool, String> {
        let Some(id) = client.link else {
            if !self.is_active || !self.chance.one_in(4) {
                return Ok(false);
            }
            // Who has the address twice is found by chance.
            let doors: Vec<usize> = (0..2).filter(|tail| self.tails[*tail].has_address()).collect();
            let Some(door) = doors.get(self.chance.below(2) as usize % doors.len().max(1)) else { return Ok(false) };
            *at = *door;
            let network = &mut self.tails[*at].network;
            let id = network.dial(0, client.address);
            tracing::debug!(id, tail = *at, "a call");
            client.greet(id, network.get(id), &mut self.chance);
            return Ok(true);
        };
        let tail = &mut self.tails[*at];
        let is_running = tail.process.is_some();
        let link = tail.network.get(id);
        link.excused = true;
        let gives_up = !client.attached && (!is_running || self.chance.one_in(100));
        let is_over = link.broken || gives_up || (link.shut && link.to_client.is_empty());
        if is_over || (self.is_active && self.chance.one_in(self.plan.cut)) {
            link.broken = true;
            let lost = client.lose().into_iter();
            self.orphans.extend(lost.map(|(write, range)| Orphan { tail: *at, link: id, write, range }));
            return Ok(true);
        }
        let before = (link.to_client.len(), link.to_server.len());
        let mut scene = Scene {
            chance: &mut self.chance,
            history: &mut self.history,
            link,
            tick: &mut self.tick,
            disk_failed: false,
            can_punch: true,
            sync_failed: None,
            sync_may_fail: false,
            oldest,
        };
        if !scene.chance.one_in(3) {
            let heard = client.listen(&mut scene);
            heard.map_err(|error| format!("{}: {error}", tail.name))?;
        }
        if self.is_active && !scene.chance.one_in(3) && !scene.link.finished {
            client.ask(&mut scene, &mut self.cookies);
        }
        if !self.is_active {
            client.leave(scene.link);
        }
        Ok(before != (scene.link.to_client.len(), scene.link.to_server.len()))
    }

    /// Writes of lost connections take effect no more when the connection is shut down and nothing is in flight.
    fn settle_orphans(&mut self) {
        let (tick, history, tails) = (self.tick, &mut self.history, &mut self.tails);
        self.orphans.retain(|orphan| {
            let tail = &tails[orphan.tail];
            let is_over = tail.network.links.get(&orphan.link).is_none_or(|link| link.shut || !link.is_accepted())
                && tail.ring.changes_count(0, orphan.range) == 0;
            if is_over {
                history.finish(orphan.write, orphan.range, tick);
            }
            !is_over
        });
        for (number, tail) in tails.iter_mut().enumerate() {
            let (clients, is_overdue) = (&self.clients, tail.is_overdue());
            let ring = &tail.ring;
            tail.network.links.retain(|id, link| {
                let is_over = link.broken && (link.shut || !link.is_accepted());
                let is_used = clients.iter().any(|(client, at)| *at == number && client.link == Some(*id));
                !is_over || is_overdue || ring.uses(*id) || is_used
            });
        }
    }

    /// Nothing goes wrong any more: everything comes to its place, and the disc is what it must be.
    async fn end(&mut self) -> Result<(), String> {
        self.plan.faults = Faults { shorten: self.plan.faults.shorten, ..Faults::default() };
        stage::with(|stage| {
            stage.mishaps = Mishaps::default();
            stage.lan.is_silent = false;
        });
        self.is_active = false;
        self.brain.is_tired = true;
        for tail in 0..2 {
            if self.tails[tail].process.as_ref().is_some_and(|process| process.stopping.is_cancelled()) {
                self.crash(tail)?;
            }
            if self.tails[tail].process.is_none() {
                self.tails[tail].start();
            }
        }
        self.until("the last move ends", |world| world.brain.is_content()).await?;
        self.until("clients are served and leave", |world| {
            world.clients.iter().all(|(client, _)| client.link.is_none())
        })
        .await?;
        let owner = self.brain.at;
        self.until("the disc is served", |world| world.tails[owner].answers()).await?;
        self.until("all connections end", |world| world.orphans.is_empty()).await?;
        if self.tails[1 - owner].content().is_some() {
            return Err("a copy is left over".to_owned());
        }
        let content = self.tails[owner].content().ok_or("the disc is gone")?;
        self.tick += 1;
        self.history.check_read(0, &content, self.tick).map_err(|error| format!("at the end: {error}"))
    }

    async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), String> {
        for _ in 0..END_STEPS_MAX {
            if is_so(self) {
                return Ok(());
            }
            self.step().await?;
        }
        let reports = self.tails.each_ref().map(Tail::report);
        Err(format!("it does not happen that {what}: {}, {reports:?}", self.brain.describe()))
    }
}
