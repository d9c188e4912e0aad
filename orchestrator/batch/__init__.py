"""Ask the same of every row of a file, and lose nothing."""
