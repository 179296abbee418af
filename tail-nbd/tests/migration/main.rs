//! Two real tails, the brains of a test, and NBD clients that go on while a disc moves (R120, R130).

#[path = "../netns/mod.rs"]
mod netns;

mod compare;
mod crashes;
mod cuts;
mod fence;
mod filesystems;
mod interplay;
mod interruption;
mod order;
mod pair;
mod promotion;
mod proxy;
mod writer;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;
const DISC: &str = "disc.sata.7";
const KEY: &str = "key";

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}
