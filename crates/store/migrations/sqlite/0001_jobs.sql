-- The embedded job store's file. State lives in the process; these rows are what it is rebuilt from.

CREATE TABLE store (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A queue's policy, cap and totals as JSON.
CREATE TABLE queues (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    meta TEXT NOT NULL
);

-- body: everything but the payload, as JSON; position: place in the ready list.
CREATE TABLE jobs (
    queue    INTEGER NOT NULL,
    local    BLOB    NOT NULL,
    position INTEGER,
    body     TEXT    NOT NULL,
    payload  BLOB    NOT NULL,
    PRIMARY KEY (queue, local)
) WITHOUT ROWID;

-- Slots that stay counted although their lease is nobody's any more.
CREATE TABLE ghosts (
    queue    INTEGER NOT NULL,
    local    BLOB    NOT NULL,
    fence    INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, local, fence)
) WITHOUT ROWID;

-- Idempotency keys (request = 0) and request ids (request = 1).
CREATE TABLE keys (
    queue      INTEGER NOT NULL,
    request    INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    local      BLOB    NOT NULL,
    hash       BLOB    NOT NULL,
    ended      INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, request, key)
) WITHOUT ROWID;
