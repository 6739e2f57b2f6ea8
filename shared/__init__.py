"""The nouns and the seams of both sides; imports nothing of ours. Its README says more."""
