-- The whole truth of a cluster (R043-R049). Intent is written here first; the reconciler makes the
-- world match it. Sizes and memory are in MiB, as in the API.

-- One row: which cluster this is, and how often a brain has started as the active one (safety rule 8).
CREATE TABLE cluster (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id         uuid NOT NULL,
    epoch      bigint NOT NULL DEFAULT 0,
    epoch_seen bigint NOT NULL DEFAULT 0        -- the highest that a node has told of: `take-over` goes above it
);

-- Who pays, who logs in, who may do what ---------------------------------------------------------

CREATE TABLE accounts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    suspended  boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE groups (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts (id),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, name)
);

CREATE TABLE users (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username        text NOT NULL UNIQUE,
    email           text,
    authorized_keys text,
    password_hash   text,                       -- a PHC string
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE privilege_level AS ENUM
    ('vm_console', 'vm_admin', 'group_admin', 'account_admin', 'cluster_admin', 'cluster_su');

CREATE TABLE virtual_machines (
    id                      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id                bigint NOT NULL REFERENCES groups (id),
    name                    text NOT NULL,
    cores                   integer NOT NULL CHECK (cores > 0),
    memory_mib              integer NOT NULL CHECK (memory_mib > 0),
    power_on                boolean NOT NULL,   -- wanted on; becomes autoreboot_on when it is seen to stop
    autoreboot_on           boolean NOT NULL,
    cdrom_url               text,
    keymap                  text,
    hardware_profile        text,
    hardware_profile_locked boolean NOT NULL DEFAULT false,
    zone_name               text,
    last_imaged_with        text,
    management_address      inet UNIQUE,
    management_ssh_keys     text[] NOT NULL,    -- private host keys: they move with the VM (R110)
    status_state            text NOT NULL DEFAULT 'off',    -- written by the reconciler, read by the API
    status_reason           text,
    status_since            timestamptz NOT NULL DEFAULT now(),
    created_at              timestamptz NOT NULL DEFAULT now(),
    deleted_at              timestamptz,
    purged_at               timestamptz,        -- to be gone for good: for users it is; the row goes when nothing is left
    CHECK (purged_at IS NULL OR deleted_at IS NOT NULL)
);
-- A deleted VM keeps its name until it is purged, so that it can be brought back.
CREATE UNIQUE INDEX virtual_machines_name ON virtual_machines (group_id, name) WHERE purged_at IS NULL;

CREATE TABLE privileges (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id             bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    level               privilege_level NOT NULL,
    account_id          bigint REFERENCES accounts (id) ON DELETE CASCADE,
    group_id            bigint REFERENCES groups (id) ON DELETE CASCADE,
    virtual_machine_id  bigint REFERENCES virtual_machines (id) ON DELETE CASCADE,
    password_required   boolean NOT NULL DEFAULT true,
    yubikey_required    boolean NOT NULL DEFAULT false,
    yubikey_otp_max_age integer,
    ip_restrictions     text,
    creating_username   text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(account_id, group_id, virtual_machine_id)
           = CASE WHEN level IN ('cluster_admin', 'cluster_su') THEN 0 ELSE 1 END)
);
CREATE INDEX privileges_user ON privileges (user_id);

CREATE TABLE sessions (
    token_hash text PRIMARY KEY,                -- never the token itself
    user_id    bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    factors    text[] NOT NULL,
    validity_s integer NOT NULL,
    expires_at timestamptz NOT NULL
);

-- What there is to run on ------------------------------------------------------------------------

CREATE TABLE nodes (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    role            text NOT NULL CHECK (role IN ('head', 'tail')),
    uuid            uuid NOT NULL DEFAULT gen_random_uuid(),
    storage_address inet,
    memory_total_mib bigint,                    -- heads
    cores           integer,                    -- heads
    usage_strategy  text,                       -- null, 'default' or 'empty'
    overcommit_ratio integer NOT NULL DEFAULT 100,
    online          boolean NOT NULL DEFAULT false,
    last_seen_at    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE storage_pools (
    id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tail_id               bigint NOT NULL REFERENCES nodes (id),
    name                  text NOT NULL,
    label                 text NOT NULL UNIQUE, -- TAIL-POOL until an operator changes it
    grade                 text NOT NULL,
    size_mib              bigint NOT NULL,
    free_mib              bigint NOT NULL,
    allocated_mib         bigint NOT NULL DEFAULT 0,
    overcommit_ratio      integer NOT NULL DEFAULT 250,     -- percent (R124, R125)
    migration_concurrency integer NOT NULL DEFAULT 2,
    usage_strategy        text,
    iops_limit            integer NOT NULL DEFAULT 0,
    note                  text NOT NULL DEFAULT '',
    UNIQUE (tail_id, name)
);

-- Discs ------------------------------------------------------------------------------------------

CREATE SEQUENCE disc_numbers;                   -- never used again (R037): the address follows from it

CREATE TABLE discs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number              bigint NOT NULL UNIQUE DEFAULT nextval('disc_numbers'),
    virtual_machine_id  bigint NOT NULL REFERENCES virtual_machines (id),
    position            integer NOT NULL,       -- the guest's order; 0 is started from
    label               text NOT NULL,
    size_mib            bigint NOT NULL CHECK (size_mib > 0),
    grade               text NOT NULL,
    storage_pool_id     bigint REFERENCES storage_pools (id),   -- null until placed
    generation          bigint NOT NULL DEFAULT 1,
    attachments_version bigint NOT NULL DEFAULT 0,
    made                boolean NOT NULL DEFAULT false, -- the tail has said that it is durable
    image               text,                   -- to be written onto it; null when there is nothing to write
    image_ordered       boolean NOT NULL DEFAULT false, -- the tail has it in its books
    shrink_forced       boolean NOT NULL DEFAULT false, -- a smaller size_mib may cut off data; cleared when done
    status_state        text NOT NULL DEFAULT 'waiting',
    status_reason       text,
    status_progress     integer,
    status_since        timestamptz NOT NULL DEFAULT now(),
    created_at          timestamptz NOT NULL DEFAULT now(),
    remove_reason       text                    -- not null: to be destroyed, and why; the row goes when the tail has done it
);
CREATE UNIQUE INDEX discs_label ON discs (virtual_machine_id, label) WHERE remove_reason IS NULL;
CREATE UNIQUE INDEX discs_position ON discs (virtual_machine_id, position) WHERE remove_reason IS NULL;
CREATE INDEX discs_pool ON discs (storage_pool_id);

-- Runs: each start of a VM, on which head, with which key, and why it ended (R045, R166) ---------

CREATE TABLE runs (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    virtual_machine_id bigint NOT NULL REFERENCES virtual_machines (id),
    head_id            bigint NOT NULL REFERENCES nodes (id),
    attachment_key     text NOT NULL,           -- new for each run
    state              text NOT NULL CHECK (state IN ('attaching', 'starting', 'running', 'stopping', 'ended')),
    memory_mib         integer NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT now(),
    ended_at           timestamptz,
    end_reason         text,
    confirmed          boolean NOT NULL DEFAULT false,  -- ended, and its head certainly has it no longer
    CHECK ((state = 'ended') = (ended_at IS NOT NULL AND end_reason IS NOT NULL))
);
CREATE UNIQUE INDEX runs_one_open ON runs (virtual_machine_id) WHERE state <> 'ended';
CREATE INDEX runs_unconfirmed ON runs (virtual_machine_id) WHERE state = 'ended' AND NOT confirmed;
CREATE INDEX runs_head ON runs (head_id) WHERE state <> 'ended';

-- Networks ---------------------------------------------------------------------------------------

CREATE TABLE nics (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    virtual_machine_id bigint NOT NULL REFERENCES virtual_machines (id),
    position           integer NOT NULL,
    label              text,
    vlan_num           bigint NOT NULL,
    mac                macaddr NOT NULL UNIQUE,
    UNIQUE (virtual_machine_id, position)
);

CREATE TABLE ip_addresses (
    address    inet PRIMARY KEY,
    nic_id     bigint NOT NULL REFERENCES nics (id),
    vlan_num   bigint NOT NULL,
    routed_via inet,                            -- null: the interface's own
    rdns       text
);
CREATE INDEX ip_addresses_nic ON ip_addresses (nic_id);

-- What happened, to what, by whom and why --------------------------------------------------------

CREATE TABLE events (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at                 timestamptz NOT NULL DEFAULT now(),
    actor              text NOT NULL,           -- a user's name, or 'brain'
    kind               text NOT NULL,           -- 'vm-created', 'vm-stopped', 'disc-removed', …
    virtual_machine_id bigint,
    disc_number        bigint,
    node               text,
    message            text NOT NULL
);
CREATE INDEX events_vm ON events (virtual_machine_id, at);
