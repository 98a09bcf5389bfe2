"""SQL functions that leave nothing behind in a session, by name; any other may be one of the user's."""

from __future__ import annotations

import re

# PostgreSQL's, MySQL's and hstore's. Who is not here costs a reset after each use, so these are those
# that queries are made of, and not all that there are.
HARMLESS_FUNCTIONS = frozenset(
    # aggregates and windows
    "any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp "
    "cume_dist dense_rank every first_value group_concat grouping json_agg json_arrayagg json_object_agg "
    "json_objectagg jsonb_agg jsonb_object_agg lag last_value lead max min mode nth_value ntile "
    "percent_rank percentile_cont percentile_disc rank row_number std stddev stddev_pop stddev_samp "
    "string_agg sum var_pop var_samp variance "
    # choosing and comparing
    "case coalesce elt field find_in_set greatest if ifnull interval isnull least nullif num_nonnulls "
    "num_nulls nvl strcmp "
    # numbers
    "abs acos asin atan atan2 bit_count cbrt ceil ceiling conv cos cot crc32 degrees div exp factorial "
    "floor gcd lcm ln log log10 log2 mod pi pow power radians rand random round scale sign sin sqrt tan "
    "trunc truncate width_bucket "
    # text and bytes
    "ascii bin bit_length btrim char char_length character_length chr concat concat_ws convert convert_from "
    "convert_to decode encode export_set format from_base64 gen_random_uuid hex initcap insert instr lcase "
    "left length locate lower lpad ltrim md5 mid normalize octet_length ord overlay position quote "
    "quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like regexp_match "
    "regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat replace "
    "reverse right rpad rtrim sha sha1 sha2 sha224 sha256 sha384 sha512 similarity soundex space split_part "
    "starts_with strpos strict_word_similarity substr substring substring_index to_base64 to_hex translate "
    "trim ucase unaccent unhex upper uuid weight_string word_similarity "
    # dates and times
    "adddate addtime age clock_timestamp convert_tz curdate current_date current_time current_timestamp "
    "curtime date date_add date_bin date_format date_part date_sub date_trunc datediff day dayname "
    "dayofmonth dayofweek dayofyear extract from_days from_unixtime get_format hour isfinite justify_days "
    "justify_hours justify_interval last_day localtime localtimestamp make_date make_interval make_time "
    "make_timestamp make_timestamptz makedate maketime microsecond minute month monthname now period_add "
    "period_diff quarter sec_to_time second statement_timestamp str_to_date subdate subtime sysdate time "
    "time_format time_to_sec timediff timestamp timestampadd timestampdiff to_char to_date to_days to_number "
    "to_seconds to_timestamp unix_timestamp utc_date utc_time utc_timestamp week weekday weekofyear year "
    "yearweek "
    # JSON
    "array_to_json json json_array json_array_append json_array_elements json_array_elements_text "
    "json_array_insert json_array_length json_build_array json_build_object json_compact json_contains "
    "json_contains_path json_depth json_detailed json_each json_each_text json_exists json_extract "
    "json_extract_path json_extract_path_text json_insert json_keys json_length json_loose json_merge "
    "json_merge_patch json_merge_preserve json_object json_object_keys json_overlaps json_populate_record "
    "json_populate_recordset json_pretty json_query json_quote json_remove json_replace json_search json_set "
    "json_strip_nulls json_table json_to_record json_to_recordset json_type json_typeof json_unquote "
    "json_valid json_value jsonb jsonb_array_elements jsonb_array_elements_text jsonb_array_length "
    "jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path "
    "jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys jsonb_path_exists jsonb_path_match "
    "jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_pretty "
    "jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json "
    "to_json to_jsonb "
    # arrays, ranges, sets of rows, hstore
    "akeys array array_append array_cat array_dims array_fill array_length array_lower array_ndims "
    "array_position array_positions array_prepend array_remove array_replace array_to_string array_upper "
    "avals cardinality daterange generate_series generate_subscripts hstore hstore_to_array hstore_to_json "
    "hstore_to_jsonb hstore_to_matrix int4range int8range isempty lower_inc lower_inf numrange range_merge "
    "skeys string_to_array svals trim_array tsrange tstzrange unnest upper_inc upper_inf "
    # searching text
    "against match phraseto_tsquery plainto_tsquery setweight strip to_tsquery to_tsvector ts_headline "
    "ts_rank ts_rank_cd websearch_to_tsquery "
    # the server, the session as it is, sequences
    "benchmark charset coercibility collation connection_id current_database current_role current_schema "
    "current_schemas current_setting current_user currval database found_rows inet_aton inet_ntoa lastval "
    "last_insert_id nextval pg_backend_pid pg_column_size pg_get_serial_sequence pg_relation_size pg_sleep "
    "pg_table_size pg_total_relation_size pg_typeof row_count schema session_user setval sleep system_user "
    "to_regclass txid_current user version "
    # what stands before a parenthesis and is no function: types
    "bigint binary bit bpchar cast character dec decimal double float float4 float8 int int2 int4 int8 "
    "integer mediumint nchar numeric nvarchar precision real signed smallint timestamptz timetz tinyint "
    "unsigned varbinary varbit varchar varying "
    # and words of the language
    "all and any as between brin btree by check conflict cube default delete distinct else end except exists "
    "filter from full fulltext gin gist group hash having ilike in index inner intersect into is join key "
    "lateral like limit materialized not of offset on or order over partition primary recursive references "
    "returning rollup row select set some spgist table then union unique update using values when where "
    "with within".split()
)


# A name in front of a parenthesis; not that of a table whose columns follow: INSERT INTO t (a).
CALL = re.compile(r'(?<![\w.$"`])(?<!\binto )([\w.$]+)\s*\(|["`]\(', re.IGNORECASE)


def may_call_unknown(sql: str) -> bool:
    """Return True if a statement may call a function of which it is not known that it is harmless."""
    names = {name.lower().removeprefix("pg_catalog.") for name in CALL.findall(sql)}
    return not names <= HARMLESS_FUNCTIONS
