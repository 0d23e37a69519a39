//! How many may be in at once, where that number changes while some are in. Who waits is let in by order of arrival.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Semaphore;

/// See the [module](self). Lowering the size turns nobody out: those who leave are not replaced until it fits.
#[derive(Debug)]
pub(super) struct Gate {
    /// Places that are free now.
    free: Semaphore,
    size: Mutex<Size>,
    waiters: AtomicU32,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    size: u32,
    /// Places taken beyond it: whoever leaves next gives none back.
    surplus: u32,
}

impl Gate {
    pub(super) fn new(size: u32) -> Self {
        Self {
            free: Semaphore::new(size as usize),
            size: Mutex::new(Size { size, surplus: 0 }),
            waiters: AtomicU32::new(0),
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.lock().size
    }

    pub(super) fn waiters(&self) -> u32 {
        self.waiters.load(Ordering::Relaxed)
    }

    /// Takes a place, for [`Gate::leave`]; waits for one.
    pub(super) async fn enter(&self) {
        if let Ok(place) = self.free.try_acquire() {
            return place.forget();
        }
        let _waiting = Waiting::begin(&self.waiters);
        let place = self.free.acquire().await;
        place.expect("it is never closed").forget();
    }

    pub(super) fn leave(&self) {
        let mut size = self.lock();
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.free.add_permits(1);
        }
    }

    pub(super) fn resize(&self, to: u32) {
        let mut size = self.lock();
        if to >= size.size {
            let more = to - size.size;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.free.add_permits((more - kept) as usize);
        } else {
            let fewer = size.size - to;
            let forgotten = self.free.forget_permits(fewer as usize);
            size.surplus += fewer - u32::try_from(forgotten).unwrap_or(fewer);
        }
        size.size = to;
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counted for as long as it waits, also when it gives up.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waiters: &'a AtomicU32) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, poll};

    use super::*;

    fn enters(gate: &Gate) -> bool {
        gate.enter().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_size_holds_while_it_changes() {
        let gate = Gate::new(3);
        assert!(enters(&gate) && enters(&gate) && enters(&gate));
        assert!(!enters(&gate));
        gate.resize(1);
        gate.leave();
        gate.leave();
        assert!(!enters(&gate), "one is still in");
        gate.leave();
        assert!(enters(&gate) && !enters(&gate));
        gate.resize(2);
        assert!(enters(&gate) && !enters(&gate));
        // Down and up while all places are taken makes no new ones.
        for _ in 0..3 {
            gate.resize(1);
            gate.resize(2);
        }
        assert!(!enters(&gate));
        gate.leave();
        gate.leave();
        assert!(enters(&gate) && enters(&gate) && !enters(&gate));
    }

    #[tokio::test]
    async fn a_lowered_size_that_nobody_uses_is_gone() {
        let gate = Gate::new(10);
        gate.resize(2);
        gate.resize(3);
        assert!(enters(&gate) && enters(&gate) && enters(&gate) && !enters(&gate));
    }

    #[tokio::test]
    async fn who_waits_is_counted_and_let_in() {
        let gate = Gate::new(1);
        assert!(enters(&gate));
        {
            let mut second = pin!(gate.enter());
            assert!(poll!(&mut second).is_pending());
            assert_eq!(gate.waiters(), 1);
            gate.leave();
            assert!(poll!(&mut second).is_ready());
        }
        assert_eq!(gate.waiters(), 0);
        drop(gate.enter());
        assert_eq!(gate.waiters(), 0, "one that gave up waits no more");
    }
}
