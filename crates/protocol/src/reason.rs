//! ErrorInfo reasons and the reasons a job ended: UPPER_SNAKE words that programs may match on. Each has a line in
//! docs/reference/errors.md.

/// ErrorInfo domain of every error of ours.
pub const DOMAIN: &str = "tidegate";

// Requests that can never succeed as they are.
pub const INVALID_QUEUE_NAME: &str = "INVALID_QUEUE_NAME";
pub const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
pub const INVALID_JOB_ID: &str = "INVALID_JOB_ID";
pub const INVALID_PAGE: &str = "INVALID_PAGE";
pub const PAYLOAD_TOO_LARGE: &str = "PAYLOAD_TOO_LARGE";
pub const BATCH_TOO_LARGE: &str = "BATCH_TOO_LARGE";
pub const MALFORMED_MESSAGE: &str = "MALFORMED_MESSAGE";
pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
pub const INVALID_HEADER: &str = "INVALID_HEADER";
pub const INVALID_KEY: &str = "INVALID_KEY";
pub const INVALID_PAYLOAD: &str = "INVALID_PAYLOAD";
pub const INVALID_TIME: &str = "INVALID_TIME";

// Requests that meet the state of things.
pub const JOB_NOT_FOUND: &str = "JOB_NOT_FOUND";
pub const QUEUE_NOT_FOUND: &str = "QUEUE_NOT_FOUND";
pub const POLICY_NOT_FOUND: &str = "POLICY_NOT_FOUND";
pub const RESOURCE_NOT_FOUND: &str = "RESOURCE_NOT_FOUND";
pub const RESOURCE_IN_USE: &str = "RESOURCE_IN_USE";
pub const BUDGET_EXCEEDED: &str = "BUDGET_EXCEEDED";
pub const WRONG_STATE: &str = "WRONG_STATE";
pub const IDEMPOTENCY_KEY_REUSED: &str = "IDEMPOTENCY_KEY_REUSED";
pub const IDEMPOTENCY_KEY_TAKEN: &str = "IDEMPOTENCY_KEY_TAKEN";
pub const QUEUE_FULL: &str = "QUEUE_FULL";
pub const KEYS_FULL: &str = "KEYS_FULL";
pub const WAIT_TOO_LONG: &str = "WAIT_TOO_LONG";
pub const DOWNSTREAM_DOWN: &str = "DOWNSTREAM_DOWN";
pub const MAX_RUNNING: &str = "MAX_RUNNING";
pub const RATE_LIMITED: &str = "RATE_LIMITED";
pub const STALE_VERSION: &str = "STALE_VERSION";
pub const NOT_IMPLEMENTED: &str = "NOT_IMPLEMENTED";

// The service's own condition.
pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
pub const STORE_BUSY: &str = "STORE_BUSY";
pub const STORE_FULL: &str = "STORE_FULL";
pub const STORE_READ_ONLY: &str = "STORE_READ_ONLY";
pub const STORE_REWOUND: &str = "STORE_REWOUND";
pub const STORE_CORRUPT: &str = "STORE_CORRUPT";
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
pub const DURABILITY_UNCONFIRMED: &str = "DURABILITY_UNCONFIRMED";
pub const CIRCUIT_OPEN: &str = "CIRCUIT_OPEN";
pub const OVERLOADED: &str = "OVERLOADED";
pub const LEDGER_UNAVAILABLE: &str = "LEDGER_UNAVAILABLE";
pub const NO_STORE: &str = "NO_STORE";
pub const DRAINING: &str = "DRAINING";
pub const NOT_LEADER: &str = "NOT_LEADER";
pub const STALE: &str = "STALE";
pub const INTERNAL: &str = "INTERNAL";

// Why a job ended dead.
pub const ATTEMPTS_EXHAUSTED: &str = "ATTEMPTS_EXHAUSTED";
pub const FAILED: &str = "FAILED";
pub const INVALID: &str = "INVALID";
pub const LEASE_LOST: &str = "LEASE_LOST";
pub const PARKED_TOO_LONG: &str = "PARKED_TOO_LONG";
pub const UNREADABLE: &str = "UNREADABLE";
