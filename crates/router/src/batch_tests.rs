use std::sync::Mutex;

use tidegate_chassis::tasks::Tasks;
use tokio::sync::Notify;

use super::*;

const BOUNDS: Bounds = Bounds {
    items_max: 10,
    bytes_max: 100,
    in_flight_max: 1,
    queued_max: 8,
    queued_bytes_max: 1 << 20,
    skip_abandoned: true,
};

const CALLS: StoreCalls = StoreCalls {
    system: "memory",
    op: "test",
};

type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

/// A batcher whose calls wait for `gate`, and the sizes of the calls it made.
fn gated(bounds: Bounds) -> (Batcher<u32, u32>, Arc<Notify>, Calls, Tasks) {
    let tasks = Tasks::new(CancellationToken::new());
    let gate = Arc::new(Notify::new());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (batcher, owner) = batcher(bounds, CALLS, tasks.shutdown(), {
        let (gate, calls) = (gate.clone(), calls.clone());
        move |items: Vec<u32>| {
            let (gate, calls) = (gate.clone(), calls.clone());
            async move {
                gate.notified().await;
                calls.lock().unwrap().push(items.clone());
                items.into_iter().map(|n| n * 10).collect()
            }
        }
    });
    tasks.spawn("batcher", owner);
    (batcher, gate, calls, tasks)
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_call_is_in_flight_is_one_batch() {
    let (batcher, gate, calls, _tasks) = gated(BOUNDS);
    let call = |items: Vec<u32>| {
        let batcher = batcher.clone();
        async move { batcher.call(items, 1).await }
    };
    let all = futures_util::future::join_all([call(vec![1]), call(vec![2, 3]), call(vec![4])]);
    let open = async {
        for _ in 0..2 {
            tokio::task::yield_now().await;
            gate.notify_one();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let (answers, ()) = tokio::join!(all, open);
    assert_eq!(answers, [Ok(vec![10]), Ok(vec![20, 30]), Ok(vec![40])]);
    let calls = calls.lock().unwrap();
    let sizes: usize = calls.iter().map(Vec::len).sum();
    assert!(calls.len() <= 2 && sizes == 4, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_none_before_as_many_are_in_flight_as_may_be() {
    let (batcher, gate, calls, _tasks) = gated(Bounds {
        in_flight_max: 2,
        ..BOUNDS
    });
    let after = |ms, item| {
        let batcher = batcher.clone();
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            batcher.call(vec![item], 1).await
        }
    };
    let all = futures_util::future::join_all([after(0, 1), after(1, 2), after(2, 3), after(3, 4)]);
    let open = async {
        tokio::time::sleep(std::time::Duration::from_millis(4)).await;
        // Whoever waits at the gate by now, and nobody else.
        gate.notify_waiters();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(*calls.lock().unwrap(), [[1], [2]]);
        gate.notify_one();
    };
    let (answers, ()) = tokio::join!(all, open);
    assert_eq!(answers, [Ok(vec![10]), Ok(vec![20]), Ok(vec![30]), Ok(vec![40])]);
    assert_eq!(
        calls.lock().unwrap()[2],
        [3, 4],
        "what has come meanwhile is one batch"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_stay_within_items_and_bytes() {
    let (batcher, gate, calls, _tasks) = gated(BOUNDS);
    let groups = [
        (vec![0; 1], 1),
        (vec![0; 6], 1),
        (vec![0; 6], 1),
        (vec![0; 2], 99),
        (vec![0; 2], 99),
    ];
    let all = futures_util::future::join_all(groups.map(|(items, bytes)| {
        let batcher = batcher.clone();
        async move { batcher.call(items, bytes).await.map(|answers| answers.len()) }
    }));
    let open = async {
        for _ in 0..5 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            gate.notify_one();
        }
    };
    let (answers, ()) = tokio::join!(all, open);
    assert_eq!(answers, [Ok(1), Ok(6), Ok(6), Ok(2), Ok(2)]);
    assert!(
        calls
            .lock()
            .unwrap()
            .iter()
            .all(|call| call.len() <= BOUNDS.items_max)
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let (batcher, _gate, _calls, tasks) = gated(BOUNDS);
    let group = tasks.group("callers", 64);
    for _ in 0..BOUNDS.queued_max + 1 {
        let batcher = batcher.clone();
        group
            .spawn(async move { drop(batcher.call(vec![1], 1).await) })
            .unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(batcher.call(vec![1], 1).await, Err(NotTried::Full));
    let (small, _gate, _calls, _tasks) = gated(Bounds {
        queued_bytes_max: 1024,
        ..BOUNDS
    });
    assert_eq!(small.call(vec![1], 2048).await, Err(NotTried::Full));
}

#[tokio::test(start_paused = true)]
async fn callers_that_went_away_are_skipped() {
    let (batcher, gate, calls, _tasks) = gated(BOUNDS);
    let first = batcher.call(vec![1], 1);
    // Queued while the first call is in flight, and given up before it ends.
    let gone = async {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        tokio::time::timeout(std::time::Duration::from_millis(5), batcher.call(vec![2], 1)).await
    };
    let open = async {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        gate.notify_one();
    };
    let (first, gone, ()) = tokio::join!(first, gone, open);
    assert!(first.is_ok() && gone.is_err());
    gate.notify_one();
    assert_eq!(batcher.call(vec![3], 1).await, Ok(vec![30]));
    assert!(!calls.lock().unwrap().concat().contains(&2));
}

#[tokio::test(start_paused = true)]
async fn it_works_off_its_queue_when_told_to_stop() {
    let (batcher, gate, _calls, tasks) = gated(BOUNDS);
    let stop = tasks.shutdown();
    let (answer, (), ended) = tokio::join!(
        batcher.call(vec![7], 1),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            stop.cancel();
            gate.notify_one();
        },
        tasks.run(),
    );
    assert_eq!((answer, ended.is_ok()), (Ok(vec![70]), true));
    assert_eq!(batcher.call(vec![8], 1).await, Err(NotTried::Closed));
}
