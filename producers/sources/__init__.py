"""Where problems come from: generators, files, hub datasets, and the part of them that is held out for evaluation."""
