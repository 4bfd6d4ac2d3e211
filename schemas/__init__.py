"""The language of the factory: messages, topics, table schemas, settings. Imports nothing else of ours."""
