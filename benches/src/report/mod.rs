//! One Markdown page with its plots, from the records of any number of runs.
//!
//! ```text
//!   DIR/peers-*.json   ──▶ a section each: where and how, bars, figures, plots
//!   DIR/memory-*.json  ──▶ memory by number of discs
//! ```
//!
//! Deliberately absent: any average over runs; each stands with its machine, commit and settings.

pub mod lines;
pub mod plot;
pub mod table;

use crate::{
    judge,
    loads::{Client, IDLE_US_PER_S_MAX, LOADS, Load},
    record::{self, Figures, Machine, Memory, Outcome, Run, Sample},
    statistics::Spread,
};
use anyhow::{Context, Result, bail};
use plot::{Bar, Panel, Scale};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Most records in one report.
const RECORDS_MAX: usize = 200;
/// When clients were kept waiting for more than this share of their time, the samples say less.
const WAIT_SHARE_MAX: f64 = 0.02;

/// What became of a report.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Records that are in it.
    pub records_count: usize,
    /// Why each of the others is not: it may be one of an older program.
    pub left_out: Vec<String>,
}

/// Reads the records of the folders, and writes `out` with its plots beside it. A record that cannot be read is left
/// out, and named in the page.
///
/// # Errors
/// When a folder cannot be read, there are too many records or none that can be read, or a file cannot be written.
pub fn write(folders: &[PathBuf], out: &Path) -> Result<Written> {
    let (runs, memories) = (records(folders, "peers-")?, records(folders, "memory-")?);
    let count = runs.len() + memories.len();
    if count == 0 {
        bail!("there is no peers-*.json or memory-*.json in the folders");
    }
    if count > RECORDS_MAX {
        bail!("{count} records are more than one report takes ({RECORDS_MAX})");
    }
    let mut page = Page::new(out)?;
    page.text += "# Measurements\n";
    let mut left_out = Vec::new();
    for path in &runs {
        match record::read(path) {
            Ok(run) => page.run(&run, &stem(path))?,
            Err(error) => left_out.push(format!("{error:#}")),
        }
    }
    for path in &memories {
        match record::read(path) {
            Ok(memory) => page.memory(&memory, &stem(path))?,
            Err(error) => left_out.push(format!("{error:#}")),
        }
    }
    if left_out.len() == count {
        bail!("{}", left_out.join("; "));
    }
    if !left_out.is_empty() {
        page.text += "\n## Left out\n\n";
        left_out.iter().for_each(|reason| page.text += &format!("- {reason}\n"));
    }
    fs::write(out, &page.text).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(Written { records_count: count - left_out.len(), left_out })
}

/// The files of these folders whose names begin so and end in `.json`, in the order of their names.
fn records(folders: &[PathBuf], prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(prefix) && name.ends_with(".json") {
                found.push(path);
            }
        }
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()).then(a.cmp(b)));
    found.dedup();
    Ok(found)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The tables of one run, for people at a terminal.
pub fn summary(run: &Run) -> String {
    let mut text = format!("{}\n", settings(run));
    for client in [Client::Own, Client::Fio] {
        if let Some(table) = table::figures(run, client) {
            text += &format!("\nClient: {client}\n\n{table}");
        }
    }
    for table in [table::idle(run), limits(run), table::bars(&judge::verdicts(run))].into_iter().flatten() {
        text += &format!("\n{table}");
    }
    text + &remarks(run)
}

/// A page as it grows, and where its plots go.
pub(crate) struct Page {
    /// In Markdown.
    pub(crate) text: String,
    folder: PathBuf,
    stem: String,
}

impl Page {
    /// An empty one, which will be written to `out`.
    pub(crate) fn new(out: &Path) -> Result<Self> {
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { text: String::new(), folder: folder.to_owned(), stem: stem(out) })
    }

    fn run(&mut self, run: &Run, name: &str) -> Result<()> {
        self.text += &format!("\n## {name}\n\n{}\n", settings(run));
        if let Some(table) = table::bars(&judge::verdicts(run)) {
            self.text += "\n### What was asked for\n\nEach ratio is to the best peer in that figure. `reached` is the \
                          ratio of the medians; `rounds` the lowest and the highest ratio within a round.\n\n";
            self.text += &table;
        }
        for client in [Client::Own, Client::Fio] {
            let Some(table) = table::figures(run, client) else { continue };
            let by = match client {
                Client::Own => "With the own client",
                Client::Fio => "With fio's nbd engine",
            };
            self.text += &format!("\n### {by}\n\n{table}");
            for (kind, title, unit) in PLOTS {
                let panels = panels(run, client, *kind);
                let svg = plot::panels(&format!("{title}: {client} client"), &panels, &note(run, *kind))?;
                self.plot(&format!("{name}-{client}-{unit}"), title, &svg)?;
            }
        }
        for (title, table) in [("Idle, with one client connected", table::idle(run)), ("Limit", limits(run))] {
            if let Some(table) = table {
                self.text += &format!("\n### {title}\n\n{table}");
            }
        }
        self.text += &remarks(run);
        Ok(())
    }

    fn memory(&mut self, memory: &Memory, name: &str) -> Result<()> {
        let mut points: Vec<(f64, f64)> =
            memory.memory.iter().map(|point| (point.discs_count as f64, point.rss_kib as f64 / 1024.0)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let row = |&(discs, mib): &(f64, f64)| vec![table::number(discs, 0), table::number(mib, 1)];
        let rows: Vec<_> = points.iter().map(row).collect();
        let table = table::markdown(&["discs", "RSS MiB"], &rows, 0);
        self.text += &format!("\n## {name}\n\n{}\n\n{table}", machine(&memory.machine));
        let title = "Memory by number of discs, each with an idle client";
        let svg = plot::curve(title, "discs", "RSS MiB", &points, &place(&memory.machine))?;
        self.plot(name, "Memory by number of discs", &svg)
    }

    /// Writes a plot beside the page, and shows it there.
    pub(crate) fn plot(&mut self, name: &str, title: &str, svg: &str) -> Result<()> {
        let file = format!("{}-{name}.svg", self.stem);
        let path = self.folder.join(&file);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        self.text += &format!("\n![{title}]({file})\n");
        Ok(())
    }
}

/// What a plot shows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Rate,
    Latency,
    Cpu,
}

const PLOTS: &[(Kind, &str, &str)] = &[
    (Kind::Rate, "Requests a second, or MiB/s", "rate"),
    (Kind::Latency, "Latency: p50, and p99 behind it", "latency"),
    (Kind::Cpu, "Server's CPU time per request", "cpu"),
];

fn panels(run: &Run, client: Client, kind: Kind) -> Vec<Panel> {
    let panel = |load: &Load| {
        let servers = run.servers.iter().enumerate();
        let bars: Vec<Bar> =
            servers.filter_map(|(place, server)| bar(run, load, client, (place, &server.name), kind)).collect();
        let (unit, scale) = match kind {
            Kind::Rate if load.is_bandwidth() => ("MiB/s", Scale::Linear),
            Kind::Rate => ("requests/s", Scale::Linear),
            // p99 is often a hundred times p50.
            Kind::Latency => ("µs", Scale::Logarithmic),
            Kind::Cpu => ("µs", Scale::Linear),
        };
        (!bars.is_empty()).then(|| Panel { title: load.name.to_owned(), unit, scale, bars })
    };
    LOADS.iter().filter_map(panel).collect()
}

fn bar(run: &Run, load: &Load, client: Client, (place, server): (usize, &str), kind: Kind) -> Option<Bar> {
    let of = |pick: fn(&Figures) -> f64| judge::spread(run, load.name, client, server, pick);
    let (main, behind) = match kind {
        Kind::Rate if load.is_bandwidth() => (of(|f| f.mib_per_s)?, None),
        Kind::Rate => (of(|f| f.iops)?, None),
        Kind::Latency => (of(|f| f.p50_us)?, Some(of(|f| f.p99_us)?.median)),
        Kind::Cpu => (of(|f| f.server_cpu_us)?, None),
    };
    Some(Bar { name: server.to_owned(), colour: place, value: main.median, ends: (main.min, main.max), behind })
}

/// What a plot was made from, in a few lines below it.
fn note(run: &Run, kind: Kind) -> String {
    let s = &run.settings;
    let second = match kind {
        Kind::Latency => " The paler bar, and the second number: p99, median of the rounds. The axis is logarithmic.",
        Kind::Rate | Kind::Cpu => "",
    };
    format!(
        "Bar: median of {} rounds of {} s; line: lowest and highest round.{second}\n{}, warm file of {} MiB in {} pages, \
         server on processor {}, client on {}",
        s.rounds,
        s.seconds,
        place(&run.machine),
        s.file_mib,
        s.pages,
        s.server_cpu,
        s.client_cpu
    )
}

/// The machine and the code in a line.
pub(crate) fn place(machine: &Machine) -> String {
    let modified = if machine.modified { " with changes" } else { "" };
    format!(
        "{} UTC, commit {}{modified}, Linux {}, {} × {}, {} MiB, {}",
        machine.date,
        machine.commit,
        machine.kernel,
        machine.cpus_count,
        machine.cpu,
        machine.memory_mib,
        machine.filesystem
    )
}

/// The same in a list.
pub(crate) fn machine(machine: &Machine) -> String {
    let modified = if machine.modified { " with changes" } else { "" };
    let kind = if machine.virtual_machine { ", a virtual machine" } else { "" };
    format!(
        "- date {} UTC, commit {}{modified}\n- kernel {}, {} × {}{kind}, {} MiB\n- file on {}\n- load averages before: {}",
        machine.date,
        machine.commit,
        machine.kernel,
        machine.cpus_count,
        machine.cpu,
        machine.memory_mib,
        machine.filesystem,
        machine.load_average
    )
}

fn settings(run: &Run) -> String {
    let s = &run.settings;
    let mut text = machine(&run.machine);
    text += &format!(
        "\n- {} rounds of {} s (own client: after {} s), a warm file of {} MiB in {} pages, server on processor {}, client on {}, niceness {}, {}",
        s.rounds,
        s.seconds,
        s.warm_up_seconds,
        s.file_mib,
        s.pages,
        s.server_cpu,
        s.client_cpu,
        s.nice,
        s.fio.as_deref().unwrap_or("no fio")
    );
    for server in &run.servers {
        text += &format!("\n- {}: `{}` ({})", server.name, server.command, server.version);
    }
    text
}

/// The parts of the limit; none when it was not measured.
fn limits(run: &Run) -> Option<String> {
    let kinds = [
        (record::LimitKind::BareRead, "fio, io_uring, buffered 4 KiB reads of the file"),
        (record::LimitKind::NullDisc, "the tail with a disc that has no file"),
    ];
    let rows = kinds.into_iter().filter_map(|(kind, name)| {
        let of = |pick: fn(&record::Limit) -> f64| {
            let values: Vec<f64> = run.limits.iter().filter(|limit| limit.kind == kind).map(pick).collect();
            Spread::of(&values)
        };
        let cpu = of(|limit| limit.cpu_us)?;
        let rate = table::number(of(|limit| limit.iops)?.median, 0);
        let ends = format!("{}–{}", table::number(cpu.min, 2), table::number(cpu.max, 2));
        Some(vec![name.to_owned(), rate, table::number(cpu.median, 2), ends])
    });
    let rows: Vec<_> = rows.collect();
    (!rows.is_empty()).then(|| table::markdown(&["limit", "a second", "CPU µs", "min–max"], &rows, 1))
}

fn waited(sample: &Sample) -> Option<f64> {
    match &sample.outcome {
        Outcome::Figures(figures) => figures.client_wait_share,
        Outcome::Failure(_) => None,
    }
}

/// What a reader must know before believing the tables.
fn remarks(run: &Run) -> String {
    let mut remarks = Vec::new();
    if run.samples.is_empty() {
        remarks.push("Nothing was measured.".to_owned());
    }
    if !run.servers.iter().any(|server| server.name == judge::SUBJECT) {
        remarks.push(format!("{} did not take part: no bar is judged.", judge::SUBJECT));
    }
    for server in &run.servers {
        let samples = run.samples.iter().filter(|sample| sample.server == server.name);
        let loose =
            samples.filter(|sample| matches!(&sample.outcome, Outcome::Figures(f) if f.threads_unpinned_count > 0));
        let loose = loose.count();
        if loose > 0 {
            remarks.push(format!(
                "{}: in {loose} samples it had threads that may leave its processor (on some kernels io_uring's workers do \
                 not keep to it); their time is counted, and the client's processor may have lent it.",
                server.name
            ));
        }
    }
    let shares: Vec<f64> = run.samples.iter().filter_map(waited).collect();
    if let Some(spread) = Spread::of(&shares).filter(|spread| spread.median > WAIT_SHARE_MAX) {
        remarks.push(format!(
            "Other programs kept the own client from its processor for {:.0} % of the time (median of the samples; \
             {:.0}–{:.0} %): rates and latencies, p99 above all, are of a busy machine; processor time suffers less.",
            spread.median * 100.0,
            spread.min * 100.0,
            spread.max * 100.0
        ));
    }
    for sample in &run.samples {
        if let Outcome::Failure(failure) = &sample.outcome {
            remarks.push(format!("{} failed at {} of {}: {failure}", sample.server, sample.load, sample.client));
        }
    }
    remarks.dedup();
    if run.settings.rounds < 5 || run.settings.seconds < 1.0 {
        remarks.push(
            "Fewer than five rounds, or samples of less than a second: good for a look, not for a claim.".to_owned(),
        );
    }
    if !run.idle.is_empty() {
        remarks.push(format!("Idle counts as none up to {IDLE_US_PER_S_MAX} µs a second."));
    }
    remarks.iter().fold(String::from("\n"), |text, remark| text + &format!("- {}\n", remark.replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FORMAT, MemoryPoint, tests as example};

    fn run() -> Run {
        let mut run = example::run();
        for (server, iops) in [("tail-nbd", 200e3), ("nbdkit", 50e3)] {
            run.samples.push(Sample {
                round: 1,
                load: "read-4k-4x32".into(),
                client: Client::Own,
                server: server.into(),
                outcome: Outcome::Figures(example::figures(iops, 4.0)),
            });
        }
        run
    }

    #[test]
    fn a_report_has_a_section_for_each_record_with_plots_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        let out = dir.path().join("out/report.md");
        assert!(write(&folders, &out).is_err(), "nothing to report");
        record::save(&dir.path().join("peers-1.json"), &run()).unwrap();
        let point = |discs_count, rss_kib| MemoryPoint { discs_count, rss_kib };
        let memory =
            Memory { format: FORMAT, machine: example::machine(), memory: vec![point(4000, 90_000), point(0, 30_000)] };
        record::save(&dir.path().join("memory-1.json"), &memory).unwrap();
        assert_eq!(write(&folders, &out).unwrap(), Written { records_count: 2, left_out: vec![] });
        let text = fs::read_to_string(&out).unwrap();
        for part in ["## peers-1", "## memory-1", "commit 0123abc", "ext4 (rw)", "6.1.0", "4096 MiB", "met", "512 MiB"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let plots: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("![")?.split('(').next_back()).collect();
        assert_eq!(plots.len(), 4, "{text}");
        for plot in plots {
            let svg = fs::read_to_string(dir.path().join("out").join(plot.trim_end_matches(')'))).unwrap();
            assert!(svg.starts_with("<svg"));
            for part in ["commit 0123abc", "Linux 6.1.0", "ext4 (rw)"] {
                assert!(svg.contains(part), "{part} is not in {plot}: a plot must be readable alone");
            }
        }
    }

    #[test]
    fn a_record_of_an_older_program_is_left_out_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        let out = dir.path().join("report.md");
        fs::write(dir.path().join("peers-0.json"), format!("{{\"format\": {FORMAT}}}")).unwrap();
        let error = write(&folders, &out).unwrap_err().to_string();
        assert!(error.contains("peers-0.json is no record"), "there is no other: {error}");
        record::save(&dir.path().join("peers-1.json"), &run()).unwrap();
        let written = write(&folders, &out).unwrap();
        assert_eq!((written.records_count, written.left_out.len()), (1, 1));
        let text = fs::read_to_string(&out).unwrap();
        assert!(text.contains("## peers-1") && text.contains(&written.left_out[0]), "{text}");
    }

    #[test]
    fn a_summary_names_what_cannot_be_believed() {
        let mut run = run();
        if let Outcome::Figures(figures) = &mut run.samples[1].outcome {
            figures.threads_unpinned_count = 2;
            figures.client_wait_share = Some(0.1);
        }
        let mut failed = run.samples[0].clone();
        failed.outcome = Outcome::Failure("it fell over".into());
        run.samples.push(failed);
        let text = summary(&run);
        for part in ["it fell over", "Fewer than five rounds", "nbdkit: in 1 samples", "for 5 % of the time"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(text.contains("NOT MET") && text.contains("| met  "), "{text}");
    }
}
