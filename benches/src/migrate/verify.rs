//! Many moves under those who check every byte: our guest with all kinds of requests, and fio behind qemu's NBD client,
//! which reconnects.

use super::{
    guest::{Guest, Mix, Place, Plan, nbd},
    net,
    run::{BLOCKS_IN_MIB, DEPTH, Lab},
};
use crate::{
    figures::Bar,
    leftovers,
    peers::program::{self, Program},
};
use anyhow::{Context, Result};
use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The disc of the guest, and fio's.
const CHECKED: u64 = 5;
const FIO: u64 = 6;
const BYTES: u64 = 256 << 20;
/// How much of each is written to.
const MIB: u64 = 32;
/// No run of fio takes longer, however often its disc moves.
const FIO_DEADLINE: Duration = Duration::from_secs(300);
const TRY_EVERY: Duration = Duration::from_millis(10);

impl Lab {
    /// Is a byte ever wrong?
    pub(super) fn verify(&mut self) -> Result<()> {
        for number in [CHECKED, FIO] {
            self.cluster.create(number, BYTES)?;
        }
        let (place, blocks_count) = (Place::disc(CHECKED), MIB * BLOCKS_IN_MIB);
        nbd::fill(&place, blocks_count)?;
        let guest = Guest::start(Plan { place, blocks_count, depth: DEPTH, rate: None, mix: Mix::All, seed: 6 })?;
        let mut fio = Fio::start(&self.config.scratch)?;
        if fio.is_none() {
            self.moves.remarks.push("fio is left out: there is no fio, or no qemu-storage-daemon".to_owned());
        }
        for _ in 0..self.config.verify_count {
            self.cluster.move_disc(CHECKED, None)?;
            if let Some(fio) = &mut fio {
                fio.go_on()?;
                self.cluster.move_disc(FIO, None)?;
            }
        }
        let written = guest.stop()?;
        let checked = written.check()?;
        self.note("moves under checkers, of each disc", f64::from(self.config.verify_count), "", None);
        self.note_checked("with trims, zeroes and flushes", checked);
        if let Some(fio) = fio {
            let (runs_count, failure) = fio.finish();
            self.note("runs of fio --verify=crc32c", f64::from(runs_count), "", Bar::AtLeast(1.0));
            self.note("of them with errors", f64::from(u8::from(failure.is_some())), "", Bar::AtMost(0.0));
            self.moves.remarks.extend(failure.map(|failure| format!("fio: {failure}")));
        }
        [CHECKED, FIO].into_iter().try_for_each(|number| self.cluster.remove(number))
    }
}

/// fio, run after run, until one fails.
#[derive(Debug)]
struct Fio {
    // Declared before the daemon, and that before the folder: the processes end first.
    run: Option<Program>,
    daemon: Program,
    folder: tempfile::TempDir,
    runs_count: u32,
    failure: Option<String>,
}

impl Fio {
    /// Starts the daemon between fio and the disc, and fio; none where a program is missing.
    fn start(scratch: &Path) -> Result<Option<Self>> {
        if ["fio", "qemu-storage-daemon"].into_iter().any(|needed| program::find(needed).is_none()) {
            return Ok(None);
        }
        let folder = leftovers::folder(scratch)?;
        let socket = folder.path().join("nbd");
        let disc = net::disc_address(FIO);
        let words = [
            "qemu-storage-daemon".to_owned(),
            "--blockdev".to_owned(),
            format!(
                "driver=nbd,node-name=disc,server.type=inet,server.host={},server.port={},export={},reconnect-delay=120",
                disc.ip(),
                disc.port(),
                super::cluster::KEY
            ),
            "--nbd-server".to_owned(),
            format!("addr.type=unix,addr.path={}", socket.display()),
            "--export".to_owned(),
            "type=nbd,id=export,node-name=disc,name=disc,writable=on".to_owned(),
        ];
        let daemon = Program::start(&words, &folder.path().join("daemon.log"))?;
        let until = Instant::now() + FIO_DEADLINE;
        while !socket.exists() {
            anyhow::ensure!(Instant::now() < until, "qemu-storage-daemon does not listen: {}", daemon.log_tail());
            thread::sleep(TRY_EVERY);
        }
        let mut fio = Self { run: None, daemon, folder, runs_count: 0, failure: None };
        fio.next_run(&socket)?;
        Ok(Some(fio))
    }

    fn next_run(&mut self, socket: &Path) -> Result<()> {
        let words = [
            "fio".to_owned(),
            "--name=verify".to_owned(),
            "--ioengine=nbd".to_owned(),
            format!("--uri=nbd+unix:///disc?socket={}", socket.display()),
            "--rw=randwrite".to_owned(),
            "--bs=4096".to_owned(),
            "--iodepth=16".to_owned(),
            format!("--size={MIB}m"),
            "--verify=crc32c".to_owned(),
            "--verify_backlog=1024".to_owned(),
            "--verify_fatal=1".to_owned(),
            // It would be written to the working directory.
            "--verify_state_save=0".to_owned(),
            format!("--randseed={}", self.runs_count + 1),
            "--thread".to_owned(),
        ];
        self.run = Some(Program::start(&words, &self.folder.path().join("fio.log")).context("cannot start fio")?);
        Ok(())
    }

    /// Begins another run when one is over.
    fn go_on(&mut self) -> Result<()> {
        if let Some(run) = &mut self.run
            && run.ended()?.is_some()
        {
            self.end_run();
            if self.failure.is_none() {
                self.next_run(&self.socket())?;
            }
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd")
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.runs_count += 1;
        if let Err(error) = run.output(FIO_DEADLINE) {
            self.failure = Some(format!("{error:#}; {}", self.daemon.log_tail()));
        }
    }

    /// Waits for the last run; how many there were, and what the last one failed with.
    fn finish(mut self) -> (u32, Option<String>) {
        self.end_run();
        (self.runs_count, self.failure.take())
    }
}
