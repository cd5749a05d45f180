-- Signals and interrupts, from clients and from SQL.
--
-- A signal is an insert. On our own connection it is routed at once, in the same transaction; in a
-- caller's transaction only inserts happen (its snapshot may be old, its end far away), and the
-- workers route it after the commit.

-- Returns 1 if routing could not get at somebody's lock: the client then calls hotmesh.route().
-- An idempotency key used before: nothing happens, 0.
create or replace function hotmesh_engine.signal(
  p_namespace text, p_key text, p_payload json, p_idempotency_key text default null,
  p_caller boolean default false, p_retention interval default '7 days'
) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := hotmesh.now();
  v_ns  int := hotmesh_engine.namespace_id(p_namespace);
  v_id  bigint;
begin
  perform hotmesh_engine.check_name('signal id', p_key);
  if p_idempotency_key is not null then
    perform hotmesh_engine.check_name('idempotency key', p_idempotency_key);
    insert into hotmesh_engine.request (namespace_id, request_id, expires_at)
    values (v_ns, p_idempotency_key, v_now + p_retention) on conflict do nothing;
    if not found then return 0; end if;
  end if;
  v_id := nextval('hotmesh_engine.id');
  insert into hotmesh_engine.message (message_id, place, sent_at, expires_at, namespace_id, key, payload)
  values (v_id, v_id, v_now, v_now + p_retention, v_ns, p_key, coalesce(p_payload, 'null'));
  if p_caller then
    insert into hotmesh_engine.unrouted (id, kind) values (v_id, 1);
    perform hotmesh_engine.wake_all();
    return 1;
  end if;
  return (select least(r_stayed, 1) from hotmesh_engine.route(
    null, array[v_id], array[1::smallint], array[null::bigint], array[null::int], false, 0));
end $$;

create or replace function hotmesh.signal(signal_id text, payload json default 'null', namespace text default 'default')
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.check_payload('payload', payload);
  select hotmesh_engine.signal(namespace, signal_id, payload, p_caller => true)
$$;
comment on function hotmesh.signal(text, json, text) is
  'Sends a signal when this transaction commits; kept for 7 days until somebody waits for it.';

-- The open run of a workflow id, or an error that says whether it is unknown or already closed.
create or replace function hotmesh_engine.open_run(p_namespace text, p_id text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_run    bigint;
  v_status smallint;
begin
  select o.run_id into v_run from hotmesh_engine.open_id o
    join hotmesh_engine.namespace n using (namespace_id)
   where n.name = p_namespace and o.workflow_id = p_id;
  if found then return v_run; end if;
  select c.status into v_status from hotmesh_engine.run r
    join hotmesh_engine.namespace n using (namespace_id)
    join hotmesh_engine.outcome c on c.run_id = r.run_id
   where n.name = p_namespace and r.workflow_id = p_id order by r.run_id desc limit 1;
  raise exception using errcode = 'HM002',
    message = case when found
      then format('workflow %s is not open any more: %s', quote_literal(left(p_id, 200)), hotmesh_engine.status_name(v_status))
      else format('no workflow %s in namespace %s', quote_literal(left(p_id, 200)), quote_literal(left(p_namespace, 200))) end,
    hint = 'Check the id and the namespace; a closed run is kept for its retention.';
end $$;

-- Ends a run at once, whatever its code is doing. Routing carries it out under the run's lock.
create or replace function hotmesh_engine.interrupt_run(p_run bigint, p_reason text) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id bigint := nextval('hotmesh_engine.id');
begin
  insert into hotmesh_engine.inbox (inbox_id, run_id, kind, payload)
  values (v_id, p_run, 101, json_build_object('type', 'WorkflowInterrupted', 'message', coalesce(left(p_reason, 10000), 'interrupted')));
  return (select least(r_stayed, 1) from hotmesh_engine.route(
    null, array[v_id], array[3::smallint], array[p_run], array[null::int], false, 0));
end $$;

create or replace function hotmesh.interrupt(workflow_id text, reason text default 'interrupted', namespace text default 'default')
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.interrupt_run(hotmesh_engine.open_run(namespace, workflow_id), reason)
$$;
comment on function hotmesh.interrupt(text, text, text) is 'Ends an open workflow at once; HM002 if none is open.';

create or replace function hotmesh.resume(workflow_id text, namespace text default 'default') returns boolean
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.resume(hotmesh_engine.open_run(namespace, workflow_id))
$$;
comment on function hotmesh.resume(text, text) is 'Lets a quarantined or troubled workflow go on at once; false if it was neither.';
