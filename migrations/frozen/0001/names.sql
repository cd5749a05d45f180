-- Names: interning, and the words for the numbers that the tables hold.
--
-- A name is looked up first and inserted only if it is new: `on conflict` alone would burn an
-- identity value and write for every call. Two creators of one name: the second waits for the
-- first's commit and then finds its row (a fresh statement of READ COMMITTED).

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
    insert into hotmesh_engine.queue (namespace_id, name) values (p_namespace_id, p_name)
      on conflict do nothing;
  end loop;
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
    when 7 then 'lease_lost' when 8 then 'cancel_requested' when 100 then 'dropped'
    else 'kind_' || p_kind end
$$;
