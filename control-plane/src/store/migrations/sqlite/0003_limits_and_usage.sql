-- How much a workspace and its people may have at once. A row sets one limit, and `most` null is "no limit"; without a row
-- the server's settings decide. `subject`: `workspace`, `everyone` (each person), or `person:` and a name.

CREATE TABLE limits (
    workspace TEXT   NOT NULL REFERENCES workspaces (id),
    subject   TEXT   NOT NULL,
    resource  TEXT   NOT NULL,
    most      BIGINT,
    PRIMARY KEY (workspace, subject, resource)
);

-- What the limits are judged by, so that a request need not open every record of the workspace.
ALTER TABLE clusters ADD COLUMN person TEXT NOT NULL DEFAULT '';
ALTER TABLE clusters ADD COLUMN wanted_hosts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE clusters ADD COLUMN worker_cores BIGINT NOT NULL DEFAULT 0;

-- What usage is summed from, likewise: the labels (a JSON object), and how long each host was there.
ALTER TABLE clusters ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
ALTER TABLE hosts ADD COLUMN role TEXT NOT NULL DEFAULT 'worker';
ALTER TABLE hosts ADD COLUMN made_at_ms BIGINT;
ALTER TABLE hosts ADD COLUMN ended_at_ms BIGINT;

-- A record that cannot be read stays as it is: it must not keep the whole server from starting.
UPDATE clusters SET
    person = COALESCE(json_extract(body, '$.person'), ''),
    wanted_hosts = COALESCE(
        CASE WHEN json_extract(body, '$.wish') = 'run' THEN json_extract(body, '$.n_workers') + 1 ELSE 0 END, 0),
    worker_cores = COALESCE(json_extract(body, '$.worker.processes') * json_extract(body, '$.worker.threads'), 0),
    tags = COALESCE(json_extract(body, '$.terms.tags'), '{}')
WHERE json_valid(body);

UPDATE hosts SET
    role = COALESCE(json_extract(body, '$.role'), 'worker'),
    made_at_ms = (SELECT MIN(json_extract(phase.value, '$.reached_at_ms')) FROM json_each(hosts.body, '$.phases') AS phase
                  WHERE json_extract(phase.value, '$.phase') = 'created'),
    ended_at_ms = json_extract(body, '$.ended_at_ms')
WHERE json_valid(body);
