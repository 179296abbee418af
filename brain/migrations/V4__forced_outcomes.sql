-- When one of the two tails of a move is lost for good, an operator says which of them has the disc (safety rule 9).

ALTER TABLE migrations
    ADD COLUMN forced text CHECK (forced IN ('promote', 'take_back')),  -- at the target, or at the source
    ADD COLUMN forced_generation bigint,        -- granted for it
    ADD COLUMN forced_by text,
    ADD COLUMN forced_reason text,
    ADD CHECK (num_nonnulls(forced, forced_generation, forced_by, forced_reason) IN (0, 4)),
    ADD CHECK (forced IS NULL OR state NOT IN ('queued', 'skipped'));

-- What a tail has that was lost when another was given the disc: it is told so before anything else when it is back, and
-- keeps what it has, which may be the only copy of a write, until an operator has it removed.
ALTER TABLE disc_leftovers
    ADD COLUMN superseded_by text,              -- the tail that was given the disc
    ADD COLUMN superseded_move uuid,            -- in the middle of this move
    ADD COLUMN kept boolean NOT NULL DEFAULT false,
    ADD CHECK ((superseded_by IS NULL) = (superseded_move IS NULL)),
    ADD CHECK (NOT kept OR superseded_by IS NOT NULL);
