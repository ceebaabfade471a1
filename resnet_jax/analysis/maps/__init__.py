"""Maps of features: points in the plane, and numbers that say what a map shows."""
