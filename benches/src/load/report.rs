//! What a run showed, for people and as JSON.

use super::{Config, plan::Operation};
use crate::processor::CpuTime;
use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// Latencies up to this long are told apart.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// Counts and latencies of one run.
#[derive(Debug)]
pub struct Report {
    block_bytes: u32,
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    started: Option<Instant>,
    elapsed: Duration,
    cpu_before: Option<CpuBefore>,
    server_cpu: Option<Duration>,
    own_cpu: Duration,
    own_wait: Duration,
}

/// Processor time when counting began.
#[derive(Debug)]
struct CpuBefore {
    server: Option<CpuTime>,
    own: CpuTime,
}

/// A finished run in numbers; its JSON is what scripts read.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Counted seconds.
    pub seconds: f64,
    /// Requests a second.
    pub iops: f64,
    /// MiB a second.
    pub mib_per_s: f64,
    /// Latency percentiles of all requests in µs.
    pub p50_us: f64,
    /// 99 of 100 requests were faster.
    pub p99_us: f64,
    /// 999 of 1000 requests were faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// The server's processor time for each request in µs, all its threads.
    pub server_cpu_us: Option<f64>,
    /// The load generator's own, for comparison.
    pub client_cpu_us: f64,
    /// The share of the run in which the load generator was ready and something else had its processor: how
    /// much the machine was disturbed.
    pub client_wait_share: f64,
}

impl Report {
    pub(super) fn new(config: &Config) -> Self {
        let histogram = || {
            let max = u64::try_from(LATENCY_MAX.as_nanos()).expect("a minute fits");
            Histogram::new_with_bounds(100, max, 3).expect("the bounds are proper")
        };
        Self {
            block_bytes: config.plan.block_bytes,
            reads: histogram(),
            writes: histogram(),
            started: None,
            elapsed: Duration::ZERO,
            cpu_before: None,
            server_cpu: None,
            own_cpu: Duration::ZERO,
            own_wait: Duration::ZERO,
        }
    }

    pub(super) fn start(&mut self, now: Instant, server: Option<u32>) -> Result<()> {
        self.started = Some(now);
        let server = server.map(CpuTime::of).transpose()?;
        self.cpu_before = Some(CpuBefore { server, own: CpuTime::of(std::process::id())? });
        Ok(())
    }

    pub(super) fn stop(&mut self, now: Instant, server: Option<u32>) -> Result<()> {
        self.elapsed = self.started.map_or(Duration::ZERO, |started| now - started);
        let Some(before) = &self.cpu_before else { return Ok(()) };
        if let (Some(before), Some(pid)) = (before.server, server) {
            self.server_cpu = Some(CpuTime::of(pid)?.since(before));
        }
        let own = CpuTime::of(std::process::id())?;
        (self.own_cpu, self.own_wait) = (own.since(before.own), own.waited_since(before.own));
        Ok(())
    }

    pub(super) fn count(&mut self, operation: Operation, latency: Duration) {
        let histogram = match operation {
            Operation::Read => &mut self.reads,
            Operation::Write => &mut self.writes,
        };
        histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The run in numbers.
    pub fn summary(&self) -> Summary {
        let mut all = self.reads.clone();
        all.add(&self.writes).expect("both have the same bounds");
        let count = all.len() as f64;
        let seconds = self.elapsed.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count.max(1.0);
        let percentile = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            seconds,
            iops: count / seconds,
            mib_per_s: count * f64::from(self.block_bytes) / seconds / f64::from(1 << 20),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            max_us: all.max() as f64 / 1e3,
            server_cpu_us: self.server_cpu.map(each),
            client_cpu_us: each(self.own_cpu),
            client_wait_share: self.own_wait.as_secs_f64() / seconds,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests    {:>12.0} a second", self.iops)?;
        writeln!(f, "bandwidth   {:>12.1} MiB/s", self.mib_per_s)?;
        for (name, us) in
            [("p50", self.p50_us), ("p99", self.p99_us), ("p99.9", self.p999_us), ("slowest", self.max_us)]
        {
            writeln!(f, "{name:<11} {us:>12.1} µs")?;
        }
        if let Some(us) = self.server_cpu_us {
            writeln!(f, "server CPU  {us:>12.2} µs a request")?;
        }
        writeln!(f, "client CPU  {:>12.2} µs a request", self.client_cpu_us)?;
        write!(f, "client kept {:>12.1} % of the time from its processor by others", self.client_wait_share * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan;

    #[test]
    fn a_summary_counts_and_ranks() {
        let config = Config {
            target: String::new(),
            export: String::new(),
            connections_count: 1,
            depth: 1,
            plan: plan::Config { block_bytes: 4096, writes_percent: 0, sequential: false, span_bytes: None, seed: 0 },
            warm_up: Duration::ZERO,
            duration: Duration::ZERO,
            rate: None,
            server_pid: None,
        };
        let mut report = Report::new(&config);
        for us in 1..=1000 {
            report.count(if us % 2 == 0 { Operation::Read } else { Operation::Write }, Duration::from_micros(us));
        }
        report.elapsed = Duration::from_secs(2);
        let summary = report.summary();
        assert_eq!((summary.iops, summary.server_cpu_us), (500.0, None));
        assert!((summary.p50_us - 500.0).abs() < 1.0 && (summary.p99_us - 990.0).abs() < 1.0, "{summary:?}");
        assert!((summary.mib_per_s - 500.0 * 4096.0 / 1048576.0).abs() < 1e-9);
    }
}
