//! One process after another: the discs and their clients go over as bytes and descriptors, or stay.

use super::{Answer, Standing, World};
use crate::mailbox::Letter;
use crate::shard::engine::Engine;
use crate::shard::{Borrowed, CarriedDisc, LentDisc, OpenDisc, Patience, ShardError, ShardEvent};
use crate::sim::network::LinkId;
use crate::upgrade::state;
use spine::id::DiscNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

/// One process is to follow another.
pub(super) struct Upgrade {
    /// All discs are being frozen, once that is ordered.
    frozen: Option<Answer>,
    /// Who is to take over. It has the discs open, and does nothing with them.
    heir: Engine,
    events: mpsc::Receiver<ShardEvent>,
    /// Whose connections it knows, by what they are called.
    lent: BTreeMap<(DiscNumber, u64), LinkId>,
}

impl World {
    /// Has another engine open all discs, when nobody changes anything. Their clients go on.
    pub(super) fn begin_upgrade(&mut self) {
        let is_quiet = self.exports.iter().all(|export| {
            matches!(export.standing, Standing::Serving)
                && !export.doomed
                && export.frozen.is_none()
                && export.copying.is_none()
                && export.withdrawals.is_empty()
        });
        if !is_quiet || self.upgrading.is_some() {
            return;
        }
        let (sender, events) = mpsc::channel(1);
        let mut heir = Engine::new(sender, Patience::default(), self.pools.data.clone());
        let discs = self.lend();
        let lent = self.borrow(&mut heir, discs);
        self.upgrading = Some(Upgrade { frozen: None, heir, events, lent });
    }

    /// Has all discs freeze, some time after another engine has opened them.
    pub(super) fn freeze_for_upgrade(&mut self) -> Option<Letter> {
        let upgrade = self.upgrading.as_mut().filter(|upgrade| upgrade.frozen.is_none())?;
        if !self.chance.one_in(20) {
            return None;
        }
        let (reply, frozen) = oneshot::channel();
        upgrade.frozen = Some(frozen);
        Some(Letter::FreezeAll(reply))
    }

    /// Once they are frozen: another engine takes them over, or fails to.
    pub(super) fn go_on_with_upgrade(&mut self) -> Result<(), String> {
        let Some(frozen) = self.upgrading.as_mut().and_then(|upgrade| upgrade.frozen.as_mut()) else { return Ok(()) };
        match frozen.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Ok(Ok(())) => {}
            other => return Err(format!("not all discs freeze: {other:?}")),
        }
        let Some(Upgrade { mut heir, events, lent, .. }) = self.upgrading.take() else { return Ok(()) };
        if self.ring.in_flight_count() > 0 {
            return Err(format!("all is frozen, and in flight are {:?}", self.ring.describe()));
        }
        let discs = self.carry()?;
        self.upgrades_count += 1;
        let carried = self.bequeath(&mut heir, discs, &lent)?;
        if self.chance.one_in(3) {
            // It ends without having begun, and nobody may notice that it was there.
            heir.desert();
            drop(heir);
        } else {
            self.forget_strangers(&carried)?;
            // The old one ends, and the new one begins.
            (self.engine, self.events) = (Some(heir), events);
            self.check_memory()?;
        }
        self.engine.as_mut().expect("there is always one").deliver(Letter::ThawAll(oneshot::channel().0));
        self.overdue = true;
        Ok(())
    }

    /// The discs of the engine, which go on, as they arrive in another process.
    fn lend(&mut self) -> Vec<LentDisc> {
        let discs = self.ask(Letter::LendAll).expect("nobody changes a disc");
        let mut bytes = Vec::new();
        state::write_lent(&discs, &mut bytes).expect("memory takes everything");
        state::read_lent(&bytes, copies(state::lent_descriptors(&discs))).expect("it was just written")
    }

    /// Has another engine open discs that are lent. Returns whose connections it knows.
    fn borrow(&mut self, heir: &mut Engine, discs: Vec<LentDisc>) -> BTreeMap<(DiscNumber, u64), LinkId> {
        let (mut borrowed, mut lent) = (Vec::new(), BTreeMap::new());
        for LentDisc { facts, data, listener, clients } in discs {
            for client in &clients {
                lent.insert((facts.number, client.facts.key), self.network.rename(&client.socket));
            }
            let disc = self.exports.iter().position(|export| export.number == facts.number).expect("it is ours");
            self.ring.name(&data, disc);
            self.ring.name(&listener, disc);
            let open = OpenDisc {
                number: facts.number,
                data: data.into(),
                io: self.exports[disc].io,
                size_bytes: facts.size_bytes,
                listener: Some(listener),
                access: self.exports[disc].allowed(disc),
                own_address: IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1)),
                sync_failed: false,
            };
            borrowed.push(Borrowed { disc: open, counters: facts.counters, clients });
        }
        heir.begin(self.now());
        let (reply, mut answer) = oneshot::channel();
        heir.deliver(Letter::BorrowAll(borrowed, reply));
        heir.maintain(true);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))) && heir.next_op().is_none(), "nothing is done with them");
        lent
    }

    /// Asks the engine what it answers at once.
    fn ask<T>(&mut self, letter: impl FnOnce(oneshot::Sender<Result<T, ShardError>>) -> Letter) -> Result<T, String> {
        let (reply, mut answer) = oneshot::channel();
        self.engine.as_mut().expect("there is always one").deliver(letter(reply));
        match answer.try_recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What has become of the discs of the engine, as it arrives in another process.
    fn carry(&mut self) -> Result<Vec<CarriedDisc>, String> {
        let discs = self.ask(Letter::CarryAll).map_err(|error| format!("the discs cannot be carried: {error}"))?;
        let mut bytes = Vec::new();
        state::write(&discs, &mut bytes).expect("memory takes everything");
        let copies = copies(state::descriptors(&discs));
        state::read(&bytes, copies).map_err(|error| format!("the state cannot be read: {error:?}"))
    }

    /// Gives an engine what has become of the discs. Returns whose connections it has.
    fn bequeath(
        &mut self,
        heir: &mut Engine,
        discs: Vec<CarriedDisc>,
        lent: &BTreeMap<(DiscNumber, u64), LinkId>,
    ) -> Result<BTreeSet<LinkId>, String> {
        let kept = discs.iter().flat_map(|disc| disc.kept.iter().map(|key| lent[&(disc.facts.number, *key)]));
        let mut carried: BTreeSet<LinkId> = kept.collect();
        for client in discs.iter().flat_map(|disc| &disc.clients) {
            carried.insert(self.network.rename(&client.socket));
        }
        heir.begin(self.now());
        let (reply, mut answer) = oneshot::channel();
        heir.deliver(Letter::InheritAll(discs, reply));
        heir.maintain(true);
        match (answer.try_recv(), heir.next_op()) {
            (Ok(Ok(())), None) => Ok(carried),
            other => Err(format!("the discs are not taken over as they are: {other:?}")),
        }
    }

    /// Connections that were not carried end with the old process: only those of clients without a right may.
    fn forget_strangers(&mut self, carried: &BTreeSet<LinkId>) -> Result<(), String> {
        for client in &self.clients {
            let Some(id) = client.link else { continue };
            let link = self.network.get(id);
            if !link.is_accepted() || link.shut || carried.contains(&id) {
                continue;
            }
            let allowed = client.attachment.is_some_and(|attachment| self.exports[client.disc].access[attachment]);
            if allowed {
                return Err(format!("disc {}: a client was left behind", self.exports[client.disc].number));
            }
            (link.shut, link.excused) = (true, true);
        }
        Ok(())
    }
}

fn copies<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<OwnedFd> {
    descriptors.map(|descriptor| descriptor.try_clone_to_owned().expect("a descriptor")).collect()
}
