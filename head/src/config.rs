//! `head.toml`: read once, checked once. An error names the file, the line and the field.

use crate::{disc::tls::DiscTls, network::range::Range};
use serde::{Deserialize, Deserializer, de::Error as _};
use spine::{address::StoragePrefix, id::NodeName, limits::NAME_BYTES_MAX};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// All that a head is told by its operator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name in the cluster.
    pub name: NodeName,
    /// Where the brains listen; the first that answers is taken (R063).
    pub brains: Vec<SocketAddr>,
    /// Its own address on the storage LAN.
    pub storage_address: IpAddr,
    /// The network of discs' addresses: a machine's qemu reaches those of its own discs only.
    pub storage_prefix: StoragePrefix,
    /// What happens where that cannot be seen to.
    #[serde(default)]
    pub firewall: FirewallPolicy,
    /// Private networks, or networks of the head's, that machines' CDs may come from.
    #[serde(default)]
    pub cdrom_allow: Vec<Range>,
    /// TLS to discs' tails; none: in the clear.
    pub disc_tls: Option<DiscTls>,
    /// What has to outlive a reboot: only the answer to whether KVM works.
    pub state_dir: PathBuf,
    /// Sockets, logs and the list of running machines; gone after a reboot.
    #[serde(deserialize_with = "runtime_dir")]
    pub runtime_dir: PathBuf,
    /// How guests are run.
    #[serde(default)]
    pub accel: Accel,
    /// MiB of RAM for machines, qemu's own needs included.
    pub memory_mib: u64,
    /// Processors offered.
    pub cores: u32,
    /// First and last uid that machines run under, one each (R135).
    #[serde(deserialize_with = "uid_range")]
    pub uid_range: RangeInclusive<u32>,
    /// The interface of the management LAN, which gets each console's address.
    #[serde(default, deserialize_with = "interface_option")]
    pub management_interface: Option<String>,
    /// The TCP port of consoles.
    #[serde(default = "console_port")]
    pub console_port: u16,
    /// Networks that guests' cards can be put on.
    #[serde(default, rename = "network")]
    pub networks: Vec<Network>,
    /// Sets the kernel's limits that safety rule 13 asks for, instead of only warning.
    #[serde(default)]
    pub manage_sysctls: bool,
    /// What happens to running machines when the supervisor starts again.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// The qemu to run.
    #[serde(default = "qemu")]
    pub qemu: PathBuf,
    /// The CPU model of guests; none: `host` with KVM, `max` without.
    #[serde(default, deserialize_with = "cpu_model")]
    pub cpu_model: Option<String>,
}

/// One network of the public LANs (R040).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The number that `vm.X` calls it by; it may be above 4094 (R101).
    pub vlan: u32,
    /// The bridge that carries it.
    #[serde(deserialize_with = "interface")]
    pub bridge: String,
}

/// How guests are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where it is proven to work, qemu's own translator elsewhere.
    #[default]
    Auto,
    /// KVM, unproven.
    Kvm,
    /// qemu's own translator.
    Tcg,
}

/// What happens where nothing can keep machines off the discs of others (safety rule 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallPolicy {
    /// The head does not start, nor does a machine that cannot be fenced in.
    #[default]
    Require,
    /// It is logged.
    Warn,
}

/// What happens to running machines when the supervisor starts again (R176, R186).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartPolicy {
    /// They are taken over.
    #[default]
    Adopt,
    /// They are ended.
    Die,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the source has line, column and field.
    #[error("{file}: {message}")]
    Parse {
        /// Which.
        file: PathBuf,
        /// Where and what.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With file, line and field.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
        Self::parse(&text).map_err(|message| ConfigError::Parse { file: file.into(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if config.brains.is_empty() {
            return Err("brains: name at least one brain, as \"[fd00:b16:0:1::1]:7770\"".into());
        }
        if config.cores == 0 || config.memory_mib == 0 {
            return Err("cores and memory_mib must be 1 or more".into());
        }
        let mut seen = std::collections::BTreeSet::new();
        match config.networks.iter().find(|network| !seen.insert(network.vlan)) {
            Some(twice) => Err(format!("network: vlan {} is there twice", twice.vlan)),
            None => Ok(config),
        }
    }

    /// The bridge of a network number.
    pub fn bridge_of(&self, vlan: u32) -> Option<&str> {
        self.networks.iter().find(|network| network.vlan == vlan).map(|network| network.bridge.as_str())
    }
}

fn console_port() -> u16 {
    22
}

fn qemu() -> PathBuf {
    "qemu-system-x86_64".into()
}

fn runtime_dir<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    // The sockets of a machine lie in it: `/vm-` and its name and `/vnc` must still fit.
    let room = crate::limits::SOCKET_PATH_BYTES_MAX - "/vm-/vnc".len() - NAME_BYTES_MAX / 3;
    match path.as_os_str().len() {
        _ if !path.is_absolute() => Err(D::Error::custom("runtime_dir must be an absolute path")),
        bytes if bytes > room => Err(D::Error::custom(format!(
            "runtime_dir is {bytes} bytes long, and sockets in it need {room} or fewer: choose a shorter path"
        ))),
        _ => Ok(path),
    }
}

fn uid_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RangeInclusive<u32>, D::Error> {
    let [first, last] = <[u32; 2]>::deserialize(deserializer)?;
    // Below 1000 are the system's own; the highest means "no uid" to the kernel.
    if first < 1000 || last < first || last == u32::MAX {
        return Err(D::Error::custom(
            "uid_range must be [first, last], both 1000 or more, the first not above the last",
        ));
    }
    Ok(first..=last)
}

fn checked_interface<E: serde::de::Error>(name: String) -> Result<String, E> {
    // IFNAMSIZ is 16 with its NUL; the kernel refuses slashes and white space.
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match (1..=15).contains(&name.len()) && name.bytes().all(good) && !name.starts_with(['-', '.']) {
        true => Ok(name),
        false => Err(E::custom(format!("{name:?} is not the name of a network interface"))),
    }
}

fn interface<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_interface(String::deserialize(deserializer)?)
}

fn interface_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(checked_interface).transpose()
}

fn cpu_model<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match Option::<String>::deserialize(deserializer)? {
        Some(model) if model.is_empty() || !model.bytes().all(good) => {
            Err(D::Error::custom(format!("{model:?} is not the name of a CPU model")))
        }
        model => Ok(model),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The configuration that operators start from.
    pub(crate) const EXAMPLE: &str = include_str!("../example.toml");

    #[test]
    fn the_example_is_read() {
        let config = Config::parse(EXAMPLE).unwrap();
        assert_eq!(config.bridge_of(1), Some("br-public"));
        assert_eq!(config.bridge_of(2), None);
        assert_eq!((config.accel, config.restart_policy), (Accel::Auto, RestartPolicy::Adopt));
        assert_eq!(config.firewall, FirewallPolicy::Require, "what is safe is the default");
        assert_eq!(config.cdrom_allow, [], "what is safe is the default");
        assert_eq!(config.disc_tls, None);
    }

    #[test]
    fn tls_to_discs_needs_a_folder() {
        let parse =
            |table: &str| Config::parse(&format!("{EXAMPLE}\n[disc_tls]\n{table}")).map(|config| config.disc_tls);
        let tls = DiscTls { folder: "/etc/bigv/tls".into(), hostname: Some("tails".to_owned()) };
        assert_eq!(parse("folder = \"/etc/bigv/tls\"\nhostname = \"tails\""), Ok(Some(tls)));
        assert!(parse("folder = \"tls\"").unwrap_err().contains("must be an absolute path"));
        assert!(parse("hostname = \"tails\"").unwrap_err().contains("folder"));
    }

    #[test]
    fn errors_name_line_and_field() {
        for (from, to, part) in [
            ("cores = 8", "cores = 8\ncolour = 1", "colour"),
            ("cores = 8", "cores = 0", "cores"),
            ("[70000, 70999]", "[70999, 70000]", "uid_range must be"),
            ("[70000, 70999]", "[0, 10]", "uid_range"),
            ("\"br950\"", "\"br/950\"", "br/950"),
            ("vlan = 950", "vlan = 1", "vlan 1 is there twice"),
            ("fd00:b16:0:d::/64", "fd00:b16:0:d::/48", "is not a storage prefix"),
            ("# cdrom_allow = [", "cdrom_allow = [\"10.0.0.1/8\"] # ", "is not a network"),
            ("accel = \"auto\"", "accel = \"fast\"", "accel = \"fast\""),
            ("\"/run/bigv-head\"", "\"run\"", "must be an absolute path"),
            ("[\"[fd00:b16:0:1::1]:7770\"]", "[]", "at least one brain"),
            ("name = \"head1\"", "name = \"Head 1\"", "line 5"),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE, "{from}");
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(part), "{to}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nonexistent/head.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/head.toml"));
    }
}
