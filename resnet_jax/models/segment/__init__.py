"""Networks that name the class of every pixel, over a backbone of `models`."""
