"""The routes that answer queries."""
