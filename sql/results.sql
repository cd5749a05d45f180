-- Results, for those who wait for them.
--
-- Waiting without a gap: the client inserts itself into `waiter` in one transaction and looks at
-- `outcome` in the next (or did so with the start). The worker that closes a run looks into
-- `waiter` in the closing turn and again in the turn after. Whichever commits last sees the other.

-- The run that a workflow id stands for: the open one, else the newest that is kept. HM002 if none.
create or replace function hotmesh_engine.find_run(p_namespace text, p_id text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_run bigint;
begin
  select r.run_id into v_run from hotmesh_engine.run r
    left join lateral (select * from hotmesh_engine.outcome o where o.run_id = r.run_id offset 0) o on true
   where r.namespace_id = (select namespace_id from hotmesh_engine.namespace where name = p_namespace)
     and r.workflow_id = p_id and (o.run_id is null or o.expires_at > hotmesh.now())
   order by o.run_id is null desc, r.run_id desc limit 1;
  if not found then
    raise exception using errcode = 'HM002',
      message = format('no workflow %s in namespace %s', quote_literal(left(p_id, 200)), quote_literal(left(p_namespace, 200))),
      hint = 'Check the id and the namespace; a closed run is kept for its retention.';
  end if;
  return v_run;
end $$;

-- Outcomes of those of the runs that have closed; if some have not, the client waits for them from now on, and what
-- closes meanwhile is looked for after that has been committed. Not flushed: what a crash takes from it the client's
-- next poll replaces, and the flush of the turn that closes the run would have to wait for this one.
create or replace procedure hotmesh_engine.await(
  p_runs bigint[], p_client bigint, inout r_run bigint[], inout r_status smallint[], inout r_payload text[]
)
language plpgsql as $$
begin
  select array_agg(o.run_id), array_agg(o.status), array_agg(o.payload::text) into r_run, r_status, r_payload
    from hotmesh_engine.outcome o where o.run_id = any (p_runs);
  if cardinality(r_run) = cardinality(p_runs) then
    return;
  end if;
  set local synchronous_commit = off;
  insert into hotmesh_engine.waiter (run_id, client) select r, p_client from pg_catalog.unnest(p_runs) r on conflict do nothing;
  commit;
  select array_agg(o.run_id), array_agg(o.status), array_agg(o.payload) into r_run, r_status, r_payload
    from hotmesh_engine.outcomes(p_runs, p_client) o;
end $$;

-- Outcomes of those of the runs that have closed; the client waits for these no longer.
create or replace function hotmesh_engine.outcomes(p_runs bigint[], p_client bigint)
returns table (run_id bigint, status smallint, payload text)
language sql volatile set search_path = pg_catalog, pg_temp as $$
  with o as materialized (
    select o.run_id, o.status, o.payload::text from hotmesh_engine.outcome o where o.run_id = any (p_runs)
  ), w as (
    delete from hotmesh_engine.waiter where run_id = any (array(select run_id from o)) and client = p_client
  )
  select * from o
$$;

-- The result of a closed workflow; null while it is open; an error with the failure if it failed.
create or replace function hotmesh.result(workflow_id text, namespace text default 'default') returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_run bigint := hotmesh_engine.find_run(namespace, workflow_id);
  v_out record;
begin
  select status, payload into v_out from hotmesh_engine.outcome o where o.run_id = v_run;
  if not found then return null; end if;
  if v_out.status <> 1 then
    raise exception using errcode = 'HM020',
      message = format('workflow %s: %s', quote_literal(left(workflow_id, 200)), hotmesh_engine.status_name(v_out.status)),
      detail = v_out.payload::text;
  end if;
  return v_out.payload;
end $$;
comment on function hotmesh.result(text, text) is 'The result of a closed workflow, null while it is open; HM020 if it did not complete.';
