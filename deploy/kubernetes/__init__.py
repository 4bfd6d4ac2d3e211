"""The factory on Kubernetes: a Helm chart, and what generates the part of it that follows schemas/topics.py."""
