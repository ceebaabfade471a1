"""One class per image. Nothing is imported here: the loss needs fewer libraries than the task."""
