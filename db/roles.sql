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
ALTER ROLE pypredict SET search_path = ml;
-- A worker that loses its connection or freezes during a commit must not lock its job's row for hours.
ALTER ROLE pypredict SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE pypredict SET tcp_keepalives_idle = 30;
ALTER ROLE pypredict SET tcp_keepalives_interval = 10;
ALTER ROLE pypredict SET tcp_keepalives_count = 3;
ALTER ROLE pypredict SET tcp_user_timeout = '60s';
ALTER ROLE reader SET search_path = ml;
ALTER ROLE reader SET default_transaction_read_only = on;  -- for a clearer error; the rights are missing anyway
ALTER ROLE reader SET statement_timeout = '60s';
ALTER ROLE reader SET idle_in_transaction_session_timeout = '10min';  -- a forgotten cursor blocks migrations

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA ml TO ml_loader, ml_predictor, ml_reader;
REVOKE ALL ON ALL TABLES IN SCHEMA ml FROM ml_loader, ml_predictor, ml_reader;

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

-- Reader: reads everything except the payloads.
GRANT SELECT ON ml.progress, ml.inputs, ml.outcome, ml.accuracy, ml.confusion, ml.class_report, ml.misclassified,
    ml.latest_predictions, ml.lineage, ml.integrity, ml.promotions, ml.promotion, ml.model, ml.chunk, ml.test_set,
    ml.job, ml.input_name, ml.prediction, ml.prediction_error, ml.suspect, ml.vocabulary, ml.alembic_version TO ml_reader;
GRANT SELECT (input_id, chunk_id, sample_no, label_no) ON ml.input TO ml_reader;
