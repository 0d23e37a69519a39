-- The embedded job store's file. State lives in the process; these rows are what it is rebuilt from, so nothing is looked
-- up but by the number that a row was given when it was new: new rows go to the end, old ones leave from the front.
-- Numbers are <queue> * 2^40 + <n-th of the queue>.

CREATE TABLE store (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- record: policy, cap, pause and hold as JSON.
CREATE TABLE queues (
    id     INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL UNIQUE,
    record TEXT    NOT NULL
);

-- What nearly every commit changes of a queue.
CREATE TABLE counters (
    queue           INTEGER PRIMARY KEY,
    turn            INTEGER NOT NULL,
    submitted_total INTEGER NOT NULL,
    succeeded_total INTEGER NOT NULL,
    dead_total      INTEGER NOT NULL
);

-- As submitted, written once. A job without progress waits: ready at its position, or scheduled if it has none.
CREATE TABLE jobs (
    id           INTEGER PRIMARY KEY,
    local        BLOB    NOT NULL,
    payload_hash BLOB    NOT NULL,
    key          TEXT,
    headers      TEXT,
    traceparent  TEXT,
    tracestate   TEXT,
    want_result  INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    due_ms       INTEGER NOT NULL,
    deadline_ms  INTEGER NOT NULL,
    position     INTEGER,
    payload      BLOB    NOT NULL
);

-- What has become of it since. holder: session and incarnation of its lease. Empty texts are NULL.
CREATE TABLE progress (
    job             INTEGER PRIMARY KEY,
    state           INTEGER NOT NULL,
    lane            INTEGER NOT NULL,
    position        INTEGER,
    attempts        INTEGER NOT NULL,
    losses          INTEGER NOT NULL,
    blamed          BLOB,
    releases        INTEGER NOT NULL,
    fence           INTEGER NOT NULL,
    due_ms          INTEGER NOT NULL,
    ran_ms          INTEGER NOT NULL,
    deadline_ms     INTEGER NOT NULL,
    finished_ms     INTEGER NOT NULL,
    holder          BLOB,
    until_ms        INTEGER,
    settled_fence   INTEGER,
    settled_outcome INTEGER,
    error           TEXT,
    reason          TEXT,
    result          BLOB
);

-- Slots that stay counted although their lease is nobody's any more.
CREATE TABLE ghosts (
    queue    INTEGER NOT NULL,
    local    BLOB    NOT NULL,
    fence    INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, local, fence)
) WITHOUT ROWID;

-- Idempotency keys: written when the job is, and again only if it does not succeed soon.
CREATE TABLE keys (
    id           INTEGER PRIMARY KEY,
    key          TEXT    NOT NULL,
    local        BLOB    NOT NULL,
    payload_hash BLOB    NOT NULL,
    ended        INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL
);

CREATE TABLE request_ids (
    id           INTEGER PRIMARY KEY,
    key          TEXT    NOT NULL,
    local        BLOB    NOT NULL,
    payload_hash BLOB    NOT NULL,
    ended        INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL
);
