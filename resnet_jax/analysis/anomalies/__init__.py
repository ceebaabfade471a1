"""What is unlike good images: distances to patches of them that are kept in a memory bank."""
