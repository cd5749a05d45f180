-- What of an entity's records can be searched: fields as declared, the indexes and the view that come of it.
--
--   create_search_index ──► declare_entity ──► index_plan ──► the client builds, one by one ──► make_view
--
-- A field has a type, and its values are converted into what is compared: in the index, in the view, and in
-- every query (searching.sql), by the same expression (key_of). A field that is missing, or that cannot be
-- converted, has no value.
--
-- Conversions are immutable and give null where they cannot convert: an index that raised would make
-- the write fail. They are SQL with a parsed body, which no search_path changes and which is inlined,
-- or PL/pgSQL with a path of their own.
--
-- Names (field, entity) match a pattern before they are taken, and format() quotes them.
--
-- Locks: declaring takes its entity's rows, for one short transaction; indexes are built by the client,
-- CONCURRENTLY, one builder at a time (search/indexes.py), which keeps records where they are meanwhile. A twin waits for
-- it without a snapshot and then finds all there. A crash leaves an invalid index, which the next caller replaces.

-- ------------------------------------------------------------------------------- conversions --

-- Text of anything but objects and arrays.
create or replace function hotmesh_engine.scalar(p_value jsonb) returns text
language sql immutable parallel safe
return case when jsonb_typeof(p_value) in ('string', 'number', 'boolean') then p_value #>> '{}' end;

-- A tag: such a text of at most 1,000 bytes, which every btree can hold. Written out, as each function that is
-- inlined is read from the catalog with each statement that is planned (scalar, twice: a fifth of the planning).
create or replace function hotmesh_engine.tag(p_value jsonb) returns text
language sql immutable parallel safe
return case when jsonb_typeof(p_value) in ('string', 'number', 'boolean') and octet_length(p_value #>> '{}') <= 1000
  then p_value #>> '{}' end;

-- A number, or a text that is one: within what a double can hold, to 340 decimal places. Nearly all are of the first kind.
-- Not for SQL: inlined it would be read and worked out two or three times for each statement that compares one, a tenth of
-- all that a search of a range takes. `cost` tells the planner what a call takes.
create or replace function hotmesh_engine.number(p_value jsonb) returns numeric
language plpgsql immutable parallel safe cost 30 set search_path = pg_catalog, pg_temp as $$
declare
  v_number numeric;
begin
  if jsonb_typeof(p_value) = 'number' then
    v_number := p_value::numeric;
    if abs(v_number) < 1e15 and scale(v_number) <= 340 then
      return v_number;
    end if;
  elsif jsonb_typeof(p_value) = 'string' and length(p_value #>> '{}') <= 600 and p_value #>> '{}' ~ '^-?[0-9]+([.][0-9]+)?$' then
    v_number := (p_value #>> '{}')::numeric;
  else
    return null;
  end if;
  if abs(v_number) > 1.797e308 then return null; end if;
  return case when scale(v_number) > 340 then round(v_number, 340) else v_number end;
end $$;

create or replace function hotmesh_engine.bool(p_value jsonb) returns boolean
language sql immutable parallel safe
return case p_value when 'true' then true when '"true"' then true when 'false' then false when '"false"' then false end;

-- A moment that is not written as `instant` takes it at once: seconds since 1970 as a number, or an ISO 8601 text (without an
-- offset: UTC), years 1 to 9999. Told by a pattern, which has no groups that capture: with them PostgreSQL takes 800 µs for
-- one text, without 10 for all of this.
create or replace function hotmesh_engine.odd_instant(p_value jsonb) returns timestamptz
language plpgsql immutable parallel safe cost 200 set search_path = pg_catalog, pg_temp as $$
declare
  v_text   text collate "C" := p_value #>> '{}';
  v_month  date;
  v_offset text;
  v_us     numeric;
  v_days   int;
  v_at     timestamptz;
begin
  case jsonb_typeof(p_value)
  when 'number' then
    v_us := round(p_value::numeric * 1000000);
    if v_us not between -62135596800000000 and 253402300799999999 then return null; end if;
    v_days := floor(v_us / 86400000000);              -- in two steps: an interval is multiplied as a double
    return ((date '1970-01-01' + v_days)::timestamp
            + (v_us - v_days::numeric * 86400000000)::bigint * interval '1 microsecond') at time zone 'UTC';
  when 'string' then
    if length(v_text) > 60 or v_text !~ ('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])'
         '([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?(Z|[+-](0[0-9]|1[0-5]):?[0-5][0-9])?)?$')
       or left(v_text, 4) = '0000' then
      return null;
    end if;
    v_month := make_date(left(v_text, 4)::int, substr(v_text, 6, 2)::int, 1);
    if substr(v_text, 9, 2)::int > 28 and substr(v_text, 9, 2)::int > (v_month + interval '1 month')::date - v_month then
      return null;
    end if;
    v_at := (v_month + (substr(v_text, 9, 2)::int - 1))::timestamp at time zone 'UTC';
    if substr(v_text, 20, 1) in ('Z', '+', '-') or (substr(v_text, 20, 1) = '.' and substr(v_text, 27, 1) in ('Z', '+', '-')) then
      v_at := v_text::timestamptz;                     -- as programs write it: no setting decides what that means
    elsif length(v_text) > 10 then
      v_at := v_at + make_interval(hours => substr(v_text, 12, 2)::int, mins => substr(v_text, 15, 2)::int);
      if substr(v_text, 17, 1) = ':' then
        v_at := v_at + make_interval(secs => substr(v_text, 18, 2)::double precision);
        if substr(v_text, 20, 1) in ('.', ',') then    -- places beyond the sixth are cut off
          v_at := v_at + rpad(substring(substr(v_text, 21, 6) from '^[0-9]+'), 6, '0')::int * interval '1 microsecond';
        end if;
      end if;
      v_offset := replace(substr(v_text, greatest(length(v_text) - 5, 17)), ':', '');   -- +hhmm, if there is one
      v_offset := case when left(v_offset, 1) in ('+', '-') then v_offset else substr(v_offset, 2) end;
      if left(v_offset, 1) in ('+', '-') then
        v_at := v_at - case left(v_offset, 1) when '-' then -1 else 1 end
          * make_interval(hours => substr(v_offset, 2, 2)::int, mins => substr(v_offset, 4, 2)::int);
      end if;
    end if;
    return case when v_at >= timestamptz '0001-01-01 00:00+00' and v_at < timestamptz '10000-01-01 00:00+00' then v_at end;
  else
    return null;
  end case;
end $$;

-- A moment, as this package and most programs write it, in UTC, read at once, in 1.5 µs: a search that is sorted by it does
-- so for each record that it returns. The text has its shape, and each byte that has to be a digit is one, of a time that
-- there is: nothing that is cast here can fail. (To look pieces of the text up in lists took one and a half times as long for
-- all of this, as did `translate`; a pattern, three times.) A letter of several bytes is none of these digits, so that the
-- bytes are where the shape says. Of its owner's rights, as it asks another by name: who may read
-- a view may not use this schema.
create or replace function hotmesh_engine.instant(p_value jsonb) returns timestamptz
language plpgsql immutable parallel safe security definer cost 200 set search_path = pg_catalog, pg_temp as $$
declare
  v_text text collate "C" := p_value #>> '{}';
  v      bytea;
begin
  if v_text like '20__-__-__T__:__:__%' then
    v := convert_to(v_text, 'UTF8');
    if get_byte(v, 2) between 48 and 57 and get_byte(v, 3) between 48 and 57                                            -- 00 to 99
       and (get_byte(v, 5) = 48 and get_byte(v, 6) between 49 and 57 or get_byte(v, 5) = 49 and get_byte(v, 6) between 48 and 50)
       and (get_byte(v, 8) = 48 and get_byte(v, 9) between 49 and 57 or get_byte(v, 8) = 49 and get_byte(v, 9) between 48 and 57
            or get_byte(v, 8) = 50 and get_byte(v, 9) between 48 and 56                                                 -- 01 to 28
            or (get_byte(v, 8) = 50 and get_byte(v, 9) = 57 or get_byte(v, 8) = 51 and get_byte(v, 9) = 48)
               and substr(v_text, 6, 2) <> '02'
            or get_byte(v, 8) = 51 and get_byte(v, 9) = 49 and substr(v_text, 6, 2) in ('01', '03', '05', '07', '08', '10', '12'))
       and (get_byte(v, 11) between 48 and 49 and get_byte(v, 12) between 48 and 57
            or get_byte(v, 11) = 50 and get_byte(v, 12) between 48 and 51)                                              -- 00 to 23
       and get_byte(v, 14) between 48 and 53 and get_byte(v, 15) between 48 and 57                                      -- 00 to 59
       and get_byte(v, 17) between 48 and 53 and get_byte(v, 18) between 48 and 57
       and (octet_length(v) = 25 and v_text like '%+00:00'
            or octet_length(v) = 32 and v_text like '%.______+00:00'
               and get_byte(v, 20) between 48 and 57 and get_byte(v, 21) between 48 and 57 and get_byte(v, 22) between 48 and 57
               and get_byte(v, 23) between 48 and 57 and get_byte(v, 24) between 48 and 57 and get_byte(v, 25) between 48 and 57
            or octet_length(v) = 20 and v_text like '%Z') then
      return v_text::timestamptz;
    end if;
  end if;
  return hotmesh_engine.odd_instant(p_value);
end $$;

-- ------------------------------------------------------------------------------ declaring --

create or replace function hotmesh_engine.invalid_query(p_message text, p_hint text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p_hint is null then
    raise exception using errcode = 'HM040', message = p_message;
  end if;
  raise exception using errcode = 'HM040', message = p_message, hint = p_hint;
end $$;

-- Notes what can be searched: [{"name", "type", "sortable", "config"}, ...]. New fields are added, and
-- those named again changed; others stay, for servers that still run an older schema.
create or replace function hotmesh_engine.declare_entity(p_namespace text, p_entity text, p_fields json) returns int
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_entity int;
  v_field  record;
begin
  if p_entity !~ '^[A-Za-z][A-Za-z0-9_-]{0,39}$' then
    perform hotmesh_engine.invalid_query(format('%L cannot be the name of an entity that is searched', left(p_entity, 200)),
      'A letter, then letters, digits, _ and -; at most 40.');
  end if;
  v_entity := hotmesh_engine.entity_id(hotmesh_engine.namespace_id(p_namespace), p_entity);
  perform from hotmesh_engine.entity where entity_id = v_entity for update;
  for v_field in
    select * from json_to_recordset(p_fields) f(name text, type text, sortable boolean, config text)
  loop
    if v_field.name is null or v_field.name !~ '^[A-Za-z_][A-Za-z0-9_]{0,39}$' or v_field.name ~ '^record_' then
      perform hotmesh_engine.invalid_query(format('%L cannot be the name of a field', left(v_field.name, 200)),
        'A letter or _, then letters, digits and _; at most 40; not beginning with record_.');
    elsif v_field.type is null or v_field.type not in ('TAG', 'TEXT', 'NUMERIC', 'BOOLEAN', 'TIMESTAMP') then
      perform hotmesh_engine.invalid_query(format('field %s has the unknown type %L', v_field.name, left(v_field.type, 200)),
        'Known: TAG, TEXT, NUMERIC, BOOLEAN, TIMESTAMP.');
    elsif not exists (select from pg_ts_config
                       where cfgname = coalesce(v_field.config, 'simple') and cfgnamespace = 'pg_catalog'::regnamespace) then
      perform hotmesh_engine.invalid_query(format('field %s has the unknown language %L', v_field.name, left(v_field.config, 200)),
        'A text search configuration of this server, such as english or simple.');
    end if;
    insert into hotmesh_engine.entity_field (entity_id, position, name, type, sortable, config)
    select v_entity, coalesce(max(position), 0) + 1, v_field.name, v_field.type, coalesce(v_field.sortable, false),
           coalesce(v_field.config, 'simple')
      from hotmesh_engine.entity_field where entity_id = v_entity
    on conflict (entity_id, name) do update
      set type = excluded.type, sortable = excluded.sortable, config = excluded.config;
  end loop;
  return v_entity;
end $$;

-- What a field's values are compared and sorted by. Of a text the first 200 characters.
create or replace function hotmesh_engine.key_of(p_type text, p_value text) returns text
language sql immutable parallel safe
return case p_type
  when 'TAG' then '(hotmesh_engine.tag(' || p_value || ') collate "C")'
  when 'TEXT' then '("left"(hotmesh_engine.scalar(' || p_value || '), 200) collate "C")'
  when 'NUMERIC' then 'hotmesh_engine.number(' || p_value || ')'
  when 'BOOLEAN' then 'hotmesh_engine.bool(' || p_value || ')'
  when 'TIMESTAMP' then 'hotmesh_engine.instant(' || p_value || ')' end;

create or replace function hotmesh_engine.words_of(p_config text, p_name text) returns text
language sql immutable parallel safe
return format('to_tsvector(%L::regconfig, "left"(hotmesh_engine.scalar(data -> %L), 100000))', 'pg_catalog.' || p_config, p_name);

-- Where an entity's records are. All of this file and of searching.sql looks there, and not into the whole.
create or replace function hotmesh_engine.table_of(p_entity int, p_own boolean) returns text
language sql immutable parallel safe
return 'hotmesh_engine.record_' || case when p_own then p_entity::text else 'rest' end;

-- Gives an entity that is declared before it has many records a table of its own, a partition: then only its own
-- writes keep its indexes, only its own searches consider them, and an index is built from its records alone (a find
-- took 3.0 ms of CPU beside fifteen entities of five indexes each, and 0.7 alone). Null if it has one, or why it has not.
-- One with more than 10,000 records stays where it is, as does all if there are more than a million of such: to move
-- records, and to look whether some are left, keeps others waiting. Indexes that it has where it was go with the move,
-- and its declaration makes them anew; until then its few records are searched without.
-- Locks: first, and only tried, that of those who build indexes: who builds has looked where. Then the row of the entity:
-- twenty servers that start declare it one after another, each with a commit, and nothing else waits meanwhile. Then the
-- whole, `record`, and then `record_rest`, both ACCESS EXCLUSIVE: they wait for all who read or wrote there, and those who
-- come for this. First the whole, although to attach a table takes less: who had looked up where its parts are, and then
-- waited for one of them, would not see what has moved to the new one. Then its view, if there is one. After a second (if
-- it has indexes already, which is nearly as good: after 0.2, as that may be at each start of each server), or 0.2 after
-- the first table (who read a shared one directly, and waits for the whole now, is in the way for ever), it is given up,
-- and the next declaration tries again.
-- Who reads a shared table directly, having found that the entity has no own, has a snapshot in which nothing has moved.
-- A crash leaves all as it was.
create or replace function hotmesh_engine.own_table(p_entity int) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  v_own  text := hotmesh_engine.table_of(p_entity, true);
  v_name text;
  v_gone text;
begin
  if (select own from hotmesh_engine.entity where entity_id = p_entity) then
    return null;
  elsif (select reltuples > 1000000 from pg_class where oid = 'hotmesh_engine.record_rest'::regclass) then
    return 'the table that entities share has more than 1,000,000 records, of which none are moved';
  elsif (select count(*) > 10000 from (select from hotmesh_engine.record_rest where entity_id = p_entity limit 10001) r) then
    return 'it has more than 10,000 records, too many to be moved';
  elsif not pg_try_advisory_xact_lock(1212370261) then   -- see LOCK_INDEXES in engine.py
    return 'indexes are built at this moment: the next declaration tries again';
  end if;
  begin
    set local lock_timeout = '10s';
    select name into v_name from hotmesh_engine.entity where entity_id = p_entity and not own for no key update;
    if not found then
      return null;
    end if;
    select string_agg(replace(remove, ' concurrently ', ' '), '; ') into v_gone from hotmesh_engine.index_plan(p_entity, '[]', '[]');
    perform set_config('lock_timeout', case when v_gone is null then '1s' else '200ms' end, true);
    lock table only hotmesh_engine.record in access exclusive mode;
    set local lock_timeout = '200ms';
    lock table hotmesh_engine.record_rest in access exclusive mode;
    update hotmesh_engine.entity set own = true where entity_id = p_entity;
    if v_gone is not null then
      execute v_gone;
    end if;
    execute format('create table %s (like hotmesh_engine.record including all excluding indexes)', v_own);
    execute format('with gone as (delete from hotmesh_engine.record_rest where entity_id = %s returning *) insert into %s select * from gone',
      p_entity, v_own);
    execute format('alter table hotmesh_engine.record attach partition %s for values in (%s)', v_own, p_entity);
    if to_regclass(format('hotmesh_data.%I', v_name)) is not null then   -- it may show them where they were
      perform hotmesh_engine.make_view(p_entity);
    end if;
    return null;
  exception
    when lock_not_available then                     -- with nothing done
      return 'others read or write records, and to wait for them kept all waiting: the next declaration tries again';
    when sqlstate 'HM040' then                       -- the view cannot be made: the declaration says so when all else is done
      return sqlerrm;
  end;
end $$;

-- The indexes of an entity: what p_fields (as declare_entity takes them; those that were declared last may be another
-- version's) and p_together ([[field, ...], ...]: those of which one index is made) ask for, and what is there besides.
-- state: ready, missing, invalid (an attempt that did not end), unused (no field asks for it).
-- In a table that it shares with others its indexes are partial, and beside each stands a statistics object of the
-- same name: PostgreSQL ignores what ANALYZE finds out about the expressions of a partial index, takes each condition
-- for one record in 200, and chose the index of a tag that nine of ten records have over that of a day (seen: 500 ms
-- instead of 2 among 20,000). Fields together need none: those of each field tell. Their index ends with the id, so
-- that records are read as they stand; but for two long texts, which leave it no room (a key has 2,700 bytes at most):
-- then records are sorted by it when they are read, which reads the others' fields once more.
create or replace function hotmesh_engine.index_plan(p_entity int, p_fields json, p_together json)
returns table (name text, state text, build text, remove text, is_index boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_own   boolean := (select own from hotmesh_engine.entity where entity_id = p_entity);
  v_table text := hotmesh_engine.table_of(p_entity, v_own);
begin
  return query
  with field as (
    select p_entity as entity_id, f.*, hotmesh_engine.key_of(f.type, format('(data -> %L)', f.name)) as key
      from json_to_recordset(p_fields) f(name text, type text, sortable boolean, config text)
  ), asked as (
    select format('search_%s_%s_%s', f.entity_id, f.name, lower(left(f.type, 3))) as name,
           f.key as expression, '(%s, id)' as what, 'entity_id, ' as beside
      from field f where f.type <> 'TEXT' or f.sortable
    union all
    select format('search_%s_%s_%s', f.entity_id, f.name, left(md5('words ' || f.config), 3)),
           hotmesh_engine.words_of(f.config, f.name), 'using gin (%s)', ''
      from field f where f.type = 'TEXT'
    union all
    select format('search_%s_%s_%s', p_entity, left(string_agg(f.name, '_' order by u.o), 40),
             left(md5(string_agg(f.name || ' ' || f.type, ', ' order by u.o)), 6)),
           string_agg(f.key, ', ' order by u.o),
           case when sum(case f.type when 'TAG' then 1000 when 'TEXT' then 800 when 'NUMERIC' then 340 else 8 end) <= 1600
                then '(%s, id)' else '(%s)' end, null
      from json_array_elements(p_together) with ordinality t(names, o)
     cross join lateral json_array_elements_text(t.names) with ordinality u(name, o)
      join field f on f.name = u.name
     group by t.o
  ), wanted as (
    select name, true as is_index,
           format('create index concurrently if not exists %I on %s ' || what, name, v_table, expression)
             || case when v_own then '' else format(' where entity_id = %s', p_entity) end as build
      from asked
    union all
    select name, false,
           format('create statistics if not exists hotmesh_engine.%I %son %s(%s) from %s',
             name, case when beside <> '' then '(mcv) ' else '' end, beside, expression, v_table)
      from asked where beside is not null and not v_own
  ), there as (
    select c.relname::text as name, true as is_index, i.indisvalid
      from pg_index i join pg_class c on c.oid = i.indexrelid
     where i.indrelid = v_table::regclass and c.relname like format('search\_%s\_%%', p_entity)
    union all
    select s.stxname::text, false, true
      from pg_statistic_ext s
     where s.stxrelid = v_table::regclass and s.stxname like format('search\_%s\_%%', p_entity)
  )
  select name,
         case when w.build is null then 'unused' when t.indisvalid is null then 'missing'
              when t.indisvalid then 'ready' else 'invalid' end,
         w.build,
         format(case when is_index then 'drop index concurrently if exists hotmesh_engine.%I'
                     else 'drop statistics if exists hotmesh_engine.%I' end, name),
         is_index
    from wanted w full join there t using (name, is_index)
   order by is_index desc, name;
end $$;

-- That a record has not lapsed with its run: a set of those few whose retention is over and that nobody has
-- pruned yet, looked up once a statement.
create or replace function hotmesh_engine.kept_sql(p_now text) returns text
language sql immutable parallel safe
return format('(follows is null or follows not in (select run_id from hotmesh_engine.outcome where expires_at <= %s))', p_now);

-- The view of an entity's records with typed columns, those of all namespaces under one name.
-- Fields stand behind what every view has, in the order in which they came, so that a new one is appended: then the
-- view is replaced, and what is granted on it, or built upon it, stays. A column keeps its type as long as some
-- namespace declares its field so, and then gets that of the namespace that is the oldest: nobody changes by a
-- declaration of his own what others' queries see. What cannot be converted into that type is null there.
-- A type that does change needs a new view, which gets the owner, the grants, the comments and the options of the
-- former; if others build upon that, nothing is done, and said (HM040).
create or replace function hotmesh_engine.make_view(p_entity int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_name    text := (select name from hotmesh_engine.entity where entity_id = p_entity);
  v_view    text := format('hotmesh_data.%I', v_name);
  v_ends    text :=                                  -- with its run, too; to which 'infinity' is 1000 years. As in hotmesh.records
    'nullif(least(expires_at, (select o.expires_at from hotmesh_engine.outcome o '
    'where o.run_id = follows and o.expires_at < o.closed_at + interval ''999 years'')), ''infinity'')';
  v_columns text;
  v_options text;
  v_made    text;
  v_kept    text;
  v_why     text;
  v_who     text;
begin
  perform pg_advisory_xact_lock(1212370260);         -- 'HMWT': two makers of one view
  select string_agg(format(', %s as %I', case type when 'TEXT' then format('hotmesh_engine.scalar(data -> %L)', name)
                                                   else hotmesh_engine.key_of(type, format('(data -> %L)', name)) end, name), ''
                    order by place, first)
    into v_columns from (
    select f.name, c.attnum as place, min((f.entity_id::bigint << 20) + f.position) as first,
           coalesce(max(f.type) filter (where f.type = c.type), (array_agg(f.type order by f.entity_id))[1]) as type
      from hotmesh_engine.entity e join hotmesh_engine.entity_field f using (entity_id)
      left join (select attname, attnum,
                        case atttypid when 'numeric'::regtype then 'NUMERIC' when 'boolean'::regtype then 'BOOLEAN'
                                      when 'timestamptz'::regtype then 'TIMESTAMP'
                                      else case attcollation when '"C"'::regcollation then 'TAG' else 'TEXT' end end as type
                   from pg_attribute where attrelid = to_regclass(v_view)) c on c.attname = f.name
     where e.name = v_name group by f.name, c.attnum) f;
  select string_agg(
      format('select %L::text as record_namespace, id as record_id, data as record_data, created_at as record_created_at, '
             'updated_at as record_updated_at, %s as record_expires_at%s from %s '
             'where entity_id = %s and expires_at > (select hotmesh.now()) and %s',
             n.name, v_ends, v_columns, hotmesh_engine.table_of(e.entity_id, e.own), e.entity_id,
             hotmesh_engine.kept_sql('(select hotmesh.now())')), ' union all ' order by e.entity_id)
    into v_made
    from hotmesh_engine.entity e join hotmesh_engine.namespace n using (namespace_id)
   where e.name = v_name and (e.entity_id = p_entity
     or exists (select from hotmesh_engine.entity_field f where f.entity_id = e.entity_id));
  select ' with (' || array_to_string(reloptions, ', ') || ')' into v_options from pg_class where oid = to_regclass(v_view);
  v_made := concat(' view ', v_view, v_options, ' as ', v_made);
  if to_regclass(v_view) is null then
    execute concat('create', v_made, '; comment on view ', v_view, ' is ', quote_literal(
      'Records that can be searched, of all namespaces (record_namespace); record_expires_at: null if it is kept for good, or its workflow is open.'));
    return;
  end if;
  begin
    execute 'create or replace' || v_made;
    return;
  exception when invalid_table_definition then
    v_why := sqlerrm;
  end;
  select string_agg(s, '; ') into v_kept from pg_class c cross join lateral (
    select format('alter view %s owner to %s', v_view, relowner::regrole)
    union all
    select format('grant %s%s on %s to %s%s', x.privilege_type, ' (' || quote_ident(a.name) || ')', v_view,
             case x.grantee when 0 then 'public' else x.grantee::regrole::text end, case when x.is_grantable then ' with grant option' end)
      from (select null as name, relacl as acl union all select attname, attacl from pg_attribute where attrelid = c.oid) a
     cross join lateral aclexplode(a.acl) x
    union all
    select format('comment on view %s is %L', v_view, obj_description(c.oid, 'pg_class'))
    union all
    select format('comment on column %s.%I is %L', v_view, attname, col_description(c.oid, attnum))
      from pg_attribute where attrelid = c.oid) x(s)
   where c.oid = to_regclass(v_view);
  execute concat('drop view ', v_view, '; create', v_made, '; ', v_kept);
exception when dependent_objects_still_exist then
  get stacked diagnostics v_who = pg_exception_detail;
  raise exception using errcode = 'HM040',
    message = format('the view %s stays as it was: %s, and %s', v_view, v_why, v_who),
    hint = 'Drop what depends on it, declare again, and make it anew. Searches and their indexes have the new types already.';
end $$;
