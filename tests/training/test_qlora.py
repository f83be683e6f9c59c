"""QLoRA: the frozen weights are packed in 4 bits (bitsandbytes), the factors are projected as on any other base."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from safety_lightning.projection import SubspaceSpec
from safety_lightning.training import attach_projection
from tests.conftest import copy_checkpoint, make_pico_llama
from tests.training.conftest import draw_batches

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_update_on_a_packed_base_stays_in_its_component(tmp_path: Path) -> None:
    base = make_pico_llama(tmp_path / "base", hidden_size=128, intermediate_size=128)
    generator = torch.Generator().manual_seed(1)
    aligned = copy_checkpoint(
        base, tmp_path / "aligned", lambda _, one: one + 0.01 * torch.randn(one.shape, generator=generator)
    )
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        aligned, quantization_config=packed, dtype=torch.float32, device_map={"": "cpu"}
    )
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).train()
    assert type(model.get_submodule("base_model.model.model.layers.0.mlp.down_proj").weight).__name__ == "Params4bit"
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    spec = SubspaceSpec(base=str(base), reference=str(aligned))
    hook = attach_projection(optimizer, model, spec, component="orthogonal")
    for batch in draw_batches(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    measures = hook.projector.measure()
    assert len(measures) == 4
    assert all(one.total > 0 and one.inside / one.total <= 1e-6 for one in measures)
