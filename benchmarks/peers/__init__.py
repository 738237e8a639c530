"""The same networks and data through other ways of training a GAN: `make bench-peers`."""
