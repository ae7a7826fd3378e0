-- References that are checked once for each statement, instead of foreign keys, which check each row
-- (docs/decisions/references.md). The rule: prediction.model_id exists in ml.model, prediction.input_id in ml.input,
-- and input.chunk_id in ml.chunk. Below, a child is a row that names another row, its parent.
--
-- Why two transactions cannot break the rule together: every statement that writes children holds ROW EXCLUSIVE on
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

CREATE OR REPLACE FUNCTION ml.check_new_predictions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    missing bigint;
BEGIN
    PERFORM ml.require_read_committed();
    SELECT n.model_id INTO missing FROM (SELECT DISTINCT model_id FROM new_rows) n
    WHERE (SELECT m.model_id FROM ml.model m WHERE m.model_id = n.model_id) IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('a prediction names model %s, which does not exist', missing);
    END IF;
    SELECT n.input_id INTO missing FROM new_rows n
    WHERE (SELECT i.input_id FROM ml.input i WHERE i.input_id = n.input_id) IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('a prediction names input %s, which does not exist', missing);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_new_predictions() IS 'Refuses predictions of a model or an input that does not exist.';

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

CREATE OR REPLACE FUNCTION ml.check_removed_models() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT o.model_id FROM old_rows o
                           WHERE (SELECT m.model_id FROM ml.model m WHERE m.model_id = o.model_id) IS NULL);
    used bigint;
BEGIN
    IF gone = '{}' THEN
        RETURN NULL;  -- an UPDATE of other columns
    END IF;
    PERFORM ml.require_read_committed();
    LOCK TABLE ml.prediction IN SHARE ROW EXCLUSIVE MODE;
    SELECT g.model_id INTO used FROM unnest(gone) g (model_id)
    WHERE (SELECT p.model_id FROM ml.prediction p WHERE p.model_id = g.model_id LIMIT 1) IS NOT NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('model %s has predictions; delete them first', used);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_removed_models() IS 'Refuses to remove a model that has predictions.';

-- The predictions of an input are looked up model by model, because the primary key of ml.prediction begins with the
-- model. A prediction of a model that is removed at the same time is found by ml.check_removed_models.
CREATE OR REPLACE FUNCTION ml.check_removed_inputs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT o.input_id FROM old_rows o
                           WHERE (SELECT i.input_id FROM ml.input i WHERE i.input_id = o.input_id) IS NULL);
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
COMMENT ON FUNCTION ml.check_removed_inputs() IS 'Refuses to remove an input that has predictions.';

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

-- The argument is the children's table. TRUNCATE itself has locked its own table against all readers, and each writer
-- of children reads it.
CREATE OR REPLACE FUNCTION ml.check_truncated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used boolean;
BEGIN
    PERFORM ml.require_read_committed();
    EXECUTE format('SELECT EXISTS (SELECT FROM ml.%I)', TG_ARGV[0]) INTO used;
    IF used THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('ml.%s holds rows that name rows of ml.%s; truncate both in the same command',
                             TG_ARGV[0], TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml.check_truncated() IS 'Refuses to empty a table while others name its rows.';

-- A trigger that somebody attached to a table of their own would run these functions with the owner's rights.
REVOKE EXECUTE ON FUNCTION ml.check_new_predictions(), ml.check_new_inputs(), ml.check_removed_models(),
    ml.check_removed_inputs(), ml.check_removed_chunks(), ml.check_truncated() FROM PUBLIC;

-- A trigger that exists stays: to drop it would lock its table against readers, too, at each migration.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('prediction', 'check_inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows', 'check_new_predictions()'),
            ('prediction', 'check_moved', 'UPDATE', 'REFERENCING NEW TABLE AS new_rows', 'check_new_predictions()'),
            ('model', 'check_deleted', 'DELETE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_models()'),
            ('model', 'check_renumbered', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows', 'check_removed_models()'),
            ('model', 'check_truncated', 'TRUNCATE', '', 'check_truncated(prediction)'),
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
END $$;
