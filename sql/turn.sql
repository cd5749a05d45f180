-- The turn: one transaction that carries the steps of many runs, and brings new work back.
--
--                 claim (fence + 1)                        park: due at its next timer, or never
--   live, ready ───────────────────► leased, in memory ─────────────────────────────► parked
--        ▲                             │  ▲   │                                          │
--        │ swept: lease lost (fence+1) │  └───┘ turn: journal rows, nothing else         │ message completes a
--        └─────────────────────────────┘      │ close                                    │ group, or timer due
--        ▲                                    ▼                                          │
--        └──────────────────────── outcome (closed) ◄── interrupt, deadline ── ──────────┘ ready again
--
-- In order: 1 lock and check, 2 journal, 3 carry out commands, 4 park and close, 5 route, 6 claim,
-- 7 answer. A result and the commands that follow from it are recorded together or not at all.
--
-- Locks, in this order: own `worker` row FOR KEY SHARE (waits only for adopt and sweep, which end
-- this incarnation); `live` rows of the batch, sorted (only the holder, or somebody who used SKIP
-- LOCKED, ever has them); `record` rows that its runs work on, sorted; `activity_task` rows whose result
-- is reported, sorted. All that follows is inserted, or belongs to a locked run, or is tried with SKIP
-- LOCKED. So a turn waits for another one only where their runs write the same record, and none waits
-- for a user's transaction.
-- Zombie: a worker swept or adopted is refused whole (HM004). A run whose lease moved on is
-- rejected alone: holder, fence and base_seq must all match; its other arrays are ignored.
-- Lost reply: nothing is sent again; the worker adopts (workers.sql) and learns what was recorded.
-- Crash at any statement: nothing of the turn happened.
--
-- Arrays of one prefix are aligned; a group that a turn has nothing for is left out (each argument
-- costs the client 2 µs). p_end: 0 keep the lease, -1 park until p_due, else the status
-- with which the run closes. The answer's rows are told apart by `kind`:
--   0 head: at = engine time, num = messages that stayed, command = 1 if more work is ready,
--     seq = ms until something comes due, if nothing was claimed and it is less than 1 s (-1: not looked),
--     id = last id given out (null: nothing was looked at), run = where to go on in foreign messages (0: at
--     the beginning), queue = runs that closed and nobody was told of
--   1 leased run: run, num = fence, seq = last journal seq, command = leases lost, queue,
--     at = created, key = workflow id, name = type, payload = input
--   2 its journal: run, seq, num = kind, command, at, payload, extra = commands
--   3 message: run, id, num = kind, command, payload
--   4 rejected run   5 lease gone   6 the leased run has an activity task: run, command
--   7 leased task: run, command, seq = holders lost, num = attempt, queue, at = scheduled,
--     key = workflow id, name = activity, payload = input, extra = options, details = last heartbeat

create or replace function hotmesh_engine.turn(
  p_worker           bigint,
  -- what this worker can take, and how it will wait
  p_queues           int[],           -- none: nothing that others made is fetched
  p_free_runs        int,
  p_free_activities  int,
  p_free_suspects    int,
  p_due_floor        timestamptz,
  p_after            bigint,          -- foreign messages from here on
  p_asleep           boolean,         -- null: as it was
  p_closed           bigint[],        -- closed by the turn before: look once more who waits
  -- runs
  p_run              bigint[] default '{}',
  p_fence            int[] default '{}',
  p_base             int[] default '{}',
  p_end              smallint[] default '{}',
  p_due              timestamptz[] default '{}',
  p_outcome          json[] default '{}',
  p_cleared          bigint[] default '{}',        -- suspects that have got on, or lived: see sweep
  -- journal
  j_run              bigint[] default '{}',
  j_seq              int[] default '{}',
  j_kind             smallint[] default '{}',
  j_command          int[] default '{}',
  j_at               timestamptz[] default '{}',
  j_payload          json[] default '{}',
  j_commands         json[] default '{}',
  -- inbox rows that the journal took over; rows that the code no longer wants
  p_used             bigint[] default '{}',
  p_back             bigint[] default '{}',
  -- waits: new or regrouped; ended
  w_run              bigint[] default '{}',
  w_command          int[] default '{}',
  w_kind             text[] default '{}',
  w_key              text[] default '{}',
  w_group            int[] default '{}',
  w_due              timestamptz[] default '{}',
  e_run              bigint[] default '{}',
  e_command          int[] default '{}',
  -- activity tasks: new
  t_run              bigint[] default '{}',
  t_command          int[] default '{}',
  t_queue            text[] default '{}',          -- null: the run's own
  t_activity         text[] default '{}',
  t_input            json[] default '{}',
  t_options          json[] default '{}',
  t_attempt          int[] default '{}',           -- attempts begun
  t_held             boolean[] default '{}',       -- this worker is running it
  t_due              timestamptz[] default '{}',
  t_deadline         timestamptz[] default '{}',
  t_heartbeat        double precision[] default '{}',
  t_failure          json[] default '{}',
  -- activity tasks of this worker that ended: 2 completed, 3 failed, 0 again at d_due, 9 handed back
  d_run              bigint[] default '{}',
  d_command          int[] default '{}',
  d_attempt          int[] default '{}',
  d_kind             smallint[] default '{}',
  d_payload          json[] default '{}',
  d_due              timestamptz[] default '{}',
  -- signals sent by runs
  s_run              bigint[] default '{}',
  s_key              text[] default '{}',
  s_payload          json[] default '{}',
  -- what runs ask of their records (records.sql); q_seq: the journal row that lists the command
  q_run              bigint[] default '{}',
  q_command          int[] default '{}',
  q_seq              int[] default '{}',
  q_op               text[] default '{}',
  q_args             json[] default '{}',
  -- whether to wait for the disk: not if nobody outside acts on what this turn records (runs.py, Parcel.is_internal).
  -- Should a crash of the server take it, the runs go over it again, by another worker or, after adopt, by this one
  p_flush            boolean default true
) returns setof hotmesh_engine.turn_row
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now       timestamptz;
  v_good      boolean;
  v_rejected  bigint[] := '{}';
  v_parked    bigint[];
  v_queues    int[];
  v_item_id   bigint[] := '{}';
  v_item_kind smallint[] := '{}';
  v_item_run  bigint[] := '{}';
  v_item_cmd  int[] := '{}';
  v_ids       bigint[];
  v_ids_run   bigint[];
  v_ids_cmd   int[];
  v_claimed   bigint[];
  v_stayed    int := 0;
  v_after     bigint;
  v_more      boolean;
  v_task_run  bigint[];
  v_task_cmd  int[];
  v_handed    bigint[];
  v_answers   bigint[];
  v_untold    int;
  v_due_in    int := -1;
  v_last      bigint;
begin
  -- 1. lock and check ---------------------------------------------------------------------------
  select hotmesh.now() into v_now from hotmesh_engine.worker where worker_id = p_worker and not dead for key share;
  if v_now is null then
    raise exception using errcode = 'HM004', message = 'this worker''s lease has ended',
      hint = 'Its runs are with other workers. Register anew.';
  end if;
  if not p_flush then
    set local synchronous_commit = off;
  end if;

  if cardinality(p_run) > 0 then
    -- The lock gives the newest holder and fence, also of a row that it had to wait for; and who has moved them
    -- is the only one who could have written to the journal since this statement began.
    if cardinality(p_run) = 1 then                             -- an idle system: a third of the other's cost
      select fence = p_fence[1] and holder is not distinct from p_worker
             and p_base[1] = coalesce((select j.seq from hotmesh_engine.journal j
                                        where j.run_id = p_run[1] order by j.seq desc limit 1), 0)
        into v_good from hotmesh_engine.live where run_id = p_run[1] for update;
      v_rejected := case when v_good then '{}' else p_run end;
    else
      with l as materialized (
        select run_id, fence, holder from hotmesh_engine.live where run_id = any (p_run) order by run_id for update)
      select coalesce(array_agg(u.run), '{}') into v_rejected
        from unnest(p_run, p_fence, p_base) u(run, fence, base) left join l on l.run_id = u.run
       where l.fence is distinct from u.fence or l.holder is distinct from p_worker
          or u.base <> coalesce((select j.seq from hotmesh_engine.journal j
                                  where j.run_id = u.run order by j.seq desc limit 1), 0);
    end if;
    if cardinality(v_rejected) > 0 then
      return query select 4::smallint, r, null::bigint, null::int, null::int, null::int, null::int,
        null::double precision, null::text, null::text, null::text, null::text, null::text
        from unnest(v_rejected) r;
    end if;

    -- 2. journal --------------------------------------------------------------------------------
    if cardinality(j_run) > 0 then
      insert into hotmesh_engine.journal (run_id, seq, kind, command, at, payload, commands)
      select run, seq, kind, command, at, payload, commands
        from unnest(j_run, j_seq, j_kind, j_command, j_at, j_payload, j_commands)
             u(run, seq, kind, command, at, payload, commands)
       where run <> all (v_rejected);
    end if;
    if cardinality(p_used) > 0 then
      delete from hotmesh_engine.inbox where inbox_id = any (p_used) and run_id <> all (v_rejected);
    end if;
    if cardinality(p_cleared) > 0 then
      update hotmesh_engine.live set lost = 0, strikes = 0
       where run_id = any (p_cleared) and run_id <> all (v_rejected);
      delete from hotmesh_engine.trouble
       where run_id = any (p_cleared) and run_id <> all (v_rejected) and not quarantined;   -- an activity of it may be
    end if;

    -- 3. commands -------------------------------------------------------------------------------
    if cardinality(e_run) > 0 then
      delete from hotmesh_engine.waiting where ctid = any (array(
        select w.ctid from unnest(e_run, e_command) e(run, command) cross join lateral (
          select ctid from hotmesh_engine.waiting w where w.run_id = e.run and w.command = e.command offset 0) w
         where e.run <> all (v_rejected)));
      perform hotmesh_engine.put_back((
        select array_agg(i.inbox_id) from unnest(e_run, e_command) e(run, command) cross join lateral (
          select inbox_id from hotmesh_engine.inbox i
           where i.run_id = e.run and i.command = e.command and i.kind = 5 offset 0) i
         where e.run <> all (v_rejected)));
    end if;
    if cardinality(p_back) > 0 then
      perform hotmesh_engine.put_back((
        select array_agg(inbox_id) from hotmesh_engine.inbox
         where inbox_id = any (p_back) and run_id <> all (v_rejected)));
    end if;
    if cardinality(w_run) > 0 then
      with ins as (
        insert into hotmesh_engine.waiting (run_id, command, kind, key, grp, due_at, namespace_id)
        select w.run, w.command, w.kind::"char", w.key, w.grp, w.due, r.namespace_id
          from unnest(w_run, w_command, w_kind, w_key, w_group, w_due) w(run, command, kind, key, grp, due)
         cross join lateral (select namespace_id from hotmesh_engine.run where run_id = w.run offset 0) r
         where w.run <> all (v_rejected)
        on conflict (run_id, command) do update set grp = excluded.grp
        returning run_id, command, kind, xmax = 0 as new)
      select array_agg(nextval('hotmesh_engine.id')), array_agg(run_id), array_agg(command)
        into v_ids, v_ids_run, v_ids_cmd from ins where kind = 'w' and new;
      if v_ids is not null then
        v_item_id := v_ids; v_item_run := v_ids_run; v_item_cmd := v_ids_cmd;
        v_item_kind := array_fill(2::smallint, array[cardinality(v_ids)]);
      end if;
    end if;
    if cardinality(s_run) > 0 then
      with ins as (
        insert into hotmesh_engine.message (message_id, place, sent_at, expires_at, namespace_id, key, payload)
        select id, id, v_now, v_now + interval '7 days', namespace_id, key, payload
          from (select nextval('hotmesh_engine.id') as id, r.namespace_id, s.key, s.payload
                  from unnest(s_run, s_key, s_payload) with ordinality s(run, key, payload, o)
                 cross join lateral (select namespace_id from hotmesh_engine.run where run_id = s.run offset 0) r
                 where s.run <> all (v_rejected) order by s.o) m
        returning message_id)
      select array_agg(message_id) into v_ids from ins;
      if v_ids is not null then
        v_item_id := v_item_id || v_ids;
        v_item_kind := v_item_kind || array_fill(1::smallint, array[cardinality(v_ids)]);
        v_item_run := v_item_run || array_fill(null::bigint, array[cardinality(v_ids)]);
        v_item_cmd := v_item_cmd || array_fill(null::int, array[cardinality(v_ids)]);
      end if;
    end if;
    if cardinality(t_run) > 0 then
      perform hotmesh_engine.add_tasks(p_worker, v_now, v_rejected, t_run, t_command, t_queue, t_activity,
        t_input, t_options, t_attempt, t_held, t_due, t_deadline, t_heartbeat, t_failure);
    end if;

    if cardinality(q_run) > 0 then
      v_answers := hotmesh_engine.change_records(p_worker, v_now, v_rejected, q_run, q_command, q_seq, q_op, q_args);
    end if;

    -- 4. park and close -------------------------------------------------------------------------
    if -1 = any (p_end) then
      select array_agg(run) into v_parked from unnest(p_run, p_end) u(run, how)
       where how = -1 and run <> all (v_rejected);
    end if;
    if v_parked is not null then
      -- What parks has gone well, so its trouble is over: judge would let no message wake it. Not a quarantine.
      delete from hotmesh_engine.trouble where run_id = any (v_parked) and not quarantined;
      with p as (
        update hotmesh_engine.live
           set holder = null, due_at = p_due[array_position(p_run, run_id)], lost = 0, strikes = 0
         where run_id = any (v_parked)
        returning queue_id, due_at)
      select array_agg(queue_id) into v_queues from p where due_at <= v_now;
      if v_queues is not null then              -- handed over: somebody else may have time for them
        perform hotmesh_engine.wake_queues(v_queues, cardinality(v_queues));
      end if;
      update hotmesh_engine.inbox set holder = null, handed = false
       where run_id = any (v_parked) and holder is not null;
    end if;
    if 0 < any (p_end) then
      if cardinality(v_rejected) = 0 and 0 < all (p_end) then
        v_untold := hotmesh_engine.close_runs(p_run, p_end, p_outcome, v_now);
      else
        select hotmesh_engine.close_runs(array_agg(run), array_agg(how), array_agg(outcome), v_now) into v_untold
          from unnest(p_run, p_end, p_outcome) u(run, how, outcome)
         where how > 0 and run <> all (v_rejected) having count(*) > 0;
      end if;
    end if;
  end if;

  if cardinality(d_run) > 0 then
    select r_id, r_run into v_ids, v_ids_run
      from hotmesh_engine.end_tasks(p_worker, v_now, d_run, d_command, d_attempt, d_kind, d_payload, d_due);
    if v_ids is not null then
      v_item_id := v_item_id || v_ids;
      v_item_run := v_item_run || v_ids_run;
      v_item_kind := v_item_kind || array_fill(3::smallint, array[cardinality(v_ids)]);
      v_item_cmd := v_item_cmd || array_fill(null::int, array[cardinality(v_ids)]);
    end if;
  end if;
  if cardinality(p_closed) > 0 and exists (select from hotmesh_engine.waiter where run_id = any (p_closed)) then
    perform hotmesh_engine.wake_clients(p_closed);
  end if;

  -- 5. route ------------------------------------------------------------------------------------
  if v_parked is not null then
    perform hotmesh_engine.judge(v_parked, v_now);
  end if;
  if p_after is not null or cardinality(v_item_id) > 0 then
    select * into v_handed, v_stayed, v_after, v_more from hotmesh_engine.route(
      p_worker, v_item_id, v_item_kind, v_item_run, v_item_cmd, p_after is not null, p_after);
  end if;

  -- 6. claim ------------------------------------------------------------------------------------
  if p_free_runs > 0 then
    v_claimed := hotmesh_engine.claim_runs(p_worker, p_queues, p_free_runs, p_free_suspects, v_now, p_due_floor);
  end if;
  if p_free_activities > 0 then
    select r_run, r_command into v_task_run, v_task_cmd
      from hotmesh_engine.claim_tasks(p_worker, p_queues, p_free_activities, p_free_suspects, v_claimed, v_now);
  end if;

  -- 7. answer -----------------------------------------------------------------------------------
  if cardinality(p_queues) > 0 then
    if v_claimed is null and v_task_run is null then
      v_due_in := hotmesh_engine.next_due(p_queues, v_now);
    end if;
    select last_value into v_last from hotmesh_engine.id;
  end if;
  return next row(0::smallint, case when v_more then v_after else 0 end, v_last, v_due_in, v_stayed,
    (coalesce(cardinality(v_claimed), 0) >= p_free_runs and p_free_runs > 0
      or p_free_activities > 0 and coalesce(cardinality(v_task_run), 0) >= p_free_activities)::int,
    v_untold, hotmesh_engine.epoch(hotmesh.now()), null::text, null::text, null::text, null::text, null::text)
    ::hotmesh_engine.turn_row;

  if v_claimed is not null then
    return query select * from hotmesh_engine.hand_out_runs(v_claimed);
  end if;
  if cardinality(p_queues) > 0 then
    if exists (select from hotmesh_engine.inbox where holder = p_worker and not handed) then
      with tagged as (
        update hotmesh_engine.inbox set handed = true
         where holder = p_worker and not handed and kind not in (100, 101)
        returning inbox_id)
      select array_agg(inbox_id) || v_handed into v_handed from tagged;
      return query
        with gone as (delete from hotmesh_engine.inbox where holder = p_worker and not handed and kind = 100 returning run_id)
        select 5::smallint, run_id, null::bigint, null::int, null::int, null::int, null::int, null::double precision,
               null::text, null::text, null::text, null::text, null::text from gone;
    end if;
  end if;
  v_handed := v_handed || v_answers;
  if v_handed is not null then
    return query
    select 3::smallint, run_id, inbox_id, null::int, kind::int, command, null::int, null::double precision,
           null::text, null::text, payload::text, null::text, null::text
      from hotmesh_engine.inbox
     where inbox_id = any (v_handed) and run_id <> all (coalesce(v_claimed, '{}')) order by inbox_id;
  end if;
  if v_task_run is not null then
    return query select * from hotmesh_engine.hand_out_tasks(v_task_run, v_task_cmd);
  end if;

  if p_asleep is not null then
    insert into hotmesh_engine.sleeper (worker_id, queues, asleep) values (p_worker, p_queues, p_asleep)
    on conflict (worker_id) do update set asleep = excluded.asleep,
      queues = case when cardinality(excluded.queues) > 0 then excluded.queues else sleeper.queues end;
  end if;
end $$;

-- What a worker needs of runs that it has just leased. Journals: of the first runs whose rows add
-- up to at most 5,000; the worker fetches the others, and rows beyond, in pages (journal_page).
create or replace function hotmesh_engine.hand_out_runs(p_runs bigint[]) returns setof hotmesh_engine.turn_row
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_run     bigint[];
  v_seq     int[];
begin
  with c as materialized (
    select l.run_id, l.fence, l.lost, l.queue_id, l.priority, l.due_at,
           coalesce((select j.seq from hotmesh_engine.journal j
                      where j.run_id = l.run_id order by j.seq desc limit 1), 0) as seq
      from hotmesh_engine.live l where l.run_id = any (p_runs))
  select array_agg(run_id order by run_id), array_agg(seq order by run_id) into v_run, v_seq from c where seq > 0;

  return query
  select 1::smallint, l.run_id, null::bigint,
         case when v_run is null then 0 else
           coalesce((select u.seq from unnest(v_run, v_seq) u(run, seq) where u.run = l.run_id), 0) end,
         l.fence, l.lost::int, l.queue_id, hotmesh_engine.epoch(r.created_at),
         r.workflow_type, r.workflow_id, r.input::text, null::text, null::text
    from hotmesh_engine.live l cross join lateral (
      select * from hotmesh_engine.run r where r.run_id = l.run_id offset 0) r
   where l.run_id = any (p_runs)
   order by l.priority, l.due_at, l.run_id;

  if v_run is not null then
    return query
    select 2::smallint, j.run_id, null::bigint, j.seq, j.kind::int, j.command, null::int, hotmesh_engine.epoch(j.at),
           null::text, null::text, j.payload::text, j.commands::text, null::text
      from (select run, sum(seq) over (order by run) as total from unnest(v_run, v_seq) u(run, seq)) u
     cross join lateral (select * from hotmesh_engine.journal j where j.run_id = u.run offset 0) j
     where u.total <= 5000
     order by j.run_id, j.seq;
    return query
    select 6::smallint, t.run_id, null::bigint, null::int, null::int, t.command, null::int, null::double precision,
           null::text, null::text, null::text, null::text, null::text
      from hotmesh_engine.activity_task t where t.run_id = any (v_run);
  end if;

  -- every message of these runs, whoever had it before; not what ends them (carry_out_interrupts)
  if not exists (select from hotmesh_engine.inbox where run_id = any (p_runs) and kind <> 101) then
    return;
  end if;
  return query
  with i as (
    update hotmesh_engine.inbox i
       set holder = (select holder from hotmesh_engine.live l where l.run_id = i.run_id), handed = true
     where i.run_id = any (p_runs) and i.kind <> 101
    returning i.*)
  select 3::smallint, run_id, inbox_id, null::int, kind::int, command, null::int, null::double precision,
         null::text, null::text, payload::text, null::text, null::text
    from i order by inbox_id;
end $$;

create or replace function hotmesh_engine.hand_out_tasks(p_run bigint[], p_command int[])
returns setof hotmesh_engine.turn_row
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return query
  select 7::smallint, t.run_id, null::bigint, t.lost::int, t.attempt, t.command, t.queue_id,
         hotmesh_engine.epoch(t.scheduled_at), t.activity, r.workflow_id, t.input::text, t.options::text, t.details::text
    from unnest(p_run, p_command) u(run, command) cross join lateral (
      select * from hotmesh_engine.activity_task t where t.run_id = u.run and t.command = u.command offset 0) t
   cross join lateral (select workflow_id from hotmesh_engine.run r where r.run_id = u.run offset 0) r
   order by t.due_at;
end $$;

-- Rows of a run's journal after p_after, up to p_limit; only its holder may read them.
create or replace function hotmesh_engine.journal_page(p_worker bigint, p_run bigint, p_after int, p_limit int)
returns setof hotmesh_engine.turn_row
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select 2::smallint, j.run_id, null::bigint, j.seq, j.kind::int, j.command, null::int, hotmesh_engine.epoch(j.at),
         null::text, null::text, j.payload::text, j.commands::text, null::text
    from hotmesh_engine.journal j
   where j.run_id = p_run and j.seq > p_after
     and exists (select from hotmesh_engine.live l where l.run_id = p_run and l.holder = p_worker)
   order by j.seq limit p_limit
$$;
