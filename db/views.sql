-- The views for people. Each `pypredict migrate` replaces them with those of this file. The first columns are what a
-- person looks for: the name, then the result; numbers of rows in tables come last.
-- No view shows a payload: a data grid that reads BYTEA without a limit runs out of memory.
-- Nothing is dropped here: a dropped view loses the rights that people have granted on it, and cannot be dropped while a
-- view of theirs uses it. Columns can be added at the end only. A version that changes other columns drops that view, by
-- name, in its migration (db/migrations).

-- Every pair (model, chunk) that needs a job and has none. The chunk has a number above `after`, and the dtype and shape
-- that the model takes. Two kinds of pairs: (1) a model and the chunks of its own test set; (2) the serving model and the
-- chunks that are newer than the model or have no job of any model. Older chunks that another model has predicted are
-- not planned. OFFSET 0 and the counts fix the query plan, independent of the statistics: first the chunks by number,
-- then one index look-up for each chunk.
CREATE OR REPLACE FUNCTION ml.unplanned(after bigint) RETURNS TABLE (model_id bigint, chunk_id bigint)
LANGUAGE sql STABLE AS $$
    SELECT m.model_id, c.chunk_id
    FROM (SELECT chunk_id, dataset, prep_sha256, dtype, shape, created_at FROM ml.chunk
          WHERE chunk_id > after OFFSET 0) c
    JOIN ml.model m USING (dataset, prep_sha256)
    WHERE m.state = 'serving' AND (c.dtype, c.shape) = (m.input_dtype, m.input_shape)
      AND (SELECT count(*) FROM ml.job j WHERE j.model_id = m.model_id AND j.chunk_id = c.chunk_id) = 0
      AND (c.created_at > m.created_at OR (SELECT count(*) FROM ml.job j WHERE j.chunk_id = c.chunk_id) = 0)
    UNION
    SELECT h.model_id, h.chunk_id FROM ml.test_set h
    WHERE (SELECT count(*) FROM ml.job j WHERE j.model_id = h.model_id AND j.chunk_id = h.chunk_id) = 0
$$;
COMMENT ON FUNCTION ml.unplanned(bigint) IS 'Pairs of model and chunk that need a job and have none yet.';

CREATE OR REPLACE VIEW ml.progress AS
SELECT m.name, m.dataset, m.state,
       coalesce(sum(c.n_inputs), 0) AS inputs,
       coalesce(sum(c.n_inputs) FILTER (WHERE w.state = 'done'), 0) AS inputs_done,
       max(w.done_at) AS last_done_at,
       count(w.chunk_id) AS jobs,
       count(*) FILTER (WHERE w.state = 'done') AS jobs_done,
       count(*) FILTER (WHERE w.state = 'running') AS jobs_running,
       m.model_id
FROM ml.model m
LEFT JOIN (SELECT model_id, chunk_id, state, done_at FROM ml.job
           UNION ALL SELECT model_id, chunk_id, 'pending', NULL FROM ml.unplanned(0)) w USING (model_id)
LEFT JOIN ml.chunk c USING (chunk_id)
GROUP BY m.model_id
ORDER BY m.model_id;
COMMENT ON VIEW ml.progress IS 'Jobs and inputs of each model, done and open, including chunks that are not planned yet.';

CREATE OR REPLACE VIEW ml.promotions AS
SELECT p.created_at AS at, p.dataset, p.action, f.bundle_id AS from_bundle, t.bundle_id AS to_bundle, p.why,
       p.from_model_id, p.to_model_id, p.promotion_id
FROM ml.promotion p
LEFT JOIN ml.model f ON f.model_id = p.from_model_id
LEFT JOIN ml.model t ON t.model_id = p.to_model_id
ORDER BY p.promotion_id DESC;
COMMENT ON VIEW ml.promotions IS 'Each change of a serving model: time, old and new model, reason; the newest first.';

CREATE OR REPLACE VIEW ml.inputs AS
SELECT coalesce(n.name, 'row ' || c.first_row + i.sample_no) AS name, c.classes[i.label_no + 1] AS label, c.dataset,
       c.dtype, c.shape, c.source, c.created_at AS loaded_at, octet_length(i.payload) AS payload_bytes,
       i.input_id, c.chunk_id, i.sample_no
FROM ml.input i JOIN ml.chunk c USING (chunk_id)
LEFT JOIN ml.input_name n ON n.chunk_id = i.chunk_id AND n.sample_no = i.sample_no;
COMMENT ON VIEW ml.inputs IS 'Every input without its payload: name, label, dtype, shape, size in bytes, source.';

CREATE OR REPLACE VIEW ml.outcome AS
SELECT coalesce(n.name, 'row ' || c.first_row + i.sample_no) AS name,
       c.classes[i.label_no + 1] AS label, m.classes[p.class_no + 1] AS predicted, p.score, m.dataset,
       h.model_id IS NOT NULL AS in_test_set, p.in_training, c.source, p.created_at AS predicted_at,
       p.model_id, i.input_id, c.chunk_id, i.sample_no
FROM ml.prediction p
JOIN ml.model m USING (model_id)
JOIN ml.input i USING (input_id)
JOIN ml.chunk c USING (chunk_id)
LEFT JOIN ml.input_name n ON n.chunk_id = i.chunk_id AND n.sample_no = i.sample_no
LEFT JOIN ml.test_set h ON h.model_id = p.model_id AND h.chunk_id = c.chunk_id;
COMMENT ON VIEW ml.outcome IS
    'Every prediction with its label (NULL: no label), as class names; in_training: the content was in training or validation.';

CREATE OR REPLACE VIEW ml.accuracy AS
SELECT m.name, m.dataset, o.n_correct::double precision / o.n AS accuracy, o.n, o.n_correct,
       o.in_test_set, o.in_training,
       CASE WHEN o.in_test_set THEN (m.metrics ->> 'accuracy')::double precision END AS manifest_accuracy,
       CASE WHEN o.in_test_set THEN o.n = (m.metrics ->> 'n')::bigint
            AND o.n_correct::double precision / o.n = (m.metrics ->> 'accuracy')::double precision END AS agrees,
       m.model_id
FROM ml.model m
JOIN (SELECT model_id, in_test_set, in_training, count(*) AS n, count(*) FILTER (WHERE label = predicted) AS n_correct
      FROM ml.outcome WHERE label IS NOT NULL GROUP BY model_id, in_test_set, in_training) o USING (model_id)
ORDER BY m.model_id, o.in_test_set DESC, o.in_training;
COMMENT ON VIEW ml.accuracy IS
    'Share of correct predictions: on the test set, with the manifest''s value; on other inputs, in training or not.';

CREATE OR REPLACE VIEW ml.confusion AS
SELECT dataset, label, predicted, count(*) AS n, in_test_set, in_training, model_id
FROM ml.outcome WHERE label IS NOT NULL
GROUP BY model_id, dataset, in_test_set, in_training, label, predicted
ORDER BY model_id, in_test_set DESC, in_training, label, predicted;
COMMENT ON VIEW ml.confusion IS 'Confusion matrix, one row per label and predicted class with its count n.';

CREATE OR REPLACE VIEW ml.class_report AS
SELECT m.dataset, k.class,
       count(*) FILTER (WHERE o.label = k.class) AS support,
       count(*) FILTER (WHERE o.label = k.class AND o.predicted = k.class)::double precision
           / nullif(count(*) FILTER (WHERE o.predicted = k.class), 0) AS "precision",
       count(*) FILTER (WHERE o.label = k.class AND o.predicted = k.class)::double precision
           / nullif(count(*) FILTER (WHERE o.label = k.class), 0) AS recall,
       2 * count(*) FILTER (WHERE o.label = k.class AND o.predicted = k.class)::double precision
           / nullif(count(*) FILTER (WHERE o.label = k.class) + count(*) FILTER (WHERE o.predicted = k.class), 0) AS f1,
       o.in_test_set, o.in_training, m.model_id
FROM ml.model m
CROSS JOIN LATERAL unnest(m.classes) WITH ORDINALITY AS k (class, no)
JOIN ml.outcome o ON o.model_id = m.model_id AND o.label IS NOT NULL
GROUP BY m.model_id, o.in_test_set, o.in_training, k.class, k.no
ORDER BY m.model_id, o.in_test_set DESC, o.in_training, k.no;
COMMENT ON VIEW ml.class_report IS 'Precision, recall and F1 per class; NULL: the class was never predicted or has no input.';

CREATE OR REPLACE VIEW ml.misclassified AS
SELECT name, label, predicted, score, dataset, in_test_set, source, model_id, input_id
FROM ml.outcome WHERE label <> predicted
ORDER BY score DESC, input_id;
COMMENT ON VIEW ml.misclassified IS 'Wrong predictions, the most confident first.';

-- The drawings take about a millisecond each, so the view has few rows. ml.misclassified has all, and ml.show draws any.
CREATE OR REPLACE VIEW ml.gallery AS
SELECT w.name, w.label, w.predicted, w.score, ml.show(w.input_id) AS input, w.dataset, w.in_test_set, w.source,
       w.model_id, w.input_id
FROM ml.model m CROSS JOIN LATERAL (SELECT * FROM ml.misclassified w WHERE w.model_id = m.model_id LIMIT 50) w
WHERE m.state = 'serving';
COMMENT ON VIEW ml.gallery IS
    'The 50 most confident wrong predictions of each serving model, with the input as text: an image is drawn.';

CREATE OR REPLACE VIEW ml.latest_predictions AS
SELECT DISTINCT ON (input_id) name, label, predicted, score, dataset, source, predicted_at, model_id, input_id
FROM ml.outcome
ORDER BY input_id, model_id DESC;
COMMENT ON VIEW ml.latest_predictions IS 'For every input, the prediction of the newest model that predicted it.';

CREATE OR REPLACE VIEW ml.lineage AS
SELECT coalesce(n.name, 'row ' || c.first_row + i.sample_no) AS name, m.dataset, m.bundle_id,
       m.manifest #>> '{git,commit}' AS git_commit, (m.manifest #>> '{git,dirty}')::boolean AS git_dirty,
       coalesce(m.manifest #>> '{tracked_run,url}', m.manifest #>> '{tracked_run,directory}') AS tracked_run,
       p.created_at AS predicted_at, j.worker, j.attempt, encode(sha256(i.payload), 'hex') AS input_sha256,
       encode(m.sha256, 'hex') AS model_sha256, p.model_id, p.input_id
FROM ml.prediction p
JOIN ml.model m USING (model_id)
JOIN ml.input i USING (input_id)
JOIN ml.chunk c USING (chunk_id)
LEFT JOIN ml.input_name n ON n.chunk_id = i.chunk_id AND n.sample_no = i.sample_no
LEFT JOIN ml.job j ON j.model_id = p.model_id AND j.chunk_id = i.chunk_id;
COMMENT ON VIEW ml.lineage IS 'The origin of each prediction: input hash, model hash, bundle, git commit, W&B run, worker.';

-- Population stability index (Siddiqi, Credit Risk Scorecards, 2006): the sum over the classes of (a - e) ln(a / e). a is the
-- predicted share of the class among the loaded inputs, e that on the test set; each count is raised by 0.5, so that no
-- share is 0. Customary: below 0.1 no change, from 0.25 on a large one. A few inputs differ by chance: without a change,
-- psi / (1/n + 1/test_n) is about chi-squared with k - 1 degrees of freedom, for k classes (Yurdakul, Statistical
-- Properties of Population Stability Index, 2018). psi_by_chance is its mean and three standard deviations.
CREATE OR REPLACE VIEW ml.drift AS
WITH counted AS (
    SELECT p.model_id, h.model_id IS NOT NULL AS in_test_set,
           CASE WHEN h.model_id IS NULL THEN (c.created_at AT TIME ZONE 'UTC')::date END AS day,
           CASE WHEN h.model_id IS NULL THEN c.source END AS source,
           p.class_no, count(*) AS n, sum(p.score::double precision) AS score
    FROM ml.prediction p
    JOIN ml.input i USING (input_id)
    JOIN ml.chunk c USING (chunk_id)
    LEFT JOIN ml.test_set h ON h.model_id = p.model_id AND h.chunk_id = c.chunk_id
    GROUP BY 1, 2, 3, 4, 5
), part AS (
    SELECT model_id, in_test_set, day, source, sum(n)::bigint AS n, sum(score) / sum(n) AS mean_score,
           jsonb_object_agg(class_no, n) AS counts
    FROM counted GROUP BY model_id, in_test_set, day, source
)
SELECT m.dataset, m.model_id, m.name, a.day, a.source, a.n, a.mean_score, s.shares, s.psi,
       (k.n - 1 + 3 * sqrt(2.0 * (k.n - 1))) * (1.0 / a.n + 1.0 / e.n) AS psi_by_chance,
       e.n AS test_n, e.mean_score AS test_mean_score, s.test_shares
FROM part a
JOIN part e ON e.model_id = a.model_id AND e.in_test_set
JOIN ml.model m ON m.model_id = a.model_id
CROSS JOIN LATERAL (SELECT cardinality(m.classes)::double precision AS n) k
CROSS JOIN LATERAL (
    SELECT array_agg(loaded / a.n ORDER BY class_no) AS shares, array_agg(tested / e.n ORDER BY class_no) AS test_shares,
           sum(((loaded + 0.5) / (a.n + 0.5 * k.n) - (tested + 0.5) / (e.n + 0.5 * k.n))
               * ln((loaded + 0.5) / (a.n + 0.5 * k.n) * (e.n + 0.5 * k.n) / (tested + 0.5))) AS psi
    FROM (SELECT class_no, coalesce((a.counts ->> class_no::text)::double precision, 0) AS loaded,
                 coalesce((e.counts ->> class_no::text)::double precision, 0) AS tested
          FROM generate_series(0, k.n::integer - 1) AS class_no) per_class
) s
WHERE NOT a.in_test_set
ORDER BY m.model_id, a.day DESC, a.source;
COMMENT ON VIEW ml.drift IS
    'Per model, day (UTC) and source: predicted class shares and mean score beside the test set''s; psi over 0.25: other inputs.';

CREATE OR REPLACE VIEW ml.integrity AS
WITH outcome AS (
    SELECT model_id, input_id FROM ml.prediction
    UNION ALL
    SELECT model_id, input_id FROM ml.prediction_error
), counted AS (
    SELECT o.model_id, i.chunk_id, count(*) AS outcomes, count(DISTINCT o.input_id) AS inputs
    FROM outcome o JOIN ml.input i USING (input_id) GROUP BY o.model_id, i.chunk_id
)
SELECT 'job done without exactly one outcome per input' AS problem,
       format('model %s, chunk %s: %s outcomes for %s inputs', model_id, chunk_id, coalesce(n.outcomes, 0), c.n_inputs) AS detail
FROM ml.job j JOIN ml.chunk c USING (chunk_id) LEFT JOIN counted n USING (model_id, chunk_id)
WHERE j.state = 'done' AND (n.outcomes, n.inputs) IS DISTINCT FROM (c.n_inputs::bigint, c.n_inputs::bigint)
UNION ALL
SELECT 'outcome of a job that is not done', format('model %s, chunk %s: %s outcomes', model_id, chunk_id, n.outcomes)
FROM counted n LEFT JOIN ml.job j USING (model_id, chunk_id) WHERE j.state IS DISTINCT FROM 'done'
UNION ALL
SELECT 'chunk does not hold the inputs it declares', format('chunk %s: %s of %s inputs', c.chunk_id, count(i.input_id), c.n_inputs)
FROM ml.chunk c LEFT JOIN ml.input i USING (chunk_id)
GROUP BY c.chunk_id
HAVING count(i.input_id) <> c.n_inputs OR max(i.sample_no) IS DISTINCT FROM c.n_inputs - 1
UNION ALL
SELECT 'label does not fit the classes of its chunk', format('input %s: label %s', i.input_id, i.label_no)
FROM ml.input i JOIN ml.chunk c USING (chunk_id)
WHERE (c.classes IS NULL) <> (i.label_no IS NULL) OR i.label_no >= cardinality(c.classes)
UNION ALL
SELECT 'prediction does not fit the classes of its model', format('model %s, input %s', p.model_id, p.input_id)
FROM ml.prediction p JOIN ml.model m USING (model_id)
WHERE cardinality(p.probs) <> cardinality(m.classes) OR p.probs[p.class_no + 1] IS DISTINCT FROM p.score
UNION ALL
SELECT 'prediction of a model or an input that does not exist', format('model %s, input %s', p.model_id, p.input_id)
FROM ml.prediction p LEFT JOIN ml.model m USING (model_id) LEFT JOIN ml.input i USING (input_id)
WHERE m.model_id IS NULL OR i.input_id IS NULL
UNION ALL
SELECT 'input of a chunk that does not exist', format('input %s, chunk %s', i.input_id, i.chunk_id)
FROM ml.input i LEFT JOIN ml.chunk c USING (chunk_id) WHERE c.chunk_id IS NULL
UNION ALL
SELECT 'model has a job or test set with another preparation', format('model %s, chunk %s', model_id, chunk_id)
FROM (SELECT model_id, chunk_id FROM ml.job UNION SELECT model_id, chunk_id FROM ml.test_set) u
JOIN ml.model m USING (model_id) JOIN ml.chunk c USING (chunk_id)
WHERE (m.dataset, m.prep_sha256) <> (c.dataset, c.prep_sha256)
UNION ALL
SELECT 'chunk has another dtype or shape than its preparation', format('chunk %s: %s %s, model %s takes %s %s',
       c.chunk_id, c.dtype, c.shape, m.model_id, m.input_dtype, m.input_shape)
FROM ml.chunk c JOIN ml.model m USING (dataset, prep_sha256)
WHERE (c.dtype, c.shape) <> (m.input_dtype, m.input_shape);
COMMENT ON VIEW ml.integrity IS 'Errors in the data. Empty: every input of a done job has exactly one valid outcome.';
