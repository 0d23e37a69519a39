//! Handlers that nothing ends, on all slots or all threads.

use super::*;

#[test]
fn a_worker_whose_slots_or_threads_are_all_held_for_long_gives_up() {
    for (slots, untaken, gives_up) in [(2, false, true), (3, true, true), (3, false, false)] {
        let mut core = connected(slots);
        granted(&mut core, 10, 1, vec![grant(1), grant(2)]);
        core.tick(8_000).expect("fenced");
        core.watch_handlers(9_000, untaken).expect("not overdue yet");
        core.tick(10_000).expect("only two");
        for now_ms in (10_000..20_000).step_by(1_000) {
            core.watch_handlers(now_ms, untaken).expect("they may end yet");
        }
        assert_eq!(core.watch_handlers(20_000, untaken).is_err(), gives_up, "{slots}");
        ended_at(&mut core, 20_000, 2, done());
        core.watch_handlers(20_001, untaken).expect("it moves");
    }
}
