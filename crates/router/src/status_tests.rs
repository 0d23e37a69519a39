use super::*;

fn queue() -> QueueName {
    "email".parse().unwrap()
}

#[test]
fn every_store_error_has_a_code_and_a_reason() {
    let id: JobId = "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".parse().unwrap();
    let secret = || "redis://:hunter2@db".to_owned();
    let cases = [
        (
            StoreError::Unavailable(secret()),
            Code::Unavailable,
            reason::STORE_UNAVAILABLE,
            true,
        ),
        (
            StoreError::Unknown(secret()),
            Code::Unavailable,
            reason::OUTCOME_UNKNOWN,
            true,
        ),
        (
            StoreError::Busy(secret()),
            Code::Unavailable,
            reason::STORE_BUSY,
            true,
        ),
        (
            StoreError::Full(secret()),
            Code::ResourceExhausted,
            reason::STORE_FULL,
            true,
        ),
        (
            StoreError::ReadOnly(secret()),
            Code::Unavailable,
            reason::STORE_READ_ONLY,
            true,
        ),
        (
            StoreError::Unconfirmed {
                confirmed: 0,
                wanted: 1,
            },
            Code::Unavailable,
            reason::DURABILITY_UNCONFIRMED,
            true,
        ),
        (
            StoreError::Corrupt(secret()),
            Code::DataLoss,
            reason::STORE_CORRUPT,
            false,
        ),
        (
            StoreError::Invalid(secret()),
            Code::InvalidArgument,
            reason::INVALID_ARGUMENT,
            false,
        ),
        (
            StoreError::QueueFull { depth: 1, max: 1 },
            Code::ResourceExhausted,
            reason::QUEUE_FULL,
            true,
        ),
        (
            StoreError::KeysFull { max: 1 },
            Code::ResourceExhausted,
            reason::KEYS_FULL,
            true,
        ),
        (
            StoreError::KeyReused { id },
            Code::AlreadyExists,
            reason::IDEMPOTENCY_KEY_REUSED,
            false,
        ),
    ];
    for (error, code, why, retry) in cases {
        let refusal = Refusal::store(&error, &queue());
        let (item, status) = (refusal.clone().into_item(), refusal.into_status());
        assert_eq!((status.code(), item.code), (code, i32::from(code)), "{error}");
        let details = status.get_error_details();
        let info = details.error_info().expect("exactly one ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (why, "tidegate"));
        assert_eq!(item.reason, why);
        assert_eq!(
            status
                .get_error_details_vec()
                .iter()
                .filter(|d| is_info(d))
                .count(),
            1
        );
        assert_eq!(
            (details.retry_info().is_some(), item.retry_after_ms > 0),
            (retry, retry),
            "{error}"
        );
        assert_eq!(status.metadata().contains_key(PUSHBACK), retry, "{error}");
        assert_eq!(
            details.quota_failure().is_some(),
            code == Code::ResourceExhausted,
            "{error}"
        );
        assert!(
            !format!("{status:?}{item:?}").contains("hunter2"),
            "the store's text stays inside"
        );
    }
}

fn is_info(detail: &tonic_types::ErrorDetail) -> bool {
    matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_))
}

#[test]
fn a_full_queue_names_its_quota_and_the_pushback_equals_the_retry_info() {
    let status = Refusal::store(&StoreError::QueueFull { depth: 5, max: 5 }, &queue()).into_status();
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "queue:email"
    );
    let pushback: u64 = status
        .metadata()
        .get(PUSHBACK)
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        u128::from(pushback),
        details.retry_info().unwrap().retry_delay.unwrap().as_millis()
    );
}

#[test]
fn a_wrong_request_names_its_field() {
    let invalid = Invalid::new("queue", reason::INVALID_QUEUE_NAME, "no").within("jobs[2]");
    let item = Refusal::from(invalid.clone()).into_item();
    assert_eq!(item.metadata["field"], "jobs[2].queue");
    let details = Refusal::from(invalid).into_status().get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "jobs[2].queue"
    );
    assert_eq!(details.error_info().unwrap().metadata["field"], "jobs[2].queue");
}
