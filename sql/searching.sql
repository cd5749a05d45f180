-- Searching records: queries as the statements that they become, and what carries them out.
--
-- Here SQL is made of what comes from outside. It enters a statement in one of two ways: a value is an
-- element of `$1`, a jsonb array; a name (field, entity, metric) has been found in a table or matched a
-- pattern before format() quotes it. There is no third way.
--
-- A query is JSON: {"field", "is", "value"}, {"and": [...]}, {"or": [...]}, {"not": ...}, {"all": true},
-- or an array, which is an `and`. Field and value go through the same conversion (indexes.sql), so a query
-- compares what an index holds. Of a field without a value no comparison holds, and every negation does.
--
-- Locks: none but those of reading.

-- ------------------------------------------------------------------------------- conditions --

-- The SQL of a query; its values are appended to p_values.
create or replace function hotmesh_engine.condition(
  p_entity int, p_query jsonb, inout p_values jsonb, p_depth int, out r_sql text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_keys  text[];
  v_parts text[] := '{}';
  v_one   record;
  v_word  text;
begin
  if p_depth > 50 or jsonb_array_length(p_values) > 2000 then
    perform hotmesh_engine.invalid_query('the query is nested too deeply, or has too many conditions', 'At most 50 levels and 2,000 values.');
  end if;
  if jsonb_typeof(p_query) = 'array' then
    p_query := jsonb_build_object('and', p_query);
  end if;
  v_keys := case when jsonb_typeof(p_query) = 'object' then array(select jsonb_object_keys(p_query)) end;
  if v_keys = '{all}' then
    r_sql := 'true';
  elsif v_keys <@ '{field,is,value}' and v_keys @> '{field,is}' then
    select * into p_values, r_sql from hotmesh_engine.comparison(p_entity, p_query, p_values);
  elsif v_keys = '{not}' then
    select * into p_values, r_sql from hotmesh_engine.condition(p_entity, p_query -> 'not', p_values, p_depth + 1);
    r_sql := format('((%s) is not true)', r_sql);
  elsif (v_keys = '{and}' or v_keys = '{or}') and jsonb_typeof(p_query -> v_keys[1]) = 'array' then
    v_word := v_keys[1];
    for v_one in select value from jsonb_array_elements(p_query -> v_word) loop
      select * into p_values, r_sql from hotmesh_engine.condition(p_entity, v_one.value, p_values, p_depth + 1);
      v_parts := v_parts || format('(%s)', r_sql);
    end loop;
    r_sql := coalesce(nullif(array_to_string(v_parts, format(' %s ', v_word)), ''), case v_word when 'and' then 'true' else 'false' end);
  else
    perform hotmesh_engine.invalid_query(format('not a condition: %s', left(coalesce(p_query::text, 'null'), 200)),
      'A condition is {"field", "is", "value"}, {"and": [...]}, {"or": [...]} or {"not": ...}.');
  end if;
end $$;

create or replace function hotmesh_engine.field_of(p_entity int, p_name text) returns hotmesh_engine.entity_field
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_field hotmesh_engine.entity_field;
begin
  select * into v_field from hotmesh_engine.entity_field where entity_id = p_entity and name = p_name;
  if not found then
    perform hotmesh_engine.invalid_query(format('there is no field %L to search', left(p_name, 200)),
      'Declared: ' || coalesce((select string_agg(name, ', ' order by position) from hotmesh_engine.entity_field where entity_id = p_entity), 'none')
      || '. See create_search_index.');
  end if;
  return v_field;
end $$;

-- The key of a value of the query; refuses what its field's type cannot hold.
create or replace function hotmesh_engine.value_key(
  p_field hotmesh_engine.entity_field, p_value jsonb, inout p_values jsonb, out r_sql text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not coalesce(case p_field.type
       when 'TAG' then hotmesh_engine.tag(p_value) is not null
       when 'TEXT' then hotmesh_engine.scalar(p_value) is not null
       when 'NUMERIC' then hotmesh_engine.number(p_value) is not null
       when 'BOOLEAN' then hotmesh_engine.bool(p_value) is not null
       when 'TIMESTAMP' then hotmesh_engine.instant(p_value) is not null end, false) then
    perform hotmesh_engine.invalid_query(
      format('field %s is %s, which cannot be %s', p_field.name, p_field.type, left(coalesce(p_value::text, 'nothing'), 200)),
      case when jsonb_typeof(p_value) = 'array' then 'A list goes with `in`, or with a range: [from, to].'
           else case p_field.type
             when 'TAG' then 'A text of at most 1,000 bytes, a number, true or false.'
             when 'TEXT' then 'A text, a number, true or false.'
             when 'NUMERIC' then 'A number, or a text such as "2.50".'
             when 'BOOLEAN' then 'true or false.'
             when 'TIMESTAMP' then 'ISO 8601 (2026-01-31T12:00:00+00:00), or seconds since 1970.' end end);
  end if;
  r_sql := hotmesh_engine.key_of(p_field.type, format('($1 -> %s)', jsonb_array_length(p_values)));
  p_values := p_values || jsonb_build_array(p_value);
end $$;

-- Words of which the last is only begun; null where there is no word.
create or replace function hotmesh_engine.prefix_query(p_config regconfig, p_text text) returns tsquery
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_words tsquery := phraseto_tsquery(p_config, p_text);
begin
  return case when numnode(v_words) > 0 then (v_words::text || ':*')::tsquery end;
end $$;

create or replace function hotmesh_engine.comparison(
  p_entity int, p_query jsonb, inout p_values jsonb, out r_sql text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_field hotmesh_engine.entity_field := hotmesh_engine.field_of(p_entity, p_query ->> 'field');
  v_is    text := p_query ->> 'is';
  v_value jsonb := p_query -> 'value';
  v_key   text := hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name));
  v_parts text[] := '{}';
  v_one   record;
  v_sql   text;
begin
  if v_is in ('=', '!=', 'in') then
    if v_is <> 'in' then
      v_value := jsonb_build_array(v_value);
    elsif jsonb_typeof(v_value) is distinct from 'array' then
      perform hotmesh_engine.invalid_query(format('field %s: the value of `in` must be a list', v_field.name));
    end if;
    for v_one in select value from jsonb_array_elements(v_value) loop
      if v_one.value = 'null' then
        v_parts := v_parts || format('(nullif(data -> %L, ''null'') is null)', v_field.name);
        continue;
      end if;
      select * into p_values, v_sql from hotmesh_engine.value_key(v_field, v_one.value, p_values);
      v_parts := v_parts || case when v_field.type = 'TEXT'
        then format('(%s = %s and hotmesh_engine.scalar(data -> %L) = hotmesh_engine.scalar($1 -> %s))',
                    v_key, v_sql, v_field.name, jsonb_array_length(p_values) - 1)
        else format('%s = %s', v_key, v_sql) end;
    end loop;
    r_sql := coalesce(nullif(array_to_string(v_parts, ' or '), ''), 'false');
    if v_is = '!=' then
      r_sql := format('((%s) is not true)', r_sql);
    end if;

  elsif v_is in ('<', '<=', '>', '>=', '[]', '[)', '(]', '()') and v_field.type <> 'BOOLEAN' then
    if v_is in ('<', '<=', '>', '>=') then
      v_value := case when v_is in ('<', '<=') then jsonb_build_array(null, v_value) else jsonb_build_array(v_value, null) end;
      if v_value in ('[null, null]', '[null]') then
        perform hotmesh_engine.invalid_query(format('field %s: %s needs a value', v_field.name, v_is));
      end if;
      v_is := case v_is when '<' then '[)' when '<=' then '[]' when '>' then '(]' else '[]' end;
    elsif jsonb_typeof(v_value) is distinct from 'array' or jsonb_array_length(v_value) <> 2 then
      perform hotmesh_engine.invalid_query(format('field %s: the value of a range must be [from, to]', v_field.name),
        'null, "-inf" and "+inf" leave a side open.');
    end if;
    if v_value -> 0 not in ('null', '"-inf"') then
      select * into p_values, v_sql from hotmesh_engine.value_key(v_field, v_value -> 0, p_values);
      v_parts := v_parts || hotmesh_engine.bound_sql(v_field, v_key, case left(v_is, 1) when '(' then '>' else '>=' end, v_sql, p_values);
    end if;
    if v_value -> 1 not in ('null', '"+inf"', '"inf"') then
      select * into p_values, v_sql from hotmesh_engine.value_key(v_field, v_value -> 1, p_values);
      v_parts := v_parts || hotmesh_engine.bound_sql(v_field, v_key, case right(v_is, 1) when ')' then '<' else '<=' end, v_sql, p_values);
    end if;
    r_sql := coalesce(nullif(array_to_string(v_parts, ' and '), ''), format('%s is not null', v_key));

  elsif v_is in ('match', 'prefix') and v_field.type in ('TEXT', 'TAG') and (v_field.type = 'TEXT' or v_is = 'prefix') then
    if jsonb_typeof(v_value) is distinct from 'string' or octet_length(v_value #>> '{}') not between 1 and 1000 then
      perform hotmesh_engine.invalid_query(format('field %s: %s needs a text of 1 to 1,000 bytes', v_field.name, v_is));
    end if;
    r_sql := case
      when v_field.type = 'TAG' then format('%s ^@ ($1 ->> %s)', v_key, jsonb_array_length(p_values))
      when v_is = 'match' then format('%s @@ phraseto_tsquery(%L::regconfig, $1 ->> %s)',
        hotmesh_engine.words_of(v_field.config, v_field.name), 'pg_catalog.' || v_field.config, jsonb_array_length(p_values))
      else format('%s @@ hotmesh_engine.prefix_query(%L::regconfig, $1 ->> %s)',
        hotmesh_engine.words_of(v_field.config, v_field.name), 'pg_catalog.' || v_field.config, jsonb_array_length(p_values)) end;
    p_values := p_values || jsonb_build_array(v_value);

  else
    perform hotmesh_engine.invalid_query(
      format('field %s is %s, which has no operator %L', v_field.name, v_field.type, left(v_is, 200)),
      'Known: = != in; < <= > >= [] [) (] () but for BOOLEAN; prefix for TAG and TEXT; match for TEXT.');
  end if;
end $$;

-- One side of a range. The key of a text is its beginning: it narrows, and the whole text decides.
create or replace function hotmesh_engine.bound_sql(
  p_field hotmesh_engine.entity_field, p_key text, p_operator text, p_value text, p_values jsonb
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_field.type = 'TEXT' then
    return format('%s %s %s and hotmesh_engine.scalar(data -> %L) collate "C" %s hotmesh_engine.scalar($1 -> %s)',
      p_key, left(p_operator, 1) || '=', p_value, p_field.name, p_operator, jsonb_array_length(p_values) - 1);
  end if;
  return format('%s %s %s', p_key, p_operator, p_value);
end $$;

-- ------------------------------------------------------------------------------- statements --

-- A query as a condition on `record`, with the values that it refers to.
create or replace function hotmesh_engine.where_sql(
  p_namespace text, p_entity text, p_query json, out r_entity int, out r_sql text, out r_values jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_query jsonb;
begin
  r_entity := hotmesh_engine.known_entity(p_namespace, p_entity);
  if r_entity is null then
    perform hotmesh_engine.invalid_query(
      format('there is no entity %L in namespace %L', left(p_entity, 200), left(p_namespace, 200)),
      'There are: ' || coalesce((select string_agg(name, ', ' order by name) from (
          select e.name from hotmesh_engine.entity e join hotmesh_engine.namespace n using (namespace_id)
           where n.name = p_namespace order by e.name limit 20) x), 'none')
      || '. create_search_index declares one; the first record makes one too.');
  end if;
  begin
    v_query := p_query::jsonb;
  exception when data_exception or program_limit_exceeded then
    perform hotmesh_engine.invalid_query(format('the query cannot be read: %s', sqlerrm));
  end;
  select * into r_values, r_sql from hotmesh_engine.condition(r_entity, coalesce(v_query, '[]'), '[]', 1);
  r_sql := format('entity_id = %s and expires_at > $2 and %s and (%s)', r_entity, hotmesh_engine.kept_sql('$2'), r_sql);
end $$;

-- The statements of a search. $1 values, $2 now, $3 fields, $4 limit, $5 offset, $6 where to go on.
-- r_first: records that have the field that is sorted by (all, if there is none); r_second: those
-- without, which come last. Sorted by (key, id), as the index is, or by id. Only the page's last record
-- tells its key, for the next page to begin at: a moment takes 8 µs to convert (seen: 0.8 ms a page).
create or replace function hotmesh_engine.find_sql(
  p_namespace text, p_entity text, p_query json, p_sort text, p_descending boolean, p_pick boolean, p_after jsonb,
  out r_first text, out r_second text, out r_values jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_where   record;
  v_field   hotmesh_engine.entity_field;
  v_key     text;
  v_data    text := case when p_pick
    then '(select coalesce(jsonb_object_agg(f, data -> f), ''{}'') from unnest($3) f where data ? f)::text' else 'data::text' end;
  v_way     text := case when p_descending then 'desc' else 'asc' end;
  v_op      text := case when p_descending then '<' else '>' end;
  v_query   jsonb;
  v_ranged  boolean;
  v_by_id   text := format(' order by id %s limit $4 offset $5', v_way);
  v_past_id text := format(' and id %s ($6 ->> ''id'')', v_op);
begin
  select * into v_where from hotmesh_engine.where_sql(p_namespace, p_entity, p_query);
  r_values := v_where.r_values;
  if p_sort is null then
    r_first := format('select id, %s, null::text from hotmesh_engine.record where %s', v_data, v_where.r_sql)
      || case when p_after is null then '' else v_past_id end || v_by_id;
    return;
  end if;
  v_field := hotmesh_engine.field_of(v_where.r_entity, p_sort);
  if v_field.type = 'TEXT' and not v_field.sortable then
    perform hotmesh_engine.invalid_query(format('field %s is a TEXT that is not sortable', v_field.name), 'Declare it with sortable=True.');
  end if;
  v_key := hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name));
  -- What lies in a range, or after something, is not null; to look once more costs a conversion a record, and to
  -- look for those without it a whole search.
  v_query := p_query;
  v_query := case when jsonb_typeof(v_query -> 'and') = 'array' then v_query -> 'and' else v_query end;
  v_ranged := exists (
    select from jsonb_array_elements(case when jsonb_typeof(v_query) = 'array' then v_query else '[]' end) c
     where c ->> 'field' = p_sort and c ->> 'is' in ('<', '<=', '>', '>=', '[]', '[)', '(]', '()'));
  if p_after -> 'key' is null or p_after -> 'key' <> 'null' then
    r_first := format('select id, %s, case row_number() over () when $4 then to_jsonb(%s)::text end'
                      ' from (select id, data from hotmesh_engine.record where %s', v_data, v_key, v_where.r_sql)
      || case when v_ranged or p_after is not null then '' else format(' and %s is not null', v_key) end;
    if p_after is not null then
      r_first := r_first || format(' and (%s, id) %s (%s, ($6 ->> ''id'') collate "C")', v_key, v_op,
        hotmesh_engine.key_of(v_field.type, '($6 -> ''key'')'));
    end if;
    r_first := r_first || format(' order by %s %s, id %s limit $4 offset $5) x', v_key, v_way, v_way);
  end if;
  if not v_ranged then
    r_second := format('select id, %s, null::text from hotmesh_engine.record where %s and %s is null', v_data, v_where.r_sql, v_key)
      || case when p_after -> 'key' = 'null' then v_past_id else '' end || v_by_id;
  end if;
end $$;

create or replace function hotmesh_engine.check_page(p_start int, p_size int, p_after jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_size is null or p_size not between 0 and 10000 then
    perform hotmesh_engine.invalid_query(format('size must be 0 to 10000, not %s', coalesce(p_size::text, 'null')), 'Go on with the next page.');
  elsif p_start is null or p_start not between 0 and 100000 then
    perform hotmesh_engine.invalid_query(format('start must be 0 to 100000, not %s', coalesce(p_start::text, 'null')), 'Deep lists go on after the last page (after=).');
  elsif p_after is not null and (jsonb_typeof(p_after) <> 'object' or jsonb_typeof(p_after -> 'id') is distinct from 'string'
                                 or p_after -> 'key' is null or jsonb_typeof(p_after -> 'key') in ('object', 'array')) then
    perform hotmesh_engine.invalid_query('this is not where a page ended', 'Pass the page''s own mark, unchanged.');
  end if;
end $$;

-- Records that fit a query: id and document (or the named fields of it) as text; with the last of a page its sort key.
create or replace function hotmesh_engine.find(
  p_namespace text, p_entity text, p_query json, p_sort text default null, p_descending boolean default false,
  p_start int default 0, p_size int default 100, p_fields text[] default null, p_after json default null
) returns table (id text, data text, key text)
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set client_min_messages = 'warning' as $$
#variable_conflict use_column
declare
  v_now  timestamptz := hotmesh.now();
  v_mark jsonb := p_after;
  v_sql  record;
  v_got  int := 0;
  v_skip bigint := p_start;
begin
  perform hotmesh_engine.check_page(p_start, p_size, v_mark);
  select * into v_sql from hotmesh_engine.find_sql(p_namespace, p_entity, p_query, p_sort, p_descending, p_fields is not null, v_mark);
  if v_sql.r_first is not null then
    return query execute v_sql.r_first using v_sql.r_values, v_now, p_fields, p_size, v_skip, v_mark;
    get diagnostics v_got = row_count;
  end if;
  if v_sql.r_second is null or v_got >= p_size then
    return;
  end if;
  if v_got > 0 then
    v_skip := 0;
  elsif v_skip > 0 and v_sql.r_first is not null then
    execute format('select greatest($5 - count(*), 0) from (%s) x', replace(v_sql.r_first, ' limit $4 offset $5', ' limit $5'))
      into v_skip using v_sql.r_values, v_now, p_fields, p_size, v_skip, v_mark;
  end if;
  return query execute v_sql.r_second using v_sql.r_values, v_now, p_fields, p_size - v_got, v_skip, v_mark;
end $$;

create or replace function hotmesh_engine.count_records(p_namespace text, p_entity text, p_query json) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp set client_min_messages = 'warning' as $$
declare
  v_where record;
  v_count bigint;
begin
  select * into v_where from hotmesh_engine.where_sql(p_namespace, p_entity, p_query);
  execute format('select count(*) from hotmesh_engine.record where %s', v_where.r_sql)
    into v_count using v_where.r_values, hotmesh.now();
  return v_count;
end $$;

-- How a search would be carried out: the plan as JSON, without executing it.
create or replace function hotmesh_engine.explain_find(
  p_namespace text, p_entity text, p_query json, p_sort text default null, p_descending boolean default false,
  p_size int default 100, p_after json default null
) returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp set client_min_messages = 'warning' as $$
declare
  v_mark jsonb := p_after;
  v_sql  record;
  v_plan json;
begin
  perform hotmesh_engine.check_page(0, p_size, v_mark);
  select * into v_sql from hotmesh_engine.find_sql(p_namespace, p_entity, p_query, p_sort, p_descending, false, v_mark);
  execute 'explain (format json) ' || coalesce(v_sql.r_first, v_sql.r_second) into v_plan
    using v_sql.r_values, hotmesh.now(), null::text[], p_size, 0::bigint, v_mark;
  return v_plan;
end $$;

-- Groups and their figures, a JSON object each. p_metrics: {"name": {"of": function, "field", "at"}}; functions:
-- count, distinct, sum, avg, min, max, quantile (at: 0 to 1, interpolated).
create or replace function hotmesh_engine.aggregate(
  p_namespace text, p_entity text, p_query json, p_groups text[], p_metrics json, p_size int default 1000
) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set client_min_messages = 'warning' as $$
declare
  v_where   record;
  v_one     record;
  v_field   hotmesh_engine.entity_field;
  v_key     text;
  v_columns text[] := '{}';
  v_groups  text[] := '{}';
  v_sql     text;
begin
  perform hotmesh_engine.check_page(0, p_size, null);
  select * into v_where from hotmesh_engine.where_sql(p_namespace, p_entity, p_query);
  for v_one in select name from unnest(p_groups) name loop
    v_field := hotmesh_engine.field_of(v_where.r_entity, v_one.name);
    v_columns := v_columns || format('data -> %L as %I', v_field.name, v_field.name);
    v_groups := v_groups || format('data -> %L', v_field.name);
  end loop;
  for v_one in
    select m.key, m.value ->> 'of' as of, m.value ->> 'field' as field, m.value -> 'at' as at from json_each(p_metrics) m
  loop
    if v_one.key !~ '^[A-Za-z_][A-Za-z0-9_]{0,39}$' or v_one.key = any (p_groups) then
      perform hotmesh_engine.invalid_query(format('%L cannot be the name of a figure', left(v_one.key, 200)));
    elsif v_one.of = 'count' and v_one.field is null then
      v_columns := v_columns || format('count(*) as %I', v_one.key);
      continue;
    end if;
    v_field := hotmesh_engine.field_of(v_where.r_entity, v_one.field);
    v_key := hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name));
    if v_one.of is null or v_one.of not in ('count', 'distinct', 'sum', 'avg', 'min', 'max', 'quantile')
       or (v_one.of in ('sum', 'avg', 'quantile') and v_field.type <> 'NUMERIC')
       or (v_one.of in ('min', 'max') and v_field.type = 'BOOLEAN') then
      perform hotmesh_engine.invalid_query(format('there is no %L of %s, which is %s', left(v_one.of, 200), v_field.name, v_field.type),
        'count and distinct of any field; min and max but for BOOLEAN; sum, avg and quantile of NUMERIC.');
    elsif v_one.of = 'quantile' and coalesce(json_typeof(v_one.at) <> 'number' or not (v_one.at #>> '{}')::numeric between 0 and 1, true) then
      perform hotmesh_engine.invalid_query('a quantile is at 0 to 1');
    end if;
    v_columns := v_columns || format(case v_one.of
      when 'count' then 'count(nullif(data -> %2$L, ''null'')) as %3$I'
      when 'distinct' then 'count(distinct nullif(data -> %2$L, ''null'')) as %3$I'
      when 'quantile' then 'percentile_cont(%4$L::double precision) within group (order by %1$s::double precision) as %3$I'
      else v_one.of || '(%1$s) as %3$I' end, v_key, v_field.name, v_one.key, v_one.at #>> '{}');
  end loop;
  if cardinality(v_columns) = 0 then
    perform hotmesh_engine.invalid_query('nothing to aggregate', 'Name a figure, or a field to group by.');
  end if;
  v_sql := format('select %s from hotmesh_engine.record where %s', array_to_string(v_columns, ', '), v_where.r_sql);
  if cardinality(v_groups) > 0 then
    v_sql := v_sql || format(' group by %1$s order by %1$s', array_to_string(v_groups, ', '));
  end if;
  return query execute format('select row_to_json(x)::text from (%s limit $3) x', v_sql) using v_where.r_values, hotmesh.now(), p_size;
end $$;

-- For people: `select * from hotmesh.find('user', '[{"field": "active", "is": "=", "value": "yes"}]')`.
create or replace function hotmesh.find(
  entity text, query json default '[]', sort text default null, size int default 100, start int default 0,
  namespace text default 'default'
) returns table (id text, data jsonb)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select f.id, f.data::jsonb
    from hotmesh_engine.find($6, $1, $2, ltrim($3, '-'), coalesce($3 ~ '^-', false), $5, $4) f
$$;
comment on function hotmesh.find(text, json, text, int, int, text) is
  'Records of an entity that fit a query ([{"field", "is", "value"}, ...]); sort: a field, with a leading - downwards.';
