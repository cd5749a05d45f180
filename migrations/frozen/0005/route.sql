-- Routing: the one place where a message meets its receiver.
--
--   sender ──insert──► message (+ unrouted) ──by key──► inbox, a row for each wait ──by run──►
--                                    │                                      parked run: due now
--                                    └── nobody waits: stays, in order      leased run: tagged
--
-- Senders only insert; they never look for a receiver, so a stale snapshot cannot miss one and a
-- caller's open transaction stops nobody. Waits are routed like messages.
--
-- Locks. Never waits for any of them:
--   by key   transaction-level advisory TRY lock of the key's slot (4,096 slots), tried once.
--            Whoever holds it judges the key: the oldest message by `place` goes to every wait
--            that has none yet; nobody waiting: it stays. First in, first out, since the oldest is
--            always taken first, whatever message the router came for.
--   by run   the run's `live` row, SKIP LOCKED. Completeness of a collation group is judged only
--            under this lock, so two last results cannot each miss the other.
-- The lock is taken in one statement and the reading done in a later one: READ COMMITTED then sees
-- all that the lock's former owner committed.
--
-- What could not be locked stays in `unrouted` and is tried again. A crash undoes the whole call.
-- No payload is parsed here.

-- Of immutable functions only, or it would not be inlined.
create or replace function hotmesh_engine.slot(p_namespace_id int, p_key text) returns int
language sql immutable parallel safe as $$
  select (hashint4(p_namespace_id) # hashtext(p_key)) & 4095
$$;

-- One pass.
--   p_item_*   new messages (kind 1), waits (2) and inbox rows (3) of this transaction, not yet in
--              `unrouted`; what stays of them is put there
--   p_foreign  also take up to 500 rows of `unrouted`, from p_after on
--   p_worker   what is routed to runs of this worker counts as handed out: ids in r_handed
-- Returns how many stayed, whether there may be more, and the last foreign id seen.
create or replace function hotmesh_engine.route(
  p_worker        bigint,
  p_item_id       bigint[],
  p_item_kind     smallint[],
  p_item_run      bigint[],
  p_item_command  int[],
  p_foreign       boolean,
  p_after         bigint,
  out r_handed    bigint[],
  out r_stayed    int,
  out r_last      bigint,
  out r_more      boolean
)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now       timestamptz;
  v_id        bigint[] := p_item_id;
  v_kind      smallint[] := p_item_kind;
  v_run       bigint[] := p_item_run;
  v_command   int[] := p_item_command;
  v_own       int := coalesce(cardinality(p_item_id), 0);
  v_foreign   bigint[];
  v_f_kind    smallint[];
  v_f_run     bigint[];
  v_f_command int[];
  v_ns        int[];
  v_key       text[];
  v_slots     int[];
  v_new       bigint[];
  v_new_run   bigint[];
  v_runs      bigint[];
  v_locked    bigint[];
  v_busy      bigint[];
  v_stay      bigint[];
begin
  r_stayed := 0; r_more := false; r_last := p_after;
  if p_foreign then
    select array_agg(id), array_agg(kind), array_agg(run_id), array_agg(command)
      into v_foreign, v_f_kind, v_f_run, v_f_command
      from (select id, kind, run_id, command from hotmesh_engine.unrouted
             where id > p_after and id <> all (coalesce(p_item_id, '{}'))
             order by id limit 500 for update skip locked) u;
    if v_foreign is not null then
      v_id := v_id || v_foreign; v_kind := v_kind || v_f_kind;
      v_run := v_run || v_f_run; v_command := v_command || v_f_command;
      r_last := v_foreign[cardinality(v_foreign)];
      r_more := cardinality(v_foreign) = 500;
    end if;
  end if;
  if coalesce(cardinality(v_id), 0) = 0 then
    return;
  end if;
  v_now := hotmesh.now();

  -- by key ------------------------------------------------------------------------------------
  if 1 = any (v_kind) or 2 = any (v_kind) then
    -- Keys are looked up from the rows themselves; a row that is gone needs no routing any more.
    select array_agg(namespace_id), array_agg(key) into v_ns, v_key from (
      select distinct namespace_id, key from (
        select m.namespace_id, m.key from unnest(v_id, v_kind) u(id, kind) cross join lateral (
          select namespace_id, key from hotmesh_engine.message where message_id = u.id offset 0) m where u.kind = 1
        union all
        select w.namespace_id, w.key from unnest(v_run, v_command, v_kind) u(run, command, kind) cross join lateral (
          select namespace_id, key from hotmesh_engine.waiting
           where run_id = u.run and command = u.command offset 0) w where u.kind = 2
      ) k) d;

    select array_agg(slot) into v_slots from (
      select distinct hotmesh_engine.slot(ns, key) as slot from unnest(v_ns, v_key) k(ns, key) limit 256) s
     where pg_try_advisory_xact_lock(1212370259, slot);       -- 'HMWS'

    if v_slots is not null then
      with k as materialized (
        select ns, key from unnest(v_ns, v_key) k(ns, key)
         where hotmesh_engine.slot(ns, key) = any (v_slots)
      ), s as materialized (
        select m.* from k cross join lateral (
          select * from hotmesh_engine.message m
           where m.namespace_id = k.ns and m.key = k.key and m.expires_at > v_now
           order by m.place limit 1) m
      ), w as materialized (
        select s.message_id, s.place, s.expires_at, s.namespace_id, s.key, s.payload, w.run_id, w.command,
               count(*) over (partition by s.message_id) > 1 as shared
          from s cross join lateral (
            select run_id, command from hotmesh_engine.waiting w
             where w.kind = 'w' and w.namespace_id = s.namespace_id and w.key = s.key offset 0) w
         where not exists (select from hotmesh_engine.inbox i
                            where i.run_id = w.run_id and i.command = w.command offset 0)
      ), gone as (
        delete from hotmesh_engine.message where message_id = any (array(select message_id from w))
      ), ins as (
        insert into hotmesh_engine.inbox
          (inbox_id, run_id, command, kind, place, expires_at, namespace_id, key, payload, shared)
        select nextval('hotmesh_engine.id'), run_id, command, 5, place, expires_at, namespace_id, key, payload, shared
          from w
        returning inbox_id, run_id
      )
      select array_agg(inbox_id), array_agg(run_id) into v_new, v_new_run from ins;
    end if;

    -- what asked for a key whose slot somebody else holds stays
    select array_agg(u.id) into v_stay
      from unnest(v_id, v_kind, v_run, v_command) u(id, kind, run, command)
     cross join lateral (
       select namespace_id, key from hotmesh_engine.message where u.kind = 1 and message_id = u.id
       union all
       select namespace_id, key from hotmesh_engine.waiting
        where u.kind = 2 and run_id = u.run and command = u.command offset 0) k
     where u.kind in (1, 2)
       and not coalesce(hotmesh_engine.slot(k.namespace_id, k.key) = any (v_slots), false);
  end if;

  -- by run ------------------------------------------------------------------------------------
  select array_agg(distinct run) into v_runs
    from (select unnest(v_new_run) as run
          union all select run from unnest(v_run, v_kind) u(run, kind) where kind = 3) r;
  if v_runs is not null then
    select array_agg(run_id) into v_locked
      from (select run_id from hotmesh_engine.live where run_id = any (v_runs) for update skip locked) l;
    select array_agg(run_id) into v_busy from hotmesh_engine.live
     where run_id = any (v_runs) and run_id <> all (coalesce(v_locked, '{}'));

    -- neither locked nor busy: closed
    perform hotmesh_engine.put_back((
      select array_agg(inbox_id) from hotmesh_engine.inbox
       where run_id = any (v_runs) and kind <> 100
         and run_id <> all (coalesce(v_locked, '{}')) and run_id <> all (coalesce(v_busy, '{}'))));

    if v_locked is not null then
      perform hotmesh_engine.carry_out_interrupts(v_locked, v_now);
      with tagged as (
        update hotmesh_engine.inbox i set holder = l.holder, handed = l.holder is not distinct from p_worker
          from hotmesh_engine.live l
         where i.run_id = any (v_locked) and l.run_id = any (v_locked) and l.run_id = i.run_id and l.holder is not null
           and i.holder is distinct from l.holder and i.kind <> 101
        returning i.inbox_id, i.holder)
      select array_agg(inbox_id) filter (where holder = p_worker) into r_handed from tagged;
      perform hotmesh_engine.wake_workers((
        select array_agg(distinct holder) from hotmesh_engine.live
         where run_id = any (v_locked) and holder is distinct from p_worker));
      perform hotmesh_engine.judge(v_locked, v_now);
    end if;

    -- what belongs to a run that somebody else has locked stays
    if v_busy is not null then
      v_stay := v_stay || array(select u.id from unnest(v_id, v_kind, v_run) u(id, kind, run)
                                 where u.kind = 3 and u.run = any (v_busy));
      insert into hotmesh_engine.unrouted (id, kind, run_id)
      select u.id, 3, u.run from unnest(v_new, v_new_run) u(id, run) where u.run = any (v_busy);
      r_stayed := r_stayed + cardinality(v_busy);
    end if;
  end if;

  -- book-keeping ------------------------------------------------------------------------------
  r_stayed := r_stayed + coalesce(cardinality(v_stay), 0);
  if v_foreign is not null then
    delete from hotmesh_engine.unrouted
     where id = any (v_foreign) and id <> all (coalesce(v_stay, '{}'));
  end if;
  if v_own > 0 and v_stay is not null then
    insert into hotmesh_engine.unrouted (id, kind, run_id, command)
    select u.id, u.kind, u.run, u.command
      from unnest(p_item_id, p_item_kind, p_item_run, p_item_command) u(id, kind, run, command)
     where u.id = any (v_stay)
    on conflict do nothing;
  end if;
end $$;

-- Makes parked runs due whose collation group is complete: every wait of the group has its inbox
-- row or, in a group that fails early, one of them is a failure. A row that no wait asks for wakes
-- too (harmless; a missed wake-up would not be). Precondition: the runs' `live` rows are locked.
create or replace function hotmesh_engine.judge(p_runs bigint[], p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_queues int[];
begin
  with due as (
    update hotmesh_engine.live l set due_at = p_now
     where l.run_id = any (p_runs) and l.holder is null and l.due_at > p_now
       and not exists (select from hotmesh_engine.trouble t where t.run_id = l.run_id offset 0)
       and exists (
         select from hotmesh_engine.inbox i
           left join lateral (
             select grp from hotmesh_engine.waiting where run_id = i.run_id and command = i.command offset 0) w on true
          where i.run_id = l.run_id
            and (w.grp is null
                 or (i.kind = 3 and w.grp > 0)
                 or not exists (
                   select from hotmesh_engine.waiting w2
                    where w2.run_id = i.run_id and w2.grp = w.grp
                      and not exists (select from hotmesh_engine.inbox j
                                       where j.run_id = w2.run_id and j.command = w2.command offset 0) offset 0)) offset 0)
    returning l.queue_id)
  select array_agg(queue_id) into v_queues from due;
  if v_queues is not null then
    perform hotmesh_engine.wake_queues(v_queues, cardinality(v_queues));
  end if;
end $$;

-- Inbox rows of kind 101 close their run at once, whoever holds it. So does a request to cancel (8), if the run is a
-- call that nobody holds: there is no code to ask, and maybe nobody will ever serve its topic. One that is held ends
-- as its function does; if its worker has died or left instead, sweep and retire have the request routed once more
-- (one that a worker parks, it leases again, and closes).
-- No other than this takes such a row (101): it may come to be seen by a statement that hands messages out, after this
-- has looked, and a worker would use it up as an event that nobody asked for. It is routed then, as it has stayed.
-- Precondition: the runs are locked, so nobody leases or leaves one meanwhile. A zombie's report of a call that was
-- closed here is rejected, as its run is gone.
-- Flushed, also in a turn that is not for its own sake: who awaits such a run is told how it ended.
create or replace function hotmesh_engine.carry_out_interrupts(p_runs bigint[], p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_runs     bigint[];
  v_status   smallint[];
  v_payload  json[];
  v_holders  bigint[];
begin
  select array_agg(run_id), array_agg(case kind when 101 then 4 else 3 end),
         array_agg(case kind when 101 then payload else json_build_object('type', 'WorkflowCancelled', 'message', payload) end),
         array_agg(holder)
    into v_runs, v_status, v_payload, v_holders
    from (select distinct on (i.run_id) i.run_id, i.kind, i.payload, l.holder
            from hotmesh_engine.inbox i join hotmesh_engine.live l on l.run_id = i.run_id
           where i.run_id = any (p_runs) and l.run_id = any (p_runs)
             and (i.kind = 101 or i.kind = 8 and l.holder is null and exists (
                    select from hotmesh_engine.queue q where q.queue_id = l.queue_id and q.name like 'call:%' offset 0))
           order by i.run_id, i.kind desc, i.inbox_id) x;
  if v_runs is null then return; end if;
  if current_setting('synchronous_commit') = 'off' then
    set local synchronous_commit = on;
  end if;
  perform hotmesh_engine.close_runs(v_runs, v_status, v_payload, p_now);
  perform hotmesh_engine.drop_held(v_runs, v_holders);
end $$;

-- For people and for clients whose message stayed: routes what is pending; returns what stayed.
create or replace function hotmesh.route() returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_after bigint := 0;
  v_left  int := 0;
  v_pass  record;
begin
  for i in 1 .. 20 loop
    select * into v_pass from hotmesh_engine.route(null, '{}', '{}', '{}', '{}', true, v_after);
    v_left := v_left + v_pass.r_stayed;
    v_after := v_pass.r_last;
    exit when not v_pass.r_more;
  end loop;
  return v_left;
end $$;
comment on function hotmesh.route() is 'Delivers pending signals and messages when no worker is alive to do it; returns how many must wait.';
