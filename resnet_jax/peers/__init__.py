"""Networks of this package and of other libraries side by side: what they cost, here and as published."""
