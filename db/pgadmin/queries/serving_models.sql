-- Which model serves which dataset, since when, and why?
SELECT DISTINCT ON (dataset) dataset, action, to_bundle, why, at FROM ml.promotions
WHERE action <> 'declined'
ORDER BY dataset, at DESC;
