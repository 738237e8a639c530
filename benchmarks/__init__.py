"""How fast mbgan is, against plain loops and against the machine: `make bench`."""
