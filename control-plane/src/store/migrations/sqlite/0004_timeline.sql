-- What happened to each cluster, as people read it. `sequence` counts from 1 within a cluster and never repeats, so that
-- its newest number less the number of rows is how many were dropped.

CREATE TABLE timeline (
    cluster  TEXT   NOT NULL REFERENCES clusters (id),
    sequence BIGINT NOT NULL,
    at_ms    BIGINT NOT NULL,
    kind     TEXT   NOT NULL,
    host     TEXT,
    body     TEXT   NOT NULL,
    PRIMARY KEY (cluster, sequence)
);
