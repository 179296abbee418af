//! Other ways to get a disc to another place, to compare with.
//!
//! * [`plain`]: the whole size as plain NBD writes over one connection, one at a time, holes as zeroes: flexnbd's way.
//! * [`Mirror`]: qemu's `blockdev-mirror` from one `qemu-storage-daemon` to another.

use super::{
    guest::{Place, nbd},
    net::{self, Net},
    qmp::Monitor,
};
use crate::{leftovers, load::handshake::Stream, peers::program::Program};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What one write of the plain way covers, as with flexnbd.
const PLAIN_BYTES: usize = 8 << 20;
const PORT: u16 = 10_810;
const EXPORT: &str = "mirrored";
const DEADLINE: Duration = Duration::from_secs(600);

/// Writes all bytes of a file to a disc and asks for them to be durable, and returns how long that took.
///
/// # Errors
/// When the file cannot be read, or the disc refuses a write.
pub fn plain(from: &Path, to: &Place) -> Result<Duration> {
    let mut file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let begun = Instant::now();
    let stream: Stream = to.connect()?;
    let mut bytes = vec![0; PLAIN_BYTES];
    let mut offset_bytes = 0;
    loop {
        let count = file.read(&mut bytes)?;
        if count == 0 {
            break;
        }
        nbd::write(&stream, offset_bytes, &bytes[..count])?;
        offset_bytes += count as u64;
    }
    nbd::flush(&stream)?;
    Ok(begun.elapsed())
}

/// Two daemons, the first with a disc.
#[derive(Debug)]
pub struct Mirror {
    // Declared before the folder: the processes end first.
    source: Program,
    target: Program,
    monitor: Monitor,
    _folder: tempfile::TempDir,
}

impl Mirror {
    /// Starts them, one where each tail is; `disc` is the file of the first, the other's is new and as large.
    ///
    /// # Errors
    /// When one does not start; what it printed is in the error.
    pub fn start(net: &Net, scratch: &Path, disc: &Path) -> Result<Self> {
        let folder = leftovers::folder(scratch)?;
        let copy = folder.path().join("copy.raw");
        File::create(&copy)?.set_len(fs::metadata(disc)?.len())?;
        let (source, monitor) = daemon(net, 0, folder.path(), disc)?;
        let (target, _) = daemon(net, 1, folder.path(), &copy)?;
        Ok(Self { source, target, monitor, _folder: folder })
    }

    /// Where a guest finds the disc, before and after.
    pub fn place() -> Place {
        Place { target: format!("[{}]:{PORT}", net::tail_address(0)), export: EXPORT.to_owned() }
    }

    /// Mirrors the disc, has the guest's writes go to the copy, and returns how long that took.
    ///
    /// # Errors
    /// When qemu says that it failed.
    pub fn run(&mut self) -> Result<Duration> {
        let done = self.try_run();
        done.with_context(|| format!("{}; {}", self.source.log_tail(), self.target.log_tail()))
    }

    fn try_run(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let server = json!({"type": "inet", "host": net::tail_address(1), "port": PORT.to_string()});
        let copy = json!({
            "driver": "nbd", "node-name": "copy", "server": server, "export": EXPORT, "discard": "unmap",
        });
        self.monitor.execute("blockdev-add", copy)?;
        let mirror = json!({"job-id": "mirror", "device": "disc", "target": "copy", "sync": "full"});
        self.monitor.execute("blockdev-mirror", mirror)?;
        self.monitor.wait("BLOCK_JOB_READY", DEADLINE)?;
        self.monitor.execute("block-job-complete", json!({"device": "mirror"}))?;
        let ended = self.monitor.wait("BLOCK_JOB_COMPLETED", DEADLINE)?;
        if let Some(error) = ended.get("error") {
            bail!("blockdev-mirror: {error}");
        }
        Ok(begun.elapsed())
    }
}

/// A daemon that serves a file, and its monitor.
fn daemon(net: &Net, nth: usize, folder: &Path, file: &Path) -> Result<(Program, Monitor)> {
    let at = |what: &str| folder.join(format!("{what}{nth}"));
    let monitor = at("qmp");
    let mut words: Vec<String> = net.exec_words(nth).map(str::to_owned).to_vec();
    words.push("qemu-storage-daemon".to_owned());
    for (option, value) in [
        ("--chardev", format!("socket,id=qmp,path={},server=on,wait=off", monitor.display())),
        ("--monitor", "chardev=qmp".to_owned()),
        ("--blockdev", format!("driver=file,node-name=disc,filename={},aio=io_uring,discard=unmap", file.display())),
        ("--nbd-server", format!("addr.type=inet,addr.host={},addr.port={PORT}", net::tail_address(nth))),
        ("--export", format!("type=nbd,id=export,node-name=disc,name={EXPORT},writable=on")),
    ] {
        words.extend([option.to_owned(), value]);
    }
    let process = Program::start(&words, &at("log"))?;
    let monitor = Monitor::connect(&monitor).with_context(|| process.log_tail())?;
    Ok((process, monitor))
}

/// Makes a sparse file that holds what [`nbd::fill`] puts into a disc's first blocks.
///
/// # Errors
/// When it cannot be written.
pub fn filled_file(folder: &Path, size_bytes: u64, blocks_count: u64) -> Result<PathBuf> {
    let path = folder.join("disc.raw");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(size_bytes)?;
    for block in 0..blocks_count {
        file.write_all_at(&nbd::filling(block), block * nbd::BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    Ok(path)
}
