//! Memory for the data path: taken once, cut into classes of buffers, handed out and given back.
//!
//! ```text
//!   Pool ── class 8 KiB   [free, free, …]   last in, first out: the next one is still in the cache
//!        ├─ class 128 KiB [free, …]
//!        └─ …             a Buffer that is dropped, wherever that is, goes back to its class
//! ```
//!
//! A buffer is never cloned and made nowhere else, so whoever has it is the only one who can name its
//! bytes; giving it to the kernel means moving it into the table of operations in flight.

use crate::memory::WHOLE_BYTES;
use crate::whole::Whole;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Alignment of each buffer, in bytes: a page, which suits O_DIRECT too.
pub const ALIGNMENT: usize = 4096;

/// Buffers in a few sizes. A clone hands out the same buffers.
#[derive(Clone, Debug)]
pub struct Pool {
    classes: Vec<Rc<Class>>,
}

#[derive(Debug)]
struct Class {
    bytes: usize,
    total: usize,
    shelf: Shelf,
}

/// Where the buffers of a class are while nobody has them.
#[derive(Debug)]
enum Shelf {
    Own(RefCell<Vec<&'static mut [u8]>>),
    /// All shards have a share in the one buffer of this size.
    Shared(Whole),
}

/// One piece of memory, which goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    // Only `drop` takes it out.
    memory: Option<&'static mut [u8]>,
    class: Rc<Class>,
    holder: Option<Holder>,
}

/// Counts the bytes of the buffers that the connections of one disc have, wherever they are.
#[derive(Clone, Debug, Default)]
pub struct Holder(Rc<Cell<usize>>);

impl Holder {
    /// How many bytes.
    pub fn held_bytes(&self) -> usize {
        self.0.get()
    }
}

impl Pool {
    /// Takes the memory for `(bytes, count)` of each class, smallest first. It is leaked on purpose:
    /// a pool lives as long as its shard, and the kernel may still write into it after the shard's end.
    ///
    /// # Panics
    /// When the classes are not in ascending order, or no multiples of the alignment.
    pub fn new(classes: &[(usize, usize)]) -> Self {
        assert!(classes.is_sorted_by(|a, b| a.0 < b.0), "classes must ascend");
        Self { classes: classes.iter().map(|&(bytes, count)| Rc::new(Class::new(bytes, count))).collect() }
    }

    /// As [`Pool::new`], with a largest class that other pools have a share in.
    pub fn with_whole(classes: &[(usize, usize)], whole: Whole) -> Self {
        let mut pool = Self::new(classes);
        pool.classes.push(Rc::new(Class { bytes: WHOLE_BYTES, total: 1, shelf: Shelf::Shared(whole) }));
        pool
    }

    /// Bytes of all buffers that are its own.
    pub fn own_bytes(&self) -> usize {
        let own = self.classes.iter().filter(|class| matches!(class.shelf, Shelf::Own(_)));
        own.map(|class| class.bytes * class.total).sum()
    }

    /// A buffer of at least `bytes` from the smallest class that fits. `None` when that class has none
    /// left: taking a larger one would let small requests use up the large buffers.
    ///
    /// # Panics
    /// When no class is that large, which is a bug of the caller.
    pub fn take(&self, bytes: usize, holder: &Holder) -> Option<Buffer> {
        let mut buffer = self.take_free(bytes)?;
        holder.0.set(holder.0.get() + buffer.class.bytes);
        buffer.holder = Some(holder.clone());
        Some(buffer)
    }

    /// As [`Pool::take`], for nobody in particular.
    pub fn take_free(&self, bytes: usize) -> Option<Buffer> {
        let class = self.classes.iter().find(|class| class.bytes >= bytes).expect("no class is that large");
        let memory = class.take()?;
        Some(Buffer { memory: Some(memory), class: Rc::clone(class), holder: None })
    }

    /// Buffers that are not in the pool now.
    pub fn taken_count(&self) -> usize {
        self.classes.iter().map(|class| class.taken_count()).sum()
    }
}

impl Class {
    fn new(bytes: usize, total: usize) -> Self {
        assert!(bytes.is_multiple_of(ALIGNMENT) && bytes > 0, "a class of {bytes} bytes is not aligned");
        let free = aligned(bytes * total).chunks_exact_mut(bytes).collect();
        Self { bytes, total, shelf: Shelf::Own(RefCell::new(free)) }
    }

    fn take(&self) -> Option<&'static mut [u8]> {
        match &self.shelf {
            Shelf::Own(free) => free.borrow_mut().pop(),
            Shelf::Shared(whole) => whole.take(),
        }
    }

    fn give_back(&self, memory: &'static mut [u8]) {
        match &self.shelf {
            Shelf::Own(free) => free.borrow_mut().push(memory),
            Shelf::Shared(whole) => whole.give_back(memory),
        }
    }

    fn taken_count(&self) -> usize {
        match &self.shelf {
            Shelf::Own(free) => self.total - free.borrow().len(),
            Shelf::Shared(whole) => usize::from(whole.is_taken()),
        }
    }
}

/// Memory that begins at a page, and stays with the process. The kernel gives it pages when it is used.
pub(crate) fn aligned(bytes: usize) -> &'static mut [u8] {
    let memory = vec![0u8; bytes + ALIGNMENT].leak();
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    &mut memory[start..start + bytes]
}

impl Buffer {
    /// How many bytes it has, which may be more than was asked for.
    pub fn capacity(&self) -> usize {
        self.class.bytes
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_deref().expect("only drop takes the memory out")
    }

    /// All its bytes, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().expect("only drop takes the memory out")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(Holder(held_bytes)) = self.holder.take() {
            held_bytes.set(held_bytes.get() - self.class.bytes);
        }
        if let Some(memory) = self.memory.take() {
            self.class.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_from_the_smallest_class_and_goes_back() {
        let pool = Pool::new(&[(4096, 2), (8192, 1)]);
        let (a, b) = (pool.take_free(1).unwrap(), pool.take_free(4096).unwrap());
        assert_eq!((a.capacity(), b.capacity()), (4096, 4096));
        assert!(pool.take_free(10).is_none(), "a small request must not take the large buffer");
        let c = pool.take_free(4097).unwrap();
        assert_eq!((c.capacity(), pool.taken_count()), (8192, 3));
        drop((a, b, c));
        assert_eq!(pool.taken_count(), 0);
    }

    #[test]
    fn the_last_one_in_is_the_first_one_out_and_all_are_aligned() {
        let pool = Pool::new(&[(4096, 3)]);
        let (first, second) = (pool.take_free(1).unwrap(), pool.take_free(1).unwrap());
        let hot = first.bytes().as_ptr();
        assert_eq!(hot.align_offset(ALIGNMENT), 0);
        assert_eq!(second.bytes().as_ptr().align_offset(ALIGNMENT), 0);
        drop(second);
        drop(first);
        assert_eq!(pool.take_free(1).unwrap().bytes().as_ptr(), hot);
    }

    #[test]
    fn the_whole_buffer_is_lent_to_one_pool_at_a_time() {
        let whole = Whole::new();
        let (one, two) = (Pool::with_whole(&[(4096, 1)], whole.clone()), Pool::with_whole(&[(4096, 1)], whole));
        let lent = one.take_free(5000).unwrap();
        assert_eq!((lent.capacity(), one.own_bytes()), (WHOLE_BYTES, 4096));
        assert!(two.take_free(5000).is_none() && one.take_free(5000).is_none() && two.take_free(1).is_some());
        drop(lent);
        assert_eq!(two.take_free(5000).unwrap().bytes().as_ptr().align_offset(ALIGNMENT), 0);
    }

    #[test]
    fn a_holder_counts_what_it_has() {
        let pool = Pool::new(&[(4096, 2), (8192, 1)]);
        let holder = Holder::default();
        let (a, b) = (pool.take(1, &holder).unwrap(), pool.take(5000, &holder).unwrap());
        assert_eq!(holder.held_bytes(), 12_288);
        drop(b);
        assert_eq!(holder.held_bytes(), 4096);
        drop(a);
        assert_eq!(holder.held_bytes(), 0);
    }

    #[test]
    fn unwinding_gives_buffers_back() {
        let pool = Pool::new(&[(4096, 1)]);
        let buffer = pool.take_free(1).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _buffer = buffer;
            panic!("on purpose");
        }));
        assert!(caught.is_err());
        assert_eq!(pool.taken_count(), 0);
    }

    #[test]
    #[should_panic(expected = "no class is that large")]
    fn asking_for_more_than_the_largest_class_is_a_bug() {
        Pool::new(&[(4096, 1)]).take_free(4097);
    }
}
