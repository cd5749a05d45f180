-- Records: documents that workflows keep about themselves, and every change of them.
--
-- A record has an entity (the kind, of a namespace) and an id. A run works on the record that `bound`
-- says; one that nobody bound has its workflow type as entity and its workflow id as id, and is bound
-- when it first touches its record.
--
--   workflow code ──command in a turn──► change_records ──► record, record_change
--                                             └── answer: an inbox row of that command, in the same transaction
--
-- A change and the journal row that lists its command are recorded together, and its answer is
-- journaled when the code is fed it. So each applies once, however often the code is replayed or its
-- worker dies. What a document cannot do (counting up a text) is an answer too, an exception in that
-- code; it does not fail the turn.
--
-- Locks: `record` rows, waited for, in order of (entity, id); after the `live` rows of a turn and before
-- its `activity_task` rows. Who waits for a record holds nothing that the holder of a record waits for:
-- such transactions are turns, calls of change_record (one row) and starts (after the workflow id).
-- None of them is a user's: no document is written in a caller's transaction.
-- A concurrent twin waits for that row and then reads it anew (READ COMMITTED), so counters add up.
-- Crash: a turn or a call has happened with all its changes and answers, or not at all.

create or replace function hotmesh_engine.entity_id(p_namespace_id int, p_name text) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id int;
begin
  loop
    select entity_id into v_id from hotmesh_engine.entity where namespace_id = p_namespace_id and name = p_name;
    if found then return v_id; end if;
    perform hotmesh_engine.check_name('entity', p_name);
    insert into hotmesh_engine.entity (namespace_id, name) values (p_namespace_id, p_name) on conflict do nothing;
  end loop;
end $$;

-- The entity of a name, null if no record was ever written for it and no search declared.
create or replace function hotmesh_engine.known_entity(p_namespace text, p_entity text) returns int
language sql stable set search_path = pg_catalog, pg_temp as $$
  select e.entity_id from hotmesh_engine.entity e join hotmesh_engine.namespace n using (namespace_id)
   where n.name = p_namespace and e.name = p_entity
$$;

-- Whether a record has lapsed: its own time is over, or the retention of the run that it is kept with.
-- Both may be long before somebody prunes it.
create or replace function hotmesh_engine.lapsed(p_expires timestamptz, p_follows bigint, p_now timestamptz) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p_expires <= p_now
      or exists (select from hotmesh_engine.outcome o where o.run_id = p_follows and o.expires_at <= p_now)
$$;

-- ------------------------------------------------------------------------------ what a change is --

-- Objects are merged, member by member and as deep as both have them; anything else is replaced.
create or replace function hotmesh_engine.merge(p_old jsonb, p_new jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_out jsonb := p_old;
  v_one record;
begin
  if jsonb_typeof(p_old) is distinct from 'object' or jsonb_typeof(p_new) is distinct from 'object' then
    return p_new;
  end if;
  for v_one in select key, value from jsonb_each(p_new) loop
    v_out := v_out || jsonb_build_object(v_one.key,
      case when p_old ? v_one.key then hotmesh_engine.merge(p_old -> v_one.key, v_one.value) else v_one.value end);
  end loop;
  return v_out;
end $$;

-- One operation on one document. Numbers are exact decimals, to 340 places: more than a double tells apart.
--   set {field: value, ...}            → null
--   get [path...] (none: all of it)    → the value, null if there is none
--   mget [field, ...]                  → [value, ...]
--   incr, mult [field, number]         → the new value; what is missing counts as 0, as 1
--   delete [field, ...]                → how many there were
--   merge {...}                        → the whole document
--   append [[path...], value]          → the array's new length
-- r_changed: names of the fields that it touched; r_error: why it cannot be done, with nothing done.
create or replace function hotmesh_engine.apply_change(
  p_data jsonb, p_op text, p_args jsonb,
  out r_data jsonb, out r_answer jsonb, out r_changed text[], out r_error text
)
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_field  text;
  v_path   text[];
  v_old    jsonb;
  v_number numeric;
begin
  r_data := p_data;
  case p_op
  when 'set' then
    r_data := p_data || p_args;
    r_changed := array(select jsonb_object_keys(p_args));
  when 'get' then
    r_answer := p_data #> array(select jsonb_array_elements_text(p_args));
  when 'mget' then
    select coalesce(jsonb_agg(p_data -> k order by o), '[]') into r_answer
      from jsonb_array_elements_text(p_args) with ordinality u(k, o);
  when 'incr', 'mult' then
    v_field := p_args ->> 0;
    v_old := nullif(p_data -> v_field, 'null');
    if v_old is not null and jsonb_typeof(v_old) <> 'number' then
      r_error := format('field %s is no number: it is %s', quote_literal(left(v_field, 200)), jsonb_typeof(v_old));
      return;
    end if;
    v_number := case p_op when 'incr' then coalesce(v_old::numeric, 0) + (p_args -> 1)::numeric
                          else coalesce(v_old::numeric, 1) * (p_args -> 1)::numeric end;
    if scale(v_number) > 0 then                      -- 1.5 * 2.0 is the text 3.0, as clients write it, and not 3.00
      v_number := round(v_number, 340);
      v_number := round(v_number, greatest(min_scale(v_number), 1));
    end if;
    if abs(v_number) > 1.797e308 then
      r_error := format('field %s would become a number that no double can hold', quote_literal(left(v_field, 200)));
      return;
    end if;
    r_answer := to_jsonb(v_number);
    r_data := p_data || jsonb_build_object(v_field, r_answer);
    r_changed := array[v_field];
  when 'delete' then
    r_changed := array(select jsonb_array_elements_text(p_args) intersect select jsonb_object_keys(p_data));
    r_data := p_data - r_changed;
    r_answer := to_jsonb(cardinality(r_changed));
  when 'merge' then
    r_data := hotmesh_engine.merge(p_data, p_args);
    r_changed := array(select jsonb_object_keys(p_args));
    r_answer := r_data;
  when 'append' then
    v_path := array(select jsonb_array_elements_text(p_args -> 0));
    for i in 1 .. cardinality(v_path) - 1 loop
      if jsonb_typeof(p_data #> v_path[:i]) <> 'object' then
        r_error := format('%s is no object: it is %s', quote_literal(left(array_to_string(v_path[:i], '.'), 200)),
                          jsonb_typeof(p_data #> v_path[:i]));
        return;
      end if;
    end loop;
    v_old := p_data #> v_path;
    if v_old is not null and jsonb_typeof(v_old) <> 'array' then
      r_error := format('%s is no array: it is %s', quote_literal(left(array_to_string(v_path, '.'), 200)), jsonb_typeof(v_old));
      return;
    end if;
    v_old := coalesce(v_old, '[]') || jsonb_build_array(p_args -> 1);
    r_answer := to_jsonb(jsonb_array_length(v_old));
    for i in reverse cardinality(v_path) .. 1 loop
      v_old := jsonb_build_object(v_path[i], v_old);
    end loop;
    r_data := hotmesh_engine.merge(p_data, v_old);
    r_changed := v_path[:1];
  else
    raise exception using errcode = 'HM003', message = format('unknown operation on a record: %L', p_op);
  end case;
  if pg_column_size(r_data) > 2097152 then
    r_data := p_data; r_changed := null; r_answer := null;
    r_error := 'the document would have more than 2 MB, as PostgreSQL stores it (jsonb)';
  end if;
end $$;

-- One operation on one record, which is locked and read here, and noted in its history.
--   p_follows  the run with whose retention the record goes from now on, and no longer by a time of its own; null: as
--              before. A run that works on somebody else's record (a hook: p_run without p_follows) begins none.
--   p_expires  null: as before, and never for a new one
-- A record that has lapsed counts as none, whether or not it is still there.
create or replace function hotmesh_engine.write_record(
  p_entity int, p_id text, p_op text, p_args jsonb, p_now timestamptz,
  p_run bigint, p_seq int, p_command int, p_follows bigint, p_expires timestamptz,
  out r_answer jsonb, out r_error text
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_old     record;
  v_done    record;
  v_there   boolean;
  v_fresh   boolean;
  v_version int;
begin
  loop
    select data, version, expires_at, follows into v_old
      from hotmesh_engine.record where entity_id = p_entity and id = p_id for update;
    v_there := found;
    v_fresh := not v_there or v_old.expires_at <= p_now;
    if not v_fresh and v_old.follows <> coalesce(p_run, 0) then   -- a run that is open has not lapsed
      v_fresh := hotmesh_engine.lapsed(v_old.expires_at, v_old.follows, p_now);
    end if;
    v_version := case when v_there then v_old.version + 1 else 1 end;
    select * into v_done from hotmesh_engine.apply_change(
      case when v_fresh then '{}' else v_old.data end, p_op, p_args);
    r_answer := v_done.r_answer;
    r_error := v_done.r_error;
    if r_error is not null or v_done.r_changed is null or (cardinality(v_done.r_changed) = 0 and not v_fresh and p_expires is null) then
      return;                                        -- nothing to write down
    elsif v_fresh and p_run is not null and p_follows is null then
      r_answer := null;
      r_error := 'the record is gone: it was flushed, or its time is over';
      return;
    end if;
    if v_there then
      if v_fresh then                                -- what it was before is nobody's history any more
        delete from hotmesh_engine.record_change where entity_id = p_entity and id = p_id;
      end if;
      update hotmesh_engine.record
         set data = v_done.r_data, version = v_version, updated_at = p_now,
             created_at = case when v_fresh then p_now else created_at end,
             expires_at = coalesce(p_expires, case when v_fresh or follows is distinct from coalesce(p_follows, follows)
                                                   then 'infinity' else expires_at end),
             follows = coalesce(p_follows, case when not v_fresh then follows end)
       where entity_id = p_entity and id = p_id;
      exit;
    end if;
    insert into hotmesh_engine.record (entity_id, id, version, created_at, updated_at, expires_at, follows, data)
    values (p_entity, p_id, 1, p_now, p_now, coalesce(p_expires, 'infinity'), p_follows, v_done.r_data)
    on conflict do nothing;
    exit when found;                                 -- else a twin was faster: on its row
  end loop;
  insert into hotmesh_engine.record_change (entity_id, id, version, at, run_id, seq, command, changed, removed)
  select p_entity, p_id, v_version, p_now, p_run, p_seq, p_command,
         coalesce((select json_object_agg(k, v_done.r_data -> k) from unnest(v_done.r_changed) k where v_done.r_data ? k), '{}'),
         (select array_agg(k) from unnest(v_done.r_changed) k where not v_done.r_data ? k);
end $$;

-- --------------------------------------------------------------------------------- in a turn --

-- Carries out what the code of runs asked of their records; returns the ids of the answers.
-- Precondition: the caller holds the runs' `live` rows. q_seq: the journal row that lists the command.
create or replace function hotmesh_engine.change_records(
  p_worker bigint, p_now timestamptz, p_rejected bigint[],
  q_run bigint[], q_command int[], q_seq int[], q_op text[], q_args json[]
) returns bigint[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_one     record;
  v_done    record;
  v_run     bigint[] := '{}';
  v_command int[] := '{}';
  v_kind    smallint[] := '{}';
  v_payload json[] := '{}';
  v_ids     bigint[];
begin
  insert into hotmesh_engine.bound (run_id, entity_id, id)
  select r.run_id, hotmesh_engine.entity_id(r.namespace_id, r.workflow_type), r.workflow_id
    from hotmesh_engine.run r
   where r.run_id = any (q_run) and r.run_id <> all (p_rejected)
     and not exists (select from hotmesh_engine.bound b where b.run_id = r.run_id offset 0);

  for v_one in
    select u.*, b.entity_id, b.id, b.hook
      from unnest(q_run, q_command, q_seq, q_op, q_args) u(run, command, seq, op, args)
     cross join lateral (select * from hotmesh_engine.bound b where b.run_id = u.run offset 0) b
     where u.run <> all (p_rejected)
     order by b.entity_id, b.id, u.run, u.command
  loop
    select * into v_done from hotmesh_engine.write_record(
      v_one.entity_id, v_one.id, v_one.op, v_one.args::jsonb, p_now, v_one.run, v_one.seq, v_one.command,
      case when v_one.hook then null else v_one.run end, null);
    v_run := v_run || v_one.run;
    v_command := v_command || v_one.command;
    if v_done.r_error is null then
      v_kind := v_kind || 20::smallint;
      v_payload := v_payload || coalesce(v_done.r_answer, 'null')::json;
    else
      v_kind := v_kind || 21::smallint;
      v_payload := v_payload || json_build_object('type', 'RecordError', 'message', v_done.r_error);
    end if;
  end loop;

  with i as (
    insert into hotmesh_engine.inbox (inbox_id, run_id, command, kind, payload, holder, handed)
    select nextval('hotmesh_engine.id'), run, command, kind, payload, p_worker, true
      from unnest(v_run, v_command, v_kind, v_payload) u(run, command, kind, payload)
    returning inbox_id)
  select array_agg(inbox_id) into v_ids from i;
  return v_ids;
end $$;

-- ----------------------------------------------------------------------------- from clients --

-- One operation on one record from outside of workflow code; the answer as json. HM041: it cannot be done.
--   p_ttl     how long a record is kept from now on; null: as before, for ever if it is new
--   p_create  whether there may be none yet
create or replace function hotmesh_engine.change_record(
  p_namespace text, p_entity text, p_id text, p_op text, p_args json,
  p_ttl interval default null, p_idempotency_key text default null, p_create boolean default true
) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now    timestamptz := hotmesh.now();
  v_ns     int := hotmesh_engine.namespace_id(p_namespace);
  v_entity int := hotmesh_engine.entity_id(v_ns, p_entity);
  v_done   record;
begin
  perform hotmesh_engine.check_name('record id', p_id);
  if p_idempotency_key is not null then
    perform hotmesh_engine.check_name('idempotency key', p_idempotency_key);
    insert into hotmesh_engine.request (namespace_id, request_id, expires_at)   -- of this record; the bare key is a signal's
    values (v_ns, format('%s %s %s', v_entity, md5(p_id), p_idempotency_key), v_now + interval '7 days') on conflict do nothing;
    if not found then
      return (select (data -> (p_args ->> 0))::text from hotmesh_engine.record where entity_id = v_entity and id = p_id);
    end if;
  end if;
  if not p_create then
    perform from hotmesh_engine.record r
      where entity_id = v_entity and id = p_id and not hotmesh_engine.lapsed(r.expires_at, r.follows, v_now) for update;
    if not found then
      perform hotmesh_engine.no_record(p_namespace, p_entity, p_id);
    end if;
  end if;
  select * into v_done from hotmesh_engine.write_record(
    v_entity, p_id, p_op, p_args::jsonb, v_now, null, null, null, null,
    case when p_ttl >= interval '1000 years' then 'infinity' else v_now + p_ttl end);
  if v_done.r_error is not null then
    perform hotmesh_engine.refuse_change(p_entity, p_id, v_done.r_error);
  end if;
  return v_done.r_answer::text;
end $$;

create or replace function hotmesh_engine.refuse_change(p_entity text, p_id text, p_why text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'HM041', message = p_why,
    detail = format('record %s of entity %s', quote_literal(left(p_id, 200)), quote_literal(left(p_entity, 200)));
end $$;

create or replace function hotmesh_engine.no_record(p_namespace text, p_entity text, p_id text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'HM041',
    message = format('there is no record %s of entity %s in namespace %s',
      quote_literal(left(p_id, 200)), quote_literal(left(p_entity, 200)), quote_literal(left(p_namespace, 200))),
    hint = 'Check the id, the entity and the namespace; a record is kept until its ttl lapses.';
end $$;

-- Starts one run that works on a record, and writes the record with it, in one transaction.
--   p_hook  the record must be there and stays whose it is; else it is the run's, which begins it or takes it over:
--           p_data is set in it, and it goes with the run's retention
-- All else as in hotmesh_engine.start.
create or replace function hotmesh_engine.start_on_record(
  p_namespace text, p_entity text, p_record text, p_data json, p_hook boolean,
  p_type text, p_id text, p_queue text, p_input json, p_request uuid, p_retention interval, p_timeout double precision,
  p_on_conflict text, p_reuse text, p_retry boolean, p_client bigint
) returns table (run_id bigint, started boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_entity int := hotmesh_engine.entity_id(hotmesh_engine.namespace_id(p_namespace), p_entity);
  v_run    bigint;
  v_is_new boolean;
begin
  perform hotmesh_engine.check_name('record id', p_record);
  if p_hook and not exists (
    select from hotmesh_engine.record r
     where entity_id = v_entity and id = p_record and not hotmesh_engine.lapsed(r.expires_at, r.follows, hotmesh.now()))
  then
    perform hotmesh_engine.no_record(p_namespace, p_entity, p_record);
  end if;
  select s.run_id, s.started into v_run, v_is_new
    from hotmesh_engine.start(
      p_namespace, array[p_type], array[p_id], array[p_queue], array[p_input], array[p_request], null,
      array[p_timeout], array[p_retention], null, null, p_on_conflict, p_reuse, p_retry, p_client) s;
  if v_is_new then
    perform hotmesh_engine.begin_record(v_run, v_entity, p_entity, p_record, p_data, p_hook);
  end if;
  return query select v_run, v_is_new;
end $$;

-- A start as others are, of one run, which begins the record that it would have anyway (its type and its id).
create or replace function hotmesh_engine.start_with_record(
  p_namespace text, p_type text[], p_id text[], p_queue text[], p_input json[], p_request uuid[], p_delay double precision[],
  p_timeout double precision[], p_retention interval[], p_priority smallint[], p_memo json[], p_on_conflict text, p_reuse text,
  p_retry boolean, p_client bigint, p_data json
) returns table (run_id bigint, started boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_run    bigint;
  v_is_new boolean;
begin
  select s.run_id, s.started into v_run, v_is_new
    from hotmesh_engine.start(p_namespace, p_type, p_id, p_queue, p_input, p_request, p_delay, p_timeout, p_retention,
                              p_priority, p_memo, p_on_conflict, p_reuse, p_retry, p_client) s;
  if v_is_new then
    perform hotmesh_engine.begin_record(v_run,
      hotmesh_engine.entity_id(hotmesh_engine.namespace_id(p_namespace), p_type[1]), p_type[1], p_id[1], p_data, false);
  end if;
  return query select v_run, v_is_new;
end $$;

-- The record of a run that has just been started, in its transaction.
create or replace function hotmesh_engine.begin_record(
  p_run bigint, p_entity int, p_name text, p_record text, p_data json, p_hook boolean
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_error text;
begin
  insert into hotmesh_engine.bound (run_id, entity_id, id, hook) values (p_run, p_entity, p_record, p_hook)
  on conflict do nothing;                            -- a lost twin of this call was here
  if found and p_data is not null then
    select r_error into v_error from hotmesh_engine.write_record(
      p_entity, p_record, 'set', p_data::jsonb, hotmesh.now(), p_run, null, null, p_run, 'infinity');
    if v_error is not null then
      perform hotmesh_engine.refuse_change(p_name, p_record, v_error);
    end if;
  elsif found and not p_hook then
    update hotmesh_engine.record set follows = p_run, expires_at = 'infinity'
     where entity_id = p_entity and id = p_record and not hotmesh_engine.lapsed(expires_at, follows, hotmesh.now());
  end if;
end $$;

-- Open runs that work on a record: its own first, then its hooks. HM002 if there is none.
create or replace function hotmesh_engine.runs_of_record(p_namespace text, p_entity text, p_id text) returns setof bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select b.run_id from hotmesh_engine.bound b
     cross join lateral (select from hotmesh_engine.live l where l.run_id = b.run_id offset 0) l
     where b.entity_id = hotmesh_engine.known_entity(p_namespace, p_entity) and b.id = p_id
     order by b.hook, b.run_id;
  if not found then
    raise exception using errcode = 'HM002',
      message = format('no workflow of record %s of entity %s is open', quote_literal(left(p_id, 200)), quote_literal(left(p_entity, 200))),
      hint = 'Check the id, the entity and the namespace.';
  end if;
end $$;

-- Forgets a record, its history, and the results of the closed runs that worked on it. A run that is
-- open goes on. False if there was nothing to forget.
create or replace function hotmesh_engine.flush_record(p_namespace text, p_entity text, p_id text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_entity int := hotmesh_engine.known_entity(p_namespace, p_entity);
  v_there  boolean;
begin
  delete from hotmesh_engine.record where entity_id = v_entity and id = p_id;
  v_there := found;
  delete from hotmesh_engine.record_change where entity_id = v_entity and id = p_id;
  update hotmesh_engine.outcome o set expires_at = hotmesh.now()
    from hotmesh_engine.bound b
   where b.entity_id = v_entity and b.id = p_id and o.run_id = b.run_id and o.expires_at > hotmesh.now();
  return v_there or found;
end $$;

-- -------------------------------------------------------------------------------- retention --

-- Removes what goes with runs that are being pruned, and records that have lapsed. One by one, in order of (entity, id):
-- each look-up is then by both columns of the key, whatever the planner thinks of the tables. (As sets, and planned while
-- they were empty, each call read the whole history.)
create or replace function hotmesh_engine.prune_records(p_runs bigint[], p_now timestamptz, p_limit int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_one record;
begin
  for v_one in
    select * from (select * from hotmesh_engine.bound where run_id = any (p_runs) offset 0) b order by entity_id, id
  loop
    delete from hotmesh_engine.record where entity_id = v_one.entity_id and id = v_one.id and follows = v_one.run_id;
    if found then
      delete from hotmesh_engine.record_change where entity_id = v_one.entity_id and id = v_one.id;
    end if;
    delete from hotmesh_engine.bound where run_id = v_one.run_id;
  end loop;
  for v_one in
    select entity_id, id from (
      select entity_id, id from hotmesh_engine.record
       where expires_at <= p_now and expires_at < 'infinity' order by expires_at limit p_limit for update skip locked) r
     order by entity_id, id
  loop
    delete from hotmesh_engine.record where entity_id = v_one.entity_id and id = v_one.id;
    delete from hotmesh_engine.record_change where entity_id = v_one.entity_id and id = v_one.id;
  end loop;
end $$;

-- ---------------------------------------------------------------------------------- reading --

-- Volatile, although they change nothing: who waits here while an entity gets a table of its own must then read with a
-- snapshot of after that, or would look for the records where they are now, and not see that they have come.

-- A record's document, null if there is none (or no more). p_fields: only those.
create or replace function hotmesh.record(entity text, id text, namespace text default 'default', fields text[] default null)
returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_now timestamptz := hotmesh.now();
begin
  return (
    select case when fields is null then r.data
                else coalesce((select jsonb_object_agg(f, r.data -> f) from unnest(fields) f where r.data ? f), '{}') end
      from hotmesh_engine.record r
     where r.entity_id = hotmesh_engine.known_entity(namespace, entity) and r.id = record.id
       and not hotmesh_engine.lapsed(r.expires_at, r.follows, v_now));
end $$;
comment on function hotmesh.record(text, text, text, text[]) is
  'The document of a record, or the named fields of it; null if there is no such record.';

-- The document as it was: at a moment, or when the record's workflow had journaled its row `seq`.
create or replace function hotmesh.record_as_of(
  entity text, id text, at timestamptz default null, seq int default null, namespace text default 'default'
) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_entity  int := hotmesh_engine.known_entity(namespace, entity);
  v_id      text := id;
  v_at      timestamptz := at;
  v_seq     int := seq;
  v_version int;
begin
  if (v_at is null) = (v_seq is null) then
    raise exception using errcode = 'HM003', message = 'give either a moment (at) or a journal row (seq)';
  end if;
  select max(c.version) into v_version
    from hotmesh_engine.record_change c
    join hotmesh_engine.record r on r.entity_id = c.entity_id and r.id = c.id
   where c.entity_id = v_entity and c.id = v_id and not hotmesh_engine.lapsed(r.expires_at, r.follows, hotmesh.now())
     and (c.at <= v_at or (v_at is null and c.run_id = r.follows and coalesce(c.seq, 0) <= v_seq)
          or (v_seq >= 0 and c.run_id is distinct from r.follows
              and c.at <= (select created_at from hotmesh_engine.run where run_id = r.follows)));   -- what it found there
  if v_version is null then return null; end if;
  return (
    select coalesce(jsonb_object_agg(f.key, f.value) filter (where not f.gone), '{}')
      from (select distinct on (x.key) x.key, x.value, x.gone
              from (select c.version, j.key, j.value::jsonb as value, false as gone
                      from hotmesh_engine.record_change c cross join lateral json_each(c.changed) j
                     where c.entity_id = v_entity and c.id = v_id and c.version <= v_version
                    union all
                    select c.version, k.key, null, true
                      from hotmesh_engine.record_change c cross join lateral unnest(c.removed) k(key)
                     where c.entity_id = v_entity and c.id = v_id and c.version <= v_version) x
             order by x.key, x.version desc) f);
end $$;
comment on function hotmesh.record_as_of(text, text, timestamptz, int, text) is
  'A record as it was at a moment, or at a row of its workflow''s journal; null if it was not there yet.';
