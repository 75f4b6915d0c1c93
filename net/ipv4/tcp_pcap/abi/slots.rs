// SPDX-License-Identifier: GPL-2.0

//! The slots of a ring, and how records change hands there.
//!
//! The owner of a socket takes a record out (`xchg()` with null), fills it again, and puts it in
//! (`xchg()`), freeing what came back. Reclaim works under the lock of the shard: it takes a record
//! out in the same way, and puts it back only if the slot is still empty (`cmpxchg()`), else it
//! frees the record. So whoever has a record in hand owns it, nobody waits for the other, and
//! nothing is lost or freed twice.
//!
//! When memory has to go that slots use, a whole chunk of them is taken away under that lock, and
//! freed after a grace period: the owner of the ring uses slots in an RCU read side section.

use super::{
    account::{Payer, Resource},
    charged::Charged,
    layout::CHUNK_SLOTS,
    stack::cond_resched, //
};
use crate::{
    limit::Charge,
    record::Record, //
};
use core::{
    num::NonZeroU64,
    ptr::{self, NonNull},
};
use kernel::{
    alloc::{allocator::Kmalloc, flags::*, Allocator, Flags, NumaNode},
    bindings,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        rcu, //
    },
};

pub(super) type Slot = Atomic<*mut bindings::sk_buff>;

/// The slots of one ring, in chunks that are allocated when they are first used.
///
/// # Invariants
///
/// - `chunks` is null, or points at `nr_chunks(size)` pointers, charged, and `size` is not 0; each
///   of these is null, or points at `chunk_slots(size, i)` slots, charged.
/// - A slot holds null, or the skb of a record that was forgotten (`Charged::into_raw`).
/// - Those from `used` on hold null; only of slots that were taken from their ring may it be less
///   than `size`.
pub(crate) struct Slots {
    pub(super) chunks: *mut *mut Slot,
    pub(super) size: u32,
    pub(super) used: u32,
    pub(super) payer: Payer,
}

// SAFETY: Slots are atomic, and records may be freed on any CPU.
unsafe impl Send for Slots {}

pub(super) const fn nr_chunks(size: u32) -> usize {
    (size as usize).div_ceil(CHUNK_SLOTS)
}

/// Slots in chunk `i` of a ring of `size`.
fn chunk_slots(size: u32, i: usize) -> usize {
    (size as usize)
        .saturating_sub(i.saturating_mul(CHUNK_SLOTS))
        .min(CHUNK_SLOTS)
}

/// What the allocator takes for an object of `size` bytes.
pub(super) fn slab_size(size: usize) -> usize {
    // SAFETY: No requirement.
    unsafe { bindings::kmalloc_size_roundup(size) }
}

/// Allocates `n` zeroed pointers, charged.
fn alloc_ptrs<T>(n: usize, payer: Payer, flags: Flags) -> Result<NonNull<T>> {
    let layout = core::alloc::Layout::array::<*mut c_void>(n).map_err(|_| EINVAL)?;
    let charge = Charge::new(Resource::Mem, payer, slab_size(layout.size())).ok_or(ENOBUFS)?;
    let p = Kmalloc::alloc(layout, flags | __GFP_ZERO, NumaNode::NO_NODE)?;
    charge.keep();
    Ok(p.cast())
}

/// Frees what [`alloc_ptrs`] returned.
///
/// # Safety
///
/// `p` came from `alloc_ptrs(n, payer, ..)` and is not used any more.
unsafe fn free_ptrs<T>(p: NonNull<T>, n: usize, payer: Payer) {
    if let Ok(layout) = core::alloc::Layout::array::<*mut c_void>(n) {
        // SAFETY: By the safety requirements.
        unsafe { Kmalloc::free(p.cast(), layout) };
        Charge::release(Resource::Mem, payer, slab_size(layout.size()));
    }
}

impl Slots {
    /// Slots for `size` packets; allocates nothing.
    pub(crate) const fn new(size: u32, payer: Payer) -> Self {
        // INVARIANT: No chunks yet.
        Self {
            chunks: ptr::null_mut(),
            size,
            used: size,
            payer,
        }
    }

    /// Number of slots.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Allocates all chunks.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory.
    pub(crate) fn populate(&mut self, flags: Flags) -> Result {
        for i in 0..nr_chunks(self.size) {
            self.chunk(i, flags)?;
        }
        Ok(())
    }

    /// Where the pointer to chunk `i` lies.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none.
    fn cell(&self, i: usize) -> Result<&Atomic<*mut Slot>> {
        if self.chunks.is_null() || i >= nr_chunks(self.size) {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant there are `nr_chunks(size)` pointers, which live as long as
        // `self`, and `i` is less; the owner of the ring and reclaim write them atomically.
        Ok(unsafe { Atomic::from_ptr(self.chunks.add(i)) })
    }

    fn chunk(&mut self, i: usize, flags: Flags) -> Result<NonNull<Slot>> {
        let nr = nr_chunks(self.size);
        if i >= nr {
            return Err(EINVAL);
        }
        if self.chunks.is_null() {
            // INVARIANT: `nr` null pointers.
            self.chunks = alloc_ptrs::<*mut Slot>(nr, self.payer, flags)?.as_ptr();
        }
        if let Some(c) = NonNull::new(self.cell(i)?.load(Acquire)) {
            return Ok(c);
        }
        let c = alloc_ptrs::<Slot>(chunk_slots(self.size, i), self.payer, flags)?;
        // Released, so that a reader on another CPU sees null or a chunk of empty slots.
        // INVARIANT: Slots of null, charged.
        self.cell(i)?.store(c.as_ptr(), Release);
        Ok(c)
    }

    /// Allocates the chunk of the slot of a serial number.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOBUFS` at the limit of memory; `EINVAL` if there are no slots.
    pub(super) fn provide(&mut self, serial: u64, flags: Flags) -> Result {
        let s = serial.checked_rem(u64::from(self.size)).ok_or(EINVAL)?;
        self.chunk(s as usize / CHUNK_SLOTS, flags)?;
        Ok(())
    }

    /// The slot of a serial number, if its chunk is there.
    fn get(&self, serial: u64) -> Option<&Slot> {
        // SAFETY: By the type invariant. Chunks live as long as `self`, or, if reclaim takes them
        // away, as long as the lock of the shard is held, or an RCU read side section lasts.
        Some(unsafe { Found::new(self.chunks, self.size, serial) }?.slot)
    }

    /// Takes the record out of the slot of `serial`.
    pub(crate) fn take(&self, serial: u64) -> Option<Record> {
        take_from(self.get(serial)?)
    }

    /// Takes the record of `serial` itself, and leaves that of another serial in the slot.
    #[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
    pub(crate) fn take_if(&mut self, serial: u64) -> Option<Record> {
        let record = self.take(serial)?;
        if record.rec()?.serial == serial {
            return Some(record);
        }
        let _ = self.put_back(serial, record);
        None
    }

    /// Puts a record into the slot of `serial`, whose chunk is allocated if need be. Returns what
    /// was in it: reclaim may have put a record back since the owner found the slot empty.
    ///
    /// # Errors
    ///
    /// If there is no memory for the chunk, or reclaim took it away.
    pub(crate) fn put(
        &mut self,
        serial: u64,
        record: Record,
        flags: Flags,
        _rcu: &rcu::Guard,
    ) -> Result<Option<Record>, Gone> {
        let provided = self.provide(serial, flags);
        // SAFETY: By the type invariant, and because we are in an RCU read side section.
        let slot = unsafe { Found::new(self.chunks, self.size, serial) };
        let (Ok(()), Some(slot)) = (provided, slot) else {
            return Err(Gone {
                back: None,
                lost: record,
            });
        };
        match slot.put(record) {
            Ok(()) => Ok(None),
            Err(met) => met,
        }
    }

    /// Puts a record back into the slot of `serial` that it was taken from, if that is still empty.
    ///
    /// # Errors
    ///
    /// The record, if the owner of the ring has put another one there.
    pub(crate) fn put_back(&self, serial: u64, record: Record) -> Result<(), Record> {
        let Some(slot) = self.get(serial) else {
            return Err(record);
        };
        let skb = record.into_charged().into_raw();
        // INVARIANT: A pointer from `into_raw`, of a record.
        match slot.cmpxchg(ptr::null_mut(), skb.as_ptr(), Full) {
            Ok(_) => Ok(()),
            // SAFETY: It was not stored, so it is still ours.
            Err(_) => Err(Record::from_charged(unsafe { Charged::from_raw(skb) })),
        }
    }

    /// Records in it now, of a ring that is in use.
    pub(crate) fn count(&self) -> u64 {
        (0..u64::from(self.size)).fold(0, |n: u64, s| {
            let is_full = self
                .get(s)
                .is_some_and(|slot| !slot.load(Relaxed).is_null());
            n.saturating_add(u64::from(is_full))
        })
    }

    /// Takes a chunk away, if there is one. The owner of the ring allocates another when it needs
    /// one.
    pub(super) fn take_chunk(&self) -> Option<Chunk> {
        (0..nr_chunks(self.size)).find_map(|i| {
            let cell = self.cell(i).ok()?;
            if cell.load(Relaxed).is_null() {
                return None;
            }
            // INVARIANT: By the invariant of `Slots`, and nobody finds it from here on.
            Some(Chunk {
                slots: NonNull::new(cell.xchg(ptr::null_mut(), Full))?,
                n: chunk_slots(self.size, i),
                payer: self.payer,
            })
        })
    }
}

/// What a record met with in its slot: another one that reclaim had put back, maybe.
pub(crate) type Met = Result<Option<Record>, Gone>;

/// There is no slot for a record.
pub(crate) struct Gone {
    /// What the slot held before, if it was there at all.
    pub(crate) back: Option<Record>,
    /// The record.
    pub(crate) lost: Record,
}

/// A slot that exists, in the hands of the owner of its ring.
///
/// # Invariants
///
/// `slot` lies in the chunk that `cell` pointed at, and which lives during `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    cell: &'a Atomic<*mut Slot>,
    slot: &'a Slot,
}

impl<'a> Found<'a> {
    /// The slot of `serial`, if its chunk is there.
    ///
    /// # Safety
    ///
    /// `chunks` and `size` are those of a [`Slots`] that lives during `'a`, so that `size` is not 0
    /// if there are `chunks`. These live as long, or an RCU read side section lasts.
    #[inline]
    pub(super) unsafe fn new(chunks: *mut *mut Slot, size: u32, serial: u64) -> Option<Self> {
        if chunks.is_null() {
            return None;
        }
        // SAFETY: There are chunks, so there are slots.
        let size = unsafe { NonZeroU64::new_unchecked(u64::from(size)) };
        let s = (serial % size) as usize;
        // SAFETY: `s < size`, so there are more than `s / CHUNK_SLOTS` pointers; owner and reclaim
        // write them atomically.
        let cell = unsafe { Atomic::from_ptr(chunks.add(s / CHUNK_SLOTS)) };
        let chunk = NonNull::new(cell.load(Acquire))?;
        // INVARIANT: As just found.
        Some(Self {
            cell,
            // SAFETY: `s < size`, so the chunk has this slot.
            slot: unsafe { chunk.add(s % CHUNK_SLOTS).as_ref() },
        })
    }

    /// Takes the record out.
    #[inline]
    pub(crate) fn take(&self) -> Option<Record> {
        take_from(self.slot)
    }

    /// Puts a record in.
    ///
    /// # Errors
    ///
    /// If reclaim was here since the owner found the slot empty: what [`Self::met`] says.
    #[inline(always)]
    pub(crate) fn put(self, record: Record) -> Result<(), Met> {
        // INVARIANT: A pointer from `into_raw`, of a record.
        let old = self
            .slot
            .xchg(record.into_charged().into_raw().as_ptr(), Full);
        if old.is_null() && self.has_chunk() {
            return Ok(());
        }
        // A copy, so that the original need not be in memory.
        // INVARIANT: As that of `self`.
        let found = Self {
            cell: self.cell,
            slot: self.slot,
        };
        // SAFETY: Null, or a record's skb, which was just taken out and is passed once.
        Err(unsafe { found.met(old) })
    }

    /// Whether the chunk is still there, after a record was put in. Reclaim takes the chunk away
    /// first, and then what is in it: either we see that here, or it sees the record. Another chunk
    /// would be the owner's, who is here.
    #[inline]
    fn has_chunk(&self) -> bool {
        !self.cell.load(Relaxed).is_null()
    }

    /// Reclaim was here. The record is in, or reclaim has it already, and with it what the slot
    /// held, which reclaim had put back.
    ///
    /// # Errors
    ///
    /// If the chunk was taken away before the record was put in.
    ///
    /// # Safety
    ///
    /// `old` is null, or was just taken out of the slot and belongs to the caller, who forgets it.
    #[cold]
    #[inline(never)]
    unsafe fn met(&self, old: *mut bindings::sk_buff) -> Met {
        // SAFETY: By the safety requirements.
        let old =
            NonNull::new(old).map(|skb| Record::from_charged(unsafe { Charged::from_raw(skb) }));
        if !self.has_chunk() {
            if let Some(lost) = self.take() {
                return Err(Gone { back: old, lost });
            }
        }
        Ok(old)
    }
}

/// Takes the record out of a slot.
#[inline]
fn take_from(slot: &Slot) -> Option<Record> {
    // Nobody but the owner of the ring makes an empty slot full, so it is worth a look.
    if slot.load(Relaxed).is_null() {
        return None;
    }
    let skb = NonNull::new(slot.xchg(ptr::null_mut(), Full))?;
    // SAFETY: A slot holds a record's skb; whoever takes it out owns it.
    Some(Record::from_charged(unsafe { Charged::from_raw(skb) }))
}

/// A chunk that reclaim took away from a ring. The owner of the ring may still use it, within an
/// RCU read side section; it is leaked unless it is freed by [`Self::free`].
///
/// # Invariants
///
/// Points at `n` slots, charged to `payer`, that nobody finds any more.
pub(crate) struct Chunk {
    slots: NonNull<Slot>,
    n: usize,
    payer: Payer,
}

impl Chunk {
    /// Takes the records out of its first `n` slots, one at a time.
    pub(crate) fn records(&self, n: usize) -> impl Iterator<Item = Record> + '_ {
        (0..self.n.min(n)).filter_map(|i| {
            // SAFETY: By the type invariant.
            take_from(unsafe { self.slots.add(i).as_ref() })
        })
    }

    /// Frees chunks, when no owner of a ring uses them any more. May sleep.
    pub(crate) fn free(chunks: impl Iterator<Item = Self>) {
        // SAFETY: The callers may sleep, and hold no RCU read side lock.
        unsafe { bindings::synchronize_rcu() };
        for chunk in chunks {
            // SAFETY: By the type invariant; nobody uses it any more after the grace period. The
            // owner takes back what it put in after reclaim had taken the records out.
            unsafe { free_ptrs(chunk.slots, chunk.n, chunk.payer) };
        }
    }
}

// SAFETY: Slots are atomic, and may be freed on any CPU.
unsafe impl Send for Chunk {}

impl Slots {
    /// Packets that may be in it: slots that were ever used, and are still there.
    pub(super) fn may_hold(&self) -> u32 {
        (0..nr_chunks(self.size))
            .filter(|i| {
                self.cell(*i)
                    .is_ok_and(|cell| !cell.load(Relaxed).is_null())
            })
            .fold(0, |n: u32, i| {
                n.saturating_add(chunk_slots(self.used, i) as u32)
            })
    }

    /// Passes all records to `f`, one after the other; the slots stay. Nobody else has the ring.
    #[inline]
    pub(super) fn empty(&mut self, mut f: impl FnMut(Record)) {
        for i in 0..nr_chunks(self.used) {
            let Ok(cell) = self.cell(i) else {
                return;
            };
            let Some(chunk) = NonNull::new(cell.load(Relaxed)) else {
                continue;
            };
            for s in 0..chunk_slots(self.used, i) {
                // SAFETY: By the type invariant the chunk has that many slots, of which a word is
                // all there is, and nobody else uses them.
                let skb = unsafe { chunk.add(s).cast::<*mut _>().replace(ptr::null_mut()) };
                if let Some(skb) = NonNull::new(skb) {
                    // SAFETY: A slot holds a record's skb; whoever takes it out owns it.
                    f(Record::from_charged(unsafe { Charged::from_raw(skb) }));
                }
            }
        }
    }

    /// Bytes charged for the slots, without what is in them.
    pub(super) fn mem(&self) -> usize {
        let words = |n: usize| slab_size(n.saturating_mul(size_of::<Slot>()));
        let nr = nr_chunks(self.size);
        if self.chunks.is_null() {
            return 0;
        }
        (0..nr)
            .filter(|i| self.cell(*i).is_ok_and(|c| !c.load(Relaxed).is_null()))
            .fold(words(nr), |sum, i| {
                sum.saturating_add(words(chunk_slots(self.size, i)))
            })
    }

    /// Frees the first chunk from index `i` on, with its records. Returns the index of the next.
    pub(super) fn free_chunk(&mut self, i: usize) -> Option<usize> {
        let chunks = NonNull::new(self.chunks)?;
        for i in i..nr_chunks(self.size) {
            // SAFETY: By the type invariant. Nobody else has the ring.
            let slots = unsafe { chunks.add(i).replace(ptr::null_mut()) };
            let Some(slots) = NonNull::new(slots) else {
                continue;
            };
            // INVARIANT: By the type invariant, and nobody finds it, since nobody has the ring.
            let chunk = Chunk {
                slots,
                n: chunk_slots(self.size, i),
                payer: self.payer,
            };
            // Short connections leave most of a ring as it was.
            chunk.records(chunk_slots(self.used, i)).for_each(drop);
            // SAFETY: By the type invariant; the slots are empty and not used any more.
            unsafe { free_ptrs(slots, chunk.n, self.payer) };
            return Some(i.saturating_add(1));
        }
        None
    }

    /// As dropping them, but lets others run meanwhile. May sleep.
    pub(crate) fn free(mut self) {
        let mut i = 0;
        while let Some(next) = self.free_chunk(i) {
            i = next;
            cond_resched();
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let mut i = 0;
        while let Some(next) = self.free_chunk(i) {
            i = next;
        }
        if let Some(chunks) = NonNull::new(self.chunks) {
            // SAFETY: By the type invariant; not used any more.
            unsafe { free_ptrs(chunks, nr_chunks(self.size), self.payer) };
        }
    }
}
