-- What every worker with claims in PostgreSQL remembers: one row for each worker and piece of work. It may be run
-- again at any time.
--
-- The row of a webhook-id, which redrives have their own of:
--   SELECT record FROM headgate_claims WHERE worker = 'ledger' AND key = left(encode(sha256(
--     convert_to('msg_1', 'UTF8') || '\x00'::bytea || convert_to('', 'UTF8')), 'hex'), 32);
--
-- There is no index on updated: with none on what every write changes, a write touches no index at all (a HOT update,
-- for which fillfactor leaves room), and Forget, which reads the whole table, runs once a day.
CREATE TABLE IF NOT EXISTS headgate_claims (
	worker   text        NOT NULL,
	key      text        NOT NULL COLLATE "C",
	-- Drawn anew for every write and never twice, also when a claim was forgotten and begun again.
	revision bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
	updated  timestamptz NOT NULL,
	-- As the worker wrote it: see workers.Record.
	record   json        NOT NULL,
	PRIMARY KEY (worker, key)
) WITH (fillfactor = 70);
