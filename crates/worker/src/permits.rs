//! How many jobs of each queue may run here, and how much credit the router is offered. Pure: the time is counted in
//! ticks that the caller makes.
//!
//! A permit is the right to run one job. A queue's permits are its target (its slots until a controller says otherwise),
//! or less while one of the worker's own reflexes limits it; all queues together have `slots`. Lowering a target takes
//! permits only as jobs end: nothing that runs is killed.
//!
//! **How free slots become credit.** The router may grant all of every queue's credit in one instant, so the credits must
//! not add up to more than the free slots: offering all free slots to every queue would mean to hand back most of what is
//! granted, and a job that is handed back has been moved through the store for nothing. So free slots are *divided*:
//!
//! 1. A queue is *demanding* from a grant until it leaves an offer untouched for [`IDLE_TICKS`].
//! 2. While some queue is demanding, an eighth of the slots may stand ready for the others: one for each, in rotation
//!    when they are more than that. Below eight slots one slot is lent for a while and then not for seven times as long,
//!    counted from when there was one to lend, so that the share stays an eighth whatever the jobs' rhythm. This is what
//!    keeps a queue that gets its first job in hours from waiting for ever behind a busy one.
//! 3. The rest goes to the demanding queues so that their running jobs become as equal as their targets allow; where one
//!    slot is left, to whoever was granted least recently.
//! 4. What is left, or all of it when nobody is demanding, is spread evenly over the others.
//!
//! An offer that is withdrawn may cross a grant on the wire. Only then can more arrive than there are slots, and
//! [`Permits::take`] refuses it: it is handed back. Rotation moves only offers that stood untouched, so this is rare.

use std::collections::HashMap;

use tidegate_protocol::domain::QueueName;

/// Longer than a router needs to answer an offer when it has jobs, short against a person's wait.
pub(crate) const TICK_MS: u64 = 50;
/// An offer that stood this long, less what was left of the first tick, has been seen by the router.
const STAND_TICKS: u32 = 2;
/// Untouched for that long: no demand now. A wrong guess costs little, the next grant corrects it.
const IDLE_TICKS: u32 = STAND_TICKS;
/// One slot in this many may stand ready for queues without demand.
const EXPLORE_SHARE: u32 = 8;

#[derive(Debug)]
struct Queue {
    name: QueueName,
    target: u32,
    /// A reflex lowers the target to this.
    limit: Option<u32>,
    in_use: u32,
    /// Credit that the router may still grant, as far as we know.
    offered: u32,
    demanding: bool,
    idle_ticks: u32,
    /// Number of its newest grant, over all queues.
    granted: u64,
}

impl Queue {
    fn permits(&self) -> u32 {
        self.limit.map_or(self.target, |limit| limit.min(self.target))
    }

    fn room(&self) -> u32 {
        self.permits().saturating_sub(self.in_use)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Permits {
    slots: u32,
    queues: Vec<Queue>,
    index: HashMap<QueueName, usize>,
    in_use: u32,
    /// Grants ever.
    granted: u64,
    /// Whose turn it is among the queues without demand.
    cursor: usize,
    /// The rotation's offers that stand: for how many ticks, and whose turn is next.
    window: Option<(u32, usize)>,
    /// Below [`EXPLORE_SHARE`] slots: whether one may be lent, and the slot-ticks that were worked since the last time.
    lend: bool,
    worked: u32,
    /// Draining: no credit any more.
    closed: bool,
}

/// What a controller and the metrics see of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) queue: QueueName,
    pub(crate) target: u32,
    pub(crate) in_use: u32,
}

impl Permits {
    pub(crate) fn new(slots: u32, names: impl IntoIterator<Item = QueueName>) -> Self {
        let queue = |name| Queue {
            name,
            target: slots,
            limit: None,
            in_use: 0,
            offered: 0,
            demanding: false,
            idle_ticks: 0,
            granted: 0,
        };
        let queues: Vec<Queue> = names.into_iter().map(queue).collect();
        let index = queues
            .iter()
            .enumerate()
            .map(|(i, queue)| (queue.name.clone(), i))
            .collect();
        Self {
            slots,
            queues,
            index,
            in_use: 0,
            granted: 0,
            cursor: 0,
            window: None,
            lend: true,
            worked: 0,
            closed: false,
        }
    }

    /// How many jobs of the queue may run here from now on. What runs goes on.
    pub(crate) fn set_target(&mut self, queue: &QueueName, target: u32) {
        if let Some(queue) = self.get(queue) {
            queue.target = target;
        }
    }

    /// `None`: the queue is not ours.
    pub(crate) fn target(&self, queue: &QueueName) -> Option<u32> {
        let index = self.index.get(queue)?;
        Some(self.queues[*index].target.min(self.slots))
    }

    /// Its target, or what still runs of a higher one. `None`: the queue is not ours.
    pub(crate) fn held(&self, queue: &QueueName) -> Option<u32> {
        let index = self.index.get(queue)?;
        Some(self.target(queue)?.max(self.queues[*index].in_use))
    }

    /// Lowers the permits below the target; `None`: not any more.
    pub(crate) fn set_limit(&mut self, queue: &QueueName, limit: Option<u32>) {
        if let Some(queue) = self.get(queue) {
            queue.limit = limit;
        }
    }

    /// No credit any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The router of a new stream knows of no credit.
    pub(crate) fn new_stream(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.offered = 0);
    }

    /// Takes a permit for a granted job. `false`: every slot or permit is taken (the target was lowered while the grant
    /// was on its way), or the queue is not ours; hand the job back.
    pub(crate) fn take(&mut self, queue: &QueueName) -> bool {
        let full = self.in_use >= self.slots;
        self.granted += 1;
        let number = self.granted;
        let Some(queue) = self.get(queue) else {
            return false;
        };
        queue.offered = queue.offered.saturating_sub(1);
        queue.demanding = true;
        queue.idle_ticks = 0;
        queue.granted = number;
        if full || queue.room() == 0 {
            return false;
        }
        queue.in_use += 1;
        self.in_use += 1;
        true
    }

    /// The job has ended.
    pub(crate) fn give_back(&mut self, queue: &QueueName) {
        if let Some(queue) = self.get(queue) {
            queue.in_use = queue.in_use.saturating_sub(1);
            self.in_use = self.in_use.saturating_sub(1);
        }
    }

    pub(crate) fn usage(&self) -> impl Iterator<Item = Usage> {
        self.queues.iter().map(|queue| Usage {
            queue: queue.name.clone(),
            target: queue.target.min(self.slots),
            in_use: queue.in_use,
        })
    }

    /// Whether time alone changes the offers: someone's demand may end, or queues take turns.
    pub(crate) fn wants_ticks(&self) -> bool {
        let free = self.slots.saturating_sub(self.in_use) as usize;
        !self.closed
            && self.queues.len() > 1
            && (free < self.queues.len() || self.queues.iter().any(|queue| queue.demanding))
    }

    /// [`TICK_MS`] have passed.
    pub(crate) fn tick(&mut self) {
        for queue in self
            .queues
            .iter_mut()
            .filter(|queue| queue.demanding && queue.offered > 0)
        {
            queue.idle_ticks += 1;
            queue.demanding = queue.idle_ticks < IDLE_TICKS;
        }
        match &mut self.window {
            Some((ticks, _)) if *ticks + 1 < STAND_TICKS => *ticks += 1,
            Some((_, next)) => {
                self.cursor = *next;
                self.window = None;
                self.lend = false;
                self.worked = 0;
            }
            None => {}
        }
        // Lent for STAND_TICKS, so earned by EXPLORE_SHARE times as many. With eight slots or more that is at once.
        self.worked = self.worked.saturating_add(self.slots);
        self.lend |= self.worked >= EXPLORE_SHARE * STAND_TICKS;
    }

    /// The credits to send now: those that changed. `held_back` slots are not offered although they are free.
    pub(crate) fn offers(&mut self, held_back: u32) -> Vec<(QueueName, u32)> {
        let (wanted, next) = self.divide(held_back);
        // The turn is over when the first offers of it have stood long enough.
        self.window = next
            .map(|next| (self.window.map_or(0, |(ticks, _)| ticks), next))
            .or(self.window);
        let mut changed = Vec::new();
        for (queue, free) in self.queues.iter_mut().zip(wanted) {
            if queue.offered != free {
                queue.offered = free;
                changed.push((queue.name.clone(), free));
            }
        }
        changed
    }

    /// Whether the router has credit for half of every queue's permits, so that no job waits for credit that is told late.
    pub(crate) fn is_roomy(&self) -> bool {
        self.queues
            .iter()
            .all(|queue| 2 * queue.offered >= queue.permits())
    }

    /// Whether [`Self::offers`] would say something.
    pub(crate) fn has_offers(&self, held_back: u32) -> bool {
        let (wanted, _) = self.divide(held_back);
        self.queues
            .iter()
            .zip(wanted)
            .any(|(queue, free)| queue.offered != free)
    }

    /// Credit for each queue; and, if not every queue without demand got some, whose turn is next.
    fn divide(&self, held_back: u32) -> (Vec<u32>, Option<usize>) {
        let mut offers = vec![0; self.queues.len()];
        if self.closed {
            return (offers, None);
        }
        let mut free = self.slots.saturating_sub(self.in_use).saturating_sub(held_back);
        let in_turn = (0..self.queues.len()).map(|i| (i + self.cursor) % self.queues.len());
        let (mut demanding, others): (Vec<usize>, Vec<usize>) = in_turn
            .filter(|i| self.queues[*i].room() > 0)
            .partition(|i| self.queues[*i].demanding);
        demanding.sort_by_key(|i| self.queues[*i].granted);
        if !demanding.is_empty() {
            for i in others.iter().take(self.explore().min(free) as usize) {
                offers[*i] = 1;
                free -= 1;
            }
            free = self.fill(&demanding, free, &mut offers);
        }
        self.fill(&others, free, &mut offers);
        let offered = others.iter().take_while(|i| offers[**i] > 0).count();
        let next = 0 < offered && (offered < others.len() || self.slots < EXPLORE_SHARE);
        let next = next.then(|| others[offered % others.len()]);
        (offers, next)
    }

    /// Slots that may stand ready for queues without demand.
    fn explore(&self) -> u32 {
        match self.slots / EXPLORE_SHARE {
            0 => u32::from(self.lend),
            share => share,
        }
    }

    /// Raises running plus offered of `members` to one level, as far as `free` goes and their targets allow. Gives back
    /// what is left.
    fn fill(&self, members: &[usize], free: u32, offers: &mut [u32]) -> u32 {
        let level_of = |i: usize, offers: &[u32]| self.queues[i].in_use + offers[i];
        let raise = |level: u32, i: usize, offers: &[u32]| {
            let room = self.queues[i].room().saturating_sub(offers[i]);
            level.saturating_sub(level_of(i, offers)).min(room)
        };
        let need = |level: u32| -> u64 { members.iter().map(|i| u64::from(raise(level, *i, offers))).sum() };
        // The highest level that can be paid in full.
        let (mut low, mut high) = (0, self.slots);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if need(middle) <= u64::from(free) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let raises: Vec<u32> = members.iter().map(|i| raise(low, *i, offers)).collect();
        let mut left = free;
        for (i, raise) in members.iter().zip(raises) {
            offers[*i] += raise;
            left -= raise;
        }
        // Less than one each is left: in the order that was given.
        for i in members {
            if left > 0 && raise(low + 1, *i, offers) > 0 {
                offers[*i] += 1;
                left -= 1;
            }
        }
        left
    }

    fn get(&mut self, queue: &QueueName) -> Option<&mut Queue> {
        self.index.get(queue).map(|i| &mut self.queues[*i])
    }
}

#[cfg(test)]
#[path = "permits_tests.rs"]
mod tests;
