//! FLUSH and FUA: one sync of a disc answers everybody who asked before it started.

use super::handle::ShardEvent;
use super::owner::Shard;
use crate::disc;
use crate::error::Errno;
use crate::nbd::wire::Error;
use crate::ring::op::{Op, Owner};
use crate::ring::slots::Token;
use std::rc::Rc;

impl Shard {
    /// Has the answer of a request wait for a sync.
    pub(super) fn sync(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let token = transfer.disc;
        if let Some(disc) = self.discs.get_mut(token) {
            disc.barrier.add(id);
        }
        self.start_sync(token);
    }

    /// Syncs a disc when somebody waits for it and none runs. Harmless when spurious.
    pub(super) fn start_sync(&mut self, token: Token) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        if !disc.is_frozen() && disc.barrier.start() {
            disc.counters.syncs_count += 1;
            let file = Rc::clone(&disc.data);
            self.outbox.push_back((Owner::Sync(token), Op::Sync { file }));
        }
        for id in disc.barrier.take_hopeless() {
            self.answer_synced(id, false);
        }
    }

    /// A sync is over: whom it covers is answered, and the next one begins if somebody waits for it.
    pub(super) fn handle_synced(&mut self, token: Token, result: Result<u32, Errno>) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        self.current = Some(token);
        let is_wanted = disc.barrier.is_running() || matches!(disc.state, disc::State::Closing { syncing: true, .. });
        if is_wanted && matches!(result, Err(Errno(libc::EINTR | libc::EAGAIN))) {
            // It did not come to its end, which is not the failure that Linux tells once only.
            let file = Rc::clone(&disc.data);
            return self.outbox.push_back((Owner::Sync(token), Op::Sync { file }));
        }
        if !disc.barrier.is_running() {
            if !is_wanted {
                // It was started before a panic. Linux tells its failure now, and not to the next one.
                self.note_synced(token, result);
            }
            return self.finish_close(token, result);
        }
        let covered = disc.barrier.finish(result.map(|_| ()));
        self.note_synced(token, result);
        for id in covered {
            self.answer_synced(id, result.is_ok());
        }
        self.start_sync(token);
    }

    /// Remembers, and tells, that a sync has failed (safety rule 17).
    pub(super) fn note_synced(&mut self, token: Token, result: Result<u32, Errno>) {
        let (Some(disc), Err(errno)) = (self.discs.get_mut(token), result) else { return };
        if matches!(errno.0, libc::EINTR | libc::EAGAIN) {
            return;
        }
        disc.barrier.fail(errno);
        tracing::error!(disc = %disc.number, %errno, "fsync failed: FLUSH and FUA fail until the disc is reloaded");
        let number = disc.number;
        self.tell(ShardEvent::SyncFailed { number, errno: errno.0 });
    }

    fn answer_synced(&mut self, id: Token, durable: bool) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let (connection, request) = (transfer.connection, transfer.request);
        if durable {
            self.reply(connection, &request, |batch, answer| answer.write_done(batch.headers()));
        } else {
            transfer.error = Some(Error::Eio);
            self.reply_error(id);
        }
        self.finish(id);
    }
}
