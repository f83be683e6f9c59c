"""A method of your own: one class that says what it keeps of a matrix. The command line takes it by its class path,
from PYTHONPATH: `project --methods '[{class_path: own_method.KeepLarge, init_args: {factor: 2}}]'`.

python examples/own_method.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safety_lightning.methods import Description, Kept, MatrixUpdate, Method
from safety_lightning.sweep import EnergyRow, ProjectRun, project
from safety_lightning.tables import read_parquet


@dataclass(frozen=True, kw_only=True)
class KeepLarge(Method):
    """Keeps the entries of an update that are larger than its typical entry.

    Attributes:
        factor: How many times the root mean square an entry must have to be kept.
    """

    factor: float = 1.0

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps a sparse update, which lies in no subspace."""
        update_MN = matrix.update_MN
        is_large = update_MN.abs() > self.factor * update_MN.square().mean().sqrt()
        return Kept(extra=lambda: update_MN * is_large)

    def describe(self) -> Description:
        """Returns its names."""
        text = f"entries over {self.factor:g} times the root mean square"
        return Description(source="keep_large", fraction=self.factor, text=text)


def main() -> None:
    """Treats an update by the method, beside the paper's."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "sweep"
        # In place of a fine-tune: the way from the lab's aligned model back to its base.
        run = ProjectRun(
            base="lab:base",
            reference="lab:aligned",
            finetuned=["back=lab:base"],
            out=out,
            sources=["top_k"],
            fractions=[0.25],
            methods=[KeepLarge(factor=1.0), KeepLarge(factor=2.0)],
        )
        project(run)
        for row in read_parquet(out / "energy.parquet", EnergyRow):
            print(f"{row.source} {row.component or ''} {row.fraction:g}: energy kept {row.energy_kept:.3f}")


if __name__ == "__main__":
    main()
