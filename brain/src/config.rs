//! `brain.toml`: read once, checked whole, an error names the file, the line and the field.

use crate::model::network::{Ipv4Network, Ipv6Network, in_order};
use serde::Deserialize;
use spine::{
    address::StoragePrefix,
    id::{Grade, ImageName, NodeName},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;

/// How a brain is set up.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What this brain is called, in logs and to a second brain.
    pub name: NodeName,
    /// The domain that VMs' names end with.
    pub cluster_domain: String,
    /// Where PostgreSQL is, as `host=/run/postgresql user=bigv dbname=bigv`; not needed with `--embedded`.
    pub database: Option<String>,
    /// Where heads and tails connect.
    pub spine_listen: Vec<SocketAddr>,
    /// Where the API is served, besides any sockets passed in by the service manager.
    #[serde(default)]
    pub http_listen: Vec<SocketAddr>,
    /// Where the brain keeps its lock.
    pub state_dir: PathBuf,
    /// The /64 of discs' addresses, the same as in every tail's configuration.
    pub storage_prefix: StoragePrefix,
    /// The network of consoles.
    pub management_network: Ipv4Network,
    /// First and last address given to VMs' consoles.
    pub management_range: [Ipv4Addr; 2],
    /// Networks that VMs may have cards on; a new VM gets one on the first.
    #[serde(default, rename = "network")]
    pub networks: Vec<NetworkConfig>,
    /// Storage grades offered.
    #[serde(default, rename = "grade")]
    pub grades: Vec<GradeConfig>,
    /// Images offered.
    #[serde(default, rename = "image")]
    pub images: Vec<ImageConfig>,
    /// Bounds of what the brain does by itself.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How places are chosen.
    #[serde(default)]
    pub placement: PlacementConfig,
    /// What becomes of the VMs of a head that is lost.
    #[serde(default)]
    pub auto_restart: AutoRestart,
    /// Days after which a deleted VM is gone for good (R051).
    #[serde(default = "purge_after_days_default")]
    pub purge_after_days: u16,
    /// Whether anyone may make themselves a user and an account without logging in.
    #[serde(default)]
    pub signup: bool,
    /// Addresses of reverse proxies in front of the API, whose `X-Forwarded-For` is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<IpAddr>,
}

/// A network that guests are on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its number, the same on every head.
    pub vlan: u32,
    /// Its IPv4 network.
    pub ipv4: Ipv4Network,
    /// What guests use as their default router.
    pub ipv4_router: Ipv4Addr,
    /// First and last address given to guests.
    pub ipv4_range: [Ipv4Addr; 2],
    /// Its IPv6 network.
    pub ipv6: Ipv6Network,
    /// The router's address.
    pub ipv6_router: Ipv6Addr,
}

/// A storage grade.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradeConfig {
    /// Its name, as pools say it.
    pub name: Grade,
    /// For customers.
    #[serde(default)]
    pub description: String,
}

/// An image that tails can write onto a new disc.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Its name: tails hold NAME.raw.
    pub name: ImageName,
    /// For customers.
    #[serde(default)]
    pub description: String,
    /// MiB: no disc with it may be smaller.
    #[serde(default)]
    pub size_min_mib: u64,
}

/// How much the brain does by itself in a while: a wrong database then does bounded harm.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// VMs started in one window without an order of a user.
    pub vm_starts_max: u32,
    /// VMs stopped in one window without an order of a user.
    pub vm_stops_max: u32,
    /// Seconds of the window.
    pub window_s: u64,
    /// Discs that move between tails at the same time, in the whole cluster.
    pub disc_moves_max: u32,
    /// How fast each of them may be, in 10⁶ bytes a second; 0: as fast as it goes. Pools and orders may say less.
    pub disc_move_mb_per_s: u32,
}

impl LimitsConfig {
    /// The limit of a disc's move; none: there is none.
    pub fn disc_move_limit(&self) -> Option<i32> {
        (self.disc_move_mb_per_s > 0).then(|| i32::try_from(self.disc_move_mb_per_s).unwrap_or(i32::MAX))
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { vm_starts_max: 120, vm_stops_max: 120, window_s: 60, disc_moves_max: 16, disc_move_mb_per_s: 0 }
    }
}

/// How places are chosen (R158–R165).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementConfig {
    /// Which head a VM goes to.
    pub vms: FillPolicy,
    /// Which pool a disc goes to.
    pub discs: FillPolicy,
    /// Heads whose worth of memory stays free, so that a lost head's VMs find room (R163).
    pub reserve_heads: usize,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self { vms: FillPolicy::FillFullest, discs: FillPolicy::FillEmptiest, reserve_heads: 0 }
    }
}

/// Which of the places that have room is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FillPolicy {
    /// The one with the least room left: keeps others empty for what is big (R160).
    FillFullest,
    /// The one with the most room left: spreads (R158).
    FillEmptiest,
}

/// What becomes of the VMs of a head that is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoRestart {
    /// They wait until it is back, or until someone restarts them.
    #[default]
    Manual,
}

fn purge_after_days_default() -> u16 {
    45
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not what it should be; the source names line and field.
    #[error("the configuration {} is wrong: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// Its parts do not fit together.
    #[error("the configuration {} is wrong: {message}", path.display())]
    Check {
        /// The file.
        path: PathBuf,
        /// Which field, and what is wrong with it.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks a text; `path` is for messages.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        match config.problem() {
            None => Ok(config),
            Some(message) => Err(ConfigError::Check { path: path.to_owned(), message }),
        }
    }

    /// After how long a deleted VM is gone for good.
    pub fn purge_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.purge_after_days) * 24 * 3600)
    }

    /// The network with this number.
    pub fn network(&self, vlan: i64) -> Option<&NetworkConfig> {
        self.networks.iter().find(|network| i64::from(network.vlan) == vlan)
    }

    fn problem(&self) -> Option<String> {
        let domain = &self.cluster_domain;
        let labels_good = domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
        if !labels_good || domain.len() > 120 {
            return Some(format!("cluster_domain {domain:?} is not a domain name in lower case"));
        }
        if self.spine_listen.is_empty() {
            return Some("spine_listen is empty: no head or tail could connect".to_owned());
        }
        let [first, last] = self.management_range;
        let network = self.management_network;
        if !in_order(first.into(), last.into()) || !network.contains(first) || !network.contains(last) {
            return Some(format!("management_range {first} to {last} is not a range in {network}"));
        }
        if self.limits.window_s == 0 {
            return Some("limits.window_s must be at least 1".to_owned());
        }
        self.networks.iter().find_map(NetworkConfig::problem).or_else(|| self.duplicate())
    }

    fn duplicate(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        let vlans = self.networks.iter().map(|network| format!("network with vlan {}", network.vlan));
        let grades = self.grades.iter().map(|grade| format!("grade {}", grade.name));
        let images = self.images.iter().map(|image| format!("image {}", image.name));
        vlans.chain(grades).chain(images).find(|what| !seen.insert(what.clone())).map(|what| format!("{what} is twice"))
    }
}

/// A guests' network has room for 65,536 addresses at least: the first 256 are for routers.
const IPV6_PREFIX_BITS_MAX: u8 = 112;

impl NetworkConfig {
    fn problem(&self) -> Option<String> {
        let [first, last] = self.ipv4_range;
        let inside = self.ipv4.contains(first) && self.ipv4.contains(last);
        let router: IpAddr = self.ipv4_router.into();
        if !inside || !in_order(first.into(), last.into()) {
            return Some(format!(
                "network {}: ipv4_range {first} to {last} is not a range in {}",
                self.vlan, self.ipv4
            ));
        }
        if !self.ipv4.contains(self.ipv4_router) || (first..=last).contains(&self.ipv4_router) {
            return Some(format!(
                "network {}: ipv4_router {router} must be in {} and outside of ipv4_range",
                self.vlan, self.ipv4
            ));
        }
        if self.ipv6.prefix_bits() > IPV6_PREFIX_BITS_MAX {
            return Some(format!(
                "network {}: ipv6 {} is too small: a prefix of at most {IPV6_PREFIX_BITS_MAX} bits is needed",
                self.vlan, self.ipv6
            ));
        }
        if !self.ipv6.contains(self.ipv6_router) {
            return Some(format!("network {}: ipv6_router {} is not in {}", self.vlan, self.ipv6_router, self.ipv6));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration that operators start from.
    const EXAMPLE: &str = include_str!("../example.toml");

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("brain.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file_is_read_and_the_rest_has_defaults() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.purge_after_days, 45, "R051");
        assert_eq!(config.placement.vms, FillPolicy::FillFullest, "R160");
        assert_eq!(config.placement.discs, FillPolicy::FillEmptiest, "R164");
        assert_eq!(config.auto_restart, AutoRestart::Manual);
        assert_eq!(config.network(1).unwrap().ipv4_router, Ipv4Addr::new(10, 16, 4, 1));
        assert!(!config.signup);
    }

    #[test]
    fn what_the_example_shows_as_defaults_are_the_defaults() {
        let is_setting =
            |line: &&str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '));
        let shown = |line: &'static str| line.strip_prefix("# ").filter(is_setting).unwrap_or(line);
        let lines = EXAMPLE.lines().filter(|line| !line.starts_with("# database")).map(shown).collect::<Vec<_>>();
        assert!(lines.contains(&"window_s = 60") && lines.contains(&"[placement]"));
        assert_eq!(format!("{:?}", parse(&lines.join("\n")).unwrap()), format!("{:?}", parse(EXAMPLE).unwrap()));
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let error = parse(&EXAMPLE.replace("state_dir", "stat_dir")).unwrap_err();
        assert!(error.contains("brain.toml") && error.contains("line 19") && error.contains("stat_dir"), "{error}");
        for (from, to, names) in [
            ("10.16.3.199", "10.16.9.199", "management_range"),
            ("10.16.4.100", "10.16.4.250", "ipv4_range"),
            ("router = \"10.16.4.1\"", "router = \"10.16.4.150\"", "ipv4_router"),
            ("fd00:b16:0:4::/64", "fd00:b16:0:4::/120", "ipv6"),
            ("lab.bigv.example", "Lab..example", "cluster_domain"),
            ("[\"[fd00:b16:0:1::1]:7770\"]", "[]", "spine_listen"),
        ] {
            let error = parse(&EXAMPLE.replace(from, to)).unwrap_err();
            assert!(error.contains(names), "{error}");
        }
        let twice = format!("{EXAMPLE}\n[[grade]]\nname = \"sata\"\n");
        assert!(parse(&twice).unwrap_err().contains("grade sata is twice"));
    }
}
