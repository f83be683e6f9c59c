"""The LightningModule that fine-tunes a causal language model.

Shapes in this file: B = batch, T = tokens, S = scored positions, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from safety_lightning.checkpoints import CheckpointReader, load_model
from safety_lightning.errors import UserError
from safety_lightning.projection import gather
from safety_lightning.system.lightning_internals import logs_now, rewind
from safety_lightning.training.lora import LoraSettings, add_lora
from safety_lightning.training.loss import (
    ADVICE,
    FiniteLosses,
    Pace,
    Window,
    check_apart,
    compute_token_losses,
    scale_gradient,
    sum_token_losses,
)
from safety_lightning.training.optimization import Schedule, check_accumulation, choose_fused, make_schedule
from safety_lightning.training.strategies import (
    announce_step,
    count_shards,
    find_masters,
    find_zero3_config,
    register_strategies,
    shard_model,
    steps_now,
)
from safety_lightning.training.zero import ZeroMasters

register_strategies()


class CausalLMModule(L.LightningModule):
    """Fine-tunes a causal language model, all parameters or a LoRA adapter, on the tokens of the responses.

    The loss is averaged over response tokens, not over micro-batches: accumulated micro-batches give the gradient of
    the one large batch, also across processes. The model is loaded in float32 whatever its files hold; the
    Trainer's precision decides what it is trained in (``bf16-mixed`` keeps float32 weights).

    Args:
        model: The checkpoint to start from: a folder, a hub name (``org/name@rev``) or ``lab:NAME``.
        optimizer: Makes the optimizer from the parameters.
        schedule: How the learning rate moves by optimizer step after the warm-up.
        warmup_share: Share of all optimizer steps in which the learning rate rises to its peak, in [0, 1).
        lr_scheduler: Makes the scheduler from the optimizer, stepped every optimizer step; overrides `schedule`.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        attention: Attention implementation of transformers.
        lora: Train a LoRA adapter in place of the weights, by these settings; None trains all weights.
        compile: Compile the model by `torch.compile` with this backend (``inductor`` wants a C++ compiler, on a GPU
            Triton); None runs it as it is.

    Raises:
        UserError: If `warmup_share` is outside [0, 1).
    """

    model: PreTrainedModel

    takes_positions = True  # of the scored tokens, which `InstructionData` finds before a batch goes to a GPU

    def __init__(
        self,
        model: str,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0),
        schedule: Schedule = "cosine",
        warmup_share: float = 0.02,
        lr_scheduler: LRSchedulerCallable | None = None,
        gradient_checkpointing: bool = False,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        lora: LoraSettings | None = None,
        compile: Literal["inductor", "aot_eager", "eager"] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup_share < 1:
            raise UserError(f"warmup_share must be in [0, 1), got {warmup_share}")
        self.reference = model
        self.checkpoint: CheckpointReader | None = None  # what is loaded, where a command has hashed it
        self.make_optimizer = optimizer
        self.schedule: Schedule = schedule
        self.warmup_share = warmup_share
        self.make_scheduler = lr_scheduler
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.lora = lora
        self.backend = compile
        self.val_loss = MeanMetric()
        self._float32_buffers: dict[str, Tensor] = {}
        self._val_examples: list[tuple[Tensor, Tensor]] = []
        self.gradient_hooks: list[Callable[[], object]] = []  # called on the gradients of the mean loss, before a step
        self._window, self._pace = Window(), Pace()
        self._losses = FiniteLosses()
        self._is_apart = False  # whether the model was seen to keep examples apart that lie in one row
        self._norm: Tensor | None = None  # of the gradients of the step that is taken, where it is logged
        self._masters: ZeroMasters | None = None
        self._factor: Tensor

    def configure_model(self) -> None:
        """Loads the model, once; Lightning calls this before it restores a checkpoint."""
        if "model" in self._modules:
            return
        check_accumulation(self.trainer)
        model = load_model(
            self.checkpoint or self.reference,
            dtype=torch.float32,
            attention=self.attention,
            num_shards=1 if self.lora else count_shards(self.trainer),
            zero3=find_zero3_config(self.trainer),
        )
        model.config.use_cache = False
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self._float32_buffers = {
            name: buffer.clone() for name, buffer in model.named_buffers() if buffer.dtype == torch.float32
        }
        if self.lora is not None:
            add_lora(model, self.lora, reference=self.reference)
            shard_model(model, self.trainer)
        self.model = model.train()
        if self.backend is not None:
            self.model.compile(backend=self.backend)  # in place: its parameters keep their names

    def configure_optimizers(self) -> Any:
        """Makes the optimizer, and the warm-up and schedule over all optimizer steps of the run."""
        optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        choose_fused(optimizer)
        if self.make_scheduler is not None:
            scheduler: Any = self.make_scheduler(optimizer)
        else:
            num_steps = int(self.trainer.estimated_stepping_batches)
            scheduler = make_schedule(self.schedule, optimizer, num_steps, warmup_share=self.warmup_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Readies the model for training; Lightning leaves it in the mode it was loaded in."""
        self.restore_float32_buffers()
        self.model.train()
        self._window, self._pace, self._losses = Window(), Pace(), FiniteLosses()
        self._masters = find_masters(self.trainer)
        if self._masters is not None:
            self._masters.inner.register_step_pre_hook(self._scale_masters)

    def on_validation_start(self) -> None:
        """Readies the model for validation without a fit before it."""
        self.restore_float32_buffers()
        self._val_examples = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Returns the summed token loss; `on_before_optimizer_step` divides by the tokens of all micro-batches."""
        if "position_ids" in batch and not self._is_apart:
            check_apart(self.model)
            self._is_apart = True
        announce_step(self.trainer, batch_idx)
        loss_sum, num_tokens = sum_token_losses(self.model, batch)
        self._window.add(loss_sum.detach(), num_tokens)
        self._pace.add(batch)
        return loss_sum

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns summed gradients into those of the mean token loss, and logs the step.

        No number is read off the device but in steps that are logged: reading one waits for all that is under way.
        """
        if not steps_now(self.trainer):
            return
        window, self._window = self._window, Window()
        totals = self._reduce(torch.stack([window.loss_sum, window.num_tokens]))
        num_tokens = totals[1].clamp_min(1)
        # Micro-batches and processes were averaged over: both are undone here.
        self._factor = self.trainer.accumulate_grad_batches * self.trainer.world_size / num_tokens
        if self._masters is None:
            for gradient in self._gradients():
                scale_gradient(gradient, self._factor)
        for hook in self.gradient_hooks:
            hook()
        self._log_step(totals[0] / num_tokens)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients; by the norm that was logged, in a step that is."""
        norm, self._norm = self._norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)

    def on_train_epoch_end(self) -> None:
        """Checks what is about to be projected and saved."""
        self._check_past()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks what is about to be saved, and has a run that resumes take its unfinished step from the beginning.

        Lightning saves between the micro-batches of a step too (at a validation, by time, and in a resumed run after
        its first micro-batch), and would go on behind those whose gradients are lost.
        """
        self._check_past()
        if "loops" in checkpoint:
            rewind(checkpoint["loops"]["fit_loop"], self._window.num_micro_batches)

    def _scale_masters(self, *_: Any) -> None:
        """Does to ZeRO's gradients what `on_before_optimizer_step` does to others, and clips them."""
        assert self._masters is not None
        factor = float(self._factor) * self.trainer.accumulate_grad_batches  # DeepSpeed divides as Lightning does
        norm, bound = self._masters.gradient_norm * factor, self.trainer.gradient_clip_val
        self._check_gradient(torch.tensor(norm))
        self._masters.scale_gradients(factor * (min(1.0, bound / (norm + 1e-6)) if bound else 1.0))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to the loss per response token on held-out data."""
        losses_BS, scored_BS = compute_token_losses(self.model, batch)
        sums_B, counts_B = losses_BS.sum(dim=1), scored_BS.sum(dim=1)
        self._val_examples.append((sums_B.cpu(), counts_B.cpu()))
        if counts_B.sum() > 0:
            self.val_loss.update(sums_B.sum() / counts_B.sum(), counts_B.sum())

    def on_validation_epoch_end(self) -> None:
        """Logs the held-out loss and perplexity over all tokens of all processes."""
        loss = self.val_loss.compute()
        self.log_dict({"val/loss": loss, "val/perplexity": loss.exp()}, prog_bar=True)
        self.val_loss.reset()

    def on_validation_end(self) -> None:
        """Leaves the time of a validation out of the pace of training."""
        self._pace = Pace()

    @property
    def val_examples(self) -> tuple[Tensor, Tensor]:
        """Summed loss and scored tokens of each held-out example of the last validation, two tensors ``(B,)``."""
        sums, counts = zip(*self._val_examples, strict=True)
        return torch.cat(sums), torch.cat(counts)

    def restore_float32_buffers(self) -> None:
        """Puts float32 buffers back that a half-precision strategy rounded.

        Rotary frequencies in bfloat16 are off by up to 0.4 %, which at position 500 is two radians.
        """
        for name, value in self._float32_buffers.items():
            owner, _, attribute = name.rpartition(".")
            module = self.model.get_submodule(owner)
            if getattr(module, attribute).dtype != torch.float32:
                setattr(module, attribute, value.to(self.device))

    def on_train_start(self) -> None:
        """Begins the log of a resumed run at its step."""
        for logger in self.trainer.loggers if self.trainer.is_global_zero and self.trainer.global_step > 0 else []:
            if isinstance(logger, TensorBoardLogger):
                begin_events_after(logger, self.trainer.global_step)

    def _gradients(self) -> Iterator[Tensor]:
        return (parameter.grad for parameter in self.parameters() if parameter.grad is not None)

    def _reduce(self, totals: Tensor) -> Tensor:
        gathered: Tensor = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum")
        return gathered

    def _log_step(self, loss: Tensor) -> None:
        step = self.trainer.global_step + 1  # taken for the step that is logged; Lightning's is one less
        self._losses.see(loss, step)
        self.log("train/loss", loss, prog_bar=True)
        if not logs_now(self.trainer):
            return
        self._losses.check(step)
        values = {
            "step": step,
            "epoch": self.trainer.current_epoch,
            "train/perplexity": loss.exp(),
            "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            **{f"train/{name}": one * self.trainer.world_size for name, one in self._pace.measure().items()},
        }
        self._pace = Pace()
        if self._masters is None:
            norm = torch.nn.utils.get_total_norm(list(self._gradients()))
            values["train/gradient_norm"] = gather(norm)
            if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # which skips such a step by itself
                self._check_gradient(values["train/gradient_norm"])
            if not isinstance(self.trainer.strategy, FSDPStrategy):  # under which it is the norm of a part
                self._norm = norm
        self.log_dict({name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()})

    def _check_gradient(self, norm: Tensor) -> None:
        if not norm.isfinite():
            place = f"in optimizer step {self.trainer.global_step + 1}, which was not taken"
            raise UserError(f"the gradient must be finite, got {float(norm)} {place}: {ADVICE}")

    def _check_past(self) -> None:
        """Raises UserError if a loss or a trained weight is not finite: before anything is saved of them."""
        self._losses.check(self.trainer.global_step + 1)
        trained = [one.detach() for one in self.parameters() if one.requires_grad]
        if trained and not gather(torch.nn.utils.get_total_norm(trained)).isfinite():
            raise UserError(
                f"the weights must be finite, they are not after optimizer step {self.trainer.global_step}: {ADVICE}"
            )


def begin_events_after(logger: TensorBoardLogger, step: int) -> None:
    """Has TensorBoard drop what a killed run logged after a step: the steps from there on are taken again."""
    start = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
    logger.experiment.file_writer.add_event(start)
