//! One process after another: the discs and their clients go over as bytes and descriptors, or stay.

use super::{Standing, World};
use crate::mailbox::Letter;
use crate::shard::engine::Engine;
use crate::shard::{CarriedDisc, Inherited, OpenDisc, Patience};
use crate::sim::network::LinkId;
use crate::upgrade::state;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

impl World {
    /// Has all discs freeze, when nobody changes anything.
    pub(super) fn begin_upgrade(&mut self) -> Option<Letter> {
        let is_quiet = self.exports.iter().all(|export| {
            matches!(export.standing, Standing::Serving)
                && !export.doomed
                && export.frozen.is_none()
                && export.copying.is_none()
                && export.withdrawals.is_empty()
        });
        if !is_quiet || self.upgrading.is_some() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.upgrading = Some(answer);
        Some(Letter::FreezeAll(reply))
    }

    /// Once they are frozen: another engine takes them over, or fails to.
    pub(super) fn go_on_with_upgrade(&mut self) -> Result<(), String> {
        let Some(answer) = &mut self.upgrading else { return Ok(()) };
        match answer.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Ok(Ok(())) => self.upgrading = None,
            other => return Err(format!("not all discs freeze: {other:?}")),
        }
        if self.ring.in_flight_count() > 0 {
            return Err(format!("all is frozen, and in flight are {:?}", self.ring.describe()));
        }
        let discs = self.carry()?;
        self.upgrades_count += 1;
        let (sender, events) = mpsc::channel(1);
        let mut heir = Engine::new(sender, Patience::default(), self.pools.data.clone());
        heir.begin(self.now());
        let carried = self.bequeath(&mut heir, discs)?;
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

    /// The discs of the engine as they arrive in another process.
    fn carry(&mut self) -> Result<Vec<CarriedDisc>, String> {
        let (reply, mut answer) = oneshot::channel();
        self.engine.as_mut().expect("it has just spoken").deliver(Letter::CarryAll(reply));
        let discs = match answer.try_recv() {
            Ok(Ok(discs)) => discs,
            other => return Err(format!("the discs cannot be carried: {other:?}")),
        };
        let mut bytes = Vec::new();
        state::write(&discs, &mut bytes).expect("memory takes everything");
        let copies =
            state::descriptors(&discs).map(|descriptor| descriptor.try_clone_to_owned().expect("a descriptor"));
        state::read(&bytes, copies.collect::<Vec<_>>()).map_err(|error| format!("the state cannot be read: {error:?}"))
    }

    /// Gives the discs to an engine. Returns whose connections it has.
    fn bequeath(&mut self, heir: &mut Engine, discs: Vec<CarriedDisc>) -> Result<BTreeSet<LinkId>, String> {
        let mut carried = BTreeSet::new();
        let mut inherited = Vec::new();
        for CarriedDisc { facts, data, listener, clients } in discs {
            let disc = self.exports.iter().position(|export| export.number == facts.number).expect("it is ours");
            self.ring.name(&data, disc);
            self.ring.name(&listener, disc);
            carried.extend(clients.iter().map(|client| self.network.rename(&client.socket)));
            let open = OpenDisc {
                number: facts.number,
                data: data.into(),
                io: Default::default(),
                size_bytes: facts.size_bytes,
                listener: Some(listener),
                access: self.exports[disc].allowed(disc),
                own_address: IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1)),
                sync_failed: facts.sync_failed,
            };
            inherited.push(Inherited { disc: open, counters: facts.counters, clients });
        }
        let (reply, mut answer) = oneshot::channel();
        heir.deliver(Letter::InheritAll(inherited, reply));
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
