-- What fails for everybody, found and set aside.
--
-- Routing and claiming handle what belongs to others: one message that cannot be delivered, one run
-- that cannot be leased would fail every worker's every turn. A worker whose empty turn fails goes on
-- without routing and claiming and calls set_aside, which tries everything that turns would come to,
-- in subtransactions: what goes well together is done together, what fails is halved until the culprit
-- stands alone.
--
--   message ──► undelivered (view hotmesh.signals, or hotmesh.waiting for what answers a command)
--   run     ──► quarantined with its reason (view hotmesh.workflows)
--   task    ──► due never; its workflow quarantined with the reason
--
-- hotmesh.redeliver(signal_id) and hotmesh.resume(workflow_id) bring them back when the cause is gone.
--
-- Locks: one worker at a time (advisory try lock); all rows SKIP LOCKED, as routing and claiming do.
-- Crash: nothing happened. Only faults of the data count (see is_fault); anything else is raised.

-- The classes of errors that a row can be to blame for: data, constraints, limits, raised by code.
create or replace function hotmesh_engine.is_fault(p_state text) returns boolean
language sql immutable parallel safe as $$
  select left(p_state, 2) in ('21', '22', '23', '54', 'P0', 'HM')
$$;

-- Returns how many things were set aside; -1 if another worker is at it.
create or replace function hotmesh_engine.set_aside(p_worker bigint, p_queues int[]) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now       timestamptz := hotmesh.now();
  v_ids       bigint[];
  v_commands  int[];
  v_count     int := 0;
begin
  if not pg_try_advisory_xact_lock(1212370260, 0) then                          -- 'HMWT'
    return -1;
  end if;
  perform from hotmesh_engine.worker where worker_id = p_worker and not dead for key share;
  if not found then
    raise exception using errcode = 'HM004', message = 'this worker''s lease has ended';
  end if;

  select array_agg(id) into v_ids
    from (select id from hotmesh_engine.unrouted order by id limit 1000 for update skip locked) u;
  if v_ids is not null then
    v_count := hotmesh_engine.try_messages(v_ids, v_now);
  end if;

  -- what the next claims would take, suspects among it
  select array_agg(run_id) into v_ids
    from unnest(p_queues) q(queue_id) cross join lateral (
      select run_id from hotmesh_engine.live l
       where l.queue_id = q.queue_id and l.holder is null and l.due_at <= v_now and l.due_at < 'infinity'
       order by l.priority, l.due_at, l.run_id limit 1000 for update skip locked) l;
  if v_ids is not null then
    v_count := v_count + hotmesh_engine.try_runs(p_worker, v_ids, v_now);
  end if;

  select array_agg(run_id), array_agg(command) into v_ids, v_commands
    from unnest(p_queues) q(queue_id) cross join lateral (
      select run_id, command from hotmesh_engine.activity_task t
       where t.queue_id = q.queue_id and t.holder is null and t.due_at <= v_now
       order by t.due_at, t.run_id, t.command limit 1000 for update skip locked) t;
  if v_ids is not null then
    v_count := v_count + hotmesh_engine.try_tasks(p_worker, v_ids, v_commands, v_now);
  end if;
  return v_count;
end $$;

-- Routes these rows of `unrouted`. Alone, a row stands for what it makes routing touch: its key's
-- oldest message, else its run; so it is tried again until it goes well.
create or replace function hotmesh_engine.try_messages(p_ids bigint[], p_now timestamptz) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_half     int := cardinality(p_ids) / 2;
  v_count    int := 0;
  v_id       bigint[];
  v_kind     smallint[];
  v_run      bigint[];
  v_command  int[];
  v_code     text;
  v_text     text;
begin
  loop
    begin
      with u as (delete from hotmesh_engine.unrouted where id = any (p_ids) returning *)
      select array_agg(id), array_agg(kind), array_agg(run_id), array_agg(command)
        into v_id, v_kind, v_run, v_command from u;
      perform hotmesh_engine.route(null, v_id, v_kind, v_run, v_command, false, 0);
      return v_count;
    exception when others then
      get stacked diagnostics v_code = returned_sqlstate, v_text = message_text;
      if not hotmesh_engine.is_fault(v_code) then raise; end if;
    end;
    exit when v_half > 0 or not hotmesh_engine.set_message_aside(p_ids[1], v_code, v_text, p_now);
    v_count := v_count + 1;
  end loop;
  if v_half > 0 then
    v_count := hotmesh_engine.try_messages(p_ids[:v_half], p_now) + hotmesh_engine.try_messages(p_ids[v_half + 1:], p_now);
  end if;
  return v_count;
end $$;

-- Moves what an unroutable row of `unrouted` stands for out of the way. False: there is nothing left.
create or replace function hotmesh_engine.set_message_aside(p_id bigint, p_code text, p_text text, p_now timestamptz)
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_row hotmesh_engine.unrouted;
  v_ns  int;
  v_key text;
begin
  select * into v_row from hotmesh_engine.unrouted where id = p_id;
  if v_row.kind = 3 then
    -- an interrupt that cannot be carried out is met before anything else of that run
    with gone as (
      delete from hotmesh_engine.inbox
       where run_id = v_row.run_id
         and (kind = 101 or inbox_id = p_id and not exists (
                select from hotmesh_engine.inbox i where i.run_id = v_row.run_id and i.kind = 101))
      returning *)
    insert into hotmesh_engine.undelivered
      (message_id, since, place, expires_at, namespace_id, key, run_id, command, kind, shared, payload, code, reason)
    select inbox_id, p_now, place, expires_at, namespace_id, key, run_id, command, kind, shared, payload, p_code, p_text
      from gone;
  else
    if v_row.kind = 1 then
      select namespace_id, key into v_ns, v_key from hotmesh_engine.message where message_id = p_id;
    else
      select namespace_id, key into v_ns, v_key from hotmesh_engine.waiting
       where run_id = v_row.run_id and command = v_row.command;
    end if;
    with gone as (
      delete from hotmesh_engine.message where message_id = (
        select message_id from hotmesh_engine.message m
         where m.namespace_id = v_ns and m.key = v_key and m.expires_at > p_now order by m.place limit 1)
      returning *)
    insert into hotmesh_engine.undelivered
      (message_id, since, place, expires_at, namespace_id, key, kind, shared, payload, code, reason)
    select message_id, p_now, place, expires_at, namespace_id, key, 5, false, payload, p_code, p_text from gone;
  end if;
  return found;
end $$;

-- Leases these runs as a claim would, and takes it back.
create or replace function hotmesh_engine.try_runs(p_worker bigint, p_runs bigint[], p_now timestamptz) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_half int := cardinality(p_runs) / 2;
  v_code text;
  v_text text;
begin
  begin
    update hotmesh_engine.live set holder = p_worker, fence = abs(fence) + 1 where run_id = any (p_runs);
    perform from hotmesh_engine.hand_out_runs(p_runs);
    raise exception using errcode = 'HMX99';
  exception when others then
    get stacked diagnostics v_code = returned_sqlstate, v_text = message_text;
    if v_code = 'HMX99' then return 0; end if;
    if not hotmesh_engine.is_fault(v_code) then raise; end if;
  end;
  if v_half > 0 then
    return hotmesh_engine.try_runs(p_worker, p_runs[:v_half], p_now)
         + hotmesh_engine.try_runs(p_worker, p_runs[v_half + 1:], p_now);
  end if;
  perform hotmesh_engine.quarantine(p_runs[1], v_code, 'it cannot be leased: ' || v_text, p_now);
  update hotmesh_engine.live set due_at = 'infinity' where run_id = p_runs[1];
  return 1;
end $$;

-- The same for activity tasks.
create or replace function hotmesh_engine.try_tasks(p_worker bigint, p_run bigint[], p_command int[], p_now timestamptz)
returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_half int := cardinality(p_run) / 2;
  v_code text;
  v_text text;
begin
  begin
    update hotmesh_engine.activity_task t
       set holder = p_worker, attempt = attempt + 1, heartbeat_by = clock_timestamp() + heartbeat_timeout
      from unnest(p_run, p_command) u(run, command) where t.run_id = u.run and t.command = u.command;
    perform from hotmesh_engine.hand_out_tasks(p_run, p_command);
    raise exception using errcode = 'HMX99';
  exception when others then
    get stacked diagnostics v_code = returned_sqlstate, v_text = message_text;
    if v_code = 'HMX99' then return 0; end if;
    if not hotmesh_engine.is_fault(v_code) then raise; end if;
  end;
  if v_half > 0 then
    return hotmesh_engine.try_tasks(p_worker, p_run[:v_half], p_command[:v_half], p_now)
         + hotmesh_engine.try_tasks(p_worker, p_run[v_half + 1:], p_command[v_half + 1:], p_now);
  end if;
  perform hotmesh_engine.quarantine(p_run[1], v_code, format('its activity %s cannot be leased: %s', p_command[1], v_text), p_now);
  update hotmesh_engine.activity_task set due_at = 'infinity' where run_id = p_run[1] and command = p_command[1];
  return 1;
end $$;

create or replace function hotmesh_engine.quarantine(p_run bigint, p_code text, p_message text, p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  insert into hotmesh_engine.trouble (run_id, since, last_at, quarantined, code, message)
  select p_run, p_now, p_now, true, p_code, left(p_message, 4000)
   where exists (select from hotmesh_engine.live where run_id = p_run)
  on conflict (run_id) do update
    set quarantined = true, last_at = excluded.last_at, code = excluded.code, message = excluded.message;
end $$;

-- Gives undelivered messages another chance: of a signal id, or (p_run) what was meant for a run.
create or replace function hotmesh_engine.redeliver(p_namespace_id int, p_key text, p_run bigint) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_count int;
begin
  with gone as (
    delete from hotmesh_engine.undelivered
     where case when p_run is null then run_id is null and namespace_id = p_namespace_id and key = p_key
                else run_id = p_run end
    returning *
  ), m as (
    insert into hotmesh_engine.message (message_id, place, sent_at, expires_at, namespace_id, key, payload)
    select message_id, place, since, expires_at, namespace_id, key, payload from gone where run_id is null
  ), i as (
    insert into hotmesh_engine.inbox (inbox_id, run_id, command, kind, place, expires_at, namespace_id, key, shared, payload)
    select message_id, run_id, command, kind, place, expires_at, namespace_id, key, shared, payload
      from gone where run_id is not null
  ), u as (
    insert into hotmesh_engine.unrouted (id, kind, run_id)
    select message_id, case when run_id is null then 1 else 3 end, run_id from gone
    returning id)
  select count(*) into v_count from u;
  if v_count > 0 then
    perform hotmesh_engine.wake_all();
  end if;
  return v_count;
end $$;

create or replace function hotmesh.redeliver(signal_id text, namespace text default 'default') returns int
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select coalesce(sum(hotmesh_engine.redeliver(n.namespace_id, signal_id, null)), 0)::int
    from hotmesh_engine.namespace n where n.name = redeliver.namespace
$$;
comment on function hotmesh.redeliver(text, text) is
  'Gives signals of this id that could not be delivered another chance, at their old places; returns how many.';
