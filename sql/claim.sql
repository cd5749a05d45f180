-- Leasing ready runs and activity tasks.
--
-- One index range for each (queue, priority): PostgreSQL 15 to 17 cannot skip from one priority to
-- the next inside one range, and would filter every sleeping run that lies between. `due_at` is
-- compared with a value, and from a floor that the worker passes upwards, so that entries that are
-- dead but cannot be removed yet (somebody pins the horizon) are not walked again each time.
--
-- Locks: `live` and `activity_task` rows, SKIP LOCKED; a claim waits for nobody. Two claimers of
-- one run: the second skips it, and after the first's commit no longer finds it.
-- Crash after the claim: the lease stands in the worker's name until the sweep.

create or replace function hotmesh_engine.claim_runs(
  p_worker bigint, p_queues int[], p_free int, p_suspects int, p_now timestamptz, p_floor timestamptz
) returns bigint[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_runs bigint[];
  v_more bigint[];
begin
  with c as materialized (
    select l.ctid
      from unnest(p_queues) q(queue_id)
     cross join (values (1::smallint), (2), (3), (4), (5)) p(priority)
     cross join lateral (
       select ctid from hotmesh_engine.live l
        where l.queue_id = q.queue_id and l.priority = p.priority
          and l.due_at <= p_now and l.due_at >= coalesce(p_floor, '-infinity')
          and l.holder is null and l.lost < 2 and l.due_at < 'infinity'
        order by l.due_at, l.run_id
        limit p_free for update skip locked) l
     limit p_free
  ), u as (
    update hotmesh_engine.live set holder = p_worker, fence = abs(fence) + 1
     where ctid = any (array(select ctid from c))
    returning run_id)
  select array_agg(run_id) into v_runs from u;

  if p_suspects > 0 then
    with c as materialized (
      select l.ctid
        from unnest(p_queues) q(queue_id)
       cross join lateral (
         select ctid from hotmesh_engine.live l
          where l.queue_id = q.queue_id and l.due_at <= p_now
            and l.holder is null and l.lost >= 2 and l.due_at < 'infinity'
          order by l.due_at, l.run_id
          limit p_suspects for update skip locked) l
       limit p_suspects
    ), u as (
      update hotmesh_engine.live set holder = p_worker, fence = abs(fence) + 1
       where ctid = any (array(select ctid from c))
      returning run_id)
    select array_agg(run_id) into v_more from u;
    v_runs := v_runs || v_more;
  end if;
  return v_runs;
end $$;

-- Tasks of closed runs are void: they are removed here, when they come up. Suspects (see sweep) come after the
-- others, and no more than p_suspects together with those among the runs that this turn has claimed.
create or replace function hotmesh_engine.claim_tasks(
  p_worker bigint, p_queues int[], p_free int, p_suspects int, p_claimed bigint[], p_now timestamptz,
  out r_run bigint[], out r_command int[]
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_left    int;
  v_run     bigint[];
  v_command int[];
begin
  if not exists (select from hotmesh_engine.activity_task
                  where queue_id = any (p_queues) and holder is null and due_at <= p_now) then
    return;                              -- the usual case, at a quarter of the cost of what follows
  end if;
  with c as materialized (
    select t.ctid, exists (select from hotmesh_engine.live l where l.run_id = t.run_id offset 0) as open
      from unnest(p_queues) q(queue_id)
     cross join lateral (
       select ctid, run_id from hotmesh_engine.activity_task t
        where t.queue_id = q.queue_id and t.holder is null and t.due_at <= p_now and t.lost < 2
        order by t.due_at, t.run_id, t.command
        limit p_free for update skip locked) t
     limit p_free
  ), void as (
    delete from hotmesh_engine.activity_task where ctid = any (array(select ctid from c where not open))
  ), u as (
    update hotmesh_engine.activity_task
       set holder = p_worker, attempt = attempt + 1, claimed_at = clock_timestamp(),
           heartbeat_by = clock_timestamp() + heartbeat_timeout
     where ctid = any (array(select ctid from c where open))
    returning run_id, command)
  select array_agg(run_id), array_agg(command) into r_run, r_command from u;

  if p_suspects > 0 and exists (select from hotmesh_engine.activity_task
                                 where queue_id = any (p_queues) and holder is null and lost >= 2 and due_at <= p_now) then
    select least(p_suspects - count(*), p_free - coalesce(cardinality(r_run), 0)) into v_left
      from hotmesh_engine.live where run_id = any (p_claimed) and lost >= 2;
    if v_left <= 0 then return; end if;
    with c as materialized (
      select t.ctid, exists (select from hotmesh_engine.live l where l.run_id = t.run_id offset 0) as open
        from unnest(p_queues) q(queue_id)
       cross join lateral (
         select ctid, run_id from hotmesh_engine.activity_task t
          where t.queue_id = q.queue_id and t.holder is null and t.due_at <= p_now and t.lost >= 2
          order by t.due_at, t.run_id, t.command
          limit v_left for update skip locked) t
       limit v_left
    ), void as (
      delete from hotmesh_engine.activity_task where ctid = any (array(select ctid from c where not open))
    ), u as (
      update hotmesh_engine.activity_task
         set holder = p_worker, attempt = attempt + 1, claimed_at = clock_timestamp(),
             heartbeat_by = clock_timestamp() + heartbeat_timeout
       where ctid = any (array(select ctid from c where open))
      returning run_id, command)
    select array_agg(run_id), array_agg(command) into v_run, v_command from u;
    r_run := r_run || v_run;
    r_command := r_command || v_command;
  end if;
end $$;

-- Milliseconds until the next run or task of these queues comes due, if that is within a second: the
-- worker would otherwise find it with its next poll only. Not for suspects, which wait anyway.
create or replace function hotmesh_engine.next_due(p_queues int[], p_now timestamptz) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_due timestamptz;
begin
  select min(due_at) into v_due
    from unnest(p_queues) q(queue_id) cross join lateral (
      (select l.due_at from (values (1::smallint), (2), (3), (4), (5)) p(priority) cross join lateral (
         select due_at from hotmesh_engine.live l
          where l.queue_id = q.queue_id and l.priority = p.priority and l.due_at > p_now
            and l.holder is null and l.lost < 2 and l.due_at < 'infinity'
          order by l.due_at limit 1) l)
      union all
      (select t.due_at from hotmesh_engine.activity_task t
        where t.queue_id = q.queue_id and t.holder is null and t.due_at > p_now
        order by t.due_at limit 1)) d;
  return case when v_due < p_now + interval '1 second'
              then ceil(extract(epoch from v_due - p_now) * 1000)::int end;
end $$;
