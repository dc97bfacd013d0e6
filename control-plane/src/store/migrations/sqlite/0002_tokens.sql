-- Tokens get an id to be named by, a name, the time of their last use, and an end that a person chose.
-- Every token from before is an admin's: `server init` made no others.

ALTER TABLE person_tokens ADD COLUMN id TEXT;
ALTER TABLE person_tokens ADD COLUMN name TEXT NOT NULL DEFAULT 'first';
ALTER TABLE person_tokens ADD COLUMN last_used_at_ms BIGINT;
ALTER TABLE person_tokens ADD COLUMN revoked_at_ms BIGINT;

-- From the hash, in the letters of ids: four of the hexadecimal digits are not among them.
UPDATE person_tokens SET role = 'admin', id = 'to-' ||
    replace(replace(replace(replace(substr(hash, 1, 16), '0', 'g'), '1', 'h'), '8', 'i'), '9', 'j');

CREATE UNIQUE INDEX person_tokens_by_id ON person_tokens (id);
CREATE INDEX person_tokens_by_workspace ON person_tokens (workspace, created_at_ms);
