-- Time. Every function reads workflow time here; leases read clock_timestamp() themselves.
-- The result is put into a variable and enters statements as a value: with a function call in a
-- predicate the claim index could not be searched by its due time.

-- PL/pgSQL, not SQL: before PostgreSQL 18 a SQL function that cannot be inlined is planned anew with
-- each call (measured: 40 µs against 4). Of its owner's rights, as views call it: of a view's tables PostgreSQL asks
-- whether its owner may read them, of what its functions read whether the reader may, who has been granted the view alone.
create or replace function hotmesh.now() returns timestamptz
language plpgsql volatile parallel safe security definer set search_path = pg_catalog, pg_temp as $$
begin
  return clock_timestamp() + (select ahead from hotmesh_engine.clock);
end $$;
comment on function hotmesh.now() is 'The engine''s time: the server''s clock, plus what tests have skipped.';

-- Seconds since the Unix epoch as a double: exact to the microsecond until the year 2255.
-- Stable like date_part, or it would not be inlined.
create or replace function hotmesh_engine.epoch(p_at timestamptz) returns double precision
language sql stable parallel safe as $$
  select date_part('epoch', p_at)
$$;

-- Test environments move the clock; workers see it with their next turn.
create or replace function hotmesh_engine.skip(p_by interval) returns timestamptz
language sql volatile set search_path = pg_catalog, pg_temp as $$
  update hotmesh_engine.clock set ahead = ahead + p_by;
  select hotmesh_engine.wake_all();
  select hotmesh.now();
$$;
