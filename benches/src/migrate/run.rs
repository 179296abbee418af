//! The measurement, a question at a time.

use super::{
    cluster::{Cluster, Tails},
    guest::{Checked, Guest, Mix, Place, Plan},
    record::{Moves, Settings},
};
use crate::{
    figures::{Bar, Figure},
    peers::machine,
    record::FORMAT,
};
use anyhow::{Result, ensure};
use std::{fs, io::Write, path::PathBuf, time::Duration};

/// The disc that most questions are about.
pub(super) const DISC: u64 = 1;
pub(super) const DISC_BYTES: u64 = 4 << 30;
/// Writes in flight of the guest whose pauses count.
pub(super) const DEPTH: usize = 16;
pub(super) const BLOCKS_IN_MIB: u64 = (1 << 20) / super::guest::BLOCK_BYTES as u64;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Config {
    /// True for a look.
    pub quick: bool,
    /// The questions that are asked; all when there are none.
    pub only: Vec<String>,
    /// Moves under load whose pauses are measured: 1 to 1,000.
    pub moves_count: u32,
    /// MiB of data on the disc that moves: 16 to 4,096.
    pub data_mib: u64,
    /// Discs that move at once: 1 to 200.
    pub many_count: u64,
    /// Moves under checkers, of each of two discs: 1 to 1,000.
    pub verify_count: u32,
    /// Moves of a booted machine's disc: 1 to 1,000.
    pub machine_count: u32,
    /// The machine's image; where it is not there, the machine is left out.
    pub image: PathBuf,
    /// Rounds of the comparison: 1 to 20.
    pub rounds_count: u32,
    /// Threads of each tail that serve.
    pub shards_count: usize,
    /// How the pools' files are read and written: `io` of a pool.
    pub io: String,
    /// The tail's program.
    pub program: PathBuf,
    /// A folder on ext4 or XFS for the tails' files.
    pub scratch: PathBuf,
}

/// What the questions share.
pub(super) struct Lab {
    pub(super) config: Config,
    pub(super) cluster: Cluster,
    pub(super) idle: Option<Duration>,
    pub(super) moves: Moves,
    unanswered_count: u32,
}

/// A question, and how a command line names it.
struct Question {
    name: &'static str,
    what: &'static str,
    ask: fn(&mut Lab) -> Result<()>,
}

const QUESTIONS: [Question; 11] = [
    // Always asked: the others move its disc, and compare with its time.
    Question { name: "idle", what: "moving an idle disc", ask: Lab::idle },
    Question { name: "pauses", what: "moving it under load, again and again", ask: Lab::busy },
    Question { name: "limit", what: "moving it with a limit", ask: Lab::limited },
    Question {
        name: "flat-out",
        what: "moving it with a limit while its guest writes as fast as it can",
        ask: Lab::flat_out,
    },
    Question { name: "outrun", what: "moving it slower than its guest writes", ask: Lab::outrun },
    Question { name: "sparse", what: "moving a large disc with little on it", ask: Lab::sparse },
    Question { name: "many", what: "moving many at once", ask: Lab::many },
    Question { name: "compare", what: "moving, and other ways", ask: Lab::compare },
    Question { name: "verify", what: "moving discs under those who check every byte", ask: Lab::verify },
    Question { name: "machine", what: "moving the disc of a machine", ask: Lab::machine },
    // The last, because each pair of file systems takes this thread into a network of its own.
    Question { name: "filesystems", what: "moving discs between file systems", ask: Lab::filesystems },
];

/// What [`Config::only`] may hold.
pub fn question_names() -> Vec<&'static str> {
    QUESTIONS.map(|question| question.name).to_vec()
}

/// Measures. Moves this thread into a network namespace that is gone afterwards.
///
/// # Errors
/// When a number is out of its range, or the machines do not start. A question that fails is a figure that does not meet its bar,
/// with a remark, and the others are asked all the same.
pub fn run(config: &Config, err: &mut dyn Write) -> Result<Moves> {
    ensure!((1..=1000).contains(&config.moves_count), "1 to 1,000 moves");
    ensure!((16..=4096).contains(&config.data_mib), "16 to 4,096 MiB of data");
    ensure!((1..=200).contains(&config.many_count), "1 to 200 discs at once");
    ensure!((1..=1000).contains(&config.verify_count), "1 to 1,000 moves under checkers");
    ensure!((1..=1000).contains(&config.machine_count), "1 to 1,000 moves of a machine's disc");
    ensure!((1..=20).contains(&config.rounds_count), "1 to 20 rounds");
    fs::create_dir_all(&config.scratch)?;
    let moves = Moves {
        format: FORMAT,
        machine: machine::describe(&config.scratch, &config.scratch)?,
        settings: config.settings(),
        figures: Vec::new(),
        pauses_ms: Vec::new(),
        timelines: Vec::new(),
        limited: Vec::new(),
        wires: Vec::new(),
        speeds: Vec::new(),
        remarks: Vec::new(),
    };
    let cluster = Cluster::start(&config.tails())?;
    let mut lab = Lab { config: config.clone(), cluster, idle: None, moves, unanswered_count: 0 };
    for question in QUESTIONS {
        let wanted = config.only.is_empty() || config.only.iter().any(|name| name == question.name);
        if wanted || question.name == QUESTIONS[0].name {
            lab.ask(&question, err)?;
        }
    }
    lab.note("questions that could not be answered", lab.unanswered_count.into(), "", Bar::AtMost(0.0));
    if !config.only.is_empty() {
        lab.moves.remarks.push(format!("only these questions were asked: idle, {}", config.only.join(", ")));
    }
    Ok(lab.moves)
}

impl Config {
    fn settings(&self) -> Settings {
        Settings {
            quick: self.quick,
            moves_count: self.moves_count,
            data_mib: self.data_mib,
            many_count: self.many_count,
            verify_count: self.verify_count,
            machine_count: self.machine_count,
            rounds_count: self.rounds_count,
            shards_count: self.shards_count,
            io: self.io.clone(),
        }
    }

    /// The tails, with their pools in the scratch folder.
    pub(super) fn tails(&self) -> Tails<'_> {
        Tails {
            scratch: &self.scratch,
            program: &self.program,
            shards_count: self.shards_count,
            io: &self.io,
            pool_folders: None,
        }
    }
}

impl Lab {
    fn ask(&mut self, question: &Question, err: &mut dyn Write) -> Result<()> {
        let known_count = self.moves.figures.len();
        writeln!(err, "{}", question.what)?;
        if let Err(error) = (question.ask)(self) {
            writeln!(err, "  could not be answered: {error:#}")?;
            self.unanswered_count += 1;
            self.cluster.cancel_all();
            let error = format!("{error:#}").replace('\n', " ");
            self.moves.remarks.push(format!("{} could not be answered: {error}", question.what));
        }
        for figure in &self.moves.figures[known_count..] {
            let met = if figure.is_met() == Some(false) { ": NOT MET" } else { "" };
            writeln!(err, "  {}: {:.2} {}{met}", figure.name, figure.value, figure.unit)?;
        }
        Ok(())
    }

    pub(super) fn note(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bar: impl Into<Option<Bar>>,
    ) {
        let figure = Figure::new(name, value, unit);
        self.moves.figures.push(match bar.into() {
            Some(bar) => figure.with(bar),
            None => figure,
        });
    }

    /// Notes what a check of every block has found.
    pub(super) fn note_checked(&mut self, beside: &str, checked: Checked) {
        self.note(format!("blocks checked, {beside}"), checked.blocks_count as f64, "", Bar::AtLeast(1.0));
        self.note(format!("blocks that were wrong, {beside}"), checked.wrong_count as f64, "", Bar::AtMost(0.0));
        self.moves.remarks.extend(checked.first_wrong.map(|wrong| format!("wrong bytes, {beside}: {wrong}")));
    }

    pub(super) fn data_blocks(&self) -> u64 {
        self.config.data_mib * BLOCKS_IN_MIB
    }

    /// A guest of the disc that most questions are about.
    pub(super) fn guest(&self, rate: Option<u64>, seed: u64) -> Result<Guest> {
        let (place, blocks_count) = (Place::disc(DISC), self.data_blocks());
        Guest::start(Plan { place, blocks_count, depth: DEPTH, rate, mix: Mix::Writes, seed })
    }
}
