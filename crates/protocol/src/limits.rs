//! Bounds of the wire contract. Each is stated here once; servers enforce them, clients may check early.

/// Payload of one job, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// One gRPC message, bytes, either way.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Jobs or ids in one batch call.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Payload bytes of one batch call: leaves room for headers below [`MESSAGE_BYTES_MAX`].
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Length of a queue or resource name.
pub const NAME_BYTES_MAX: usize = 100;
/// Length of an idempotency key.
pub const KEY_BYTES_MAX: usize = 255;
/// Length of a request id: a UUID in text, with room for other schemes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Headers of one job.
pub const HEADERS_MAX: usize = 32;
/// Length of a header's name.
pub const HEADER_NAME_BYTES_MAX: usize = 64;
/// Length of a header's value.
pub const HEADER_VALUE_BYTES_MAX: usize = 1024;
/// Result kept with a succeeded job, bytes.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;
/// Error text kept with a job, bytes; longer texts are cut.
pub const ERROR_BYTES_MAX: usize = 2 * 1024;
/// Entries of one page.
pub const PAGE_ITEMS_MAX: usize = 1_000;
/// Entries of one page when the caller does not say.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Leases named in one hello or renewal: one worker process holds no more.
pub const LEASES_PER_STREAM_MAX: usize = 10_000;
/// Queues one worker serves: bounds what one hello makes the store do.
pub const QUEUES_PER_WORKER_MAX: usize = 1_000;
