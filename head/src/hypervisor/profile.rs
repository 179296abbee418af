//! Hardware profiles (B07): what a name promises of the virtual hardware, for as long as a machine
//! keeps it (R168, R170).

use spine::hardware::MODEL_OF_PROFILE;

/// Virtual hardware by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the API.
    pub name: &'static str,
    /// The pinned machine type: the newest one that both qemu 7.2 and 10.0 have.
    pub machine: &'static str,
    /// The model of discs that ask for none.
    pub disc: DiscModel,
    /// The model of network cards that ask for none.
    pub card: CardModel,
    /// Virtio devices only speak the protocol of before version 1.0.
    pub virtio_legacy: bool,
}

/// How a disc appears to the guest (R107).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscModel {
    /// virtio-blk.
    Virtio,
    /// IDE, and from the fourth disc on AHCI: two cables have four ends, one of which is the CD's.
    Ide,
}

/// How a network card appears to the guest (R102).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardModel {
    /// virtio-net.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Realtek 8139.
    Rtl8139,
}

const MACHINE: &str = "pc-i440fx-7.2";

/// Every profile, the newest first: that one is meant when none is named.
pub const PROFILES: [Profile; 4] = [
    Profile {
        name: "virtio2013",
        machine: MACHINE,
        disc: DiscModel::Virtio,
        card: CardModel::Virtio,
        virtio_legacy: false,
    },
    Profile {
        name: "virtio2011",
        machine: MACHINE,
        disc: DiscModel::Virtio,
        card: CardModel::Virtio,
        virtio_legacy: true,
    },
    Profile {
        name: "compatibility2013",
        machine: MACHINE,
        disc: DiscModel::Ide,
        card: CardModel::E1000,
        virtio_legacy: true,
    },
    Profile {
        name: "compatibility2011",
        machine: MACHINE,
        disc: DiscModel::Ide,
        card: CardModel::Rtl8139,
        virtio_legacy: true,
    },
];

impl Profile {
    /// The profile of that name; the newest when there is no name.
    pub fn find(name: Option<&str>) -> Option<&'static Self> {
        match name {
            None => PROFILES.first(),
            Some(name) => PROFILES.iter().find(|profile| profile.name == name),
        }
    }
}

impl DiscModel {
    /// Reads a `discs[].model`. Empty or `default` means the profile's.
    pub fn parse(text: &str, profile: &Profile) -> Option<Self> {
        match text {
            MODEL_OF_PROFILE | "default" => Some(profile.disc),
            "virtio" => Some(Self::Virtio),
            "ide" => Some(Self::Ide),
            _ => None,
        }
    }
}

impl CardModel {
    /// Reads a `network_interfaces[].model`. Empty or `default` means the profile's.
    pub fn parse(text: &str, profile: &Profile) -> Option<Self> {
        match text {
            MODEL_OF_PROFILE | "default" => Some(profile.card),
            "virtio" => Some(Self::Virtio),
            "e1000" => Some(Self::E1000),
            "rtl8139" => Some(Self::Rtl8139),
            _ => None,
        }
    }

    /// qemu's name of the device.
    pub fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b07_every_name_that_the_brain_offers_is_a_profile() {
        assert_eq!(PROFILES.map(|profile| profile.name), spine::hardware::HARDWARE_PROFILES);
    }

    #[test]
    fn b07_profiles_are_found_by_name_and_the_newest_without() {
        assert_eq!(Profile::find(None).unwrap().name, "virtio2013");
        assert_eq!(Profile::find(Some("compatibility2011")).unwrap().card, CardModel::Rtl8139);
        assert_eq!(Profile::find(Some("virtio1999")), None);
    }

    #[test]
    fn a_model_that_is_named_goes_before_the_profiles() {
        let compatibility = Profile::find(Some("compatibility2013")).unwrap();
        assert_eq!(DiscModel::parse("virtio", compatibility), Some(DiscModel::Virtio));
        assert_eq!(DiscModel::parse("", compatibility), Some(DiscModel::Ide));
        assert_eq!(CardModel::parse("default", compatibility), Some(CardModel::E1000));
        assert_eq!(CardModel::parse("e1000,romfile=/etc/shadow", compatibility), None);
    }
}
