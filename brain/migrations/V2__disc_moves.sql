-- Moving discs between tails while their VMs run (R012, R120, R126, R130, B13, B14). "Migration" is the API's
-- word: a job is what an operator ordered, a migration is one disc of it.

-- The highest generation that any tail was ever granted of this disc: it rises before a tail is told, and a move
-- that comes to nothing has used one up (nbd.md 3.2, 3.9).
ALTER TABLE discs ADD COLUMN generation_granted bigint;
UPDATE discs SET generation_granted = generation;
ALTER TABLE discs ALTER COLUMN generation_granted SET NOT NULL, ALTER COLUMN generation_granted SET DEFAULT 1,
    ADD CHECK (generation_granted >= generation);

-- Where a tail takes discs from other tails; null: it does not take or give any.
ALTER TABLE nodes ADD COLUMN migration_address text;

-- Less free than this share (percent) of its size: the pool is short, and moves are proposed, or made (R126).
ALTER TABLE storage_pools ADD COLUMN short_percent integer NOT NULL DEFAULT 10 CHECK (short_percent BETWEEN 0 AND 100),
    ADD COLUMN relieve_automatically boolean NOT NULL DEFAULT false;

CREATE TABLE migration_jobs (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    arguments      jsonb NOT NULL,              -- sources, destinations and options as they were ordered
    created_by     text NOT NULL,               -- a user's name, or 'brain'
    priority       integer NOT NULL DEFAULT 0,  -- higher goes first
    stopped_reason text,                        -- not null: it starts no more moves, and why
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    finished_at    timestamptz
);
CREATE INDEX migration_jobs_unfinished ON migration_jobs (id) WHERE finished_at IS NULL;

CREATE TABLE migrations (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid           uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),  -- what the tails know it by
    job_id         bigint NOT NULL REFERENCES migration_jobs (id),
    disc_id        bigint NOT NULL,             -- the disc may be gone when this is read
    source_pool_id bigint NOT NULL REFERENCES storage_pools (id),
    target_pool_id bigint REFERENCES storage_pools (id),            -- null: none was found
    state          text NOT NULL CHECK (state IN ('queued', 'moving', 'done', 'errored', 'cancelled', 'skipped')),
    generation     bigint,                      -- granted to the target, when the move was begun
    undo_reason    text,                        -- while moving: it is to come to nothing, and why
    undo_state     text CHECK (undo_state IN ('errored', 'cancelled')),
    undo_stops_job boolean NOT NULL DEFAULT false,                  -- a failure of an unknown kind
    reason         text,                        -- what it waits for, or why it ended as it did
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    finished_at    timestamptz,
    CHECK (state NOT IN ('moving', 'done') OR (generation IS NOT NULL AND target_pool_id IS NOT NULL)),
    CHECK ((undo_reason IS NULL) = (undo_state IS NULL))
);
CREATE UNIQUE INDEX migrations_one_a_disc ON migrations (disc_id) WHERE state IN ('queued', 'moving');
CREATE INDEX migrations_job ON migrations (job_id);
CREATE INDEX migrations_queue ON migrations (id) WHERE state IN ('queued', 'moving');

-- Copies of discs that are not the disc any more, or never became it: to be removed by their tails. A disc does not
-- move to a tail that still has one of these.
CREATE TABLE disc_leftovers (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    virtual_machine_id bigint NOT NULL REFERENCES virtual_machines (id),
    disc_number        bigint NOT NULL,
    grade              text NOT NULL,
    tail_id            bigint NOT NULL REFERENCES nodes (id),
    generation         bigint NOT NULL,         -- the removal is ordered with it: nothing newer goes
    aborted            uuid,                    -- the copy that this move made, which came to nothing; null: the former owner's
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (disc_number, tail_id, generation)
);
CREATE INDEX disc_leftovers_vm ON disc_leftovers (virtual_machine_id);
