"""One contract for ClickHouse, the embedded engine behind it, and what free SQL may do."""
