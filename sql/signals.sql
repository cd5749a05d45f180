-- Signals, cancellations and interrupts, from clients and from SQL.
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
  v_now timestamptz;
  v_ns  int;
  v_id  bigint;
begin
  select hotmesh.now(), namespace_id into v_now, v_ns from hotmesh_engine.namespace where name = p_namespace;
  if v_ns is null then
    v_ns := hotmesh_engine.namespace_id(p_namespace);
    v_now := hotmesh.now();
  end if;
  if not coalesce(octet_length(p_key) between 1 and 1000, false) then
    perform hotmesh_engine.check_name('signal id', p_key);
  end if;
  if p_idempotency_key is not null then
    perform hotmesh_engine.check_name('idempotency key', p_idempotency_key);
    insert into hotmesh_engine.request (namespace_id, request_id, expires_at)
    values (v_ns, p_idempotency_key, v_now + p_retention) on conflict do nothing;
    if not found then return 0; end if;
  end if;
  v_id := nextval('hotmesh_engine.id');
  if not p_caller and hotmesh_engine.hand_over(v_ns, p_key, coalesce(p_payload, 'null'), v_id, v_now, v_now + p_retention) then
    return 0;
  end if;
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

-- A signal of a client's own: sent by the first transaction, flushed by the second, as start_early does it and for the
-- same reasons. Crash between the two: the client has no answer, and its key tells whether to send it again.
create or replace procedure hotmesh_engine.signal_early(
  p_namespace text, p_key text, p_payload json, p_idempotency_key text, inout r_stayed int
)
language plpgsql as $$
begin
  set local synchronous_commit = off;
  r_stayed := hotmesh_engine.signal(p_namespace, p_key, p_payload, p_idempotency_key);
  commit;
  call hotmesh_engine.flush_log();
end $$;

-- The lock of a key's slot, which somebody else has, waited for as long as a commit may take. Usually that is the turn
-- that registers the very wait that the signal is for: to leave the signal to the next turn takes longer (without
-- pauses between start and signal: 1.11 times as long until the result). Who waits here holds nothing that a turn or
-- another signal comes for but, perhaps, an idempotency key of its own. False if the lock is not to be had.
create or replace function hotmesh_engine.slot_wait(p_slot int) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '10ms' as $$
begin
  perform pg_advisory_xact_lock(1212370259, p_slot);
  return true;
exception when lock_not_available then
  return false;
end $$;

-- What routing would do for a new message of its own in the usual cases, in a quarter of its
-- statements: nobody waits for it, and it stays; or a single wait asks for it, and nothing older is
-- kept under the key. Same locks, same order, same reasons as in route.sql, but that it waits a moment for the slot;
-- false, with nothing done but a slot locked, if it is not that simple.
-- A worker that is asleep gets a small message with its notification, and need not fetch it, and with it the run, if
-- that is parked and waits for nothing else (give.sql); one that is awake looks anyway. Should it see the message twice,
-- it knows it by its id. It is not sent along if the run has another that is still to be fetched: it would overtake it, as
-- a signal a request to cancel that was made before.
create or replace function hotmesh_engine.hand_over(
  p_ns int, p_key text, p_payload json, p_id bigint, p_now timestamptz, p_expires timestamptz
) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_waits   int;
  v_run     bigint;
  v_command int;
  v_grp     int;
  v_plain   boolean;
  v_live    record;
  v_given   bigint;
begin
  if not pg_try_advisory_xact_lock(1212370259, hotmesh_engine.slot(p_ns, p_key))
     and not hotmesh_engine.slot_wait(hotmesh_engine.slot(p_ns, p_key)) then
    return false;
  end if;
  select count(*), min(w.run_id), min(w.command), min(w.grp),
         not exists (select from hotmesh_engine.message where namespace_id = p_ns and key = p_key)
         and not coalesce(bool_or(exists (select from hotmesh_engine.inbox i
                                           where i.run_id = w.run_id and i.command = w.command)), false)
    into v_waits, v_run, v_command, v_grp, v_plain
    from (select run_id, command, grp from hotmesh_engine.waiting
           where kind = 'w' and namespace_id = p_ns and key = p_key limit 2) w;
  if v_waits = 0 then
    insert into hotmesh_engine.message (message_id, place, sent_at, expires_at, namespace_id, key, payload)
    values (p_id, p_id, p_now, p_expires, p_ns, p_key, p_payload);
    return true;
  elsif v_waits > 1 or not v_plain then
    return false;
  end if;
  -- asleep: its holder; of a parked run that waits for nothing else, somebody to give it to
  select l.holder, l.queue_id, l.fence, l.lost, case when l.holder is null
           then l.due_at > p_now and l.lost < 2
                and exists (select from hotmesh_engine.sleeper s where s.asleep and s.queues @> array[l.queue_id])
                and not exists (select from hotmesh_engine.inbox i where i.run_id = v_run)
                and not exists (select from hotmesh_engine.waiting w
                                 where w.run_id = v_run and w.grp = v_grp and w.command <> v_command)
                and not exists (select from hotmesh_engine.trouble t where t.run_id = v_run)
           else exists (select from hotmesh_engine.sleeper s where s.worker_id = l.holder and s.asleep) end as asleep
    into v_live from hotmesh_engine.live l where l.run_id = v_run for update skip locked;
  if not found then
    return false;
  end if;
  if v_live.holder is null and v_live.asleep then
    v_given := hotmesh_engine.give_parked(
      v_run, v_live.queue_id, v_live.fence, v_live.lost, p_now, p_id, v_command, p_payload);
  end if;
  insert into hotmesh_engine.inbox
    (inbox_id, run_id, command, kind, place, expires_at, namespace_id, key, payload, shared, holder, handed)
  values (p_id, v_run, v_command, 5, p_id, p_expires, p_ns, p_key, p_payload, false,
          coalesce(v_live.holder, v_given), v_given is not null);
  if v_given is not null then
    return true;
  elsif v_live.holder is null then
    perform hotmesh_engine.judge(array[v_run], p_now);
  elsif v_live.asleep then
    perform pg_notify('hotmesh_' || v_live.holder, case
      when octet_length(p_payload::text) <= 4000 and not exists (
             select from hotmesh_engine.inbox i where i.run_id = v_run and not i.handed and i.inbox_id <> p_id)
      then format('%s %s %s %s', v_run, p_id, v_command, p_payload) else '' end);
  end if;
  return true;
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
  select run_id into v_run from hotmesh_engine.open_id
   where namespace_id = (select namespace_id from hotmesh_engine.namespace where name = p_namespace)
     and workflow_id = p_id;
  if found then return v_run; end if;
  select c.status into v_status from hotmesh_engine.run r
   cross join lateral (select status from hotmesh_engine.outcome c where c.run_id = r.run_id offset 0) c
   where r.namespace_id = (select namespace_id from hotmesh_engine.namespace where name = p_namespace)
     and r.workflow_id = p_id order by r.run_id + 0 desc limit 1;
  raise exception using errcode = 'HM002',
    message = case when found
      then format('workflow %s is not open any more: %s', quote_literal(left(p_id, 200)), hotmesh_engine.status_name(v_status))
      else format('no workflow %s in namespace %s', quote_literal(left(p_id, 200)), quote_literal(left(p_namespace, 200))) end,
    hint = 'Check the id and the namespace; a closed run is kept for its retention.';
end $$;

-- Tells a run to end. 'interrupt': at once, whatever its code is doing; routing carries it out under the run's lock.
-- 'cancel': its code gets a CancelledError where it waits, may clean up, and decides how it ends; it sees the first
-- such request only, so that one that is repeated does not cut the cleaning up short. A call that nobody holds has no
-- code to ask: routing closes it (carry_out_interrupts).
-- As a signal: routed at once, or in a caller's transaction left to the workers; its `live` row would else be locked
-- until that ends, and with it every turn of the worker that holds the run.
create or replace function hotmesh_engine.tell_run(p_run bigint, p_how text, p_reason text, p_caller boolean) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id     bigint := nextval('hotmesh_engine.id');
  v_reason text := coalesce(left(p_reason, 10000), p_how || 'ed');
begin
  insert into hotmesh_engine.inbox (inbox_id, run_id, kind, payload)
  values (v_id, p_run, case p_how when 'cancel' then 8 when 'interrupt' then 101 end,
          case p_how when 'cancel' then to_json(v_reason)
                     else json_build_object('type', 'WorkflowInterrupted', 'message', v_reason) end);
  if p_caller then
    insert into hotmesh_engine.unrouted (id, kind, run_id) values (v_id, 3, p_run);
    perform hotmesh_engine.wake_all();
    return 1;
  end if;
  return (select least(r_stayed, 1) from hotmesh_engine.route(
    null, array[v_id], array[3::smallint], array[p_run], array[null::int], false, 0));
end $$;

create or replace function hotmesh_engine.interrupt_run(p_run bigint, p_reason text) returns int
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.tell_run(p_run, 'interrupt', p_reason, false)
$$;

create or replace function hotmesh.interrupt(workflow_id text, reason text default 'interrupted', namespace text default 'default')
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.tell_run(hotmesh_engine.open_run(namespace, workflow_id), 'interrupt', reason, true)
$$;
comment on function hotmesh.interrupt(text, text, text) is
  'Ends an open workflow once this transaction has committed, whatever its code is doing; HM002 if none is open.';

create or replace function hotmesh.cancel(workflow_id text, reason text default 'cancelled', namespace text default 'default')
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.tell_run(hotmesh_engine.open_run(namespace, workflow_id), 'cancel', reason, true)
$$;
comment on function hotmesh.cancel(text, text, text) is
  'Asks an open workflow to clean up and end, once this transaction has committed; HM002 if none is open.';

create or replace function hotmesh.resume(workflow_id text, namespace text default 'default') returns boolean
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select hotmesh_engine.resume(hotmesh_engine.open_run(namespace, workflow_id))
$$;
comment on function hotmesh.resume(text, text) is 'Lets a quarantined or troubled workflow go on at once; false if it was neither.';
