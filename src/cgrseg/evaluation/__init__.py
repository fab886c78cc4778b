"""How good a model is: the confusion matrix and the scores drawn from it."""
