-- What must hold in every committed state, whatever was killed, cut or stopped.

-- A row for each thing that is wrong; no row = healthy. One statement, so one snapshot: it may run
-- beside workers at full load. It reads whole tables and is meant for tests and for doubts.
create or replace function hotmesh.check_invariants() returns table (what text, run_id bigint, detail text)
language sql volatile set search_path = pg_catalog, pg_temp as $$
  -- runs: open or closed, never both and never neither
  select 'a run is neither open nor closed', r.run_id, r.workflow_id
    from hotmesh_engine.run r
   where not exists (select from hotmesh_engine.live l where l.run_id = r.run_id)
     and not exists (select from hotmesh_engine.outcome o where o.run_id = r.run_id)
  union all
  select 'a run is open and closed', l.run_id, hotmesh_engine.status_name(o.status)
    from hotmesh_engine.live l join hotmesh_engine.outcome o on o.run_id = l.run_id
  union all
  select 'an open run is unknown', l.run_id, null
    from hotmesh_engine.live l
   where not exists (select from hotmesh_engine.run r where r.run_id = l.run_id)
  union all
  select 'an outcome belongs to no run', o.run_id, hotmesh_engine.status_name(o.status)
    from hotmesh_engine.outcome o
   where not exists (select from hotmesh_engine.run r where r.run_id = o.run_id)
  union all
  select 'an open run does not own its workflow id', r.run_id, r.workflow_id
    from hotmesh_engine.live l join hotmesh_engine.run r on r.run_id = l.run_id
   where not exists (select from hotmesh_engine.open_id i
                      where i.namespace_id = r.namespace_id and i.workflow_id = r.workflow_id and i.run_id = r.run_id)
  union all
  select 'a workflow id is owned by a run that is not open', i.run_id, i.workflow_id
    from hotmesh_engine.open_id i
   where not exists (select from hotmesh_engine.live l where l.run_id = i.run_id)

  -- journals: each step once, and none missing
  union all
  select 'a journal has gaps', j.run_id, format('%s rows, from %s to %s', count(*), min(j.seq), max(j.seq))
    from hotmesh_engine.journal j group by j.run_id having count(*) <> max(j.seq) or min(j.seq) <> 1
  union all
  select 'a command was answered twice', j.run_id, format('command %s: %s times', j.command, count(*))
    from hotmesh_engine.journal j where j.command is not null group by j.run_id, j.command having count(*) > 1
  union all
  select 'a journal goes back in time', j.run_id, format('row %s', j.seq)
    from (select j.run_id, j.seq, j.at < lag(j.at) over (partition by j.run_id order by j.seq) as back
            from hotmesh_engine.journal j) j where j.back
  union all
  select 'a journal belongs to no run', j.run_id, null
    from hotmesh_engine.journal j
   where j.seq = 1 and not exists (select from hotmesh_engine.run r where r.run_id = j.run_id)

  -- closed runs leave nothing behind
  union all
  select 'a run that is not open waits', w.run_id, format('command %s', w.command)
    from hotmesh_engine.waiting w
   where not exists (select from hotmesh_engine.live l where l.run_id = w.run_id)
  union all
  select 'a run that is not open has trouble', t.run_id, t.message
    from hotmesh_engine.trouble t
   where not exists (select from hotmesh_engine.live l where l.run_id = t.run_id)
  union all
  select 'a message was left with a run that is not open', i.run_id, hotmesh_engine.event_name(i.kind)
    from hotmesh_engine.inbox i
   where i.kind <> 100
     and not exists (select from hotmesh_engine.live l where l.run_id = i.run_id)
     and not exists (select from hotmesh_engine.unrouted u where u.id = i.inbox_id)

  -- leases
  union all
  select 'a lease belongs to no worker', l.run_id, l.holder::text
    from hotmesh_engine.live l
   where l.holder is not null and not exists (select from hotmesh_engine.worker w where w.worker_id = l.holder)
  union all
  select 'a lease has outlived its worker', l.run_id, w.name
    from hotmesh_engine.live l join hotmesh_engine.worker w on w.worker_id = l.holder
   where w.beat_at < clock_timestamp() - w.lease - interval '15 seconds'
     and exists (select from hotmesh_engine.worker v                    -- somebody who should have swept
                  where not v.dead and v.beat_at > clock_timestamp() - v.lease
                    and v.contact_at < clock_timestamp() - v.lease - interval '15 seconds')
  union all
  select 'an activity has outlived its worker', t.run_id, format('command %s, worker %s', t.command, w.name)
    from hotmesh_engine.activity_task t left join hotmesh_engine.worker w on w.worker_id = t.holder
   where t.holder is not null
     and (w.worker_id is null
          or w.beat_at < clock_timestamp() - w.lease - interval '15 seconds'
             and exists (select from hotmesh_engine.worker v
                          where not v.dead and v.beat_at > clock_timestamp() - v.lease
                            and v.contact_at < clock_timestamp() - v.lease - interval '15 seconds'))

  -- messages: none lies beside its receiver, unless routing has it on its list
  union all
  select 'a signal lies beside a run that waits for it', w.run_id, w.key
    from hotmesh_engine.waiting w
   where w.kind = 'w'
     and not exists (select from hotmesh_engine.inbox i where i.run_id = w.run_id and i.command = w.command)
     and not exists (select from hotmesh_engine.unrouted u
                      where u.kind = 2 and u.run_id = w.run_id and u.command = w.command)
     and exists (select from hotmesh_engine.message m
                  where m.namespace_id = w.namespace_id and m.key = w.key and m.expires_at > hotmesh.now())
     and not exists (select from hotmesh_engine.message m join hotmesh_engine.unrouted u on u.id = m.message_id
                      where m.namespace_id = w.namespace_id and m.key = w.key)
  union all
  select 'a message is tagged for somebody who does not hold its run', i.run_id, format('inbox %s', i.inbox_id)
    from hotmesh_engine.inbox i join hotmesh_engine.live l on l.run_id = i.run_id
   where i.kind <> 100 and i.holder is distinct from l.holder
     and not exists (select from hotmesh_engine.unrouted u where u.id = i.inbox_id)
  union all
  select 'a run sleeps beside what it waits for', l.run_id, format('command %s', i.command)
    from hotmesh_engine.live l
    join hotmesh_engine.inbox i on i.run_id = l.run_id
    left join hotmesh_engine.waiting w on w.run_id = i.run_id and w.command = i.command
   where l.holder is null and l.due_at = 'infinity'
     and not exists (select from hotmesh_engine.trouble t where t.run_id = l.run_id)
     and not exists (select from hotmesh_engine.unrouted u where u.id = i.inbox_id)
     and (w.run_id is null
          or (i.kind = 3 and w.grp > 0)
          or not exists (select from hotmesh_engine.waiting w2
                          where w2.run_id = w.run_id and w2.grp = w.grp
                            and not exists (select from hotmesh_engine.inbox j
                                             where j.run_id = w2.run_id and j.command = w2.command)))
  union all
  select 'a run waits for an activity that nobody will run', w.run_id, format('command %s: %s', w.command, w.key)
    from hotmesh_engine.waiting w
   where w.kind = 'a'
     and not exists (select from hotmesh_engine.activity_task t where t.run_id = w.run_id and t.command = w.command)
     and not exists (select from hotmesh_engine.inbox i where i.run_id = w.run_id and i.command = w.command)
     and not exists (select from hotmesh_engine.undelivered u where u.run_id = w.run_id and u.command = w.command)
  union all
  select 'an activity is set aside and its run has no trouble', t.run_id, format('command %s: %s', t.command, t.activity)
    from hotmesh_engine.activity_task t
   where t.due_at = 'infinity'
     and exists (select from hotmesh_engine.live l where l.run_id = t.run_id)
     and not exists (select from hotmesh_engine.trouble x where x.run_id = t.run_id)
  union all
  select 'an activity is of no queue', t.run_id, format('command %s: %s', t.command, t.activity)
    from hotmesh_engine.activity_task t
   where not exists (select from hotmesh_engine.queue q where q.queue_id = t.queue_id)
     and not exists (select from hotmesh_engine.stand_in i where i.queue_id = t.queue_id)

  -- schedules: they go forward, and each slot is one run's
  union all
  select 'a schedule does not go forward', null, format('%s: %s after %s', k.schedule_id, k.next_slot, k.last_slot)
    from hotmesh_engine.schedule k where k.next_slot <= k.last_slot
  union all
  select 'a schedule sleeps for ever', null, k.schedule_id
    from hotmesh_engine.schedule k where not k.paused and k.next_slot is not null and k.due_at = 'infinity'
  union all
  select 'a schedule has run too often', null, format('%s: %s of %s', k.schedule_id, k.cycles, k.max_cycles)
    from hotmesh_engine.schedule k where k.cycles >= k.max_cycles and k.next_slot is not null
  union all
  select 'a firing belongs to no schedule', s.run_id, s.slot::text
    from hotmesh_engine.schedule_slot s
   where not exists (select from hotmesh_engine.schedule k where k.schedule_key = s.schedule_key)
  union all
  select 'a firing started nothing', null, format('%s at %s', k.schedule_id, s.slot)
    from hotmesh_engine.schedule_slot s join hotmesh_engine.schedule k on k.schedule_key = s.schedule_key
   where s.decision = 's' and s.run_id is null
  union all
  select 'a run was started by two slots', s.run_id, count(*)::text
    from hotmesh_engine.schedule_slot s where s.run_id is not null group by s.run_id having count(*) > 1
  union all
  select 'a firing names the run of another one', s.run_id, r.workflow_id
    from hotmesh_engine.schedule_slot s
    join hotmesh_engine.schedule k on k.schedule_key = s.schedule_key
    join hotmesh_engine.run r on r.run_id = s.run_id
   where r.workflow_id <> hotmesh_engine.slot_workflow_id(k.schedule_id, s.slot) or r.namespace_id <> k.namespace_id
$$;
comment on function hotmesh.check_invariants() is
  'What is wrong with the stored state, a row for each thing; no row = healthy. Reads whole tables.';
