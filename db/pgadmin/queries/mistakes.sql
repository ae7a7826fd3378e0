-- The most confident wrong predictions of each serving model. A double click on a cell of the column `input` draws it.
SELECT * FROM ml.gallery;
