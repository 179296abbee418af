//! A booted machine whose disc moves: what does its kernel notice, and how long do its own writes stall?
//!
//! The machine is the lab's smallest one, with qemu's own NBD client, set as the head sets it. A loop in its shell writes
//! 4 KiB with O_DIRECT and fsync again and again, and looks at the machine's own clock before and after, which has steps of 10 ms.

use super::{
    guest::{Place, nbd},
    net,
    run::Lab,
};
use crate::{
    figures::Bar,
    leftovers,
    peers::program::{self, Program},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

const DISC: u64 = 7;
const BYTES: u64 = 1 << 30;
/// Pieces in which the image is written; holes among them are left out.
const PIECE_BYTES: usize = 1 << 20;
/// Without KVM a machine boots in 10 to 22 s on an idle host.
const BOOT: Duration = Duration::from_secs(180);
/// With it, in two.
const BOOT_KVM: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(60);
/// Between moves, so that each has its own stall.
const REST: Duration = Duration::from_secs(1);
const STALL_MS_MAX: f64 = 1000.0;

/// Writes until /tmp/stop is there; then its count, its errors and its longest stall in hundredths of a second.
const LOOP: &str = "(w=0;n=0;e=0;while [ ! -e /tmp/stop ];do read u r</proc/uptime;a=${u%.*}${u#*.};\
dd if=/dev/zero of=/root/stall bs=4096 count=1 oflag=direct conv=notrunc,fsync 2>/dev/null||e=$((e+1));\
read u r</proc/uptime;b=${u%.*}${u#*.};d=$((b-a));[ $d -gt $w ]&&w=$d;n=$((n+1));done;echo $n $e $w>/tmp/out)&";

impl Lab {
    /// What does a machine notice of its disc's moves?
    pub(super) fn machine(&mut self) -> Result<()> {
        let image = self.config.image.clone();
        if !image.is_file() {
            let remark = format!("the machine is left out: {} is not there (scripts/tiny-image)", image.display());
            self.moves.remarks.push(remark);
            return Ok(());
        }
        if program::find("qemu-system-x86_64").is_none() {
            self.moves.remarks.push("the machine is left out: there is no qemu-system-x86_64".to_owned());
            return Ok(());
        }
        self.cluster.create(DISC, BYTES)?;
        write_image(&image, &Place::disc(DISC))?;
        let (mut machine, accelerator) = Machine::boot(&self.config.scratch)?;
        machine.run(LOOP)?;
        for _ in 0..self.config.machine_count {
            thread::sleep(REST);
            self.cluster.move_disc(DISC, None)?;
        }
        thread::sleep(REST);
        machine.run("touch /tmp/stop;wait")?;
        let said = machine.run("cat /tmp/out")?;
        let numbers: Vec<u32> = said.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        let [writes_count, errors_count, stall_cs] = numbers[..] else { bail!("the machine says {said:?}") };
        let complaints = machine.run("dmesg | grep -ciE 'i/o error|remounting|ext4-fs error|blocked for more'")?;
        let root = machine.run("grep -c ' / ext4 rw' /proc/mounts")?;
        let complaints: u32 = complaints.trim().parse().with_context(|| format!("dmesg: {complaints:?}"))?;
        let name = |what: &str| format!("in a machine ({accelerator}): {what}");
        self.note(name("moves of its disc"), f64::from(self.config.machine_count), "", None);
        self.note(name("writes of 4 KiB"), f64::from(writes_count), "", Bar::AtLeast(1.0));
        self.note(
            name("writes that failed, and its kernel's complaints"),
            f64::from(errors_count + complaints),
            "",
            Bar::AtMost(0.0),
        );
        self.note(name("root mounted to be written"), f64::from(u8::from(root.trim() == "1")), "", Bar::AtLeast(1.0));
        self.note(name("longest stall of a write"), f64::from(stall_cs) * 10.0, "ms", Bar::AtMost(STALL_MS_MAX));
        drop(machine);
        self.cluster.remove(DISC)
    }
}

/// Writes the image's bytes to a disc, without its holes.
fn write_image(image: &Path, to: &Place) -> Result<()> {
    let mut file = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    ensure!(file.metadata()?.len() <= BYTES, "{} is too large", image.display());
    let stream = to.connect()?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset_bytes = 0;
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return nbd::flush(&stream);
        }
        if piece[..count].iter().any(|byte| *byte != 0) {
            nbd::write(&stream, offset_bytes, &piece[..count])?;
        }
        offset_bytes += count as u64;
    }
}

/// A machine at its shell's prompt.
#[derive(Debug)]
struct Machine {
    // Declared before the folder: the process ends first.
    _process: Program,
    console: Console,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Boots it with KVM, or without if that does not run one here (some hosts only pretend); says which.
    fn boot(scratch: &Path) -> Result<(Self, &'static str)> {
        match Self::boot_with("kvm", scratch, BOOT_KVM) {
            Ok(machine) => Ok((machine, "KVM")),
            Err(_) => Ok((Self::boot_with("tcg", scratch, BOOT)?, "no KVM")),
        }
    }

    fn boot_with(accelerator: &str, scratch: &Path, deadline: Duration) -> Result<Self> {
        let folder = leftovers::folder(scratch)?;
        let socket = folder.path().join("serial");
        let disc = net::disc_address(DISC);
        let disc = format!(
            "driver=nbd,node-name=disc,server.type=inet,server.host={},server.port={},server.keep-alive=on,export={},\
             reconnect-delay=4294967295,open-timeout=10,discard=unmap",
            disc.ip(),
            disc.port(),
            super::cluster::KEY
        );
        let serial = format!("unix:{},server=on,wait=off", socket.display());
        let words = [
            "qemu-system-x86_64",
            "-accel",
            accelerator,
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-blockdev",
            &disc,
            "-device",
            "virtio-blk-pci,drive=disc,bootindex=1",
            "-serial",
            &serial,
        ];
        let process = Program::start(&words, &folder.path().join("qemu.log"))?;
        let console = Console::log_in(&socket, deadline).with_context(|| process.log_tail())?;
        Ok(Self { _process: process, console, _folder: folder })
    }

    /// Runs a command in its shell, and returns what it prints.
    fn run(&mut self, command: &str) -> Result<String> {
        self.console.run(command)
    }
}

/// The machine's serial line.
#[derive(Debug)]
struct Console {
    stream: UnixStream,
    /// What was read and not looked at yet.
    heard: String,
}

impl Console {
    fn log_in(socket: &Path, deadline: Duration) -> Result<Self> {
        let until = Instant::now() + deadline;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= until => return Err(error).context("the machine has no serial line"),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut console = Self { stream, heard: String::new() };
        console.expect("login:", until)?;
        console.stream.write_all(b"root\n")?;
        console.expect("# ", until)?;
        Ok(console)
    }

    fn run(&mut self, command: &str) -> Result<String> {
        // The shell shows what is typed: so the marks are typed otherwise than they are printed.
        let line = format!("{command} >/tmp/said 2>&1;echo =beg''in=;cat /tmp/said;echo =en''d=\n");
        self.stream.write_all(line.as_bytes())?;
        let until = Instant::now() + ANSWER;
        self.expect("=begin=", until).with_context(|| command.to_owned())?;
        let said = self.expect("=end=", until).with_context(|| command.to_owned())?;
        Ok(said.trim_end_matches("=end=").trim().to_owned())
    }

    /// Everything up to `wanted`.
    fn expect(&mut self, wanted: &str, until: Instant) -> Result<String> {
        loop {
            if let Some(at) = self.heard.find(wanted) {
                let rest = self.heard.split_off(at + wanted.len());
                return Ok(std::mem::replace(&mut self.heard, rest));
            }
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no {wanted:?} on its serial line, but {:?}", self.heard);
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the machine has ended: {:?}", self.heard),
                Ok(count) => self.heard += &String::from_utf8_lossy(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead as _, os::unix::net::UnixListener};

    #[test]
    fn only_what_a_command_prints_is_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("serial");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut typed = std::io::BufReader::new(stream.try_clone().unwrap());
            for answer in ["\r\ntiny login: ", "\r\n~ # "] {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            typed.read_line(&mut String::new()).unwrap();
            let mut line = String::new();
            typed.read_line(&mut line).unwrap();
            // The line editor shows it, and breaks it.
            write!(stream, "{}\r\n=begin=\r\n12 0 35\r\n=end=\r\n~ # ", line.trim_end()).unwrap();
        });
        let mut console = Console::log_in(&socket, Duration::from_secs(20)).unwrap();
        assert_eq!(console.run("cat /tmp/out").unwrap(), "12 0 35");
    }
}
