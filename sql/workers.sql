-- Workers: registration, heartbeat, adoption after a lost reply, the end, and a turn that failed.
--
-- A worker process lives through incarnations; an id is never used again, and is chosen by the
-- worker (63 random bits), so that a call whose reply was lost may be repeated as it was.
-- Registration, adoption and the end commit synchronously, whatever the role's setting.

create or replace function hotmesh_engine.register(
  p_worker bigint, p_name text, p_namespace text, p_queues text[], p_lease double precision, p_version text
) returns int[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_ns     int := hotmesh_engine.namespace_id(p_namespace);
  v_queues int[];
begin
  select array_agg(hotmesh_engine.queue_id(v_ns, q) order by o) into v_queues
    from unnest(p_queues) with ordinality u(q, o);
  insert into hotmesh_engine.worker (worker_id, name, queues, started_at, beat_at, contact_at, lease, version)
  values (p_worker, p_name, v_queues, clock_timestamp(), clock_timestamp(), clock_timestamp(),
          p_lease * interval '1 second', p_version)
  on conflict (worker_id) do nothing;
  return v_queues;
end $$;

-- More queues for a worker that is already registered. May be repeated.
create or replace function hotmesh_engine.serve(p_worker bigint, p_namespace text, p_queues text[]) returns int[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_ns     int := hotmesh_engine.namespace_id(p_namespace);
  v_queues int[];
begin
  select array_agg(hotmesh_engine.queue_id(v_ns, q) order by o) into v_queues
    from unnest(p_queues) with ordinality u(q, o);
  update hotmesh_engine.worker w
     set queues = (select array_agg(distinct q) from unnest(w.queues || v_queues) q)
   where worker_id = p_worker;
  return v_queues;
end $$;

-- Keeps the lease, by the server's clock. Contact counts as broken when the lease had run out: then
-- this worker must not judge others until it has been in touch for a lease time again.
-- b_*: the activities that it runs; with details, if the activity has shown a sign of life since the last
-- time: only that moves its heartbeat_by. Answers with those that are no longer this worker's to run.
-- False: this incarnation is dead.
create or replace function hotmesh_engine.heartbeat(
  p_worker bigint, b_run bigint[], b_command int[], b_attempt int[], b_details json[],
  out r_alive boolean, out r_gone_run bigint[], out r_gone_command int[]
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  set local synchronous_commit = off;
  update hotmesh_engine.worker
     set beat_at = clock_timestamp(),
         contact_at = case when beat_at < clock_timestamp() - lease then clock_timestamp() else contact_at end
   where worker_id = p_worker and not dead;
  r_alive := found;
  if cardinality(b_run) > 0 then
    update hotmesh_engine.activity_task t
       set heartbeat_by = clock_timestamp() + t.heartbeat_timeout, details = b.details
      from unnest(b_run, b_command, b_attempt, b_details) b(run, command, attempt, details)
     where b.details is not null and t.run_id = any (b_run) and t.run_id = b.run and t.command = b.command and t.attempt = b.attempt and t.holder = p_worker;
    select array_agg(b.run), array_agg(b.command) into r_gone_run, r_gone_command
      from unnest(b_run, b_command, b_attempt) b(run, command, attempt)
     where not exists (select from hotmesh_engine.activity_task t
                        where t.run_id = b.run and t.command = b.command and t.attempt = b.attempt
                          and t.holder = p_worker)
        or not exists (select from hotmesh_engine.live l where l.run_id = b.run);
  end if;
end $$;

-- Gives back all that a worker still holds; the end of a clean shutdown. Nothing counts as lost.
create or replace function hotmesh_engine.retire(p_worker bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now    timestamptz := hotmesh.now();
  v_any    boolean;
begin
  set local synchronous_commit = on;
  update hotmesh_engine.worker set dead = true where worker_id = p_worker and not dead;
  if not found then return; end if;
  delete from hotmesh_engine.sleeper where worker_id = p_worker;   -- first: see give.sql
  with l as (
    update hotmesh_engine.live set holder = null where holder = p_worker returning run_id
  ), i as (
    update hotmesh_engine.inbox set holder = null, handed = false where run_id = any (array(select run_id from l))
    returning inbox_id, run_id, kind
  ), asked as (                                      -- as in sweep
    insert into hotmesh_engine.unrouted (id, kind, run_id) select inbox_id, 3, run_id from i where kind = 8
    on conflict do nothing
  ), t as (
    update hotmesh_engine.activity_task
       set holder = null, heartbeat_by = null, attempt = attempt - 1, due_at = least(due_at, v_now)
     where holder = p_worker returning run_id)
  select count(*) > 0 into v_any from (select from l union all select from t) q;
  delete from hotmesh_engine.inbox where holder = p_worker and kind = 100;
  if v_any then
    perform hotmesh_engine.wake_all();                              -- as in sweep
  end if;
end $$;

-- After a call whose reply was lost. The old row's lock waits until a turn of the old incarnation
-- that is still running has ended; one that starts later is refused. Then the runs and tasks that
-- the worker knows move to the new incarnation, with their messages to be handed out again (the
-- worker drops the ones it has), and what it does not know is released as if never claimed. So is a run whose
-- journal is neither at p_base nor at p_last, where the worker's memory of it may stand: the server has lost
-- what was not flushed (or, as a promoted standby, never had it), and the run is to begin from what there is.
-- Returns each run that moved, with its last journal seq; `command` null for runs, set for tasks.
-- May be repeated: a second call finds the old row dead and answers from the new one's rows.
create or replace function hotmesh_engine.adopt(
  p_old bigint, p_new bigint, p_name text, p_runs bigint[], t_run bigint[], t_command int[], t_attempt int[],
  p_base int[] default null, p_last int[] default null          -- null: wherever it is
) returns table (run bigint, command int, seq int, fence int)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_old hotmesh_engine.worker;
begin
  set local synchronous_commit = on;
  select * into v_old from hotmesh_engine.worker where worker_id = p_old for update;
  if not found or (v_old.dead and not exists (select from hotmesh_engine.worker where worker_id = p_new)) then
    raise exception using errcode = 'HM004', message = 'this worker''s lease has ended',
      hint = 'Its runs are with other workers. Register anew.';
  end if;
  if not v_old.dead then
    update hotmesh_engine.worker set dead = true where worker_id = p_old;
    delete from hotmesh_engine.sleeper where worker_id = p_old;      -- first: see give.sql
    insert into hotmesh_engine.worker (worker_id, name, queues, started_at, beat_at, contact_at, lease, version)
    values (p_new, p_name, v_old.queues, clock_timestamp(), clock_timestamp(), v_old.contact_at, v_old.lease, v_old.version);
    update hotmesh_engine.live l set holder = p_new
      from unnest(p_runs, p_base, p_last) u(run, base, last)
     where l.holder = p_old and l.run_id = any (p_runs) and l.run_id = u.run
       and (p_base is null or coalesce((select j.seq from hotmesh_engine.journal j
                                         where j.run_id = u.run order by j.seq desc limit 1), 0) in (u.base, u.last));
    update hotmesh_engine.inbox set holder = p_new, handed = false
     where run_id = any (array(select run_id from hotmesh_engine.live where holder = p_new));
    update hotmesh_engine.inbox set holder = p_new, handed = false where holder = p_old and kind = 100;
    update hotmesh_engine.activity_task t set holder = p_new
      from unnest(t_run, t_command, t_attempt) u(run, command, attempt)
     where t.holder = p_old and t.run_id = any (t_run) and t.run_id = u.run and t.command = u.command and t.attempt = u.attempt;
    with l as (
      update hotmesh_engine.live set holder = null, fence = abs(fence) + 1 where holder = p_old returning run_id)
    update hotmesh_engine.inbox set holder = null, handed = false where run_id = any (array(select run_id from l));
    update hotmesh_engine.activity_task set holder = null, heartbeat_by = null, attempt = attempt - 1
     where holder = p_old;
  end if;
  return query
    select l.run_id, null::int, coalesce((select j.seq from hotmesh_engine.journal j
             where j.run_id = l.run_id order by j.seq desc limit 1), 0), l.fence
      from hotmesh_engine.live l where l.holder = p_new
    union all
    select t.run_id, t.command, t.attempt, null from hotmesh_engine.activity_task t where t.holder = p_new;
end $$;

-- A run whose turn cannot be recorded, or whose code does not fit its history: its holder parks it
-- with back-off (1 s, doubled up to 5 min) and its error, for all to see in SQL. Nothing else of it
-- is recorded. The code may be mended, and the run then goes on.
create or replace function hotmesh_engine.turn_failed(
  p_worker bigint, p_run bigint, p_fence int, p_code text, p_message text
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now   timestamptz := hotmesh.now();
  v_times int;
begin
  perform from hotmesh_engine.live
    where run_id = p_run and holder = p_worker and fence = p_fence for update;
  if not found then return; end if;
  insert into hotmesh_engine.trouble (run_id, since, last_at, code, message)
  values (p_run, v_now, v_now, p_code, left(p_message, 4000))
  on conflict (run_id) do update
    set last_at = excluded.last_at, times = trouble.times + 1, code = excluded.code, message = excluded.message
  returning times into v_times;
  update hotmesh_engine.live
     set holder = null, due_at = v_now + least(300, power(2, least(v_times, 12) - 1)) * interval '1 second'
   where run_id = p_run;
  update hotmesh_engine.inbox set holder = null, handed = false where run_id = p_run and holder is not null;
end $$;

-- Lets a quarantined or troubled run go on at once, with all that was set aside of it. One that a worker holds goes on
-- already, and its rows are left alone: the worker's turns would wait for the end of the caller's transaction.
create or replace function hotmesh_engine.resume(p_run bigint) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now    timestamptz := hotmesh.now();
  v_held   boolean;
  v_queue  int;
  v_queues int[];
begin
  if not exists (select from hotmesh_engine.trouble where run_id = p_run) then return false; end if;
  perform from hotmesh_engine.live where run_id = p_run and holder is null for update;
  v_held := not found;
  delete from hotmesh_engine.trouble where run_id = p_run and (quarantined or not v_held);
  if not found and not v_held then return false; end if;
  update hotmesh_engine.live set due_at = v_now, lost = 0, strikes = 0 where run_id = p_run and holder is null
  returning queue_id into v_queue;
  with t as (
    update hotmesh_engine.activity_task set due_at = v_now, lost = 0, strikes = 0
     where run_id = p_run and holder is null and due_at = 'infinity' returning queue_id)
  select array_agg(queue_id) into v_queues from t;
  perform hotmesh_engine.redeliver(null, null, p_run);
  v_queues := array_remove(v_queues || v_queue, null);
  if cardinality(v_queues) > 0 then
    perform hotmesh_engine.wake_queues(v_queues, cardinality(v_queues));
  end if;
  return true;
end $$;

-- Plans what turns need, once a connection: PL/pgSQL plans a statement when it first comes to it, and
-- the first turns of a worker would pay for that (measured: 40 ms spread over ten of them). Run 0 does
-- not exist, so all that is said of it is rejected.
create or replace function hotmesh_engine.warm_up(p_worker bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform from hotmesh_engine.turn(
    p_worker, '{}', 1, 1, 1, null, 0, null, '{0}',
    '{0}', '{0}', '{0}', '{0}', array[null::timestamptz], array[null::json], '{0}',
    '{0}', '{0}', '{0}', '{0}', array[null::timestamptz], array[null::json], array[null::json], '{0}', '{0}',
    '{0}', '{0}', '{w}', '{x}', '{0}', array[null::timestamptz], '{0}', '{0}',
    '{0}', '{0}', array[null::text], '{x}', array[null::json], array[null::json], '{0}', '{f}',
    array[null::timestamptz], array[null::timestamptz], array[null::float8], array[null::json],
    '{0}', '{0}', '{0}', '{0}', array[null::json], array[null::timestamptz], '{0}', '{x}', array[null::json]);
  perform hotmesh_engine.close_runs('{0,0}', '{1,1}', array[null::json, null::json], now());
  perform hotmesh_engine.close_run(0, 1::smallint, null, now());
  perform hotmesh_engine.put_back('{0}');
  perform hotmesh_engine.judge('{0}', now());
  perform hotmesh_engine.route(p_worker, '{0,0,0}', '{1,2,3}', '{0,0,0}', '{0,0,0}', false, 0);
  perform from hotmesh_engine.hand_out_runs('{0}');
  perform from hotmesh_engine.hand_out_tasks('{0}', '{0}');
  perform hotmesh_engine.wake_queues('{0}', 1);
  perform hotmesh_engine.wake_workers('{0}');
end $$;
