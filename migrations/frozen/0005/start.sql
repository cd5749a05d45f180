-- Starting runs.
--
-- Order of inserts: open_id (sorted by id), then run, then live. Who inserts `open_id` owns the
-- workflow id; a concurrent twin waits on that unique key until the first commits, then judges in
-- a later statement. Nothing is inserted for a start that loses.
--
-- Locks: in a caller's transaction (p_caller) the advisory lock of each id, sorted, held until the
-- caller ends, so that an engine transaction can try it and go on elsewhere instead of waiting for
-- a stranger. The same for many that end the runs in their way. Otherwise only the unique key, for
-- the length of this call.
--
-- Crash: one transaction; there is a run with all its rows, or none.

-- The advisory class of workflow ids; the second key is a hash of namespace and id.
create or replace function hotmesh_engine.lock_ids(p_namespace_id int, p_ids text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if cardinality(p_ids) > 1000 then
    raise exception using errcode = 'HM005',
      message = 'more than 1000 starts in one call of a caller''s transaction',
      hint = 'Start them in portions, or without conn=: each id holds a lock until the transaction ends.';
  end if;
  perform pg_advisory_xact_lock(1212370261, h)   -- 'HMWU'
    from (select distinct hashtext(p_namespace_id || ':' || id) as h from unnest(p_ids) id order by h) k;
end $$;

-- Starts many runs; arrays are aligned. Returns a row for each, in order: the run, and whether
-- this call (or, with the same request id, its lost twin) started it.
--   p_on_conflict  'fail' | 'use_existing' | 'terminate_existing'   what an open run of that id means
--   p_reuse        'allow_duplicate' | 'allow_duplicate_failed_only' | 'reject_duplicate' | 'use_completed'
--                  what a closed one means; the last is for cached calls (calls.sql)
--   p_retry        the caller repeats a call whose reply was lost: look for its request ids first
--   p_client       registers this client for the results, in the same transaction
-- Errors: HM001 already started, HM003 bad argument, HM005 not in a caller's transaction.
create or replace function hotmesh_engine.start(
  p_namespace    text,
  p_type         text[],
  p_id           text[],
  p_queue        text[],
  p_input        json[],
  p_request      uuid[],
  p_delay        double precision[] default null,   -- seconds
  p_timeout      double precision[] default null,   -- seconds
  p_retention    interval[] default null,
  p_priority     smallint[] default null,
  p_memo         json[]     default null,
  p_on_conflict  text       default 'fail',
  p_reuse        text       default 'allow_duplicate',
  p_retry        boolean    default false,
  p_client       bigint     default null,
  p_caller       boolean    default false
) returns table (run_id bigint, started boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_n         int := cardinality(p_id);
  v_now       timestamptz := hotmesh.now();
  v_ns        int;
  v_queue     int;
  v_queues    int[];
  v_run       bigint;
  v_worker    bigint;
  v_runs      bigint[];
  v_won       bigint[];
  v_final     bigint[];
  v_started   boolean[];
  v_row       record;
  v_old       bigint;
  v_tries     int := 0;
  v_count     int;
  v_all       boolean := false;
begin
  select n.namespace_id, q.queue_id into v_ns, v_queue
    from hotmesh_engine.namespace n left join hotmesh_engine.queue q on q.namespace_id = n.namespace_id and q.name = p_queue[1]
   where n.name = p_namespace;
  if v_ns is null then
    v_ns := hotmesh_engine.namespace_id(p_namespace);
  end if;
  if p_on_conflict not in ('fail', 'use_existing', 'terminate_existing')
     or p_reuse not in ('allow_duplicate', 'allow_duplicate_failed_only', 'reject_duplicate', 'use_completed') then
    raise exception using errcode = 'HM003',
      message = format('unknown policy: id_conflict_policy %L, id_reuse_policy %L', p_on_conflict, p_reuse);
  end if;
  if 1 > any (p_priority) or 5 < any (p_priority) then
    raise exception using errcode = 'HM003', message = 'priority must be 1 (first) to 5 (last)';
  end if;
  -- up to 1000 years: what PostgreSQL can add to any time of today (and NaN is above everything)
  if 0 > any (p_delay || p_timeout) or 31536000000 < any (p_delay || p_timeout)
     or interval '0' > any (p_retention) or interval '1000 years' < any (p_retention) then
    raise exception using errcode = 'HM003',
      message = 'start_delay, execution_timeout and retention must be between 0 and 1000 years';
  end if;
  if p_caller then
    if p_on_conflict <> 'fail' or p_reuse <> 'allow_duplicate' then
      raise exception using errcode = 'HM005',
        message = 'a start in a caller''s transaction takes the default policies only',
        hint = 'Start without conn=, or leave id_conflict_policy and id_reuse_policy alone.';
    end if;
    perform hotmesh_engine.lock_ids(v_ns, p_id);
  elsif p_on_conflict = 'terminate_existing' and v_n > 1 then
    -- Two that end each other's runs would hold what the other comes for, in whatever order they met it.
    perform hotmesh_engine.lock_ids(v_ns, p_id);
  end if;
  if v_n > 1 or not coalesce(octet_length(p_id[1]) between 1 and 1000 and octet_length(p_type[1]) between 1 and 1000, false) then
    perform hotmesh_engine.check_name('workflow id', id)
       from unnest(p_id) id where octet_length(id) not between 1 and 1000 or id is null;
    perform hotmesh_engine.check_name('workflow type', type)
       from unnest(p_type) type where octet_length(type) not between 1 and 1000 or type is null;
  end if;

  if v_n = 1 and p_reuse = 'allow_duplicate' and not (p_caller or p_retry) then
    -- A single start, nearly always of a new id: the same inserts without what sets of them need, which
    -- takes half of the time. If the id is taken nothing has happened, and the general way judges.
    -- If a worker of the queue is asleep the run is given to it: leased with the start, and what it has
    -- to know goes with the notification (give.sql).
    v_run := nextval('hotmesh_engine.id');
    insert into hotmesh_engine.open_id (namespace_id, workflow_id, run_id) values (v_ns, p_id[1], v_run)
      on conflict do nothing;
    if found then
      v_queue := coalesce(v_queue, hotmesh_engine.queue_id(v_ns, p_queue[1]));
      insert into hotmesh_engine.run
        (run_id, namespace_id, queue_id, workflow_id, workflow_type, input, created_at, retention, request_id, memo)
      values (v_run, v_ns, v_queue, p_id[1], p_type[1], p_input[1], v_now, p_retention[1], p_request[1], p_memo[1]);
      if coalesce(p_delay[1], 0) = 0 then
        v_worker := hotmesh_engine.give(v_run, v_queue, v_now, p_type[1], p_id[1], p_input[1]);
      end if;
      insert into hotmesh_engine.live (run_id, queue_id, priority, due_at, deadline, holder)
      values (v_run, v_queue, coalesce(p_priority[1], 3::smallint),
              v_now + coalesce(p_delay[1], 0) * interval '1 second',
              v_now + (coalesce(p_delay[1], 0) + p_timeout[1]) * interval '1 second', v_worker);
      if p_client is not null then
        insert into hotmesh_engine.waiter (run_id, client) values (v_run, p_client);
      end if;
      if v_worker is null then
        perform hotmesh_engine.wake_queues(array[v_queue], 1);
      end if;
      run_id := v_run;
      started := true;
      return next;
      return;
    end if;
  end if;

  -- One look-up per distinct queue name; nearly always there is one.
  if p_queue[1] = all (p_queue) then
    v_queues := array_fill(coalesce(v_queue, hotmesh_engine.queue_id(v_ns, p_queue[1])), array[v_n]);
  else
    with q as materialized (
      select name, hotmesh_engine.queue_id(v_ns, name) as queue_id
        from (select distinct name from unnest(p_queue) name) d)
    select array_agg(q.queue_id order by o) into v_queues
      from unnest(p_queue) with ordinality u(name, o) join q using (name);
  end if;

  -- ids in input order, so that runs are claimed in the order in which they were asked for
  select array_agg(nextval('hotmesh_engine.id')) into v_runs from generate_series(1, v_n);

  if p_retry or p_reuse <> 'allow_duplicate' then
    -- Rare. One by one: each may be its own lost twin, or forbidden by a closed run.
    for v_row in select i, p_id[i] as id, p_request[i] as request from generate_series(1, v_n) i loop
      select r.run_id into v_old from hotmesh_engine.run r
       where r.namespace_id = v_ns and r.workflow_id = v_row.id and r.request_id = v_row.request;
      if found then
        v_final[v_row.i] := v_old;
        v_started[v_row.i] := true;
      end if;
    end loop;
  end if;

  if p_reuse = 'allow_duplicate' and not p_retry then
    -- Nearly always everybody is new: without `on conflict` an id costs half (4 µs of 25 a start). If one is not,
    -- nothing has happened, and the general way judges.
    begin
      insert into hotmesh_engine.open_id (namespace_id, workflow_id, run_id)
      select v_ns, u.id, u.run from unnest(p_id, v_runs) u(id, run) order by u.id;
      v_all := true;
    exception
      when unique_violation then null;
    end;
  end if;
  while not v_all loop
    insert into hotmesh_engine.open_id (namespace_id, workflow_id, run_id)
    select v_ns, u.id, u.run
      from unnest(p_id, v_runs) with ordinality u(id, run, i)
     where v_final is null or v_final[u.i] is null
     order by u.id, u.i
    on conflict do nothing;
    get diagnostics v_count = row_count;
    exit when v_count = v_n and p_reuse = 'allow_duplicate';       -- the usual case: everybody new

    -- Judge the rest in later statements, which see what the twin committed.
    select array_agg(u.run) into v_won
      from unnest(p_id, v_runs) u(id, run) cross join lateral (
        select from hotmesh_engine.open_id o
         where o.namespace_id = v_ns and o.workflow_id = u.id and o.run_id = u.run offset 0) o;
    for v_row in
      select i, p_id[i] as id, v_runs[i] as run, p_request[i] as request, v_runs[i] = any (v_won) as won
        from generate_series(1, v_n) i where v_final is null or v_final[i] is null
    loop
      if v_row.won then
        if p_reuse <> 'allow_duplicate' then
          select r.run_id into v_old
            from hotmesh_engine.run r left join hotmesh_engine.outcome o on o.run_id = r.run_id
           where r.namespace_id = v_ns and r.workflow_id = v_row.id
             and coalesce(o.expires_at > v_now, true)
             and (p_reuse = 'reject_duplicate' or o.status = 1)
             and (p_reuse <> 'use_completed' or r.retention is distinct from hotmesh_engine.uncached_retention())
           order by r.run_id + 0 desc limit 1;
          if found and p_reuse <> 'use_completed' then
            perform hotmesh_engine.refuse_start(v_row.id, v_old, 'a closed run');
          elsif found then
            delete from hotmesh_engine.open_id
             where namespace_id = v_ns and workflow_id = v_row.id and run_id = v_row.run;
            v_final[v_row.i] := v_old;
            v_started[v_row.i] := false;
          end if;
        end if;
        continue;
      end if;
      select o.run_id into v_old from hotmesh_engine.open_id o
       where o.namespace_id = v_ns and o.workflow_id = v_row.id;
      if not found then
        continue;                                    -- it has just closed: try again
      end if;
      if v_old = any (v_runs) then                   -- twice in this very call
        if p_on_conflict = 'use_existing' then
          v_final[v_row.i] := v_old;
          v_started[v_row.i] := false;
          continue;
        end if;
        perform hotmesh_engine.refuse_start(v_row.id, v_old, 'another start of the same call');
      end if;
      if exists (select from hotmesh_engine.run r where r.run_id = v_old and r.request_id = v_row.request) then
        v_final[v_row.i] := v_old;
        v_started[v_row.i] := true;
      elsif p_on_conflict = 'use_existing' then
        v_final[v_row.i] := v_old;
        v_started[v_row.i] := false;
      elsif p_on_conflict = 'terminate_existing' then
        perform hotmesh_engine.interrupt_run(v_old, 'replaced by a new start of the same id');
      else
        perform hotmesh_engine.refuse_start(v_row.id, v_old, 'an open run');
      end if;
    end loop;

    -- whatever is neither ours nor decided goes round again, without the rows that we have won
    exit when not exists (
      select from generate_series(1, v_n) i
       where (v_final is null or v_final[i] is null) and not coalesce(v_runs[i] = any (v_won), false));
    v_tries := v_tries + 1;
    if v_tries >= 3 then
      raise exception using errcode = 'HM007',
        message = 'the workflow id is being opened and closed by others at this moment',
        hint = 'Try again.';
    end if;
    delete from hotmesh_engine.open_id
     where namespace_id = v_ns and workflow_id = any (p_id) and run_id = any (v_won);
  end loop;

  insert into hotmesh_engine.run
    (run_id, namespace_id, queue_id, workflow_id, workflow_type, input, created_at, retention, request_id, memo)
  select u.run, v_ns, u.queue, u.id, u.type, u.input, v_now, u.retention, u.request, u.memo
    from unnest(v_runs, v_queues, p_id, p_type, p_input, p_retention, p_request, p_memo) with ordinality
         u(run, queue, id, type, input, retention, request, memo, i)
   where v_final is null or v_final[u.i] is null;

  insert into hotmesh_engine.live (run_id, queue_id, priority, due_at, deadline)
  select u.run, u.queue, coalesce(u.priority, 3::smallint),
         v_now + coalesce(u.delay, 0) * interval '1 second',
         v_now + (coalesce(u.delay, 0) + u.timeout) * interval '1 second'
    from unnest(v_runs, v_queues, p_priority, p_delay, p_timeout) with ordinality
         u(run, queue, priority, delay, timeout, i)
   where v_final is null or v_final[u.i] is null;

  if p_client is not null then
    insert into hotmesh_engine.waiter (run_id, client)
    select coalesce(v_final[i], v_runs[i]), p_client from generate_series(1, v_n) i
    on conflict do nothing;
  end if;

  if p_caller then
    perform hotmesh_engine.wake_all();
  else
    perform hotmesh_engine.wake_queues(v_queues[1:100], v_n);
  end if;

  return query
    select coalesce(v_final[i], v_runs[i]), coalesce(v_started[i], true) from generate_series(1, v_n) i;
end $$;

-- One start of a client's own, in two transactions and one round trip. The first, the start, commits without waiting
-- for the disk: a worker that is asleep hears of the run by then, and wakes up and begins while the second waits for the
-- flush of both (measured after a pause: 0.7 to 1.3 ms, of the 5 from start to result). When the client hears of it, the start
-- is durable as ever. Crash between the two: the client has no answer and repeats the call; p_request finds the run, or
-- nothing has happened. All that a worker could record of it has a later place in the log: whatever of that has
-- survived, the start has. What an activity has done outside by then is done again, as after any crash.
-- A procedure that commits can have no settings of its own: all names are qualified.
create or replace procedure hotmesh_engine.start_early(
  p_namespace text, p_type text[], p_id text[], p_queue text[], p_input json[], p_request uuid[],
  p_delay double precision[], p_timeout double precision[], p_retention interval[], p_priority smallint[], p_memo json[],
  p_on_conflict text, p_reuse text, p_retry boolean, p_client bigint, inout r_run bigint, inout r_started boolean
)
language plpgsql as $$
begin
  set local synchronous_commit = off;
  select s.run_id, s.started into r_run, r_started from hotmesh_engine.start(
    p_namespace, p_type, p_id, p_queue, p_input, p_request, p_delay, p_timeout, p_retention, p_priority, p_memo,
    p_on_conflict, p_reuse, p_retry, p_client) s;
  commit;
  call hotmesh_engine.flush_log();
end $$;

-- Has this transaction's commit wait for the disk, and for standbys that are to be waited for: a commit that has written
-- nothing would not. Whatever was committed before is durable then.
create or replace procedure hotmesh_engine.flush_log()
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_logical_emit_message(true, 'hotmesh', '');
end $$;

create or replace function hotmesh_engine.refuse_start(p_id text, p_run bigint, p_why text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'HM001',
    message = format('workflow id %s is taken by %s', quote_literal(left(p_id, 200)), p_why),
    detail = p_run::text,
    hint = 'Choose another workflow_id, or set id_conflict_policy or id_reuse_policy.';
end $$;

-- The same for people and triggers: joins the caller's transaction, so the workflow starts if and
-- only if that transaction commits. Options (json): namespace, priority, start_delay and
-- execution_timeout (seconds), retention (an interval), memo. Returns the workflow id.
create or replace function hotmesh.start_workflow(
  workflow_type  text,
  args           json default '[]',
  workflow_id    text default null,
  task_queue     text default 'default',
  options        json default '{}'
) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_id         text := coalesce(workflow_id, hotmesh_engine.guid());
  v_odd        text;
  v_delay      double precision;
  v_timeout    double precision;
  v_retention  interval;
  v_priority   smallint;
begin
  if json_typeof(args) is distinct from 'array' then
    raise exception using errcode = 'HM003',
      message = format('args must be a JSON array of the arguments, this is %s', coalesce(json_typeof(args), 'null'));
  end if;
  perform hotmesh_engine.check_payload('args', args);
  perform hotmesh_engine.check_payload('options', options);
  if json_typeof(options) <> 'object' then
    raise exception using errcode = 'HM003', message = format('options must be a JSON object, this is %s', json_typeof(options));
  end if;
  select k into v_odd from json_object_keys(options) k
   where k not in ('namespace', 'priority', 'start_delay', 'execution_timeout', 'retention', 'memo') limit 1;
  if found then
    raise exception using errcode = 'HM003', message = format('unknown option %L', v_odd),
      hint = 'Known: namespace, priority, start_delay, execution_timeout, retention, memo.';
  end if;
  begin
    v_delay := (options ->> 'start_delay')::double precision;
    v_timeout := (options ->> 'execution_timeout')::double precision;
    v_retention := (options ->> 'retention')::interval;
    v_priority := (options ->> 'priority')::smallint;
  exception when data_exception then
    raise exception using errcode = 'HM003', message = format('an option is not what it should be: %s', sqlerrm),
      hint = 'start_delay, execution_timeout: seconds; retention: an interval such as ''7 days''; priority: 1 to 5.';
  end;
  perform hotmesh_engine.start(
    coalesce(options ->> 'namespace', 'default'),
    array[workflow_type], array[v_id], array[task_queue], array[args], array[gen_random_uuid()],
    array[v_delay], array[v_timeout], array[v_retention], array[v_priority], array[options -> 'memo'],
    p_caller => true);
  return v_id;
end $$;

-- A time-ordered UUID (version 7, RFC 9562): neighbours in time are neighbours in the index.
create or replace function hotmesh_engine.guid() returns text
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select encode(
    set_byte(set_byte(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
      6, (get_byte(r, 0) & 15) | 112), 8, (get_byte(r, 1) & 63) | 128), 'hex')::uuid::text
    from (select uuid_send(gen_random_uuid()) as r) x
$$;
