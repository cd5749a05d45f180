-- Names: interning, and the words for the numbers that the tables hold.
--
-- A name is looked up first and inserted only if it is new: `on conflict` alone would burn an
-- identity value and write for every call. Two creators of one name: the second waits for the
-- first's commit and then finds its row (a fresh statement of READ COMMITTED). A turn, which waits for nobody,
-- asks queue_or_stand_in: who makes a queue holds the advisory lock of its name, which can be tried.

create or replace function hotmesh_engine.namespace_id(p_name text) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id int;
begin
  loop
    select namespace_id into v_id from hotmesh_engine.namespace where name = p_name;
    if found then return v_id; end if;
    perform hotmesh_engine.check_name('namespace', p_name);
    insert into hotmesh_engine.namespace (name) values (p_name) on conflict do nothing;
  end loop;
end $$;

create or replace function hotmesh_engine.queue_id(p_namespace_id int, p_name text) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id int;
begin
  loop
    select queue_id into v_id from hotmesh_engine.queue
     where namespace_id = p_namespace_id and name = p_name;
    if found then return v_id; end if;
    perform hotmesh_engine.check_name('task queue', p_name);
    perform pg_advisory_xact_lock(1212370262, hotmesh_engine.queue_lock(p_namespace_id, p_name));
    insert into hotmesh_engine.queue (namespace_id, name) values (p_namespace_id, p_name)
      on conflict do nothing;
  end loop;
end $$;

-- The second key of a queue name's advisory lock; its class is 1212370262, 'HMWV'.
create or replace function hotmesh_engine.queue_lock(p_namespace_id int, p_name text) returns int
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select hashtext(p_namespace_id || ':' || p_name)
$$;

-- The same for who must not wait, which may be for as long as a user's transaction is open: a number that
-- stands in for the queue if somebody is making it at this moment. What is queued there moves to the queue
-- when that is known (name_queues).
create or replace function hotmesh_engine.queue_or_stand_in(p_namespace_id int, p_name text) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_id int;
begin
  select queue_id into v_id from hotmesh_engine.queue where namespace_id = p_namespace_id and name = p_name;
  if found then return v_id; end if;
  perform hotmesh_engine.check_name('task queue', p_name);
  if pg_try_advisory_xact_lock(1212370262, hotmesh_engine.queue_lock(p_namespace_id, p_name)) then
    return hotmesh_engine.queue_id(p_namespace_id, p_name);
  end if;
  insert into hotmesh_engine.stand_in (queue_id, namespace_id, name)
  values (nextval('hotmesh_engine.queue_queue_id_seq'), p_namespace_id, p_name)
  returning queue_id into v_id;
  return v_id;
end $$;

-- Ids go into btree keys (2.7 kB at most) and are read by people: 1 to 1,000 bytes.
create or replace function hotmesh_engine.check_name(p_what text, p_name text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if p_name is null or octet_length(p_name) not between 1 and 1000 then
    raise exception using errcode = 'HM003',
      message = format('%s must have 1 to 1000 bytes, this one has %s', p_what, coalesce(octet_length(p_name), 0)),
      hint = 'Use a shorter id, for example a hash or a UUID.';
  end if;
end $$;

-- What SQL callers pass as JSON, judged as the Python client judges its own: at most 2 MB, and nothing
-- that a reader would refuse or change (NUL, lone surrogates, numbers beyond 64 bits or a double).
-- The type json has checked no more than the syntax. Searched as jsonb, kept as json.
create or replace function hotmesh_engine.check_payload(p_what text, p_value json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_value  jsonb;
  v_reason text;
begin
  if octet_length(p_value::text) > 2097152 then
    v_reason := format('%s bytes of JSON, at most 2097152', octet_length(p_value::text));
  else
    begin
      v_value := p_value::jsonb;
    exception when data_exception or program_limit_exceeded then
      v_reason := sqlerrm;
    end;
  end if;
  if jsonb_path_exists(v_value, '$.** ? (@.type() == "number" && (@ > 1.797e308 || @ < -1.797e308))') then
    v_reason := 'a number that no double can hold';
  elsif p_value::text ~ '\d{19}' and exists (                  -- 1e300 is no integer: it is written as a double
      select from regexp_matches(regexp_replace(p_value::text, '"([^"\\]|\\.)*"', '""', 'g'),
                                 '(?:^|[][,:{\s])(-?\d{19,})(?=\s*(?:$|[],}]))', 'g') m
       where m[1]::numeric not between -9223372036854775808 and 18446744073709551615) then
    v_reason := 'an integer of more than 64 bits';
  end if;
  if v_reason is not null then
    raise exception using errcode = 'HM003', message = format('%s: %s', p_what, v_reason),
      hint = 'Pass it as text, or store it elsewhere and pass its id.';
  end if;
end $$;

create or replace function hotmesh_engine.status_name(p_status smallint) returns text
language sql immutable parallel safe as $$
  select case p_status
    when 1 then 'completed' when 2 then 'failed' when 3 then 'cancelled'
    when 4 then 'interrupted' when 5 then 'timed_out' end
$$;

create or replace function hotmesh_engine.event_name(p_kind smallint) returns text
language sql immutable parallel safe as $$
  select case p_kind
    when 1 then 'started' when 2 then 'activity_completed' when 3 then 'activity_failed'
    when 4 then 'timer_fired' when 5 then 'signal_received' when 6 then 'commands'
    when 7 then 'lease_lost' when 8 then 'cancel_requested'
    when 20 then 'record_answered' when 21 then 'record_refused' when 100 then 'dropped'
    else 'kind_' || p_kind end
$$;
