//! The text that Prometheus reads (OpenMetrics 1.0), made when it is asked for.

use super::histogram::Histogram;
use crate::shard::ShardStatus;
use crate::tls::FrontStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use spine::id::DiscNumber;
use spine::resource::global::{Pool, StoragePools};
use std::collections::BTreeMap;
use std::fmt;

/// Everything that is told, as it was at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The shards, in order.
    pub shards: Vec<ShardStatus>,
    /// What the label `disc` says, where that is not the number.
    pub names: BTreeMap<DiscNumber, String>,
    /// The pools of a tail.
    pub pools: StoragePools,
    /// A tail: whether its brain is connected.
    pub brain_connected: Option<bool>,
    /// What has come through TLS, where it is offered.
    pub tls: Option<FrontStatus>,
}

impl Snapshot {
    /// The text.
    pub fn render(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    fn name(&self, number: DiscNumber) -> String {
        self.names.get(&number).cloned().unwrap_or_else(|| number.to_string())
    }

    fn discs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let discs: Vec<_> = self.shards.iter().flat_map(|shard| &shard.discs).collect();
        let discs: Vec<_> = discs.into_iter().map(|disc| (self.name(disc.number), disc)).collect();
        let mut requests = Vec::new();
        let mut bytes = Vec::new();
        let (mut errors, mut refusals, mut deaf, mut connections) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut failed, mut size, mut in_flight, mut latencies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, disc) in &discs {
            let (name, counters) = (name.as_str(), &disc.counters);
            let commands = [
                ("read", counters.reads_count, &counters.read_latency_us),
                ("write", counters.writes_count, &counters.write_latency_us),
                ("flush", counters.flushes_count, &counters.flush_latency_us),
                ("zero", counters.zeroes_count, &counters.zero_latency_us),
            ];
            for (command, count, latency) in commands {
                let labels = [("disc", name), ("command", command)];
                requests.push((labels, count));
                // An idle disc is not worth a hundred lines.
                if latency.count() > 0 {
                    latencies.push((labels, *latency));
                }
            }
            bytes.push(([("disc", name), ("direction", "read")], counters.read_bytes));
            bytes.push(([("disc", name), ("direction", "written")], counters.written_bytes));
            let kinds = counters.errors.by_kind().filter(|(_, count)| *count > 0);
            errors.extend(kinds.map(|(kind, count)| ([("disc", name), ("error", kind)], count)));
            refusals.push(([("disc", name)], counters.refused_count));
            deaf.push(([("disc", name)], counters.deaf_count));
            let attached = disc.clients.iter().filter(|client| client.attached);
            connections.push(([("disc", name)], attached.clone().count() as u64));
            in_flight.push(([("disc", name)], attached.map(|c| u64::from(c.requests_in_flight_count)).sum::<u64>()));
            failed.push(([("disc", name)], u64::from(disc.sync_failed || disc.panicked)));
            size.push(([("disc", name)], disc.size_bytes));
        }
        counters(encoder, "tail_disc_requests", "Requests answered without an error", requests)?;
        counters(encoder, "tail_disc_bytes", "Bytes read and written by clients", bytes)?;
        counters(encoder, "tail_disc_errors", "Requests answered with an error", errors)?;
        counters(encoder, "tail_disc_refused_clients", "Clients that were refused", refusals)?;
        counters(encoder, "tail_disc_deaf_clients", "Clients cut off because they did not take their replies", deaf)?;
        gauges(encoder, "tail_disc_connections", "Connections that have been let in", connections)?;
        gauges(encoder, "tail_disc_requests_in_flight", "Requests being worked on", in_flight)?;
        gauges(encoder, "tail_disc_failed", "1 after a failed fsync or a panic", failed)?;
        gauges(encoder, "tail_disc_size_bytes", "Size that clients see", size)?;
        let help = "From the arrival of a request to its answer";
        histograms(encoder, "tail_disc_request_duration_seconds", help, MICROSECOND, latencies)
    }

    fn shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let indices: Vec<String> = (0..self.shards.len()).map(|index| index.to_string()).collect();
        let each = |value: fn(&ShardStatus) -> u64| {
            let labelled = indices.iter().zip(&self.shards);
            labelled.map(|(index, shard)| ([("shard", index.as_str())], value(shard))).collect::<Vec<_>>()
        };
        counters(encoder, "tail_shard_turns", "Turns of the loop", each(|shard| shard.turns_count))?;
        counters(encoder, "tail_shard_sends", "Sends, each with all replies that were ready", each(|s| s.sends_count))?;
        gauges(encoder, "tail_shard_waiting", "Who waits for a buffer", each(|shard| shard.waiting_count as u64))?;
        let buffers = each(|shard| shard.buffers_taken_count as u64);
        gauges(encoder, "tail_shard_buffers_in_use", "Data buffers that are not in the pool", buffers)?;
        let met = indices.iter().zip(&self.shards).flat_map(|(index, shard)| {
            shard.shortages.by_name().map(move |(limit, count)| ([("shard", index.as_str()), ("limit", limit)], count))
        });
        counters(encoder, "tail_shard_shortages", "How often a limit was met; each try counts", met.collect())?;
        gauges(encoder, "tail_shard_discs", "Discs that are open", each(|shard| shard.discs.len() as u64))?;
        let batches = indices.iter().zip(&self.shards);
        let batches = batches.map(|(index, shard)| ([("shard", index.as_str())], shard.completions_per_turn));
        let help = "Completions that a turn worked on";
        histograms(encoder, "tail_shard_completions_per_turn", help, 1.0, batches.collect())
    }

    fn node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1)];
        gauges(encoder, "tail_version", "Always 1; the label says which program runs", version.into())?;
        if let Some(connected) = self.brain_connected {
            let connected = [([("", ""); 0], u64::from(connected))];
            gauges(encoder, "tail_brain_connected", "1 while the brain is connected", connected.into())?;
        }
        if let Some(tls) = self.tls {
            let one = |value| vec![([("", ""); 0], value)];
            let handshakes =
                [("done", tls.handshakes_count), ("failed", tls.failures_count), ("refused", tls.refused_count)];
            let handshakes = handshakes.map(|(result, count)| ([("result", result)], count));
            gauges(encoder, "tail_tls_connections", "Connections through TLS", one(tls.connections_count))?;
            counters(encoder, "tail_tls_handshakes", "Clients that wanted TLS", handshakes.into())?;
        }
        let pools = |value: fn(&Pool) -> u64| {
            self.pools.iter().map(|(name, pool)| ([("pool", name.as_str())], value(pool))).collect::<Vec<_>>()
        };
        gauges(encoder, "tail_pool_size_bytes", "Size of the file system", pools(|pool| pool.size))?;
        gauges(encoder, "tail_pool_free_bytes", "Room that is left", pools(|pool| pool.free))?;
        gauges(encoder, "tail_pool_allocated_bytes", "What discs have allocated", pools(|pool| pool.allocated))?;
        gauges(encoder, "tail_pool_promised_bytes", "Sizes of all discs", pools(|pool| pool.promised))
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.node(&mut encoder)?;
        self.shards(&mut encoder)?;
        self.discs(&mut encoder)
    }
}

/// What a number of a latency stands for, in seconds.
const MICROSECOND: f64 = 1e-6;

/// A family of one name, or nothing where there is nothing to tell.
fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: Vec<(L, M)>,
) -> fmt::Result {
    let Some((_, first)) = values.first() else { return Ok(()) };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    values.iter().try_for_each(|(labels, value)| value.encode(metric.encode_family(labels)?))
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: Vec<(L, u64)>,
) -> fmt::Result {
    let values = values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
    family(encoder, name, help, values.collect())
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: Vec<(L, u64)>,
) -> fmt::Result {
    // OpenMetrics has signed gauges; none of ours comes near the limit.
    let values =
        values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))));
    family(encoder, name, help, values.collect())
}

fn histograms<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: f64,
    values: Vec<(L, Histogram)>,
) -> fmt::Result {
    let values = values.into_iter().map(|(labels, histogram)| (labels, Scaled { histogram, unit }));
    family(encoder, name, help, values.collect())
}

struct Scaled {
    histogram: Histogram,
    unit: f64,
}

impl EncodeMetric for Scaled {
    fn encode(&self, mut encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 * self.unit);
        let buckets: Vec<(f64, u64)> = self.histogram.buckets().map(|(at, count)| (bound(at), count)).collect();
        let sum = self.histogram.sum() as f64 * self.unit;
        encoder.encode_histogram::<NoLabelSet>(sum, self.histogram.count(), &buckets, None)
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Histogram
    }
}
