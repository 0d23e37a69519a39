-- The controller's ledger, for SQLite and Postgres alike: texts, whole numbers and bytes only. Times are milliseconds.

-- One row. The lease is by the clock of the database; an epoch is one leadership.
CREATE TABLE tidegate_ledger (
    id BIGINT PRIMARY KEY,
    ledger_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    holder TEXT NOT NULL,
    holder_name TEXT NOT NULL,
    holder_url TEXT NOT NULL,
    lease_until_ms BIGINT NOT NULL,
    -- Counts the changes below that people make.
    edits BIGINT NOT NULL,
    -- The job store: which one, the highest time it was seen to have, and why it is not trusted.
    store_incarnation TEXT NOT NULL,
    store_watermark_ms BIGINT NOT NULL,
    store_refused TEXT NOT NULL
);

CREATE TABLE tidegate_policies (
    queue TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    -- JSON, as in policies files but for durations in milliseconds.
    body TEXT NOT NULL,
    -- 1: deleted; what runs of it still counts.
    removing BIGINT NOT NULL
);

CREATE TABLE tidegate_resources (
    name TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL
);

-- What operators do by hand; an empty queue is every queue.
CREATE TABLE tidegate_overrides (
    queue TEXT PRIMARY KEY,
    frozen BIGINT NOT NULL,
    pin BIGINT,
    pin_until_ms BIGINT
);

CREATE TABLE tidegate_edits (
    edit BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL
);

-- Each change of a cap or target. Numbered within an epoch: two leaders can never mean the same row.
CREATE TABLE tidegate_decisions (
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    queue TEXT NOT NULL,
    cap BIGINT NOT NULL,
    previous_cap BIGINT NOT NULL,
    wanted BIGINT NOT NULL,
    target BIGINT NOT NULL,
    reason TEXT NOT NULL,
    -- JSON, a list of name and number.
    inputs TEXT NOT NULL,
    words TEXT NOT NULL,
    PRIMARY KEY (epoch, seq)
);
CREATE INDEX tidegate_decisions_of_queue ON tidegate_decisions (queue, epoch, seq);

-- What a tick was told and what it answered, as bytes of the governor's codec, with a SHA-256 over the row.
CREATE TABLE tidegate_ticks (
    epoch BIGINT NOT NULL,
    tick BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    -- By the governor's own clock.
    now_ms BIGINT NOT NULL,
    inputs BYTEA NOT NULL,
    decisions BYTEA NOT NULL,
    digest BYTEA NOT NULL,
    PRIMARY KEY (epoch, tick)
);

-- The governor's state before a tick.
CREATE TABLE tidegate_snapshots (
    epoch BIGINT NOT NULL,
    tick BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    now_ms BIGINT NOT NULL,
    state BYTEA NOT NULL,
    digest BYTEA NOT NULL,
    PRIMARY KEY (epoch, tick)
);
