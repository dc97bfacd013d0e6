-- Records are JSON in `body`; a column exists only where a query or a constraint needs it. Times are Unix milliseconds.
-- Kept to what PostgreSQL speaks too, so that both databases can share the queries.

CREATE TABLE numbers (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE workspaces (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE person_tokens (
    hash          TEXT   NOT NULL PRIMARY KEY,
    workspace     TEXT   NOT NULL REFERENCES workspaces (id),
    person        TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT
);

CREATE TABLE clusters (
    id            TEXT   NOT NULL PRIMARY KEY,
    workspace     TEXT   NOT NULL REFERENCES workspaces (id),
    name          TEXT   NOT NULL,
    live          BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    body          TEXT   NOT NULL
);
-- A name is free again once its cluster has ended.
CREATE UNIQUE INDEX clusters_live_name ON clusters (workspace, name) WHERE live = 1;
CREATE INDEX clusters_by_time ON clusters (workspace, created_at_ms);

CREATE TABLE idempotency (
    workspace     TEXT   NOT NULL,
    person        TEXT   NOT NULL,
    key           TEXT   NOT NULL,
    body_hash     TEXT   NOT NULL,
    cluster       TEXT   NOT NULL REFERENCES clusters (id),
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (workspace, person, key)
);

CREATE TABLE hosts (
    id            TEXT   NOT NULL PRIMARY KEY,
    cluster       TEXT   NOT NULL REFERENCES clusters (id),
    live          BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    body          TEXT   NOT NULL
);
CREATE INDEX hosts_by_cluster ON hosts (cluster);
CREATE INDEX hosts_live ON hosts (live) WHERE live = 1;

CREATE TABLE members (
    cluster TEXT NOT NULL REFERENCES clusters (id),
    id      TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (cluster, id)
);

-- `spki` is null until the token is spent, then the one key it was spent for.
CREATE TABLE enrolment_tokens (
    hash          TEXT   NOT NULL PRIMARY KEY,
    host          TEXT   NOT NULL REFERENCES hosts (id),
    expires_at_ms BIGINT NOT NULL,
    spki          TEXT
);

CREATE TABLE environments (
    workspace     TEXT   NOT NULL REFERENCES workspaces (id),
    digest        TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL,
    body          TEXT   NOT NULL,
    PRIMARY KEY (workspace, digest)
);

CREATE TABLE blobs (
    workspace TEXT   NOT NULL REFERENCES workspaces (id),
    digest    TEXT   NOT NULL,
    size      BIGINT NOT NULL,
    PRIMARY KEY (workspace, digest)
);
