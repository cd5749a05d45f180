-- Waking up. NOTIFY is a hint, never a promise: everybody polls as well.
--
-- NOTIFY takes a lock across the whole database at commit, so it is sent only to somebody who is
-- asleep. A worker writes that flag itself, in its own row; senders only read it. Two gaps are the worker's to
-- cover: what comes while its flag is down, and between a sender's look and its commit. It looks by itself, by the
-- clock: 5 ms after the flag went up, then after 20, 80 and 320 ms more, then once a second (pyhotmesh/looks.py). A
-- caller's transaction may stay open for long, so it always notifies.
--
-- Channels: hotmesh_<id> of a worker or client; hotmesh_all for everybody. Ids are 62 random bits: who
-- does not know one can neither listen to it nor write to it. Payloads are ids, or something small that
-- the receiver would otherwise have to ask for; it is in a table as well. hotmesh_0 is for those who fire
-- schedules, which all workers do; everybody may know it, so nothing but ids goes there.

create or replace function hotmesh_engine.wake_all() returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select pg_notify('hotmesh_all', '')
$$;

-- A schedule was made or changed: a slot may be due earlier than anybody waits for.
create or replace function hotmesh_engine.wake_schedules() returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select pg_notify('hotmesh_0', '')
$$;

-- Workers asleep that serve one of the queues: as many as there are newly due runs or tasks.
create or replace function hotmesh_engine.wake_queues(p_queues int[], p_due int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('hotmesh_' || worker_id, '')
     from (select worker_id from hotmesh_engine.sleeper where asleep and queues && p_queues limit p_due) s;
end $$;

create or replace function hotmesh_engine.wake_workers(p_workers bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('hotmesh_' || worker_id, '')
     from hotmesh_engine.sleeper where asleep and worker_id = any (p_workers);
end $$;

-- Clients that wait for runs which have closed: one notification each, of up to 300 run ids. A single
-- small outcome goes with it ("run status payload"), which spares the client the question; it is then
-- registered no longer. Its row is skipped if the client is just asking. Client 0 stands for schedules
-- with slots in the buffer (firing.sql). Returns for how many of the runs somebody was told.
create or replace function hotmesh_engine.wake_clients(p_runs bigint[]) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_told int;
begin
  if not exists (select from hotmesh_engine.waiter where run_id = any (p_runs)) then
    return 0;
  end if;
  with w as materialized (
    select client, run_id, row_number() over (partition by client order by run_id) / 300 as part
      from hotmesh_engine.waiter where run_id = any (p_runs)
  ), n as materialized (
    select client, min(run_id) as run_id, string_agg(run_id::text, ',') as ids, count(*) = 1 and client <> 0 as is_single
      from w group by client, part
  ), o as materialized (
    select n.client, n.run_id, format('%s %s %s', n.run_id, o.status, o.payload) as said
      from n cross join lateral (
        select status, payload from hotmesh_engine.outcome o where o.run_id = n.run_id offset 0) o
     where n.is_single and octet_length(o.payload::text) <= 4000
  ), gone as (
    delete from hotmesh_engine.waiter where ctid = any (array(
      select r.ctid from hotmesh_engine.waiter r join o on r.run_id = o.run_id and r.client = o.client
       where r.run_id = any (p_runs) for update of r skip locked))
  ), told as (
    select pg_notify('hotmesh_' || n.client, coalesce(o.said, n.ids)) from n left join o using (client, run_id)
  )
  -- 0 *: what no part of a statement reads is not carried out, and nobody would be notified
  select (select count(distinct run_id) from w) + 0 * (select count(*) from told) into v_told;
  return v_told;
end $$;

-- The same for one run, at a third of the cost: what an idle system does all the time.
create or replace function hotmesh_engine.wake_client(p_run bigint, p_status smallint, p_payload json) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_clients int;
  v_client  bigint;
begin
  select count(*), min(client) into v_clients, v_client from hotmesh_engine.waiter where run_id = p_run;
  if v_clients = 0 then
    return 0;
  elsif v_clients > 1 or v_client = 0 or octet_length(p_payload::text) > 4000 then
    return hotmesh_engine.wake_clients(array[p_run]);
  end if;
  perform pg_notify('hotmesh_' || v_client, format('%s %s %s', p_run, p_status, p_payload));
  delete from hotmesh_engine.waiter where ctid = (
    select ctid from hotmesh_engine.waiter where run_id = p_run and client = v_client for update skip locked);
  return 1;
end $$;
