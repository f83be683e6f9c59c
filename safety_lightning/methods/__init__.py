"""Ways to treat the update of a finished fine-tune, a file each, behind one protocol.

delta       what all of them share of one matrix: its delta, decomposed once, and the bases of every source
update      the update seen from these bases, and what a method keeps of it: its norms, weights and leak
protocol    Method: what it needs, keeps and is called; Variant: a method on a finetuned model
subspace    the paper's: a component of a subspace; then opposite (its release's), scale, energy
plain       reference and finetuned model themselves, as variants
safe_lora   from other papers; then safe_merge, resta, guard_space
"""

from safety_lightning.methods.energy import EnergyRemoval, RemoveEnergy
from safety_lightning.methods.guard_space import GuardSpace
from safety_lightning.methods.opposite import Opposite
from safety_lightning.methods.plain import Plain
from safety_lightning.methods.protocol import Description, Method, Needs, Variant, list_variants, match_variants
from safety_lightning.methods.resta import Resta
from safety_lightning.methods.safe_lora import SafeLora
from safety_lightning.methods.safe_merge import SafeMerge
from safety_lightning.methods.scale import Scale
from safety_lightning.methods.subspace import FRACTIONS, SubspaceComponent, list_components
from safety_lightning.methods.update import Kept, MatrixUpdate

__all__ = [
    "FRACTIONS",
    "Description",
    "EnergyRemoval",
    "GuardSpace",
    "Kept",
    "MatrixUpdate",
    "Method",
    "Needs",
    "Opposite",
    "Plain",
    "RemoveEnergy",
    "Resta",
    "SafeLora",
    "SafeMerge",
    "Scale",
    "SubspaceComponent",
    "Variant",
    "list_components",
    "list_variants",
    "match_variants",
]
