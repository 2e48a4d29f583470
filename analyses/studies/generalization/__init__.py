"""Which property of the training programs made the models of a sweep generalize, in behaviour and in mechanism."""
