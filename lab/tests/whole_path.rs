//! The whole path on one machine: what a customer types, through the brain, a head and two tails, to a guest's
//! prompt; then each of the parts is broken, and the guest goes on.
//!
//! One lab is shared by all steps, which run in the order in which they are listed: a test binary with a runner
//! of its own. `cargo test -p lab --test whole_path` runs it; the programs and the disc image must be built
//! (`scripts/test` does). With an argument, only steps whose names contain it run, after the first two.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a test runner")]

use anyhow::{Context, Result, bail, ensure};
use lab::{
    harness::{self, Conversation, TestLab},
    plan::Node,
    process::{self, Record},
    readme,
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// A guest boots in 10 to 22 s without KVM on an idle machine; a busy one takes its time.
const BOOT: Duration = Duration::from_secs(120);
/// The brain's and the nodes' reactions: reconnects, a reconciler's turn.
const REACTION: Duration = Duration::from_secs(60);

type Step = fn(&TestLab) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("r179_up_brings_a_cluster", up),
    ("r001_vm_new_makes_a_machine", vm_new),
    ("r137_console_gives_a_login_prompt", console_login),
    ("r108_guest_sees_its_discs_with_sizes_and_serials", guest_sees_discs),
    ("r037_disc_addresses_follow_from_their_numbers", disc_addresses),
    ("r117_a_client_without_the_key_is_refused", stranger_is_refused),
    ("r014_list_and_show_say_the_same", list_and_show),
    ("r036_a_killed_tail_is_a_pause", tail_killed),
    ("r177_guests_go_on_without_the_brain", brain_killed),
    ("r186_a_restarted_head_adopts_its_guests", head_killed),
    ("r056_a_crashed_guest_is_started_again", guest_crashed),
    ("r087_a_disc_grows_under_a_running_guest", disc_grows),
    ("r012_r120_discs_move_under_a_running_guest", discs_move),
    ("r050_disc_new_and_list", disc_new),
    ("r001_shutdown_start_restart_stop", power),
    ("r001_vm_delete_and_purge_free_the_discs", delete),
    ("r179_down_leaves_no_trace", down),
];

/// These are what every other step stands on.
const NEEDED_FIRST: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Runners that start each test in a process of its own have nothing to run here.
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    println!("\nrunning {} tests", STEPS.len());
    if let Some(reason) = harness::missing() {
        eprintln!("skipped: whole_path: {reason}");
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", STEPS.len());
        return ExitCode::SUCCESS;
    }
    let lab = match TestLab::new() {
        Ok(lab) => lab,
        Err(error) => {
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (passed, failed, ignored) = run(&lab, wanted.map(String::as_str));
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(lab: &TestLab, wanted: Option<&str>) -> (usize, usize, usize) {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (index, (name, step)) in STEPS.iter().enumerate() {
        let needed = index < NEEDED_FIRST;
        if !needed && wanted.is_some_and(|wanted| !name.contains(wanted)) {
            ignored += 1;
            continue;
        }
        let start = Instant::now();
        match step(lab) {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({:.1} s)", start.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED ({:.1} s)\n{error:#}\n{}", start.elapsed().as_secs_f64(), lab.logs());
                // What the step broke on purpose is mended, so that the next ones tell something.
                if needed || lab.up().is_err() {
                    return (passed, failed, ignored + STEPS.len() - index - 1);
                }
            }
        }
    }
    (passed, failed, ignored)
}

/// Every role with its own configuration (R019); the nodes call and are known at once (R053, R063).
fn up(lab: &TestLab) -> Result<()> {
    let said = lab.up()?;
    for command in readme::quick_start().into_iter().skip(1) {
        let words = command[1..].join(" ");
        ensure!(said.contains(&words), "`up` does not say as the README does to type {words:?} next: {said}");
    }
    let said = lab.up()?;
    ensure!(said.contains("is up already"), "`up` twice: {said}");
    Ok(())
}

/// From a row to a running guest on a head (R055, R045), its discs in pools of two grades (R011, R021).
fn vm_new(lab: &TestLab) -> Result<()> {
    let said = bigv(lab, &readme::quick_start()[1][1..])?;
    ensure!(said.contains("web1"), "it does not show the machine: {said}");
    let vm = vm(lab)?;
    ensure!(vm["power_on"] == true && vm["head"].is_string() && runs(&vm), "it does not run: {vm}");
    ensure!(guest(lab)?.is_some(), "no qemu process");
    Ok(())
}

fn console_login(lab: &TestLab) -> Result<()> {
    let mut console = Console::log_in(lab)?;
    ensure!(console.run("echo $((6 * 7))")? == "42", "the shell does not answer");
    // Several viewers at once, and the last of what was said is shown to the new one.
    let mut second = Conversation::start(&mut lab.bigv(&["vm", "console", "web1"]))?;
    second.expect("42", REACTION).context("the second viewer does not see what was said before")?;
    Ok(())
}

fn guest_sees_discs(lab: &TestLab) -> Result<()> {
    let mut console = Console::log_in(lab)?;
    for (disc, bytes) in [("vda", 1u64 << 30), ("vdb", 2 << 30)] {
        let size = console.run(&format!("cat /sys/block/{disc}/size"))?;
        ensure!(size.trim() == (bytes / 512).to_string(), "{disc} has {size:?} sectors");
        let serial = console.run(&format!("cat /sys/block/{disc}/serial"))?;
        ensure!(!serial.trim().is_empty(), "{disc} has no serial");
    }
    // Written to the second disc, looked for after each accident.
    console.run("echo remember me | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null; sync")?;
    console.remembers()
}

/// Each disc on an address of its own (R118), put there by its tail (R128).
fn disc_addresses(lab: &TestLab) -> Result<()> {
    let mut addresses = Vec::new();
    for tail in [1, 2] {
        let shown =
            process::run(&mut lab.on(Node::Tail(tail), "ip", &["-6", "-o", "addr", "show", "dev", "storage0"]))?;
        addresses.extend(disc_addresses_in(&shown));
    }
    addresses.sort();
    ensure!(addresses == ["fd00:b16:0:d::1", "fd00:b16:0:d::2"], "{addresses:?}");
    Ok(())
}

fn stranger_is_refused(lab: &TestLab) -> Result<()> {
    if process::output("nbdinfo", &["--version"]).is_err() {
        println!("skipped: stranger_is_refused: nbdinfo is not installed");
        return Ok(());
    }
    let head = running_head(lab)?;
    let other = if head == 1 { 2 } else { 1 };
    for from in [head, other] {
        for export in ["", "guess", "00000000000000000000000000000000"] {
            let address = format!("nbd://[fd00:b16:0:d::1]/{export}");
            let tried = process::run(&mut lab.on(Node::Head(from), "nbdinfo", &["--size", &address]));
            let Err(refusal) = tried.map_err(|error| error.to_string()) else {
                bail!("head{from} was let in with the export name {export:?}");
            };
            let unreachable = ["Connection refused", "timed out", "unreachable", "No route"];
            ensure!(
                !unreachable.iter().any(|reason| refusal.contains(reason)),
                "nobody was there to refuse: {refusal}"
            );
        }
        let listed = process::run(&mut lab.on(Node::Head(from), "nbdinfo", &["--list", "nbd://[fd00:b16:0:d::1]"]));
        let shown = listed.unwrap_or_else(|error| error.to_string());
        ensure!(
            !shown.contains("export=\"") || shown.contains("export=\"\""),
            "a key is listed to head{from}: {shown}"
        );
    }
    let mut console = Console::log_in(lab)?;
    console.remembers().context("the strangers disturbed the guest")
}

fn list_and_show(lab: &TestLab) -> Result<()> {
    let list = bigv(lab, &["vm", "list"])?;
    ensure!(list.contains("web1"), "{list}");
    let shown = bigv(lab, &["vm", "show", "web1"])?;
    let vm = vm(lab)?;
    let hostname = vm["hostname"].as_str().context("no hostname")?;
    ensure!(hostname == "web1.default.lab.lab.bigv.example", "R155: {hostname}");
    ensure!(shown.contains(hostname), "{shown}");
    let discs = json(lab, &["disc", "list", "web1"])?;
    let sizes: Vec<_> = discs.as_array().context("not a list")?.iter().map(|disc| disc["size"].clone()).collect();
    ensure!(sizes == [1024, 2048], "{discs}");
    let missing = lab.bigv(&["vm", "show", "nobody"]).output()?;
    ensure!(missing.status.code() == Some(156), "a machine that is not there: {missing:?}");
    Ok(())
}

/// A tail that is killed is a pause: qemu reconnects, and the tail serves without being told anything (R119, R185).
fn tail_killed(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    for tail in [1, 2] {
        lab.kill(Node::Tail(tail))?;
        lab.start(Node::Tail(tail))?;
    }
    let mut console = Console::log_in(lab)?;
    // It reconnects after 1, 2, 4 … seconds; nothing comes from the guest's cache.
    console.run("echo 3 > /proc/sys/vm/drop_caches")?;
    console.remembers()?;
    console.run("echo more | dd of=/dev/vdb bs=512 seek=1 conv=sync,fsync 2>/dev/null; sync")?;
    ensure!(guest(lab)? == Some(before), "the guest is another process");
    Ok(())
}

/// A brain that comes back with an empty memory has lost nothing (R043) and stops nothing (R184).
fn brain_killed(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    let management = vm(lab)?["management_address"].as_str().context("no management address")?.to_owned();
    lab.kill(Node::Brain)?;
    let dead = lab.bigv(&["vm", "list"]).output()?;
    ensure!(dead.status.code() == Some(150), "with the brain dead `bigv` says {dead:?}");
    ensure!(before.alive(), "the guest died with the brain");
    // The console needs no brain; its keys are on the head.
    let mut console = Console::log_in_at(lab, &management)?;
    console.remembers()?;
    lab.start(Node::Brain)?;
    eventually("the brain sees the guest again", || Ok(runs(&vm(lab)?)))?;
    ensure!(guest(lab)? == Some(before), "the brain's return restarted the guest");
    Ok(())
}

fn head_killed(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    let head = running_head(lab)?;
    lab.kill(Node::Head(head))?;
    eventually("R034: the guest is said to wait for its head", || {
        let vm = vm(lab)?;
        let reason = vm["status"]["reason"].as_str().unwrap_or_default();
        Ok(!runs(&vm) && reason.contains(&format!("head{head}")))
    })?;
    ensure!(before.alive(), "the guest died with its head's supervisor");
    lab.start(Node::Head(head))?;
    eventually("the head's guest is known again", || {
        let vm = vm(lab)?;
        Ok(runs(&vm) && vm["head"] == format!("head{head}"))
    })?;
    ensure!(guest(lab)? == Some(before), "the guest is another process");
    let mut console = Console::log_in(lab)?;
    console.remembers()
}

fn guest_crashed(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    before.signal(Signal::KILL);
    eventually("another qemu runs", || Ok(guest(lab)?.is_some_and(|now| now != before)))?;
    let mut console = Console::log_in(lab)?;
    console.remembers()
}

fn disc_grows(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    let label = json(lab, &["disc", "list", "web1"])?[1]["label"].as_str().context("no label")?.to_owned();
    bigv(lab, &["disc", "resize", "web1", "--disc-label", &label, "--disc-size", "3"])?;
    let mut console = Console::log_in(lab)?;
    let sectors = (3u64 << 30) / 512;
    eventually("the guest sees the new size", || {
        Ok(console.run("cat /sys/block/vdb/size")?.trim() == sectors.to_string())
    })?;
    console.remembers()?;
    ensure!(guest(lab)? == Some(before), "the guest is another process");
    let shrunk =
        lab.bigv(&["disc", "resize", "web1", "--disc-label", &label, "--disc-size", "1", "--force"]).output()?;
    ensure!(!shrunk.status.success(), "R088: the disc of a running guest was shrunk");
    Ok(())
}

/// An operator moves a disc of a running guest to the other tail, and then empties a tail (R126, B13). The guest, which
/// writes all the while, only reconnects.
fn discs_move(lab: &TestLab) -> Result<()> {
    let before = guest(lab)?.context("no guest")?;
    let disc = json(lab, &["disc", "list", "web1"])?[0].clone();
    let (id, from) = (disc["id"].to_string(), disc["storage_pool"].as_str().context("it is in no pool")?.to_owned());
    let to = if from == "tail1-sata1" { "tail2-sata1" } else { "tail1-sata1" };
    let mut console = Console::log_in(lab)?;
    console.run("echo remember me | dd of=/dev/vdb conv=notrunc,fsync 2> /dev/null")?;
    console.run("(while :; do date > /moving; sync; done) > /dev/null 2>&1 & true")?;
    let plan = bigv(lab, &["--admin", "migrate", "disc", &id, to, "--plan"])?;
    ensure!(plan.contains(&from) && plan.contains(to), "the plan says nothing of it: {plan}");
    let moved = bigv(lab, &["--admin", "migrate", "disc", &id, to])?;
    ensure!(moved.contains("done") && moved.contains(to), "{moved}");
    let disc = &json(lab, &["disc", "list", "web1"])?[0];
    ensure!(disc["storage_pool"] == to && disc["status"]["state"] == "serving", "it lies elsewhere: {disc}");
    console.remembers()?;
    ensure!(guest(lab)?.as_ref() == Some(&before), "the guest is another process");

    let tail = to.split('-').next().context("a pool's label starts with its tail")?;
    bigv(lab, &["--admin", "empty", "tail", tail])?;
    let discs = json(lab, &["disc", "list", "web1"])?;
    let left = |disc: &Value| disc["storage_pool"].as_str().is_some_and(|pool| !pool.starts_with(tail));
    ensure!(discs.as_array().is_some_and(|discs| discs.iter().all(left)), "the tail is not empty: {discs}");
    bigv(lab, &["--admin", "update", "tail", tail, "--usage-strategy", "none"])?;
    console.remembers()?;
    console.run("kill $!")?;
    ensure!(guest(lab)? == Some(before), "the guest is another process");
    Ok(())
}

/// The pools and discs that there are, as the API shows them (R046, R121).
fn disc_new(lab: &TestLab) -> Result<()> {
    bigv(lab, &["disc", "new", "web1", "--disc-label", "spare", "--disc-grade", "ssd", "--disc-size", "1"])?;
    let discs = json(lab, &["disc", "list", "web1"])?;
    let spare = discs.as_array().and_then(|discs| discs.iter().find(|disc| disc["label"] == "spare"));
    let spare = spare.with_context(|| format!("no such disc: {discs}"))?;
    ensure!(spare["storage_grade"] == "ssd" && spare["size"] == 1024, "{spare}");
    bigv(lab, &["disc", "delete", "web1", "--disc-label", "spare", "--disc-label-confirmation", "spare"])?;
    let discs = json(lab, &["disc", "list", "web1"])?;
    ensure!(discs.as_array().is_some_and(|discs| discs.len() == 2), "{discs}");
    Ok(())
}

fn power(lab: &TestLab) -> Result<()> {
    bigv(lab, &["vm", "shutdown", "web1"])?;
    eventually("the guest shuts itself down", || Ok(guest(lab)?.is_none()))?;
    ensure!(vm(lab)?["power_on"] == false, "it is meant to be on after a shutdown");
    bigv(lab, &["vm", "start", "web1"])?;
    let started = guest(lab)?.context("`vm start` came back before the guest ran")?;
    bigv(lab, &["vm", "restart", "web1"])?;
    eventually("another qemu runs", || Ok(guest(lab)?.is_some_and(|now| now != started)))?;
    Console::log_in(lab)?;
    bigv(lab, &["vm", "stop", "web1"])?;
    eventually("no qemu runs", || Ok(guest(lab)?.is_none()))?;
    ensure!(vm(lab)?["head"].is_null(), "it is off, and on a head: {}", vm(lab)?);
    Ok(())
}

fn delete(lab: &TestLab) -> Result<()> {
    bigv(lab, &["vm", "delete", "web1", "--force"])?;
    ensure!(!bigv(lab, &["vm", "list"])?.contains("web1"), "it is still listed");
    bigv(lab, &["vm", "undelete", "web1"])?;
    ensure!(bigv(lab, &["vm", "list"])?.contains("web1"), "it is not listed again");
    bigv(lab, &["vm", "purge", "web1", "--force"])?;
    let root = lab.cluster()?.layout.root;
    eventually("R091: the discs' files are gone", || {
        let found =
            process::output("find", &[&root.to_string_lossy(), "-path", "*/pools/*", "-type", "f", "-size", "+8k"])?;
        Ok(found.is_empty())
    })?;
    eventually("R128: the discs' addresses are gone", || {
        let shown = process::run(&mut lab.on(Node::Tail(1), "ip", &["-6", "-o", "addr", "show", "dev", "storage0"]))?;
        Ok(disc_addresses_in(&shown).is_empty())
    })
}

fn down(lab: &TestLab) -> Result<()> {
    lab.down()?;
    let traces = lab.traces();
    ensure!(traces.is_empty(), "{traces:#?}");
    Ok(())
}

/// The console of web1, logged in.
struct Console {
    conversation: Conversation,
    /// Counts up, to give each command marks of its own.
    commands: u128,
}

impl Console {
    /// As `bigv vm console` gives it.
    fn log_in(lab: &TestLab) -> Result<Self> {
        Self::log_in_with(|| lab.bigv(&readme::quick_start()[2][1..]))
    }

    /// With ssh alone, as `bigv` would call it: for when there is no brain to ask for the address.
    fn log_in_at(lab: &TestLab, address: &str) -> Result<Self> {
        let key = lab.cluster()?.layout.root.join("console_key");
        let proxy = format!("ProxyCommand={} %h %p", shell_words(&lab.bigv_lab("connect")));
        Self::log_in_with(|| {
            let mut ssh = Command::new("ssh");
            ssh.args(["-o", &proxy, "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes"]);
            ssh.args(["-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=/dev/null", "-i"]).arg(&key);
            ssh.arg(format!("admin@{address}"));
            ssh
        })
    }

    /// To a shell's prompt, whatever state the guest is in: booting, at its login prompt, or logged in.
    fn log_in_with(mut command: impl FnMut() -> Command) -> Result<Self> {
        let deadline = Instant::now() + BOOT;
        loop {
            let conversation = Conversation::start(&mut command())?;
            // A new viewer is shown what was said before: its marks must be others.
            let since_epoch = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
            let mut console = Self { conversation, commands: since_epoch };
            match console.reach_prompt(deadline) {
                Ok(()) => return Ok(console),
                Err(error) if Instant::now() >= deadline => return Err(error).context("no prompt on the console"),
                // It ended: the console of a guest that is about to start is not there yet.
                Err(_) => process::wait(process::POLL * 10, || false),
            };
        }
    }

    fn reach_prompt(&mut self, deadline: Instant) -> Result<()> {
        loop {
            self.conversation.send("\n")?;
            if self.conversation.expect("login: ", Duration::from_secs(2)).is_ok() {
                self.conversation.send("root\n")?;
            }
            match self.run_within("true", Duration::from_secs(5)) {
                Ok(_) => return Ok(()),
                Err(error) if self.conversation.ended() || Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// What a command prints.
    fn run(&mut self, command: &str) -> Result<String> {
        self.run_within(command, REACTION)
    }

    /// The marks are computed by the guest's shell, so that the echo of the command has none of them.
    fn run_within(&mut self, command: &str, patience: Duration) -> Result<String> {
        self.commands += 1;
        let mark = self.commands;
        let begin = format!("echo begin-$(({mark} + 0))-");
        let end = format!("echo; echo end-$(({mark} + 0))-");
        self.conversation.send(&format!("{begin}; {command}; {end}\n"))?;
        self.conversation.expect(&format!("begin-{mark}-"), patience)?;
        let end = format!("end-{mark}-");
        let said = self.conversation.expect(&end, patience)?;
        Ok(said.trim_end_matches(&end).trim().to_owned())
    }

    /// What was written to the second disc is still there.
    fn remembers(&mut self) -> Result<()> {
        let found = self.run("dd if=/dev/vdb bs=512 count=1 2>/dev/null | head -n 1")?;
        ensure!(found.contains("remember me"), "the second disc begins with {found:?}");
        Ok(())
    }
}

fn bigv(lab: &TestLab, words: &[&str]) -> Result<String> {
    Ok(process::run(&mut lab.bigv(words))?)
}

fn json(lab: &TestLab, words: &[&str]) -> Result<Value> {
    let text = bigv(lab, &[&["--output-format", "json"], words].concat())?;
    serde_json::from_str(&text).with_context(|| format!("`bigv {}` printed {text:?}", words.join(" ")))
}

fn vm(lab: &TestLab) -> Result<Value> {
    json(lab, &["vm", "show", "web1"])
}

/// Whether the brain says that the machine runs.
fn runs(vm: &Value) -> bool {
    vm["status"]["state"] == "running"
}

/// The only qemu of the lab.
fn guest(lab: &TestLab) -> Result<Option<Record>> {
    let guests = [lab.guests(1)?, lab.guests(2)?].concat();
    ensure!(guests.len() <= 1, "R132: the machine runs {} times", guests.len());
    Ok(guests.first().copied())
}

fn running_head(lab: &TestLab) -> Result<u8> {
    for head in [1, 2] {
        if !lab.guests(head)?.is_empty() {
            return Ok(head);
        }
    }
    bail!("no head runs a guest")
}

fn disc_addresses_in(shown: &str) -> Vec<String> {
    let words = shown.split_whitespace().filter_map(|word| word.strip_suffix("/128"));
    words.filter(|address| address.starts_with("fd00:b16:0:d:")).map(str::to_owned).collect()
}

fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + REACTION;
    loop {
        let held = holds();
        if matches!(held, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return held.map(drop).and_then(|()| bail!("not within {} s: {what}", REACTION.as_secs()));
        }
        process::wait(process::POLL, || false);
    }
}
