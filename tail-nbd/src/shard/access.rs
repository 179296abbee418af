//! Who may use a disc: the decision before the first read (R117, R131, safety rule 6).

use serde::{Deserialize, Serialize};
use spine::secret::SecretHash;
use std::net::IpAddr;

/// A disc has attachments **or** a list, never both; empty means nobody (safety rule 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// One entry an attachment: the head's address, and the hash of the key that its qemu gives as the
    /// NBD export name. An attachment may have as many connections as it likes (R131).
    Attachments(Vec<(IpAddr, SecretHash)>),
    /// Addresses that may connect with the empty export name.
    List(Vec<IpAddr>),
    /// Nobody: the address answers, and every export is refused.
    Nobody,
}

/// What a connection was let in by. It is asked again whenever the access of the disc changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The attachment with this address and this key.
    Attachment(IpAddr, SecretHash),
    /// This address is in the list.
    Listed(IpAddr),
    /// Whoever accepted it decided; no access of the disc grants it again.
    Adopted,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its address has no business here.
    Address,
    /// Its address may connect, but not with this export name.
    Name,
}

impl Access {
    /// Decides about a client at `peer` that asks for the export `name`.
    pub fn decide(&self, peer: IpAddr, name: &str) -> Result<Grant, Refusal> {
        let peer = peer.to_canonical();
        if !self.knows(peer) {
            return Err(Refusal::Address);
        }
        match self {
            Self::Attachments(attachments) => attachments
                .iter()
                .find(|(address, key)| address.to_canonical() == peer && key.matches(name))
                .map(|(_, key)| Grant::Attachment(peer, key.clone()))
                .ok_or(Refusal::Name),
            Self::List(_) if name.is_empty() => Ok(Grant::Listed(peer)),
            Self::List(_) | Self::Nobody => Err(Refusal::Name),
        }
    }

    /// True when something is granted to this address at all.
    pub fn knows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        match self {
            Self::Attachments(attachments) => attachments.iter().any(|(address, _)| address.to_canonical() == peer),
            Self::List(addresses) => addresses.iter().any(|address| address.to_canonical() == peer),
            Self::Nobody => false,
        }
    }

    /// True when a connection let in earlier may stay.
    pub fn still_grants(&self, grant: &Grant) -> bool {
        match (self, grant) {
            (Self::Attachments(attachments), Grant::Attachment(peer, key)) => {
                attachments.iter().any(|(address, hash)| address.to_canonical() == *peer && hash == key)
            }
            (Self::List(_), Grant::Listed(peer)) => self.knows(*peer),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::secret::Secret;

    const HEAD1: &str = "fd00:b16:0:2::11";
    const HEAD2: &str = "fd00:b16:0:2::12";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn attached() -> Access {
        Access::Attachments(vec![(ip(HEAD1), Secret::new("key1").hash())])
    }

    #[test]
    fn r117_an_attachment_needs_its_address_and_its_key() {
        let access = attached();
        assert!(access.decide(ip(HEAD1), "key1").is_ok());
        assert_eq!(access.decide(ip(HEAD1), "key2"), Err(Refusal::Name));
        assert_eq!(access.decide(ip(HEAD1), ""), Err(Refusal::Name));
        assert_eq!(access.decide(ip(HEAD2), "key1"), Err(Refusal::Address));
    }

    #[test]
    fn r131_only_the_same_attachment_stays_after_a_change() {
        let grant = attached().decide(ip(HEAD1), "key1").unwrap();
        assert!(attached().still_grants(&grant));
        let new_key = Access::Attachments(vec![(ip(HEAD1), Secret::new("key2").hash())]);
        assert!(!new_key.still_grants(&grant));
        let moved = Access::Attachments(vec![(ip(HEAD2), Secret::new("key1").hash())]);
        assert!(!moved.still_grants(&grant));
        assert!(!Access::Nobody.still_grants(&grant));
        assert!(!Access::List(vec![ip(HEAD1)]).still_grants(&grant));
    }

    #[test]
    fn a_list_takes_the_empty_name_only_and_sees_through_mapped_addresses() {
        let access = Access::List(vec![ip("127.0.0.1")]);
        assert!(access.decide(ip("::ffff:127.0.0.1"), "").is_ok());
        assert_eq!(access.decide(ip("127.0.0.1"), "x"), Err(Refusal::Name));
        assert_eq!(access.decide(ip("::1"), ""), Err(Refusal::Address));
        assert_eq!(Access::List(vec![]).decide(ip("::1"), ""), Err(Refusal::Address));
        assert_eq!(Access::Nobody.decide(ip("::1"), ""), Err(Refusal::Address));
    }
}
