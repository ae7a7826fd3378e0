-- How good is each model on its test set? And on other inputs with labels? agrees: SQL and the manifest count the same.
SELECT name, dataset, accuracy, n, in_test_set, in_training, agrees FROM ml.accuracy;
