"""What a trained model does, measured: each probe is a file, reads a stored run, and prints a table."""
