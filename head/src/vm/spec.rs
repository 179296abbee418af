//! What a machine is, fully checked: nothing later looks at a text of a customer again.

use crate::{
    config::Config,
    hypervisor::profile::{CardModel, DiscModel, Profile},
    limits::{CORES_MAX, DISPLAY_NAME_BYTES_MAX, MEMORY_MIN_MIB, SERIAL_BYTES_MAX, URL_BYTES_MAX},
};
use serde_json::{Value, json};
use spine::{
    hardware::KEYMAPS,
    limits::{DISCS_PER_VM_MAX, NICS_PER_VM_MAX},
    resource::{
        Attributes, from_attributes,
        vm::{NbdAddress, NetworkInterface, VmDisc, VmResource},
    },
    secret::Secret,
};
use std::fmt;
use thiserror::Error;

/// A machine that can be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// MiB (R092).
    pub memory_mib: u32,
    /// Virtual processors (R093).
    pub cores: u16,
    /// A balloon device (R094).
    pub balloon_on: bool,
    /// The CD in the drive (R095).
    pub cdrom: Option<CdromUrl>,
    /// For people and process lists (R097).
    pub display_name: String,
    /// Keyboard of the graphical console (R098).
    pub keymap: Option<&'static str>,
    /// The virtual hardware (B07).
    pub profile: &'static Profile,
    /// Network cards, in order (R099).
    pub cards: Vec<Card>,
    /// Discs, in order (R105).
    pub discs: Vec<Disc>,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its address.
    pub mac: Mac,
    /// What the guest sees.
    pub model: CardModel,
    /// The head's bridge that carries its network.
    pub bridge: String,
}

/// Six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// One disc.
#[derive(Clone, Debug, PartialEq)]
pub struct Disc {
    /// Where it is served.
    pub address: NbdAddress,
    /// What the guest sees.
    pub model: DiscModel,
    /// Printable ASCII, as much of it as the guest can see.
    pub serial: Option<String>,
    /// The export to ask for; empty without attachments.
    pub key: Secret,
    /// Bytes, when the brain said so.
    pub size: Option<u64>,
}

/// What a CD drive can read: never a file of the head's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CdromUrl {
    /// Read by qemu's HTTP client.
    Web {
        /// qemu's driver: `http` or `https`.
        driver: &'static str,
        /// The whole URL.
        url: String,
    },
    /// An image that the cluster itself serves: `nbd://HOST:PORT/EXPORT` (R013).
    Nbd {
        /// The server.
        address: NbdAddress,
        /// The export's name.
        export: String,
    },
}

/// What is wrong with an attribute.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{attribute}: {reason}")]
pub struct SpecError {
    /// The word for programs in the refusal.
    pub code: &'static str,
    /// Which, as `network_interfaces[1].mac`.
    pub attribute: String,
    /// What, for people.
    pub reason: String,
}

fn bad(attribute: impl Into<String>, reason: impl Into<String>) -> SpecError {
    SpecError { code: "bad-value", attribute: attribute.into(), reason: reason.into() }
}

/// Reads `vm.X` from its attributes.
///
/// # Errors
/// Names the attribute that cannot be read.
pub fn read(attributes: &Attributes) -> Result<VmResource, SpecError> {
    from_attributes(attributes).map_err(|error| {
        // The parser does not say where: the culprit is the attribute that is wrong in a machine that has
        // nothing else.
        let alone = |(name, value): &(&String, &Value)| {
            let mut least = Attributes::from_iter([("memory".into(), json!(1)), ("cores".into(), json!(1))]);
            least.insert((*name).clone(), (*value).clone());
            from_attributes::<VmResource>(&least).is_err()
        };
        let culprit = attributes.iter().find(alone).map_or("vm", |(name, _)| name.as_str());
        bad(shown(culprit), error.to_string())
    })
}

impl Spec {
    /// Checks a resource against what this head has.
    ///
    /// # Errors
    /// Names the attribute.
    pub fn check(vm: &VmResource, config: &Config) -> Result<Self, SpecError> {
        if vm.memory < MEMORY_MIN_MIB {
            return Err(bad("memory", format!("{} MiB is less than the smallest, {MEMORY_MIN_MIB} MiB", vm.memory)));
        }
        if vm.cores == 0 || vm.cores > CORES_MAX {
            return Err(bad("cores", format!("{} is not between 1 and {CORES_MAX}", vm.cores)));
        }
        let unknown = |name: &String| bad("hardware_profile", format!("there is no profile {:?}", shown(name)));
        let profile = Profile::find(vm.hardware_profile.as_deref())
            .ok_or_else(|| vm.hardware_profile.as_ref().map_or_else(|| bad("hardware_profile", "none"), unknown))?;
        let keymap = match vm.keymap.as_deref() {
            None => None,
            Some(name) => {
                Some(keymap(name).ok_or_else(|| bad("keymap", format!("there is no keymap {:?}", shown(name))))?)
            }
        };
        Ok(Self {
            memory_mib: vm.memory,
            cores: vm.cores,
            balloon_on: vm.balloon_on,
            cdrom: vm.cdrom_url.as_deref().map(CdromUrl::parse).transpose()?,
            display_name: display_name(&vm.display_name)?,
            keymap,
            profile,
            cards: cards(&vm.network_interfaces, profile, config)?,
            discs: discs(&vm.discs, profile)?,
        })
    }

    /// Checks a machine that runs already. Its cards are what they are: that the head has lost one of their
    /// networks since is found out at the next start, and until then the spec has no cards.
    ///
    /// # Errors
    /// Names the attribute.
    pub fn check_running(vm: &VmResource, config: &Config) -> Result<Self, SpecError> {
        let without_cards = || VmResource { network_interfaces: Vec::new(), ..vm.clone() };
        Self::check(vm, config).or_else(|_| Self::check(&without_cards(), config))
    }
}

fn display_name(name: &str) -> Result<String, SpecError> {
    match name {
        _ if name.len() > DISPLAY_NAME_BYTES_MAX => {
            Err(bad("display_name", format!("it is longer than {DISPLAY_NAME_BYTES_MAX} bytes")))
        }
        _ if name.chars().any(char::is_control) => Err(bad("display_name", "it has a control character")),
        _ => Ok(name.to_owned()),
    }
}

fn cards(wanted: &[NetworkInterface], profile: &Profile, config: &Config) -> Result<Vec<Card>, SpecError> {
    if wanted.len() > NICS_PER_VM_MAX {
        return Err(bad("network_interfaces", format!("there are more than {NICS_PER_VM_MAX}")));
    }
    let card = |(n, card): (usize, &NetworkInterface)| {
        let of = |attribute: &str| format!("network_interfaces[{n}].{attribute}");
        let model = CardModel::parse(&card.model, profile)
            .ok_or_else(|| bad(of("model"), format!("there is no model {:?}", shown(&card.model))))?;
        let bridge = config.bridge_of(card.vlan_id).ok_or_else(|| SpecError {
            code: "no-such-network",
            attribute: of("vlan_id"),
            reason: format!("this head has no network {}", card.vlan_id),
        })?;
        Ok(Card { mac: Mac::parse(&card.mac, &of("mac"))?, model, bridge: bridge.to_owned() })
    };
    wanted.iter().enumerate().map(card).collect()
}

fn discs(wanted: &[VmDisc], profile: &Profile) -> Result<Vec<Disc>, SpecError> {
    if wanted.len() > DISCS_PER_VM_MAX {
        return Err(bad("discs", format!("there are more than {DISCS_PER_VM_MAX}")));
    }
    let disc = |(n, disc): (usize, &VmDisc)| {
        let of = |attribute: &str| format!("discs[{n}].{attribute}");
        let model = DiscModel::parse(&disc.model, profile)
            .ok_or_else(|| bad(of("model"), format!("there is no model {:?}", shown(&disc.model))))?;
        let key = disc.key.clone().unwrap_or_default();
        if key.reveal().len() > NBD_NAME_BYTES_MAX || key.reveal().contains('\0') {
            return Err(bad(of("key"), "it cannot be the name of an NBD export"));
        }
        if wanted[..n].iter().any(|other| other.address == disc.address && other.key == disc.key) {
            return Err(bad(of("address"), format!("{} is there twice", disc.address)));
        }
        let serial = disc.serial.as_deref().map(serial);
        Ok(Disc { address: disc.address.clone(), model, serial, key, size: disc.size })
    };
    wanted.iter().enumerate().map(disc).collect()
}

/// Longest name of an NBD export (the protocol's own bound).
const NBD_NAME_BYTES_MAX: usize = 4096;

/// Serials come from labels, which are free text; hardware has printable ASCII of a few bytes. What
/// does not fit is replaced and cut, because a machine must start whatever its discs are called.
fn serial(text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '_' };
    text.chars().map(printable).take(SERIAL_BYTES_MAX).collect()
}

/// A bounded part of a text that a customer chose.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

impl CdromUrl {
    /// Reads a `cdrom_url`.
    ///
    /// # Errors
    /// When it is not a URL that a head may read.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |reason: &str| bad("cdrom_url", reason);
        if text.len() > URL_BYTES_MAX {
            return Err(bad("it is longer than 2048 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("a URL has no spaces, control characters or letters outside ASCII: write them as %XX"));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        if rest.is_empty() || rest.starts_with('/') {
            return Err(bad("it names no server"));
        }
        let driver = match scheme.to_ascii_lowercase().as_str() {
            "http" => "http",
            "https" => "https",
            "nbd" => return Self::parse_nbd(rest),
            _ => return Err(bad("only http://, https:// and nbd:// can be read")),
        };
        // qemu compares the scheme letter by letter.
        Ok(Self::Web { driver, url: format!("{driver}://{rest}") })
    }

    fn parse_nbd(rest: &str) -> Result<Self, SpecError> {
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (port, default) = (server.rsplit_once(':').map(|(_, port)| port), spine::limits::NBD_PORT);
        let has_port = port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && !server.ends_with(']');
        let text = if has_port { format!("nbd:{server}") } else { format!("nbd:{server}:{default}") };
        let address = text.parse().map_err(|_| bad("cdrom_url", "it must be nbd://HOST:PORT/EXPORT"))?;
        Ok(Self::Nbd { address, export: export.to_owned() })
    }
}

impl Mac {
    fn parse(text: &str, attribute: &str) -> Result<Self, SpecError> {
        let error = || bad(attribute, format!("{:?} is not six hexadecimal pairs with colons", shown(text)));
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(error)?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(error()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn keymap(name: &str) -> Option<&'static str> {
    KEYMAPS.iter().copied().find(|keymap| *keymap == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::EXAMPLE;

    fn config() -> Config {
        toml::from_str(EXAMPLE).unwrap()
    }

    fn check(changes: &Value) -> Result<Spec, SpecError> {
        let mut value = json!({
            "memory": 512, "cores": 1, "display_name": "web1.default.acme",
            "network_interfaces": [{"mac": "fe:ff:00:00:00:01", "vlan_id": 1, "model": "virtio"}],
            "discs": [{"address": "nbd:[fd00::8]:10809", "model": "virtio", "key": "k1"}],
        });
        for (name, change) in changes.as_object().unwrap() {
            value[name] = change.clone();
        }
        Spec::check(&serde_json::from_value(value).unwrap(), &config())
    }

    #[test]
    fn bad_values_are_named() {
        let disc = json!({"address": "nbd:h:1", "model": "virtio"});
        for (changes, start) in [
            (json!({"memory": 0}), "memory: 0 MiB"),
            (json!({"cores": 0}), "cores: 0 "),
            (json!({"cores": 256}), "cores: 256 "),
            (json!({"hardware_profile": "virtio3000"}), "hardware_profile: there is no profile \"virtio3000\""),
            (json!({"keymap": "../en-gb"}), "keymap: there is no keymap"),
            (json!({"display_name": "a\nb"}), "display_name: it has a control"),
            (json!({"display_name": "x".repeat(300)}), "display_name: it is longer"),
            (json!({"discs": vec![disc.clone(); 9]}), "discs: there are more than 8"),
            (json!({"discs": [disc.clone(), disc]}), "discs[1].address: nbd:h:1 is there twice"),
            (json!({"discs": [{"address": "nbd:h:1", "model": "floppy"}]}), "discs[0].model: there is no model"),
            (json!({"discs": [{"address": "nbd:h:1", "model": "virtio", "key": "a\u{0}"}]}), "discs[0].key: "),
            (
                json!({"network_interfaces": [{"mac": "fe:ff", "vlan_id": 1, "model": "virtio"}]}),
                "network_interfaces[0].mac: \"fe:ff\"",
            ),
            (
                json!({"network_interfaces": [{"mac": "fe:ff:00:00:00:01", "vlan_id": 10_000, "model": "virtio"}]}),
                "network_interfaces[0].vlan_id: this head has no network 10000",
            ),
            (json!({"cdrom_url": "file:///etc/shadow"}), "cdrom_url: it names no server"),
            (json!({"cdrom_url": "file://host/etc/shadow"}), "cdrom_url: only http://"),
            (json!({"cdrom_url": "/etc/shadow"}), "cdrom_url: "),
            (json!({"cdrom_url": "json:{\"driver\":\"file\"}"}), "cdrom_url: "),
            (json!({"cdrom_url": "http://a/b c"}), "cdrom_url: a URL has no spaces"),
            (json!({"cdrom_url": "nbd://"}), "cdrom_url: it names no server"),
        ] {
            let error = check(&changes).expect_err(&changes.to_string()).to_string();
            assert!(error.starts_with(start), "{changes}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (attributes, start) in [
            (json!({"memory": "much", "cores": 1}), "memory: invalid type"),
            (json!({"memory": 1}), "vm: missing field `cores`"),
            (json!({"memory": 1, "cores": 1, "discs": [{"address": "x", "model": ""}]}), "discs: \"x\" is not a disc"),
        ] {
            let error = read(attributes.as_object().unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn r101_an_unknown_network_has_a_word_of_its_own() {
        let card = json!({"mac": "fe:ff:00:00:00:01", "vlan_id": 7, "model": "virtio"});
        assert_eq!(check(&json!({"network_interfaces": [card]})).unwrap_err().code, "no-such-network");
    }

    #[test]
    fn r108_serials_are_what_hardware_can_have() {
        assert_eq!(serial("USER-SET-NAME"), "USER-SET-NAME");
        assert_eq!(serial("a,b=c\n\u{e4}"), "a,b=c__");
        assert_eq!(serial(&"x".repeat(40)).len(), SERIAL_BYTES_MAX);
    }

    #[test]
    fn r095_urls_become_what_qemu_is_told() {
        let web = CdromUrl::Web { driver: "https", url: "https://a/b.iso?c,d".into() };
        assert_eq!(CdromUrl::parse("HTTPS://a/b.iso?c,d").unwrap(), web);
        let CdromUrl::Nbd { address, export } = CdromUrl::parse("nbd://[fd00::1]/cd").unwrap() else { panic!() };
        assert_eq!((address.to_string().as_str(), export.as_str()), ("nbd:[fd00::1]:10809", "cd"));
        let CdromUrl::Nbd { address, .. } = CdromUrl::parse("nbd://10.0.0.1:77").unwrap() else { panic!() };
        assert_eq!(address.port, 77);
    }
}
