"""The `factory` command and all that runs, watches and asks a factory."""
