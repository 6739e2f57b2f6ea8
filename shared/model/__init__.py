"""What a project says, as frozen values: data sources, pipes, nodes, types, the workspace."""
