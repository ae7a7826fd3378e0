-- References that are checked once for each statement, instead of foreign keys, which check each row
-- (docs/decisions/references.md). The rules, for every login:
--   1. The chunk of an input exists in ml.chunk, and the input of a prediction in ml.input.
--   2. An outcome (a prediction or an error) has a job of its model and its input's chunk, and the job is done.
--   3. A done job stays done.
-- Below, a child is a row that names another row, its parent.
--
-- Rule 2: a writer of outcomes locks the row of the job until its transaction ends, so the job cannot be deleted
-- meanwhile. A deleted job is checked at the end of its transaction: it must have no outcome then.
--
-- Rule 1, and why two transactions cannot break it together: every statement that writes children holds ROW EXCLUSIVE on
-- their table until its transaction ends. A transaction that removes a parent takes SHARE ROW EXCLUSIVE on the
-- children's table, which conflicts, and looks for children after that. If the writer comes first, the remover waits,
-- and then finds the child. If the remover comes first, the writer waits before its first row, and then misses the
-- parent. Each side looks with a new snapshot, after it has its lock. Only READ COMMITTED takes one for each statement,
-- so other isolation levels are refused.
--
-- The functions run as the owner of the tables, as the checks of foreign keys do: a login needs no rights on the other
-- table. A subquery for each row, without sequential scans, is one index look-up for each row, however large the tables
-- are.

CREATE OR REPLACE FUNCTION ml.require_read_committed() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE feature_not_supported USING
            MESSAGE = 'inputs and predictions are added, and what they name is removed, '
                      'in READ COMMITTED transactions only',
            HINT = 'Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
END $$;
COMMENT ON FUNCTION ml.require_read_committed() IS 'Refuses a transaction that cannot see what others have committed.';

CREATE OR REPLACE FUNCTION ml.check_new_outcomes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    needed record;
BEGIN
    PERFORM ml.require_read_committed();
    FOR needed IN  -- usually one job
        SELECT DISTINCT n.model_id,
               (SELECT i.chunk_id FROM ml.input i WHERE i.input_id = n.input_id) AS chunk_id
        FROM new_rows n ORDER BY 1, 2
    LOOP
        IF needed.chunk_id IS NULL THEN
            RAISE foreign_key_violation USING MESSAGE = format(
                'an outcome names input %s, which does not exist',
                (SELECT n.input_id FROM new_rows n
                 WHERE (SELECT i.input_id FROM ml.input i WHERE i.input_id = n.input_id) IS NULL LIMIT 1));
        END IF;
        PERFORM FROM ml.job j
        WHERE j.model_id = needed.model_id AND j.chunk_id = needed.chunk_id AND j.state = 'done' FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE foreign_key_violation USING MESSAGE = format(
                'an outcome of model %s for chunk %s has no job that is done', needed.model_id, needed.chunk_id);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_new_outcomes() IS
    'Refuses predictions and errors of an input that does not exist, or without a job that is done.';

CREATE OR REPLACE FUNCTION ml.check_done_job() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE check_violation USING
        MESSAGE = format('job of model %s and chunk %s is done and stays done', OLD.model_id, OLD.chunk_id),
        HINT = 'To predict the chunk again, delete its outcomes and the job in one transaction, as the owner.';
END $$;
COMMENT ON FUNCTION ml.check_done_job() IS 'Refuses to open a done job again, or to give it another model or chunk.';

CREATE OR REPLACE FUNCTION ml.check_deleted_job() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    used bigint;
BEGIN
    PERFORM ml.require_read_committed();
    SELECT i.input_id INTO used FROM ml.input i
    WHERE i.chunk_id = OLD.chunk_id
      AND ((SELECT p.input_id FROM ml.prediction p
            WHERE p.model_id = OLD.model_id AND p.input_id = i.input_id) IS NOT NULL
           OR (SELECT e.input_id FROM ml.prediction_error e
               WHERE e.model_id = OLD.model_id AND e.input_id = i.input_id) IS NOT NULL) LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format(
            'the job of model %s and chunk %s is deleted, but input %s has an outcome; delete the outcomes in the same '
            'transaction', OLD.model_id, OLD.chunk_id, used);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_deleted_job() IS 'Refuses, at the end of the transaction, to delete a job that has outcomes.';

CREATE OR REPLACE FUNCTION ml.check_new_inputs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    missing bigint;
BEGIN
    PERFORM ml.require_read_committed();
    SELECT n.chunk_id INTO missing FROM (SELECT DISTINCT chunk_id FROM new_rows) n
    WHERE (SELECT c.chunk_id FROM ml.chunk c WHERE c.chunk_id = n.chunk_id) IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('an input names chunk %s, which does not exist', missing);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_new_inputs() IS 'Refuses inputs of a chunk that does not exist.';

-- The predictions of an input are looked up model by model, because the primary key of ml.prediction begins with the
-- model. A model that has predictions also has jobs, so a foreign key keeps it.
CREATE OR REPLACE FUNCTION ml.check_removed_inputs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT o.input_id FROM old_rows o
                           WHERE (SELECT i.input_id FROM ml.input i
                                  WHERE i.input_id = o.input_id AND i.chunk_id = o.chunk_id) IS NULL);
    used bigint;
BEGIN
    IF gone = '{}' THEN
        RETURN NULL;  -- an UPDATE of other columns
    END IF;
    PERFORM ml.require_read_committed();
    LOCK TABLE ml.prediction IN SHARE ROW EXCLUSIVE MODE;
    SELECT g.input_id INTO used FROM unnest(gone) g (input_id) CROSS JOIN ml.model m
    WHERE (SELECT p.input_id FROM ml.prediction p WHERE p.model_id = m.model_id AND p.input_id = g.input_id) IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('input %s has predictions; delete them first', used);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_removed_inputs() IS
    'Refuses to remove an input that has predictions, or to move it to another chunk.';

CREATE OR REPLACE FUNCTION ml.check_removed_chunks() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT o.chunk_id FROM old_rows o
                           WHERE (SELECT c.chunk_id FROM ml.chunk c WHERE c.chunk_id = o.chunk_id) IS NULL);
    used bigint;
BEGIN
    IF gone = '{}' THEN
        RETURN NULL;  -- an UPDATE of other columns
    END IF;
    PERFORM ml.require_read_committed();
    LOCK TABLE ml.input IN SHARE ROW EXCLUSIVE MODE;
    SELECT g.chunk_id INTO used FROM unnest(gone) g (chunk_id)
    WHERE (SELECT i.chunk_id FROM ml.input i WHERE i.chunk_id = g.chunk_id LIMIT 1) IS NOT NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('chunk %s has inputs; delete them first', used);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_removed_chunks() IS 'Refuses to remove a chunk that has inputs.';

-- The arguments are the children's tables. TRUNCATE itself has locked its own table against all readers, and each writer
-- of children reads it.
CREATE OR REPLACE FUNCTION ml.check_truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    children text;
    used boolean;
BEGIN
    PERFORM ml.require_read_committed();
    FOREACH children IN ARRAY TG_ARGV LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM ml.%I)', children) INTO used;
        IF used THEN
            RAISE foreign_key_violation USING
                MESSAGE = format('ml.%s holds rows that name rows of ml.%s; truncate both in the same command',
                                 children, TG_TABLE_NAME);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_truncated() IS 'Refuses to empty a table while others name its rows.';

-- A trigger that somebody attached to a table of their own would run these functions with the owner's rights.
REVOKE EXECUTE ON FUNCTION ml.check_new_outcomes(), ml.check_new_inputs(), ml.check_removed_inputs(),
    ml.check_removed_chunks(), ml.check_deleted_job(), ml.check_truncated() FROM PUBLIC;

-- A trigger that exists stays: to drop it would lock its table against readers, too, at each migration.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('prediction', 'check_inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows', 'check_new_outcomes()'),
            ('prediction', 'check_moved', 'UPDATE', 'REFERENCING NEW TABLE AS new_rows', 'check_new_outcomes()'),
            ('prediction_error', 'check_inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows', 'check_new_outcomes()'),
            ('prediction_error', 'check_moved', 'UPDATE', 'REFERENCING NEW TABLE AS new_rows', 'check_new_outcomes()'),
            ('job', 'check_truncated', 'TRUNCATE', '', 'check_truncated(prediction, prediction_error)'),
            ('input', 'check_deleted', 'DELETE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_inputs()'),
            ('input', 'check_renumbered', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_inputs()'),
            ('input', 'check_truncated', 'TRUNCATE', '', 'check_truncated(prediction)'),
            ('input', 'check_inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows', 'check_new_inputs()'),
            ('input', 'check_moved', 'UPDATE', 'REFERENCING NEW TABLE AS new_rows', 'check_new_inputs()'),
            ('chunk', 'check_deleted', 'DELETE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_chunks()'),
            ('chunk', 'check_renumbered', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_chunks()'),
            ('chunk', 'check_truncated', 'TRUNCATE', '', 'check_truncated(input)')
        ) AS list (on_table, name, event, rows, function)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger
                       WHERE tgrelid = ('ml.' || wanted.on_table)::regclass AND tgname = wanted.name) THEN
            EXECUTE format('CREATE TRIGGER %s AFTER %s ON ml.%s %s FOR EACH STATEMENT EXECUTE FUNCTION ml.%s',
                           wanted.name, wanted.event, wanted.on_table, wanted.rows, wanted.function);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'ml.job'::regclass AND tgname = 'check_done') THEN
        CREATE TRIGGER check_done BEFORE UPDATE ON ml.job FOR EACH ROW
            WHEN (OLD.state = 'done' AND (OLD.state, OLD.model_id, OLD.chunk_id) <> (NEW.state, NEW.model_id, NEW.chunk_id))
            EXECUTE FUNCTION ml.check_done_job();
        CREATE CONSTRAINT TRIGGER check_deleted AFTER DELETE ON ml.job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (OLD.state = 'done') EXECUTE FUNCTION ml.check_deleted_job();
    END IF;
END $$;
