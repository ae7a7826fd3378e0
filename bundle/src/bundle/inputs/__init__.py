"""From files and arrays as people have them to what a model takes, the same for training and serving."""
