//! What must hold whatever an old process hands over. A fuzz target is one call of this; the tests call it too.

use super::state::{read, read_lent, write, write_lent};
use crate::{
    buffer::Pool,
    disc::mode::IoMode,
    geometry::DiscSize,
    limits::PIECE_BUFFER_BYTES,
    mailbox::Letter,
    memory::WHOLE_BYTES,
    nbd::{negotiation::Agreement, offer::Style},
    shard::{
        Access, Borrowed, CarriedDisc, Grant, LentClient, LentClientFacts, OpenDisc, Patience, ShardError,
        engine::Engine,
    },
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
};
use tokio::sync::{mpsc, oneshot};

/// Who has a right to the discs.
const FRIEND: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Clients of each disc that were lent. They are called 1, 2, and so on.
const LENT_COUNT: u64 = 2;

thread_local! {
    // Leaked by whoever makes it, so it is made once.
    static POOL: Pool = Pool::new(&[(8 << 10, 64), (PIECE_BUFFER_BYTES, 8), (WHOLE_BYTES, 1)]);
}

/// Takes over what the bytes say, as far as that needs no I/O. The first byte says how many descriptors come with them.
///
/// # Panics
/// When what was read is something else when it is written and read again, or a disc panics when it goes on.
pub fn fuzz_state(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first() else { return };
    let descriptors = || (0..count % 8).map(|_| OwnedFd::from(memory()));
    if let Ok(lent) = read_lent(bytes, descriptors()) {
        let mut written = Vec::new();
        write_lent(&lent, &mut written).expect("memory takes everything");
        let again = read_lent(&written, descriptors()).expect("it was just written");
        assert!(lent.iter().map(|disc| &disc.facts).eq(again.iter().map(|disc| &disc.facts)));
    }
    let Ok(discs) = read(bytes, descriptors()) else { return };
    let mut written = Vec::new();
    write(&discs, &mut written).expect("memory takes everything");
    let again = read(&written, descriptors()).expect("it was just written");
    let mut rewritten = Vec::new();
    write(&again, &mut rewritten).expect("memory takes everything");
    assert!(written == rewritten);
    take_over(discs);
}

/// True when all fits together.
fn take_over(discs: Vec<CarriedDisc>) -> bool {
    let (events, _said) = mpsc::channel(1);
    let mut engine = Engine::new(events, Patience::default(), POOL.with(Pool::clone));
    let sizes: BTreeMap<_, _> = discs.iter().map(|disc| (disc.facts.number, disc.facts.size_bytes)).collect();
    let borrowed = sizes.into_iter().map(|(number, size_bytes)| Borrowed {
        disc: OpenDisc {
            number,
            data: memory(),
            io: IoMode::Cached,
            size_bytes,
            listener: None,
            access: Access::List(vec![FRIEND]),
            own_address: FRIEND,
            sync_failed: false,
        },
        counters: Default::default(),
        clients: (1..=LENT_COUNT).filter_map(|key| lent(key, size_bytes)).collect(),
    });
    let borrowed = borrowed.collect();
    let taken = ask(&mut engine, |reply| Letter::BorrowAll(borrowed, reply))
        .and_then(|()| ask(&mut engine, |reply| Letter::InheritAll(discs, reply)));
    if taken.is_ok() {
        let went_on = ask(&mut engine, Letter::ThawAll);
        assert!(went_on.is_ok());
        engine.maintain(true);
        // Nobody carries them out.
        while engine.next_op().is_some() {}
        let (reply, mut status) = oneshot::channel();
        engine.deliver(Letter::Status(reply));
        assert!(status.try_recv().is_ok_and(|status| status.discs.iter().all(|disc| !disc.panicked)));
    }
    taken.is_ok()
}

fn lent(key: u64, size_bytes: u64) -> Option<LentClient> {
    let size = DiscSize::from_bytes(size_bytes)?;
    let agreement = Agreement { size, style: Style::Structured, allocation: true, read_only: false };
    let facts = LentClientFacts { key, peer: FRIEND, grant: Grant::Listed(FRIEND), agreement };
    Some(LentClient { facts, socket: memory().into() })
}

fn ask(
    engine: &mut Engine,
    letter: impl FnOnce(oneshot::Sender<Result<(), ShardError>>) -> Letter,
) -> Result<(), ShardError> {
    let (reply, mut answer) = oneshot::channel();
    engine.deliver(letter(reply));
    answer.try_recv().expect("it is answered at once")
}

/// A descriptor that nothing is behind.
fn memory() -> File {
    File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: &[u8] = include_bytes!("../../../fuzz/seeds/upgrade_state/clients");

    #[test]
    fn the_fuzzers_seed_is_taken_over() {
        let discs = read(&SEED[1..], (0..SEED[0]).map(|_| OwnedFd::from(memory()))).unwrap();
        assert_eq!(discs.iter().map(|disc| disc.clients.len()).collect::<Vec<_>>(), [2, 0]);
        assert!(take_over(discs));
    }

    proptest! {
        #[test]
        fn rule26_what_does_not_fit_together_is_refused_and_nothing_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = SEED.to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            fuzz_state(&bytes);
        }
    }
}
