"""Ways to treat the update of a finished fine-tune, and one matrix as they see it."""

from safety_lightning.methods.rivals import EnergyRemoval, Resta, Rivals, SafeLora, SafeMerge
from safety_lightning.methods.variants import Variant, list_variants

__all__ = ["EnergyRemoval", "Resta", "Rivals", "SafeLora", "SafeMerge", "Variant", "list_variants"]
