-- How fast discs move, in 10^6 bytes a second; 0: no limit. The least of what the two pools, the job and the brain's
-- configuration say counts for each move, from when it begins.
ALTER TABLE storage_pools
    ADD COLUMN migration_limit_mb_per_s integer NOT NULL DEFAULT 0 CHECK (migration_limit_mb_per_s >= 0);
ALTER TABLE migrations ADD COLUMN limit_mb_per_s integer CHECK (limit_mb_per_s > 0); -- null: none
