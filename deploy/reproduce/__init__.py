"""`factory reproduce`: the paper's experiment, as a list of `factory up`s that the same code runs at every scale."""
