"""The colors of hematoxylin and eosin, the two stains of H&E."""

# Optical densities in red, green and blue, unit vectors: Ruifrok & Johnston 2001 (Anal Quant Cytol
# Histol 23:291), table 1.
HEMATOXYLIN, EOSIN = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105)
