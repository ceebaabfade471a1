"""The cost of networks and steps: counted, measured here, and forecast for devices that need not be here."""
