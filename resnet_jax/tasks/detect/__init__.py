"""Detection: where objects are, what they are, and which pixels are theirs."""
