//! What two processes ask of their shards when one takes over from the other.

use super::carry::CarriedDisc;
use super::error::ShardError;
use super::handle::Shards;
use super::lend::{Borrowed, LentDisc};
use crate::mailbox::Letter;
use spine::id::DiscNumber;
use tokio::sync::oneshot;

impl Shards {
    /// Closes the clients that cannot be carried to another process, because they are more than a socket: nothing new
    /// of theirs is started, and what is under way is answered. Returns how many are left; to be asked again.
    pub async fn drain_uncarried(&self) -> usize {
        let mut left_count = 0;
        for running in &self.shards {
            let (sender, receiver) = oneshot::channel();
            if running.mailbox.send(Letter::DrainUncarried(sender)).await.is_ok() {
                // A shard that has ended has no client.
                left_count += receiver.await.unwrap_or(0);
            }
        }
        left_count
    }

    /// Copies what another process needs to open the discs and to know their clients, which go on. Until they are carried, or the other process is
    /// gone, none may be opened, closed or resized.
    ///
    /// # Errors
    /// When a disc is busy, has no listener of its own, or a descriptor cannot be copied.
    pub async fn lend_all(&self) -> Result<Vec<LentDisc>, ShardError> {
        self.collect(Letter::LendAll).await
    }

    /// Copies what has become of all discs, which are frozen and were lent, and of their clients. They stay as they are.
    ///
    /// # Errors
    /// When a disc is not frozen, or a descriptor cannot be copied.
    pub async fn carry_all(&self) -> Result<Vec<CarriedDisc>, ShardError> {
        self.collect(Letter::CarryAll).await
    }

    /// Opens discs that another process lends and goes on serving. They are frozen and nothing is done with them until
    /// [`Shards::inherit`] and [`Shards::thaw_all`]; dropping the shards before leaves files and sockets as they are.
    ///
    /// # Errors
    /// When a limit is reached. What is here then cannot be used.
    pub async fn borrow_all(&self, discs: Vec<Borrowed>) -> Result<(), ShardError> {
        let mut of_shards = self.deal(discs, |borrowed| borrowed.disc.number);
        self.ask_all(|reply| Letter::BorrowAll(of_shards.next().unwrap_or_default(), reply)).await
    }

    /// Takes over from the other process what has become of borrowed discs and of their clients: all of that waits for
    /// [`Shards::thaw_all`]. A client that the access of its disc does not grant any more is closed.
    ///
    /// # Errors
    /// When something does not fit together or a limit is reached. What is here then cannot be used.
    pub async fn inherit(&self, discs: Vec<CarriedDisc>) -> Result<(), ShardError> {
        let mut of_shards = self.deal(discs, |carried| carried.facts.number);
        self.ask_all(|reply| Letter::InheritAll(of_shards.next().unwrap_or_default(), reply)).await
    }

    /// What belongs to each shard, in their order.
    fn deal<T>(&self, all: Vec<T>, number: impl Fn(&T) -> DiscNumber) -> impl Iterator<Item = Vec<T>> {
        let mut of_shards: Vec<Vec<T>> = self.shards.iter().map(|_| Vec::new()).collect();
        for one in all {
            of_shards[self.index_of(number(&one))].push(one);
        }
        of_shards.into_iter()
    }

    /// Asks all shards at once, and puts together what they answer.
    async fn collect<T>(
        &self,
        letter: impl Fn(oneshot::Sender<Result<Vec<T>, ShardError>>) -> Letter,
    ) -> Result<Vec<T>, ShardError> {
        let mut receivers = Vec::with_capacity(self.shards.len());
        for running in &self.shards {
            let (sender, receiver) = oneshot::channel();
            if running.mailbox.send(letter(sender)).await.is_ok() {
                receivers.push(receiver);
            }
        }
        let mut all = Vec::new();
        for receiver in receivers {
            all.extend(receiver.await.unwrap_or(Err(ShardError::Stopped(DiscNumber(0))))?);
        }
        Ok(all)
    }
}
