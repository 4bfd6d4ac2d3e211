"""Writes chart/files/topics.yaml from schemas/topics.py: the topics, who consumes them, how they are configured.

The chart's templates make a KafkaTopic of each topic and a ScaledObject trigger of each consumer, so that a topic is
defined in one place. A test holds that the file is what this makes: `python -m deploy.kubernetes.generate` writes it.
"""

import json
from pathlib import Path
from typing import Any

from processors import kafka
from schemas.settings import Settings
from schemas.topics import TOPICS

FILE = Path(__file__).parent / "chart" / "files" / "topics.yaml"
HEAD = "# Made by `python -m deploy.kubernetes.generate` from schemas/topics.py and schemas/settings.py; do not edit.\n"


def content() -> str:
    """The file's text: YAML in which every value is written as JSON, one topic a line."""
    defaults = Settings()
    partitions = {f"{topic.sizing}_partitions": topic.partitions(defaults) for topic in TOPICS}
    retention = {name: value for name, value in kafka.topic_config(defaults).items() if name != "max.message.bytes"}
    topics = [{"name": topic.name, "sizing": topic.sizing, "consumers": list(topic.consumers)} for topic in TOPICS]
    lines = [
        "# The partitions and sizes that hold where the chart's `settings` say nothing else.",
        f"partitions: {_json(partitions)}",
        f"message_max_bytes: {defaults.broker.message_max_bytes}",
        f"config: {_json(retention)}",
        "topics:",
        *(f"  - {_json(topic)}" for topic in topics),
    ]
    return HEAD + "\n".join(lines) + "\n"


def _json(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    return json.dumps(value)


if __name__ == "__main__":
    FILE.write_text(content(), "utf-8")
    print(FILE)
