"""How good a model is: its metrics on the test set, its epochs, and the same measured again."""
