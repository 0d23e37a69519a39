//! Whether asking a service that fails makes sense at all.
//!
//! A caller that waits for a dead store holds memory and a connection for nothing, and a store that comes back under the
//! whole waiting load dies again. So after a run of failures calls are refused at once, and the way back is tried with a
//! few calls only. A failed *probe* never opens it: probes and calls may fail for different reasons (a store that is full
//! answers a ping), and what is guarded is the calls. For the same reason a good probe only allows a trial.
//!
//! Time is an argument, in milliseconds of any monotonic clock.

/// Failures in a row that open it. Fewer would let one lost connection refuse everyone.
pub const FAILURES_TO_OPEN: u32 = 5;
/// Open at most this long: then a trial is made even without a good probe.
pub const OPEN_MS_MAX: u64 = 60_000;
/// Calls let through for a trial.
pub const TRIALS: u32 = 3;
/// A trial that has said nothing for this long (its caller gave up) is made again.
pub const TRIAL_MS_MAX: u64 = 10_000;
/// Probes come once a second, so a refused caller need not ask earlier.
pub const RETRY_AFTER_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub const ALL: [State; 3] = [State::Closed, State::Open, State::HalfOpen];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    /// When `state` was entered.
    since_ms: u64,
    /// In a row; counts only while closed.
    failures: u32,
    trials_left: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            since_ms: 0,
            failures: 0,
            trials_left: 0,
        }
    }
}

impl Breaker {
    pub fn state(&self) -> State {
        self.state
    }

    /// How long a caller should wait, if no call can be made now. Changes nothing: a trial is for who then makes it.
    pub fn refuses(&self, now_ms: u64) -> Option<u64> {
        let in_state_ms = now_ms.saturating_sub(self.since_ms);
        (self.state == State::Open && in_state_ms < OPEN_MS_MAX).then_some(RETRY_AFTER_MS)
    }

    /// Whether a call may be made now; else how long its caller should wait.
    pub fn admit(&mut self, now_ms: u64) -> Result<(), u64> {
        if self.state == State::Closed {
            return Ok(());
        }
        let in_state_ms = now_ms.saturating_sub(self.since_ms);
        match self.state {
            State::Open if in_state_ms >= OPEN_MS_MAX => self.enter(State::HalfOpen, now_ms),
            State::HalfOpen if in_state_ms >= TRIAL_MS_MAX => self.enter(State::HalfOpen, now_ms),
            _ => {}
        }
        if self.state == State::HalfOpen && self.trials_left > 0 {
            self.trials_left -= 1;
            return Ok(());
        }
        Err(RETRY_AFTER_MS)
    }

    /// A call was answered. Answers of calls from before it opened change nothing.
    pub fn on_success(&mut self, now_ms: u64) {
        match self.state {
            State::Closed => self.failures = 0,
            State::HalfOpen => self.enter(State::Closed, now_ms),
            State::Open => {}
        }
    }

    pub fn on_failure(&mut self, now_ms: u64) {
        match self.state {
            State::Closed => {
                self.failures += 1;
                if self.failures >= FAILURES_TO_OPEN {
                    self.enter(State::Open, now_ms);
                }
            }
            State::HalfOpen => self.enter(State::Open, now_ms),
            State::Open => {}
        }
    }

    /// A probe was answered: time for a trial.
    pub fn on_probe_success(&mut self, now_ms: u64) {
        if self.state == State::Open {
            self.enter(State::HalfOpen, now_ms);
        }
    }

    fn enter(&mut self, state: State, now_ms: u64) {
        self.state = state;
        self.since_ms = now_ms;
        self.failures = 0;
        self.trials_left = if state == State::HalfOpen { TRIALS } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        (0..FAILURES_TO_OPEN).for_each(|_| breaker.on_failure(0));
        assert_eq!(breaker.state(), State::Open);
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            (1..FAILURES_TO_OPEN).for_each(|_| breaker.on_failure(0));
            breaker.on_success(0);
        }
        assert_eq!((breaker.state(), breaker.admit(0)), (State::Closed, Ok(())));
        assert_eq!(opened().admit(1), Err(RETRY_AFTER_MS));
    }

    #[test]
    fn a_probe_allows_a_few_trials_and_one_success_closes_it() {
        let mut breaker = opened();
        breaker.on_probe_success(1_000);
        assert_eq!(
            (0..10).filter(|_| breaker.admit(1_001).is_ok()).count() as u32,
            TRIALS
        );
        breaker.on_success(1_002);
        assert_eq!((breaker.state(), breaker.admit(1_002)), (State::Closed, Ok(())));
    }

    #[test]
    fn a_failed_trial_opens_it_again() {
        let mut breaker = opened();
        breaker.on_probe_success(1_000);
        assert_eq!(breaker.admit(1_000), Ok(()));
        breaker.on_failure(1_001);
        assert_eq!(
            (breaker.state(), breaker.admit(1_002)),
            (State::Open, Err(RETRY_AFTER_MS))
        );
    }

    #[test]
    fn late_answers_do_not_close_it() {
        let mut breaker = opened();
        breaker.on_success(1);
        breaker.on_failure(1);
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn without_probes_a_trial_comes_by_time() {
        let mut breaker = opened();
        assert!(breaker.admit(OPEN_MS_MAX - 1).is_err());
        assert_eq!(breaker.refuses(OPEN_MS_MAX - 1), Some(RETRY_AFTER_MS));
        assert_eq!(breaker.refuses(OPEN_MS_MAX), None);
        assert_eq!(
            (breaker.admit(OPEN_MS_MAX), breaker.state()),
            (Ok(()), State::HalfOpen)
        );
    }

    #[test]
    fn trials_nobody_answers_are_made_again() {
        let mut breaker = opened();
        breaker.on_probe_success(0);
        while breaker.admit(0).is_ok() {}
        assert!(breaker.admit(TRIAL_MS_MAX - 1).is_err());
        assert!(breaker.admit(TRIAL_MS_MAX).is_ok());
    }
}
