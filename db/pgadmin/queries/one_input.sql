-- One input with all its predictions, and as text. Replace the name: ml.inputs lists all.
SELECT o.name, o.label, o.predicted, o.score, m.name AS model, ml.show(o.input_id) AS input
FROM ml.outcome o JOIN ml.model m USING (model_id)
WHERE o.name = 'row 7'
ORDER BY o.input_id, o.model_id DESC
LIMIT 20;
