"""A sweep from Python: the weights of one variant after the other in a live model, none of them saved.

python examples/sweep.py
"""

import torch

from safety_lightning import VariantLoader
from safety_lightning.checkpoints import load_model
from safety_lightning.methods import Scale, SubspaceComponent, list_variants
from safety_lightning.sweep import SweepSettings, open_inputs


def main() -> None:
    """Prints how far each variant of a fine-tune is from the reference; here lab:base plays the fine-tune."""
    methods = [
        SubspaceComponent(source="top_k", component="parallel", fraction=0.25),
        SubspaceComponent(source="top_k", component="orthogonal", fraction=0.25),
        Scale(alpha=0.5),
    ]
    settings = SweepSettings()
    inputs = open_inputs("lab:base", "lab:aligned", ["tuned=lab:base"], methods=methods, settings=settings)
    variants = list_variants(["tuned"], methods)
    reference = dict(load_model("lab:aligned", dtype=torch.float32).named_parameters())
    model = load_model("lab:aligned", dtype=torch.float32)
    for variant, state in VariantLoader(inputs, settings).iterate(model, variants):
        squares = [(state[name] - start).square().sum() for name, start in reference.items()]
        print(f"{variant.name}: norm of the kept update {float(torch.stack(squares).sum().sqrt().detach()):.3f}")


if __name__ == "__main__":
    main()
