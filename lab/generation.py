"""Text from a run of a language task, byte by byte.

The prompt is read as one piece, and every byte after it as the next position after the state that is there: what a byte costs
does not depend on how much was read where the state is of one size; attention keeps its keys and values and reads them.
"""
