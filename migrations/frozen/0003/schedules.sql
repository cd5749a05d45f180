-- Schedules: what people do with them. What the workers do is in firing.sql.
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

-- How a duration is written in JSON or SQL: seconds, or text as PostgreSQL takes intervals. A month is 30
-- days and a year 365, as in Python; endless is 1000 years.
create or replace function hotmesh_engine.schedule_seconds(p_what text, p_text text) returns double precision
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_interval interval;
  v_seconds  double precision;
  v_unit     text;
begin
  if p_text is null then return null; end if;
  if lower(btrim(p_text)) in ('infinity', 'inf') then return 31536000000; end if;
  begin
    if p_text ~ '^\s*[-+]?[\d.]+(e[-+]?\d+)?\s*$' then
      v_seconds := p_text::double precision;
    else
      v_interval := p_text::interval;
      v_seconds := extract(epoch from v_interval)
                   - extract(epoch from make_interval(years => extract(year from v_interval)::int))
                   + extract(year from v_interval) * 31536000;
    end if;
  exception when data_exception then
    select unit into v_unit from unnest('{second,minute,hour,day,week,month,year}'::text[]) with ordinality u(unit, o)
     where left(unit, 1) = left(substring(lower(p_text) from '[a-z]+'), 1) order by o limit 1;
    raise exception using errcode = 'HM026', message = format('%s is not a duration: %s', p_what, quote_literal(left(p_text, 200))),
      hint = coalesce(format('Did you mean %s?', v_unit), 'For example ''1 week'', ''15 minutes'', ''500 ms'', or seconds.');
  end;
  if v_seconds < 0 then
    raise exception using errcode = 'HM026', message = format('%s cannot be negative: %s', p_what, quote_literal(left(p_text, 200)));
  end if;
  return least(v_seconds, 31536000000);
end $$;

-- The first slot after a time; null: none comes. Raises 22023 if the zone is gone.
create or replace function hotmesh_engine.slot_after(k hotmesh_engine.schedule, c hotmesh_engine.cron, p_after timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_every bigint;
begin
  if k.every is null then
    return hotmesh_engine.cron_after(c, p_after, k.time_zone);
  end if;
  v_every := extract(epoch from k.every) * 1000000;
  return k.anchor + interval '1 microsecond' * v_every
                    * (floor(extract(epoch from p_after - k.anchor) * 1000000 / v_every)::bigint + 1);
end $$;

-- A slot's share of the jitter: the same whenever and wherever it is asked for.
create or replace function hotmesh_engine.slot_jitter(k hotmesh_engine.schedule, p_slot timestamptz) returns interval
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when k.jitter = '0' then interval '0'
    else k.jitter * (abs(hashtextextended(k.schedule_id || ':' || date_part('epoch', p_slot), 0) % 1000001) / 1000000.0) end
$$;

create or replace function hotmesh_engine.slot_workflow_id(p_schedule_id text, p_slot timestamptz) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p_schedule_id || ':' || rtrim(rtrim(to_char(p_slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z'
$$;

create or replace function hotmesh_engine.find_schedule(p_namespace text, p_id text) returns hotmesh_engine.schedule
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k hotmesh_engine.schedule;
begin
  select s.* into k from hotmesh_engine.schedule s
   where s.namespace_id = (select n.namespace_id from hotmesh_engine.namespace n where n.name = p_namespace)
     and s.schedule_id = p_id;
  if not found then
    raise exception using errcode = 'HM029',
      message = format('no schedule %s in namespace %s', quote_literal(left(p_id, 200)), quote_literal(left(p_namespace, 200))),
      hint = 'hotmesh.schedules lists them.';
  end if;
  return k;
end $$;

-- Holds off its deletion, so that what is inserted for it does not outlive it.
create or replace function hotmesh_engine.keep_schedule(k hotmesh_engine.schedule) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform from hotmesh_engine.schedule where schedule_key = k.schedule_key for key share;
  if not found then
    raise exception using errcode = 'HM029', message = format('schedule %s has just been deleted', quote_literal(left(k.schedule_id, 200)));
  end if;
end $$;

-- A schedule with what a specification says of it, checked. Options as in hotmesh.cron, and `workflow`,
-- `interval`. Null leaves what it is.
create or replace function hotmesh_engine.read_schedule(k hotmesh_engine.schedule, p_spec json, p_now timestamptz)
returns hotmesh_engine.schedule
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_name   text;
  v_text   text;
  v_number double precision;
  v_delay  double precision;
  v_when   boolean := false;                     -- its times change
  c        hotmesh_engine.cron;
begin
  perform hotmesh_engine.check_payload('options', p_spec);
  if json_typeof(p_spec) is distinct from 'object' then
    raise exception using errcode = 'HM003', message = 'options must be a JSON object';
  end if;
  for v_name, v_text in select key, value from json_each_text(p_spec) where value is not null loop
    case v_name
      when 'workflow' then
        perform hotmesh_engine.check_name('workflow type', v_text);
        k.workflow_type := v_text;
      when 'task_queue' then
        k.queue_id := hotmesh_engine.queue_id(k.namespace_id, v_text);
      when 'args' then
        if json_typeof(p_spec -> 'args') <> 'array' then
          raise exception using errcode = 'HM003', message = 'args must be a JSON array of the arguments';
        end if;
        k.input := p_spec -> 'args';
      when 'memo' then
        k.memo := p_spec -> 'memo';
      when 'interval' then
        v_when := true;
        k.cron := case when hotmesh_engine.is_cron(v_text) then v_text end;
        k.every := case when k.cron is null
          then interval '1 second' * hotmesh_engine.schedule_seconds('interval', v_text) end;
        if k.every < '100 ms' or k.every >= interval '1 second' * 31536000000 then
          raise exception using errcode = 'HM027', message = format('an interval lasts from 100 ms to less than 1000 years, this is %s', quote_literal(left(v_text, 200))),
            hint = 'For example ''1 day'', or a cron expression such as ''0 3 * * *''.';
        end if;
      when 'time_zone' then
        v_when := true;
        perform hotmesh_engine.check_zone(v_text);
        k.time_zone := v_text;
      when 'delay' then
        v_when := true;
        v_delay := hotmesh_engine.schedule_seconds('delay', v_text);
      when 'jitter' then
        k.jitter := interval '1 second' * hotmesh_engine.schedule_seconds('jitter', v_text);
      when 'catchup' then
        k.catchup := case v_text when 'last' then null when 'none' then '0'
          else interval '1 second' * hotmesh_engine.schedule_seconds('catchup', v_text) end;
      when 'overlap' then
        if v_text not in ('skip', 'buffer_one', 'allow_all', 'cancel_other') then
          raise exception using errcode = 'HM003', message = format('unknown overlap policy %s', quote_literal(left(v_text, 200))),
            hint = 'Known: skip, buffer_one, allow_all, cancel_other.';
        end if;
        k.overlap := v_text;
      when 'execution_timeout' then
        k.execution_timeout := nullif(hotmesh_engine.schedule_seconds(v_name, v_text), 31536000000);
      when 'retention' then
        k.retention := interval '1 second' * hotmesh_engine.schedule_seconds(v_name, v_text);
      when 'note' then
        k.note := left(v_text, 10000);
      when 'paused' then
        if v_text not in ('true', 'false') then
          raise exception using errcode = 'HM003', message = 'paused must be true or false';
        end if;
        k.paused := v_text::boolean;
      when 'max_cycles', 'pause_after_failures', 'priority' then
        v_number := case when v_text ~ '^\d{1,9}$' then v_text::int end;
        if v_number is null or v_number < 1 or v_name = 'priority' and v_number > 5 then
          raise exception using errcode = 'HM003', message = format('%s must be a whole number from 1, this is %s', v_name, left(v_text, 200));
        end if;
        if v_name = 'max_cycles' then k.max_cycles := v_number;
        elsif v_name = 'priority' then k.priority := v_number;
        else k.pause_after := v_number; end if;
      else
        raise exception using errcode = 'HM003', message = format('unknown option %L', left(v_name, 200)),
          hint = 'Known: task_queue, args, time_zone, delay, max_cycles, overlap, catchup, jitter, pause_after_failures, priority, execution_timeout, retention, memo, paused, note, namespace.';
    end case;
  end loop;
  if k.workflow_type is null or k.every is null and k.cron is null then
    raise exception using errcode = 'HM027', message = 'a schedule needs a workflow and an interval or cron expression';
  end if;
  if v_delay >= 31536000000 or k.jitter >= interval '1 second' * 31536000000 then
    raise exception using errcode = 'HM026', message = 'delay and jitter cannot be endless';
  end if;

  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
    if v_when then
      k.anchor := p_now + interval '1 second' * coalesce(v_delay, 0);
      k.next_slot := hotmesh_engine.slot_after(k, c, k.anchor);
      if k.next_slot is null then
        raise exception using errcode = 'HM027', message = format('%s never comes', quote_literal(left(k.cron, 200))),
          hint = 'No day of the next 50 years fits. L in the field day of month is the last day of any month.';
      end if;
    end if;
  elsif v_when then
    -- on a whole second, for the sake of those who read the slots
    k.anchor := case when k.every < '1 second' then p_now else date_trunc('second', p_now) end
                + coalesce(interval '1 second' * v_delay, k.every);
    k.next_slot := k.anchor;
  end if;
  if k.max_cycles <= k.cycles then
    k.next_slot := null;
  elsif k.next_slot is null then                 -- it was over, and has got more cycles
    k.next_slot := hotmesh_engine.slot_after(k, c, p_now);
  elsif k.next_slot <= k.last_slot then
    k.next_slot := hotmesh_engine.slot_after(k, c, k.last_slot);
  end if;
  k.due_at := hotmesh_engine.schedule_due(k);
  k.updated_at := p_now;
  return k;
end $$;

-- When the duty has to look at it.
create or replace function hotmesh_engine.schedule_due(k hotmesh_engine.schedule) returns timestamptz
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when k.paused or k.next_slot is null then 'infinity'
              else k.next_slot + hotmesh_engine.slot_jitter(k, k.next_slot) end
$$;

-- Whether a text is meant as a cron expression; else it is a duration. No text is both: a duration has a
-- unit after each number, or is one number.
create or replace function hotmesh_engine.is_cron(p_text text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_text ~ '[*?#@]'
      or p_text ~ '^\s*\S+(\s+\S+){2,}\s*$' and p_text !~* '^\s*([-+]?\d[\d.]*\s*[a-z]+[\s,]*(and\s+)?)+(ago)?\s*$'
$$;

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
  if k.queue_id is null then
    k.queue_id := hotmesh_engine.queue_id(k.namespace_id, 'default');
  end if;
  insert into hotmesh_engine.schedule values (k.*) on conflict (namespace_id, schedule_id) do nothing;
  if found then
    perform pg_notify('hotmesh_all', 'schedules');         -- so that a first slot within a second is not late
    return true;
  end if;
  return exists (select from hotmesh_engine.schedule s
                  where s.namespace_id = k.namespace_id and s.schedule_id = p_id and s.request_id = p_request);
end $$;

-- Changes what the specification names; new times count from now.
create or replace function hotmesh_engine.update_schedule(p_namespace text, p_id text, p_spec json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  k hotmesh_engine.schedule := hotmesh_engine.find_schedule(p_namespace, p_id);
begin
  select * into k from hotmesh_engine.schedule where schedule_key = k.schedule_key for no key update;
  k := hotmesh_engine.read_schedule(k, p_spec, hotmesh.now());
  update hotmesh_engine.schedule
     set due_at = k.due_at, next_slot = k.next_slot, anchor = k.anchor, updated_at = k.updated_at, queue_id = k.queue_id,
         max_cycles = k.max_cycles, pause_after = k.pause_after, priority = k.priority, paused = k.paused, every = k.every,
         cron = k.cron, time_zone = k.time_zone, catchup = k.catchup, jitter = k.jitter, overlap = k.overlap,
         execution_timeout = k.execution_timeout, retention = k.retention, workflow_type = k.workflow_type,
         input = k.input, memo = k.memo, note = k.note, trouble_code = null, trouble = null, trouble_since = null, trouble_times = 0
   where schedule_key = k.schedule_key;
  perform pg_notify('hotmesh_all', 'schedules');
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
  'Creates a schedule: true if this call did, false if it is there already. Interval: a cron expression or a duration. Options: task_queue, args, time_zone, delay, max_cycles, overlap, catchup, jitter, pause_after_failures, ...';

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
    k.next_slot := hotmesh_engine.slot_after(k, c, greatest(v_now, k.anchor - interval '1 microsecond'));
  end if;
  k.paused := false;
  update hotmesh_engine.schedule s
     set paused = false, note = null, next_slot = k.next_slot, due_at = hotmesh_engine.schedule_due(k), counted_from = v_now,
         updated_at = v_now, trouble_code = null, trouble = null, trouble_since = null, trouble_times = 0
   where s.schedule_key = k.schedule_key;
  perform pg_notify('hotmesh_all', 'schedules');
  return true;
end $$;
comment on function hotmesh.resume_schedule(text, text) is
  'Lets a paused or troubled schedule go on with its next slot; false if it was neither.';

-- Starts a run now, whatever else runs; a slot of its own. Returns its workflow id.
create or replace function hotmesh_engine.trigger_schedule(p_namespace text, p_id text, p_caller boolean, out workflow_id text, out run_id bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k      hotmesh_engine.schedule := hotmesh_engine.find_schedule(p_namespace, p_id);
  v_slot timestamptz := hotmesh.now();
begin
  perform hotmesh_engine.keep_schedule(k);
  loop
    insert into hotmesh_engine.schedule_slot (schedule_key, slot, decided_at, decision, origin)
    values (k.schedule_key, v_slot, v_slot, 's', 't') on conflict do nothing;
    exit when found;
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
    v_slot := hotmesh_engine.slot_after(k, c, greatest(hotmesh.now(), k.anchor - interval '1 microsecond'));
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
  perform pg_notify('hotmesh_all', 'schedules');
  return v_count;
end $$;
comment on function hotmesh.backfill_schedule(text, timestamptz, timestamptz, text) is
  'Runs the slots of a past window that have not run; returns how many they are.';
