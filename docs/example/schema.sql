CREATE TABLE IF NOT EXISTS expenses (
	id                 text PRIMARY KEY DEFAULT gen_random_uuid()::text,
	description        text NOT NULL CHECK (description <> '' AND length(description) <= 500),
	amount             numeric NOT NULL CHECK (amount > 0 AND amount < 1e9 AND scale(amount) <= 2),
	account            text NOT NULL CHECK (account <> '' AND length(account) <= 150),
	created_at         timestamptz NOT NULL DEFAULT now(),

	-- What became of it. Only the record of its plan changes these.
	plan               text GENERATED ALWAYS AS ('expense-' || id) STORED,
	status             text NOT NULL DEFAULT 'Draft'
	                   CHECK (status IN ('Draft', 'Push in progress', 'Push complete', 'Push failed')),
	push_operation_key text NOT NULL DEFAULT '', -- of the direct cost
	account_record     text NOT NULL DEFAULT '', -- ids on the accounting platform
	cost_record        text NOT NULL DEFAULT '',
	reason             text NOT NULL DEFAULT '', -- of a refusal, or why nobody knows what happened
	updated_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS expenses_open ON expenses (updated_at) WHERE status <> 'Push complete';
