"""The commands: each is a function, its signature the flags, its docstring the help. `lab.cli` lists them."""
