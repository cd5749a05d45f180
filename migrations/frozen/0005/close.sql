-- Closing runs, for every reason: the code returned or raised, an interrupt, a deadline.
--
-- Precondition: the caller holds the `live` rows FOR UPDATE. Nothing here waits: the rows of a run
-- other than its `live` row are written by whoever holds that lock, or inserted by senders whose
-- uncommitted rows we do not see; routing finds those later, sees that the run is closed, and puts
-- a signal back into its queue.
-- Activity tasks are not touched: they may be locked by a user's transaction. Without a `live` row
-- they are void, and whoever claims one removes it.
--
-- Returns for how many of the runs nobody was told: who waits for them may be registering just now.

create or replace function hotmesh_engine.close_runs(
  p_runs bigint[], p_status smallint[], p_payload json[], p_now timestamptz
) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if cardinality(p_runs) = 1 then
    return 1 - hotmesh_engine.close_run(p_runs[1], p_status[1], p_payload[1], p_now);
  end if;
  with r as materialized (
    select u.run_id, u.status, u.payload, r.namespace_id, r.workflow_id, r.retention
      from unnest(p_runs, p_status, p_payload) u(run_id, status, payload)
     cross join lateral (select * from hotmesh_engine.run r where r.run_id = u.run_id offset 0) r
  ), o as (
    insert into hotmesh_engine.outcome (run_id, closed_at, expires_at, status, payload)
    select run_id, p_now, p_now + coalesce(retention, interval '7 days'), status, payload from r
  )
  delete from hotmesh_engine.open_id where ctid = any (array(
    select i.ctid from r cross join lateral (
      select ctid from hotmesh_engine.open_id i
       where i.namespace_id = r.namespace_id and i.workflow_id = r.workflow_id and i.run_id = r.run_id offset 0) i));

  delete from hotmesh_engine.live where run_id = any (p_runs);
  delete from hotmesh_engine.waiting where run_id = any (p_runs);
  delete from hotmesh_engine.trouble where run_id = any (p_runs);
  if exists (select from hotmesh_engine.inbox where run_id = any (p_runs)) then
    perform hotmesh_engine.put_back(
      (select array_agg(inbox_id) from hotmesh_engine.inbox where run_id = any (p_runs)));
  end if;
  return cardinality(p_runs) - hotmesh_engine.wake_clients(p_runs);
end $$;

-- The same for one run, at half of the cost: what an idle system does all the time. Returns 1 if somebody was
-- told, else 0.
create or replace function hotmesh_engine.close_run(p_run bigint, p_status smallint, p_payload json, p_now timestamptz)
returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_ns        int;
  v_id        text;
  v_retention interval;
  v_waits     boolean;
  v_trouble   boolean;
  v_inbox     boolean;
begin
  select namespace_id, workflow_id, retention into v_ns, v_id, v_retention from hotmesh_engine.run where run_id = p_run;
  insert into hotmesh_engine.outcome (run_id, closed_at, expires_at, status, payload)
  select p_run, p_now, p_now + coalesce(v_retention, interval '7 days'), p_status, p_payload
   where v_ns is not null;                                     -- there is none when this is warmed up
  delete from hotmesh_engine.open_id where namespace_id = v_ns and workflow_id = v_id and run_id = p_run;
  delete from hotmesh_engine.live where run_id = p_run;
  -- One look instead of three statements: nearly always there is nothing.
  select exists (select from hotmesh_engine.waiting where run_id = p_run),
         exists (select from hotmesh_engine.trouble where run_id = p_run),
         exists (select from hotmesh_engine.inbox where run_id = p_run)
    into v_waits, v_trouble, v_inbox;
  if v_waits then
    delete from hotmesh_engine.waiting where run_id = p_run;
  end if;
  if v_trouble then
    delete from hotmesh_engine.trouble where run_id = p_run;
  end if;
  if v_inbox then
    perform hotmesh_engine.put_back((select array_agg(inbox_id) from hotmesh_engine.inbox where run_id = p_run));
  end if;
  return hotmesh_engine.wake_client(p_run, p_status, p_payload);
end $$;

-- Removes inbox rows that their run will not consume. A signal among them goes back to its queue,
-- at its old place, to be judged by routing; not if another wait got the same one, or it would be
-- seen twice. Returns the new messages' ids.
create or replace function hotmesh_engine.put_back(p_inbox bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if p_inbox is null then return; end if;
  with gone as (
    delete from hotmesh_engine.inbox where inbox_id = any (p_inbox)
    returning place, expires_at, namespace_id, key, payload, shared
  ), back as (
    insert into hotmesh_engine.message (message_id, place, sent_at, expires_at, namespace_id, key, payload)
    select nextval('hotmesh_engine.id'), place, clock_timestamp(), expires_at, namespace_id, key, payload
      from gone where key is not null and not shared
    returning message_id
  )
  insert into hotmesh_engine.unrouted (id, kind) select message_id, 1 from back;
end $$;

-- Tells the worker that holds a run which somebody else has closed to drop it.
create or replace function hotmesh_engine.drop_held(p_runs bigint[], p_holders bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  insert into hotmesh_engine.inbox (inbox_id, run_id, kind, holder)
  select nextval('hotmesh_engine.id'), run, 100, holder
    from unnest(p_runs, p_holders) u(run, holder) where holder is not null;
  if found then
    perform hotmesh_engine.wake_workers(p_holders);
  end if;
end $$;
