"""docs/reference/, made from the settings, the messages, the metrics and the command line, so that it cannot be old."""
