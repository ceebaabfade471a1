"""Embeddings that tell one identity from another: losses with margins, and verification."""
