"""`factory studio`: the tables of a data directory as pages in a browser, on loopback, with nothing from outside."""
