//! Why a decision is what it is: one code each, with the numbers that led to it.

use crate::codec::plain_choice;

macro_rules! reasons {
    ($($name:ident $code:literal $why:literal,)*) => {
        /// One for each decision. The codes are on the wire and in the history: none is ever reused for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $why] $name,)*
        }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => $code,)*
                }
            }

            /// The reason in words, for an operator.
            pub fn why(self) -> &'static str {
                match self {
                    $(Reason::$name => $why,)*
                }
            }
        }
    };
}

reasons! {
    Cold "COLD" "it has just been met and starts from here",
    Demand "DEMAND" "this is what its jobs need",
    StepCap "STEP_CAP" "it asks for more, and a tick moves only so far",
    Hysteresis "HYSTERESIS" "nothing asks for a change that is worth one",
    IdleDecay "IDLE_DECAY" "it uses less than it has and nothing waits",
    HardCap "HARD_CAP" "a resource has no more to give",
    PoolSaturation "POOL_SATURATION" "other users of the resource need what is left of it",
    LatencyCut "LATENCY_CUT" "jobs have become slower with more of them",
    Rebase "REBASE" "jobs are slower whatever runs: not because of this load",
    ProbeUp "PROBE_UP" "jobs run at their usual speed again: a little more is tried",
    GradientProbe "GRADIENT_PROBE" "a little more is tried, to see whether more gets done",
    GradientUp "GRADIENT_UP" "with more running more gets done",
    GradientRevert "GRADIENT_REVERT" "with more running no more gets done",
    ErrorCut "ERROR_CUT" "its jobs fail or its downstream refuses them",
    ErrRebase "ERR_REBASE" "jobs fail whatever runs: not because of this load",
    StoreLatency "STORE_LATENCY" "the job store answers too slowly to be safe",
    BreakerOpen "BREAKER_OPEN" "its downstream is gone; a few jobs try it",
    BreakerReopen "BREAKER_REOPEN" "its downstream answers again and is loaded step by step",
    Floor "FLOOR" "it is at its floor",
    Draining "DRAINING" "a raise waits for slots that other queues still hold",
    NoWorkers "NO_WORKERS" "the connected workers have no more slots for it",
    Learning "LEARNING" "this controller has just taken over and looks on",
    Manual "MANUAL" "an operator has said so",
}

plain_choice!(Reason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_upper_snake_and_differ() {
        let mut codes: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert!(
            codes
                .iter()
                .all(|code| code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        );
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
