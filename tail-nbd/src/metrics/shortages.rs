//! How often something that is bounded was not to be had.

/// What is bounded in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Memory for requests' data, of all discs or of one: a request waits.
    Data,
    /// Buffers that requests arrive in: a connection waits.
    Receive,
    /// Pipes for replies by reference: a reply is copied.
    Pipes,
    /// Requests that are worked on: a request waits.
    Transfers,
    /// Connections of a shard: a client is turned away.
    Connections,
    /// Connections of a disc that have been let in: a client is refused.
    DiscConnections,
    /// Connections of a disc that have not: a client is turned away.
    Negotiating,
}

/// By the names that the configuration and `limits.rs` have for them.
const LIMITS: [(Limit, &str); 7] = [
    (Limit::Data, "data_mib"),
    (Limit::Receive, "receive_mib"),
    (Limit::Pipes, "pipes_max"),
    (Limit::Transfers, "transfers_max"),
    (Limit::Connections, "connections_max"),
    (Limit::DiscConnections, "connections_per_disc_max"),
    (Limit::Negotiating, "negotiating_per_disc_max"),
];

/// How often each limit was met; who waits and tries again meets it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortages([u64; LIMITS.len()]);

impl Shortages {
    /// Counts one.
    pub fn note(&mut self, limit: Limit) {
        let place = LIMITS.iter().position(|(of, _)| *of == limit).expect("all limits are in the table");
        self.0[place] += 1;
    }

    /// Names of limits, and how often each was met.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LIMITS.iter().zip(self.0).map(|((_, name), count)| (*name, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_by_its_name() {
        let mut shortages = Shortages::default();
        LIMITS.iter().for_each(|(limit, _)| shortages.note(*limit));
        shortages.note(Limit::Pipes);
        assert!(shortages.by_name().all(|(name, count)| count == if name == "pipes_max" { 2 } else { 1 }));
        assert_eq!(shortages.by_name().count(), LIMITS.len());
    }
}
