//! What a block may hold; pure.

use core::fmt;

/// What may be found in a block that has no request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holds {
    /// The guest has not written to it.
    #[default]
    Unknown,
    /// The number of the last write, all over.
    Number(u64),
    /// Zeroes.
    Zeroes,
    /// It was trimmed: zeroes, or what was there before.
    ZeroesOr(u64),
}

/// What a request does to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Fills it with a number.
    Write(u64),
    /// Fills it with zeroes.
    Zero,
    /// Says that its bytes are not needed.
    Trim,
}

impl Holds {
    /// What it may hold after a deed.
    pub fn after(self, deed: Deed) -> Self {
        match (deed, self) {
            (Deed::Write(number), _) => Self::Number(number),
            (Deed::Zero, _) => Self::Zeroes,
            (Deed::Trim, Self::Number(number)) => Self::ZeroesOr(number),
            (Deed::Trim, before) => before,
        }
    }

    /// None when nothing is known; else a word that must not be there, if there is one.
    pub fn check(self, block: &[u8]) -> Option<Result<(), u64>> {
        let words = || block.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight")));
        let first = words().next().unwrap_or_default();
        let wanted = match self {
            Self::Unknown => return None,
            Self::Number(number) => number,
            Self::Zeroes => 0,
            Self::ZeroesOr(number) if first == number => number,
            Self::ZeroesOr(_) => 0,
        };
        Some(words().find(|word| *word != wanted).map_or(Ok(()), Err))
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("anything"),
            Self::Number(number) => write!(f, "write {number:#x}"),
            Self::Zeroes => f.write_str("zeroes"),
            Self::ZeroesOr(number) => write!(f, "zeroes or write {number:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(words: [u64; 3]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_block_holds_the_last_that_was_done_to_it() {
        let (seven, zero) = (block([7; 3]), block([0; 3]));
        assert_eq!(Holds::Unknown.check(&seven), None);
        let written = Holds::Unknown.after(Deed::Write(7));
        assert_eq!((written.check(&seven), written.check(&zero)), (Some(Ok(())), Some(Err(0))));
        let zeroed = written.after(Deed::Zero);
        assert_eq!((zeroed.check(&zero), zeroed.check(&seven)), (Some(Ok(())), Some(Err(7))));
        assert_eq!(zeroed.after(Deed::Trim), zeroed);
        assert_eq!(written.check(&block([7, 7, 8])), Some(Err(8)), "to its end");
    }

    #[test]
    fn a_trimmed_block_is_zero_or_as_before_but_not_half_of_each() {
        let trimmed = Holds::Number(7).after(Deed::Trim);
        assert_eq!(trimmed.check(&block([7; 3])), Some(Ok(())));
        assert_eq!(trimmed.check(&block([0; 3])), Some(Ok(())));
        assert_eq!(trimmed.check(&block([7, 0, 7])), Some(Err(0)));
        assert_eq!(trimmed.check(&block([6; 3])), Some(Err(6)));
        assert_eq!(trimmed.after(Deed::Write(9)), Holds::Number(9));
    }
}
