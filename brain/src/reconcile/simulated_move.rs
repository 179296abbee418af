//! What the simulation's tails do about a disc that moves: the source alone decides until it is fenced, only its word
//! makes the target the owner (safety rule 18), and attachments go with the freeze (safety rule 5).

use super::simulation::Peer;
use spine::{
    id::{DiscNumber, NodeName},
    message::Command,
    resource::{
        Attributes,
        disc::{Attachment, DiscOrder, DiscReport, DiscState},
        from_attributes,
        migration::{
            CommitOrder, MigrationError, MigrationErrorKind, MigrationOrder, MigrationPhase, MigrationReport,
            MigrationRole, Ownership,
        },
    },
};
use std::collections::BTreeMap;

type Peers = BTreeMap<NodeName, Peer>;
type Copy = (DiscReport, Vec<Attachment>);

/// A tail's answer to an order that concerns a move; none when it does not.
pub(super) fn order(
    peers: &mut Peers,
    node: &NodeName,
    number: DiscNumber,
    command: &Command,
) -> Option<Result<Attributes, &'static str>> {
    let done = Some(Ok(Attributes::new()));
    let copy = peers.get_mut(node).unwrap().discs.get_mut(&number);
    match (command, copy) {
        (Command::Create(_, order), None) if order.contains_key("incoming") => {
            let order: DiscOrder = from_attributes(order).unwrap();
            assert!(order.attachments.is_none() && order.image.is_none(), "safety rule 5");
            peers.get_mut(node).unwrap().discs.insert(number, (received(&order), vec![]));
            done
        }
        (Command::Create(_, order), Some((report, _))) if order.contains_key("incoming") => {
            let order: DiscOrder = from_attributes(order).unwrap();
            if report.generation == order.generation { done } else { Some(Err("exists")) }
        }
        (Command::Update(_, changes), Some((report, _))) if changes.contains_key("commit") => {
            let commit: CommitOrder = serde_json::from_value(changes["commit"].clone()).unwrap();
            if report.owner == Ownership::Prepared && report.generation == commit.generation {
                own(report);
            }
            done
        }
        (Command::Update(_, changes), Some((report, _))) if changes.contains_key("migration") => {
            Some(order_source(report, serde_json::from_value(changes["migration"].clone()).unwrap()))
        }
        // Who is not the owner is not asked for anything else.
        (Command::Update(..), Some((report, _))) if report.owner != Ownership::Owner => Some(Err("moved")),
        // What never came, or a leftover that is gone already.
        (Command::Remove(..), None) => Some(Err("not-found")),
        (Command::Remove(_, attributes), Some((report, _))) => {
            let generation = attributes["generation"].as_u64().unwrap();
            if generation < report.generation.0 {
                return Some(Err("stale-generation"));
            }
            if report.owner == Ownership::Owner
                && (attributes.contains_key("aborted") || generation > report.generation.0)
            {
                panic!("the owner's copy of disc {number} on {node} is removed as a leftover");
            }
            if report.owner == Ownership::Owner {
                return None;
            }
            peers.get_mut(node).unwrap().discs.remove(&number);
            done
        }
        _ => None,
    }
}

fn order_source(report: &mut DiscReport, order: Option<MigrationOrder>) -> Result<Attributes, &'static str> {
    if report.owner != Ownership::Owner {
        return Err("moved");
    }
    match order {
        None => {
            if let Some(own) = report.migration.as_mut().filter(|own| own.error.is_none()) {
                fail(own, MigrationErrorKind::Cancelled);
            }
        }
        Some(order) if report.migration.as_ref().is_some_and(|own| own.id == order.id) => {}
        Some(order) => {
            assert!(order.generation > report.generation, "a generation is granted twice");
            report.migration = Some(migration(&order));
        }
    }
    Ok(Attributes::new())
}

fn received(order: &DiscOrder) -> DiscReport {
    let incoming = order.incoming.as_ref().unwrap();
    DiscReport {
        size: order.size,
        storage_pool: order.storage_pool.clone(),
        generation: order.generation,
        attachments_version: order.attachments_version,
        attachments: None,
        access_control_list: None,
        address: "fd00::1".parse().unwrap(),
        allocated: 0,
        state: DiscState::Receiving,
        reason: None,
        progress: None,
        owner: Ownership::Incoming,
        migration: Some(MigrationReport {
            role: MigrationRole::Target,
            ..migration(&MigrationOrder {
                id: incoming.id,
                target: incoming.source.clone(),
                address: "[::1]:1".parse().unwrap(),
                generation: order.generation,
                limit_mb_per_s: None,
                pause_ms: 1,
            })
        }),
        migration_progress: None,
        migration_eta: None,
        migration_speed: None,
        extra: Attributes::new(),
    }
}

fn migration(order: &MigrationOrder) -> MigrationReport {
    MigrationReport {
        phase: MigrationPhase::Copying,
        pass: 1,
        bytes_left: 1,
        ..MigrationReport::begun(order.id, MigrationRole::Source, order.target.clone(), order.generation)
    }
}

fn fail(own: &mut MigrationReport, kind: MigrationErrorKind) {
    own.phase = MigrationPhase::Failed;
    own.error = Some(MigrationError { kind, message: "it failed".to_owned() });
}

fn own(report: &mut DiscReport) {
    (report.owner, report.state) = (Ownership::Owner, DiscState::Serving);
}

/// One step of a move that both tails know of: prepared, fenced, owned, retired; or its failure.
pub(super) fn go_on(peers: &mut Peers, number: DiscNumber, fails: bool) {
    let is_source = |copy: &Copy| {
        let own = copy.0.migration.as_ref();
        own.is_some_and(|own| own.role == MigrationRole::Source && own.error.is_none())
            && copy.0.owner != Ownership::Retired
    };
    let found = peers.iter().find_map(|(name, peer)| {
        let copy = peer.discs.get(&number).filter(|copy| is_source(copy))?;
        Some((name.clone(), copy.0.migration.clone().unwrap(), copy.clone()))
    });
    let Some((source, migration, (source_report, attachments))) = found else { return };
    let target = peers.get_mut(&migration.peer).unwrap().discs.get_mut(&number);
    let target = target.filter(|(report, _)| report.generation == migration.generation);
    let step = match (source_report.owner, target) {
        (Ownership::Owner, None) => Some(MigrationErrorKind::Refused),
        (Ownership::Owner, _) if fails => Some(MigrationErrorKind::ReadError),
        (Ownership::Owner, Some((report, theirs))) if report.owner == Ownership::Incoming => {
            // The freeze: what the source has of attachments goes with it.
            report.owner = Ownership::Prepared;
            report.attachments = source_report.attachments.clone();
            report.attachments_version = source_report.attachments_version;
            *theirs = attachments;
            return;
        }
        (Ownership::Owner, Some((report, _))) if report.owner == Ownership::Prepared => {
            if report.attachments_version != source_report.attachments_version {
                // An order came between: the freeze is called off, and tried again.
                report.owner = Ownership::Incoming;
                return;
            }
            let (report, _) = peers.get_mut(&source).unwrap().discs.get_mut(&number).unwrap();
            (report.owner, report.state) = (Ownership::Fenced, DiscState::Moved);
            return;
        }
        (Ownership::Fenced, Some((report, _))) if report.owner == Ownership::Prepared && !fails => {
            own(report);
            return;
        }
        (Ownership::Fenced, Some((report, _))) if report.owner == Ownership::Owner => {
            let (report, _) = peers.get_mut(&source).unwrap().discs.get_mut(&number).unwrap();
            report.owner = Ownership::Retired;
            return;
        }
        _ => None,
    };
    if let Some(kind) = step {
        let (report, _) = peers.get_mut(&source).unwrap().discs.get_mut(&number).unwrap();
        fail(report.migration.as_mut().unwrap(), kind);
    }
}

/// The attachments that count: the owner's, or those that the next owner will have.
pub(super) fn authority(peers: &Peers, number: DiscNumber) -> Vec<Attachment> {
    let copies = || peers.values().filter_map(|peer| peer.discs.get(&number));
    let owner = copies().find(|(report, _)| report.owner == Ownership::Owner);
    let copy = owner.or_else(|| copies().find(|(report, _)| report.owner == Ownership::Prepared));
    copy.expect("somebody has the disc").1.clone()
}

/// A disc has at most one owner, and one of the copies is, or is about to be, the disc.
pub(super) fn check(peers: &Peers, number: DiscNumber, purging: bool) {
    let copies: Vec<&DiscReport> = peers.values().filter_map(|peer| Some(&peer.discs.get(&number)?.0)).collect();
    let owners = copies.iter().filter(|report| report.owner == Ownership::Owner).count();
    assert!(owners <= 1, "disc {number} has {owners} owners");
    let fenced = copies.iter().any(|report| report.owner == Ownership::Fenced);
    let prepared = copies.iter().any(|report| report.owner == Ownership::Prepared);
    assert!(purging || owners == 1 || (fenced && prepared), "disc {number} is lost: {copies:?}");
}
