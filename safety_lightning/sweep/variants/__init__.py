"""What `VariantLoader` keeps, so that the matrices that take part are read once and not made anew for each variant.

shelf        holds tensors where there is room: on the device, in memory, in a scratch file
weights      the matrices of reference and finetuned models, read once each
directions   the directions of every source and draw, of one matrix
inside       the part of an update that lies in a subspace, from one fraction to the next
"""

from safety_lightning.sweep.variants.directions import Directions
from safety_lightning.sweep.variants.inside import InsideParts, Track
from safety_lightning.sweep.variants.shelf import Place, Shelf
from safety_lightning.sweep.variants.weights import KeptWeights, WeightPair

__all__ = ["Directions", "InsideParts", "KeptWeights", "Place", "Shelf", "Track", "WeightPair"]
