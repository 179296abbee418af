//! A brain and two tails, and a disc that goes from one to the other.

use super::net::{self, Net};
use crate::{
    brain::{Brain, object},
    tail::{Setup, Tail},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use spine::{
    id::{NodeName, ResourceName},
    message::Command,
    resource::Attributes,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The attachment key of every disc.
pub const KEY: &str = "migrate";
/// No move takes longer on a machine that works.
pub const DEADLINE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How the tails are set up.
#[derive(Debug, Clone, Copy)]
pub struct Tails<'a> {
    /// A folder for their files.
    pub scratch: &'a Path,
    /// Their program.
    pub program: &'a Path,
    /// Threads of each that serve.
    pub shards_count: usize,
    /// How the pools' files are read and written.
    pub io: &'a str,
    /// The folder of each one's pool; in the scratch folder if not given.
    pub pool_folders: Option<[&'a Path; 2]>,
}

/// The machines.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the net: the processes end first.
    tails: [Node; 2],
    brain: Brain,
    discs: BTreeMap<u64, Place>,
    /// Moves that are neither finished nor called off.
    moving: Vec<Move>,
    moves_count: u128,
    /// The highest that was granted.
    generation: u64,
    net: Net,
}

#[derive(Debug)]
struct Node {
    name: NodeName,
    tail: Tail,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    tail: usize,
    generation: u64,
    bytes: u64,
}

/// A move that was ordered.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    id: uuid::Uuid,
    number: u64,
    to: usize,
    generation: u64,
    begun: Instant,
}

/// What came of a move.
#[derive(Debug, Clone)]
pub struct Moved {
    /// From the order to the new owner's report.
    pub took: Duration,
    /// What the source said of it last.
    pub report: Value,
}

impl Moved {
    /// How long its clients were paused, as the source says; 0 when it does not.
    pub fn pause_ms(&self) -> u64 {
        self.report.get("pause_ms").and_then(Value::as_u64).unwrap_or_default()
    }
}

impl Move {
    /// How long ago it was ordered.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Cluster {
    /// Starts everything. Moves this thread into the head's network namespace.
    ///
    /// # Errors
    /// When something does not start; what it printed is in the error.
    pub fn start(tails: &Tails<'_>) -> Result<Self> {
        let net = Net::new()?;
        net.enter()?;
        let brain = Brain::start(net::BRAIN.parse()?)?;
        let tail = |nth| Node::start(&net, nth, tails);
        let tails = [tail(0)?, tail(1)?];
        for tail in &tails {
            brain.wait_ready(&tail.name).with_context(|| tail.tail.log_tail())?;
        }
        Ok(Self { tails, brain, discs: BTreeMap::new(), moving: Vec::new(), moves_count: 0, generation: 1, net })
    }

    /// Makes a disc at the first tail.
    ///
    /// # Errors
    /// When the tail refuses.
    pub fn create(&mut self, number: u64, bytes: u64) -> Result<()> {
        self.create_at(0, number, bytes)
    }

    /// Makes a disc at the tail at which another is not.
    ///
    /// # Errors
    /// When there is no such other disc, or the tail refuses.
    pub fn create_away_from(&mut self, other: u64, number: u64, bytes: u64) -> Result<()> {
        let place = self.discs.get(&other).context("no such disc")?;
        self.create_at(1 - place.tail, number, bytes)
    }

    fn create_at(&mut self, tail: usize, number: u64, bytes: u64) -> Result<()> {
        let attributes = json!({
            "size": bytes, "storage_pool": "moving", "generation": 1, "attachments_version": 1,
            "attachments": [{"head": net::HEAD, "key": KEY}],
        });
        self.brain.order(&self.tails[tail].name, Command::Create(disc(number), object(attributes))).wait()?;
        self.discs.insert(number, Place { tail, generation: 1, bytes });
        Ok(())
    }

    /// Removes a disc from where it is.
    ///
    /// # Errors
    /// When the tail refuses.
    pub fn remove(&mut self, number: u64) -> Result<()> {
        let place = self.discs.remove(&number).context("no such disc")?;
        let generation = object(json!({"generation": place.generation}));
        self.brain.order(&self.tails[place.tail].name, Command::Remove(disc(number), generation)).wait()
    }

    /// Orders a disc to go to the other tail, at most at so many 10⁶ bytes a second.
    ///
    /// # Errors
    /// When a tail refuses.
    pub fn begin_move(&mut self, number: u64, limit_mb_per_s: Option<u32>) -> Result<Move> {
        let place = *self.discs.get(&number).context("no such disc")?;
        let (from, to) = (&self.tails[place.tail], &self.tails[1 - place.tail]);
        self.generation += 1;
        let generation = self.generation;
        self.moves_count += 1;
        let id = uuid::Uuid::from_u128(self.moves_count);
        let address = self.brain.hello(&to.name).get("migration_address").cloned();
        let address = address.context("the tail does not say where it takes discs")?;
        let incoming = json!({
            "size": place.bytes, "storage_pool": "moving", "generation": generation, "attachments_version": 0,
            "incoming": {"id": id, "source": from.name, "address": net::tail_address(place.tail)},
        });
        let begun = Instant::now();
        self.brain.order(&to.name, Command::Create(disc(number), object(incoming))).wait()?;
        let mut order = json!({"id": id, "target": to.name, "address": address, "generation": generation});
        if let Some(limit) = limit_mb_per_s {
            order["limit_mb_per_s"] = limit.into();
        }
        let order = object(json!({"migration": order}));
        self.brain.order(&from.name, Command::Update(disc(number), order)).wait()?;
        let moving = Move { id, number, to: 1 - place.tail, generation, begun };
        self.moving.push(moving.clone());
        Ok(moving)
    }

    /// True when the disc has its new owner.
    ///
    /// # Errors
    /// When the move has failed; with what the source says.
    pub fn has_moved(&self, moving: &Move) -> Result<bool> {
        let said = self.source_report(moving);
        if let Some(error) = said.get("error") {
            bail!("disc {} has not moved: {error}; {}", moving.number, self.logs());
        }
        let target = self.report(moving.to, moving.number);
        Ok(target.get("owner") == Some(&json!("owner")) && target.get("generation") == Some(&json!(moving.generation)))
    }

    /// What the source says of the move.
    pub fn source_report(&self, moving: &Move) -> Value {
        self.report(1 - moving.to, moving.number).get("migration").cloned().unwrap_or_default()
    }

    /// Waits until a disc has moved, and has the source remove what it has left.
    ///
    /// # Errors
    /// When the move fails, or takes ten minutes.
    pub fn finish_move(&mut self, moving: &Move) -> Result<Moved> {
        self.wait(moving, |cluster| cluster.has_moved(moving))?;
        let took = moving.begun.elapsed();
        let retired =
            |cluster: &Self| Ok(cluster.report(1 - moving.to, moving.number).get("owner") == Some(&json!("retired")));
        self.wait(moving, retired)?;
        let report = self.source_report(moving);
        let generation = object(json!({"generation": moving.generation}));
        let source = &self.tails[1 - moving.to].name;
        self.brain.order(source, Command::Remove(disc(moving.number), generation)).wait()?;
        let place = self.discs.get_mut(&moving.number).context("no such disc")?;
        (place.tail, place.generation) = (moving.to, moving.generation);
        self.moving.retain(|other| other != moving);
        Ok(Moved { took, report })
    }

    /// Calls a move off: the disc stays where it is.
    ///
    /// # Errors
    /// When it is too late for that.
    pub fn cancel_move(&mut self, moving: &Move) -> Result<()> {
        self.moving.retain(|other| other != moving);
        let (source, target) = (&self.tails[1 - moving.to].name, &self.tails[moving.to].name);
        let null = object(json!({"migration": null}));
        self.brain.order(source, Command::Update(disc(moving.number), null)).wait()?;
        let aborted = object(json!({"generation": moving.generation, "aborted": moving.id}));
        self.brain.order(target, Command::Remove(disc(moving.number), aborted)).wait()?;
        Ok(())
    }

    /// Calls off what a question that failed has left, so that the next one can move the same discs.
    pub fn cancel_all(&mut self) {
        for moving in std::mem::take(&mut self.moving) {
            // It may have failed already, and its target may have been told.
            let _ = self.cancel_move(&moving);
        }
    }

    /// Moves a disc.
    ///
    /// # Errors
    /// As the parts.
    pub fn move_disc(&mut self, number: u64, limit_mb_per_s: Option<u32>) -> Result<Moved> {
        let moving = self.begin_move(number, limit_mb_per_s)?;
        self.finish_move(&moving)
    }

    /// Bytes that the disc's file takes on its tail's file system.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn allocated_bytes(&self, number: u64) -> Result<u64> {
        let file = self.data_file(number)?;
        let file = fs::File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        // Blocks that are not written back yet are not counted by every file system.
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    }

    /// Bytes that the target of a move has received on the storage LAN so far.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn received_bytes(&self, moving: &Move) -> Result<u64> {
        let path = format!("/proc/{}/net/dev", self.tails[moving.to].tail.pid()?);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(net::INTERFACE)?.strip_prefix(':'));
        // It is the first column (proc_net(5)).
        let received = line.and_then(|line| line.split_ascii_whitespace().next()).context("no such interface")?;
        Ok(received.parse()?)
    }

    /// The file of a disc where it is now.
    ///
    /// # Errors
    /// When there is no such disc.
    pub fn data_file(&self, number: u64) -> Result<PathBuf> {
        let place = self.discs.get(&number).context("no such disc")?;
        Ok(self.tails[place.tail].tail.data_file(number))
    }

    /// The network that the tails are in.
    pub fn net(&self) -> &Net {
        &self.net
    }

    fn report(&self, tail: usize, number: u64) -> Attributes {
        self.brain.report(&self.tails[tail].name, &disc(number)).unwrap_or_default()
    }

    fn wait(&self, moving: &Move, done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        while !done(self)? {
            ensure!(
                moving.begun.elapsed() < DEADLINE,
                "disc {} has not moved after {DEADLINE:?}: {}; {}",
                moving.number,
                self.source_report(moving),
                self.logs()
            );
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn logs(&self) -> String {
        self.tails.iter().map(|tail| format!("{}: {}", tail.name, tail.tail.log_tail())).collect::<Vec<_>>().join("\n")
    }
}

impl Node {
    fn start(net: &Net, nth: usize, tails: &Tails<'_>) -> Result<Self> {
        let name = format!("tail{}", nth + 1);
        let setup = Setup {
            program: tails.program,
            exec_words: net.exec_words(nth).map(str::to_owned).to_vec(),
            name: &name,
            brain: net::BRAIN,
            prefix: net::PREFIX,
            interface: net::INTERFACE,
            address: net::tail_address(nth),
            shards_count: tails.shards_count,
            pool: "moving",
            pool_folder: tails.pool_folders.map(|folders| folders[nth]),
            io: tails.io,
            takes_moves: true,
        };
        let mut tail = Tail::new(tails.scratch, &setup)?;
        tail.start()?;
        Ok(Self { name: name.parse()?, tail })
    }
}

fn disc(number: u64) -> ResourceName {
    format!("disc.moving.{number}").parse().expect("it is the name of a disc")
}
