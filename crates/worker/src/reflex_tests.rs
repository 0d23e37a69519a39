use super::*;
use crate::JobError;

const DOWN: Sign = Sign::Failure(FailureClass::Down);
const OVERLOAD: Sign = Sign::Failure(FailureClass::Overload);
const ERROR: Sign = Sign::Failure(FailureClass::Error);
const JOB: Sign = Sign::Failure(FailureClass::Job);

fn queue() -> QueueName {
    "email".parse().expect("valid")
}

/// Five failures at 0.
fn down() -> Reflexes {
    let mut reflexes = Reflexes::default();
    let set_in: Vec<bool> = (0..5).map(|_| reflexes.on(0, &queue(), DOWN)).collect();
    assert_eq!(set_in, [false, false, false, false, true]);
    reflexes
}

fn limit(reflexes: &mut Reflexes, now_ms: u64) -> Option<u32> {
    reflexes.tick(now_ms);
    reflexes.limit(now_ms, &queue(), 10)
}

#[test]
fn only_five_in_a_row_mean_down() {
    for between in [Sign::Success, ERROR, OVERLOAD] {
        let mut reflexes = Reflexes::default();
        (0..4).for_each(|_| assert!(!reflexes.on(0, &queue(), DOWN)));
        reflexes.on(0, &queue(), between);
        (0..4).for_each(|_| assert!(!reflexes.on(0, &queue(), DOWN)));
        assert!(!reflexes.is_down(&queue()), "{between:?}");
        assert!(
            reflexes.on(0, &queue(), JOB) || reflexes.on(0, &queue(), DOWN),
            "the job's own fault does not count"
        );
    }
}

#[test]
fn a_dead_downstream_is_asked_rarely_and_one_at_a_time() {
    let mut reflexes = down();
    let mut now_ms = 0;
    for wait_ms in [500, 1_000, 2_000, 4_000, 5_000, 5_000] {
        assert_eq!(reflexes.wake_at_ms(), now_ms + wait_ms);
        assert_eq!(limit(&mut reflexes, now_ms + wait_ms - 1), Some(0));
        now_ms += wait_ms;
        assert_eq!(limit(&mut reflexes, now_ms), Some(1));
        assert!(!reflexes.on(now_ms, &queue(), DOWN), "it is known already");
    }
}

#[test]
fn the_first_success_ends_it_and_an_error_does_not() {
    let mut reflexes = down();
    limit(&mut reflexes, 500);
    reflexes.on(510, &queue(), ERROR);
    assert!(reflexes.is_down(&queue()));
    assert_eq!(limit(&mut reflexes, 600), Some(0));
    assert_eq!(limit(&mut reflexes, 1_510), Some(1));
    reflexes.on(1_520, &queue(), JOB);
    assert!(reflexes.is_down(&queue()), "says nothing");
    reflexes.on(1_530, &queue(), Sign::Success);
    assert_eq!(limit(&mut reflexes, 1_530), None);
    assert!(!reflexes.is_down(&queue()));
}

#[test]
fn a_success_from_before_does_not_end_it() {
    let mut reflexes = down();
    reflexes.on(1, &queue(), Sign::Success);
    assert!(reflexes.is_down(&queue()));
}

#[test]
fn overload_halves_the_target_for_a_second_and_once_a_second() {
    let mut reflexes = Reflexes::default();
    assert!(reflexes.on(100, &queue(), OVERLOAD));
    assert!(!reflexes.on(600, &queue(), OVERLOAD), "the same overload");
    assert_eq!(limit(&mut reflexes, 1_099), Some(5));
    assert_eq!(reflexes.limit(1_000, &queue(), 1), Some(1), "at least one");
    assert_eq!(limit(&mut reflexes, 1_100), None);
    assert!(reflexes.on(1_100, &queue(), OVERLOAD));
    assert_eq!(
        limit(&mut reflexes, 1_200),
        Some(5),
        "half of the target, not of the half"
    );
}

#[test]
fn other_queues_do_not_care() {
    let reflexes = down();
    let other = "other".parse().expect("valid");
    assert_eq!(
        (reflexes.limit(0, &other, 3), reflexes.is_down(&other)),
        (None, false)
    );
}

#[test]
fn classes_decide_how_an_attempt_is_settled() {
    use FailureClass::{Down, Error, Job, Overload};
    let retry = |class| Verdict::from(JobError::retry("x").with_class(class));
    let kind = |reflexes: &Reflexes, verdict| reflexes.settle_as(100, &queue(), verdict).outcome;
    let throttled = |after_ms| Outcome::Throttled {
        error: "x".to_owned(),
        after_ms,
    };
    let calm = Reflexes::default();
    assert_eq!(kind(&calm, retry(Overload)), throttled(0));
    for class in [Down, Error, Job] {
        assert_eq!(kind(&calm, retry(class)), retry(class).outcome, "{class:?}");
    }
    let down = down();
    assert_eq!(kind(&down, retry(Down)), throttled(400), "until the next try");
    let patient = JobError::retry_after("x", std::time::Duration::from_secs(9)).with_class(Down);
    assert_eq!(kind(&down, patient.into()), throttled(9_000));
    for class in [Error, Job] {
        assert_eq!(kind(&down, retry(class)), retry(class).outcome, "{class:?}");
    }
    let dead = || Verdict::from(JobError::failed("x").with_class(Down));
    assert_eq!(
        kind(&down, dead()),
        dead().outcome,
        "the handler's word on it counts"
    );
}

#[test]
fn only_what_ran_to_an_end_is_a_sign() {
    let of = |outcome, class| Sign::of(&Verdict { outcome, class });
    let error = String::new();
    assert_eq!(
        of(
            Outcome::Released { error: error.clone() },
            Some(FailureClass::Down)
        ),
        Sign::None
    );
    assert_eq!(of(Outcome::Retry { error, after_ms: 0 }, None), Sign::None);
    assert_eq!(Sign::of(&Verdict::succeeded("")), Sign::Success);
    assert_eq!(
        Sign::of(&JobError::throttled("x", std::time::Duration::ZERO).into()),
        OVERLOAD
    );
}
