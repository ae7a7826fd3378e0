-- Functions that make an input visible in psql and pgAdmin, and one that measures the server; applied after each
-- migration, before the views.
-- A payload is a .npy file as pypredict.codec describes it. Bytes of another form give NULL: no function here raises an
-- error for them. Each function reads a bounded part of a payload. substring() fetches that part only; get_byte() on a
-- stored payload would fetch all of it for each byte, so it is called on the result of substring().

CREATE OR REPLACE FUNCTION ml.npy_header(
    payload bytea, OUT dtype text, OUT shape integer[], OUT start integer, OUT item_bytes integer
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on AS $$  -- for the backslashes below
DECLARE
    head bytea := substring(payload from 1 for 1010);  -- a longer header than 1,000 bytes is refused
    parts text[];
    elements numeric := 1;
BEGIN
    IF length(head) < 10 OR substring(head from 1 for 8) <> '\x934e554d50590100' THEN
        RETURN;
    END IF;
    start := 10 + get_byte(head, 8) + 256 * get_byte(head, 9);
    parts := regexp_match(
        encode(substring(head from 11 for start - 10), 'escape'),
        '^\{''descr'': ''(\|u1|<i4|<f4)'', ''fortran_order'': False, ''shape'': '
        '\(([1-9]\d{0,8},|[1-9]\d{0,8}(?:, [1-9]\d{0,8}){1,7})\), \} *\n$');
    shape := string_to_array(rtrim(parts[2], ','), ', ')::integer[];
    item_bytes := CASE parts[1] WHEN '|u1' THEN 1 ELSE 4 END;
    FOR axis IN 1 .. coalesce(cardinality(shape), 0) LOOP
        elements := elements * shape[axis];
    END LOOP;
    IF parts IS NULL OR start > length(head) OR octet_length(payload) - start <> elements * item_bytes THEN
        SELECT NULL, NULL, NULL, NULL INTO dtype, shape, start, item_bytes;
        RETURN;
    END IF;
    dtype := CASE parts[1] WHEN '|u1' THEN 'uint8' WHEN '<i4' THEN 'int32' ELSE 'float32' END;
END $$;
COMMENT ON FUNCTION ml.npy_header(bytea) IS
    'dtype and shape of a payload, where its elements start, and the bytes of one element; NULLs: not a valid payload.';

CREATE OR REPLACE FUNCTION ml.npy_dtype(payload bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$ SELECT dtype FROM ml.npy_header(payload) $$;
COMMENT ON FUNCTION ml.npy_dtype(bytea) IS 'dtype of a payload: uint8, int32 or float32; NULL: not a valid payload.';

CREATE OR REPLACE FUNCTION ml.npy_shape(payload bytea) RETURNS integer[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$ SELECT shape FROM ml.npy_header(payload) $$;
COMMENT ON FUNCTION ml.npy_shape(bytea) IS 'Shape of a payload; NULL: not a valid payload.';

-- A float32 has 1 bit for the sign, 8 bits for the exponent and 23 bits for the fraction (IEEE 754). A double holds each
-- value of the three dtypes exactly.
CREATE OR REPLACE FUNCTION ml.npy_number(elements bytea, item integer, dtype text) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bits bigint;
    exponent integer;
    fraction bigint;
    sign double precision;
BEGIN
    IF dtype = 'uint8' THEN
        RETURN get_byte(elements, item);
    END IF;
    bits := get_byte(elements, 4 * item) + (get_byte(elements, 4 * item + 1) << 8)
          + (get_byte(elements, 4 * item + 2) << 16) + (get_byte(elements, 4 * item + 3)::bigint << 24);
    IF dtype = 'int32' THEN
        RETURN CASE WHEN bits < 2147483648 THEN bits ELSE bits - 4294967296 END;
    END IF;
    sign := CASE WHEN bits < 2147483648 THEN 1 ELSE -1 END;
    exponent := (bits >> 23) & 255;
    fraction := bits & 8388607;
    IF exponent = 255 THEN
        RETURN CASE WHEN fraction = 0 THEN sign * 'Infinity'::double precision ELSE 'NaN' END;
    ELSIF exponent = 0 THEN  -- zero, or a subnormal number
        RETURN sign * fraction * power(2::double precision, -149);
    END IF;
    RETURN sign * (fraction + 8388608) * power(2::double precision, exponent - 150);
END $$;
COMMENT ON FUNCTION ml.npy_number(bytea, integer, text) IS
    'One number of the elements of a payload; item: its position, from 0. Raises an error for a position that is outside.';

CREATE OR REPLACE FUNCTION ml.npy_values(payload bytea, max_values integer) RETURNS double precision[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    header record;
    elements bytea;
    n integer;
BEGIN
    SELECT * INTO header FROM ml.npy_header(payload);
    IF header.dtype IS NULL THEN
        RETURN NULL;
    END IF;
    n := least((octet_length(payload) - header.start) / header.item_bytes, greatest(max_values, 0), 10000);
    elements := substring(payload from header.start + 1 for n * header.item_bytes);
    RETURN ARRAY(SELECT ml.npy_number(elements, item, header.dtype) FROM generate_series(0, n - 1) AS s (item)
                 ORDER BY item);
END $$;
COMMENT ON FUNCTION ml.npy_values(bytea, integer) IS
    'The first max_values numbers of a payload in C order, at most 10,000; NULL: not a valid payload.';

-- One character is twice as high as it is wide, so it shows the mean of two pixels, one below the other. A larger image
-- is sampled. Of each sampled row of pixels, one slice of the payload is read.
CREATE OR REPLACE FUNCTION ml.npy_drawing(payload bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shades CONSTANT text[] := ARRAY['░', '▒', '▓', '█'];  -- all have the same width, also in pgAdmin's font
    header record;
    height integer;
    width integer;
    channels integer;
    columns integer;
    lines integer;
    row_bytes integer;
    pixels bytea;  -- one row
    cell integer;
    pixel integer;
    cells double precision[] := '{}';  -- the sum of what each character shows
    low double precision;
    high double precision;
    drawing text := '';
BEGIN
    SELECT * INTO header FROM ml.npy_header(payload);
    height := header.shape[1];
    width := header.shape[2];
    channels := coalesce(header.shape[3], 1);
    IF header.dtype IS NULL OR cardinality(header.shape) NOT IN (2, 3) OR channels NOT IN (1, 3)
       OR height < 2 OR width < 2 THEN
        RETURN NULL;
    END IF;
    columns := CASE WHEN width < 40 THEN width * (40 / width) ELSE 40 END;
    lines := least(greatest(round(height::numeric * columns / width / 2), 1), 40);
    row_bytes := width * channels * header.item_bytes;
    FOR half IN 0 .. 2 * lines - 1 LOOP
        pixels := substring(
            payload from header.start + 1 + ((2 * half + 1)::bigint * height / (4 * lines))::integer * row_bytes
            for row_bytes);
        FOR place IN 0 .. columns - 1 LOOP
            cell := half / 2 * columns + place + 1;
            pixel := (2 * place + 1)::bigint * width / (2 * columns);
            FOR channel IN 0 .. channels - 1 LOOP
                cells[cell] := coalesce(cells[cell], 0)
                             + ml.npy_number(pixels, pixel * channels + channel, header.dtype);
            END LOOP;
        END LOOP;
    END LOOP;
    SELECT min(c), max(c) INTO low, high FROM unnest(cells) c WHERE c NOT IN ('NaN', 'Infinity', '-Infinity');
    FOR line IN 0 .. lines - 1 LOOP
        FOR place IN 1 .. columns LOOP
            drawing := drawing || CASE
                WHEN cells[line * columns + place] IN ('NaN', 'Infinity', '-Infinity') THEN '?'
                WHEN low = high THEN shades[2]
                ELSE shades[1 + least(floor(4 * (cells[line * columns + place] - low) / (high - low)), 3)::integer] END;
        END LOOP;
        drawing := drawing || chr(10);
    END LOOP;
    RETURN rtrim(drawing, chr(10));
END $$;
COMMENT ON FUNCTION ml.npy_drawing(bytea) IS
    'A payload of shape (h, w), (h, w, 1) or (h, w, 3) as text of up to 40 by 40 characters, from dark (░) to light (█); '
    'NULL: not such a payload.';

-- The words of a text, without padding (number 0); a number without a word stays a number. PL/pgSQL unpacks the array of
-- words once; a function in SQL would unpack a large vocabulary for each word.
CREATE OR REPLACE FUNCTION ml.npy_words(payload bytea, words text[], max_values integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(string_agg(
        CASE WHEN number BETWEEN 1 AND cardinality(words) - 1 THEN words[number::integer + 1] ELSE number::text END, ' '
        ORDER BY place), '')
    FROM unnest(ml.npy_values(payload, max_values)) WITH ORDINALITY AS n (number, place) WHERE number <> 0;
END $$;
COMMENT ON FUNCTION ml.npy_words(bytea, text[], integer) IS
    'The first max_values numbers of a payload as words; words: the word of each number, from 0. Padding is left out.';

CREATE OR REPLACE FUNCTION ml.npy_numbers(payload bytea, max_values integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(CASE h.dtype WHEN 'float32' THEN number::real::text ELSE number::text END, ' ' ORDER BY place)
    FROM ml.npy_header(payload) h, unnest(ml.npy_values(payload, max_values)) WITH ORDINALITY AS n (number, place)
$$;
COMMENT ON FUNCTION ml.npy_numbers(bytea, integer) IS 'The first max_values numbers of a payload as text.';

-- SECURITY DEFINER: a reader sees an input as a person does, and has no right to its bytes.
CREATE OR REPLACE FUNCTION ml.show(input_id bigint) RETURNS text LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER
PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_words CONSTANT integer := 2000;  -- with the padding
    max_numbers CONSTANT integer := 400;
    stored record;
BEGIN
    SELECT i.payload, v.words, h.dtype, (octet_length(i.payload) - h.start) / h.item_bytes AS elements INTO stored
    FROM ml.input i JOIN ml.chunk c USING (chunk_id) LEFT JOIN ml.vocabulary v USING (prep_sha256)
    CROSS JOIN LATERAL ml.npy_header(i.payload) h WHERE i.input_id = show.input_id;
    IF NOT FOUND THEN
        RETURN format('there is no input %s', show.input_id);
    ELSIF stored.dtype IS NULL THEN
        RETURN format('input %s holds no .npy array of the form that pypredict writes', show.input_id);
    ELSIF stored.words IS NOT NULL THEN
        RETURN ml.npy_words(stored.payload, stored.words, max_words)
               || CASE WHEN stored.elements > max_words THEN ' ...' ELSE '' END;
    END IF;
    RETURN coalesce(
        ml.npy_drawing(stored.payload),
        ml.npy_numbers(stored.payload, max_numbers) || CASE WHEN stored.elements > max_numbers THEN ' ...' ELSE '' END);
END $$;
COMMENT ON FUNCTION ml.show(bigint) IS
    'An input as text: an image as block characters, up to 40 columns; a text by its words; other arrays as numbers.';

REVOKE EXECUTE ON FUNCTION ml.show(bigint) FROM PUBLIC;

-- SECURITY DEFINER: the service's login may not see the files of the server. It gets numbers only. An owner who is
-- neither a superuser nor a member of pg_monitor does not see the sizes, which are then NULL. A version that changes its
-- columns drops it in its migration.
CREATE OR REPLACE FUNCTION ml.server_state(
    OUT connections integer, OUT max_connections integer, OUT wal_bytes bigint, OUT max_wal_bytes bigint,
    OUT slot_wal_bytes bigint, OUT database_bytes bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept text := current_setting('wal_keep_size', true);  -- since 13; before, a number of segments
BEGIN
    -- What is hidden from the owner is counted: backend_type is NULL then.
    SELECT count(*) INTO connections FROM pg_stat_activity
    WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend';
    max_connections := current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer;  -- since 16
    max_wal_bytes := pg_size_bytes(current_setting('max_wal_size')) + coalesce(pg_size_bytes(kept),
        current_setting('wal_keep_segments', true)::bigint * pg_size_bytes(current_setting('wal_segment_size')));
    SELECT coalesce(max(pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)), 0)
    INTO slot_wal_bytes FROM pg_replication_slots;
    BEGIN
        SELECT sum(size) INTO wal_bytes FROM pg_ls_waldir();
        SELECT sum(pg_tablespace_size(oid)) + wal_bytes INTO database_bytes FROM pg_tablespace;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END;
END $$;
COMMENT ON FUNCTION ml.server_state() IS
    'Connections in use and allowed, WAL that the server holds and should hold, WAL that a replication slot holds back, '
    'and the size of the whole server, in bytes; NULL: the owner may not see it.';

REVOKE EXECUTE ON FUNCTION ml.server_state() FROM PUBLIC;
