//! The configuration file of a tail: read, checked once, and then trusted.
//!
//! Whatever is wrong with it is said with the file, the line and the field.

use crate::disc::mode::IoMode;
use crate::limits::SHARDS_MAX;
use crate::memory::Memory;
use crate::nbd::offer::Tls;
use crate::ring::probe::Mask;
use crate::tls::{Credentials, Files, FrontConfig};
use serde::Deserialize;
use spine::{
    address::StoragePrefix,
    id::{Grade, NodeName, PoolName},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
};
use thiserror::Error;
use toml::Spanned;

/// Pools of one tail: more than the bays of any chassis.
const POOLS_MAX: usize = 64;
/// Addresses of the brain that are tried in turn.
const BRAINS_MAX: usize = 16;
/// Longest name of an interface: IFNAMSIZ less the final NUL (linux/if.h).
const INTERFACE_BYTES_MAX: usize = 15;
/// Longest path of a unix socket: `sun_path` less the final NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Most memory of one kind, in MiB: a mistyped number must not be believed.
const MEMORY_MIB_MAX: usize = 1 << 20;
/// Longest configuration file in bytes: hundreds of times what 64 pools need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the tail calls itself.
    pub name: NodeName,
    /// Where the brain listens; tried in turn.
    pub brains: Vec<SocketAddr>,
    /// The /64 of the discs' addresses.
    pub storage_prefix: StoragePrefix,
    /// The interface that the discs' addresses are put on.
    pub storage_interface: String,
    /// The tail's own address on the storage LAN.
    pub storage_address: Ipv6Addr,
    /// The source address of the spine connection; none: the kernel chooses, never a disc's address
    /// because those are deprecated (safety rule 12).
    pub spine_address: Option<IpAddr>,
    /// Where the tail keeps what is not of one disc.
    pub state_dir: PathBuf,
    /// Holds the system images as `NAME.raw`.
    pub images_dir: PathBuf,
    /// Threads that serve discs; none: one a core.
    pub shards_count: Option<usize>,
    /// Memory for requests; none: what so many shards get when nobody says. Whether it is enough shows when the number of
    /// shards is known.
    pub memory: Option<Memory>,
    /// Which features of the kernel are left alone. It is not in the file.
    pub mask: Mask,
    /// The unix socket that `tail-nbd status` asks.
    pub control_listen: PathBuf,
    /// Where Prometheus asks; none: nobody is told.
    pub metrics_listen: Option<SocketAddr>,
    /// What TLS clients get; none: there is none.
    pub tls: Option<FrontConfig>,
    /// Where other tails connect to move discs; none: no disc moves from or to here.
    pub migration_listen: Option<SocketAddr>,
    /// With what tails prove to each other who they are; none: their addresses are believed.
    pub migration_tls: Option<Files>,
    /// What all moves to one tail may send together, in 10⁶ bytes a second; none: as much as goes.
    pub migration_mb_per_s: Option<NonZeroU32>,
    /// At least one.
    pub pools: Vec<PoolConfig>,
}

/// A checked `[[pool]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name, unique on the tail.
    pub name: PoolName,
    /// The grade of all its discs (R122).
    pub grade: Grade,
    /// Where it is.
    pub path: PathBuf,
    /// How its data files are read and written.
    pub io: IoMode,
    /// For people: `RAID10`.
    pub note: String,
    /// Where the sidecars of its discs are.
    pub sidecars: SidecarPlace,
}

/// Where sidecars are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum SidecarPlace {
    /// Beside the data.
    #[default]
    Pool,
    /// In the state directory: required where overwriting needs new space, as on btrfs
    /// (safety rule 3).
    StateDir,
}

/// Why a configuration is refused.
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
    /// It is not TOML, lacks a field, or has one that nobody knows.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong, as the parser says it.
        message: String,
    },
    /// A field's value will not do.
    #[error("{}:{line}: {field}: {message}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    name: NodeName,
    brains: Spanned<Vec<SocketAddr>>,
    storage_prefix: StoragePrefix,
    storage_interface: Spanned<String>,
    storage_address: Spanned<Ipv6Addr>,
    spine_address: Option<IpAddr>,
    state_dir: Spanned<PathBuf>,
    images_dir: Spanned<PathBuf>,
    shards: Option<Spanned<usize>>,
    control_listen: Option<Spanned<PathBuf>>,
    metrics_listen: Option<SocketAddr>,
    memory: Option<RawMemory>,
    tls: Option<RawTls>,
    migration_listen: Option<SocketAddr>,
    migration_tls: Option<RawFiles>,
    migration_mb_per_s: Option<NonZeroU32>,
    #[serde(default)]
    pool: Vec<RawPool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMemory {
    receive_mib: Spanned<usize>,
    data_mib: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    mode: Spanned<Tls>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    client_ca: Option<Spanned<PathBuf>>,
    psk_file: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFiles {
    certificate: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: Spanned<PoolName>,
    grade: Grade,
    path: Spanned<PathBuf>,
    #[serde(default)]
    io: IoMode,
    #[serde(default)]
    note: String,
    #[serde(default)]
    sidecars: SidecarPlace,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// With the file, the line and the field of the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = || {
            use std::io::Read as _;
            let mut text = String::new();
            std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks `text`, which was read from `path`. Looks whether the folders it names exist.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let raw: RawConfig = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            line: source.line(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        source.check_node(&raw)?;
        source.check_pools(&raw.pool)?;
        let tls = raw.tls.map(|tls| source.check_tls(tls)).transpose()?.flatten();
        let state_dir = raw.state_dir.into_inner();
        Ok(Self {
            name: raw.name,
            brains: raw.brains.into_inner(),
            storage_prefix: raw.storage_prefix,
            storage_interface: raw.storage_interface.into_inner(),
            storage_address: raw.storage_address.into_inner(),
            spine_address: raw.spine_address,
            images_dir: raw.images_dir.into_inner(),
            shards_count: raw.shards.map(Spanned::into_inner),
            memory: raw.memory.map(RawMemory::into_memory),
            mask: Mask::default(),
            control_listen: raw.control_listen.map_or_else(|| state_dir.join("control.sock"), Spanned::into_inner),
            metrics_listen: raw.metrics_listen,
            tls,
            migration_listen: raw.migration_listen,
            migration_tls: raw.migration_tls.map(RawFiles::into_files),
            migration_mb_per_s: raw.migration_mb_per_s,
            state_dir,
            pools: raw.pool.into_iter().map(RawPool::into_config).collect(),
        })
    }
}

impl RawMemory {
    fn into_memory(self) -> Memory {
        Memory { receive_mib: self.receive_mib.into_inner(), data_mib: self.data_mib.into_inner() }
    }
}

impl RawFiles {
    fn into_files(self) -> Files {
        Files { certificate: self.certificate, key: self.key, authorities: Some(self.authorities) }
    }
}

impl RawPool {
    fn into_config(self) -> PoolConfig {
        PoolConfig {
            name: self.name.into_inner(),
            grade: self.grade,
            path: self.path.into_inner(),
            io: self.io,
            note: self.note,
            sidecars: self.sidecars,
        }
    }
}

/// The text a configuration is made from, to say where in it something is wrong.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|&&byte| byte == b'\n').count()
    }

    fn refuse<T>(&self, at: &Spanned<T>, field: &'static str, message: impl Into<String>) -> ConfigError {
        let (path, line) = (self.path.to_owned(), self.line(at.span().start));
        ConfigError::Field { path, line, field, message: message.into() }
    }

    fn check_node(&self, raw: &RawConfig) -> Result<(), ConfigError> {
        match raw.brains.get_ref().len() {
            0 => return Err(self.refuse(&raw.brains, "brains", "name at least one brain, as \"[fd00::1]:7770\"")),
            count if count > BRAINS_MAX => {
                return Err(self.refuse(&raw.brains, "brains", format!("{count} brains are more than {BRAINS_MAX}")));
            }
            _ => {}
        }
        let interface = raw.storage_interface.get_ref();
        let usable = !interface.is_empty()
            && interface.len() <= INTERFACE_BYTES_MAX
            && interface.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !usable {
            let message = format!("{interface:?} cannot be the name of an interface");
            return Err(self.refuse(&raw.storage_interface, "storage_interface", message));
        }
        let address = *raw.storage_address.get_ref();
        if u128::from(address) >> 64 == u128::from(raw.storage_prefix.network()) >> 64 {
            let message = format!("{address} is in storage_prefix {}, which holds discs only", raw.storage_prefix);
            return Err(self.refuse(&raw.storage_address, "storage_address", message));
        }
        if address.is_multicast() || address.is_unspecified() {
            return Err(self.refuse(&raw.storage_address, "storage_address", "it is no address of a machine"));
        }
        if let Some(shards) = &raw.shards
            && !(1..=SHARDS_MAX).contains(shards.get_ref())
        {
            return Err(self.refuse(shards, "shards", format!("it must be 1 to {SHARDS_MAX}")));
        }
        if let Some(RawMemory { receive_mib, data_mib }) = &raw.memory {
            self.check_memory(receive_mib, "memory.receive_mib")?;
            self.check_memory(data_mib, "memory.data_mib")?;
        }
        self.check_absolute(&raw.state_dir, "state_dir")?;
        self.check_folder(&raw.images_dir, "images_dir")?;
        let default = raw.state_dir.get_ref().join("control.sock");
        let (socket, at) = match &raw.control_listen {
            Some(socket) => {
                self.check_absolute(socket, "control_listen")?;
                (socket.get_ref(), socket)
            }
            None => (&default, &raw.state_dir),
        };
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let message =
                format!("{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a socket's path", socket.display());
            return Err(self.refuse(at, "control_listen", message));
        }
        Ok(())
    }

    fn check_tls(&self, raw: RawTls) -> Result<Option<FrontConfig>, ConfigError> {
        let RawTls { mode, certificate, key, client_ca, psk_file } = raw;
        let fields = [
            ("tls.certificate", &certificate),
            ("tls.key", &key),
            ("tls.client_ca", &client_ca),
            ("tls.psk_file", &psk_file),
        ];
        for (field, path) in fields {
            path.as_ref().map_or(Ok(()), |path| self.check_absolute(path, field))?;
        }
        let credentials = match (certificate, key, client_ca, psk_file) {
            (Some(certificate), Some(key), authorities, None) => Credentials::Certificates(Files {
                certificate: certificate.into_inner(),
                key: key.into_inner(),
                authorities: authorities.map(Spanned::into_inner),
            }),
            (None, None, None, Some(keys)) => Credentials::Keys(keys.into_inner()),
            _ => {
                return Err(self.refuse(
                    &mode,
                    "tls",
                    "it needs either certificate and key, or psk_file and nothing else",
                ));
            }
        };
        let offered = mode.into_inner();
        Ok((offered != Tls::Off).then_some(FrontConfig { offered, credentials }))
    }

    fn check_pools(&self, pools: &[RawPool]) -> Result<(), ConfigError> {
        if pools.is_empty() || pools.len() > POOLS_MAX {
            return Err(ConfigError::Field {
                path: self.path.to_owned(),
                line: self.line(self.text.len()),
                field: "pool",
                message: format!("there must be 1 to {POOLS_MAX} [[pool]] tables, and there are {}", pools.len()),
            });
        }
        let (mut names, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for pool in pools {
            if !names.insert(pool.name.get_ref()) {
                let message = format!("a second pool is called {}", pool.name.get_ref());
                return Err(self.refuse(&pool.name, "pool.name", message));
            }
            self.check_folder(&pool.path, "pool.path")?;
            let folder = pool.path.get_ref();
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            if !folders.insert(real) {
                let message = format!("{} is the folder of another pool already", folder.display());
                return Err(self.refuse(&pool.path, "pool.path", message));
            }
        }
        Ok(())
    }

    fn check_memory(&self, mib: &Spanned<usize>, field: &'static str) -> Result<(), ConfigError> {
        if (1..=MEMORY_MIB_MAX).contains(mib.get_ref()) {
            return Ok(());
        }
        Err(self.refuse(mib, field, format!("it must be 1 to {MEMORY_MIB_MAX}")))
    }

    fn check_absolute(&self, path: &Spanned<PathBuf>, field: &'static str) -> Result<(), ConfigError> {
        if path.get_ref().is_absolute() {
            return Ok(());
        }
        Err(self.refuse(path, field, format!("{:?} must be an absolute path", path.get_ref())))
    }

    fn check_folder(&self, path: &Spanned<PathBuf>, field: &'static str) -> Result<(), ConfigError> {
        self.check_absolute(path, field)?;
        match std::fs::metadata(path.get_ref()) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(self.refuse(path, field, format!("{} is not a folder", path.get_ref().display()))),
            Err(error) => Err(self.refuse(path, field, format!("{}: {error}", path.get_ref().display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: impl Fn(String) -> String) -> String {
        change(
            r#"name = "tail1"
brains = ["[fd00:b16:0:1::1]:7770"]
storage_prefix = "fd00:b16:0:d::/64"
storage_interface = "storage0"
storage_address = "fd00:b16:0:2::21"
state_dir = "/tmp"
images_dir = "/tmp"
shards = 2

[[pool]]
name = "sata1"
grade = "sata"
path = "/tmp"
note = "RAID10"
"#
            .to_owned(),
        )
    }

    fn refusal(change: impl Fn(String) -> String) -> String {
        Config::parse(Path::new("/etc/tail.toml"), &text(change)).unwrap_err().to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let config = Config::parse(Path::new("tail.toml"), &text(|text| text)).unwrap();
        assert_eq!(config.name.as_str(), "tail1");
        assert_eq!(config.pools[0].grade.as_str(), "sata");
        assert_eq!((config.pools[0].sidecars, config.pools[0].io), (SidecarPlace::Pool, IoMode::Cached));
        assert_eq!((config.control_listen.as_path(), config.memory), (Path::new("/tmp/control.sock"), None));
        assert_eq!(config.migration_mb_per_s, None, "moves are as fast as they can be");
        let limited = text(|text| text.replace("shards = 2", "migration_mb_per_s = 500"));
        let limited = Config::parse(Path::new("tail.toml"), &limited).unwrap();
        assert_eq!(limited.migration_mb_per_s.map(NonZeroU32::get), Some(500));
    }

    #[test]
    fn tls_is_off_unless_it_is_on() {
        let parse =
            |extra: &'static str| Config::parse(Path::new("tail.toml"), &text(|text| text + extra)).unwrap().tls;
        assert_eq!(parse(""), None);
        assert_eq!(parse("[tls]\nmode = \"off\"\ncertificate = \"/c\"\nkey = \"/k\"\n"), None);
        let tls =
            parse("[tls]\nmode = \"required\"\ncertificate = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"\n").unwrap();
        let (certificate, key, authorities) = ("/c".into(), "/k".into(), Some("/a".into()));
        let credentials = Credentials::Certificates(Files { certificate, key, authorities });
        assert_eq!(tls, FrontConfig { offered: Tls::Required, credentials });
        let tls = parse("[tls]\nmode = \"offered\"\npsk_file = \"/p\"\n").unwrap();
        assert_eq!(tls, FrontConfig { offered: Tls::Offered, credentials: Credentials::Keys("/p".into()) });
    }

    #[test]
    fn the_example_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../example.toml").replace("/srv/", &format!("{}/", folder.path().display()));
        for name in ["images", "sata1", "ssd1"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let config = Config::parse(Path::new("example.toml"), &text).unwrap();
        assert_eq!(config.pools.iter().map(|pool| pool.io).collect::<Vec<_>>(), [IoMode::Cached, IoMode::Copied]);
        let shards_count = config.shards_count.unwrap_or(2);
        assert_eq!(config.memory, Some(Memory::default_for(shards_count)), "it shows what is the default");
    }

    #[test]
    fn refusals_name_file_line_and_field() {
        let cases: [(&str, &str, &[&str]); 21] = [
            ("name = \"tail1\"", "name = \"Tail 1\"", &["/etc/tail.toml:1:", "node name"]),
            ("shards = 2", "shard = 2", &["/etc/tail.toml:8:", "unknown field `shard`"]),
            ("shards = 2", "shards = 0", &["/etc/tail.toml:8:", "shards"]),
            ("shards = 2", "migration_mb_per_s = 0", &["/etc/tail.toml:8:"]),
            ("shards = 2", "shards = \"two\"", &["/etc/tail.toml:8:"]),
            ("brains = [\"[fd00:b16:0:1::1]:7770\"]", "brains = []", &["/etc/tail.toml:2:", "brains"]),
            ("[fd00:b16:0:1::1]:7770", "brain1", &["/etc/tail.toml:2:", "socket address"]),
            ("d::/64", "d::/48", &["/etc/tail.toml:3:", "storage prefix"]),
            ("\"storage0\"", "\"a/b\"", &["/etc/tail.toml:4:", "storage_interface"]),
            ("fd00:b16:0:2::21", "fd00:b16:0:d::21", &["/etc/tail.toml:5:", "storage_address"]),
            ("state_dir = \"/tmp\"", "state_dir = \"tmp\"", &["/etc/tail.toml:6:", "state_dir", "absolute"]),
            ("path = \"/tmp\"", "path = \"pools/a\"", &["/etc/tail.toml:13:", "pool.path", "absolute"]),
            ("path = \"/tmp\"", "path = \"/no/such\"", &["/etc/tail.toml:13:", "pool.path", "/no/such"]),
            ("grade = \"sata\"", "grade = \"sata\"\nspeed = 1", &["/etc/tail.toml:13:", "unknown field `speed`"]),
            ("grade = \"sata\"", "grade = \"sata\"\nio = \"fast\"", &["/etc/tail.toml:13:", "fast", "`cached`"]),
            (
                "shards = 2",
                "[memory]\nreceive_mib = 0\ndata_mib = 240",
                &["/etc/tail.toml:9:", "memory.receive_mib", "1 to"],
            ),
            ("shards = 2", "[memory]\ndata_mib = 240", &["/etc/tail.toml:8:", "missing field `receive_mib`"]),
            ("grade = \"sata\"\n", "", &["/etc/tail.toml:10:", "missing field `grade`"]),
            (
                "note = \"RAID10\"",
                "[tls]\nmode = \"on\"",
                &["/etc/tail.toml:15:", "unknown variant `on`", "`required`"],
            ),
            (
                "note = \"RAID10\"",
                "[tls]\nmode = \"off\"",
                &["/etc/tail.toml:15: tls: it needs either certificate and key"],
            ),
            (
                "note = \"RAID10\"",
                "[tls]\nmode = \"offered\"\ncertificate = \"/c\"\nkey = \"k\"",
                &["/etc/tail.toml:17:", "tls.key", "absolute"],
            ),
        ];
        for (from, to, wanted) in cases {
            let message = refusal(|text| {
                assert!(text.contains(from), "{from}");
                text.replace(from, to)
            });
            for part in wanted {
                assert!(message.contains(part), "{to}: {message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn pools_differ_in_name_and_folder() {
        let twice = |extra: &'static str| move |text: String| text + extra;
        let message = refusal(twice("[[pool]]\nname = \"sata1\"\ngrade = \"ssd\"\npath = \"/\"\n"));
        assert!(message.contains("/etc/tail.toml:16: pool.name: a second pool is called sata1"), "{message}");
        let message = refusal(twice("[[pool]]\nname = \"ssd1\"\ngrade = \"ssd\"\npath = \"/tmp/.\"\n"));
        assert!(message.contains("another pool"), "{message}");
        let message = refusal(|text| text.split("[[pool]]").next().unwrap().to_owned());
        assert!(message.contains("pool"), "{message}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Config::load(Path::new("/no/such.toml")).unwrap_err().to_string();
        assert!(message.contains("/no/such.toml"), "{message}");
    }
}
