//! `vm.X`: one running machine, complete and self-standing (R073, R080, R092–R112).

use super::Attributes;
use crate::secret::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};
use thiserror::Error;

/// A machine, with all that its head needs to start it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmResource {
    /// Memory in MiB (R092).
    pub memory: u32,
    /// Virtual processors (R093).
    pub cores: u16,
    /// Whether the guest's memory balloon may be used (R094).
    #[serde(default)]
    pub balloon_on: bool,
    /// The CD in the drive; null is an empty drive (R095).
    #[serde(default)]
    pub cdrom_url: Option<String>,
    /// A request to install an image; carried for later (R096).
    #[serde(default)]
    pub imager_options: Option<serde_json::Value>,
    /// `vm.group.account`, for people and process lists (R097).
    #[serde(default)]
    pub display_name: String,
    /// Keyboard layout of the graphical console, as `en-gb` (R098).
    #[serde(default)]
    pub keymap: Option<String>,
    /// The virtual hardware's profile; null is the head's newest.
    #[serde(default)]
    pub hardware_profile: Option<String>,
    /// In order: the first is the guest's first card (R099).
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// In order: the guest starts from the first (R105).
    #[serde(default)]
    pub discs: Vec<VmDisc>,
    /// Where the console listens; it moves with the machine (R109).
    #[serde(default)]
    pub management_address: Option<IpAddr>,
    /// The console's SSH host keys, as OpenSSH or PEM private keys (R110).
    #[serde(default)]
    pub management_ssh_keys: Vec<Secret>,
    /// Who may use the console; others are refused (R111).
    #[serde(default)]
    pub console_users: Vec<String>,
    /// How each of them proves who they are (R112).
    #[serde(default)]
    pub user_authentication: BTreeMap<String, UserAuthentication>,
    /// Attributes this build does not know (R084).
    #[serde(flatten)]
    pub extra: Attributes,
}

/// One network card (R099–R104).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Six hexadecimal pairs with colons.
    pub mac: String,
    /// An abstract network number, which may be above 4094 (R101).
    pub vlan_id: u32,
    /// `virtio`, `e1000`, …
    pub model: String,
    /// Addresses and whole prefixes routed to the card (R103).
    #[serde(default)]
    pub ips: Vec<String>,
    /// What DHCP tells the guest (R104).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<Dhcp>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// What DHCP tells the guest (R104).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dhcp {
    /// The network with its prefix length.
    pub network: String,
    /// The default router.
    pub router: IpAddr,
    /// The guest's host name.
    pub hostname: String,
    /// Its domain.
    pub domain: String,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// One disc of a machine (R105–R108).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmDisc {
    /// Where it is served.
    pub address: NbdAddress,
    /// `virtio`, `ide`, …
    pub model: String,
    /// Serial number that the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The attachment key: the NBD export name this machine must ask for. None: the empty name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// Size in bytes; a change is passed on to the running guest (R087).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// A console user's proofs (R112).
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct UserAuthentication {
    /// OpenSSH public keys, one a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_keys: Option<String>,
    /// A password: plain, or a PHC string as `$argon2id$…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// `nbd:HOST:PORT`, with an IPv6 literal in brackets (R106).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdAddress {
    /// An address, or a host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl NbdAddress {
    /// The address of a disc served on `address` at the usual port.
    pub fn of_disc(address: Ipv6Addr) -> Self {
        Self { host: address.to_string(), port: crate::limits::NBD_PORT }
    }
}

/// A text that is not `nbd:HOST:PORT`.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{0:?} is not a disc address: expected nbd:HOST:PORT or nbd:[IPV6]:PORT")]
pub struct NbdAddressError(String);

impl FromStr for NbdAddress {
    type Err = NbdAddressError;
    fn from_str(text: &str) -> Result<Self, NbdAddressError> {
        let error = || NbdAddressError(text.chars().take(80).collect());
        let rest = text.strip_prefix("nbd:").ok_or_else(error)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| error())?.to_string(),
            None => host.to_owned(),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let literal = host.parse::<IpAddr>().is_ok();
        if host.is_empty() || host.len() > 253 || !(literal || host.bytes().all(plain)) {
            return Err(error());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "nbd:[{}]:{}", self.host, self.port),
            false => write!(f, "nbd:{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for NbdAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NbdAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The attribute of an `update vm.X` that acts on the guest at once and is not kept.
pub const SIGNAL: &str = "signal";

/// What `update vm.X {"signal": …}` may ask of a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "signal", content = "data", rename_all = "lowercase")]
pub enum Signal {
    /// The ACPI power button.
    Powerdown,
    /// The reset button: the same qemu goes on.
    Reset,
    /// Keys pressed together, qemu's names joined by dashes: `ctrl-alt-delete`.
    Sendkey(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 5 of the 2012 paper, its slips of punctuation mended.
    const FIGURE_5: &str = include_str!("../../tests/figure5.json");

    #[test]
    fn figure_5_is_read_whole() {
        let vm: VmResource = serde_json::from_str(FIGURE_5).unwrap();
        assert_eq!((vm.memory, vm.cores, vm.balloon_on), (1024, 2, true));
        assert_eq!(vm.network_interfaces[1].vlan_id, 10_000);
        assert_eq!(vm.network_interfaces[0].dhcp.as_ref().unwrap().domain, "tardis.doctor.vortex.uk0.bigv.io");
        assert_eq!(vm.discs[0].address.to_string(), "nbd:44.44.44.44:4777");
        assert_eq!(vm.console_users, ["thedoctor", "amy"]);
        assert_eq!(vm.user_authentication["amy"].password.as_ref().unwrap().reveal(), "R0ry");
        assert!(vm.extra.is_empty());
        assert!(!format!("{vm:?}").contains("R0ry"), "R112: a password in a log");
    }

    #[test]
    fn unknown_attributes_are_carried() {
        let vm: VmResource = serde_json::from_str(r#"{"memory":1,"cores":1,"detected_kernel":"linux"}"#).unwrap();
        assert_eq!(serde_json::to_value(&vm).unwrap()["detected_kernel"], "linux", "R084");
    }

    #[test]
    fn disc_addresses_read_back_as_written() {
        for text in ["nbd:44.44.44.44:4777", "nbd:[fd00::8]:10809", "nbd:tail1.example:1"] {
            assert_eq!(text.parse::<NbdAddress>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "nbd:",
            "nbd:host",
            "nbd::1",
            "nbd:a:b",
            "nbd:[x]:1",
            "nbd:h:99999",
            "nbd:a b:1",
            "nbd:,x=1:1",
            "host:1",
        ] {
            assert!(bad.parse::<NbdAddress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn signals_have_the_form_of_the_api() {
        let sendkey = Signal::Sendkey("ctrl-alt-delete".into());
        assert_eq!(serde_json::to_string(&sendkey).unwrap(), r#"{"signal":"sendkey","data":"ctrl-alt-delete"}"#);
        assert_eq!(serde_json::from_str::<Signal>(r#"{"signal":"reset"}"#).unwrap(), Signal::Reset);
    }
}
