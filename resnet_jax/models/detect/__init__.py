"""Networks that find objects, over a backbone of `models`."""
