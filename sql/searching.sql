-- Searching records: queries as the statements that they become, and what carries them out.
--
-- Here SQL is made of what comes from outside. It enters a statement in one of two ways: a value stays where it is, in
-- the query, which is `$1` of the statement, and is named by its path there, of positions and known words; a name
-- (field, entity, metric) has been found in a table or matched a pattern before format() quotes it. There is no
-- third way.
--
-- A query is JSON: {"field", "is", "value"}, {"and": [...]}, {"or": [...]}, {"not": ...}, {"all": true},
-- or an array, which is an `and`. Field and value go through the same conversion (indexes.sql), so a query
-- compares what an index holds. Of a field without a value no comparison holds, and every negation does.
-- Words that the language of a field leaves out (`the`) say nothing, as within a phrase: beside others they are
-- ignored, and alone they find nothing.
--
-- PL/pgSQL prepares each expression anew in each transaction that comes to it, all of it, at 2 to 5 µs: that, not what
-- is computed, is the time that these functions take. Hence branches for what differs, and few steps in each.
--
-- Locks: none but those of reading.

-- ------------------------------------------------------------------------------- conditions --

-- The SQL of a query, which lies at p_path in the whole: '' or steps that end with a comma. Null if it says nothing.
create or replace function hotmesh_engine.condition(p_entity int, p_query jsonb, p_path text, p_depth int) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_path  text := p_path;
  v_inner jsonb := p_query;
  v_word  text := 'and';
  v_sql   text;
begin
  if p_depth > 50 then
    perform hotmesh_engine.invalid_query('the query is nested too deeply', 'At most 50 levels.');
  end if;
  if jsonb_typeof(p_query) = 'object' then
    if p_query ?& '{field,is,value}' and p_query - '{field,is,value}'::text[] = '{}' then
      return hotmesh_engine.comparison(p_entity, p_query, p_path || 'value');
    end if;
    v_word := case when p_query ? 'and' then 'and' when p_query ? 'or' then 'or' when p_query ? 'not' then 'not' when p_query ? 'all' then 'all' end;
    v_inner := p_query -> v_word;
    v_path := p_path || v_word || ',';
    if p_query - v_word <> '{}' or (v_word = 'all' and v_inner <> 'true') then
      v_word := null;
    elsif v_word = 'not' then
      return '((' || coalesce(hotmesh_engine.condition(p_entity, v_inner, v_path, p_depth + 1), 'false') || ') is not true)';
    elsif v_word = 'all' then
      return 'true';
    end if;
  end if;
  if v_word is null or jsonb_typeof(v_inner) is distinct from 'array' then
    perform hotmesh_engine.invalid_query(format('not a condition: %s', left(coalesce(p_query::text, 'null'), 200)),
      'A condition is {"field", "is", "value"} (null: has no value), {"and": [...]}, {"or": [...]}, {"not": ...} or {"all": true}.');
  end if;
  for i in 0 .. jsonb_array_length(v_inner) - 1 loop
    v_sql := nullif(concat_ws(' ' || v_word || ' ', v_sql,
      '(' || hotmesh_engine.condition(p_entity, v_inner -> i, v_path || i || ',', p_depth + 1) || ')'), '');
  end loop;
  return coalesce(v_sql, case when v_inner = '[]' then case v_word when 'and' then 'true' else 'false' end end);
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

-- The key of a value of the query, which lies at p_path; refuses what its field's type cannot hold. What is refused
-- here needs no conversion in the statement: a tag is its text.
create or replace function hotmesh_engine.value_key(p_type text, p_name text, p_value jsonb, p_path text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_type = 'TAG' then
    if hotmesh_engine.tag(p_value) is not null then
      return '($1 #>> ''{' || p_path || '}'')';
    end if;
  elsif p_type = 'TEXT' then
    if hotmesh_engine.scalar(p_value) is not null then
      return '"left"($1 #>> ''{' || p_path || '}'', 200)';
    end if;
  elsif (case p_type when 'TIMESTAMP' then hotmesh_engine.instant(p_value) is not null
                     when 'NUMERIC' then hotmesh_engine.number(p_value) is not null
                     else hotmesh_engine.bool(p_value) is not null end) then
    return hotmesh_engine.key_of(p_type, '($1 #> ''{' || p_path || '}'')');
  end if;
  perform hotmesh_engine.invalid_query(
    format('field %s is %s, which cannot be %s', p_name, p_type, left(coalesce(p_value::text, 'nothing'), 200)),
    case when jsonb_typeof(p_value) = 'array' then 'A list goes with `in`, or with a range: [from, to].'
         else case p_type
           when 'TAG' then 'A text of at most 1,000 bytes, a number, true or false.'
           when 'TEXT' then 'A text, a number, true or false.'
           when 'NUMERIC' then 'A number, or a text such as "2.50".'
           when 'BOOLEAN' then 'true or false.'
           when 'TIMESTAMP' then 'ISO 8601 (2026-01-31T12:00:00+00:00), or seconds since 1970.' end end);
end $$;

-- Words of which the last is only begun; null where there is no word. An index of stems has nothing else of a word: the
-- begun one finds those whose stem begins as it does, and those of its own stem (`running` finds `runs`). It is taken as it
-- is, without the language, to which `be` of Berlin is a word to leave out, and with the language's letters, if nothing is
-- cut off (`mü` is `mu` in German). A word with hyphens is begun as a whole.
create or replace function hotmesh_engine.prefix_query(p_config regconfig, p_text text) returns tsquery
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_last   text := p_text;
  v_before text;
  v_stem   text;
  v_words  tsquery;
  v_begun  tsquery;
begin
  if p_text !~ '^[[:alpha:]]+$' then
    select token into v_last                           -- not the parts of a compound, spaces, tags, and the like
      from (select u.*, lag(tokid) over (order by n) as after from ts_parse('pg_catalog.default', p_text) with ordinality u(tokid, token, n)) t
     where tokid not in (9, 10, 11, 12, 13, 14, 18, 23) and (tokid, after) is distinct from (6, 5) order by n desc limit 1;
    if v_last is null then
      return null;
    end if;
    v_before := left(p_text, length(p_text) - strpos(reverse(p_text), reverse(v_last)) + 1 - length(v_last));
    v_words := phraseto_tsquery(p_config, v_before);
  end if;
  v_begun := (array_to_tsvector(ts_lexize('pg_catalog.simple', v_last))::text || ':*')::tsquery;
  if p_config <> 'pg_catalog.simple'::regconfig then
    v_stem := split_part(phraseto_tsquery(p_config, v_last)::text, ' <-> ', 1);   -- in quotes; '' of a word to leave out
    v_begun := v_begun || case when length(v_stem) = length(v_last) + 2 then (v_stem || ':*')::tsquery
                               else phraseto_tsquery(p_config, v_last) end;
  end if;
  if coalesce(numnode(v_words), 0) = 0 then
    return v_begun;
  end if;
  return tsquery_phrase(v_words, v_begun, 1 + coalesce(   -- and as many as were left out in between
    (select max(p) from unnest(to_tsvector('pg_catalog.simple', v_before)) u, unnest(u.positions) p)
    - (select max(p) from unnest(to_tsvector(p_config, v_before)) u, unnest(u.positions) p), 0));
end $$;

-- A comparison, whose value lies at p_path. Null if it says nothing.
create or replace function hotmesh_engine.comparison(p_entity int, p_query jsonb, p_path text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_field hotmesh_engine.entity_field := hotmesh_engine.field_of(p_entity, p_query ->> 'field');
  v_is    text := p_query ->> 'is';
  v_value jsonb := p_query -> 'value';
  v_key   text := hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name));
  v_text  boolean := v_field.type in ('TAG', 'TEXT');   -- to which "-inf" is one of many
  v_sql   text;
begin
  if v_is = '=' then
    return hotmesh_engine.equals_sql(v_field.type, v_field.name, v_key, v_value, p_path);

  elsif v_is in ('[]', '[)', '(]', '()') and v_field.type <> 'BOOLEAN' then
    if jsonb_typeof(v_value) is distinct from 'array' or jsonb_array_length(v_value) <> 2 then
      perform hotmesh_engine.invalid_query(format('field %s: the value of a range must be [from, to]', v_field.name),
        'null leaves a side open; so do "-inf" and "+inf" of a NUMERIC or TIMESTAMP.');
    end if;
    if v_value -> 0 <> 'null' and (v_text or v_value -> 0 <> '"-inf"') then
      v_sql := hotmesh_engine.bound_sql(
        v_field.type, v_field.name, v_key, case left(v_is, 1) when '(' then '>' else '>=' end, v_value -> 0, p_path || ',0');
    end if;
    if v_value -> 1 <> 'null' and (v_text or v_value -> 1 not in ('"+inf"', '"inf"')) then
      v_sql := concat(v_sql || ' and ', hotmesh_engine.bound_sql(
        v_field.type, v_field.name, v_key, case right(v_is, 1) when ')' then '<' else '<=' end, v_value -> 1, p_path || ',1'));
    end if;
    return coalesce(v_sql, v_key || ' is not null');

  elsif v_is in ('<', '<=', '>', '>=') and v_field.type <> 'BOOLEAN' then
    if v_value is null or v_value = 'null' then
      perform hotmesh_engine.invalid_query(format('field %s: %s needs a value', v_field.name, v_is));
    elsif not v_text and (v_value in ('"+inf"', '"inf"') and v_is in ('<', '<=') or v_value = '"-inf"' and v_is in ('>', '>=')) then
      return v_key || ' is not null';
    end if;
    return hotmesh_engine.bound_sql(v_field.type, v_field.name, v_key, v_is, v_value, p_path);

  elsif v_is = '!=' then
    return '((' || hotmesh_engine.equals_sql(v_field.type, v_field.name, v_key, v_value, p_path) || ') is not true)';

  elsif v_is = 'in' then
    if jsonb_typeof(v_value) is distinct from 'array' then
      perform hotmesh_engine.invalid_query(format('field %s: the value of `in` must be a list', v_field.name));
    end if;
    for i in 0 .. jsonb_array_length(v_value) - 1 loop
      v_sql := concat(v_sql || ' or ', hotmesh_engine.equals_sql(v_field.type, v_field.name, v_key, v_value -> i, p_path || ',' || i));
    end loop;
    return coalesce(v_sql, 'false');

  elsif v_is in ('match', 'prefix') and v_field.type in ('TEXT', 'TAG') and (v_field.type = 'TEXT' or v_is = 'prefix') then
    if jsonb_typeof(v_value) is distinct from 'string' or octet_length(v_value #>> '{}') not between 1 and 1000 then
      perform hotmesh_engine.invalid_query(format('field %s: %s needs a text of 1 to 1,000 bytes', v_field.name, v_is));
    elsif v_field.type = 'TAG' then
      return format('%s ^@ ($1 #>> ''{%s}'')', v_key, p_path);
    elsif v_is = 'match' and numnode(phraseto_tsquery(('pg_catalog.' || v_field.config)::regconfig, v_value #>> '{}')) = 0 then
      return null;
    end if;
    return format(case v_is when 'match' then '%s @@ phraseto_tsquery(%L::regconfig, $1 #>> ''{%s}'')'
                            else '%s @@ hotmesh_engine.prefix_query(%L::regconfig, $1 #>> ''{%s}'')' end,
      hotmesh_engine.words_of(v_field.config, v_field.name), 'pg_catalog.' || v_field.config, p_path);
  end if;
  perform hotmesh_engine.invalid_query(
    format('field %s is %s, which has no operator %L', v_field.name, v_field.type, left(v_is, 200)),
    'Known: = != in; < <= > >= [] [) (] () but for BOOLEAN; prefix for TAG and TEXT; match for TEXT.');
end $$;

-- The key of a text is its beginning: it narrows, and the whole text decides.
create or replace function hotmesh_engine.equals_sql(p_type text, p_name text, p_key text, p_value jsonb, p_path text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(p_value, 'null') = 'null' then
    return format('(nullif(data -> %L, ''null'') is null)', p_name);
  elsif p_type = 'TEXT' then
    return format('(%s = %s and hotmesh_engine.scalar(data -> %L) = $1 #>> ''{%s}'')',
      p_key, hotmesh_engine.value_key(p_type, p_name, p_value, p_path), p_name, p_path);
  end if;
  return p_key || ' = ' || hotmesh_engine.value_key(p_type, p_name, p_value, p_path);
end $$;

-- One side of a range.
create or replace function hotmesh_engine.bound_sql(
  p_type text, p_name text, p_key text, p_operator text, p_value jsonb, p_path text
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_type = 'TEXT' then
    return format('%s %s %s and hotmesh_engine.scalar(data -> %L) collate "C" %s ($1 #>> ''{%s}'')',
      p_key, left(p_operator, 1) || '=', hotmesh_engine.value_key(p_type, p_name, p_value, p_path), p_name, p_operator, p_path);
  end if;
  return p_key || ' ' || p_operator || ' ' || hotmesh_engine.value_key(p_type, p_name, p_value, p_path);
end $$;

-- ------------------------------------------------------------------------------- statements --

-- A query as a table, with a condition on its rows and the values that this refers to.
-- Nearly always no run's retention is over that has not been pruned: then no record has lapsed with one,
-- and nothing need be said about it. (To plan and begin that part costs more than to look.)
create or replace function hotmesh_engine.where_sql(
  p_namespace text, p_entity text, p_query json, p_now timestamptz,
  out r_entity int, out r_table text, out r_sql text, out r_query jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_lapsed boolean;
begin
  select e.entity_id, hotmesh_engine.table_of(e.entity_id, e.own), exists (select from hotmesh_engine.outcome o where o.expires_at <= p_now)
    into r_entity, r_table, v_lapsed
    from hotmesh_engine.entity e join hotmesh_engine.namespace n using (namespace_id)
   where n.name = p_namespace and e.name = p_entity;
  if r_entity is null then
    perform hotmesh_engine.invalid_query(
      format('there is no entity %L in namespace %L', left(p_entity, 200), left(p_namespace, 200)),
      'There are: ' || coalesce((select string_agg(name, ', ' order by name) from (
          select e.name from hotmesh_engine.entity e join hotmesh_engine.namespace n using (namespace_id)
           where n.name = p_namespace order by e.name limit 20) x), 'none')
      || '. create_search_index declares one; the first record makes one too.');
  end if;
  begin
    r_query := coalesce(p_query::jsonb, '[]');
  exception when data_exception or program_limit_exceeded then
    perform hotmesh_engine.invalid_query(format('the query cannot be read: %s', sqlerrm));
  end;
  if length(p_query::text) > 4000 and (select sum(case jsonb_typeof(v) when 'array' then jsonb_array_length(v) else 1 end) > 2000
                                         from jsonb_path_query(r_query, 'strict $.**.value') v) then
    perform hotmesh_engine.invalid_query('the query has too many values', 'At most 2,000.');
  end if;
  r_sql := 'entity_id = ' || r_entity || ' and expires_at > $2'
    || case when v_lapsed then ' and ' || hotmesh_engine.kept_sql('$2') else '' end
    || ' and (' || coalesce(hotmesh_engine.condition(r_entity, r_query, '', 1), 'false') || ')';
end $$;

-- The statements of a search. $1 the query, $2 now, $3 fields, $4 limit, $5 offset, $6 where to go on.
-- r_first: records that have the field that is sorted by (all, if there is none); r_second: those
-- without, which come last. Sorted by (key, id), as the index is, or by id. r_page, put before either with
-- `) x` after it, makes one row of them: only what is returned becomes text. Its key is what the last record
-- is sorted by, as the document has it: the next page begins there, and converts it then.
create or replace function hotmesh_engine.find_sql(
  p_namespace text, p_entity text, p_query json, p_now timestamptz, p_sort text, p_descending boolean, p_pick boolean, p_after jsonb,
  out r_page text, out r_first text, out r_second text, out r_query jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_where  record := hotmesh_engine.where_sql(p_namespace, p_entity, p_query, p_now);
  v_field  hotmesh_engine.entity_field;
  v_key    text;
  v_ranged boolean;
  v_way    text := case when p_descending then ' desc' else ' asc' end;
  v_op     text := case when p_descending then ' < ' else ' > ' end;
  v_ends   text := ' limit $4 offset $5';
begin
  r_query := v_where.r_query;
  r_first := 'select id, data from ' || v_where.r_table || ' where ' || v_where.r_sql;
  r_page := 'select array_agg(id), string_agg(' || case when p_pick
      then '(select coalesce(jsonb_object_agg(f, data -> f), ''{}'') from unnest($3) f where data ? f)' else 'data' end || '::text, '',''), ';
  if p_sort is null then
    r_page := r_page || 'null from (';
    r_first := r_first || case when p_after is null then '' else ' and id' || v_op || '($6 ->> ''id'')' end || ' order by id' || v_way || v_ends;
    return;
  end if;
  v_field := hotmesh_engine.field_of(v_where.r_entity, p_sort);
  if v_field.type = 'TEXT' and not v_field.sortable then
    perform hotmesh_engine.invalid_query(format('field %s is a TEXT that is not sortable', v_field.name), 'Declare it with sortable=True.');
  end if;
  r_page := r_page || format(case v_field.type when 'TEXT' then '(array_agg(to_jsonb("left"(hotmesh_engine.scalar(data -> %L), 200))))[count(*)] from ('
                                               else '(array_agg(data -> %L))[count(*)] from (' end, v_field.name);
  v_key := hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name));
  -- What lies in a range, or after something, is not null; to look once more costs a conversion a record, and to
  -- look for those without it a whole search.
  v_ranged := coalesce(jsonb_path_exists(
    case when r_query ? 'and' then r_query -> 'and' when r_query ? 'field' then jsonb_build_array(r_query) else r_query end,
    'strict $[*] ? (@.field == $sort && (@.is == "<" || @.is == "<=" || @.is == ">" || @.is == ">="'
    ' || @.is == "[]" || @.is == "[)" || @.is == "(]" || @.is == "()"))', jsonb_build_object('sort', p_sort), true), false);
  if not v_ranged then
    r_second := r_first || ' and ' || v_key || ' is null'
      || case when p_after -> 'key' = 'null' then ' and id' || v_op || '($6 ->> ''id'')' else '' end || ' order by id' || v_way || v_ends;
  end if;
  r_first := case when p_after -> 'key' is null or p_after -> 'key' <> 'null' then r_first
    || case when p_after is not null then ' and (' || v_key || ', id)' || v_op || '('
              || hotmesh_engine.key_of(v_field.type, '($6 -> ''key'')') || ', ($6 ->> ''id'') collate "C")'
            when v_ranged then '' else ' and ' || v_key || ' is not null' end
    || ' order by ' || v_key || v_way || ', id' || v_way || v_ends end;
end $$;

-- Where a page begins, as jsonb; refuses what is no page.
create or replace function hotmesh_engine.page_mark(p_start int, p_size int, p_after jsonb) returns jsonb
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
  return p_after;
end $$;

-- Records that fit a query, a page in one row, which costs less than half of one row each: ids, the documents (or
-- the named fields of them) as text of a JSON array, and what the last is sorted by, null if it has no such field.
-- A page is read without processes that read ahead (PostgreSQL 18 has some, and asks them for each of a hundred
-- records though these are in memory: 7.5 ms for a word, without them 4.8). Where records lie on slow disks,
-- `alter tablespace ... set (effective_io_concurrency = ...)` has them back.
create or replace function hotmesh_engine.find(
  p_namespace text, p_entity text, p_query json, p_sort text default null, p_descending boolean default false,
  p_start int default 0, p_size int default 100, p_fields text[] default null, p_after json default null,
  out r_ids text[], out r_documents text, out r_key jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp set client_min_messages = 'warning'
set effective_io_concurrency = 0 as $$
declare
  v_now  timestamptz := hotmesh.now();
  v_mark jsonb := hotmesh_engine.page_mark(p_start, p_size, p_after::jsonb);
  v_sql  record := hotmesh_engine.find_sql(
    p_namespace, p_entity, p_query, v_now, p_sort, p_descending, p_fields is not null, v_mark);
  v_skip bigint := p_start;
  v_more record;
begin
  if v_sql.r_first is not null then
    execute v_sql.r_page || v_sql.r_first || ') x' into r_ids, r_documents, r_key
      using v_sql.r_query, v_now, p_fields, p_size, v_skip, v_mark;
  end if;
  if v_sql.r_second is not null and coalesce(cardinality(r_ids), 0) < p_size then
    if r_ids is not null then
      v_skip := 0;
    elsif v_skip > 0 and v_sql.r_first is not null then
      execute 'select greatest($5 - count(*), 0) from (' || replace(v_sql.r_first, ' limit $4 offset $5', ' limit $5') || ') x'
        into v_skip using v_sql.r_query, v_now, p_fields, p_size, v_skip, v_mark;
    end if;
    execute v_sql.r_page || v_sql.r_second || ') x' into v_more
      using v_sql.r_query, v_now, p_fields, p_size - coalesce(cardinality(r_ids), 0), v_skip, v_mark;
    if v_more.array_agg is not null then
      r_ids := r_ids || v_more.array_agg;
      r_documents := concat_ws(',', r_documents, v_more.string_agg);
      r_key := null;
    end if;
  end if;
  r_ids := coalesce(r_ids, '{}');
  r_documents := '[' || coalesce(r_documents, '') || ']';
end $$;

create or replace function hotmesh_engine.count_records(p_namespace text, p_entity text, p_query json) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp set client_min_messages = 'warning' as $$
declare
  v_now   timestamptz := hotmesh.now();
  v_where record := hotmesh_engine.where_sql(p_namespace, p_entity, p_query, v_now);
  v_count bigint;
begin
  execute 'select count(*) from ' || v_where.r_table || ' where ' || v_where.r_sql into v_count using v_where.r_query, v_now;
  return v_count;
end $$;

-- How a search would be carried out: the plan as JSON, without executing it.
create or replace function hotmesh_engine.explain_find(
  p_namespace text, p_entity text, p_query json, p_sort text default null, p_descending boolean default false,
  p_size int default 100, p_after json default null
) returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp set client_min_messages = 'warning' as $$
declare
  v_now  timestamptz := hotmesh.now();
  v_mark jsonb := hotmesh_engine.page_mark(0, p_size, p_after::jsonb);
  v_sql  record := hotmesh_engine.find_sql(p_namespace, p_entity, p_query, v_now, p_sort, p_descending, false, v_mark);
  v_plan json;
begin
  execute 'explain (format json) ' || v_sql.r_page || coalesce(v_sql.r_first, v_sql.r_second) || ') x' into v_plan
    using v_sql.r_query, v_now, null::text[], p_size, 0::bigint, v_mark;
  return v_plan;
end $$;

-- A sum, if a reader of JSON has a number for it: of values that fit, none other of the figures can be too large.
create or replace function hotmesh_engine.sum_of(p_name text, p_field text, p_sum numeric) returns numeric
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if abs(p_sum) > 1.797e308 then
    perform hotmesh_engine.invalid_query(format('figure %s, the sum of %s, is beyond 1.797e308, where numbers end', p_name, p_field),
      'Ask for avg and count, or leave out the largest.');
  end if;
  return p_sum;
end $$;

-- Groups and their figures, a JSON object each; one more than p_size if there are more. p_metrics: {"name": {"of":
-- function, "field", "at"}}; functions: count, distinct, sum, avg, min, max, quantile (at: 0 to 1, interpolated).
-- What is grouped and counted is what comparisons compare (of a text the whole): what has no value makes one group.
-- A quantile is computed in doubles: what is nearer to 0 than any of them is 0, and halves cannot overflow between two.
create or replace function hotmesh_engine.aggregate(
  p_namespace text, p_entity text, p_query json, p_groups text[], p_metrics json, p_size int default 1000
) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set client_min_messages = 'warning' as $$
declare
  v_now     timestamptz := hotmesh.now();
  v_where   record := hotmesh_engine.where_sql(p_namespace, p_entity, p_query, v_now);
  v_one     record;
  v_field   hotmesh_engine.entity_field;
  v_key     text;
  v_columns text[] := '{}';
  v_sql     text;
begin
  perform hotmesh_engine.page_mark(0, p_size, null);
  for v_one in
    select true as grouped, g.name as key, null as of, g.name as field, null::json as at from unnest(p_groups) g(name)
    union all
    select false, m.key, m.value ->> 'of', m.value ->> 'field', m.value -> 'at' from json_each(p_metrics) m
  loop
    if not v_one.grouped and (v_one.key !~ '^[A-Za-z_][A-Za-z0-9_]{0,39}$' or v_one.key = any (p_groups)) then
      perform hotmesh_engine.invalid_query(format('%L cannot be the name of a figure', left(v_one.key, 200)));
    elsif v_one.of = 'count' and v_one.field is null then
      v_columns := v_columns || format('count(*) as %I', v_one.key);
      continue;
    end if;
    v_field := hotmesh_engine.field_of(v_where.r_entity, v_one.field);
    v_key := case v_field.type when 'TEXT' then format('(hotmesh_engine.scalar(data -> %L) collate "C")', v_field.name)
                               else hotmesh_engine.key_of(v_field.type, format('(data -> %L)', v_field.name)) end;
    if v_one.grouped then
      v_columns := v_columns || format(case v_field.type when 'NUMERIC' then 'trim_scale(%s) as %I' else '%s as %I' end, v_key, v_field.name);
      continue;
    elsif v_one.of is null or v_one.of not in ('count', 'distinct', 'sum', 'avg', 'min', 'max', 'quantile')
       or (v_one.of in ('sum', 'avg', 'quantile') and v_field.type <> 'NUMERIC')
       or (v_one.of in ('min', 'max') and v_field.type = 'BOOLEAN') then
      perform hotmesh_engine.invalid_query(format('there is no %L of %s, which is %s', left(v_one.of, 200), v_field.name, v_field.type),
        'count and distinct of any field; min and max but for BOOLEAN; sum, avg and quantile of NUMERIC.');
    elsif v_one.of = 'quantile' and coalesce(json_typeof(v_one.at) <> 'number' or not (v_one.at #>> '{}')::numeric between 0 and 1, true) then
      perform hotmesh_engine.invalid_query('a quantile is at 0 to 1');
    end if;
    v_columns := v_columns || format(case v_one.of
      when 'distinct' then 'count(distinct %1$s) as %3$I'
      when 'sum' then 'hotmesh_engine.sum_of(%3$L, %2$L, sum(%1$s)) as %3$I'
      when 'quantile' then '2 * percentile_cont(%4$L::double precision) within group (order by'
                           ' (case when abs(%1$s) >= 1e-307 then %1$s else %1$s * 0 end)::double precision / 2) as %3$I'
      else v_one.of || '(%1$s) as %3$I' end, v_key, v_field.name, v_one.key, v_one.at #>> '{}');
  end loop;
  if cardinality(v_columns) = 0 then
    perform hotmesh_engine.invalid_query('nothing to aggregate', 'Name a figure, or a field to group by.');
  end if;
  v_sql := format('select %s from %s where %s', array_to_string(v_columns, ', '), v_where.r_table, v_where.r_sql);
  if cardinality(p_groups) > 0 then
    v_sql := v_sql || (select format(' group by %1$s order by %1$s', string_agg(i::text, ', ')) from generate_subscripts(p_groups, 1) i);
  end if;
  return query execute format('select row_to_json(x.*)::text from (%s limit $3) x', v_sql) using v_where.r_query, v_now, p_size + 1;
end $$;

-- For people: `select * from hotmesh.find('user', '[{"field": "active", "is": "=", "value": "yes"}]')`.
create or replace function hotmesh.find(
  entity text, query json default '[]', sort text default null, size int default 100, start int default 0,
  namespace text default 'default'
) returns table (id text, data jsonb)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.id, r.data
    from hotmesh_engine.find($6, $1, $2, ltrim($3, '-'), coalesce($3 ~ '^-', false), $5, $4) f
   cross join lateral rows from (unnest(f.r_ids), jsonb_array_elements(f.r_documents::jsonb)) r(id, data)
$$;
comment on function hotmesh.find(text, json, text, int, int, text) is
  'Records of an entity that fit a query ([{"field", "is", "value"}, ...]); sort: a field, with a leading - downwards.';
