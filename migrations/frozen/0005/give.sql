-- Giving: a single start leases its run to a worker that is asleep, and the notification that would only
-- have said 'look' carries the run. That spares the claiming turn, a quarter of an idle system's start
-- to result (measured: 0.85 of 3.3 ms). So does a single signal with the parked run that it wakes, whose journal goes along.
--
-- To whom: a worker that says that it is asleep, takes runs of the queue, and is there: its listening
-- connection holds the advisory lock of its id (a killed process loses it with its socket, long before its
-- lease). Its flag is taken down in the same transaction, so it is given one run a sleep: should this one
-- keep it busy, or block it, the next goes to somebody else. It puts the flag up again with the turn that
-- ends this run, or after 2 ms.
--
-- Locks: that of a parked run's `live` row, by who routes to it (route.sql); then the worker's `sleeper` row, SKIP
-- LOCKED; nothing is waited for after it. Who ends an incarnation (retire, adopt, sweep) deletes that row *before* it
-- looks for leases: it waits for this transaction, and then sees the run.
-- Lost notification: the run is held with a fence not above 0 (what was parked: the next one, negative; whoever leases
-- it later goes on from its size, so none comes twice), and the worker asks once a second for such runs that it does not
-- know. Crash: one transaction with the start, or with the signal.

-- A worker that has just been woken for a run of this queue, if there is one.
create or replace function hotmesh_engine.take_sleeper(p_queue int) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_worker bigint;
begin
  update hotmesh_engine.sleeper set asleep = false
   where ctid = (
     select ctid from hotmesh_engine.sleeper
      where case when asleep and queues @> array[p_queue] then not pg_try_advisory_xact_lock_shared(worker_id) else false end
      limit 1 for update skip locked)
  returning worker_id into v_worker;
  return v_worker;
end $$;

create or replace function hotmesh_engine.give(
  p_run bigint, p_queue int, p_now timestamptz, p_type text, p_id text, p_input json
) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_worker bigint;
  v_what   text;
begin
  if octet_length(p_input::text) > 4000 then
    return null;
  end if;
  -- the input as a text: nobody may take it apart on the way
  v_what := json_build_array(p_run, p_queue, hotmesh_engine.epoch(p_now), p_type, p_id, p_input::text);
  if octet_length(v_what) > 7900 then                -- a notification holds 7,999
    return null;
  end if;
  v_worker := hotmesh_engine.take_sleeper(p_queue);
  if v_worker is not null then
    perform pg_notify('hotmesh_' || v_worker, v_what);
  end if;
  return v_worker;
end $$;

-- A parked run that a message completes, for who has its row locked: its journal goes along, if that is short, and the
-- message, whose row says that it was handed out. Null, with nothing done, if it does not fit or nobody is asleep (any more).
create or replace function hotmesh_engine.give_parked(
  p_run bigint, p_queue int, p_fence int, p_lost int, p_now timestamptz, p_message bigint, p_command int, p_payload json
) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_worker bigint;
  v_what   text;
begin
  select json_build_array(p_run, p_queue, hotmesh_engine.epoch(r.created_at), r.workflow_type, r.workflow_id, r.input::text,
           -1 - abs(p_fence), p_lost,
           (select json_agg(json_build_array(seq, kind, command, hotmesh_engine.epoch(at), payload::text, commands::text) order by seq)
              from hotmesh_engine.journal where run_id = p_run),
           (select json_agg(command) from (select command from hotmesh_engine.activity_task where run_id = p_run union all select p_command) t),
           p_message, p_command, p_payload::text)
    into v_what
    from hotmesh_engine.run r
   where r.run_id = p_run and pg_column_size(r.input) < 4000 and not exists (   -- sizes as they are stored: none is read for it
     select from hotmesh_engine.journal
      where run_id = p_run and (seq > 40 or pg_column_size(payload) > 4000 or pg_column_size(commands) > 4000));
  if coalesce(octet_length(v_what) > 7900, true) then
    return null;
  end if;
  v_worker := hotmesh_engine.take_sleeper(p_queue);
  if v_worker is not null then
    update hotmesh_engine.live set holder = v_worker, fence = -1 - abs(fence), due_at = p_now where run_id = p_run;
    perform pg_notify('hotmesh_' || v_worker, v_what);
  end if;
  return v_worker;
end $$;

-- Runs that were given to a worker and that it does not know of, as a claim hands them out.
create or replace function hotmesh_engine.given(p_worker bigint, p_known bigint[]) returns setof hotmesh_engine.turn_row
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_runs bigint[];
begin
  select array_agg(run_id) into v_runs from hotmesh_engine.live
   where holder = p_worker and fence <= 0 and run_id <> all (p_known);
  if v_runs is not null then
    return query select * from hotmesh_engine.hand_out_runs(v_runs);
  end if;
end $$;
