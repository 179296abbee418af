//! fio: the jobs, and its JSON.

use super::program::Program;
use crate::{
    load::plan::Operation,
    loads::Load,
    processor::CpuTime,
    record::{Figures, Limit, LimitKind},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// How long fio may take beside the run itself.
const OVERHEAD: Duration = Duration::from_secs(30);
/// As in `benches/fio/limit-read-4k.fio`: batches of 32, as a server has when four clients keep 32 in flight.
const LIMIT_JOB: &[&str] = &[
    "--name=limit",
    "--ioengine=io_uring",
    // The default throws the file out of the page cache first.
    "--invalidate=0",
    "--rw=randread",
    "--bs=4096",
    "--iodepth=128",
    "--iodepth_batch_submit=32",
    "--iodepth_batch_complete_min=1",
    "--iodepth_batch_complete_max=32",
    "--registerfiles",
    "--fixedbufs",
    "--gtod_reduce=1",
];
/// The same for every job.
const COMMON: &[&str] = &["--time_based", "--norandommap", "--randrepeat=0", "--thread", "--output-format=json"];

/// Runs `load` against the server at `uri`, whose processor time is charged to the requests.
///
/// # Errors
/// When fio fails or says something unknown, or the server is gone.
pub fn run(load: &Load, uri: &str, mib: u64, seconds: f64, server: u32, scratch: &Path) -> Result<Figures> {
    let rw = if load.operation == Operation::Read { "randread" } else { "randwrite" };
    let mut words = vec![
        "fio".to_owned(),
        format!("--name={}", load.name),
        "--ioengine=nbd".to_owned(),
        format!("--uri={uri}"),
        format!("--rw={rw}"),
        format!("--bs={}", load.block_bytes),
        format!("--numjobs={}", load.connections_count),
        format!("--iodepth={}", load.depth),
        "--group_reporting".to_owned(),
        "--lat_percentiles=1".to_owned(),
        format!("--size={mib}m"),
        format!("--runtime={}ms", milliseconds(seconds)),
    ];
    words.extend(COMMON.iter().map(|&word| word.to_owned()));
    let before = CpuTime::of(server)?;
    let printed =
        Program::start(&words, &scratch.join("fio.log"))?.output(OVERHEAD + Duration::from_secs_f64(seconds))?;
    let server_cpu = CpuTime::of(server)?.since(before);
    let totals = Totals::parse(&printed, load.operation)?;
    Ok(Figures {
        iops: totals.iops,
        mib_per_s: totals.iops * f64::from(load.block_bytes) / f64::from(1 << 20),
        p50_us: totals.percentile("50.000000")?,
        p99_us: totals.percentile("99.000000")?,
        server_cpu_us: server_cpu.as_secs_f64() * 1e6 / totals.requests_count,
        client_cpu_us: totals.cpu_us(),
        client_wait_share: None,
        rss_peak_kib: 0,
        threads_unpinned_count: 0,
    })
}

/// What one buffered 4 KiB read of `file` costs, with no server.
///
/// # Errors
/// When fio fails or says something unknown.
pub fn bare_read(file: &Path, mib: u64, seconds: f64, round: u32, scratch: &Path) -> Result<Limit> {
    let mut words = vec!["fio".to_owned()];
    // An option of fio itself, which no job file may have.
    words.push("--readonly".to_owned());
    words.extend(LIMIT_JOB.iter().chain(COMMON).map(|&word| word.to_owned()));
    words.push(format!("--filename={}", file.display()));
    words.extend([format!("--size={mib}m"), format!("--runtime={}ms", milliseconds(seconds))]);
    let printed =
        Program::start(&words, &scratch.join("fio.log"))?.output(OVERHEAD + Duration::from_secs_f64(seconds))?;
    let totals = Totals::parse(&printed, Operation::Read)?;
    Ok(Limit { round, kind: LimitKind::BareRead, iops: totals.iops, cpu_us: totals.cpu_us() })
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3).round().max(1.0) as u64
}

/// What fio says of its one group of jobs.
#[derive(Debug)]
struct Totals {
    iops: f64,
    requests_count: f64,
    /// Share of `runtime_us` that fio's threads spent on a processor.
    cpu_share: f64,
    /// Of all its threads, added.
    runtime_us: f64,
    latency: Value,
}

impl Totals {
    fn parse(printed: &str, operation: Operation) -> Result<Self> {
        // libnbd and fio print lines before the object.
        let json = printed.find("\n{").map(|at| &printed[at..]).unwrap_or(printed);
        let value: Value = serde_json::from_str(json).context("fio printed no JSON")?;
        let job = &value["jobs"][0];
        if job["error"].as_i64() != Some(0) {
            bail!("fio's job ended with error {}", job["error"]);
        }
        let side = &job[if operation == Operation::Read { "read" } else { "write" }];
        let number = |value: &Value, name: &str| {
            value[name].as_f64().with_context(|| format!("fio's JSON has no number {name}"))
        };
        let requests_count = number(side, "total_ios")?;
        if requests_count < 1.0 {
            bail!("fio finished no request");
        }
        Ok(Self {
            iops: number(side, "iops")?,
            requests_count,
            cpu_share: (number(job, "usr_cpu")? + number(job, "sys_cpu")?) / 100.0,
            runtime_us: number(job, "job_runtime")? * 1e3,
            latency: side["lat_ns"]["percentile"].clone(),
        })
    }

    fn percentile(&self, name: &str) -> Result<f64> {
        let nanoseconds = self.latency[name].as_f64();
        Ok(nanoseconds.with_context(|| format!("fio's JSON has no percentile {name}"))? / 1e3)
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_share * self.runtime_us / self.requests_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of fio 3.33's answer that matter, of four threads that ran half a second.
    const PRINTED: &str = r#"fio: connected to NBD server
{
  "fio version" : "fio-3.33",
  "jobs" : [{
    "error" : 0, "job_runtime" : 2000, "usr_cpu" : 6.0, "sys_cpu" : 14.0,
    "read" : {"iops" : 200000.0, "total_ios" : 100000,
              "lat_ns" : {"percentile" : {"50.000000" : 171008, "99.000000" : 8093696}}},
    "write" : {"iops" : 0.0, "total_ios" : 0}
  }]
}
"#;

    #[test]
    fn fios_json_is_understood() {
        let totals = Totals::parse(PRINTED, Operation::Read).unwrap();
        assert_eq!((totals.iops, totals.requests_count), (200_000.0, 100_000.0));
        assert_eq!(totals.percentile("50.000000").unwrap(), 171.008);
        assert!(
            (totals.cpu_us() - 4.0).abs() < 1e-9,
            "0.4 s of processor time for 100,000 requests: {}",
            totals.cpu_us()
        );
    }

    #[test]
    fn answers_without_figures_are_errors() {
        let error = |printed: &str, operation| format!("{:#}", Totals::parse(printed, operation).unwrap_err());
        assert!(error(PRINTED, Operation::Write).contains("no request"));
        assert!(error("fio: broken", Operation::Read).contains("no JSON"));
        assert!(error(&PRINTED.replace("\"error\" : 0", "\"error\" : 5"), Operation::Read).contains("error 5"));
        assert!(error(&PRINTED.replace("usr_cpu", "x"), Operation::Read).contains("usr_cpu"));
        assert!(Totals::parse(PRINTED, Operation::Read).unwrap().percentile("12").is_err());
    }

    #[test]
    fn the_limits_job_file_is_the_same_job() {
        let text = include_str!("../../fio/limit-read-4k.fio");
        for word in LIMIT_JOB.iter().filter(|word| !word.starts_with("--name")) {
            let line = word.trim_start_matches("--");
            assert!(text.lines().any(|other| other == line), "{line} is not in the job file");
        }
    }

    #[test]
    fn job_files_run_as_they_are() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fio")).unwrap() {
            let path = entry.unwrap().path();
            let mut fio = std::process::Command::new("fio");
            fio.arg("--parse-only").arg(&path).env("FILE", "/dev/null").env("URI", "nbd://localhost/");
            let output = fio.output().unwrap();
            assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn runs_of_less_than_a_second() {
        assert_eq!((milliseconds(0.2), milliseconds(3.0), milliseconds(0.0)), (200, 3000, 1));
    }
}
