-- Duties: short bounded transactions of their own, on a worker's second connection, never in a turn.
-- Each uses SKIP LOCKED and a limit, and says whether more is left, so that any worker may do any
-- of them at any time and nobody leads.

-- The sweep: ends workers whose lease has run out, and makes their runs ready again.
-- By the server's clock, never the movable one. A worker may sweep only after a lease time of
-- unbroken contact of its own: an outage of PostgreSQL breaks everybody's contact and kills nobody.
-- Death is final: the row is marked in one transaction, then its runs are released in portions by
-- whoever comes. A turn of that worker holds its row FOR KEY SHARE and is waited for by skipping.
--
-- Suspects: a run that kills its workers would take with it, again and again, all that they hold. So a run
-- whose lease was lost twice in a row (`lost`) is claimed one at a time by each worker, and a death with just
-- one of them is a strike against it; five quarantine it. It is cleared, of both numbers, by whoever holds it, with
-- a turn: when it records a result, parks or closes, or when it has been held for a lease time, since a call may
-- take days and records nothing before it ends. A killer that needs longer than that is thus never quarantined, but
-- leaves its workers, and what they hold, a lease time to get on in.
-- So it is with an activity that has a row: it is cleared when an attempt has ended, and a loss counts for the first only
-- if it had been with its worker for six lease times. Both are one kind to a worker, which takes one at a time of them; a
-- run beside an activity of its own that is suspected counts for nothing.
-- Locks: `worker` rows, `live` rows, `activity_task` rows, all SKIP LOCKED; then `trouble` rows of what is quarantined: of
-- a run in trouble already, that may wait for somebody who is resuming it, and who waits for none of these.
-- Twin: the second skips what the first has. Crash: the worker is dead or not; what it still holds is released by the next.
-- Zombie: only a turn of the holder clears, so one that was swept is refused whole, and one whose run has
-- moved on is rejected for that run: neither has seen how the run fares with the heir. One that was only frozen
-- for a lease time, and not swept, clears what it has not run for so long: then two more deaths make it
-- a suspect again.
create or replace function hotmesh_engine.sweep(p_worker bigint, p_limit int default 10000) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_dead   bigint;
  v_runs   int := 0;
  v_tasks  int := 0;
  v_now    timestamptz := hotmesh.now();
begin
  set local synchronous_commit = on;
  perform from hotmesh_engine.worker
    where worker_id = p_worker and not dead and contact_at < clock_timestamp() - lease
      and beat_at >= clock_timestamp() - lease;      -- else the server stood still while this was on its way
  if not found then return 0; end if;

  for v_dead in
    select worker_id from hotmesh_engine.worker
     where not dead and beat_at < clock_timestamp() - lease
     limit 20 for update skip locked
  loop
    update hotmesh_engine.worker w
       set dead = true,
           (suspect, suspect_command) = (
             with t as materialized (
               select t.run_id, t.command from hotmesh_engine.activity_task t
                where t.holder = v_dead and t.lost >= 2 and not hotmesh_engine.has_lived(t.claimed_at, w.beat_at, w.lease))
             select min(run_id), min(command)
               from (select run_id, command from t
                     union all
                     select l.run_id, null from hotmesh_engine.live l
                      where l.holder = v_dead and l.lost >= 2 and l.run_id not in (select run_id from t)) s
             having count(*) = 1)
     where worker_id = v_dead;
    delete from hotmesh_engine.sleeper where worker_id = v_dead;
  end loop;

  with c as materialized (
    select l.run_id, l.run_id is not distinct from w.suspect and w.suspect_command is null as struck
      from hotmesh_engine.worker w cross join lateral (
        select run_id from hotmesh_engine.live l where l.holder = w.worker_id limit p_limit for update skip locked) l
     where w.dead limit p_limit
  ), u as (
    update hotmesh_engine.live l
       set holder = null, fence = abs(fence) + 1, lost = least(l.lost + 1, 1000), strikes = l.strikes + c.struck::int,
           due_at = case when l.strikes + c.struck::int >= 5 then 'infinity' else l.due_at end
      from c where l.run_id = any (array(select run_id from c)) and l.run_id = c.run_id
    returning l.run_id, l.strikes
  ), q as (
    insert into hotmesh_engine.trouble (run_id, since, last_at, quarantined, code, message)
    select run_id, v_now, v_now, true, 'HM028',
           'five workers died while this was the one suspect that they held; hotmesh.resume(workflow_id) lets it go on'
      from u where strikes >= 5
    on conflict (run_id) do update set quarantined = true, last_at = excluded.last_at, message = excluded.message
  ), i as (
    update hotmesh_engine.inbox set holder = null, handed = false where run_id = any (array(select run_id from u))
    returning inbox_id, run_id, kind
  ), asked as (                                      -- a call that was asked to end: routing closes it, as nobody holds it
    insert into hotmesh_engine.unrouted (id, kind, run_id) select inbox_id, 3, run_id from i where kind = 8
    on conflict do nothing
  )
  select count(*) into v_runs from u;

  with c as materialized (
    select t.run_id, t.command, t.lived, t.run_id is not distinct from w.suspect and t.command = w.suspect_command as struck
      from hotmesh_engine.worker w cross join lateral (
        select run_id, command, hotmesh_engine.has_lived(claimed_at, w.beat_at, w.lease) as lived
          from hotmesh_engine.activity_task t
         where t.holder = w.worker_id limit p_limit for update skip locked) t
     where w.dead limit p_limit
  ), u as (
    update hotmesh_engine.activity_task t
       set holder = null, heartbeat_by = null, lost = case when c.lived then 1 else least(t.lost + 1, 1000) end,
           strikes = case when c.lived then 0 else t.strikes + coalesce(c.struck, false)::int end,
           due_at = case when not c.lived and t.strikes + coalesce(c.struck, false)::int >= 5 then 'infinity' else t.due_at end
      from c where t.run_id = any (array(select run_id from c)) and t.run_id = c.run_id and t.command = c.command
    returning t.run_id, t.command, t.activity, t.strikes
  ), q as (
    insert into hotmesh_engine.trouble (run_id, since, last_at, quarantined, code, message)
    select distinct on (run_id) run_id, v_now, v_now, true, 'HM028',
           format('five workers died while its activity %s (command %s) was the one suspect that they held; '
                  'hotmesh.resume(workflow_id) lets it go on', activity, command)
      from u where strikes >= 5 and exists (select from hotmesh_engine.live l where l.run_id = u.run_id offset 0)
     order by run_id, command
    on conflict (run_id) do update
      set quarantined = true, last_at = excluded.last_at, code = excluded.code, message = excluded.message
  )
  select count(*) into v_tasks from u;

  delete from hotmesh_engine.inbox i using hotmesh_engine.worker w
   where w.dead and i.holder = w.worker_id and i.kind = 100;
  if v_runs + v_tasks > 0 then
    perform hotmesh_engine.wake_all();   -- not those who sleep alone: below the floor that a worker looks from (see looks.py)
  end if;
  return v_runs + v_tasks;
end $$;

-- Whether an activity has been with a worker for long enough not to be what killed it: an activity may need minutes to
-- exhaust its machine, so longer than a run.
create or replace function hotmesh_engine.has_lived(p_claimed_at timestamptz, p_beat_at timestamptz, p_lease interval)
returns boolean
language sql immutable parallel safe as $$
  select coalesce(p_beat_at - p_claimed_at >= 6 * p_lease, false)
$$;

-- Deadlines: execution timeouts of runs; schedule-to-close and heartbeat timeouts of activities. And queues for tasks
-- that came while theirs was being made: first, as its updates may wait (for a duty of others) and nothing is locked yet.
create or replace function hotmesh_engine.deadlines(p_limit int default 500) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now     timestamptz := hotmesh.now();
  v_runs    bigint[];
  v_holders bigint[];
  v_ids     bigint[];
  v_ids_run bigint[];
  v_count   int;
  v_done    int;
begin
  perform hotmesh_engine.name_queues(p_limit);
  select array_agg(run_id), array_agg(holder) into v_runs, v_holders
    from (select run_id, holder from hotmesh_engine.live
           where deadline <= v_now order by deadline limit p_limit for update skip locked) l;
  v_done := coalesce(cardinality(v_runs), 0);
  if v_done > 0 then
    perform hotmesh_engine.time_out(v_runs, v_holders, v_now);
  end if;

  with c as materialized (
    select ctid from hotmesh_engine.activity_task
     where deadline <= v_now order by deadline limit p_limit for update skip locked
  ), gone as (
    delete from hotmesh_engine.activity_task where ctid = any (array(select ctid from c))
    returning run_id, command, due_at
  ), healed as (                         -- a quarantined activity was all the trouble of its run: it hears of the timeout
    delete from hotmesh_engine.trouble t
     where t.run_id = any (array(select run_id from gone where due_at = 'infinity')) and t.quarantined
       and exists (select from hotmesh_engine.live l where l.run_id = t.run_id and l.strikes < 5 offset 0)
       and t.code = 'HM028'
       and not exists (select from hotmesh_engine.activity_task o
                        where o.run_id = t.run_id and o.due_at = 'infinity'
                          and (o.run_id, o.command) not in (select run_id, command from gone) offset 0)
  ), ins as (
    insert into hotmesh_engine.inbox (inbox_id, run_id, command, kind, payload)
    select nextval('hotmesh_engine.id'), run_id, command, 3,
           '{"type":"TimeoutError","message":"schedule_to_close_timeout has passed","details":["schedule_to_close"],"non_retryable":true}'
      from gone
    returning inbox_id, run_id)
  select array_agg(inbox_id), array_agg(run_id) into v_ids, v_ids_run from ins;
  if v_ids is not null then
    v_done := v_done + cardinality(v_ids);
    perform hotmesh_engine.route(null, v_ids, array_fill(3::smallint, array[cardinality(v_ids)]), v_ids_run,
      array_fill(null::int, array[cardinality(v_ids)]), false, 0);
  end if;

  -- A silent activity has failed this attempt; its retry policy says whether and when there is another. But only if
  -- its worker has been heard of since: one that is away may have died with it, which is the sweep's to find out, or
  -- could not reach this server, and then tells of its activities first.
  with c as materialized (
    select t.run_id, t.command, t.attempt, t.options::jsonb -> 'retry' as policy from hotmesh_engine.activity_task t
     where t.heartbeat_by <= clock_timestamp()
       and exists (select from hotmesh_engine.worker w
                    where w.worker_id = t.holder and not w.dead and w.beat_at >= t.heartbeat_by offset 0)
     order by t.heartbeat_by limit p_limit for update skip locked
  ), gone as (
    delete from hotmesh_engine.activity_task t using c
     where t.run_id = any (array(select run_id from c)) and t.run_id = c.run_id and t.command = c.command
       and (c.attempt >= nullif((policy ->> 'attempts')::int, 0) or policy -> 'not' ? 'TimeoutError')
    returning t.run_id, t.command
  ), ins as (
    insert into hotmesh_engine.inbox (inbox_id, run_id, command, kind, payload)
    select nextval('hotmesh_engine.id'), run_id, command, 3,
           '{"type":"TimeoutError","message":"no heartbeat came in time","details":["heartbeat"]}'
      from gone
    returning inbox_id, run_id
  ), again as (
    update hotmesh_engine.activity_task t
       set holder = null, heartbeat_by = null, lost = 0, strikes = 0,
           due_at = v_now + least((policy ->> 'initial')::float8
                                  * power((policy ->> 'coefficient')::float8, least(c.attempt, 64) - 1),
                                  coalesce((policy ->> 'maximum')::float8, 1e9)) * interval '1 second',
           last_failure = '{"type":"TimeoutError","message":"no heartbeat came in time","details":["heartbeat"]}'
      from c where t.run_id = any (array(select run_id from c)) and t.run_id = c.run_id and t.command = c.command
       and not exists (select from gone g where g.run_id = c.run_id and g.command = c.command)
    returning 1)
  select (select count(*) from c), array_agg(inbox_id), array_agg(run_id) into v_count, v_ids, v_ids_run from ins;
  if v_ids is not null then
    perform hotmesh_engine.route(null, v_ids, array_fill(3::smallint, array[cardinality(v_ids)]), v_ids_run,
      array_fill(null::int, array[cardinality(v_ids)]), false, 0);
  end if;
  return v_done + v_count;
end $$;

-- Closes runs whose execution timeout has passed; one that cannot be closed is quarantined alone.
-- Precondition: their `live` rows are locked.
create or replace function hotmesh_engine.time_out(p_runs bigint[], p_holders bigint[], p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_half int := cardinality(p_runs) / 2;
  v_code text;
  v_text text;
begin
  begin
    perform hotmesh_engine.close_runs(p_runs, array_fill(5::smallint, array[cardinality(p_runs)]),
      array_fill('{"type":"TimeoutError","message":"the execution timeout has passed","details":["execution"]}'::json,
                 array[cardinality(p_runs)]), p_now);
    perform hotmesh_engine.drop_held(p_runs, p_holders);
    return;
  exception when others then
    get stacked diagnostics v_code = returned_sqlstate, v_text = message_text;
    if not hotmesh_engine.is_fault(v_code) then raise; end if;
  end;
  if v_half > 0 then
    perform hotmesh_engine.time_out(p_runs[:v_half], p_holders[:v_half], p_now);
    perform hotmesh_engine.time_out(p_runs[v_half + 1:], p_holders[v_half + 1:], p_now);
  else
    perform hotmesh_engine.quarantine(p_runs[1], v_code, 'it cannot be closed: ' || v_text, p_now);
    update hotmesh_engine.live set deadline = null where run_id = p_runs[1];
  end if;
end $$;

-- Retention: removes what has expired, a portion at a time; returns how many runs. Outcomes stay for 10 s
-- more: a caller who waited for one may still be fetching it when it has no retention at all (a flushed call).
create or replace function hotmesh.prune(max_runs int default 1000) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now  timestamptz := hotmesh.now();
  v_runs bigint[];
begin
  select array_agg(run_id) into v_runs
    from (select run_id from hotmesh_engine.outcome
           where expires_at <= v_now - interval '10 seconds' order by expires_at limit max_runs for update skip locked) o;
  if v_runs is not null then
    delete from hotmesh_engine.journal where run_id = any (v_runs);
    delete from hotmesh_engine.run where run_id = any (v_runs);
    delete from hotmesh_engine.outcome where run_id = any (v_runs);
  end if;
  perform hotmesh_engine.prune_records(v_runs, v_now, max_runs);
  delete from hotmesh_engine.message where ctid = any (array(
    select ctid from hotmesh_engine.message where expires_at <= v_now limit max_runs for update skip locked));
  delete from hotmesh_engine.undelivered u
   where coalesce(u.expires_at <= v_now, not exists (select from hotmesh_engine.live l where l.run_id = u.run_id));
  delete from hotmesh_engine.activity_task where ctid = any (array(      -- void, and due never
    select ctid from hotmesh_engine.activity_task t
     where t.due_at = 'infinity' and not exists (select from hotmesh_engine.live l where l.run_id = t.run_id offset 0)
     limit max_runs for update skip locked));
  delete from hotmesh_engine.request where ctid = any (array(
    select ctid from hotmesh_engine.request where expires_at <= v_now limit max_runs for update skip locked));
  perform hotmesh_engine.prune_slots(v_now, max_runs);
  delete from hotmesh_engine.waiter where since < clock_timestamp() - interval '1 day';
  delete from hotmesh_engine.worker w
   where dead and beat_at < clock_timestamp() - interval '1 day'
     and not exists (select from hotmesh_engine.live l where l.holder = w.worker_id)
     and not exists (select from hotmesh_engine.activity_task t where t.holder = w.worker_id);
  return coalesce(cardinality(v_runs), 0);
end $$;
comment on function hotmesh.prune(int) is 'Removes runs, signals, requests and firings whose retention has passed; returns how many runs. Workers call it by themselves.';
