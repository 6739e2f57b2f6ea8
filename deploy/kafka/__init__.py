"""A Kafka broker on this machine without containers, for development and tests."""
