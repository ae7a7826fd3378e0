-- On which inputs is the serving model least certain? They are good candidates for a check by a person.
SELECT u.*, ml.show(u.input_id) AS input
FROM (SELECT o.name, o.label, o.predicted, o.score, o.dataset, o.input_id
      FROM ml.outcome o JOIN ml.model m USING (model_id)
      WHERE m.state = 'serving' ORDER BY o.score LIMIT 20) u;
