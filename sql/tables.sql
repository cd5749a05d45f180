-- Tables of the engine.
--
-- Two schemas: `hotmesh` is the public face (functions and views that users may call and query);
-- `hotmesh_engine` holds tables and internal functions, which nobody but the owner touches.
--
-- Choices that hold everywhere:
--   * No foreign keys and no triggers: they cost a lock or a call for each row of the hot path.
--   * Hot rows are narrow. Names (namespace, task queue) are interned to integers.
--   * A payload is `json`, never `jsonb`: jsonb reorders keys and changes numbers, and code that
--     iterates over a result would then replay differently from what ran live.
--   * What is written once is never updated: `run` is inserted at the start and `outcome` at the
--     close. One wide row updated at the close would be rewritten whole, with an entry in each of
--     its indexes (the expiry is indexed, so the update could not be HOT).

create schema hotmesh;
create schema hotmesh_engine;
create schema hotmesh_data;                     -- a view for each entity that was declared searchable

-- All ids come from one sequence, so that a message, a run and a wait can be told apart in a log.
-- CACHE 1: `message.place` is first in, first out, and a cached block would break that order.
create sequence hotmesh_engine.id as bigint cache 1;

-- How far workflow time runs ahead of the server's clock. Only tests move it. Leases never read it.
create table hotmesh_engine.clock (
  one    boolean  primary key default true check (one),
  ahead  interval not null default '0'
);
insert into hotmesh_engine.clock default values;

create table hotmesh_engine.namespace (
  namespace_id  int  generated always as identity primary key,
  name          text not null unique
);

create table hotmesh_engine.queue (
  queue_id      int  generated always as identity primary key,
  namespace_id  int  not null,
  name          text not null,
  unique (namespace_id, name)
);

-- A number that tasks carry in place of their queue's, which a transaction that is still open was making when
-- they were added. One for each turn that met such a name; a duty does away with it (name_queues).
create table hotmesh_engine.stand_in (
  queue_id      int  primary key,                -- of the same sequence as those of queues
  namespace_id  int  not null,
  name          text not null
);

-- ---------------------------------------------------------------------------------------- runs --

-- A run, open or closed: what it was asked to do. Inserted at the start, deleted by retention.
create table hotmesh_engine.run (
  run_id          bigint      primary key,
  created_at      timestamptz not null,
  namespace_id    int         not null,
  queue_id        int         not null,
  workflow_id     text        not null,
  workflow_type   text        not null,
  input           json        not null,          -- array of arguments
  retention       interval,                      -- null: 7 days
  request_id      uuid,                          -- a start retried with it returns the same run
  memo            json
);
-- "+ 0": or a plan made while the table is small may look for a run_id here, and read all of the index.
create index run_identity on hotmesh_engine.run (namespace_id, workflow_id, (run_id + 0));

-- How a run ended. Its presence is what 'closed' means.
create table hotmesh_engine.outcome (
  run_id      bigint      primary key,
  closed_at   timestamptz not null,
  expires_at  timestamptz not null,
  status      smallint    not null,              -- see hotmesh_engine.status_name
  payload     json                               -- the result, or the failure
);
create index outcome_expiry on hotmesh_engine.outcome (expires_at);

-- An open run: hot and narrow. Deleted at the close. A sleeping run is a row due later.
create table hotmesh_engine.live (
  run_id     bigint      primary key,
  due_at     timestamptz not null,               -- 'infinity': waits for a message only
  deadline   timestamptz,                        -- execution timeout
  holder     bigint,                             -- the worker incarnation that leases it
  queue_id   int         not null,
  fence      int         not null default 0,     -- its size grows with each lease; held and not above 0: given (give.sql)
  priority   smallint    not null default 3,     -- 1 (first) to 5
  lost       smallint    not null default 0,     -- leases lost in a row; from 2 on a suspect
  strikes    smallint    not null default 0      -- workers that died while it was their one suspect
) with (fillfactor = 80);
create index live_ready on hotmesh_engine.live (queue_id, priority, due_at, run_id)
  where holder is null and lost < 2 and due_at < 'infinity';
create index live_suspect on hotmesh_engine.live (queue_id, due_at, run_id)
  where holder is null and lost >= 2 and due_at < 'infinity';
create index live_holder on hotmesh_engine.live (holder) where holder is not null;
create index live_given on hotmesh_engine.live (holder) where fence <= 0 and holder is not null;
create index live_deadline on hotmesh_engine.live (deadline) where deadline is not null;

-- Who owns a workflow id. Apart from `live`, so that leasing never touches a text index.
create table hotmesh_engine.open_id (
  namespace_id  int    not null,
  workflow_id   text   not null,
  run_id        bigint not null,
  primary key (namespace_id, workflow_id)
);

-- Why an open run makes no progress: a turn that failed, or a quarantine.
create table hotmesh_engine.trouble (
  run_id       bigint      primary key,
  since        timestamptz not null,
  last_at      timestamptz not null,
  times        int         not null default 1,
  quarantined  boolean     not null default false,
  code         text        not null,
  message      text        not null
);

-- ------------------------------------------------------------------------------------- journal --

-- What happened to a run, in the order in which its code saw it. Only the holder's turn inserts;
-- nothing updates. `commands` lists what the code asked for since the row before.
create table hotmesh_engine.journal (
  run_id    bigint      not null,
  at        timestamptz not null,                -- the time that the code saw
  seq       int         not null,
  command   int,                                 -- the command that this row answers
  kind      smallint    not null,                -- see hotmesh_engine.event_name
  payload   json,
  commands  json,
  primary key (run_id, seq)
);

-- A message for a run that its code has not seen. Deleted by the turn that journals it.
create table hotmesh_engine.inbox (
  inbox_id    bigint      primary key,
  run_id      bigint      not null,
  command     int,                               -- the command that it answers
  kind        smallint    not null,              -- an event kind, or 100: the lease is gone
  holder      bigint,                            -- the worker that it is tagged for
  handed      boolean     not null default false,
  shared      boolean     not null default false,-- another wait got the same signal
  place       bigint,                            -- a signal: its place in its queue,
  expires_at  timestamptz,                       --   its retention,
  namespace_id int,                              --   and its key, for the way back
  key         text,
  payload     json
);
create index inbox_run on hotmesh_engine.inbox (run_id, command);
create index inbox_tagged on hotmesh_engine.inbox (holder) where holder is not null and not handed;

-- What a run waits for. Timers of a leased run are the holder's and stand here only when parked.
create table hotmesh_engine.waiting (
  run_id        bigint      not null,
  due_at        timestamptz,                     -- timers
  command       int         not null,
  grp           int         not null,            -- collation group; negative: all must arrive
  namespace_id  int         not null,
  kind          "char"      not null,            -- w signal, a activity, t timer
  key           text,                            -- signal id, activity name
  primary key (run_id, command)
);
create index waiting_key on hotmesh_engine.waiting (namespace_id, key) where kind = 'w';

-- ------------------------------------------------------------------------------------- signals --

-- A signal that no wait has taken yet: new, or kept until its retention lapses.
create table hotmesh_engine.message (
  message_id    bigint      primary key,
  place         bigint      not null,            -- order within its key; survives a way back
  sent_at       timestamptz not null,
  expires_at    timestamptz not null,
  namespace_id  int         not null,
  key           text        not null,
  payload       json        not null
);
create index message_key on hotmesh_engine.message (namespace_id, key, place);
create index message_expiry on hotmesh_engine.message (expires_at);

-- Work that routing has still to judge: 1 a signal, 2 a wait, 3 an inbox row.
create table hotmesh_engine.unrouted (
  id       bigint   primary key,
  run_id   bigint,
  command  int,
  kind     smallint not null
);

-- Messages that could not be delivered, because something about them or their receiver fails (aside.sql).
create table hotmesh_engine.undelivered (
  message_id    bigint      primary key,
  since         timestamptz not null,
  place         bigint,
  expires_at    timestamptz,
  namespace_id  int,
  run_id        bigint,                          -- what had already reached a run
  command       int,
  kind          smallint    not null,            -- as in inbox
  shared        boolean     not null,
  key           text,
  payload       json,
  code          text        not null,
  reason        text        not null
);

-- Requests that changed something without leaving a row that says so (idempotency keys).
create table hotmesh_engine.request (
  namespace_id  int         not null,
  request_id    text        not null,
  expires_at    timestamptz not null,
  primary key (namespace_id, request_id)
);
create index request_expiry on hotmesh_engine.request (expires_at);

-- ---------------------------------------------------------------------------------- activities --

-- An activity for another worker, waiting for a retry, or running for long. While the row exists
-- it is the only licence to run that activity.
create table hotmesh_engine.activity_task (
  run_id             bigint      not null,
  due_at             timestamptz not null,
  scheduled_at       timestamptz not null,
  deadline           timestamptz,                -- schedule-to-close
  heartbeat_by       timestamptz,                -- lapses when no heartbeat comes; server's clock
  holder             bigint,
  command            int         not null,
  queue_id           int         not null,
  attempt            int         not null,       -- attempts begun
  heartbeat_timeout  interval,
  activity           text        not null,
  input              json        not null,
  options            json        not null,       -- retry policy and timeouts, read by the worker
  details            json,                       -- of the last heartbeat
  last_failure       json,
  lost               smallint    not null default 0,   -- holders lost in a row; from 2 on a suspect
  strikes            smallint    not null default 0,   -- workers that died while it was their one suspect
  claimed_at         timestamptz,                -- by its last holder; server's clock
  primary key (run_id, command)
);
create index activity_ready on hotmesh_engine.activity_task (queue_id, due_at, run_id, command)
  where holder is null;
create index activity_suspect on hotmesh_engine.activity_task (queue_id, due_at, run_id, command)
  where holder is null and lost >= 2;
create index activity_aside on hotmesh_engine.activity_task (scheduled_at) where due_at = 'infinity';
create index activity_holder on hotmesh_engine.activity_task (holder) where holder is not null;
create index activity_deadline on hotmesh_engine.activity_task (deadline) where deadline is not null;
create index activity_heartbeat on hotmesh_engine.activity_task (heartbeat_by)
  where heartbeat_by is not null;

-- ------------------------------------------------------------------------------------- workers --

-- An incarnation of a worker process; its id is never used again. The lease of all that it holds
-- is `beat_at` plus the lease time: one update a worker, not one a task. Server's clock.
create table hotmesh_engine.worker (
  worker_id   bigint      primary key,
  name        text        not null,
  queues      int[]       not null,
  started_at  timestamptz not null,
  beat_at     timestamptz not null,
  contact_at  timestamptz not null,         -- unbroken contact since
  lease       interval    not null,
  suspect     bigint,                            -- the one suspect that it held when it died: a run,
  dead        boolean     not null default false,
  version     text        not null,
  suspect_command  int                           -- or this activity of it
) with (fillfactor = 50);

-- Hints, lost in a crash without harm: who sleeps, and who waits for which run.
create unlogged table hotmesh_engine.sleeper (
  worker_id  bigint  primary key,
  queues     int[]   not null,
  asleep     boolean not null
) with (fillfactor = 50);

create unlogged table hotmesh_engine.waiter (
  run_id     bigint      not null,
  client     bigint      not null,
  since      timestamptz not null default clock_timestamp(),
  primary key (run_id, client)
);

-- ------------------------------------------------------------------------------------- records --

-- An entity: a kind of record of one namespace. Its number names its rows, its table and its indexes.
create table hotmesh_engine.entity (
  entity_id     int     generated always as identity primary key,
  namespace_id  int     not null,
  name          text    not null,
  own           boolean not null default false,      -- its records have a table of their own: record_<entity_id>
  unique (namespace_id, name)
);

-- What of an entity's documents can be searched, as declared (indexes.sql).
create table hotmesh_engine.entity_field (
  entity_id  int     not null,
  position   int     not null,
  name       text    not null,
  type       text    not null,                   -- TAG, TEXT, NUMERIC, BOOLEAN, TIMESTAMP
  sortable   boolean not null,
  config     text    not null,                   -- of a TEXT: simple, or a language
  primary key (entity_id, name)
);

-- A document that can be searched, the engine's only jsonb. An entity whose search is declared has a partition of its
-- own (indexes.sql), so that its indexes are nobody else's: neither to be kept by others' writes nor to be considered
-- by others' searches. Who declares no search pays for none.
create table hotmesh_engine.record (
  entity_id   int         not null,
  version     int         not null,              -- of its last change
  created_at  timestamptz not null,
  updated_at  timestamptz not null,
  expires_at  timestamptz not null default 'infinity',
  follows     bigint,                            -- the run with whose retention it goes; null: none
  id          text        collate "C" not null,
  data        jsonb       not null,
  primary key (entity_id, id)
) partition by list (entity_id);
create table hotmesh_engine.record_rest partition of hotmesh_engine.record default;
create index record_expiry on hotmesh_engine.record (expires_at) where expires_at < 'infinity';

-- What each change made of the fields that it touched: a record as of any moment.
create table hotmesh_engine.record_change (
  entity_id  int         not null,
  version    int         not null,
  at         timestamptz not null,
  run_id     bigint,                             -- null: changed from outside
  seq        int,                                -- the run's journal row that lists the command
  command    int,
  id         text        collate "C" not null,
  changed    json        not null,               -- field: its new value
  removed    text[],
  primary key (entity_id, id, version)
);

-- Which record the code of a run works on, if it has touched one.
create table hotmesh_engine.bound (
  run_id     bigint  primary key,
  entity_id  int     not null,
  hook       boolean not null default false,     -- works on a record that another run began
  id         text    collate "C" not null
);
create index bound_record on hotmesh_engine.bound (entity_id, id);

-- The answer of a turn: rows of one shape, told apart by `kind` (see turn.sql).
create type hotmesh_engine.turn_row as (
  kind smallint, run bigint, id bigint, seq int, num int, command int, queue int,
  at double precision, name text, key text, payload text, extra text, details text
);

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
