//! Speed without a limit, against other ways, in turn on the same data.

use super::{
    guest::{Guest, Mix, Place, Plan, nbd},
    record::Speed,
    run::{BLOCKS_IN_MIB, DEPTH, Lab},
    ways::{self, Mirror},
};
use crate::{
    figures::Bar,
    leftovers,
    peers::program,
    statistics::{Spread, ratio},
};
use anyhow::{Context, Result};
use std::{fs::File, io::Read as _, path::Path, thread, time::Duration};

/// The disc that is compared, and where the plain way copies it to.
const DISC: u64 = 3;
const COPY: u64 = 4;
/// How many times larger than its data a disc is: as 4 GiB with 1 GiB on them.
const SIZE_TIMES: u64 = 4;
/// Writes a second of the guest, where there is one.
const RATE: u64 = 2000;
const WARM_UP: Duration = Duration::from_millis(500);

const WAYS: [Way; 3] = [Way::Tail, Way::Plain, Way::Mirror];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tail,
    Plain,
    Mirror,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Tail => "tail-nbd",
            Self::Plain => "plain writes",
            Self::Mirror => "qemu's mirror",
        }
    }
}

impl Lab {
    /// How fast is a move, compared with plain writes of the whole disc and with qemu's mirror?
    pub(super) fn compare(&mut self) -> Result<()> {
        let has_qemu = program::find("qemu-storage-daemon").is_some();
        if !has_qemu {
            self.moves.remarks.push("qemu's mirror is left out: there is no qemu-storage-daemon".to_owned());
        }
        let (size_bytes, blocks_count) = ((self.config.data_mib * SIZE_TIMES) << 20, self.data_blocks());
        self.cluster.create(DISC, size_bytes)?;
        nbd::fill(&Place::disc(DISC), blocks_count)?;
        let folder = leftovers::folder(&self.config.scratch)?;
        let file = ways::filled_file(folder.path(), size_bytes, blocks_count)?;
        for loaded in [false, true] {
            let ways: Vec<Way> = WAYS.into_iter().filter(|way| *way != Way::Mirror || has_qemu).collect();
            let mut rounds = vec![Vec::new(); ways.len()];
            for _ in 0..self.config.rounds_count {
                for (way, rounds) in ways.iter().zip(&mut rounds) {
                    let took = self.sample(*way, loaded, &file).with_context(|| way.name())?;
                    rounds.push(self.config.data_mib as f64 / took.as_secs_f64());
                }
            }
            self.note_speeds(loaded, ways.into_iter().zip(rounds).collect());
        }
        self.cluster.remove(DISC)
    }

    fn sample(&mut self, way: Way, loaded: bool, file: &Path) -> Result<Duration> {
        let size_bytes = (self.config.data_mib * SIZE_TIMES) << 20;
        let data_bytes = self.config.data_mib << 20;
        match way {
            Way::Tail => {
                warm(&self.cluster.data_file(DISC)?, data_bytes)?;
                let guest = self.writer(Place::disc(DISC), loaded)?;
                let moved = self.cluster.move_disc(DISC, None)?;
                stop(guest)?;
                Ok(moved.took)
            }
            Way::Plain => {
                self.cluster.create_away_from(DISC, COPY, size_bytes)?;
                let from = self.cluster.data_file(DISC)?;
                warm(&from, data_bytes)?;
                let guest = self.writer(Place::disc(DISC), loaded)?;
                let took = ways::plain(&from, &Place::disc(COPY))?;
                stop(guest)?;
                self.cluster.remove(COPY)?;
                Ok(took)
            }
            Way::Mirror => {
                warm(file, data_bytes)?;
                let mut mirror = Mirror::start(self.cluster.net(), &self.config.scratch, file)?;
                let guest = self.writer(Mirror::place(), loaded)?;
                let took = mirror.run()?;
                stop(guest)?;
                Ok(took)
            }
        }
    }

    fn writer(&self, place: Place, loaded: bool) -> Result<Option<Guest>> {
        if !loaded {
            return Ok(None);
        }
        let blocks_count = self.config.data_mib * BLOCKS_IN_MIB;
        let plan = Plan { place, blocks_count, depth: DEPTH, rate: Some(RATE), mix: Mix::Writes, seed: 5 };
        let guest = Guest::start(plan)?;
        thread::sleep(WARM_UP);
        Ok(Some(guest))
    }

    fn note_speeds(&mut self, loaded: bool, speeds: Vec<(Way, Vec<f64>)>) {
        let load = if loaded { "beside a guest" } else { "idle" };
        let median = |wanted| {
            let rounds = speeds.iter().find(|(way, _)| *way == wanted).map(|(_, rounds)| rounds)?;
            Spread::of(rounds).map(|spread| spread.median)
        };
        let ours = median(Way::Tail).unwrap_or_default();
        self.note(format!("speed of a move, {load}"), ours, "MiB/s", None);
        for (way, bar) in [(Way::Plain, 2.0), (Way::Mirror, 1.0)] {
            if let Some(reached) = median(way).and_then(|theirs| ratio(ours, theirs)) {
                self.note(format!("against {}, {load}", way.name()), reached, "×", Bar::AtLeast(bar));
            }
        }
        let speed = |(way, rounds): (Way, Vec<f64>)| Speed { way: way.name().to_owned(), loaded, rounds };
        self.moves.speeds.extend(speeds.into_iter().map(speed));
    }
}

/// Stops a guest, where there is one.
fn stop(guest: Option<Guest>) -> Result<()> {
    guest.map_or(Ok(()), |guest| guest.stop().map(drop))
}

/// Has nothing of a file wait to be written, and its first bytes in the page cache: the ways, and no disk, are compared.
fn warm(path: &Path, bytes: u64) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.sync_all()?;
    std::io::copy(&mut file.take(bytes), &mut std::io::sink())?;
    Ok(())
}
