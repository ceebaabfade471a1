"""Networks that give each image a vector, an embedding, over a backbone of `models`."""
