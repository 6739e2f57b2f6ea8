"""What all HTTP apps share: errors, tokens, health, request ids, the server itself."""
