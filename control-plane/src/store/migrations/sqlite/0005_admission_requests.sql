-- Client keys that ask to join a cluster. A row whose time is over, or whose token was revoked since, counts as gone;
-- refused and withdrawn ones stay until then, so that nobody can ask again and again with one key.

CREATE TABLE admission_requests (
    cluster       TEXT   NOT NULL REFERENCES clusters (id),
    client        TEXT   NOT NULL,
    spki          TEXT   NOT NULL,
    person        TEXT   NOT NULL,
    token         TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    asked_at_ms   BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (cluster, client)
);
