"""Tasks, one a file; `task.py` is the contract."""
