"""Capture of activations: time and memory against the whole model with ``output_hidden_states=True``.

Each side runs in a process of its own, on the same batches; random weights in the shape of SmolLM2-135M, prompts with
the lengths of GSM8K's. Run as a module it is one side: ``python -m benchmarks.capture SIDE FOLDER``, in scripts/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.common import Result, Setup, take_turns
from benchmarks.shapes import SMOLLM2, Shape, make_model
from safety_lightning.activations import (
    ActivationFolder,
    ActivationModule,
    ActivationWriter,
    PromptData,
    find_last_attended,
)
from safety_lightning.checkpoints import load_model
from safety_lightning.lab import build_tokenizer

NUM_PROMPTS = 2000
EVERY = 4  # of the prompts by rising length one in so many is taken, so that a pair takes minutes
BATCH_SIZE = 32
_SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measurement:
    """What one side took.

    Attributes:
        seconds: From the first batch to the last vector, without the loading of the model.
        peak_bytes: Most memory of the process in this time, above that with the model loaded.
    """

    seconds: float
    peak_bytes: int


def measure_capture(setup: Setup) -> list[Result]:
    """Measures `predict` and the straightforward way by turns, in processes of their own."""
    faster, smaller, difference = [], [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = setup.choose(EVERY, 50)
        write_inputs(folder, setup.shrink(SMOLLM2), every=every)
        for repeat in range(setup.num_pairs):
            sides = {side: lambda side=side: run_side(side, folder) for side in SIDES}
            found = {side: run() for side, run in take_turns(sides, repeat)}
            faster.append(found["whole"].seconds / found["ours"].seconds)
            smaller.append(found["ours"].peak_bytes / found["whole"].peak_bytes)
            difference = compare_vectors(folder)
    what = f"{NUM_PROMPTS // every} prompts (of {NUM_PROMPTS} by rising length one in {every}), "
    what += f"the same batches of {BATCH_SIZE}, each side in processes of its own; "
    peaks = " and ".join(f"{found[side].peak_bytes / 1e6:.0f} MB" for side in ("ours", "whole"))
    what += f"vectors differ by at most {difference:.0e} of their layer's largest"
    return [
        Result("capture: time of the whole model with hidden states ÷ ours", "≥ 1.2", faster, what),
        Result("capture: peak memory above the model, ours ÷ the whole model's", "≤ 0.2", smaller, f"last: {peaks}"),
    ]


def write_inputs(folder: Path, shape: Shape, *, every: int) -> None:
    """Writes the model and the prompts."""
    make_model(shape).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(0)
    words = sorted(word[1:] for word in build_tokenizer().get_vocab() if word[1:].isalpha())  # behind a mark of a space
    lengths = torch.randn(NUM_PROMPTS, generator=generator).mul(0.23).exp().mul(87).round().int().sort().values
    with (folder / "prompts.jsonl").open("w") as stream:
        for length in lengths[every - 1 :: every].tolist():
            chosen = torch.randint(len(words), (length,), generator=generator).tolist()
            stream.write(json.dumps({"prompt": " ".join(words[at] for at in chosen)}) + "\n")


def run_side(side: str, folder: Path) -> Measurement:
    """Runs one side in a new process."""
    command = [sys.executable, "-m", "benchmarks.capture", side, str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_SCRIPTS.parent)}
    done = subprocess.run(command, cwd=_SCRIPTS, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"side {side} failed:\n{done.stderr}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def compare_vectors(folder: Path) -> float:
    """Returns the largest difference of the sides' vectors, as a share of the largest number of their layer.

    The last layer is left out: transformers gives it behind the final norm.
    """
    activations = ActivationFolder(folder / "ours" / "set")
    expected = load_file(folder / "whole.safetensors")["hidden"]
    pairs = [(activations.read_layer(layer), expected[:, layer]) for layer in range(activations.num_layers)]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def run_ours(folder: Path) -> Callable[[], None]:
    """Readies `predict`: the Trainer with module, data and writer."""
    writer = ActivationWriter(str(folder / f"ours-{os.getpid()}"))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[writer],
    )
    module, data = ActivationModule(str(folder / "model")), make_data(folder)
    module.configure_model()
    warm_up(module.model)

    def capture() -> None:
        trainer.predict(module, data, return_predictions=False)
        (folder / "ours").unlink(missing_ok=True)
        (folder / "ours").symlink_to(str(writer.folder))

    return capture


def run_whole(folder: Path) -> Callable[[], None]:
    """Readies the straightforward way: all hidden states of the whole model, of which the last token's are kept."""
    model, data = load_model(folder / "model", dtype=torch.float32), make_data(folder)
    warm_up(model)

    @torch.inference_mode()
    def capture() -> None:
        kept: dict[int, Tensor] = {}
        for batch in data.predict_dataloader():
            output = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                output_hidden_states=True,
                use_cache=False,
            )
            last, rows = find_last_attended(batch.attention_mask), torch.arange(len(batch.indices))
            hidden = torch.stack([layer[rows, last] for layer in output.hidden_states], dim=1)
            kept.update(zip(batch.indices, hidden, strict=True))
        save_file({"hidden": torch.stack([kept[at] for at in range(len(kept))])}, folder / "whole.safetensors")

    return capture


SIDES = {"ours": run_ours, "whole": run_whole}


def make_data(folder: Path) -> PromptData:
    """Makes the data of both sides, read and encoded."""
    data = PromptData(str(folder / "model"), {"set": str(folder / "prompts.jsonl")}, batch_size=BATCH_SIZE)
    data.prepare()
    return data


@torch.inference_mode()
def warm_up(model: PreTrainedModel) -> None:
    """Reads every weight, which comes into memory only when it is used, and has the libraries make their workspaces."""
    for parameter in model.parameters():
        parameter.sum()
    model(input_ids=torch.ones(2, 8, dtype=torch.int64), use_cache=False)


def measure_call(call: Callable[[], None]) -> Measurement:
    """Times a call, and has Linux count the most memory that the process held meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before = read_status("VmRSS")
    started = time.perf_counter()
    call()
    return Measurement(time.perf_counter() - started, read_status("VmHWM") - before)


def read_status(name: str) -> int:
    """Reads a count of bytes from the kernel's page on this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(asdict(measure_call(SIDES[sys.argv[1]](Path(sys.argv[2]))))))
