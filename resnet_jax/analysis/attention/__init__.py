"""Where a network looks: heat maps of what in an image counts for a class."""
