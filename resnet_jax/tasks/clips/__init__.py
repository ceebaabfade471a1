"""Classification of videos: one class for each, from clips of it."""
