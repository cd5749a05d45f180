-- Firing: a duty. Any worker's, at any time, as often as it likes; nobody leads.
--
-- A call takes the schedules that are due (FOR NO KEY UPDATE SKIP LOCKED), decides their slots in order, starts the
-- runs and moves the schedules on, all in one short transaction: set by set, and only if something fails by
-- halves, until the schedule that fails stands alone. That one gets its reason (view hotmesh.schedules) and is
-- tried again with back-off; it stops no other.
--
-- Which slots are decided when several are due at once, because nobody was there:
--   catchup '0'         the newest, if it is not more than 10 s late
--   catchup null        the newest ('last')
--   catchup a duration  all that are not more late than that (and at least 10 s: nobody is punctual)
-- The others become one row of decision `m`, which stands for all slots until `missed_until`.
--
-- Overlap, for a slot that comes due while a run of its schedule is open:
--   allow_all      it starts
--   skip           it is skipped
--   buffer_one     it waits for the open ones to close; a further one is skipped
--   cancel_other   the open ones are asked to end, and it waits for them to close; of several only the newest
-- With skip and buffer_one, slots that are caught up (more than 10 s late) did not come due while a run was
-- open but while nobody was there: they run one after another.
--
-- Locks: `schedule` rows SKIP LOCKED; the advisory lock of each new workflow id is only tried (a stranger's
-- open transaction may have started that id: the slot waits in the buffer), `live` rows SKIP LOCKED by routing.
-- A twin finds the rows locked and goes on with others, or finds them moved on. A slot that a backfill or a
-- trigger has put in is met on the primary key.
-- Crash: nothing happened, and the slots are due for whoever comes.
--
-- A slot in the buffer starts when the run before it has closed: its end wakes the workers (watch_buffers), and
-- they look four times a second in case that was lost.
--
-- Lateness: the worker's thread waits until r_next has passed, at most a second. Measured with one worker, a
-- schedule of every second, 2 cores shared with others: 5 ms late in the middle, 24 ms at most.

-- Decides what is due. r_fired: slots decided; r_next: seconds until the next call is worth while, 0: at once.
create or replace function hotmesh_engine.fire_schedules(p_limit int default 100, out r_fired int, out r_next double precision)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_now    timestamptz := hotmesh.now();
  v_failed bigint[];
  v_keys   bigint[];
  v_more   bigint[];
begin
  v_failed := hotmesh_engine.settle_slots(v_now);

  select array_agg(schedule_key) into v_keys
    from (select schedule_key from hotmesh_engine.schedule
           where due_at <= v_now and due_at < 'infinity' order by due_at limit p_limit for no key update skip locked) k;

  r_next := case when cardinality(v_keys) = p_limit then 0 end;

  -- slots in the buffer whose turn has come, and schedules that may have failed too often
  v_more := array(select distinct schedule_key from hotmesh_engine.schedule_slot where decision = 'b') || v_failed;
  if v_more <> '{}' then
    select array_agg(schedule_key) into v_more
      from (select k.schedule_key from hotmesh_engine.schedule k
             where k.schedule_key = any (v_more) and k.schedule_key <> all (coalesce(v_keys, '{}'))
               and (k.trouble_code is null or k.due_at <= v_now)
               and (k.schedule_key = any (v_failed)
                    or (k.overlap = 'allow_all' or not exists (
                          select from hotmesh_engine.schedule_slot s
                           where s.schedule_key = k.schedule_key and s.decision = 's' and s.status is null))
                       and (not k.paused or exists (
                              select from hotmesh_engine.schedule_slot s
                               where s.schedule_key = k.schedule_key and s.decision = 'b' and s.origin = 'b')))
             limit p_limit for no key update skip locked) k;
    v_keys := v_keys || v_more;
  end if;
  r_fired := case when v_keys is null then 0 else hotmesh_engine.fire_or_halve(v_keys, v_now) end;

  if r_fired > 0 and cardinality(v_more) = p_limit
     or exists (select from hotmesh_engine.schedule where schedule_key = any (v_keys) and due_at <= v_now) then
    r_next := 0;
  end if;
  if r_next is null then
    select extract(epoch from min(due_at) - hotmesh.now()) into r_next
      from hotmesh_engine.schedule where due_at > v_now and due_at < 'infinity';
    if exists (select from hotmesh_engine.schedule_slot where decision = 'b') then
      r_next := least(r_next, 0.25);
    end if;
  end if;
  r_next := greatest(coalesce(r_next, 3600), 0);
end $$;

-- Notes how runs have ended, of up to 1000 open slots, from a random schedule on if there are more. Returns
-- the schedules that pause after failures and have one now.
create or replace function hotmesh_engine.settle_slots(p_now timestamptz) returns bigint[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_from   bigint := 0;
  v_failed bigint[];
begin
  perform from hotmesh_engine.schedule_slot where decision = 's' and status is null order by schedule_key, run_id offset 1000 limit 1;
  if found then
    select min(schedule_key) + floor(random() * (max(schedule_key) - min(schedule_key) + 1))::bigint into v_from
      from hotmesh_engine.schedule_slot where decision = 's' and status is null;
  end if;
  with open as materialized (
    select schedule_key, slot, run_id from hotmesh_engine.schedule_slot
     where decision = 's' and status is null and schedule_key >= v_from order by schedule_key, run_id limit 1000
  ), ended as materialized (
    select * from open u
     where exists (select from hotmesh_engine.outcome o where o.run_id = u.run_id offset 0)
        or not exists (select from hotmesh_engine.run r where r.run_id = u.run_id offset 0)      -- beyond its retention
  ), locked as materialized (
    select s.ctid, e.run_id
      from ended e cross join lateral (
        select ctid from hotmesh_engine.schedule_slot s
         where s.schedule_key = e.schedule_key and s.slot = e.slot and s.status is null for update skip locked) s
  ), unwatched as (
    delete from hotmesh_engine.waiter where run_id = any (array(select run_id from locked)) and client = 0
  ), noted as (
    update hotmesh_engine.schedule_slot s
       set (status, closed_at) = (select coalesce(max(o.status), 0::smallint), coalesce(max(o.closed_at), p_now)
                                    from hotmesh_engine.outcome o where o.run_id = s.run_id)
     where ctid = any (array(select ctid from locked))
    returning schedule_key, status)
  select array_agg(schedule_key) into v_failed from hotmesh_engine.schedule
   where schedule_key = any (array(select schedule_key from noted where status in (2, 5)))
     and pause_after is not null and not paused;
  return v_failed;
end $$;

-- Fires these schedules together if that goes well; else by halves. Precondition: their rows are locked.
create or replace function hotmesh_engine.fire_or_halve(p_keys bigint[], p_now timestamptz) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_half int := cardinality(p_keys) / 2;
  v_code text;
  v_text text;
begin
  begin
    return hotmesh_engine.fire(p_keys, p_now);
  exception when others then
    get stacked diagnostics v_code = returned_sqlstate, v_text = message_text;
    if not hotmesh_engine.is_fault(v_code) then raise; end if;
  end;
  if v_half > 0 then
    return hotmesh_engine.fire_or_halve(p_keys[:v_half], p_now) + hotmesh_engine.fire_or_halve(p_keys[v_half + 1:], p_now);
  end if;
  -- 1 s, doubled up to 5 minutes, as for a run whose turn fails
  update hotmesh_engine.schedule
     set trouble_code = v_code, trouble = left(v_text, 4000), trouble_since = coalesce(trouble_since, p_now),
         trouble_times = trouble_times + 1, due_at = p_now + least(300, power(2, least(trouble_times, 12))) * interval '1 second'
   where schedule_key = p_keys[1];
  return 0;
end $$;

-- Decides what is due of these schedules, at most about 1000 slots; what is left stays due.
create or replace function hotmesh_engine.fire(p_keys bigint[], p_now timestamptz) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  k          hotmesh_engine.schedule;
  d          record;
  v_open     bigint[];                           -- runs of the schedule that are open
  v_waiting  timestamptz[];                      -- its slots in the buffer
  v_buffered int;
  v_running  int;
  v_decision "char";
  v_is_due   boolean;
  v_dropped  int;
  v_count    int := 0;
  v_key      bigint[] := '{}';                   -- what is to start
  v_slot     timestamptz[] := '{}';
begin
  for k in select * from hotmesh_engine.schedule where schedule_key = any (p_keys) order by schedule_key loop
    if k.pause_after is not null and not k.paused
       and hotmesh_engine.failures_in_a_row(k.schedule_key, k.counted_from) >= k.pause_after then
      update hotmesh_engine.schedule
         set paused = true, due_at = 'infinity', updated_at = p_now,
             note = format('%s runs in a row have failed', hotmesh_engine.failures_in_a_row(k.schedule_key, k.counted_from))
       where schedule_key = k.schedule_key;
      continue;
    end if;

    select array_agg(s.run_id) into v_open from hotmesh_engine.schedule_slot s
     cross join lateral (select from hotmesh_engine.live l where l.run_id = s.run_id offset 0) l
     where s.schedule_key = k.schedule_key and s.decision = 's' and s.status is null;
    v_running := coalesce(cardinality(v_open), 0);
    select array_agg(slot) into v_waiting
      from (select slot from hotmesh_engine.schedule_slot
             where schedule_key = k.schedule_key and decision = 'b' and (not k.paused or origin = 'b')
             order by slot limit greatest(1000 - v_count, 1)) s;
    v_buffered := coalesce(cardinality(v_waiting), 0);
    v_is_due := not k.paused and k.next_slot + hotmesh_engine.slot_jitter(k, k.next_slot) <= p_now;
    if v_buffered > 0 and (k.overlap = 'allow_all' or v_running = 0 and not (k.overlap = 'cancel_other' and v_is_due)) then
      if k.overlap <> 'allow_all' then
        v_waiting := v_waiting[:1];
      end if;
      v_slot := v_slot || v_waiting;
      v_key := v_key || array_fill(k.schedule_key, array[cardinality(v_waiting)]);
      v_running := v_running + cardinality(v_waiting);
      v_buffered := v_buffered - cardinality(v_waiting);
      v_count := v_count + cardinality(v_waiting);
    end if;

    if v_is_due and v_count < 1000 then
      d := hotmesh_engine.due_slots(k, p_now, 1000 - v_count);
      if d.missed_from is not null then
        k.last_slot := hotmesh_engine.note_missed(k, d.missed_from, d.missed_until, p_now);
        v_count := v_count + 1;
      end if;
      k.next_slot := d.next_slot;
      for i in 1..cardinality(d.slots) loop
        exit when k.cycles >= k.max_cycles;
        v_decision := case
          when k.overlap = 'allow_all' then 's'
          when k.overlap = 'cancel_other' and i < cardinality(d.slots) then 'k'
          when v_running = 0 and v_buffered = 0 then 's'
          when d.late[i] or k.overlap = 'cancel_other' or k.overlap = 'buffer_one' and v_buffered = 0 then 'b'
          else 'k' end;
        insert into hotmesh_engine.schedule_slot (schedule_key, slot, decided_at, decision, origin)
        values (k.schedule_key, d.slots[i], p_now, v_decision, 's') on conflict do nothing;
        if found and v_decision = 's' then
          v_slot := v_slot || d.slots[i];
          v_key := v_key || k.schedule_key;
          v_running := v_running + 1;
        elsif found and v_decision = 'b' then
          v_buffered := v_buffered + 1;
        end if;
        if found and v_decision <> 'k' then
          k.cycles := k.cycles + 1;
        end if;
        k.last_slot := d.slots[i];
      end loop;
      v_count := v_count + cardinality(d.slots);
      if k.overlap = 'cancel_other' and cardinality(d.slots) > 0 then
        update hotmesh_engine.schedule_slot set decision = 'k'
         where schedule_key = k.schedule_key and decision = 'b' and origin = 's' and slot < k.last_slot;
        get diagnostics v_dropped = row_count;
        if v_dropped = 0 then                    -- else they were asked for the sake of the slot that is replaced
          perform hotmesh_engine.tell_run(r, 'cancel', 'replaced by the next run of its schedule', false)
             from unnest(v_open) r;
        end if;
        k.cycles := k.cycles - v_dropped;
      end if;
      if k.cycles >= k.max_cycles then
        k.next_slot := null;
      end if;
    end if;
    update hotmesh_engine.schedule
       set next_slot = k.next_slot, last_slot = k.last_slot, cycles = k.cycles, due_at = hotmesh_engine.schedule_due(k),
           trouble_code = null, trouble = null, trouble_since = null, trouble_times = 0
     where schedule_key = k.schedule_key
       and (next_slot, last_slot, trouble_code) is distinct from (k.next_slot, k.last_slot, null);
  end loop;

  if v_slot <> '{}' then
    perform hotmesh_engine.start_decided(v_key, v_slot);
  end if;
  if exists (select from hotmesh_engine.schedule_slot where schedule_key = any (p_keys) and decision = 'b') then
    perform hotmesh_engine.watch_buffers(p_keys);
  end if;
  return v_count;
end $$;

-- One row for the slots from one until another that are missed; it returns its slot. A backfill may have been
-- quicker with the first of them: then the row begins after those.
create or replace function hotmesh_engine.note_missed(
  k hotmesh_engine.schedule, p_from timestamptz, p_until timestamptz, p_now timestamptz
) returns timestamptz
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_slot timestamptz := p_from;
  v_last timestamptz := p_from;
  c      hotmesh_engine.cron;
begin
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  while v_slot < p_until or p_until is null and v_slot is not null loop
    insert into hotmesh_engine.schedule_slot (schedule_key, slot, decided_at, missed_until, decision, origin)
    values (k.schedule_key, v_slot, p_now, p_until, 'm', 's') on conflict do nothing;
    v_last := v_slot;
    exit when found;
    v_slot := hotmesh_engine.slot_after(k, c, v_slot);
  end loop;
  return v_last;
end $$;

-- Slots in the buffer wait for the open runs of their schedules. These are awaited as by a client, the one of id 0:
-- so whoever closes such a run wakes those who fire schedules, and a run that nobody waits for costs nothing more.
create or replace function hotmesh_engine.watch_buffers(p_keys bigint[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  insert into hotmesh_engine.waiter (run_id, client)
  select s.run_id, 0
    from (select schedule_key from hotmesh_engine.schedule k
           where schedule_key = any (p_keys) and overlap <> 'allow_all'
             and exists (select from hotmesh_engine.schedule_slot b
                          where b.schedule_key = k.schedule_key and b.decision = 'b' offset 0) offset 0) k
   cross join lateral (
     select run_id from hotmesh_engine.schedule_slot s
      where s.schedule_key = k.schedule_key and s.decision = 's' and s.status is null and s.run_id is not null offset 0) s
  on conflict do nothing
$$;

-- Starts the runs of slots that are decided or leave the buffer, and notes them in their rows. A slot whose
-- workflow id somebody's open transaction is about to start is not waited for: it goes into the buffer.
create or replace function hotmesh_engine.start_decided(p_key bigint[], p_slot timestamptz[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_row  record;
begin
  for v_row in
    with wanted as materialized (
      select k.namespace_id, k.schedule_key, u.slot,
             pg_try_advisory_xact_lock(1212370261,
               hashtext(k.namespace_id || ':' || hotmesh_engine.slot_workflow_id(k.schedule_id, u.slot))) as free
        from unnest(p_key, p_slot) u(key, slot)
       cross join lateral (select * from hotmesh_engine.schedule k where k.schedule_key = u.key offset 0) k
    ), busy as (
      update hotmesh_engine.schedule_slot set decision = 'b'
       where ctid = any (array(
         select s.ctid from wanted w cross join lateral (
           select ctid from hotmesh_engine.schedule_slot s where s.schedule_key = w.schedule_key and s.slot = w.slot offset 0) s
          where not w.free)))
    select n.name, array_agg(w.schedule_key order by w.slot, w.schedule_key) as keys,
           array_agg(w.slot order by w.slot, w.schedule_key) as slots
      from wanted w
     cross join lateral (select name from hotmesh_engine.namespace n where n.namespace_id = w.namespace_id offset 0) n
     where w.free group by n.name order by n.name
  loop
    update hotmesh_engine.schedule_slot s
       set decision = case when r.started then 's' else 'r' end, run_id = case when r.started then r.run_id end,
           decided_at = hotmesh.now()
      from hotmesh_engine.start_slots(v_row.name, v_row.keys, v_row.slots, false) r
     cross join lateral (
       select ctid as place from hotmesh_engine.schedule_slot x where x.schedule_key = r.schedule_key and x.slot = r.slot offset 0) x
     where s.ctid = x.place;
  end loop;
end $$;

-- The one place where a schedule's run begins.
create or replace function hotmesh_engine.start_slots(p_namespace text, p_key bigint[], p_slot timestamptz[], p_caller boolean)
returns table (schedule_key bigint, slot timestamptz, run_id bigint, started boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v record;
begin
  select array_agg(k.workflow_type order by o) as types,
         array_agg(hotmesh_engine.slot_workflow_id(k.schedule_id, u.slot) order by o) as ids,
         array_agg(q.name order by o) as queues, array_agg(k.input order by o) as inputs,
         array_agg(gen_random_uuid()) as requests,
         array_agg(k.execution_timeout order by o) as timeouts, array_agg(k.retention order by o) as retentions,
         array_agg(k.priority order by o) as priorities, array_agg(k.memo order by o) as memos
    into v
    from unnest(p_key, p_slot) with ordinality u(key, slot, o)
   cross join lateral (select * from hotmesh_engine.schedule k where k.schedule_key = u.key offset 0) k
   cross join lateral (select name from hotmesh_engine.queue q where q.queue_id = k.queue_id offset 0) q;
  return query
    select p_key[r.o], p_slot[r.o], r.run_id, r.started
      from hotmesh_engine.start(
             p_namespace, v.types, v.ids, v.queues, v.inputs, v.requests, p_timeout => v.timeouts,
             p_retention => v.retentions, p_priority => v.priorities, p_memo => v.memos,
             p_on_conflict => case when p_caller then 'fail' else 'use_existing' end, p_caller => p_caller)
           with ordinality r(run_id, started, o);
end $$;

-- Which slots of a schedule are due, and which its catch-up policy leaves out; `late`: by more than 10 s.
create or replace function hotmesh_engine.due_slots(
  k hotmesh_engine.schedule, p_now timestamptz, p_limit int,
  out slots timestamptz[], out late boolean[], out missed_from timestamptz, out missed_until timestamptz, out next_slot timestamptz
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_grace  constant interval := interval '10 seconds';
  v_slot   timestamptz := k.next_slot;
  v_due    timestamptz;
  v_window interval := greatest(k.catchup, v_grace);
  c        hotmesh_engine.cron;
begin
  slots := '{}';
  late := '{}';
  if k.cron is not null then
    c := hotmesh_engine.read_cron(k.cron);
  end if;
  if k.catchup is null or k.catchup = '0' then
    -- the newest. Jitter ends before the next slot: of those that have come only the last may not be due
    v_slot := hotmesh_engine.last_slot(k, c, p_now);
    if v_slot > k.next_slot and v_slot + hotmesh_engine.slot_jitter(k, v_slot) > p_now then
      v_slot := hotmesh_engine.last_slot(k, c, v_slot - interval '1 microsecond');
    end if;
    if k.catchup = '0' and v_slot + hotmesh_engine.slot_jitter(k, v_slot) < p_now - v_grace then
      v_slot := hotmesh_engine.slot_after(k, c, v_slot);
    end if;
  elsif v_slot < p_now - v_window then
    v_slot := hotmesh_engine.last_slot(k, c, p_now - v_window);
    if v_slot + hotmesh_engine.slot_jitter(k, v_slot) < p_now - v_window then
      v_slot := hotmesh_engine.slot_after(k, c, v_slot);
    end if;
  end if;
  if v_slot is distinct from k.next_slot then
    missed_from := k.next_slot;
    missed_until := v_slot;
  end if;
  while v_slot is not null and cardinality(slots) < p_limit loop
    v_due := v_slot + hotmesh_engine.slot_jitter(k, v_slot);
    exit when v_due > p_now;
    slots := slots || v_slot;
    late := late || (v_due < p_now - v_grace);
    v_slot := hotmesh_engine.slot_after(k, c, v_slot);
  end loop;
  next_slot := v_slot;
end $$;

-- The newest slot from k.next_slot up to a time (or k.next_slot): by halving what lies between, since cron
-- expressions are searched forwards only. After a month of every second: 22 steps instead of 2,600,000.
create or replace function hotmesh_engine.last_slot(k hotmesh_engine.schedule, c hotmesh_engine.cron, p_until timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_last  timestamptz := k.next_slot;
  v_until timestamptz := p_until;
  v_slot  timestamptz;
begin
  loop
    v_slot := hotmesh_engine.slot_after(k, c, v_last);
    exit when v_slot is null or v_slot > v_until;
    v_last := v_slot;
    v_slot := hotmesh_engine.slot_after(k, c, v_last + (v_until - v_last) / 2);
    if v_slot <= v_until then
      v_last := v_slot;
    else
      v_until := v_last + (v_until - v_last) / 2;
    end if;
  end loop;
  return v_last;
end $$;

-- How many runs have failed or timed out since the newest that completed. Interrupted ones do not count.
create or replace function hotmesh_engine.failures_in_a_row(p_key bigint, p_from timestamptz) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_status smallint;
  v_count  int := 0;
begin
  for v_status in
    select coalesce(s.status, o.status) from hotmesh_engine.schedule_slot s
      left join lateral (
        select status from hotmesh_engine.outcome o where o.run_id = s.run_id and s.status is null offset 0) o on true
     where s.schedule_key = p_key and s.decision = 's' and s.decided_at >= p_from order by s.slot desc
  loop
    exit when v_status = 1 or v_count = 1000;
    v_count := v_count + (v_status in (2, 5) is true)::int;
  end loop;
  return v_count;
end $$;

-- History: a row goes when its run's retention has passed, but the newest 100 of a schedule stay.
create or replace function hotmesh_engine.prune_slots(p_now timestamptz, p_limit int) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
  delete from hotmesh_engine.schedule_slot where ctid = any (array(
    select o.ctid
      from hotmesh_engine.schedule k
     cross join lateral (select slot from hotmesh_engine.schedule_slot n
                          where n.schedule_key = k.schedule_key order by slot desc offset 99 limit 1) b
     cross join lateral (select ctid from hotmesh_engine.schedule_slot o
                          where o.schedule_key = k.schedule_key and o.slot < b.slot
                            and o.decided_at < p_now - coalesce(k.retention, interval '7 days')
                            and (o.status is not null or o.decision in ('k', 'm', 'r')) order by o.slot limit p_limit) o
     limit p_limit))
$$;
