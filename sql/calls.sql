-- Calls: runs that are one function, served by whoever has connected to the topic.
--
-- A call is the cheapest run there is: no workflow code, no journal unless something fails. Its queue
-- is `call:<topic>`, its type the topic, its id `call:<topic>:<id>`. One claim, and one turn that
-- closes it. A failed attempt that is tried again is a journal row, so the number of rows is the
-- number of attempts that have ended; the run is parked until the next.
--
-- A *cached* call is a closed run of that id whose retention is the ttl. Of many callers of a cold
-- key one inserts `open_id`; the others wait for that insert, find the open run and join it. One that
-- comes between the close and its own look finds the completed run (start: 'use_completed'). A call
-- that failed is kept for those who wait for it, and is never found as cached. The retention says what
-- a call with an id is:
--
--   the ttl                  its value is cached, once it has completed
--   uncached_retention()     it was asked for by id alone: kept for callers that lost their connection
--   negative                 it was flushed while it ran: who joined it before that gets its value
--
-- Who comes with a ttl after a flush must not get what may have been read before it, and still one call of
-- an id runs at a time: such a caller waits for the end of the flushed one and calls again.
--
-- Locks: those of a start. flush waits for the `live` row of the open run, with nothing else locked:
-- a turn that is closing the run has then ended, or will see that the result is not to be cached.

create or replace function hotmesh_engine.call_id(p_topic text, p_id text) returns text
language sql immutable parallel safe as $$
  select 'call:' || replace(replace(p_topic, '%', '%25'), ':', '%3A') || ':' || p_id
$$;

-- The newest result that is still cached under a call's id.
create or replace function hotmesh_engine.cached_call(p_namespace_id int, p_key text, out r_run bigint, out r_payload text)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := hotmesh.now();
begin
  select r.run_id, o.payload::text into r_run, r_payload
    from hotmesh_engine.run r
   cross join lateral (select * from hotmesh_engine.outcome o where o.run_id = r.run_id offset 0) o
   where r.namespace_id = p_namespace_id and r.workflow_id = p_key and o.status = 1 and o.expires_at > v_now
     and r.retention is distinct from hotmesh_engine.uncached_retention()
   order by r.run_id + 0 desc limit 1;
end $$;

-- A call with an id: the cached result if p_ttl is given and there is one; else the open run of that
-- id, or a new one, for whose result the client is registered. status and payload: of a closed run. Status -1: the
-- run was flushed before this; when it has closed, however that was, the client asks anew.
-- Lost reply: the client asks with the same p_request and p_retry, and finds the run that it has started; that one
-- is its own, whoever has flushed it since.
create or replace function hotmesh_engine.call(
  p_namespace text, p_topic text, p_id text, p_input json, p_request uuid, p_ttl interval, p_client bigint, p_retry boolean
) returns table (run_id bigint, status smallint, payload text)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_key    text := hotmesh_engine.call_id(p_topic, p_id);
  v_cached record;
  v_call   record;
  v_stale  boolean;
begin
  if p_ttl is not null then
    select * into v_cached from hotmesh_engine.cached_call(hotmesh_engine.namespace_id(p_namespace), v_key);
    if v_cached.r_run is not null then
      return query select v_cached.r_run, 1::smallint, v_cached.r_payload;
      return;
    end if;
  end if;
  loop
    select s.run_id, s.started into v_call from hotmesh_engine.start(
      p_namespace, array[p_topic], array[v_key], array['call:' || p_topic], array[p_input], array[p_request],
      p_retention => array[coalesce(p_ttl, hotmesh_engine.uncached_retention())],
      p_on_conflict => 'use_existing', p_reuse => case when p_ttl is null then 'allow_duplicate' else 'use_completed' end,
      p_retry => p_retry, p_client => p_client) s;
    exit when v_call.started or p_ttl is null;
    select r.retention < '0' into v_stale from hotmesh_engine.run r where r.run_id = v_call.run_id;
    exit when v_stale is not true;
    if exists (select from hotmesh_engine.live l where l.run_id = v_call.run_id) then
      return query select v_call.run_id, -1::smallint, null::text;
      return;
    end if;                                          -- it has just closed: the id is free
  end loop;
  return query
    select v_call.run_id, o.status, o.payload::text
      from (values (v_call.run_id)) r(run_id) left join hotmesh_engine.outcome o using (run_id);
end $$;

-- How long the outcome of a call without an id is kept: for callers that lost their connection.
create or replace function hotmesh_engine.call_retention() returns interval
language sql immutable parallel safe as $$
  select interval '1 hour'
$$;

-- The same for a call with an id and no ttl. The microsecond tells it from a ttl of an hour: it is not cached.
create or replace function hotmesh_engine.uncached_retention() returns interval
language sql immutable parallel safe as $$
  select hotmesh_engine.call_retention() + interval '1 microsecond'
$$;

-- The next caller runs it again. Whoever waits for the open run of that id still gets its result, which
-- is not cached. True if something was cached or running.
create or replace function hotmesh_engine.flush_call(p_namespace text, p_topic text, p_id text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_key  text := hotmesh_engine.call_id(p_topic, p_id);
  v_ns   int := hotmesh_engine.namespace_id(p_namespace);
  v_now  timestamptz := hotmesh.now();
  v_run  bigint;
  v_open boolean := false;
begin
  select run_id into v_run from hotmesh_engine.open_id where namespace_id = v_ns and workflow_id = v_key;
  if found then
    perform from hotmesh_engine.live where run_id = v_run for update;
    if found then
      update hotmesh_engine.run set retention = '-1 microsecond' where run_id = v_run;
      v_open := true;
    end if;
  end if;
  update hotmesh_engine.outcome set expires_at = v_now
   where run_id = any (array(select run_id from hotmesh_engine.run where namespace_id = v_ns and workflow_id = v_key))
     and expires_at > v_now;
  return v_open or found;
end $$;

-- The same for people and triggers: joins the caller's transaction. With an id nothing is started while
-- a call of that id is open or, with a ttl, cached. Returns the workflow id, for hotmesh.result.
create or replace function hotmesh.call(
  topic      text,
  args       json     default '[]',
  id         text     default null,
  ttl        interval default null,
  namespace  text     default 'default'
) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_key text := hotmesh_engine.call_id(topic, coalesce(id, hotmesh_engine.guid()));
  v_ns  int;
begin
  perform hotmesh_engine.check_name('topic', topic);
  perform hotmesh_engine.check_payload('args', args);
  if json_typeof(args) is distinct from 'array' then
    raise exception using errcode = 'HM003',
      message = format('args must be a JSON array of the arguments, this is %s', coalesce(json_typeof(args), 'null'));
  end if;
  if ttl is not null and id is null then
    raise exception using errcode = 'HM003', message = 'a ttl needs an id: it is what the result is cached under';
  end if;
  if ttl < '0' then
    raise exception using errcode = 'HM026', message = format('a ttl cannot be negative: %s', ttl),
      hint = format('Did you mean %s?', quote_literal(-ttl));
  end if;
  if ttl > interval '1000 years' then                  -- 'infinity', where intervals know it
    ttl := interval '1000 years';
  end if;
  if id is not null then
    v_ns := hotmesh_engine.namespace_id(namespace);
    if exists (select from hotmesh_engine.open_id o where o.namespace_id = v_ns and o.workflow_id = v_key)
       or ttl is not null and (select r_run is not null from hotmesh_engine.cached_call(v_ns, v_key)) then
      return v_key;
    end if;
  end if;
  begin
    perform hotmesh_engine.start(
      namespace, array[topic], array[v_key], array['call:' || topic], array[args], array[gen_random_uuid()],
      p_retention => array[coalesce(ttl, hotmesh_engine.uncached_retention())], p_caller => true);
  exception when sqlstate 'HM001' then
    null;                                            -- somebody else has just started it
  end;
  return v_key;
end $$;
comment on function hotmesh.call(text, json, text, interval, text) is
  'Calls a topic when this transaction commits; with an id once, and with a ttl cached. hotmesh.result(what it returns) is the answer.';
