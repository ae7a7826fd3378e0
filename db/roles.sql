-- The roles and their rights, applied after each migration, after the views. Roles belong to the whole cluster, so only
-- missing roles are made. Group roles have the rights; the logins `pypredict` and `reader` are members of them.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ml_loader', 'ml_predictor', 'ml_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
    FOREACH name IN ARRAY ARRAY['pypredict', 'reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
    END LOOP;
END $$;
GRANT ml_loader, ml_predictor TO pypredict;
GRANT ml_reader TO reader;
-- A login may change its own settings, also for its next sessions, so they are made anew. They protect from mistakes;
-- what protects from an attacker are the missing rights below, the limit of connections, and ml.end_reader_sessions.
ALTER ROLE pypredict RESET ALL;
ALTER ROLE reader RESET ALL;
DO $$
BEGIN
    EXECUTE format('ALTER ROLE pypredict IN DATABASE %I RESET ALL', current_database());
    EXECUTE format('ALTER ROLE reader IN DATABASE %I RESET ALL', current_database());
END $$;
ALTER ROLE pypredict SET search_path = ml;
ALTER ROLE pypredict SET lock_timeout = '30s';  -- no worker waits for ever
ALTER ROLE pypredict SET statement_timeout = 0;  -- a limit for people, on the database, must not stop the service
-- A worker that loses its connection or freezes during a commit must not lock its job's row for hours.
ALTER ROLE pypredict SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE pypredict SET tcp_keepalives_idle = 30;
ALTER ROLE pypredict SET tcp_keepalives_interval = 10;
ALTER ROLE pypredict SET tcp_keepalives_count = 3;
ALTER ROLE pypredict SET tcp_user_timeout = '60s';
ALTER ROLE reader SET search_path = ml;
ALTER ROLE reader SET default_transaction_read_only = on;  -- for a clearer error; the rights are missing anyway
ALTER ROLE reader SET statement_timeout = '60s';
ALTER ROLE reader SET idle_in_transaction_session_timeout = '10min';
ALTER ROLE reader CONNECTION LIMIT 20;  -- of the server's 100; the others stay free for loads and workers

-- SECURITY DEFINER: the service may end sessions of readers, and of nobody else.
CREATE OR REPLACE FUNCTION ml.end_reader_sessions(seconds double precision) RETURNS integer LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    session record;
    ended integer := 0;
BEGIN
    FOR session IN
        SELECT pid, usename FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start < clock_timestamp() - seconds * interval '1 second'
          AND pg_has_role(usesysid, 'ml_reader', 'member') AND NOT pg_has_role(usesysid, 'ml_predictor', 'member')
    LOOP
        BEGIN
            ended := ended + pg_terminate_backend(session.pid)::integer;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'the session % of % cannot be ended: GRANT % TO %',
                session.pid, session.usename, session.usename, current_user;
        END;
    END LOOP;
    RETURN ended;
END $$;
COMMENT ON FUNCTION ml.end_reader_sessions(double precision) IS
    'Ends the sessions of readers whose transactions are older than this; returns their number.';
REVOKE EXECUTE ON FUNCTION ml.end_reader_sessions(double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ml.end_reader_sessions(double precision) TO ml_predictor;

-- What every login may do by default, and what fills the disk or makes others wait. An owner who is no superuser cannot
-- take all of it away; the last block says what is left.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
DO $$
DECLARE
    name text;
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    IF current_setting('is_superuser') <> 'on' THEN
        EXECUTE format('GRANT reader TO %I', current_user);  -- only a member of a role may end its sessions
        RETURN;
    END IF;
    ALTER ROLE reader SET temp_file_limit = '1GB';
    FOR name IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND (proname LIKE 'lo\_%' OR proname IN ('loread', 'lowrite', 'pg_logical_emit_message')
               OR proname LIKE 'pg\_advisory%' OR proname LIKE 'pg\_try\_advisory%')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
    -- Only on a server that was made for this project: there we own these databases, too.
    FOR name IN
        SELECT datname FROM pg_database
        WHERE datname IN ('postgres', 'template1') AND pg_get_userbyid(datdba) = current_user
    LOOP
        EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', name);
    END LOOP;
END $$;
DO $$
DECLARE
    kept text;
BEGIN
    SELECT string_agg(what, ', ') INTO kept FROM (VALUES
        ('create tables in the schema public', has_schema_privilege('reader', 'public', 'CREATE')),
        ('call ' || (SELECT string_agg(DISTINCT proname, ' and ') FROM pg_proc
                     WHERE proname IN ('lo_creat', 'pg_advisory_lock', 'pg_logical_emit_message')
                       AND has_function_privilege('reader', oid, 'EXECUTE')), true),
        ('write temporary files of any size', current_setting('is_superuser') <> 'on'),
        ('use the databases ' || (SELECT string_agg(datname, ' and ') FROM pg_database
                                  WHERE datname IN ('postgres', 'template1')
                                    AND has_database_privilege('reader', oid, 'CONNECT')), true)
    ) AS rights (what, is_kept) WHERE is_kept AND what IS NOT NULL;
    IF kept IS NOT NULL THEN
        RAISE WARNING 'the login reader can still %: only a superuser can take that away (docs/passwords.md)', kept;
    END IF;
    IF NOT pg_has_role('pg_monitor', 'USAGE') THEN
        RAISE WARNING 'no warning about WAL and the size of the server can be given: a superuser can GRANT pg_monitor TO %',
            current_user;
    END IF;
END $$;

GRANT USAGE ON SCHEMA ml TO ml_loader, ml_predictor, ml_reader;
REVOKE ALL ON ALL TABLES IN SCHEMA ml FROM ml_loader, ml_predictor, ml_reader, pypredict, reader, PUBLIC;

-- Loader: adds inputs. Only the owner may change or delete them.
GRANT SELECT, INSERT ON ml.chunk, ml.input, ml.input_name, ml.test_set, ml.vocabulary TO ml_loader;
GRANT SELECT ON ml.model, ml.alembic_version TO ml_loader;

-- Predictor: registers models, claims jobs, adds outcomes.
GRANT SELECT ON ALL TABLES IN SCHEMA ml TO ml_predictor;
GRANT INSERT ON ml.model, ml.promotion, ml.test_set, ml.job, ml.prediction, ml.prediction_error, ml.suspect,
    ml.ping TO ml_predictor;
GRANT UPDATE (state) ON ml.model TO ml_predictor;
GRANT UPDATE (state, attempt, failures, worker, lease_until, run_after, last_error, in_flight, done_at, runtime,
    processor) ON ml.job
    TO ml_predictor;
GRANT UPDATE (deaths) ON ml.suspect TO ml_predictor;

-- Reader: reads everything except the payloads. ml.show draws one of them.
GRANT SELECT ON ml.progress, ml.inputs, ml.outcome, ml.accuracy, ml.confusion, ml.class_report, ml.misclassified,
    ml.gallery, ml.latest_predictions, ml.lineage, ml.drift, ml.integrity, ml.promotions, ml.promotion, ml.model,
    ml.chunk, ml.test_set,
    ml.job, ml.input_name, ml.prediction, ml.prediction_error, ml.suspect, ml.vocabulary, ml.alembic_version TO ml_reader;
GRANT SELECT (input_id, chunk_id, sample_no, label_no) ON ml.input TO ml_reader;
GRANT EXECUTE ON FUNCTION ml.show(bigint), ml.server_state() TO ml_predictor, ml_reader;
