"""Convert the files and arrays of users into the inputs of a model, in the same way for training and serving."""
