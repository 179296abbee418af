//! A virtual machine as it is in the books, and the changes that may be asked for.

use super::privilege::Place;
use spine::hardware::parse_keys;
use std::{net::IpAddr, time::SystemTime};

/// Memory of a VM when none is said, in MiB.
pub const MEMORY_MIB_DEFAULT: i64 = 1024;
/// Least memory of a VM, in MiB: below it no kernel of today starts.
pub const MEMORY_MIB_MIN: i64 = 64;
/// Most memory of a VM while no head is known that says less, in MiB.
pub const MEMORY_MIB_MAX: i64 = 16 << 20;
/// Most cores of a VM while no head is known that says less.
pub const CORES_MAX: i64 = 512;
/// Longest `cdrom_url` in bytes: what browsers and proxies agree to carry.
pub const CDROM_URL_BYTES_MAX: usize = 2048;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Its number: X of `vm.X`.
    pub id: i64,
    /// Its name, unique in its group.
    pub name: String,
    /// The group it is in.
    pub group_id: i64,
    /// That group's name.
    pub group_name: String,
    /// The account the group is in.
    pub account_id: i64,
    /// That account's name.
    pub account_name: String,
    /// Whether that account may not start anything.
    pub account_suspended: bool,
    /// Virtual processors.
    pub cores: i64,
    /// MiB.
    pub memory_mib: i64,
    /// Whether it is wanted on.
    pub power_on: bool,
    /// What `power_on` becomes when a run ends.
    pub autoreboot_on: bool,
    /// The CD in its drive.
    pub cdrom_url: Option<String>,
    /// Keyboard layout.
    pub keymap: Option<String>,
    /// The virtual hardware.
    pub hardware_profile: Option<String>,
    /// Whether that stays as it is.
    pub hardware_profile_locked: bool,
    /// The zone.
    pub zone_name: Option<String>,
    /// The distribution it was last imaged with.
    pub last_imaged_with: Option<String>,
    /// Where its console listens.
    pub management_address: Option<IpAddr>,
    /// The head it runs on.
    pub head: Option<String>,
    /// Whether a run of it has not ended yet.
    pub has_open_run: bool,
    /// How it stands, as the reconciler says.
    pub status: Status,
    /// When it was deleted.
    pub deleted_at: Option<SystemTime>,
}

impl Vm {
    /// Where it is, for the policy.
    pub fn place(&self) -> Place {
        Place::vm(self.account_id, self.group_id, self.id)
    }

    /// `name.group.account.cluster-domain` (R155).
    pub fn hostname(&self, cluster_domain: &str) -> String {
        format!("{}.{}.{}.{cluster_domain}", self.name, self.group_name, self.account_name)
    }

    /// True when nothing of it runs and nothing will be started.
    pub fn is_off(&self) -> bool {
        !self.power_on && !self.has_open_run
    }
}

/// How a thing stands against what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// A word.
    pub state: String,
    /// A sentence.
    pub reason: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// Percent done.
    pub progress: Option<i64>,
}

/// A machine to be made, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewVm {
    /// Its name.
    pub name: Option<String>,
    /// Virtual processors.
    pub cores: Option<i64>,
    /// MiB.
    pub memory_mib: Option<i64>,
    /// The CD in its drive.
    pub cdrom_url: Option<String>,
    /// Whether it is started again when it stops.
    pub autoreboot_on: Option<bool>,
    /// Whether it is started.
    pub power_on: Option<bool>,
    /// Keyboard layout.
    pub keymap: Option<String>,
    /// The virtual hardware.
    pub hardware_profile: Option<String>,
    /// Whether that stays as it is.
    pub hardware_profile_locked: Option<bool>,
    /// The zone.
    pub zone_name: Option<String>,
}

/// What is to change in a machine: only what is there changes, and an inner `None` clears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmChange {
    /// Its name.
    pub name: Option<String>,
    /// The group to move it to.
    pub group_id: Option<i64>,
    /// Virtual processors.
    pub cores: Option<i64>,
    /// MiB.
    pub memory_mib: Option<i64>,
    /// Whether it is wanted on.
    pub power_on: Option<bool>,
    /// What `power_on` becomes when a run ends.
    pub autoreboot_on: Option<bool>,
    /// The CD in its drive.
    pub cdrom_url: Option<Option<String>>,
    /// Keyboard layout.
    pub keymap: Option<Option<String>>,
    /// The virtual hardware.
    pub hardware_profile: Option<Option<String>>,
    /// Whether that stays as it is.
    pub hardware_profile_locked: Option<bool>,
    /// False brings a deleted machine back.
    pub deleted: Option<bool>,
}

impl VmChange {
    /// Whether it needs more than the right to change the machine itself.
    pub fn concerns_group(&self) -> bool {
        self.name.is_some() || self.group_id.is_some() || self.deleted.is_some()
    }

    /// "Off, and on again when it stops" is how clients restart a machine. One that does not run
    /// cannot stop: it is started.
    #[must_use]
    pub fn meant(mut self, vm: &Vm) -> Self {
        if self.power_on == Some(false) && self.autoreboot_on == Some(true) && !vm.has_open_run {
            self.power_on = Some(true);
        }
        self
    }

    /// Without what is as it was: clients send whole objects back.
    #[must_use]
    pub fn without_unchanged(mut self, vm: &Vm) -> Self {
        self.name = self.name.filter(|name| *name != vm.name);
        self.group_id = self.group_id.filter(|group| *group != vm.group_id);
        self.deleted = self.deleted.filter(|deleted| *deleted != vm.deleted_at.is_some());
        self.cores = self.cores.filter(|cores| *cores != vm.cores);
        self.memory_mib = self.memory_mib.filter(|memory| *memory != vm.memory_mib);
        self.cdrom_url = self.cdrom_url.filter(|url| *url != vm.cdrom_url);
        self.keymap = self.keymap.filter(|keymap| *keymap != vm.keymap);
        self.hardware_profile = self.hardware_profile.filter(|profile| *profile != vm.hardware_profile);
        self.power_on = self.power_on.filter(|on| *on != vm.power_on);
        self.autoreboot_on = self.autoreboot_on.filter(|on| *on != vm.autoreboot_on);
        self.hardware_profile_locked =
            self.hardware_profile_locked.filter(|locked| *locked != vm.hardware_profile_locked);
        self
    }
}

/// Checks a CD's address: http or https, with a host, without spaces and control characters.
///
/// # Errors
/// The API's sentence.
pub fn check_cdrom_url(url: &str) -> Result<(), String> {
    if url.len() > CDROM_URL_BYTES_MAX {
        return Err(format!("is too long (maximum is {CDROM_URL_BYTES_MAX} characters)"));
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(rest) = rest else { return Err("is invalid: only http:// and https:// addresses are fetched".into()) };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'`');
    match !host.is_empty() && rest.bytes().all(plain) {
        true => Ok(()),
        false => Err("is invalid".into()),
    }
}

/// Checks a key combination for `sendkey`: names of keys joined by dashes. `del` becomes `delete`, as
/// old clients say either.
///
/// # Errors
/// The API's sentence.
pub fn check_sendkey(keys: &str) -> Result<String, String> {
    parse_keys(keys).map(|keys| keys.join("-")).map_err(|error| format!("is invalid: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cds_come_over_http() {
        for good in ["http://a/x.iso", "https://example.org:8080/a%20b.iso?x=1", "http://[2001:db8::1]/x"] {
            assert_eq!(check_cdrom_url(good), Ok(()), "{good}");
        }
        for bad in
            ["", "file:///etc/passwd", "http://", "http:///x", "http://a b", "ftp://a/x", "http://a/\n", "HTTP//"]
        {
            assert!(check_cdrom_url(bad).is_err(), "{bad:?}");
        }
        assert!(check_cdrom_url(&format!("http://a/{}", "x".repeat(3000))).is_err());
    }

    #[test]
    fn keys_are_names_joined_by_dashes() {
        assert_eq!(check_sendkey("ctrl-alt-del"), Ok("ctrl-alt-delete".into()));
        for bad in ["", "-", "ctrl-", "CTRL", "a b", "a\"b", "ctrl-hyper", &"a-".repeat(20)] {
            assert!(check_sendkey(bad).is_err(), "{bad:?}");
        }
    }
}
