"""A network for images on every frame of a clip, and a head that reads the frames in their order."""
