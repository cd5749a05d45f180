"""Records: documents of workflows, their changes, and what is needed to search them."""

from pyhotmesh import migrate

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = """\
create schema hotmesh_data;

create table hotmesh_engine.entity (
  entity_id     int     generated always as identity primary key,
  namespace_id  int     not null,
  name          text    not null,
  own           boolean not null default false,
  unique (namespace_id, name)
);

create table hotmesh_engine.entity_field (
  entity_id  int     not null,
  position   int     not null,
  name       text    not null,
  type       text    not null,
  sortable   boolean not null,
  config     text    not null,
  primary key (entity_id, name)
);

create table hotmesh_engine.record (
  entity_id   int         not null,
  version     int         not null,
  created_at  timestamptz not null,
  updated_at  timestamptz not null,
  expires_at  timestamptz not null default 'infinity',
  follows     bigint,
  id          text        collate "C" not null,
  data        jsonb       not null,
  primary key (entity_id, id)
) partition by list (entity_id);
create table hotmesh_engine.record_rest partition of hotmesh_engine.record default;
create index record_expiry on hotmesh_engine.record (expires_at) where expires_at < 'infinity';

create table hotmesh_engine.record_change (
  entity_id  int         not null,
  version    int         not null,
  at         timestamptz not null,
  run_id     bigint,
  seq        int,
  command    int,
  id         text        collate "C" not null,
  changed    json        not null,
  removed    text[],
  primary key (entity_id, id, version)
);

create table hotmesh_engine.bound (
  run_id     bigint  primary key,
  entity_id  int     not null,
  hook       boolean not null default false,
  id         text    collate "C" not null
);
create index bound_record on hotmesh_engine.bound (entity_id, id);

create table hotmesh_engine.stand_in (
  queue_id      int  primary key,
  namespace_id  int  not null,
  name          text not null
);

drop index hotmesh_engine.run_identity;
create index run_identity on hotmesh_engine.run (namespace_id, workflow_id, (run_id + 0));

alter table hotmesh_engine.activity_task
  add column lost smallint not null default 0,
  add column strikes smallint not null default 0,
  add column claimed_at timestamptz;
create index activity_suspect on hotmesh_engine.activity_task (queue_id, due_at, run_id, command)
  where holder is null and lost >= 2;
create index activity_aside on hotmesh_engine.activity_task (scheduled_at) where due_at = 'infinity';
alter table hotmesh_engine.worker add column suspect_command int;

drop index hotmesh_engine.live_given;
create index live_given on hotmesh_engine.live (holder) where fence <= 0 and holder is not null;
"""

# The last arguments of `turn` and `adopt` are new, and what the others return; `await` commits in between.
_REPLACED = """\
drop function hotmesh_engine.close_runs, hotmesh_engine.wake_clients, hotmesh_engine.claim_tasks, hotmesh_engine.await;
drop function hotmesh_engine.adopt;
drop function hotmesh_engine.turn(
bigint, int[], int, int, int, timestamptz, bigint, boolean, bigint[], bigint[], int[], int[],
smallint[], timestamptz[], json[], bigint[], bigint[], int[], smallint[], int[], timestamptz[],
json[], json[], bigint[], bigint[], bigint[], int[], text[], text[], int[], timestamptz[], bigint[],
int[], bigint[], int[], text[], text[], json[], json[], int[], boolean[], timestamptz[],
timestamptz[], double precision[], json[], bigint[], int[], int[], smallint[], json[],
timestamptz[], bigint[], text[], json[]
);
"""

# What was replaced comes back with what was there before.
_BACK = """\
update hotmesh_engine.activity_task t set queue_id = hotmesh_engine.queue_id(s.namespace_id, s.name)
  from hotmesh_engine.stand_in s where t.queue_id = s.queue_id;
drop schema hotmesh_data cascade;
drop view hotmesh.records, hotmesh.record_changes;
drop table hotmesh_engine.record;
drop function hotmesh_engine.turn, hotmesh_engine.adopt, hotmesh_engine.close_runs, hotmesh_engine.wake_clients;
drop function hotmesh_engine.claim_tasks, hotmesh_engine.has_lived;
drop procedure hotmesh_engine.start_early, hotmesh_engine.signal_early, hotmesh_engine.flush_log, hotmesh_engine.await;
drop index hotmesh_engine.activity_suspect, hotmesh_engine.activity_aside;
alter table hotmesh_engine.activity_task drop column lost, drop column strikes, drop column claimed_at;
alter table hotmesh_engine.worker drop column suspect_command;
drop function hotmesh_engine.close_run, hotmesh_engine.wake_client, hotmesh_engine.tell_run,
hotmesh_engine.interrupt_run, hotmesh.interrupt, hotmesh.cancel;
drop function
hotmesh_engine.entity_id, hotmesh_engine.known_entity, hotmesh_engine.merge,
hotmesh_engine.apply_change, hotmesh_engine.write_record, hotmesh_engine.change_records,
hotmesh_engine.change_record, hotmesh_engine.no_record, hotmesh_engine.lapsed, hotmesh_engine.start_on_record,
hotmesh_engine.start_with_record, hotmesh_engine.begin_record,
hotmesh_engine.runs_of_record, hotmesh_engine.flush_record, hotmesh_engine.prune_records,
hotmesh.record, hotmesh.record_as_of, hotmesh_engine.scalar, hotmesh_engine.tag,
hotmesh_engine.number, hotmesh_engine.bool, hotmesh_engine.instant, hotmesh_engine.odd_instant,
hotmesh_engine.prefix_query,
hotmesh_engine.invalid_query, hotmesh_engine.declare_entity, hotmesh_engine.key_of, hotmesh_engine.kept_sql,
hotmesh_engine.words_of, hotmesh_engine.index_plan, hotmesh_engine.own_table, hotmesh_engine.table_of, hotmesh_engine.make_view,
hotmesh_engine.condition, hotmesh_engine.field_of, hotmesh_engine.value_key,
hotmesh_engine.comparison, hotmesh_engine.equals_sql, hotmesh_engine.bound_sql, hotmesh_engine.where_sql,
hotmesh_engine.find_sql, hotmesh_engine.page_mark, hotmesh_engine.find,
hotmesh_engine.count_records, hotmesh_engine.explain_find, hotmesh_engine.aggregate,
hotmesh_engine.sum_of, hotmesh.find,
hotmesh_engine.wake_schedules, hotmesh_engine.watch_buffers, hotmesh_engine.note_missed,
hotmesh.update_schedule, hotmesh_engine.queue_or_stand_in, hotmesh_engine.queue_lock, hotmesh_engine.name_queues,
hotmesh_engine.uncached_retention, hotmesh_engine.slot_wait,
hotmesh_engine.refuse_change;
drop table hotmesh_engine.bound, hotmesh_engine.record_change,
  hotmesh_engine.entity_field, hotmesh_engine.entity;
drop index hotmesh_engine.run_identity;
create index run_identity on hotmesh_engine.run (namespace_id, workflow_id, run_id);
drop function hotmesh_engine.give_parked, hotmesh_engine.take_sleeper;
update hotmesh_engine.live set fence = abs(fence) where fence < 0;
drop index hotmesh_engine.live_given;
create index live_given on hotmesh_engine.live (holder) where fence = 0 and holder is not null;
"""

# A view has looked at it until then.
_LAST = "drop table hotmesh_engine.stand_in;"


def upgrade() -> None:
    migrate.run(_TABLES + _REPLACED)
    migrate.apply_frozen(revision)


def downgrade() -> None:
    migrate.run(_BACK)
    migrate.restore(revision)
    migrate.run(_LAST)
