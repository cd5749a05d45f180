-- What a person may ask. Payloads are shown as json and never taken apart: `json` can hold a text
-- that jsonb and ->> refuse (a NUL), and one such row would fail the view for all rows.

create or replace view hotmesh.workflows as
select n.name as namespace, r.workflow_id, r.run_id, r.workflow_type, q.name as task_queue,
       case when o.run_id is not null then hotmesh_engine.status_name(o.status)
            when t.quarantined then 'quarantined'
            when t.run_id is not null then 'troubled'
            when l.holder is not null then 'running'
            when l.due_at <= hotmesh.now() then 'ready'
            else 'waiting' end as status,
       l.priority, r.created_at, o.closed_at, o.expires_at,
       case when o.run_id is null and l.due_at < 'infinity' then l.due_at end as due_at,
       l.deadline, l.holder as worker_id, r.input,
       case when o.status = 1 then o.payload end as result,
       case when o.status > 1 then o.payload end as error,
       t.code as trouble_code, t.message as trouble, t.times as trouble_times, r.memo
  from hotmesh_engine.run r
  join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id
  join hotmesh_engine.queue q on q.queue_id = r.queue_id
  left join hotmesh_engine.outcome o on o.run_id = r.run_id
  left join hotmesh_engine.live l on l.run_id = r.run_id
  left join hotmesh_engine.trouble t on t.run_id = r.run_id;
comment on view hotmesh.workflows is 'Every run, open or closed within its retention.';

create or replace view hotmesh.history as
select n.name as namespace, r.workflow_id, j.run_id, j.seq, hotmesh_engine.event_name(j.kind) as event,
       j.command, j.at, j.payload, j.commands
  from hotmesh_engine.journal j
  join hotmesh_engine.run r on r.run_id = j.run_id
  join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id
union all
select n.name, r.workflow_id, o.run_id, null, hotmesh_engine.status_name(o.status), null, o.closed_at, o.payload, null
  from hotmesh_engine.outcome o
  join hotmesh_engine.run r on r.run_id = o.run_id
  join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id;
comment on view hotmesh.history is
  'What happened to each run, in the order in which its code saw it (seq); commands: [number, kind, name, digest] of what it asked for before.';

create or replace view hotmesh.activities as
select n.name as namespace, r.workflow_id, t.run_id, t.command, t.activity, coalesce(q.name, i.name) as task_queue, t.attempt,
       case when l.run_id is null then 'void' when t.holder is not null then 'running'
            when t.due_at = 'infinity' then 'quarantined' when t.due_at <= hotmesh.now() then 'ready' else 'backing off' end as status,
       t.scheduled_at, case when t.due_at < 'infinity' then t.due_at end as due_at, t.deadline, t.heartbeat_by, t.holder as worker_id, t.input, t.options,
       t.details as heartbeat_details, t.last_failure
  from hotmesh_engine.activity_task t
  join hotmesh_engine.run r on r.run_id = t.run_id
  join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id
  left join hotmesh_engine.queue q on q.queue_id = t.queue_id
  left join hotmesh_engine.stand_in i on i.queue_id = t.queue_id
  left join hotmesh_engine.live l on l.run_id = t.run_id;
comment on view hotmesh.activities is
  'Activities queued for another worker, waiting for a retry, or running for longer than a moment.';

create or replace view hotmesh.waiting as
select n.name as namespace, r.workflow_id, w.run_id, w.command,
       case w.kind when 'w' then 'signal' when 'a' then 'activity' when 't' then 'timer' else w.kind::text end as waits_for,
       w.key as name, w.due_at, w.grp as collation_group,
       exists (select from hotmesh_engine.inbox i where i.run_id = w.run_id and i.command = w.command) as arrived,
       coalesce((select u.reason from hotmesh_engine.undelivered u where u.run_id = w.run_id and coalesce(u.command, w.command) = w.command limit 1),
                (select t.message from hotmesh_engine.trouble t where t.run_id = w.run_id)) as trouble
  from hotmesh_engine.waiting w
  join hotmesh_engine.run r on r.run_id = w.run_id
  join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id;
comment on view hotmesh.waiting is
  'What open runs wait for; arrived: it is there, and the rest of its group is not; trouble: why it cannot arrive, or its run not go on. Timers of a run that a worker holds in memory are that worker''s and not listed.';

create or replace view hotmesh.signals as
select n.name as namespace, m.key as signal_id, m.place, m.sent_at, m.expires_at, m.payload,
       exists (select from hotmesh_engine.unrouted u where u.id = m.message_id) as pending, null as trouble
  from hotmesh_engine.message m
  join hotmesh_engine.namespace n on n.namespace_id = m.namespace_id
union all
select n.name, u.key, u.place, u.since, u.expires_at, u.payload, false, u.reason
  from hotmesh_engine.undelivered u
  join hotmesh_engine.namespace n on n.namespace_id = u.namespace_id;
comment on view hotmesh.signals is
  'Signals that nobody has taken; pending: not yet judged by routing (a worker does it, or hotmesh.route()); trouble: why it could not be delivered (hotmesh.redeliver).';

create or replace view hotmesh.queues as
select n.name as namespace, q.name as task_queue,
       (select count(*) from hotmesh_engine.live l where l.queue_id = q.queue_id and l.holder is null and l.due_at <= t.now) as ready,
       (select count(*) from hotmesh_engine.live l where l.queue_id = q.queue_id and l.holder is not null) as running,
       (select count(*) from hotmesh_engine.live l where l.queue_id = q.queue_id and l.holder is null and l.due_at > t.now) as waiting,
       (select min(l.due_at) from hotmesh_engine.live l where l.queue_id = q.queue_id and l.holder is null and l.due_at <= t.now) as oldest_ready,
       (select count(*) from hotmesh_engine.activity_task a where a.queue_id = q.queue_id and a.holder is null and a.due_at <= t.now) as activities_ready,
       (select count(*) from hotmesh_engine.worker w where not w.dead and w.beat_at > clock_timestamp() - w.lease and q.queue_id = any (w.queues)) as workers
  from hotmesh_engine.queue q
  join hotmesh_engine.namespace n on n.namespace_id = q.namespace_id
 cross join (select hotmesh.now() as now offset 0) t;
comment on view hotmesh.queues is 'Each task queue: what is ready, running and waiting, and how many workers serve it.';

create or replace view hotmesh.workers as
select w.worker_id, w.name, w.version,
       array(select q.name from hotmesh_engine.queue q where q.queue_id = any (w.queues) order by 1) as task_queues,
       case when w.dead then 'dead' when w.beat_at < clock_timestamp() - w.lease then 'silent'
            when s.asleep then 'idle' else 'busy' end as status,
       w.started_at, w.beat_at, w.lease,
       (select count(*) from hotmesh_engine.live l where l.holder = w.worker_id) as runs,
       (select count(*) from hotmesh_engine.activity_task t where t.holder = w.worker_id) as activities
  from hotmesh_engine.worker w
  left join hotmesh_engine.sleeper s on s.worker_id = w.worker_id;
comment on view hotmesh.workers is 'Worker incarnations of the last day.';

create or replace view hotmesh.schedules as
select n.name as namespace, k.schedule_id,
       case when k.paused then 'paused' when k.trouble_code is not null then 'troubled'
            when k.next_slot is null then 'over' else 'active' end as status,
       coalesce(k.cron, trim_scale(extract(epoch from k.every)) || ' seconds') as "interval", k.time_zone,
       k.workflow_type, q.name as task_queue, k.input,
       case when not k.paused then k.next_slot end as next_slot, case when k.due_at < 'infinity' then k.due_at end as due_at,
       k.last_slot, k.cycles, k.max_cycles, k.overlap,
       case when k.catchup is null then 'last' when k.catchup = '0' then 'none'
            else trim_scale(extract(epoch from k.catchup)) || ' seconds' end as catchup,
       k.jitter, k.execution_timeout, k.retention, k.priority, k.memo,
       hotmesh_engine.failures_in_a_row(k.schedule_key, k.counted_from) as failures, k.pause_after as pause_after_failures,
       (select count(*) from hotmesh_engine.schedule_slot s join hotmesh_engine.live l on l.run_id = s.run_id
         where s.schedule_key = k.schedule_key and s.decision = 's' and s.status is null) as open_runs,
       (select count(*) from hotmesh_engine.schedule_slot s
         where s.schedule_key = k.schedule_key and s.decision = 'b') as buffered,
       k.note, k.trouble_code, k.trouble, k.trouble_since, k.trouble_times, k.created_at, k.updated_at
  from hotmesh_engine.schedule k
  join hotmesh_engine.namespace n on n.namespace_id = k.namespace_id
  join hotmesh_engine.queue q on q.queue_id = k.queue_id;
comment on view hotmesh.schedules is
  'What runs again and again: when next, how it went; trouble: why it cannot fire (tried again at due_at); failures: runs in a row that failed.';

create or replace view hotmesh.firings as
select n.name as namespace, k.schedule_id, s.slot,
       case s.origin when 't' then 'trigger' when 'b' then 'backfill' else 'schedule' end as origin,
       case s.decision when 's' then 'started' when 'b' then 'buffered' when 'k' then 'skipped' when 'm' then 'missed'
            else 'refused' end as decision,
       case when s.decision = 's' then
         case when coalesce(s.status, o.status) is null then 'open'
              else coalesce(hotmesh_engine.status_name(coalesce(s.status, o.status)), 'unknown') end end as outcome,
       case when s.decision = 's' then hotmesh_engine.slot_workflow_id(k.schedule_id, s.slot) end as workflow_id, s.run_id,
       s.decided_at, coalesce(s.closed_at, o.closed_at) as closed_at, s.missed_until
  from hotmesh_engine.schedule_slot s
  join hotmesh_engine.schedule k on k.schedule_key = s.schedule_key
  join hotmesh_engine.namespace n on n.namespace_id = k.namespace_id
  left join hotmesh_engine.outcome o on o.run_id = s.run_id and s.status is null;
comment on view hotmesh.firings is
  'What became of each slot of each schedule: decision, and of the run that it started the outcome; a missed one stands for all until missed_until.';

create or replace view hotmesh.records as
select n.name as namespace, e.name as entity, r.id, r.data, r.version, r.created_at, r.updated_at,
       nullif(least(r.expires_at, (select o.expires_at from hotmesh_engine.outcome o
                                    where o.run_id = r.follows and o.expires_at < o.closed_at + interval '999 years')),
              'infinity') as expires_at,
       r.follows as run_id
  from hotmesh_engine.record r
  join hotmesh_engine.entity e on e.entity_id = r.entity_id
  join hotmesh_engine.namespace n on n.namespace_id = e.namespace_id
 where r.expires_at > (select hotmesh.now())
   and (r.follows is null or r.follows not in (select run_id from hotmesh_engine.outcome where expires_at <= (select hotmesh.now())));
comment on view hotmesh.records is
  'Documents of workflows; run_id: the workflow that it is kept with; expires_at: null if it is kept for good, or that is open. With typed columns: the views of schema hotmesh_data.';

create or replace view hotmesh.record_changes as
select n.name as namespace, e.name as entity, c.id, c.version, c.at, c.run_id, c.seq, c.command, c.changed, c.removed
  from hotmesh_engine.record_change c
  join hotmesh_engine.entity e on e.entity_id = c.entity_id
  join hotmesh_engine.namespace n on n.namespace_id = e.namespace_id;
comment on view hotmesh.record_changes is
  'Every change of a record: the new values of the fields that it touched, and which workflow made it at which row of its journal (null: from outside). In the order of version; of changes made at once, a later version may have the earlier at.';
