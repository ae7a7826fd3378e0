-- Which classes does the serving model confuse most often?
SELECT c.dataset, c.label, c.predicted, c.n
FROM ml.confusion c JOIN ml.model m USING (model_id)
WHERE m.state = 'serving' AND c.label <> c.predicted
ORDER BY c.n DESC
LIMIT 20;
