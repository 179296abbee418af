//! The next step for one disc.
//!
//! ```text
//! wanted:   no pool ─▶ place ─▶ make ─▶ attachments ─▶ image ordered ─▶ importing ─▶ size ─▶ usable
//! moving:   see `moving`
//! unwanted: in use ─▶ (waits) ─▶ remove ─▶ the row goes
//! ```

use super::{
    observed::SeenDisc,
    plan::{Action, Ask, Purpose, Situation, Standing},
};
use crate::{
    limits::DISC_COMMAND_DEADLINE,
    model::{
        change::Change,
        work::{DiscRow, PoolRow, RunState, Status},
    },
};
use serde_json::json;
use spine::{
    id::{AttachmentsVersion, ImageName, ResourceName},
    message::Command,
    resource::{
        Attributes,
        disc::{Attachment, AttachmentReport, DiscOrder, DiscReport, DiscState},
        migration::Ownership,
        to_attributes,
    },
};

impl Standing {
    /// A step, for a disc that no machine can start with yet.
    pub fn act(action: Action, status: Status) -> Self {
        Self { action: Some(action), status, usable: false, granted: false }
    }

    /// No step now.
    pub fn wait(status: Status) -> Self {
        Self { action: None, status, usable: false, granted: false }
    }
}

impl Situation<'_> {
    /// The next step for a disc.
    pub fn disc(self, disc: &DiscRow) -> Standing {
        if let Some(reason) = &disc.remove_reason {
            return self.unwanted_disc(disc, reason);
        }
        let mut standing = self.wanted_disc(disc);
        if let Some(reason) = self.served_twice(disc) {
            (standing.usable, standing.granted) = (false, false);
            standing.status = Status::because("waiting", reason);
        }
        let hold = self.memory.discs.get(&disc.number).filter(|hold| hold.lasts(self.now));
        // What has happened is written down at once; only orders are spaced out.
        let is_order = !matches!(standing.action, None | Some(Action::Record(_)));
        if let Some(hold) = hold.filter(|_| is_order) {
            let state = match (&disc.moving, disc.made) {
                (Some(_), _) => standing.status.state.as_str(),
                (None, true) => "failed",
                (None, false) => "waiting",
            };
            standing.status = Status::because(state, hold.reason.clone());
            standing.action = None;
        }
        standing
    }

    fn wanted_disc(self, disc: &DiscRow) -> Standing {
        let Some(pool) = &disc.pool else {
            let status = Status::because("waiting", "a storage pool is being chosen");
            return Standing::act(Action::PlaceDisc(disc.number), status);
        };
        if let Some(moving) = &disc.moving {
            return self.moving_disc(disc, pool, moving);
        }
        if let Some(away) = self.away(&pool.tail) {
            return Standing::wait(Status::because("waiting", away));
        }
        if !disc.made && self.is_made_already(disc, pool) {
            // Which image it was made with is not known: the one wanted now is ordered again.
            let made = Action::Record(Change::DiscMade { disc: disc.number, image: None });
            return Standing::act(made, Status::because("waiting", format!("{} has it", pool.tail)));
        }
        if !disc.made {
            let image = disc.image.clone();
            let make = self.ask_tail(disc, pool, Purpose::MakeDisc(disc.number, image), |name| {
                Command::Create(name, to_attributes(&order(disc, pool)))
            });
            return Standing::act(make, Status::because("waiting", format!("{} is making it", pool.tail)));
        }
        match self.observed.discs.get(&disc.number) {
            None => {
                let lost = format!("{} does not have it any more: an operator must find out why", pool.tail);
                Standing::wait(Status::because("failed", format!("missing on tail: {lost}")))
            }
            Some(SeenDisc::Unreadable) => {
                let reason = format!("what {} says of it cannot be understood", pool.tail);
                Standing::wait(Status::because("failed", reason))
            }
            Some(SeenDisc::Report(report)) => self.made_disc(disc, pool, report),
        }
    }

    /// Whether the tail has made the disc although its answer was lost, and would refuse to make it again
    /// because its owner wants another size by now. One that was ever attached is somebody else's: the
    /// database is older than it.
    fn is_made_already(self, disc: &DiscRow, pool: &PoolRow) -> bool {
        let Some(SeenDisc::Report(report)) = self.observed.discs.get(&disc.number) else { return false };
        report.generation == disc.generation
            && report.storage_pool == pool.name
            && report.attachments_version == AttachmentsVersion(0)
            && report.size != disc.size_bytes()
    }

    fn made_disc(self, disc: &DiscRow, pool: &PoolRow, report: &DiscReport) -> Standing {
        if report.generation > disc.generation {
            let reason = format!(
                "{} has generation {} and the database {}: the database is older than the disc",
                pool.tail, report.generation, disc.generation
            );
            return Standing::wait(Status::because("failed", reason));
        }
        if report.owner != Ownership::Owner {
            let reason = format!("{} does not own it, after a move that the database knows nothing of", pool.tail);
            return Standing::wait(Status::because("failed", reason));
        }
        if let Some(action) = self.attachments(disc, pool, report) {
            return Standing::act(action, disc_status(report));
        }
        if let Some(image) = disc.image.clone() {
            return self.imaging(disc, pool, report, image);
        }
        let mut standing = Standing::wait(disc_status(report));
        standing.granted = self.memory.granted.get(&disc.number) == Some(&disc.attachments_version);
        if report.state == DiscState::Serving && report.size != disc.size_bytes() {
            let resize = self.ask_tail(disc, pool, Purpose::Resize(disc.number, disc.size_mib), |name| {
                Command::Update(name, resize(disc, report))
            });
            standing.action = Some(resize);
            standing.status = Status::because("waiting", format!("its size is being changed to {} MiB", disc.size_mib));
            // A start need not wait for more room; nor for less, once that was refused.
            standing.usable = report.size < disc.size_bytes() || self.memory.discs.contains_key(&disc.number);
        } else {
            standing.usable = report.state == DiscState::Serving;
        }
        standing
    }

    /// Brings the tail's attachments to what they should be. While a run is being attached each tail
    /// is asked even if it seems to agree: only the answer says that no write of an older attachment
    /// is in flight any more (safety rule 4).
    pub fn attachments(self, disc: &DiscRow, pool: &PoolRow, report: &DiscReport) -> Option<Action> {
        let wanted = self.wanted_attachments(disc)?;
        let hashed: Vec<AttachmentReport> =
            wanted.iter().map(|one| AttachmentReport { head: one.head, key_hash: one.key.hash() }).collect();
        let same = report.attachments.as_deref().unwrap_or_default() == hashed.as_slice();
        let (ours, theirs) = (disc.attachments_version, report.attachments_version);
        if theirs > ours || (theirs == ours && !same) {
            let version = theirs.next();
            return Some(Action::Record(Change::AttachmentsRaised { disc: disc.number, version }));
        }
        let granted = self.memory.granted.get(&disc.number) == Some(&ours);
        let attaching = self.work.run.as_ref().is_some_and(|run| run.state == RunState::Attaching);
        if theirs == ours && same && (granted || !attaching) {
            return None;
        }
        let attributes = json!({"attachments": wanted, "attachments_version": ours});
        let serde_json::Value::Object(attributes) = attributes else { return None };
        Some(self.ask_tail(disc, pool, Purpose::Attach(disc.number, ours), |name| Command::Update(name, attributes)))
    }

    /// Who should be able to use a disc. None when that cannot be said: then nothing is changed.
    fn wanted_attachments(self, disc: &DiscRow) -> Option<Vec<Attachment>> {
        let Some(run) = &self.work.run else { return Some(vec![]) };
        // An image is written only while nobody may use the disc.
        if disc.image.is_some() {
            return Some(vec![]);
        }
        run.head_address.map(|head| vec![Attachment { head, key: run.key.clone() }])
    }

    fn imaging(self, disc: &DiscRow, pool: &PoolRow, report: &DiscReport, image: ImageName) -> Standing {
        if !disc.image_ordered {
            let attributes = json!({"image": image});
            let serde_json::Value::Object(attributes) = attributes else { unreachable!("an object is written above") };
            let order = self.ask_tail(disc, pool, Purpose::OrderImage(disc.number, image), |name| {
                Command::Update(name, attributes)
            });
            return Standing::act(order, Status::because("imaging", "its tail is being told which image to write"));
        }
        match report.state {
            DiscState::Importing | DiscState::Receiving | DiscState::Moved => Standing::wait(disc_status(report)),
            DiscState::Serving => {
                let written = Change::ImageWritten { disc: disc.number, image };
                Standing::act(Action::Record(written), disc_status(report))
            }
            DiscState::Failed => {
                let reason = report.reason.clone().unwrap_or_else(|| "its tail does not say why".to_owned());
                Standing::wait(Status::because("failed", format!("the image {image} could not be written: {reason}")))
            }
        }
    }

    fn unwanted_disc(self, disc: &DiscRow, reason: &str) -> Standing {
        let Some(pool) = &disc.pool else {
            let removed = Action::Record(Change::DiscRemoved(disc.number));
            return Standing::act(removed, Status::because("removing", reason));
        };
        if let Some(moving) = &disc.moving {
            return self.unwanted_moving_disc(disc, pool, moving, reason);
        }
        if self.is_in_use(disc) {
            return Standing::wait(Status::because("removing", format!("{reason}; it waits for the machine to stop")));
        }
        if let Some(hold) = self.memory.discs.get(&disc.number).filter(|hold| hold.lasts(self.now)) {
            return Standing::wait(Status::because("removing", hold.reason.clone()));
        }
        if let Some(away) = self.away(&pool.tail) {
            return Standing::wait(Status::because("removing", away));
        }
        let mut attributes = Attributes::new();
        attributes.insert("generation".to_owned(), json!(disc.generation));
        let remove =
            self.ask_tail(disc, pool, Purpose::RemoveDisc(disc.number), |name| Command::Remove(name, attributes));
        Standing::act(remove, Status::because("removing", reason))
    }

    /// True unless it is certain that no machine has the disc open.
    fn is_in_use(self, disc: &DiscRow) -> bool {
        let Some(run) = &self.work.run else { return false };
        let machine = self.observed.machines.iter().find(|machine| machine.head == run.head);
        let address = self.surroundings.address_of(disc);
        match machine.and_then(|machine| machine.resource.as_ref()) {
            Some(resource) => resource.discs.iter().any(|own| own.address == address),
            None => true,
        }
    }

    /// An order to the tail that has the disc.
    pub fn ask_tail(
        self,
        disc: &DiscRow,
        pool: &PoolRow,
        purpose: Purpose,
        command: impl FnOnce(ResourceName) -> Command,
    ) -> Action {
        Action::Ask(Ask {
            node: pool.tail.clone(),
            command: command(ResourceName::Disc(disc.spine_name())),
            deadline: DISC_COMMAND_DEADLINE,
            purpose,
        })
    }
}

fn order(disc: &DiscRow, pool: &PoolRow) -> DiscOrder {
    DiscOrder {
        size: disc.size_bytes(),
        storage_pool: pool.name.clone(),
        generation: disc.generation,
        // A new disc is nobody's: its first attachments come by update, with a version above.
        attachments_version: AttachmentsVersion(0),
        attachments: Some(vec![]),
        access_control_list: None,
        address: None,
        image: disc.image.clone(),
        force: false,
        incoming: None,
        extra: Attributes::new(),
    }
}

/// How a disc stands, as its tail says.
pub fn disc_status(report: &DiscReport) -> Status {
    let reason = report.reason.as_deref().map(crate::fleet::registry::shorten);
    match report.state {
        DiscState::Serving => Status { state: "serving".to_owned(), reason, progress: None },
        DiscState::Importing => {
            let progress = report.progress.map(|percent| i32::from(percent.min(100)));
            Status { state: "imaging".to_owned(), reason: None, progress }
        }
        DiscState::Receiving | DiscState::Moved => Status { state: "waiting".to_owned(), reason, progress: None },
        DiscState::Failed => Status { state: "failed".to_owned(), reason, progress: None },
    }
}

fn resize(disc: &DiscRow, report: &DiscReport) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert("size".to_owned(), json!(disc.size_bytes()));
    if disc.shrink_forced && disc.size_bytes() < report.size {
        attributes.insert("force".to_owned(), json!(true));
    }
    attributes
}
