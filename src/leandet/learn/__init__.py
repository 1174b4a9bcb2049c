"""Training: who learns which object, what it is taught, and the loop around it."""
