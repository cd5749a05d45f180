-- What a schedule is: its specification, checked, and its slots.
--
-- One specification (a JSON object) makes and changes schedules, whoever writes it: hotmesh.cron, Python, a
-- later version with one option more.
--
-- Locks: keep_schedule holds off the schedule's deletion; the rest reads, or has its arguments alone. A name of
-- a queue that is new is inserted. Crash: nothing of it is kept.

-- How a duration is written in JSON or SQL: seconds, or text as PostgreSQL takes intervals. A month is 30
-- days and a year 365, as in Python; endless is 1000 years.
create or replace function hotmesh_engine.schedule_seconds(p_what text, p_text text) returns double precision
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_interval interval;
  v_seconds  double precision;
  v_word     text;
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
    -- the first word that is no unit, and the unit that begins like it
    select w[1] into v_word from regexp_matches(lower(left(p_text, 200)), '[a-z]+', 'g') w
     where w[1] !~ '^(ms|msecs?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|mons?|months?|y|yrs?|years?)$'
     limit 1;
    select unit into v_unit from unnest('{second,minute,hour,day,week,month,year}'::text[]) with ordinality u(unit, o)
     where left(unit, 1) = left(v_word, 1) order by o limit 1;
    raise exception using errcode = 'HM026',
      message = format('%s is not a duration: %s', p_what, quote_literal(left(p_text, 200)))
                || coalesce(format(' (position %s): unknown unit %s', strpos(lower(p_text), v_word), quote_literal(left(v_word, 50))), ''),
      hint = coalesce('Did you mean ' || quote_literal(replace(lower(left(p_text, 200)), v_word, v_unit)) || '?', 'For example ''1 week'', ''15 minutes'', ''500 ms'', or seconds.');
  end;
  if v_seconds < 0 then
    raise exception using errcode = 'HM026',
      message = format('%s is not a duration: %s (position %s): it cannot be negative', p_what, quote_literal(left(p_text, 200)),
        regexp_instr(p_text, '-|\yago\y', 1, 1, 0, 'i')),
      hint = format('Did you mean %s?', quote_literal(btrim(regexp_replace(left(p_text, 200), '-|\yago\y', '', 'gi'))));
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

-- A slot's share of the jitter: the same whenever and wherever it is asked for. It never reaches the slot after
-- it: slots come due in their order, and none is late because it had to wait for the one before.
create or replace function hotmesh_engine.slot_jitter(k hotmesh_engine.schedule, p_slot timestamptz) returns interval
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c hotmesh_engine.cron;
begin
  if k.jitter = '0' then return interval '0'; end if;
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  return least(k.jitter, hotmesh_engine.slot_after(k, c, p_slot) - p_slot)
         * (abs(hashtextextended(k.schedule_id || ':' || date_part('epoch', p_slot), 0) % 1000000) / 1000000.0);
end $$;

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
-- `interval`. What it does not name stays; what is null becomes what it is if it is never given.
create or replace function hotmesh_engine.read_schedule(k hotmesh_engine.schedule, p_spec json, p_now timestamptz)
returns hotmesh_engine.schedule
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_name   text;
  v_text   text;
  v_number double precision;
  v_delay  double precision;
  v_when   boolean := false;                     -- its times change
  v_called boolean;                              -- it has called a topic so far, see calls.sql
  v_call   boolean;                              -- it does from now on
  v_queue  boolean := false;                     -- its queue is given
  c        hotmesh_engine.cron;
begin
  perform hotmesh_engine.check_payload('options', p_spec);
  if json_typeof(p_spec) is distinct from 'object' then
    raise exception using errcode = 'HM003', message = 'options must be a JSON object';
  end if;
  v_called := exists (select from hotmesh_engine.queue q where q.queue_id = k.queue_id and q.name = 'call:' || k.workflow_type);
  v_call := v_called;
  for v_name, v_text in select key, value from json_each_text(p_spec) loop
    v_text := coalesce(v_text, case v_name when 'time_zone' then 'UTC' when 'jitter' then '0'
      when 'catchup' then '1 minute' when 'kind' then 'workflow' when 'overlap' then 'skip' when 'paused' then 'false' end);
    if v_text is null and v_name in ('workflow', 'interval') then
      raise exception using errcode = 'HM027', message = format('a schedule needs a workflow and an interval or cron expression: %s is null', v_name);
    end if;
    case v_name
      when 'workflow' then
        perform hotmesh_engine.check_name('workflow type', v_text);
        k.workflow_type := v_text;
      when 'task_queue' then
        v_queue := v_text is not null;
        k.queue_id := case when v_queue then hotmesh_engine.queue_id(k.namespace_id, v_text) end;
      when 'args' then
        if v_text is not null and json_typeof(p_spec -> 'args') <> 'array' then
          raise exception using errcode = 'HM003', message = 'args must be a JSON array of the arguments';
        end if;
        k.input := case when v_text is null then '[]' else p_spec -> 'args' end;
      when 'memo' then
        k.memo := case when v_text is not null then p_spec -> 'memo' end;
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
      when 'kind' then
        if v_text not in ('workflow', 'call') then
          raise exception using errcode = 'HM003', message = format('unknown kind %s', quote_literal(left(v_text, 200))),
            hint = 'Known: workflow, and call, of a topic.';
        end if;
        v_call := v_text = 'call';
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
        if v_text is not null and (v_number is null or v_number < 1 or v_name = 'priority' and v_number > 5) then
          raise exception using errcode = 'HM003', message = format('%s must be a whole number from 1, this is %s', v_name, left(v_text, 200));
        end if;
        if v_name = 'max_cycles' then k.max_cycles := v_number;
        elsif v_name = 'priority' then k.priority := v_number;
        else k.pause_after := v_number; end if;
      else
        raise exception using errcode = 'HM003', message = format('unknown option %L', left(v_name, 200)),
          hint = 'Known: task_queue, kind, args, time_zone, delay, max_cycles, overlap, catchup, jitter, pause_after_failures, priority, execution_timeout, retention, memo, paused, note, namespace.';
    end case;
  end loop;
  if k.workflow_type is null or k.every is null and k.cron is null then
    raise exception using errcode = 'HM027', message = 'a schedule needs a workflow and an interval or cron expression';
  end if;
  if v_call then
    k.retention := coalesce(k.retention, hotmesh_engine.call_retention());
  elsif v_called and k.retention = hotmesh_engine.call_retention() then
    k.retention := null;
  end if;
  if not v_queue and (v_call or v_called or k.queue_id is null) then
    k.queue_id := hotmesh_engine.queue_id(k.namespace_id, case when v_call then 'call:' || k.workflow_type else 'default' end);
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
        v_number := regexp_count(k.cron, '\S+') - 2;              -- the field of days
        perform hotmesh_engine.refuse_cron(k.cron, 'day of month', v_number::int, 0,
          regexp_substr(k.cron, '\S+', 1, v_number::int), 'it never comes',
          'No day of the next 50 years fits. L in this field is the last day of any month.');
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
language sql stable set search_path = pg_catalog, pg_temp as $$
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
