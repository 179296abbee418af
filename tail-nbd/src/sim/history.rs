//! What every byte of a disc may legally be.
//!
//! For each byte there is a list of writes that may have written it last. A write joins the list when its client
//! issues it, because from then on it may take effect. When it is acknowledged, those leave that were finished before
//! it was issued: nobody who asks from now on may see them (read-your-writes, on all connections). After a loss of
//! power, writes that left may be back, unless a FLUSH that was issued after they left, or the FUA of the
//! write that made them leave, was acknowledged.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

/// The order of what clients do and see.
pub(super) type Tick = u64;

/// What a write writes. It depends on the offset, so that what lands in the wrong place is noticed.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Zeroes,
    Pattern(u64),
    /// What a loss of power has left.
    Image(Rc<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Entry {
    write: u64,
    content: Content,
    issued: Tick,
    /// It takes effect no more: it was answered, or nothing of it is in flight.
    finished: Option<Tick>,
    /// A later write was acknowledged then.
    superseded: Option<Tick>,
    /// A loss of power does not bring it back.
    buried: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    end: u64,
    entries: Vec<Entry>,
}

/// The history of one disc.
#[derive(Debug)]
pub(super) struct History {
    segments: BTreeMap<u64, Segment>,
}

const TABLE_BYTES: u64 = 64 << 10;

/// Bytes without a pattern; no zero is among them.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chance = super::chance::Chance::new(0);
    (0..TABLE_BYTES).map(|_| chance.between(1, 255) as u8).collect()
});

impl Content {
    /// The bytes at this offset of the disc, as slices of at most a table's length.
    fn slices(&self, mut offset: u64, length: usize) -> impl Iterator<Item = &[u8]> {
        static ZEROES: [u8; 4096] = [0; 4096];
        let mut left = length;
        std::iter::from_fn(move || {
            let slice = match self {
                Self::Zeroes => &ZEROES[..],
                Self::Pattern(shift) => &TABLE[(shift.wrapping_add(offset) % TABLE_BYTES) as usize..],
                Self::Image(image) => &image[offset as usize..],
            };
            let slice = &slice[..slice.len().min(left)];
            left -= slice.len();
            offset += slice.len() as u64;
            (!slice.is_empty()).then_some(slice)
        })
    }

    /// The bytes at this offset of the disc.
    pub(super) fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        self.slices(offset, length).collect::<Vec<_>>().concat()
    }

    fn matches(&self, offset: u64, data: &[u8]) -> bool {
        let mut at = 0;
        self.slices(offset, data.len()).all(|slice| {
            at += slice.len();
            slice == &data[at - slice.len()..at]
        })
    }
}

impl Entry {
    /// What was there before every write.
    fn first(content: Content) -> Self {
        Self { write: 0, content, issued: 0, finished: Some(0), superseded: None, buried: false }
    }
}

impl History {
    /// A disc of zeroes.
    pub(super) fn new(size: u64) -> Self {
        let mut history = Self { segments: BTreeMap::new() };
        history.forget(size, Content::Zeroes);
        history
    }

    /// A write is issued.
    pub(super) fn begin(&mut self, write: u64, (start, end): (u64, u64), content: &Content, now: Tick) {
        self.split(start);
        self.split(end);
        for (_, segment) in self.segments.range_mut(start..end) {
            let content = content.clone();
            let entry = Entry { write, content, issued: now, finished: None, superseded: None, buried: false };
            segment.entries.push(entry);
        }
    }

    /// A write is acknowledged, with FUA or without.
    pub(super) fn acknowledge(&mut self, write: u64, (start, end): (u64, u64), durable: bool, now: Tick) {
        for (_, segment) in self.segments.range_mut(start..end) {
            let Some(own) = segment.entries.iter_mut().find(|entry| entry.write == write) else { continue };
            own.finished.get_or_insert(now);
            let issued = own.issued;
            for older in segment.entries.iter_mut() {
                if older.write != write && older.finished.is_some_and(|finished| finished <= issued) {
                    older.superseded.get_or_insert(now);
                    older.buried |= durable;
                }
            }
        }
    }

    /// Nobody knows what became of a write, but it takes effect no more.
    pub(super) fn finish(&mut self, write: u64, (start, end): (u64, u64), now: Tick) {
        for (_, segment) in self.segments.range_mut(start..end) {
            for own in segment.entries.iter_mut().filter(|entry| entry.write == write) {
                own.finished.get_or_insert(now);
            }
        }
    }

    /// Nothing that was issued takes effect any more.
    pub(super) fn finish_all(&mut self, now: Tick) {
        let entries = self.segments.values_mut().flat_map(|segment| &mut segment.entries);
        for entry in entries {
            entry.finished.get_or_insert(now);
        }
    }

    /// A FLUSH that was issued then is acknowledged. No read that is under way was issued before `oldest`.
    pub(super) fn flushed(&mut self, issued: Tick, oldest: Tick) {
        for segment in self.segments.values_mut() {
            for entry in &mut segment.entries {
                entry.buried |= entry.superseded.is_some_and(|at| at <= issued);
            }
            segment.entries.retain(|entry| !entry.buried || entry.superseded.is_none_or(|at| at > oldest));
        }
    }

    /// A read that was issued then has returned this.
    pub(super) fn check_read(&self, offset: u64, data: &[u8], issued: Tick) -> Result<(), String> {
        self.check(offset, data, |entry| entry.superseded.is_none_or(|at| at > issued))
    }

    /// Power was lost and this is what is left.
    pub(super) fn check_image(&self, image: &[u8]) -> Result<(), String> {
        self.check(0, image, |entry| !entry.buried)
    }

    /// The disc has this content from now on.
    pub(super) fn forget(&mut self, size: u64, content: Content) {
        self.segments = BTreeMap::from([(0, Segment { end: size, entries: vec![Entry::first(content)] })]);
    }

    /// The disc has this size from now on. What was beyond it is gone, but a reply from before may still be on its way;
    /// what is new is zeroes.
    pub(super) fn resize(&mut self, size: u64, now: Tick) {
        self.split(size);
        for (_, segment) in self.segments.range_mut(size..) {
            for entry in &mut segment.entries {
                (entry.finished, entry.buried) = (entry.finished.or(Some(now)), true);
                entry.superseded.get_or_insert(now);
            }
            segment.entries.push(Entry::first(Content::Zeroes));
        }
        let end = self.segments.last_key_value().map_or(0, |(_, segment)| segment.end);
        if end < size {
            self.segments.insert(end, Segment { end: size, entries: vec![Entry::first(Content::Zeroes)] });
        }
    }

    fn check(&self, offset: u64, data: &[u8], legal: impl Fn(&Entry) -> bool) -> Result<(), String> {
        let end = offset + data.len() as u64;
        let first = self.segments.range(..=offset).next_back().map_or(0, |(start, _)| *start);
        for (start, segment) in self.segments.range(first..end) {
            let (from, to) = (offset.max(*start), end.min(segment.end));
            let found = &data[(from - offset) as usize..(to - offset) as usize];
            if segment.entries.iter().any(|entry| legal(entry) && entry.content.matches(from, found)) {
                continue;
            }
            let legal: Vec<&Entry> = segment.entries.iter().filter(|entry| legal(entry)).collect();
            let candidates: Vec<Vec<u8>> = legal.iter().map(|entry| entry.content.bytes(from, found.len())).collect();
            let wrong = (0..found.len()).find(|at| candidates.iter().all(|bytes| bytes[*at] != found[*at]));
            if let Some(at) = wrong {
                let origin = segment.entries.iter().find(|entry| entry.content.matches(from + at as u64, &found[at..]));
                let writes: Vec<u64> = legal.iter().map(|entry| entry.write).collect();
                let offset = from + at as u64;
                return Err(format!(
                    "byte {offset} is {:#04x}, which none of the writes {writes:?} has written; it fits {origin:?}",
                    found[at]
                ));
            }
        }
        Ok(())
    }

    fn split(&mut self, at: u64) {
        let Some((start, segment)) = self.segments.range_mut(..at).next_back() else { return };
        if *start < at && at < segment.end {
            let right = segment.clone();
            segment.end = at;
            self.segments.insert(at, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Content = Content::Pattern(1);
    const B: Content = Content::Pattern(777);
    const ALL: (u64, u64) = (0, 100);

    fn read(history: &History, content: &Content, issued: Tick) -> bool {
        history.check_read(0, &content.bytes(0, 100), issued).is_ok()
    }

    fn survives(history: &History, content: &Content) -> bool {
        history.check_image(&content.bytes(0, 100)).is_ok()
    }

    #[test]
    fn an_acknowledged_write_is_what_is_read_and_concurrent_ones_are_either() {
        let mut history = History::new(100);
        history.begin(1, ALL, &A, 1);
        assert!(read(&history, &Content::Zeroes, 2) && read(&history, &A, 2));
        history.begin(2, ALL, &B, 3);
        history.acknowledge(1, ALL, false, 4);
        assert!(!read(&history, &Content::Zeroes, 5), "it was overwritten");
        assert!(read(&history, &Content::Zeroes, 3), "this read was under way");
        history.acknowledge(2, ALL, false, 6);
        assert!(read(&history, &A, 7) && read(&history, &B, 7), "they were concurrent");
        history.begin(3, ALL, &Content::Zeroes, 8);
        history.acknowledge(3, ALL, false, 9);
        assert!(!read(&history, &A, 10) && !read(&history, &B, 10));
    }

    #[test]
    fn what_is_cut_off_is_gone_when_the_disc_grows_again() {
        let mut history = History::new(100);
        history.begin(1, ALL, &A, 1);
        history.acknowledge(1, ALL, true, 2);
        history.resize(60, 4);
        history.resize(120, 5);
        assert!(read(&history, &A, 3), "this reply was on its way");
        assert!(history.check_read(0, &A.bytes(0, 60), 6).is_ok());
        assert!(history.check_read(60, &A.bytes(60, 40), 6).is_err());
        assert!(history.check_read(60, &[0; 60], 6).is_ok());
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_issued() {
        let mut history = History::new(100);
        history.begin(1, ALL, &A, 1);
        history.acknowledge(1, ALL, false, 3);
        history.flushed(2, 0);
        assert!(survives(&history, &Content::Zeroes), "it was issued too early");
        history.flushed(4, 0);
        assert!(!survives(&history, &Content::Zeroes) && survives(&history, &A));
        history.begin(2, (0, 50), &B, 5);
        history.acknowledge(2, (0, 50), true, 6);
        assert!(!survives(&history, &A), "FUA");
        assert!(survives(&history, &Content::Image(Rc::new([B.bytes(0, 50), A.bytes(50, 50)].concat()))));
    }
}
