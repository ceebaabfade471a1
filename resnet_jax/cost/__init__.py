"""What networks and steps cost: counted, measured here, and forecast for devices that need not be here."""
