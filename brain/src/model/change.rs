//! How the rows of a VM change while the world is made to match them.
//!
//! A change is what a step of the reconciler writes down, in one transaction. [`Change::apply`] is
//! the meaning of each; `store::work::write` does the same to the database, and a test compares the
//! two.

use super::work::{DiscRow, EndedRun, Force, Forced, Leftover, RunState, Superseded, Undo, Work};
use spine::id::{AttachmentsVersion, DiscNumber, Generation, ImageName, NodeName};

/// One change of a VM's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tail has the disc durably.
    DiscMade {
        /// Which.
        disc: DiscNumber,
        /// The image that it was ordered with.
        image: Option<ImageName>,
    },
    /// The tail has refused to make the disc: another pool is to be found.
    DiscUnplaced {
        /// Which.
        disc: DiscNumber,
        /// What the tail said.
        reason: String,
    },
    /// The tail has destroyed the disc, or never had it: its row goes.
    DiscRemoved(DiscNumber),
    /// The tail has the order to write the image.
    ImageOrdered {
        /// Onto which disc.
        disc: DiscNumber,
        /// Which image.
        image: ImageName,
    },
    /// The image is on the disc.
    ImageWritten {
        /// Which disc.
        disc: DiscNumber,
        /// Which image.
        image: ImageName,
    },
    /// The forced shrink was carried out.
    DiscShrunk {
        /// Which disc.
        disc: DiscNumber,
        /// MiB: to what.
        size_mib: i64,
    },
    /// The tail knows a higher version of the attachments than the row (safety rule 8).
    AttachmentsRaised {
        /// Which disc.
        disc: DiscNumber,
        /// To what.
        version: AttachmentsVersion,
    },
    /// The target of the disc's move is its owner: that is where it lies from now on, and what the source
    /// has is left over.
    DiscMoved(DiscNumber),
    /// The disc's move is to come to nothing.
    MoveUndo {
        /// Which disc.
        disc: DiscNumber,
        /// Why, and how it ends.
        undo: Undo,
    },
    /// The source has said that it stays the owner: the move has ended, and what the target has is left over.
    MoveUndone(DiscNumber),
    /// The end that an operator gave the disc to is its owner: the move has ended, and what the other end has is left over.
    OutcomeForced(DiscNumber),
    /// The tail has removed a leftover, or never had it.
    LeftoverRemoved {
        /// Of which disc.
        disc: DiscNumber,
        /// Where.
        tail: NodeName,
        /// Which.
        generation: Generation,
    },
    /// The open run is further.
    RunMoved(RunState),
    /// The open run is over; its discs' attachments are to be withdrawn.
    RunEnded {
        /// Why (R166).
        reason: String,
        /// True when the machine has stopped, or was never to be started after all: what is wanted
        /// of it becomes what its owner said of restarts. False when a start has failed, and is to
        /// be tried again.
        stopped: bool,
        /// True when its head certainly has it no longer.
        confirmed: bool,
    },
    /// The head of a run that was ended without it has said that it does not have it.
    RunConfirmed(i64),
    /// The addresses of a purged VM go back to their networks.
    AddressesFreed,
    /// Nothing is left of a purged VM but its row: it goes.
    VmRemoved,
}

impl Change {
    /// Makes the change to rows in memory. False when it is the VM's own row that goes.
    pub fn apply(&self, work: &mut Work) -> bool {
        match self {
            Self::DiscMade { disc, image } => with_disc(work, *disc, |disc| {
                disc.made = true;
                disc.image_ordered = image.is_some() && disc.image == *image;
            }),
            Self::DiscUnplaced { disc, .. } => with_disc(work, *disc, |disc| disc.pool = None),
            Self::DiscRemoved(number) => work.discs.retain(|disc| disc.number != *number),
            Self::ImageOrdered { disc, image } => {
                with_disc(work, *disc, |disc| disc.image_ordered |= disc.image.as_ref() == Some(image));
            }
            Self::ImageWritten { disc, image } => with_disc(work, *disc, |disc| {
                if disc.image.as_ref() == Some(image) {
                    disc.image = None;
                    disc.image_ordered = false;
                }
            }),
            Self::DiscShrunk { disc, size_mib } => {
                with_disc(work, *disc, |disc| disc.shrink_forced &= disc.size_mib != *size_mib);
            }
            Self::AttachmentsRaised { disc, version } => {
                with_disc(work, *disc, |disc| disc.attachments_version = disc.attachments_version.max(*version));
            }
            Self::DiscMoved(number) => end_move(work, *number, true),
            Self::OutcomeForced(number) => end_forced(work, *number),
            Self::MoveUndo { disc, undo } => with_disc(work, *disc, |disc| {
                if let Some(moving) = &mut disc.moving {
                    moving.undo.get_or_insert_with(|| undo.clone());
                }
            }),
            Self::MoveUndone(number) => end_move(work, *number, false),
            Self::LeftoverRemoved { disc, tail, generation } => work.leftovers.retain(|leftover| {
                (leftover.name.number, &leftover.tail, leftover.generation) != (*disc, tail, *generation)
            }),
            Self::RunMoved(state) => {
                if let Some(run) = &mut work.run {
                    run.state = *state;
                }
            }
            Self::RunEnded { stopped, confirmed, .. } => {
                if let Some(run) = work.run.take() {
                    if !confirmed {
                        work.unconfirmed.push(EndedRun { id: run.id, head: run.head });
                    }
                    raise_attachments(work);
                    if *stopped {
                        work.vm.power_on = work.vm.autoreboot_on && !work.vm.deleted;
                    }
                }
            }
            Self::RunConfirmed(id) => work.unconfirmed.retain(|run| run.id != *id),
            Self::AddressesFreed => {
                work.cards.clear();
                work.vm.management_address = None;
            }
            Self::VmRemoved => return false,
        }
        true
    }
}

/// Every change of who may use a VM's discs has a version of its own (safety rule 1).
pub fn raise_attachments(work: &mut Work) {
    for disc in work.discs.iter_mut().filter(|disc| disc.remove_reason.is_none()) {
        disc.attachments_version = disc.attachments_version.next();
    }
}

/// One of the two tails has the disc, and the other a leftover.
fn end_move(work: &mut Work, number: DiscNumber, moved: bool) {
    let Some(disc) = work.discs.iter_mut().find(|disc| disc.number == number) else { return };
    let Some(moving) = disc.moving.take() else { return };
    let generation = moving.generation;
    let leftover = if moved {
        let source = disc.pool.replace(moving.target);
        let name = disc.spine_name();
        disc.grade = moving.target_grade;
        disc.generation = generation;
        source.map(|source| Leftover {
            name,
            tail: source.tail,
            generation,
            aborted: None,
            superseded: None,
            kept: false,
        })
    } else {
        let name = disc.target_name(&moving);
        let (tail, aborted) = (moving.target.tail, Some(moving.id));
        Some(Leftover { name, tail, generation, aborted, superseded: None, kept: false })
    };
    work.leftovers.extend(leftover);
}

/// One of the two tails was given the disc, and the other is superseded.
fn end_forced(work: &mut Work, number: DiscNumber) {
    let Some(disc) = work.discs.iter_mut().find(|disc| disc.number == number) else { return };
    if disc.moving.as_ref().is_none_or(|moving| moving.forced.is_none()) {
        return;
    }
    let (Some(moving), Some(source)) = (disc.moving.take(), disc.pool.clone()) else { return };
    let Some(Forced { how, generation }) = moving.forced else { return };
    let (name, tail, by) = match how {
        Force::Promote => (disc.spine_name(), source.tail, moving.target.tail.clone()),
        Force::TakeBack => (disc.target_name(&moving), moving.target.tail.clone(), source.tail),
    };
    disc.generation = generation;
    if how == Force::Promote {
        disc.pool = Some(moving.target);
        disc.grade = moving.target_grade;
    }
    let superseded = Some(Superseded { by, id: moving.id });
    work.leftovers.push(Leftover { name, tail, generation, aborted: None, superseded, kept: true });
}

fn with_disc(work: &mut Work, number: DiscNumber, change: impl FnOnce(&mut DiscRow)) {
    if let Some(disc) = work.discs.iter_mut().find(|disc| disc.number == number) {
        change(disc);
    }
}
