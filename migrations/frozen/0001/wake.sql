-- Waking up. NOTIFY is a hint, never a promise: everybody polls as well.
--
-- NOTIFY takes a lock across the whole database at commit, so it is sent only to somebody who is
-- asleep. A worker writes that flag itself, in its own row; senders only read it. The gap between
-- a sender's look and its commit is covered by the worker, which looks again 5, 20, 80 and 320 ms
-- after it fell asleep. A caller's transaction may stay open for long, so it always notifies.
--
-- Channels: hotmesh_<id> of a worker or client; hotmesh_all for everybody. Payloads are ids.

create or replace function hotmesh_engine.wake_all() returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select pg_notify('hotmesh_all', '')
$$;

-- Workers asleep that serve one of the queues: as many as there are newly due runs or tasks.
create or replace function hotmesh_engine.wake_queues(p_queues int[], p_due int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_worker bigint;
begin
  for v_worker in
    select worker_id from hotmesh_engine.sleeper
     where asleep and queues && p_queues
     limit p_due
  loop
    perform pg_notify('hotmesh_' || v_worker, '');
  end loop;
end $$;

create or replace function hotmesh_engine.wake_workers(p_workers bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_worker bigint;
begin
  for v_worker in
    select worker_id from hotmesh_engine.sleeper where asleep and worker_id = any (p_workers)
  loop
    perform pg_notify('hotmesh_' || v_worker, '');
  end loop;
end $$;

-- Clients that wait for runs which have closed: one notification each, of up to 300 run ids.
create or replace function hotmesh_engine.wake_clients(p_runs bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_row record;
begin
  for v_row in
    select client, string_agg(run_id::text, ',') as ids
      from (select client, run_id, row_number() over (partition by client order by run_id) / 300 as part
              from hotmesh_engine.waiter where run_id = any (p_runs)) w
     group by client, part
  loop
    perform pg_notify('hotmesh_' || v_row.client, v_row.ids);
  end loop;
end $$;
