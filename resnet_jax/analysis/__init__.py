"""What a network has learnt: its features, kept on disk, and what can be read from them."""
