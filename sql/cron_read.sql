-- Reading cron expressions, and saying what is wrong with one, in which field and at which position.
--
-- The grammar and its meaning stand at the head of cron.sql. What croniter refuses is refused here; a little
-- more is: chance (`R`, `H`), and a 0 at the end of a range of days or months.
--
-- No locks, no writes, nothing to lose in a crash.

-- An expression, read. HM027 if it is none.
create or replace function hotmesh_engine.read_cron(p_expression text) returns hotmesh_engine.cron
language plpgsql immutable parallel safe as $$
declare
  v_text  text := lower(p_expression);
  v_words text[];
  v_first int;                    -- the field of the minutes
  v_field text;
  v_plain text;
  v_star_day     boolean;
  v_star_weekday boolean;
  c       hotmesh_engine.cron;
begin
  if p_expression is null then
    raise exception using errcode = 'HM027', message = 'the cron expression is null';
  end if;
  if strpos(v_text, '@') > 0 and v_text ~ '^\s*@' then
    v_text := case btrim(v_text, E' \t\n\r\f\x0b')
      when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *'
      when '@yearly' then '0 0 1 1 *' when '@annually' then '0 0 1 1 *' end;
    if v_text is null then
      raise exception using errcode = 'HM027', message = format('not a cron expression: %s', quote_literal(left(p_expression, 200))),
        hint = 'There are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.';
    end if;
  end if;
  v_words := array_remove(string_to_array(translate(v_text, E'\t\n\r\f\x0b', '     '), ' '), '');
  if cardinality(v_words) not between 5 and 6 then
    raise exception using errcode = 'HM027',
      message = format('a cron expression has 5 fields, or 6 with seconds first; %s has %s',
                       quote_literal(left(p_expression, 200)), cardinality(v_words)),
      hint = 'minute, hour, day of month, month, day of week: ''30 3 * * mon-fri''.';
  end if;
  v_first := cardinality(v_words) - 4;
  if v_first = 2 then
    c.seconds := hotmesh_engine.cron_field(p_expression, 'second', 1, 0, v_words[1], 0, 59);
  end if;
  c.minutes := hotmesh_engine.cron_field(p_expression, 'minute', v_first, 0, v_words[v_first], 0, 59);
  v_field := v_words[v_first + 1];
  c.hours := hotmesh_engine.cron_field(p_expression, 'hour', v_first + 1, 0, v_field, 0, 23);
  c.elapsed := v_field ~ '(^|,)\*' or strpos(c.hours, '0') = 0;

  -- the days
  v_field := v_words[v_first + 2];
  if v_field in ('*', '?') then
    v_star_day := true;
    c.days := '0' || repeat('1', 31);
  elsif v_field ~ '^(\d+w|w\d+)$' then
    c.nearest := least(btrim(v_field, 'w')::numeric, 99);
    if c.nearest not between 1 and 31 then
      perform hotmesh_engine.refuse_cron(p_expression, 'day of month', v_first + 2, 0, v_field,
        'the day is out of range', 'Days are 1 to 31.');
    end if;
    v_star_day := false;
    c.days := repeat('0', 32);
  else
    c.days := hotmesh_engine.cron_field(p_expression, 'day of month', v_first + 2, 0, v_field, 1, 31);
    -- as croniter has it: all days by number are 'any day' only beside a field of weekdays with a *
    v_star_day := v_field ~ '(^|,)\*(,|$)'
                  or strpos(substr(c.days, 2), '0') = 0 and strpos(v_words[v_first + 4], '*') > 0;
  end if;

  c.months := hotmesh_engine.cron_field(p_expression, 'month', v_first + 3, 0, v_words[v_first + 3], 1, 12);

  v_field := v_words[v_first + 4];
  if v_field = '?' then v_field := '*'; end if;
  c.nth := '';
  v_plain := v_field;
  if v_field ~ '#|l\d' then
    select nth, plain into c.nth, v_plain
      from hotmesh_engine.cron_nth(p_expression, v_first + 4, 0, v_field);
  end if;
  c.weekdays := case v_plain when '' then repeat('0', 7) when '*' then repeat('1', 7) else
    hotmesh_engine.cron_field(p_expression, 'day of week', v_first + 4, 0, v_plain, 0, 6) end;
  if c.nth <> '' and strpos(c.weekdays, '0') > 0 and exists (
      select from generate_series(0, 6) d where substr(c.weekdays, d + 1, 1) = '1' and strpos(c.nth, d || '#') = 0) then
    perform hotmesh_engine.refuse_cron(p_expression, 'day of week', v_first + 4, 0, v_field,
      'weekdays and nth weekdays cannot be mixed', 'Make two schedules.');
  end if;
  v_star_weekday := v_field ~ '(^|,)\*(,|$)' or strpos(c.weekdays, '0') = 0 and strpos(v_words[v_first + 2], '*') > 0;
  if c.nth <> '' and strpos(v_words[v_first + 2], '*') > 0 then             -- nth weekdays may be all of them, too
    v_star_weekday := v_star_weekday or not exists (
      select from generate_series(0, 6) d where substr(c.weekdays, d + 1, 1) = '0' and strpos(c.nth, d || '#') = 0);
  end if;

  if c.nth = '' and c.nearest is null then
    c.rule := case when v_star_day and v_star_weekday then '*' when v_star_day then 'w' when v_star_weekday then 'm' else 'b' end;
  else
    c.rule := case when c.nearest is null and v_star_weekday and not v_star_day then 'x' else 'n' end;
    -- croniter searches for both sides and gives up if one of them never comes
    if not v_star_day and not v_star_weekday
       and (c.nearest is not null and c.nth = '' and strpos(substr(c.weekdays, 2, 5), '1') = 0
            or c.nearest is null and not hotmesh_engine.cron_meets(c)) then
      c.months := repeat('0', 13);
    end if;
  end if;
  c.weekdays := c.weekdays || c.weekdays;        -- a week to look ahead from any day of it
  return c;
end $$;

-- Whether some day of the month can be an nth weekday. Over the years each date falls on each weekday.
create or replace function hotmesh_engine.cron_meets(c hotmesh_engine.cron) returns boolean
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from generate_series(1, 12) m
      cross join lateral (select case m when 2 then 29 when 4 then 30 when 6 then 30 when 9 then 30 when 11 then 30 else 31 end) l(days)
      cross join generate_series(1, 31) d
     where substr(c.months, m + 1, 1) = '1' and d <= days
       and (substr(c.days, d + 1, 1) = '1' or left(c.days, 1) = '1' and d >= days - (m = 2)::int)
       and (strpos(c.nth, format('#%s ', (d + 6) / 7)) > 0 or d > days - 7 - (m = 2)::int and strpos(c.nth, '#L ') > 0))
$$;

-- The elements `fri#2` and `L5` of the weekdays, as '5#2 5#L '; and the rest.
create or replace function hotmesh_engine.cron_nth(p_expression text, p_number int, p_at int, p_text text, out nth text, out plain text)
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_element text;
  v_at      int := p_at;
  v_parts   text[];
  v_days    text;
begin
  nth := '';
  plain := '';
  foreach v_element in array string_to_array(p_text, ',') loop
    v_parts := regexp_match(v_element, '^(?:(\w+|[a-z]{3}-[a-z]{3})#|l)(\d+)$');
    if v_parts is null then
      plain := plain || ',' || v_element;
    else
      -- 1 to 5 for `#`; for L the number is the weekday
      if v_parts[1] is not null and (length(v_parts[2]) > 4 or v_parts[2]::int not between 1 and 5) then
        perform hotmesh_engine.refuse_cron(p_expression, 'day of week', p_number, v_at, v_element,
          format('a month has no weekday number %s', v_parts[2]), 'Write #1 to #5, or L5 for the last Friday.');
      end if;
      v_days := hotmesh_engine.cron_field(p_expression, 'day of week', p_number,
        v_at + case when v_parts[1] is null then 1 else 0 end, coalesce(v_parts[1], v_parts[2]), 0, 6);
      for d in 0..6 loop
        if substr(v_days, d + 1, 1) = '1' then
          nth := nth || d || '#' || case when v_parts[1] is null then 'L ' else v_parts[2]::int || ' ' end;
        end if;
      end loop;
    end if;
    v_at := v_at + length(v_element) + 1;
  end loop;
  plain := substr(plain, 2);
end $$;

-- One field as a text of digits, one for each value from 0 or, for days and months, with character 1 for
-- the last day of the month and unused.
create or replace function hotmesh_engine.cron_field(
  p_expression text, p_name text, p_number int, p_at int, p_text text, p_low int, p_high int
) returns text
language plpgsql immutable parallel safe as $$
declare
  v_field   text := repeat('0', p_high + 1);
  v_element text;
  v_at      int := p_at;
  v_parts   text[];
  v_low     int;
  v_high    int;
  v_step    int;
  v_value   int;
  v_skip    int;
begin
  if p_text = '*' then
    return repeat('0', p_low) || repeat('1', p_high - p_low + 1);
  end if;
  if p_text ~ '^\d\d?$' and p_text::int between p_low and p_high then
    return overlay(v_field placing '1' from p_text::int + 1 for 1);
  end if;
  if p_text ~ '^\*/[1-9]\d?$' then
    v_step := substr(p_text, 3)::int;
    return repeat('0', p_low) || left(repeat(rpad('1', v_step, '0'), 60), p_high - p_low + 1);
  end if;
  foreach v_element in array string_to_array(p_text, ',') loop
    if v_element = '*' then
      v_field := overlay(v_field placing repeat('1', p_high - p_low + 1) from p_low + 1);
    elsif v_element = 'l' and p_name = 'day of month' then
      v_field := overlay(v_field placing '1' from 1 for 1);
    elsif v_element ~ '^(\d+|[a-z]+)$' then
      v_low := hotmesh_engine.cron_value(p_expression, p_name, p_number, v_at, v_element, p_low, p_high);
      v_field := overlay(v_field placing '1' from v_low + 1 for 1);
    else
      v_parts := regexp_match(v_element, '^(?:\*|(\d+|[a-z]+)(?:-(\d+|[a-z]+))?)(?:/(\d+))?$');
      if v_parts is null then
        perform hotmesh_engine.refuse_cron(p_expression, p_name, p_number, v_at, v_element,
          case when v_element = '' then 'an element of the list is missing'
               when v_element ~ '^-' then 'a value cannot be negative'
               when v_element ~ '\?' then '? stands alone, for any day' else 'it cannot be understood' end,
          format('Write *, %s, %s-%s, */2, or a list of these.', p_low + 1, p_low + 1, p_low + 3));
      end if;
      v_step := case when length(v_parts[3]) > 6 then 999999 else coalesce(v_parts[3]::int, 1) end;
      if v_step = 0 then
        perform hotmesh_engine.refuse_cron(p_expression, p_name, p_number, v_at, v_element, 'a step cannot be 0',
          format('Write */2 for every second %s.', p_name));
      end if;
      if v_parts[1] is null then
        v_low := p_low;
        v_high := p_high;
      else
        v_low := hotmesh_engine.cron_value(p_expression, p_name, p_number, v_at, v_parts[1], p_low, p_high);
        if v_parts[2] is null then
          v_high := p_high;
        else
          v_high := case when p_name = 'day of month' and v_parts[2] = 'l' then 31
            else hotmesh_engine.cron_value(p_expression, p_name, p_number, v_at + length(v_parts[1]) + 1, v_parts[2], p_low, p_high) end;
          if v_low = v_high then
            v_low := p_low;
            v_high := p_high;
          end if;
        end if;
      end if;
      v_value := v_low;
      while v_value <= case when v_low <= v_high then v_high else p_high end loop
        v_field := overlay(v_field placing '1' from v_value + 1 for 1);
        v_value := v_value + v_step;
      end loop;
      if v_low > v_high then
        -- It wraps around. Where the step goes over the end croniter goes on one later than the step
        -- would: 22-4/3 is 22 and 2.
        v_value := v_value - v_step;                                    -- the last one before the end
        v_skip := p_high - v_value;
        v_value := p_low + case when v_value - p_low + v_step > p_high - p_low + 1 and v_skip < v_step then v_step - v_skip else 0 end;
        while v_value <= v_high loop
          v_field := overlay(v_field placing '1' from v_value + 1 for 1);
          v_value := v_value + v_step;
        end loop;
      end if;
    end if;
    v_at := v_at + length(v_element) + 1;
  end loop;
  return v_field;
end $$;

-- One value: a number or a name.
create or replace function hotmesh_engine.cron_value(
  p_expression text, p_name text, p_number int, p_at int, p_text text, p_low int, p_high int
) returns int
language plpgsql immutable parallel safe as $$
declare
  v_value int;
  v_names text[];
  v_near  text;
begin
  if p_text ~ '^\d' then
    v_value := case when length(p_text) > 9 then 999999999 else p_text::int end;
    if v_value = 7 and p_name = 'day of week' then return 0; end if;
    if v_value between p_low and p_high then return v_value; end if;
    perform hotmesh_engine.refuse_cron(p_expression, p_name, p_number, p_at, p_text, format('%s is out of range', p_text),
      format('The field %s takes %s to %s.', p_name, p_low, case p_name when 'day of week' then 7 else p_high end));
  end if;
  if p_name = 'month' then
    v_names := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    v_value := array_position(v_names, p_text);
  elsif p_name = 'day of week' then
    v_names := '{sun,mon,tue,wed,thu,fri,sat}';
    v_value := array_position(v_names, p_text) - 1;
  end if;
  if v_value is null then
    -- the letters of one in another order, or its beginning
    select name into v_near from unnest(v_names) with ordinality n(name, o)
     order by (select string_agg(a, '' order by a) from regexp_split_to_table(name, '') a)
              <> (select string_agg(a, '' order by a) from regexp_split_to_table(left(p_text, 50), '') a),
              left(name, 2) <> left(p_text, 2), o limit 1;
    if left(v_near, 1) <> left(p_text, 1) then v_near := null; end if;
    perform hotmesh_engine.refuse_cron(p_expression, p_name, p_number, p_at, p_text,
      format('%s is no %s', quote_literal(left(p_text, 50)), p_name),
      coalesce(format('Did you mean %s? ', v_near), '') || case p_name when 'month' then 'Months are 1 to 12 or jan to dec.'
        when 'day of week' then 'Weekdays are 0 to 7 or sun to sat; fri#2 is the second Friday of a month, L5 the last.'
        when 'day of month' then 'Days are 1 to 31; L is the last one.' else format('The field %s takes %s to %s.', p_name, p_low, p_high) end);
  end if;
  return v_value;
end $$;

-- `p_number`: of the field, from 1; `p_at`: where the part begins in it, from 0.
create or replace function hotmesh_engine.refuse_cron(
  p_expression text, p_name text, p_number int, p_at int, p_part text, p_reason text, p_hint text
) returns void
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_at int := regexp_instr(p_expression, E'[^ \t\n\r\f\x0b]+', 1, p_number) + p_at;
begin
  raise exception using errcode = 'HM027',
    message = format('not a cron expression: %s: %s (field %s, position %s): %s',
                     quote_literal(left(p_expression, 200)), p_name, p_number, v_at, p_reason),
    detail = E'\n' || left(translate(p_expression, E'\t\n\r\f\x0b', '     '), 200) || E'\n'
             || repeat(' ', least(v_at, 200) - 1) || repeat('^', greatest(1, least(length(p_part), 50))),
    hint = p_hint;
end $$;
