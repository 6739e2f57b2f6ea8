"""Parameters in, bytes out. Its README says where to begin."""
