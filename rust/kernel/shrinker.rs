// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: caches that give memory back when it is short.
//!
//! A type that implements [`Shrinker`] counts and frees objects of a cache; a [`Registration`]
//! makes it known to memory reclaim, until it is dropped.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use crate::{
    alloc::AllocError,
    bindings,
    prelude::*,
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// A cache that can be asked to free objects.
///
/// # Examples
///
/// ```
/// use kernel::{
///     prelude::*,
///     shrinker::{Count, Registration, Scan, ShrinkControl, Shrinker},
///     sync::{atomic::{Atomic, Relaxed}, Arc},
/// };
///
/// struct Numbers;
///
/// impl Shrinker for Numbers {
///     type Data = Arc<Atomic<u64>>;
///
///     fn count(left: <Self::Data as kernel::types::ForeignOwnable>::Borrowed<'_>,
///              _: &ShrinkControl<'_>) -> Count {
///         Count::objects(left.load(Relaxed) as usize)
///     }
///
///     fn scan(left: <Self::Data as kernel::types::ForeignOwnable>::Borrowed<'_>,
///             _: &ShrinkControl<'_>) -> Scan {
///         Scan::Freed(left.xchg(0, Relaxed) as usize)
///     }
/// }
///
/// let left = Arc::new(Atomic::new(3u64), GFP_KERNEL)?;
/// let shrinker = Registration::<Numbers>::new(c"example", left.clone())?;
/// // It is asked under memory pressure from here on, until:
/// drop(shrinker);
/// # Ok::<(), Error>(())
/// ```
pub trait Shrinker: 'static {
    /// What the callbacks get. They may run at the same time on several CPUs.
    type Data: ForeignOwnable + Send + Sync;

    /// Objects that [`Self::scan`] is asked to free at once; 0 for the default.
    const BATCH: u32 = 0;

    /// What it costs to make an object again, by the number of disk seeks.
    const SEEKS: u32 = bindings::DEFAULT_SEEKS;

    /// Estimates how many objects can be freed. Should be cheap, and look for no deadlocks.
    ///
    /// Context: that of any allocation that may reclaim, with the locks of the allocating code
    /// held. It may not be allowed to enter the file system, or to do I/O.
    fn count(
        data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        control: &ShrinkControl<'_>,
    ) -> Count;

    /// Tries to free [`ShrinkControl::nr_to_scan`] objects.
    ///
    /// Context: as [`Self::count`].
    fn scan(
        data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        control: &ShrinkControl<'_>,
    ) -> Scan;
}

/// What [`Shrinker::count`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// There is nothing to free.
    Empty,
    /// Not known, or not to be freed at this time.
    Skip,
    /// About so many objects can be freed.
    Objects(usize),
}

impl Count {
    /// `n` objects, or none.
    pub const fn objects(n: usize) -> Self {
        match n {
            0 => Self::Empty,
            n => Self::Objects(n),
        }
    }

    fn as_raw(self) -> c_ulong {
        match self {
            Self::Empty => SHRINK_EMPTY,
            Self::Skip => 0,
            // C calculates with it as a signed number.
            Self::Objects(n) => n.min(c_long::MAX as c_ulong),
        }
    }
}

/// What [`Shrinker::scan`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// So many objects were freed.
    Freed(usize),
    /// None can be freed in this context; it is not asked again in it.
    Stop,
}

impl Scan {
    fn as_raw(self) -> c_ulong {
        match self {
            Self::Freed(n) => n.min(c_long::MAX as c_ulong),
            Self::Stop => SHRINK_STOP,
        }
    }
}

// The C constants have casts, which bindgen does not follow.
const SHRINK_STOP: c_ulong = c_ulong::MAX;
const SHRINK_EMPTY: c_ulong = c_ulong::MAX - 1;

/// What is asked of a shrinker: `struct shrink_control`.
///
/// # Invariants
///
/// Points at a `struct shrink_control` that is valid for `'a`.
pub struct ShrinkControl<'a> {
    control: NonNull<bindings::shrink_control>,
    _control: PhantomData<&'a bindings::shrink_control>,
}

impl<'a> ShrinkControl<'a> {
    /// What C hands to the callbacks of a shrinker.
    ///
    /// # Safety
    ///
    /// `control` points at a `struct shrink_control` that is valid, and that nobody else uses, for
    /// `'a`.
    #[inline]
    pub unsafe fn from_raw(control: *mut bindings::shrink_control) -> Self {
        Self {
            // SAFETY: By the safety requirements it is not null.
            // INVARIANT: By the safety requirements.
            control: unsafe { NonNull::new_unchecked(control) },
            _control: PhantomData,
        }
    }

    /// Number of objects to free.
    #[inline]
    pub fn nr_to_scan(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.control.as_ptr()).nr_to_scan }
    }

    /// Sets how much of the work that was asked for this is taken for, in objects, freed or not;
    /// [`Self::nr_to_scan`] if it is not set.
    #[inline]
    pub fn set_nr_scanned(&self, n: usize) {
        // SAFETY: By the type invariant; nobody else uses it during the callback.
        unsafe { (*self.control.as_ptr()).nr_scanned = n }
    }

    /// NUMA node to free memory of.
    #[inline]
    pub fn nid(&self) -> i32 {
        // SAFETY: By the type invariant.
        unsafe { (*self.control.as_ptr()).nid }
    }
}

/// Tells the reclaim that goes on in this task, if one does, that pages were freed.
///
/// For pages that are neither of the page cache nor of a slab: a reclaim that sees no page freed
/// gives up.
#[inline]
pub fn account_reclaimed_pages(pages: usize) {
    // SAFETY: No requirement.
    unsafe { bindings::mm_account_reclaimed_pages(pages) }
}

/// A registered shrinker; unregistered when dropped, after the callbacks have ended.
///
/// # Invariants
///
/// `shrinker` is registered with the callbacks of `T`, and its `private_data` is from
/// `T::Data::into_foreign`.
pub struct Registration<T: Shrinker> {
    shrinker: NonNull<bindings::shrinker>,
    _shrinker: PhantomData<T>,
}

// SAFETY: It can be unregistered on any CPU, and the data are `Send`.
unsafe impl<T: Shrinker> Send for Registration<T> {}
// SAFETY: Nothing can be done with a reference to it.
unsafe impl<T: Shrinker> Sync for Registration<T> {}

impl<T: Shrinker> Registration<T> {
    /// Registers a shrinker. With debugfs, it is found there under its name.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `AllocError` if there is no memory for it; `data` is dropped then.
    pub fn new(name: &'static CStr, data: T::Data) -> Result<Self, AllocError> {
        // SAFETY: The format takes one string.
        let shrinker =
            unsafe { bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(AllocError)?;
        // SAFETY: It was just allocated, and nobody else knows it before it is registered.
        unsafe {
            let s = shrinker.as_ptr();
            (*s).count_objects = Some(count::<T>);
            (*s).scan_objects = Some(scan::<T>);
            (*s).batch = T::BATCH as c_long;
            (*s).seeks = T::SEEKS as c_int;
            (*s).private_data = data.into_foreign();
            bindings::shrinker_register(s);
        }
        // INVARIANT: Just so registered.
        Ok(Self {
            shrinker,
            _shrinker: PhantomData,
        })
    }
}

impl<T: Shrinker> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. `shrinker_free` waits for the callbacks to end, after
        // which nobody uses the data.
        unsafe {
            let data = (*self.shrinker.as_ptr()).private_data;
            bindings::shrinker_free(self.shrinker.as_ptr());
            drop(T::Data::from_foreign(data));
        }
    }
}

/// # Safety
///
/// Called by the C code for a shrinker of a [`Registration<T>`], with a valid control.
unsafe extern "C" fn count<T: Shrinker>(
    shrinker: *mut bindings::shrinker,
    control: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: The data of a registered shrinker are valid, and not dropped before it is freed.
    let data = unsafe { T::Data::borrow((*shrinker).private_data) };
    // SAFETY: By the safety requirements; it belongs to this call.
    let control = unsafe { ShrinkControl::from_raw(control) };
    T::count(data, &control).as_raw()
}

/// # Safety
///
/// As [`count`].
unsafe extern "C" fn scan<T: Shrinker>(
    shrinker: *mut bindings::shrinker,
    control: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: As in `count`.
    let data = unsafe { T::Data::borrow((*shrinker).private_data) };
    // SAFETY: By the safety requirements; it belongs to this call.
    let control = unsafe { ShrinkControl::from_raw(control) };
    T::scan(data, &control).as_raw()
}

#[macros::kunit_tests(rust_shrinker)]
mod tests {
    use super::*;
    use crate::sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    };

    struct Objects;

    impl Shrinker for Objects {
        type Data = Arc<Atomic<u64>>;

        fn count(
            left: <Self::Data as ForeignOwnable>::Borrowed<'_>,
            _: &ShrinkControl<'_>,
        ) -> Count {
            Count::objects(left.load(Relaxed) as usize)
        }

        fn scan(
            left: <Self::Data as ForeignOwnable>::Borrowed<'_>,
            control: &ShrinkControl<'_>,
        ) -> Scan {
            let now = left.load(Relaxed);
            if now == 0 {
                return Scan::Stop;
            }
            let freed = now.min(control.nr_to_scan() as u64);
            left.fetch_sub(freed, Relaxed);
            control.set_nr_scanned(control.nr_to_scan() * 10);
            Scan::Freed(freed as usize)
        }
    }

    /// What C sees of a shrinker: what it counts, frees, and calls its work.
    fn ask(shrinker: &Registration<Objects>, nr_to_scan: usize) -> (c_ulong, c_ulong, c_ulong) {
        let mut control = bindings::shrink_control {
            nr_to_scan,
            nr_scanned: nr_to_scan,
            ..Default::default()
        };
        let s = shrinker.shrinker.as_ptr();
        // SAFETY: A registered shrinker with these callbacks, and a valid control.
        let (counted, freed) = unsafe {
            (
                count::<Objects>(s, &mut control),
                scan::<Objects>(s, &mut control),
            )
        };
        (counted, freed, control.nr_scanned)
    }

    #[test]
    fn counts_and_frees_through_c() -> Result {
        let left = Arc::new(Atomic::new(5u64), GFP_KERNEL)?;
        let shrinker = Registration::<Objects>::new(c"rust-kunit", left.clone())?;
        // SAFETY: It is registered.
        let callback = unsafe { (*shrinker.shrinker.as_ptr()).count_objects };
        assert!(callback.is_some());
        assert_eq!(ask(&shrinker, 3), (5, 3, 30));
        assert_eq!(ask(&shrinker, 3), (2, 2, 30));
        assert_eq!(ask(&shrinker, 3), (SHRINK_EMPTY, SHRINK_STOP, 3));
        left.store(4, Relaxed);
        assert_eq!(ask(&shrinker, 9), (4, 4, 90));
        Ok(())
    }

    /// Makes the `nth` allocation of this task from here on fail, 0: none. Returns what was left
    /// of the number before, which is 0 if that allocation was made, and failed.
    ///
    /// Allocations that may sleep fail only if user space has told `failslab` so
    /// (`ignore-gfp-wait` in debugfs).
    #[cfg(CONFIG_FAULT_INJECTION)]
    fn fail_nth(nth: u32) -> u32 {
        let task = current!().as_ptr();
        // SAFETY: It is this task, and nobody else changes the field of a kernel thread.
        unsafe { core::ptr::replace(&raw mut (*task).fail_nth, nth) }
    }

    #[cfg(not(CONFIG_FAULT_INJECTION))]
    fn fail_nth(_: u32) -> u32 {
        1 // Not made: none fails.
    }

    /// One allocation after the other fails, as far as they may: see `fail_nth`. The message tells
    /// user space how many did.
    #[test]
    fn without_memory_it_is_an_error_and_nothing_is_left() -> Result {
        let (mut faults, mut errors) = (0, 0);
        for nth in 1..100 {
            let left = Arc::new(Atomic::new(5u64), GFP_KERNEL)?;
            let data = left.clone();
            fail_nth(nth);
            let shrinker = Registration::<Objects>::new(c"rust-kunit", data);
            let over = fail_nth(0) != 0;
            faults += u32::from(!over);
            match shrinker {
                // What debugfs lacks does not matter to memory reclaim.
                Ok(shrinker) => assert_eq!(ask(&shrinker, 3), (5, 3, 30)),
                Err(AllocError) => {
                    assert!(!over);
                    errors += 1;
                }
            }
            assert!(Arc::into_unique_or_drop(left).is_some());
            if over {
                break;
            }
        }
        assert!(faults < 99);
        crate::pr_info!("shrinker: {faults} allocations failed, {errors} of them are errors\n");
        Ok(())
    }

    #[test]
    fn data_are_dropped_with_the_registration() -> Result {
        let left = Arc::new(Atomic::new(1u64), GFP_KERNEL)?;
        let shrinker = Registration::<Objects>::new(c"rust-kunit", left.clone())?;
        drop(shrinker);
        // It is the only reference again.
        assert!(Arc::into_unique_or_drop(left).is_some());
        Ok(())
    }

    #[test]
    fn large_counts_are_not_special_values() {
        assert_eq!(Count::objects(0).as_raw(), SHRINK_EMPTY);
        assert_eq!(Count::Skip.as_raw(), 0);
        assert!((Count::objects(usize::MAX).as_raw() as c_long) > 0);
        assert!((Scan::Freed(usize::MAX).as_raw() as c_long) > 0);
        assert_eq!(Scan::Stop.as_raw(), SHRINK_STOP);
    }
}
