"""Train, compare and audit GANs for scarce histopathology images."""
