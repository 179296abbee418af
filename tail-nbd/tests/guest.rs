//! A guest in qemu that writes while new processes take its tail over.
#![allow(clippy::print_stderr, reason = "how long the guest stood still")]

mod common;
mod netns;

use common::{MIB, Served, has};
use netns::{
    Net,
    brain::{Brain, ok},
    tail::Tail,
};
use serde_json::json;
use spine::id::DiscNumber;
use std::{
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tail_nbd::nbd::offer::Style;

const KEY: &str = "key";
const ADDRESS: &str = "fd00:b16:0:d::1";
const SECTOR: usize = 512;
/// Sectors that the guest writes, one after the other, behind the one that it starts from.
const SECTORS: u32 = 32;

/// A guest of one sector. It writes 1, 2, 3 … to the sectors behind its own, reads each back, and says `W`, or `E` when any
/// of that failed. In 16-bit code:
///
/// ```text
///  0 cli; ds = es = 0; dword [7e00] = 0      39 error unless dword [7e00] = dword [8000]
/// 10 next: inc dword [7e00]                  46       ah = 'W'
/// 15       cx = [7e00] % 32 + 2              48 tell: in 0x3fd; test 0x20; jz     until it can be sent
/// 1f       int 0x13: AH=03, sector cx of     50       out 0x3f8, ah
///          disc 0x80 ← 7e00; error           56       jmp next
/// 2e       int 0x13: AH=02, the same → 8000  58 error: ah = 'E'; jmp tell
/// ```
fn boot_sector() -> [u8; SECTOR] {
    let code = [
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x66, 0xc7, 0x06, 0x00, 0x7e, 0x00, 0x00, 0x00, 0x00, 0x66, 0xff,
        0x06, 0x00, 0x7e, 0x8b, 0x0e, 0x00, 0x7e, 0x83, 0xe1, 0x1f, 0x83, 0xc1, 0x02, 0xba, 0x80, 0x00, 0xbb, 0x00,
        0x7e, 0xb8, 0x01, 0x03, 0x51, 0xcd, 0x13, 0x59, 0x72, 0x2a, 0xba, 0x80, 0x00, 0xbb, 0x00, 0x80, 0xb8, 0x01,
        0x02, 0xcd, 0x13, 0x72, 0x1d, 0x66, 0xa1, 0x00, 0x7e, 0x66, 0x3b, 0x06, 0x00, 0x80, 0x75, 0x12, 0xb4, 0x57,
        0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xb8, 0xb4, 0x45,
        0xeb, 0xec,
    ];
    let mut sector = [0; SECTOR];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// What the guest has said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    writes: u32,
    errors: u32,
    last: Option<Instant>,
    /// The longest time between two writes since this was last asked for.
    longest: Duration,
}

struct Guest {
    qemu: Child,
    said: Arc<Mutex<Said>>,
}

impl Guest {
    /// Starts it. Its qemu does not connect again: a connection that is lost is an error of the guest's.
    fn start() -> Self {
        let disc =
            format!("driver=nbd,node-name=disc,server.type=inet,server.host={ADDRESS},server.port=10809,export={KEY}");
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-accel",
                "tcg",
                "-machine",
                "pc",
                "-m",
                "32",
                "-serial",
                "stdio",
            ])
            .args(["-blockdev", &disc, "-device", "virtio-blk-pci,drive=disc"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut serial, said) = (qemu.stdout.take().unwrap(), Arc::new(Mutex::new(Said::default())));
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = serial.read(&mut bytes) {
                let mut said = heard.lock().unwrap();
                said.writes += bytes[..count].iter().filter(|byte| **byte == b'W').count() as u32;
                said.errors += bytes[..count].iter().filter(|byte| **byte == b'E').count() as u32;
                let (now, last) = (Instant::now(), said.last);
                said.last = Some(now);
                said.longest = said.longest.max(last.map_or(Duration::ZERO, |last| now - last));
            }
        });
        Self { qemu, said }
    }

    fn said(&self) -> Said {
        *self.said.lock().unwrap()
    }

    /// Waits until it has written so many times more.
    async fn goes_on(&mut self, times: u32) {
        let (wanted, deadline) = (self.said().writes + times, Instant::now() + netns::brain::DEADLINE);
        while self.said().writes < wanted {
            assert!(Instant::now() < deadline, "the guest stands still: {:?}", self.said());
            assert!(self.qemu.try_wait().unwrap().is_none(), "qemu has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn longest(&self) -> Duration {
        std::mem::take(&mut self.said.lock().unwrap().longest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The connections to the disc, by both ends.
fn connections() -> String {
    let output = Command::new("ss").args(["-Htn", "state", "established", "dport", "=", ":10809"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let ends = text.lines().map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "));
    ends.collect::<Vec<_>>().join("\n")
}

#[test]
fn r185_a_guest_writes_through_several_upgrades_and_its_qemu_sees_no_disconnect() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let order = json!({
            "size": 16 * MIB, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
            "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}],
        });
        ok(brain.create("disc.sata.1", order).await);
        let address = SocketAddr::new(ADDRESS.parse().unwrap(), 10809);
        let served = Served { number: DiscNumber(1), address };
        served.connect_as(KEY, Style::Simple).unwrap().write(0, &boot_sector());

        let mut guest = Guest::start();
        guest.goes_on(50).await;
        let connected = connections();
        assert_eq!(connected.lines().count(), 1, "{connected}");
        let mut longest = vec![];
        for _ in 0..5 {
            guest.longest();
            let output = tail.upgrade(&[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            brain.connect().await;
            guest.goes_on(50).await;
            longest.push(guest.longest());
            assert_eq!(connections(), connected, "qemu is connected as it was");
        }
        drop(guest.qemu.kill());
        guest.qemu.wait().unwrap();
        let said = guest.said();
        assert_eq!(said.errors, 0, "{said:?}");
        eprintln!("longest between two of {} writes, in each of 5 upgrades: {longest:?}", said.writes);
        // The last numbers are there, each in its sector: at most one is under way, or not told of.
        let (mut numbers, file) = (vec![], std::fs::File::open(tail.file("1.data")).unwrap());
        for sector in 0..SECTORS {
            let mut number = [0; 4];
            file.read_exact_at(&mut number, u64::from(sector + 1) * SECTOR as u64).unwrap();
            let number = u32::from_le_bytes(number);
            assert_eq!(number % SECTORS, sector);
            numbers.push(number);
        }
        numbers.sort_unstable();
        let last = numbers[numbers.len() - 1];
        assert!(last >= said.writes, "{last} was written, and {} writes were told of", said.writes);
        assert!(numbers.iter().eq((last + 1 - SECTORS..=last).collect::<Vec<_>>().iter()), "{numbers:?}");
    });
}
