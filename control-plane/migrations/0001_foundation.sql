-- The foundation. Ids are UUIDv7; times are timestamptz in UTC; money is bigint micros with a currency; enums are text with a check.

create extension if not exists btree_gist;

-- Platform ------------------------------------------------------------------------------------------------------------------------------

create table cluster (
    singleton boolean primary key default true check (singleton),
    id uuid not null,
    -- Raised when a backup is restored, so that what was decided before it is fenced off.
    epoch bigint not null default 1 check (epoch > 0),
    created_at timestamptz not null default now()
);

-- Private keys of the certificate authorities, encrypted under the key-encryption key.
create table sealed_secret (
    name text primary key,
    ciphertext bytea not null,
    -- The public half: a PEM certificate or an OpenSSH public key line.
    public_part text not null,
    created_at timestamptz not null default now()
);

create table replica (
    id uuid primary key,
    agent_address text not null,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
);

-- Tenants -------------------------------------------------------------------------------------------------------------------------------

create table organization (
    id uuid primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);

create table project (
    id uuid primary key,
    organization_id uuid not null references organization,
    name text not null,
    created_at timestamptz not null default now(),
    unique (organization_id, name),
    unique (id, organization_id)
);

create table principal (
    id uuid primary key,
    kind text not null check (kind in ('person', 'service_account', 'api_key', 'platform')),
    organization_id uuid references organization,
    created_at timestamptz not null default now()
);

-- The only table with names and e-mail addresses of people: erasing a row leaves every other record intact.
create table person (
    principal_id uuid primary key references principal,
    email text not null,
    display_name text not null default ''
);

-- Sign-in by OpenID Connect finds its principal here.
create table identity (
    issuer text not null,
    subject text not null,
    principal_id uuid not null references principal,
    primary key (issuer, subject)
);

create table member (
    organization_id uuid not null references organization,
    principal_id uuid not null references principal,
    role text not null check (role in ('owner', 'admin', 'developer', 'billing', 'viewer')),
    created_at timestamptz not null default now(),
    primary key (organization_id, principal_id)
);

create table service_account (
    principal_id uuid primary key references principal,
    organization_id uuid not null references organization,
    name text not null,
    unique (organization_id, name)
);

create table api_key (
    id uuid primary key,
    principal_id uuid not null references principal,
    organization_id uuid not null references organization,
    project_id uuid,
    role text not null
        check (role in ('owner', 'admin', 'developer', 'billing', 'viewer', 'operator', 'auditor')),
    name text not null default '',
    -- SHA-256 of the secret, which has 256 random bits: nothing to stretch.
    secret_hash bytea not null unique,
    created_by uuid references principal,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz,
    last_used_at timestamptz,
    foreign key (project_id, organization_id) references project (id, organization_id)
);
create index api_key_by_organization on api_key (organization_id, id);

-- What a create returned, for a caller that repeats it.
create table request_id (
    principal_id uuid not null references principal,
    method text not null,
    request_id text not null,
    fingerprint bytea not null,
    resource_id uuid not null,
    -- What only the create's answer holds (an API key's secret), encrypted under the key-encryption key.
    sealed_answer bytea,
    created_at timestamptz not null default now(),
    primary key (principal_id, method, request_id)
);
create index request_id_by_age on request_id (created_at);

create table audit_entry (
    id uuid primary key,
    at timestamptz not null default now(),
    -- Null: the platform itself.
    principal_id uuid references principal,
    organization_id uuid references organization,
    action text not null,
    target_id text not null,
    call_id text not null default '',
    details jsonb not null default '{}'
);
create index audit_entry_by_organization on audit_entry (organization_id, id);
create index audit_entry_by_action on audit_entry (action, id);

-- Catalogue -----------------------------------------------------------------------------------------------------------------------------

create table instance_type (
    id uuid primary key,
    name text not null unique,
    gpu_model text not null,
    gpu_count integer not null check (gpu_count between 1 and 64),
    vcpus integer not null check (vcpus > 0),
    memory_gib integer not null check (memory_gib > 0),
    scratch_gib integer not null check (scratch_gib > 0),
    created_at timestamptz not null default now()
);

create table price (
    id uuid primary key,
    instance_type_id uuid not null references instance_type,
    -- `everyone`, or an organization's id.
    audience text not null default 'everyone',
    unit text not null default 'gpu_hour' check (unit in ('gpu_hour')),
    quantity bigint not null default 1 check (quantity > 0),
    micros bigint not null check (micros >= 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    rounding text not null check (rounding in ('hour', 'minute', 'second')),
    valid tstzrange not null check (not isempty(valid)),
    created_at timestamptz not null default now(),
    constraint price_one_at_a_time
        exclude using gist (instance_type_id with =, audience with =, valid with &&)
);

-- Hosts ---------------------------------------------------------------------------------------------------------------------------------

create table enrollment_token (
    id uuid primary key,
    secret_hash bytea not null unique,
    region text not null,
    sector text not null,
    -- CIDR networks; empty: any.
    networks text[] not null default '{}',
    uses integer not null check (uses > 0),
    uses_left integer not null check (uses_left >= 0),
    expires_at timestamptz not null,
    created_by uuid references principal,
    created_at timestamptz not null default now()
);

create table host (
    id uuid primary key,
    name text not null,
    machine_id text not null,
    region text not null,
    sector text not null,
    gpu_model text not null default '',
    gpu_count integer not null default 0,
    vcpus integer not null default 0,
    memory_bytes bigint not null default 0,
    scratch_bytes bigint not null default 0,
    driver_version text not null default '',
    cuda_version text not null default '',
    agent_version text not null default '',
    boot_id text not null default '',
    simulated boolean not null default false,
    cordoned boolean not null default false,
    -- Set: quarantined. Only the operator's recorded release clears it.
    quarantine_reason text,
    -- True only after the last scrub and health gate passed.
    clean boolean not null default false,
    last_seen_at timestamptz,
    -- Counts the hellos of the agent, on all its streams.
    session_generation bigint not null default 0,
    removed_at timestamptz,
    -- A fixed random number: searches for a free host begin at a random one, so that they spread.
    shuffle double precision not null default random(),
    created_at timestamptz not null default now()
);
create unique index host_name on host (name) where removed_at is null;
create unique index host_machine on host (machine_id) where removed_at is null;
create index host_fit on host (gpu_model, gpu_count, shuffle) where removed_at is null;

create table host_gpu (
    host_id uuid not null references host,
    gpu_index integer not null,
    uuid text not null,
    model text not null,
    serial text not null default '',
    pci_bus_id text not null default '',
    memory_bytes bigint not null default 0,
    primary key (host_id, uuid)
);

-- What the host's health checks say now.
create table host_finding (
    host_id uuid not null references host,
    gpu_uuid text not null default '',
    check_name text not null,
    detail text not null default '',
    prevents_use boolean not null,
    prevents_allocation boolean not null,
    since timestamptz not null default now(),
    primary key (host_id, gpu_uuid, check_name)
);

create table agent_certificate (
    -- Hexadecimal, lower case.
    serial text primary key,
    host_id uuid not null references host,
    not_after timestamptz not null,
    revoked_at timestamptz,
    created_at timestamptz not null default now()
);
create index agent_certificate_by_host on agent_certificate (host_id);

-- Which replicas hold a control stream of which host.
create table agent_session (
    host_id uuid not null references host,
    replica_id uuid not null references replica on delete cascade,
    -- The host's count at this stream's hello; a write from an older session changes nothing.
    generation bigint not null,
    -- True on the stream that was told to carry telemetry and health.
    telemetry boolean not null default false,
    connected_at timestamptz not null default now(),
    primary key (host_id, replica_id)
);
create unique index agent_session_telemetry on agent_session (host_id) where telemetry;

-- Leases --------------------------------------------------------------------------------------------------------------------------------

create table lease (
    id uuid primary key,
    organization_id uuid not null references organization,
    project_id uuid not null,
    name text not null,
    instance_type_id uuid not null references instance_type,
    count integer not null check (count between 1 and 1024),
    image text not null,
    labels jsonb not null default '{}',
    state text not null check (state in
        ('waitlisted', 'scheduled', 'provisioning', 'active', 'impaired', 'ending', 'ended', 'failed')),
    state_reason text not null default '',
    state_since timestamptz not null default now(),
    -- Upper bound infinite: open-ended. ("window" is a reserved word of SQL.)
    lease_window tstzrange not null check (not isempty(lease_window)),
    -- Set when the instances could not be made usable; the first reason stays.
    failure text,
    created_by uuid not null references principal,
    created_at timestamptz not null default now(),
    end_requested_at timestamptz,
    -- Who or what ended it: `tenant`, `operator`, `window`, `failure`.
    end_cause text check (end_cause in ('tenant', 'operator', 'window', 'failure')),
    ended_at timestamptz,
    settled_at timestamptz,
    -- When time alone changes what is owed for it. Null: not before its availability changes.
    meter_due_at timestamptz,
    foreign key (project_id, organization_id) references project (id, organization_id)
);
create unique index lease_name on lease (project_id, name) where state not in ('ended', 'failed');
create index lease_by_organization on lease (organization_id, id);
create index lease_unsettled on lease (id) where settled_at is null;
create index lease_meter_due on lease (meter_due_at) where meter_due_at is not null;

create table lease_ssh_key (
    lease_id uuid not null references lease,
    -- `SHA256:…`
    fingerprint text not null,
    public_key text not null,
    primary key (lease_id, fingerprint)
);

create table lease_segment (
    id uuid primary key,
    lease_id uuid not null references lease,
    during tstzrange not null check (not isempty(during)),
    price_id uuid not null references price,
    price_micros bigint not null,
    quantity bigint not null,
    unit text not null,
    currency text not null,
    rounding text not null,
    constraint lease_segment_one_at_a_time exclude using gist (lease_id with =, during with &&)
);

create table instance (
    id uuid primary key,
    lease_id uuid not null references lease,
    ordinal integer not null check (ordinal >= 0),
    desired text not null default 'running' check (desired in ('running', 'ended')),
    recorded text not null default 'pending' check (recorded in
        ('pending', 'placed', 'provisioning', 'usable', 'impaired', 'ending', 'ended')),
    reported text not null default 'unknown' check (reported in
        ('unknown', 'absent', 'preparing', 'running', 'stopped', 'removing', 'failed')),
    state_reason text not null default '',
    -- When `recorded` last changed: the start of its time limit.
    state_since timestamptz not null default now(),
    reported_detail text not null default '',
    -- True when the failure that was reported is the image's or the tenant's.
    reported_tenant_fault boolean not null default false,
    -- When `reported` last changed.
    reported_since timestamptz not null default now(),
    reported_at timestamptz,
    sshd_listening boolean not null default false,
    visible_gpu_uuids text[] not null default '{}',
    host_id uuid references host,
    -- Counts placements; with the cluster's epoch it fences the agent.
    generation bigint not null default 0,
    gpu_uuids text[] not null default '{}',
    -- Encrypted under the key-encryption key; null once destroyed.
    scratch_key bytea,
    scratch_key_destroyed_at timestamptz,
    usable_at timestamptz,
    ended_at timestamptz,
    -- When the last usage record was posted. Set only after the end.
    meter_closed_at timestamptz,
    unique (lease_id, ordinal)
);
create index instance_by_host on instance (host_id) where recorded <> 'ended';
create index instance_live on instance (id) where recorded <> 'ended';
create index instance_meter_open on instance (lease_id) where meter_closed_at is null and recorded in ('ending', 'ended');

-- Every host an instance has been placed on.
create table incarnation (
    instance_id uuid not null references instance,
    generation bigint not null,
    host_id uuid not null references host,
    placed_at timestamptz not null default now(),
    ended_at timestamptz,
    end_reason text not null default '',
    primary key (instance_id, generation)
);

-- Who has which GPUs of which host when. The exclusion constraint is what makes a double booking impossible.
create table occupancy (
    id uuid primary key,
    host_id uuid not null references host,
    gpus int4range not null check (not isempty(gpus)),
    during tstzrange not null check (not isempty(during)),
    kind text not null
        check (kind in ('lease', 'hold', 'maintenance', 'pool', 'scrub', 'test', 'quarantine')),
    instance_id uuid references instance,
    -- True while nothing was provisioned: the planner may place it elsewhere.
    movable boolean not null default false,
    created_at timestamptz not null default now(),
    constraint occupancy_no_double_booking
        exclude using gist (host_id with =, gpus with &&, during with &&)
);
-- An instance that is placed elsewhere leaves an occupancy of kind `scrub` behind.
create unique index occupancy_by_instance on occupancy (instance_id) where kind = 'lease';
create index occupancy_of_instance on occupancy (instance_id) where instance_id is not null;

create table scrub (
    id uuid primary key,
    host_id uuid not null references host,
    instance_id uuid references instance,
    generation bigint not null default 0,
    -- Null while it runs.
    result text check (result in ('passed', 'failed')),
    -- [{"name", "result", "detail", "duration_ms"}]
    steps jsonb not null default '[]',
    requested_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz
);
create index scrub_by_host on scrub (host_id, id);
create unique index scrub_by_instance on scrub (instance_id, generation) where instance_id is not null;

create table lease_event (
    id uuid primary key,
    lease_id uuid not null references lease,
    instance_id uuid references instance,
    at timestamptz not null default now(),
    kind text not null,
    detail text not null default ''
);
create index lease_event_by_lease on lease_event (lease_id, id);

-- Billing -------------------------------------------------------------------------------------------------------------------------------

-- The meter's only input. A stretch that turned out otherwise is replaced, never changed.
create table availability (
    id uuid primary key,
    instance_id uuid not null references instance,
    from_at timestamptz not null,
    -- Null: it goes on.
    to_at timestamptz check (to_at >= from_at),
    state text not null check (state in ('usable', 'unusable', 'unknown')),
    fault_party text not null check (fault_party in ('none', 'provider', 'tenant')),
    evidence text not null,
    created_at timestamptz not null default now(),
    replaced_at timestamptz,
    -- The end up to which the meter has taken it in (infinite while it goes on). Null: not at all.
    metered_to timestamptz
);
create unique index availability_open on availability (instance_id) where to_at is null and replaced_at is null;
create index availability_by_instance on availability (instance_id, from_at) where replaced_at is null;
create index availability_unmetered on availability (instance_id)
    where replaced_at is null and metered_to is distinct from coalesce(to_at, 'infinity'::timestamptz);

create table usage_record (
    id uuid primary key,
    organization_id uuid not null,
    project_id uuid not null,
    lease_id uuid not null,
    instance_id uuid not null,
    segment_id uuid not null,
    instance_type text not null,
    meter text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    revision integer not null check (revision >= 0),
    -- Set on a reversal: the record it takes back.
    reverses_id uuid references usage_record,
    usable_seconds bigint not null,
    billed_seconds bigint not null,
    gpu_count integer not null,
    price_micros bigint not null,
    quantity bigint not null,
    unit text not null,
    rounding text not null,
    cut_by_provider boolean not null,
    amount_micros bigint not null,
    currency text not null,
    labels jsonb not null,
    posted_at timestamptz not null default now(),
    ledger_transaction_id uuid not null
);
-- One record and one reversal of a revision.
create unique index usage_record_key
    on usage_record (instance_id, meter, period_start, revision, (reverses_id is not null));
create index usage_record_by_period on usage_record (period_start, id);
create index usage_record_by_organization on usage_record (organization_id, period_start, id);
create index usage_record_by_lease on usage_record (lease_id, period_start, id);

create table ledger_account (
    id uuid primary key,
    organization_id uuid not null references organization,
    kind text not null check (kind in ('receivable', 'revenue')),
    currency text not null,
    created_at timestamptz not null default now(),
    unique (organization_id, kind, currency)
);

create table ledger_entry (
    id bigint generated always as identity primary key,
    transaction_id uuid not null,
    account_id uuid not null references ledger_account,
    amount_micros bigint not null,
    currency text not null,
    posted_at timestamptz not null default now(),
    description text not null default ''
);
create index ledger_entry_by_transaction on ledger_entry (transaction_id);
create index ledger_entry_by_account on ledger_entry (account_id, id);

create table billing_period (
    id uuid primary key,
    organization_id uuid not null references organization,
    during tstzrange not null check (not isempty(during)),
    state text not null check (state in ('open', 'closed')),
    closed_at timestamptz,
    constraint billing_period_one_at_a_time exclude using gist (organization_id with =, during with &&)
);

-- The ledger and the usage records are append-only, and a transaction sums to zero per currency when it commits.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end $$;
create trigger ledger_entry_append_only before update or delete or truncate on ledger_entry
    for each statement execute function refuse_change();
create trigger usage_record_append_only before update or delete or truncate on usage_record
    for each statement execute function refuse_change();
create trigger audit_entry_append_only before update or delete or truncate on audit_entry
    for each statement execute function refuse_change();

create function check_ledger_balance() returns trigger language plpgsql as $$
begin
    if exists (
        select 1 from ledger_entry where transaction_id = new.transaction_id
        group by currency having sum(amount_micros) <> 0
    ) then
        raise exception 'ledger transaction % does not sum to zero', new.transaction_id;
    end if;
    return null;
end $$;
create constraint trigger ledger_entry_balanced after insert on ledger_entry
    deferrable initially deferred for each row execute function check_ledger_balance();

-- Telemetry -----------------------------------------------------------------------------------------------------------------------------

create table telemetry_rollup (
    host_id uuid not null references host,
    gpu_uuid text not null,
    minute timestamptz not null,
    samples integer not null,
    utilization_percent_mean double precision,
    utilization_percent_max integer,
    memory_used_bytes_max bigint,
    temperature_celsius_max integer,
    power_milliwatts_mean double precision,
    primary key (host_id, minute, gpu_uuid)
);
create index telemetry_rollup_by_minute on telemetry_rollup using brin (minute);

create table gpu_event (
    id uuid primary key,
    host_id uuid not null references host,
    gpu_uuid text not null,
    at timestamptz not null,
    kind text not null,
    xid integer,
    detail text not null default ''
);
create unique index gpu_event_once on gpu_event (host_id, gpu_uuid, at, kind, (coalesce(xid, -1)));
create index gpu_event_by_host on gpu_event (host_id, at);

-- The newest sample of each host, so that every replica can show it.
create table telemetry_latest (
    host_id uuid primary key references host,
    sampled_at timestamptz not null,
    gpus jsonb not null
);
