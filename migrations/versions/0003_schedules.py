"""Schedules: cron expressions and intervals, their slots, and the duty that fires them."""

from pyhotmesh import migrate

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
-- ----------------------------------------------------------------------------------- schedules --

-- What runs again and again. Updated with each firing; `due_at` is when the duty has to look at it.
create table hotmesh_engine.schedule (
  schedule_key   bigint      primary key,
  due_at         timestamptz not null,           -- of next_slot, with its jitter; 'infinity': paused or over
  next_slot      timestamptz,                    -- null: none comes any more
  last_slot      timestamptz,                    -- the newest that is decided
  created_at     timestamptz not null,
  updated_at     timestamptz not null,           -- by people, not by firings
  anchor         timestamptz not null,           -- slots of an interval are anchor + n * every
  counted_from   timestamptz not null,           -- failures before it are forgiven
  trouble_since  timestamptz,
  namespace_id   int         not null,
  queue_id       int         not null,
  cycles         int         not null default 0, -- slots that started a run, or will
  max_cycles     int,
  pause_after    int,                            -- failures in a row; null: never
  trouble_times  int         not null default 0,
  priority       smallint,
  paused         boolean     not null default false,
  every          interval,                       -- or
  cron           text,
  time_zone      text        not null default 'UTC',
  catchup        interval    default '1 minute', -- '0': none; null: the last one
  jitter         interval    not null default '0',
  overlap        text        not null default 'skip',
  execution_timeout double precision,            -- seconds
  retention      interval,
  schedule_id    text        not null,
  workflow_type  text        not null,
  input          json        not null default '[]',
  memo           json,
  note           text,                           -- why it is paused
  trouble_code   text,                           -- why it cannot fire; tried again at due_at
  trouble        text,
  request_id     uuid,                           -- a creation retried with it answers the same
  unique (namespace_id, schedule_id)
) with (fillfactor = 80);
create index schedule_due on hotmesh_engine.schedule (due_at) where due_at < 'infinity';

-- What became of each slot. The primary key is what makes a slot fire once.
create table hotmesh_engine.schedule_slot (
  schedule_key  bigint      not null,
  slot          timestamptz not null,
  decided_at    timestamptz not null,
  missed_until  timestamptz,                     -- missed: and so were the slots from it until then
  closed_at     timestamptz,
  run_id        bigint,                          -- what it started
  status        smallint,                        -- how that ended (0: nobody knows any more); null: open
  decision      "char"      not null,            -- see schedules.sql
  origin        "char"      not null,            -- s schedule, t trigger, b backfill
  primary key (schedule_key, slot)
) with (fillfactor = 80);
create index schedule_slot_open on hotmesh_engine.schedule_slot (schedule_key, run_id)
  where decision = 's' and status is null;
create index schedule_slot_buffered on hotmesh_engine.schedule_slot (schedule_key, slot) where decision = 'b';

-- A cron expression, read (see cron.sql): for each field a digit a value, '1' where it fits.
create type hotmesh_engine.cron as (
  seconds text, minutes text, hours text, days text, months text, weekdays text, nth text, nearest int, rule "char",
  elapsed boolean
);
"""

# Run when the functions of older revisions are what they were.
GONE = """
drop view hotmesh.schedules, hotmesh.firings;
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname in ('hotmesh', 'hotmesh_engine') and (p.proname ~ 'cron|schedule|zone|slots|slot_|_slot'
            or p.proname in ('fire', 'fire_or_halve', 'start_decided', 'failures_in_a_row', 'next_runs'))
  loop
    execute format('drop function %s', v_function);
  end loop;
end $$;
drop table hotmesh_engine.schedule, hotmesh_engine.schedule_slot;
drop type hotmesh_engine.cron;
"""


def upgrade() -> None:
    migrate.run(TABLES)
    migrate.apply_frozen(revision)


def downgrade() -> None:
    migrate.restore(revision)
    migrate.run(GONE)
