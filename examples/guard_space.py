"""GuardSpace on a finished fine-tune: covariances of an aligned model on harmful prompts, then the sweep with it.

python examples/guard_space.py
"""

import tempfile
from pathlib import Path

import torch

from safety_lightning.activations import collect_covariances, save_covariances
from safety_lightning.checkpoints import load_model, load_tokenizer, locate_model
from safety_lightning.evaluation.cases import encode_text
from safety_lightning.lab.world import generate_examples
from safety_lightning.methods import GuardSpace, Variant
from safety_lightning.sweep import SweepSettings, VariantLoader, open_inputs


def main() -> None:
    """Prints how much of an update is kept; here lab:base plays the fine-tune."""
    model = load_model("lab:aligned", dtype=torch.float32)
    tokenizer = load_tokenizer(locate_model("lab:aligned"))
    examples = generate_examples("harmful", split="train", size=32, seed=0)
    prompts = [encode_text(tokenizer, one.prompt, prompt_format="chat") for one in examples]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "covariances.safetensors"
        save_covariances(collect_covariances(model, prompts), file)
        method = GuardSpace(covariances=str(file), output_fraction=0.1, input_energy=0.9)
        inputs = open_inputs("lab:base", "lab:aligned", ["tuned=lab:base"], methods=[method], settings=SweepSettings())
        reference = {name: weights.detach().clone() for name, weights in model.named_parameters()}
        state = VariantLoader(inputs, SweepSettings()).load(model, Variant(finetuned="tuned", method=method))
    squares = [(state[name] - start).square().sum() for name, start in reference.items()]
    print(f"guard_space: norm of the kept update {float(torch.stack(squares).sum().sqrt()):.3f}")


if __name__ == "__main__":
    main()
