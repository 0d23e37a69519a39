use std::collections::HashMap;

use uuid::Uuid;

use super::*;

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

fn session(n: u128) -> Session {
    Session(Uuid::from_u128(n + 1))
}

fn board(sessions: u128) -> Board {
    let mut board = Board::default();
    (0..sessions).for_each(|n| board.join(session(n), Incarnation(Uuid::from_u128(n + 1))));
    board
}

fn plan(board: &mut Board) -> Vec<LeaseRequest> {
    board.plan(|_| true, |_| true)
}

fn wanted(requests: &[LeaseRequest]) -> Vec<(u128, u32)> {
    requests
        .iter()
        .flat_map(|r| &r.wants)
        .map(|want| (want.session.0.as_u128() - 1, want.max))
        .collect()
}

/// Deals `jobs` of a planned request round robin, as a store does, and hands them out.
fn deal(board: &mut Board, request: &LeaseRequest, mut jobs: u32) -> HashMap<Session, u32> {
    let mut got: HashMap<Session, u32> = HashMap::new();
    loop {
        let open = |want: &&Want| got.get(&want.session).copied().unwrap_or(0) < want.max;
        let round: Vec<Session> = request
            .wants
            .iter()
            .filter(open)
            .map(|want| want.session)
            .collect();
        if round.is_empty() || jobs == 0 {
            break;
        }
        for session in round.into_iter().take(jobs as usize) {
            *got.entry(session).or_default() += 1;
            jobs -= 1;
        }
    }
    board.landed(request);
    let mut handed = HashMap::new();
    for (&session, &count) in &got {
        let count = count.min(board.allowance(session, &request.queue));
        if count > 0 {
            let seq = board.next_seq(session);
            board.granted(session, &request.queue, seq, count);
            handed.insert(session, count);
        }
    }
    let wanted: u32 = request.wants.iter().map(|want| want.max).sum();
    let dealt: u32 = got.values().sum();
    let landing = if dealt < wanted {
        Landing::Unmet
    } else {
        Landing::Met
    };
    board.line_up(request, |session| handed.contains_key(&session), landing);
    handed
}

#[test]
fn nothing_is_asked_for_without_credit() {
    let mut board = board(1);
    board.mark(&queue("a"));
    board.credit(session(0), queue("a"), 0, 0);
    assert!(plan(&mut board).is_empty());
    board.credit(session(9), queue("a"), 5, 0);
    assert!(plan(&mut board).is_empty(), "a session that never joined");
}

#[test]
fn what_was_granted_after_the_seq_counts_against_free() {
    let mut board = board(1);
    let email = queue("email");
    board.credit(session(0), email.clone(), 5, 0);
    let requests = plan(&mut board);
    assert_eq!(wanted(&requests), [(0, 5)]);
    deal(&mut board, &requests[0], 3);
    // Sent before the grants were seen: two of the five are left.
    board.credit(session(0), email.clone(), 5, 0);
    assert_eq!(board.allowance(session(0), &email), 2);
    // Sent after: five more.
    board.credit(session(0), email.clone(), 5, 1);
    assert_eq!(board.allowance(session(0), &email), 5);
    // A seq from the future or the past changes nothing.
    board.credit(session(0), email.clone(), 5, 99);
    board.mark(&email);
    let requests = plan(&mut board);
    deal(&mut board, &requests[0], 4);
    assert_eq!(board.allowance(session(0), &email), 1);
    board.credit(session(0), email.clone(), 5, 0);
    assert_eq!(board.allowance(session(0), &email), 1);
}

#[test]
fn credit_in_flight_is_not_promised_twice() {
    let mut board = board(1);
    let email = queue("email");
    board.credit(session(0), email.clone(), 5, 0);
    let first = plan(&mut board);
    board.credit(session(0), email.clone(), 7, 0);
    board.mark(&email);
    let second = plan(&mut board);
    assert_eq!((wanted(&first), wanted(&second)), (vec![(0, 5)], vec![(0, 2)]));
    // The worker takes some back while the call is in flight: what comes beyond that is not handed out.
    board.credit(session(0), email.clone(), 1, 0);
    let handed = deal(&mut board, &first[0], 5);
    assert_eq!(handed[&session(0)], 1);
}

#[test]
fn single_jobs_go_round() {
    let mut board = board(3);
    let email = queue("email");
    (0..3).for_each(|n| board.credit(session(n), email.clone(), 10, 0));
    let mut order = Vec::new();
    for _ in 0..6 {
        board.mark(&email);
        let requests = plan(&mut board);
        order.extend(deal(&mut board, &requests[0], 1).into_keys());
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2].map(session));
}

#[test]
fn a_call_is_bounded_and_everyone_gets_a_turn() {
    let sessions = 600;
    let mut board = board(sessions);
    for name in ["a", "b"] {
        (0..sessions).for_each(|n| board.credit(session(n), queue(name), 50, 0));
    }
    let mut asked: HashMap<(QueueName, Session), u32> = HashMap::new();
    let mut calls = 0;
    while asked.len() < 2 * sessions as usize {
        let requests = plan(&mut board);
        let wants: usize = requests.iter().map(|request| request.wants.len()).sum();
        let grants: u32 = requests
            .iter()
            .flat_map(|request| &request.wants)
            .map(|want| want.max)
            .sum();
        assert!(wants <= WANTS_PER_CALL_MAX && grants <= GRANTS_PER_CALL_MAX && wants > 0);
        for request in requests {
            let total: u32 = request.wants.iter().map(|want| want.max).sum();
            request
                .wants
                .iter()
                .for_each(|want| *asked.entry((request.queue.clone(), want.session)).or_default() += 1);
            deal(&mut board, &request, total);
        }
        calls += 1;
        assert!(calls < 20, "{} of {} were asked for", asked.len(), 2 * sessions);
    }
}

#[test]
fn an_unmet_queue_waits_for_a_wake_or_the_fallback() {
    let mut board = board(1);
    board.credit(session(0), queue("a"), 2, 0);
    let requests = plan(&mut board);
    deal(&mut board, &requests[0], 1);
    assert!(plan(&mut board).is_empty());
    board.mark_hungry(false);
    assert_eq!(wanted(&plan(&mut board)), [(0, 1)]);
}

#[test]
fn credit_that_comes_during_a_call_waits_for_what_it_comes_to() {
    let mut board = board(2);
    let a = queue("a");
    board.credit(session(0), a.clone(), 2, 0);
    let requests = plan(&mut board);
    board.credit(session(1), a.clone(), 1, 0);
    assert!(plan(&mut board).is_empty(), "a call is in flight");
    deal(&mut board, &requests[0], 2);
    assert_eq!(
        wanted(&plan(&mut board)),
        [(1, 1)],
        "there was enough: there may be more"
    );
}

#[test]
fn a_submit_takes_along_what_is_waited_for_in_vain() {
    let mut board = board(2);
    let (a, b) = (queue("a"), queue("b"));
    let plan_for = |board: &mut Board| board.plan_for(&[queue("a"), queue("b")], |_| true, |_| true);
    board.credit(session(0), a.clone(), 2, 0);
    assert!(
        plan_for(&mut board).is_empty(),
        "nobody has asked yet: the usual way does"
    );
    let requests = plan(&mut board);
    assert!(plan_for(&mut board).is_empty(), "the usual way is asking");
    deal(&mut board, &requests[0], 0);
    board.credit(session(1), b, 1, 0);
    let requests = plan_for(&mut board);
    assert_eq!((requests.len(), wanted(&requests)), (1, vec![(0, 2)]));
    assert!(plan_for(&mut board).is_empty(), "it is asked for");
    deal(&mut board, &requests[0], 1);
    assert_eq!(board.allowance(session(0), &a), 1);
    assert_eq!(wanted(&plan_for(&mut board)), [(0, 1)]);
}

#[test]
fn a_store_that_will_wake_us_is_not_asked_for_more_credit() {
    let mut board = board(2);
    let a = queue("a");
    board.credit(session(0), a.clone(), 2, 0);
    let requests = plan(&mut board);
    deal(&mut board, &requests[0], 1);
    board.credit(session(0), a.clone(), 2, 1);
    board.credit(session(1), a.clone(), 3, 0);
    assert!(plan(&mut board).is_empty());
    board.mark(&a);
    let requests = plan(&mut board);
    assert_eq!(wanted(&requests), [(0, 2), (1, 3)], "a wake asks for everybody");
    // One that has not answered will not wake us.
    board.landed(&requests[0]);
    board.line_up(&requests[0], |_| false, Landing::Failed);
    assert!(plan(&mut board).is_empty());
    board.credit(session(1), a, 4, 0);
    assert_eq!(wanted(&plan(&mut board)), [(0, 2), (1, 4)]);
}

/// The store may have looked before the job came, and wakes no second time.
#[test]
fn a_wake_during_the_call_is_not_lost() {
    let mut board = board(1);
    let a = queue("a");
    board.credit(session(0), a.clone(), 2, 0);
    let requests = plan(&mut board);
    board.mark(&a);
    assert!(plan(&mut board).is_empty(), "it is being asked already");
    deal(&mut board, &requests[0], 0);
    let requests = plan(&mut board);
    assert_eq!(wanted(&requests), [(0, 2)], "asked again");
    deal(&mut board, &requests[0], 0);
    assert!(plan(&mut board).is_empty(), "once");
}

#[test]
fn a_queue_that_must_wait_and_a_stream_that_is_not_read_are_tried_again() {
    let mut board = board(2);
    board.credit(session(0), queue("a"), 2, 0);
    board.credit(session(1), queue("a"), 2, 0);
    assert!(board.plan(|_| false, |_| true).is_empty());
    board.mark_hungry(false);
    let requests = board.plan(|_| true, |other| other == session(1));
    assert_eq!(wanted(&requests), [(1, 2)]);
    deal(&mut board, &requests[0], 2);
    board.mark_hungry(false);
    assert_eq!(wanted(&plan(&mut board)), [(0, 2)]);
}

#[test]
fn who_leaves_is_forgotten_and_tells_where_it_took_jobs() {
    let mut board = board(1);
    board.credit(session(0), queue("a"), 2, 0);
    board.credit(session(0), queue("b"), 2, 0);
    let requests = plan(&mut board);
    deal(&mut board, &requests[0], 1);
    let left = board.leave(session(0));
    assert_eq!(left, [requests[0].queue.clone()]);
    deal(&mut board, &requests[1], 2);
    board.mark_hungry(true);
    assert!(plan(&mut board).is_empty() && board.queues.is_empty());
}

/// Random credits, calls in flight and deals: the worker's own count of what it may still get is never exceeded.
#[test]
fn credit_is_never_exceeded() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut board = board(3);
        let email = queue("email");
        // What the worker counts: jobs received with each seq, and its last credit as the router has it.
        let mut received: HashMap<Session, Vec<u32>> = HashMap::new();
        let mut promised: HashMap<Session, (u32, u64)> = HashMap::new();
        let mut flights: VecDeque<LeaseRequest> = VecDeque::new();
        for _ in 0..200 {
            let who = session(random.u128(0..3));
            match random.u8(0..4) {
                0 => {
                    let seen = received.entry(who).or_default().len() as u64;
                    let last = promised.get(&who).map_or(0, |(_, seq)| *seq);
                    let (free, seq) = (random.u32(0..20), random.u64(last..=seen));
                    board.credit(who, email.clone(), free, seq);
                    promised.insert(who, (free, seq));
                }
                1 => flights.extend(plan(&mut board)),
                2 => board.mark(&email),
                _ => {
                    let Some(request) = flights.pop_front() else {
                        continue;
                    };
                    for (who, jobs) in deal(&mut board, &request, random.u32(0..30)) {
                        let messages = received.entry(who).or_default();
                        messages.push(jobs);
                        let (free, seq) = promised[&who];
                        let after: u32 = messages[seq as usize..].iter().sum();
                        assert!(after <= free, "seed {seed}: {after} of {free}");
                    }
                }
            }
        }
    }
}
