"""What a trained model does, measured: each probe is a file with `measure(subject, ...) -> Finding`, named as its command."""
