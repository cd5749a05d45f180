-- Cron expressions: when is the next time?
--
--   ┌ second (optional: 6 fields)   0-59
--   │ ┌ minute                      0-59
--   │ │ ┌ hour                      0-23
--   │ │ │ ┌ day of month            1-31   L the last, 5-L, 15W the weekday nearest to the 15th
--   │ │ │ │ ┌ month                 1-12   jan-dec
--   │ │ │ │ │ ┌ day of week         0-7    sun-sat; 0 and 7 are Sunday; fri#2 the second, L5 the last Friday
--   0 0 3 * * mon-fri
--
-- Each field: `*`, numbers, names, ranges `a-b`, steps `*/n`, `a/n`, `a-b/n`, and lists of these; `?` for `*`
-- in the two fields of days. @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually. Small and
-- capital letters are alike. The meaning is that of croniter, which the tests compare with (but that it counts L as one
-- more day when it looks whether all are listed):
--   * Are both days restricted, a day that fits one of them fits. (With `#`, `L5` or `W` that one decides.)
--   * A range may wrap around (fri-mon, 22-4). One that ends where it begins (mon-mon) is the whole field.
--   * `a/n` begins at a and ends with the field.
--
-- In a time zone with summer time:
--   * An expression that leaves the hour open (`*` or `*/n` in that field, or all 24) goes by elapsed time: each
--     real instant whose local time fits. So */15 is every 15 minutes, through both shifts.
--   * Otherwise it goes by the local clock: a time that the shift leaves out runs at the shift, once, however
--     many it leaves out; a time that comes twice runs the first time.
-- Shifts are looked for within a day, as PostgreSQL itself does.
--
-- Expressions are read in cron_read.sql. No locks, no writes, nothing to lose in a crash.
--
-- A field is a text of a digit for each value (minute 0 is character 1): its next value is
-- `strpos(substr(field, from), '1')`, two calls in C. The inner functions leave the search path to those who
-- call them: a `set` clause costs some 5 µs a call (measured: 48 µs instead of 94 for `0 3 * * mon-fri`).
-- A call of cron_next (PostgreSQL 18, 2 cores shared with others, the best of 32 rounds; `make bench ARGS="--only cron"`
-- has medians, up to twice as much while others work): `*/5 * * * *` 24 µs, in Europe/Berlin 37 µs, `0 3 * * *` 24 µs,
-- there 34 µs, `0 3 * * mon-fri` 47 µs, `*/10 * * * * *` 26 µs, `0 0 * * fri#2` 83 µs, `0 0 29 2 *` 35 µs, `0 0 30 2 *`
-- (never) 180 µs; 16 to 33 µs of these are reading.

-- The next time after `after` at which the expression is due; null if there is none until the end of the
-- 50th year after it. HM027 says what is wrong with an expression, at which field and position.
create or replace function hotmesh.cron_next(expression text, after timestamptz, time_zone text default 'UTC')
returns timestamptz
language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp as $$
begin
  if time_zone is distinct from 'UTC' then
    perform hotmesh_engine.check_zone(time_zone);
  end if;
  return hotmesh_engine.cron_after(hotmesh_engine.read_cron(expression), after, time_zone);
end $$;
comment on function hotmesh.cron_next(text, timestamptz, text) is
  'The next time that a cron expression (5 fields, or 6 with seconds first) is due after another; null: never, within 50 years.';

create or replace function hotmesh_engine.check_zone(p_zone text) returns void
language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp as $$
declare
  v_names text[];
  v_near  text;
begin
  perform timestamptz 'epoch' at time zone p_zone;
  if p_zone is null then
    raise exception using errcode = 'HM027', message = 'the time zone is null', hint = 'Leave it out for UTC.';
  end if;
exception when invalid_parameter_value then
  -- the names that share the longest beginning with it
  select array_agg(name) into v_names from pg_timezone_names where name !~ '^(posix|right)/';
  for v_length in reverse length(p_zone)..3 loop
    select string_agg(name, ', ') into v_near
      from (select name from unnest(v_names) name
             where left(lower(name), v_length) = lower(left(p_zone, v_length)) order by name limit 3) n;
    exit when v_near is not null;
  end loop;
  if v_near is null then
    select string_agg(name, ', ') into v_near
      from (select name from unnest(v_names) name where split_part(lower(name), '/', -1) = lower(p_zone) order by name limit 3) n;
  end if;
  raise exception using errcode = 'HM027', message = format('unknown time zone %s', quote_literal(left(p_zone, 200))),
    hint = coalesce('Near: ' || v_near || '.', 'pg_timezone_names lists them.');
end $$;

-- The next local time that fits, after another; null if none comes until the 50th year after it.
create or replace function hotmesh_engine.cron_local(c hotmesh_engine.cron, p_after timestamp) returns timestamp
language plpgsql immutable parallel safe as $$
declare
  v_from   timestamp := case when c.seconds is null then date_trunc('minute', p_after) + interval '1 minute'
                             else date_trunc('second', p_after) + interval '1 second' end;
  v_year   int := date_part('year', v_from);
  v_month  int := date_part('month', v_from);
  v_day    int := date_part('day', v_from);
  v_hour   int := date_part('hour', v_from);
  v_minute int := date_part('minute', v_from);
  v_second int := 0;
  v_last   int := v_year + 50;
  v_today  int := v_day;          -- 0 once another day has been reached: then its first time counts
  v_days   int;
  v_skip   int;                   -- 1: the value itself fits; 0: no further one does
begin
  if c.seconds is not null then
    v_second := date_part('second', v_from);
    v_skip := strpos(substr(c.seconds, v_second + 1), '1');
    if v_skip = 0 then
      v_minute := v_minute + 1;
      v_second := strpos(c.seconds, '1') - 1;
    else
      v_second := v_second + v_skip - 1;
    end if;
  end if;
  v_skip := strpos(substr(c.minutes, v_minute + 1), '1');
  if v_skip = 0 then
    v_hour := v_hour + 1;
    v_minute := strpos(c.minutes, '1') - 1;
  else
    v_minute := v_minute + v_skip - 1;
  end if;
  if v_skip <> 1 and c.seconds is not null then
    v_second := strpos(c.seconds, '1') - 1;
  end if;
  v_skip := strpos(substr(c.hours, v_hour + 1), '1');
  if v_skip = 0 then
    v_day := v_day + 1;
    v_today := 0;
  elsif v_skip > 1 then
    v_hour := v_hour + v_skip - 1;
    v_minute := strpos(c.minutes, '1') - 1;
    if c.seconds is not null then v_second := strpos(c.seconds, '1') - 1; end if;
  end if;

  loop
    v_skip := strpos(substr(c.months, v_month + 1), '1');
    if v_skip <> 1 then
      v_today := 0;
      v_day := 1;
      if v_skip > 1 then
        v_month := v_month + v_skip - 1;
      else
        v_year := v_year + 1;
        v_month := strpos(c.months, '1') - 1;
      end if;
    end if;
    if v_year > v_last or v_month < 1 then return null; end if;
    v_days := case v_month
      when 2 then 28 + (v_year % 4 = 0 and (v_year % 100 <> 0 or v_year % 400 = 0))::int
      when 4 then 30 when 6 then 30 when 9 then 30 when 11 then 30 else 31 end;
    v_skip := case when v_day > v_days then 0 when c.rule = '*' then 1
                   else hotmesh_engine.cron_day(c, v_year, v_month, v_day, v_days) end;
    exit when v_skip > 0;
    v_today := 0;
    v_day := 1;
    v_month := v_month + 1;
  end loop;

  v_day := v_day + v_skip - 1;
  if v_day <> v_today then
    v_hour := strpos(c.hours, '1') - 1;
    v_minute := strpos(c.minutes, '1') - 1;
    if c.seconds is not null then v_second := strpos(c.seconds, '1') - 1; end if;
  end if;
  return make_timestamp(v_year, v_month, v_day, v_hour, v_minute, v_second);
end $$;

-- Of a month with so many days: 1 if the day fits, 2 if the next one does, ...; 0 if none from it on.
create or replace function hotmesh_engine.cron_day(
  c hotmesh_engine.cron, p_year int, p_month int, p_day int, p_days int
) returns int
language plpgsql immutable parallel safe as $$
declare
  v_weekday int := (make_date(p_year, p_month, p_day) - date '2000-01-02') % 7;      -- that was a Sunday
  v_left    int := p_days - p_day + 1;
  v_found   int := 100;
  v_day     int := p_day;
  v_near    int;
begin
  v_weekday := (v_weekday + 7) % 7;
  if c.rule in ('m', 'b') then                              -- by day of month, or by both
    v_found := coalesce(nullif(strpos(substr(c.days, p_day + 1, v_left), '1'), 0), 100);
    if left(c.days, 1) = '1' then v_found := least(v_found, v_left); end if;
  end if;
  if c.rule in ('w', 'b') then
    v_found := least(v_found, strpos(substr(c.weekdays, v_weekday + 1), '1'));
  end if;
  if c.rule in ('m', 'w', 'b') then
    return case when v_found <= v_left then v_found else 0 end;
  end if;

  -- the nth weekday, the nearest one: day by day
  if c.nearest is not null then
    v_near := least(c.nearest, p_days);
    v_near := v_near + case extract(isodow from make_date(p_year, p_month, v_near))
      when 6 then case when v_near > 1 then -1 else 2 end
      when 7 then case when v_near < p_days then 1 else -2 end else 0 end;
  end if;
  while v_day <= p_days loop
    if (v_near is null or v_day = v_near)
       and (c.nth = '' or strpos(c.nth, format('%s#%s ', v_weekday, (v_day + 6) / 7)) > 0
            or v_day > p_days - 7 and strpos(c.nth, format('%s#L ', v_weekday)) > 0)
       and (c.rule <> 'x' or substr(c.days, v_day + 1, 1) = '1' or left(c.days, 1) = '1' and v_day = p_days) then
      return v_day - p_day + 1;
    end if;
    v_day := v_day + 1;
    v_weekday := (v_weekday + 1) % 7;
  end loop;
  return 0;
end $$;

-- The same in real time, in a zone. Raises 22023 if there is no such zone.
create or replace function hotmesh_engine.cron_after(c hotmesh_engine.cron, p_after timestamptz, p_zone text)
returns timestamptz
language plpgsql stable parallel safe as $$
declare
  v_after timestamptz := p_after;                 -- up to there it is not due, and then only after v_from
  v_from  timestamp := p_after at time zone p_zone;
  v_local timestamp;
  v_at    timestamptz;
  v_near  timestamptz;
  v_shift timestamptz;
begin
  if p_after is null or not isfinite(p_after) then return null; end if;
  if p_zone = 'UTC' then
    return hotmesh_engine.cron_local(c, v_from) at time zone 'UTC';
  end if;
  loop
    v_local := hotmesh_engine.cron_local(c, v_from);
    if v_local is null then return null; end if;

    if c.elapsed then
      v_at := (v_local - hotmesh_engine.zone_offset(v_after, p_zone)) at time zone 'UTC';
      v_near := least(v_at, v_after + interval '1 day');
      if hotmesh_engine.zone_offset(v_near, p_zone) <> hotmesh_engine.zone_offset(v_after, p_zone) then
        v_after := hotmesh_engine.zone_shift(p_zone, v_after, v_near);   -- from there the local clock shows
        v_from := (v_after at time zone p_zone) - interval '1 microsecond';   -- something else
        continue;
      end if;
      if v_near = v_at then return v_at; end if;
    end if;

    -- PostgreSQL takes a local time that is left out by the offset before the shift, so it comes to lie after
    -- it; and of one that comes twice the second.
    v_at := v_local at time zone p_zone;
    if v_at at time zone p_zone <> v_local then
      v_shift := hotmesh_engine.zone_shift(p_zone, v_at - interval '1 day', v_at);
      if not c.elapsed and v_shift > p_after then return v_shift; end if;
      v_after := v_shift;
      v_from := case when c.elapsed then (v_shift at time zone p_zone) - interval '1 microsecond'
                     else greatest(v_local, v_shift at time zone p_zone) end;
      continue;
    end if;
    v_shift := (v_local - hotmesh_engine.zone_offset(v_at - interval '1 day', p_zone)) at time zone 'UTC';
    if v_shift < v_at and v_shift at time zone p_zone = v_local then
      v_at := v_shift;                            -- the first of two
    end if;
    if v_at > p_after then return v_at; end if;
    -- p_after lies in the second pass of an hour that comes twice: all of it has run
    v_shift := hotmesh_engine.zone_shift(p_zone, p_after - interval '1 day', p_after);
    v_from := greatest(v_local, (v_shift - interval '1 microsecond') at time zone p_zone);
  end loop;
end $$;

create or replace function hotmesh_engine.zone_offset(p_at timestamptz, p_zone text) returns interval
language sql immutable parallel safe as $$
  select (p_at at time zone p_zone) - (p_at at time zone 'UTC')
$$;

-- The instant between two at which the offset changes, the first one of the new offset.
create or replace function hotmesh_engine.zone_shift(p_zone text, p_from timestamptz, p_to timestamptz) returns timestamptz
language plpgsql immutable parallel safe as $$
declare
  v_from   timestamptz := p_from;
  v_to     timestamptz := p_to;
  v_middle timestamptz;
  v_offset interval := hotmesh_engine.zone_offset(p_to, p_zone);
begin
  while v_to - v_from > interval '1 second' loop
    v_middle := v_from + (v_to - v_from) / 2;
    if hotmesh_engine.zone_offset(v_middle, p_zone) = v_offset then
      v_to := v_middle;
    else
      v_from := v_middle;
    end if;
  end loop;
  return date_trunc('second', v_to);
end $$;
