"""The world that costs nothing: what a plan will take, by formulas and by simulated events."""
