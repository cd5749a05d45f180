-- Activity tasks: rows for activities that another worker runs, that wait for a retry, or that run
-- for longer than a moment. While the row exists it is the only licence: a result counts if the
-- row still carries (worker, attempt) of who reports it, and the same transaction deletes the row.
--
--   waiting (holder null, due) ──claim: attempt + 1──► running (holder) ──completed/failed──► gone, outcome in the inbox
--        ▲                                                │
--        └── again at due · handed back (attempt - 1) · lease or heartbeat lost ◄──┘
--
-- One whose holders die again and again is a suspect, and may be quarantined: see sweep in tend.sql. An attempt that
-- ends, well or not, clears it.
--
-- Locks: rows of ended tasks, sorted by (run, command); the caller's `live` locks come before.

create or replace function hotmesh_engine.add_tasks(
  p_worker bigint, p_now timestamptz, p_rejected bigint[],
  t_run bigint[], t_command int[], t_queue text[], t_activity text[], t_input json[], t_options json[],
  t_attempt int[], t_held boolean[], t_due timestamptz[], t_deadline timestamptz[],
  t_heartbeat double precision[], t_failure json[]
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_queues int[];
begin
  with t as materialized (
    select u.*, r.namespace_id, r.queue_id as own
      from unnest(t_run, t_command, t_queue, t_activity, t_input, t_options, t_attempt, t_held, t_due,
                  t_deadline, t_heartbeat, t_failure)
           u(run, command, queue, activity, input, options, attempt, held, due, deadline, heartbeat, failure)
     cross join lateral (select namespace_id, queue_id from hotmesh_engine.run r where r.run_id = u.run offset 0) r
     where u.run <> all (p_rejected)
  ), q as materialized (
    select namespace_id, queue, hotmesh_engine.queue_or_stand_in(namespace_id, queue) as queue_id
      from (select distinct namespace_id, queue from t where queue is not null) d
  ), ins as (
    insert into hotmesh_engine.activity_task
      (run_id, command, queue_id, activity, input, options, attempt, holder, due_at, scheduled_at, deadline,
       heartbeat_timeout, heartbeat_by, last_failure, claimed_at)
    select t.run, t.command, coalesce(q.queue_id, t.own), t.activity, t.input, t.options, t.attempt,
           case when t.held then p_worker end, coalesce(t.due, p_now), p_now, t.deadline,
           t.heartbeat * interval '1 second',
           case when t.held then clock_timestamp() + t.heartbeat * interval '1 second' end, t.failure,
           case when t.held then clock_timestamp() end
      from t left join q on q.namespace_id = t.namespace_id and q.queue = t.queue
    returning queue_id, holder, due_at)
  select array_agg(queue_id) into v_queues from ins where holder is null and due_at <= p_now;
  if v_queues is not null then
    perform hotmesh_engine.wake_queues(v_queues, cardinality(v_queues));
  end if;
end $$;

-- Moves tasks from what stands in for their queue to the queue, once it is known who has made it, or that nobody
-- has; returns how many stand-ins are done with. Such tasks have never been claimed: no worker serves those numbers.
-- Locks: `stand_in` rows SKIP LOCKED, names tried; tasks, which nobody else has locked for longer than a duty.
create or replace function hotmesh_engine.name_queues(p_limit int) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_one    hotmesh_engine.stand_in;
  v_queue  int;
  v_queues int[] := '{}';
begin
  if not exists (select from hotmesh_engine.stand_in) then return 0; end if;
  for v_one in
    select * from hotmesh_engine.stand_in order by queue_id limit p_limit for update skip locked
  loop
    select queue_id into v_queue from hotmesh_engine.queue
     where namespace_id = v_one.namespace_id and name = v_one.name;
    if not found then
      continue when not pg_try_advisory_xact_lock(1212370262, hotmesh_engine.queue_lock(v_one.namespace_id, v_one.name));
      v_queue := hotmesh_engine.queue_id(v_one.namespace_id, v_one.name);
    end if;
    update hotmesh_engine.activity_task set queue_id = v_queue where queue_id = v_one.queue_id and holder is null;
    delete from hotmesh_engine.stand_in where queue_id = v_one.queue_id;
    v_queues := v_queues || v_queue;
  end loop;
  if cardinality(v_queues) > 0 then
    perform hotmesh_engine.wake_queues(v_queues, cardinality(v_queues));
  end if;
  return cardinality(v_queues);
end $$;

create or replace function hotmesh_engine.end_tasks(
  p_worker bigint, p_now timestamptz,
  d_run bigint[], d_command int[], d_attempt int[], d_kind smallint[], d_payload json[], d_due timestamptz[],
  out r_id bigint[], out r_run bigint[]
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_run     bigint[];
  v_command int[];
begin
  with t as materialized (
    select t.run_id, t.command from hotmesh_engine.activity_task t
      join unnest(d_run, d_command, d_attempt) d(run, command, attempt)
        on t.run_id = d.run and t.command = d.command and t.attempt = d.attempt
     where t.run_id = any (d_run) and t.holder = p_worker
     order by t.run_id, t.command for update of t)
  select array_agg(run_id), array_agg(command) into v_run, v_command from t;
  if v_run is null then return; end if;

  update hotmesh_engine.activity_task t
     set holder = null, heartbeat_by = null, due_at = coalesce(d.due, p_now),
         attempt = t.attempt - (d.kind = 9)::int,
         lost = case d.kind when 0 then 0 else t.lost end, strikes = case d.kind when 0 then 0 else t.strikes end,
         last_failure = case d.kind when 0 then d.payload else t.last_failure end
    from unnest(d_run, d_command, d_kind, d_payload, d_due) d(run, command, kind, payload, due)
    join unnest(v_run, v_command) v(run, command) using (run, command)
   where d.kind in (0, 9) and t.run_id = any (v_run) and t.run_id = d.run and t.command = d.command;

  with gone as (
    delete from hotmesh_engine.activity_task t
     using unnest(d_run, d_command, d_kind, d_payload) d(run, command, kind, payload)
      join unnest(v_run, v_command) v(run, command) using (run, command)
     where d.kind in (2, 3) and t.run_id = any (v_run) and t.run_id = d.run and t.command = d.command
    returning t.run_id, t.command, d.kind, d.payload
  ), ins as (
    insert into hotmesh_engine.inbox (inbox_id, run_id, command, kind, payload)
    select nextval('hotmesh_engine.id'), run_id, command, kind, payload from gone
    returning inbox_id, run_id)
  select array_agg(inbox_id), array_agg(run_id) into r_id, r_run from ins;
end $$;
