-- Schedules: what people do with them. What a schedule is stands in schedule_spec.sql, what workers do in firing.sql.
--
-- A schedule is a row that says what to start (type, queue, input) and when: by a cron expression in a time
-- zone, or by an interval, whose slots are `anchor + n * every`, so that nothing drifts. A *slot* is a time at
-- which it is due; the run that it starts has the workflow id `<schedule id>:<slot in UTC, ISO 8601>`.
--
--              a slot comes due                            decision of schedule_slot
--                    │
--        ┌───────────┼──────────────┬────────────────┐
--   the one before   │         the one before   found only after       its workflow id
--   has closed, or   │         is still open    its catch-up window    is taken
--   need not         │              │                │                     │
--        ▼           ▼              ▼                ▼                     ▼
--    s started    b buffered     k skipped        m missed              r refused
--        ▲           │               └───── backfill ─┴─────────────────────┘──► b
--        └───────────┘ when the one before has closed
--
-- A row that has started a run never starts another one: the primary key (schedule, slot) decides, whoever
-- comes first, with the run in the same transaction.
--
-- Locks: creating waits for a twin that creates the same id (the unique key); pause, resume, update and delete
-- wait for the schedule's row, which a firing holds for some milliseconds. In a caller's transaction it stays
-- locked until that ends, and firings of that one schedule wait so long. Trigger and backfill insert only, and
-- hold off nothing but the schedule's deletion (FOR KEY SHARE).
-- Crash: each is one transaction.

-- True if this call (or its lost twin, with the same request id) has created it.
create or replace function hotmesh_engine.create_schedule(p_namespace text, p_id text, p_spec json, p_request uuid default null)
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := hotmesh.now();
  k     hotmesh_engine.schedule;
begin
  if p_id is null or octet_length(p_id) not between 1 and 900 then
    raise exception using errcode = 'HM003', message = format('a schedule id must have 1 to 900 bytes, this one has %s', coalesce(octet_length(p_id), 0));
  end if;
  k.schedule_key := nextval('hotmesh_engine.id');
  k.namespace_id := hotmesh_engine.namespace_id(p_namespace);
  k.schedule_id := p_id;
  k.created_at := v_now;
  k.counted_from := v_now;
  k.request_id := p_request;
  k.cycles := 0; k.trouble_times := 0; k.paused := false; k.time_zone := 'UTC'; k.catchup := '1 minute';
  k.jitter := '0'; k.overlap := 'skip'; k.input := '[]';
  k := hotmesh_engine.read_schedule(k, p_spec, v_now);
  insert into hotmesh_engine.schedule values (k.*) on conflict (namespace_id, schedule_id) do nothing;
  if found then
    perform hotmesh_engine.wake_schedules();               -- so that a first slot within a second is not late
    return true;
  end if;
  return exists (select from hotmesh_engine.schedule s
                  where s.namespace_id = k.namespace_id and s.schedule_id = p_id and s.request_id = p_request);
end $$;

-- Changes what the specification names; null: as if it had never been given. New times count from now.
create or replace function hotmesh_engine.update_schedule(p_namespace text, p_id text, p_spec json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  k hotmesh_engine.schedule := hotmesh_engine.find_schedule(p_namespace, p_id);
begin
  select * into k from hotmesh_engine.schedule where schedule_key = k.schedule_key for no key update;
  if not found then
    perform hotmesh_engine.find_schedule(p_namespace, p_id);       -- it has just been deleted
  end if;
  k := hotmesh_engine.read_schedule(k, p_spec, hotmesh.now());
  update hotmesh_engine.schedule
     set due_at = k.due_at, next_slot = k.next_slot, anchor = k.anchor, updated_at = k.updated_at, queue_id = k.queue_id,
         max_cycles = k.max_cycles, pause_after = k.pause_after, priority = k.priority, paused = k.paused, every = k.every,
         cron = k.cron, time_zone = k.time_zone, catchup = k.catchup, jitter = k.jitter, overlap = k.overlap,
         execution_timeout = k.execution_timeout, retention = k.retention, workflow_type = k.workflow_type,
         input = k.input, memo = k.memo, note = k.note, trouble_code = null, trouble = null, trouble_since = null, trouble_times = 0
   where schedule_key = k.schedule_key;
  perform hotmesh_engine.wake_schedules();
end $$;

-- ----------------------------------------------------------------------------------- for people --

create or replace function hotmesh.cron(schedule_id text, workflow_type text, "interval" text, options json default '{}')
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_odd text;
begin
  perform hotmesh_engine.check_payload('options', options);
  if json_typeof(options) is distinct from 'object' then
    raise exception using errcode = 'HM003', message = 'options must be a JSON object';
  end if;
  select key into v_odd from json_each(options) where key in ('workflow', 'interval') limit 1;
  if found then
    raise exception using errcode = 'HM003', message = format('%s is an argument, not an option', v_odd);
  end if;
  return hotmesh_engine.create_schedule(coalesce(options ->> 'namespace', 'default'), schedule_id,
    (select json_object_agg(key, value)
       from (select key, value from json_each(options) where key <> 'namespace'
             union all select 'workflow', to_json(workflow_type)
             union all select 'interval', to_json("interval")) o));
end $$;
comment on function hotmesh.cron(text, text, text, json) is
  'Creates a schedule: true if this call did, false if it is there already. Interval: a cron expression or a duration. Options: task_queue, kind (workflow, or call: of a topic), args, time_zone, delay, max_cycles, overlap, catchup, jitter, pause_after_failures, ...';

create or replace function hotmesh.update_schedule(schedule_id text, changes json, namespace text default 'default')
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.update_schedule(namespace, schedule_id, changes)
$$;
comment on function hotmesh.update_schedule(text, json, text) is
  'Changes what is named: workflow, interval, and the options of hotmesh.cron. Null: as if it had never been given. A new interval, time_zone or delay counts from now.';

create or replace function hotmesh.pause_schedule(schedule_id text, note text default null, namespace text default 'default')
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k hotmesh_engine.schedule := hotmesh_engine.find_schedule(namespace, schedule_id);
begin
  update hotmesh_engine.schedule s
     set paused = true, note = left(pause_schedule.note, 10000), due_at = 'infinity', updated_at = hotmesh.now()
   where s.schedule_key = k.schedule_key and not s.paused;
  return found;
end $$;
comment on function hotmesh.pause_schedule(text, text, text) is 'Stops a schedule until it is resumed; false if it is paused already.';

-- Its slots in the meantime were not wanted: they are not caught up.
create or replace function hotmesh.resume_schedule(schedule_id text, namespace text default 'default') returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k     hotmesh_engine.schedule := hotmesh_engine.find_schedule(namespace, schedule_id);
  c     hotmesh_engine.cron;
  v_now timestamptz := hotmesh.now();
begin
  select * into k from hotmesh_engine.schedule s where s.schedule_key = k.schedule_key for no key update;
  if not found or not k.paused and k.trouble_code is null then return false; end if;
  perform hotmesh_engine.check_zone(k.time_zone);
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  if k.paused and k.next_slot is not null then
    -- last_slot: the clock may have stepped back
    k.next_slot := hotmesh_engine.slot_after(k, c, greatest(v_now, k.last_slot, k.anchor - interval '1 microsecond'));
  end if;
  k.paused := false;
  update hotmesh_engine.schedule s
     set paused = false, note = null, next_slot = k.next_slot, due_at = hotmesh_engine.schedule_due(k), counted_from = v_now,
         updated_at = v_now, trouble_code = null, trouble = null, trouble_since = null, trouble_times = 0
   where s.schedule_key = k.schedule_key;
  perform hotmesh_engine.wake_schedules();
  return true;
end $$;
comment on function hotmesh.resume_schedule(text, text) is
  'Lets a paused or troubled schedule go on with its next slot; false if it was neither.';

-- Starts a run now, whatever else runs; a slot of its own. With p_slot (a time of the engine's clock) the call may
-- be repeated when its reply was lost: it then answers with the run that it has started.
create or replace function hotmesh_engine.trigger_schedule(
  p_namespace text, p_id text, p_caller boolean, p_slot timestamptz default null, out workflow_id text, out run_id bigint
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k      hotmesh_engine.schedule := hotmesh_engine.find_schedule(p_namespace, p_id);
  v_slot timestamptz := coalesce(p_slot, hotmesh.now());
begin
  perform hotmesh_engine.keep_schedule(k);
  loop
    insert into hotmesh_engine.schedule_slot (schedule_key, slot, decided_at, decision, origin)
    values (k.schedule_key, v_slot, hotmesh.now(), 's', 't') on conflict do nothing;
    exit when found;
    select s.run_id into run_id from hotmesh_engine.schedule_slot s
     where s.schedule_key = k.schedule_key and s.slot = v_slot and s.origin = 't' and s.slot = p_slot;
    if found then
      workflow_id := hotmesh_engine.slot_workflow_id(p_id, v_slot);
      return;
    end if;
    v_slot := v_slot + interval '1 microsecond';
  end loop;
  workflow_id := hotmesh_engine.slot_workflow_id(p_id, v_slot);
  run_id := (select s.run_id from hotmesh_engine.start_slots(p_namespace, array[k.schedule_key], array[v_slot], p_caller) s);
  update hotmesh_engine.schedule_slot s set run_id = trigger_schedule.run_id
   where s.schedule_key = k.schedule_key and s.slot = v_slot;
end $$;

create or replace function hotmesh.trigger_schedule(schedule_id text, namespace text default 'default') returns text
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select workflow_id from hotmesh_engine.trigger_schedule(namespace, schedule_id, true)
$$;
comment on function hotmesh.trigger_schedule(text, text) is
  'Starts a run of the schedule when this transaction commits, beside whatever runs; returns its workflow id.';

-- Runs that the schedule started go on; its history goes.
create or replace function hotmesh.delete_schedule(schedule_id text, namespace text default 'default') returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_key bigint;
begin
  delete from hotmesh_engine.schedule s
   where s.schedule_id = delete_schedule.schedule_id
     and s.namespace_id = (select n.namespace_id from hotmesh_engine.namespace n where n.name = namespace)
  returning s.schedule_key into v_key;
  delete from hotmesh_engine.schedule_slot s where s.schedule_key = v_key;
  return v_key is not null;
end $$;
comment on function hotmesh.delete_schedule(text, text) is 'Deletes a schedule and its history; runs that it started go on. False if there is none.';

create or replace function hotmesh.next_runs(schedule_id text, n int default 5, namespace text default 'default')
returns setof timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k      hotmesh_engine.schedule := hotmesh_engine.find_schedule(namespace, schedule_id);
  c      hotmesh_engine.cron;
  v_slot timestamptz := k.next_slot;
begin
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  if k.paused and v_slot is not null then                  -- if it were resumed now
    v_slot := hotmesh_engine.slot_after(k, c, greatest(hotmesh.now(), k.last_slot, k.anchor - interval '1 microsecond'));
  end if;
  for i in 1..least(n, coalesce(k.max_cycles - k.cycles, n), 10000) loop
    exit when v_slot is null;
    return next v_slot;
    v_slot := hotmesh_engine.slot_after(k, c, v_slot);
  end loop;
end $$;
comment on function hotmesh.next_runs(text, int, text) is 'The next slots of a schedule; none if it is over.';

-- Puts the slots of a window (both ends included) that have not run into the buffer; returns how many. With the
-- overlap policy allow_all they start at once, else one after another; also while the schedule is paused.
create or replace function hotmesh.backfill_schedule(
  schedule_id text, window_start timestamptz, window_end timestamptz, namespace text default 'default'
) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k        hotmesh_engine.schedule := hotmesh_engine.find_schedule(namespace, schedule_id);
  c        hotmesh_engine.cron;
  v_now    timestamptz := hotmesh.now();
  v_slots  timestamptz[] := '{}';
  v_slot   timestamptz := window_start - interval '1 microsecond';
  v_missed timestamptz;
  v_until  timestamptz;
  v_count  int;
begin
  if window_start is null or window_end is null or not isfinite(window_start) or window_end > v_now then
    raise exception using errcode = 'HM003', message = 'a backfill has a beginning and an end in the past';
  end if;
  perform hotmesh_engine.keep_schedule(k);
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  loop
    v_slot := hotmesh_engine.slot_after(k, c, v_slot);
    exit when v_slot is null or v_slot > window_end;
    v_slots := v_slots || v_slot;
    if cardinality(v_slots) > 10000 then
      raise exception using errcode = 'HM003', message = 'more than 10000 slots in one backfill', hint = 'Choose shorter windows.';
    end if;
  end loop;
  -- of a row that stands for several missed slots the rest stays missed
  select s.slot, s.missed_until into v_missed, v_until from hotmesh_engine.schedule_slot s
   where s.schedule_key = k.schedule_key and s.decision = 'm' and s.slot between window_start and window_end
   order by s.missed_until desc nulls last limit 1;
  with put as (
    insert into hotmesh_engine.schedule_slot as s (schedule_key, slot, decided_at, decision, origin)
    select k.schedule_key, slot, v_now, 'b', 'b' from unnest(v_slots) slot
    on conflict (schedule_key, slot) do update set decision = 'b', origin = 'b', decided_at = v_now, missed_until = null
     where s.decision in ('k', 'm', 'r')
    returning 1)
  select count(*) into v_count from put;
  if v_slot < v_until then
    insert into hotmesh_engine.schedule_slot (schedule_key, slot, decided_at, missed_until, decision, origin)
    values (k.schedule_key, v_slot, v_now, v_until, 'm', 's') on conflict do nothing;
  end if;
  perform hotmesh_engine.watch_buffers(array[k.schedule_key]);
  perform hotmesh_engine.wake_schedules();
  return v_count;
end $$;
comment on function hotmesh.backfill_schedule(text, timestamptz, timestamptz, text) is
  'Runs the slots of a past window that have not run; returns how many they are.';
