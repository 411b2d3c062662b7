"""Hooks of earlier versions, and what a defense says of itself."""

from __future__ import annotations

import pytest

import defenses
from benchmark import plugins
from benchmark.errors import InputError
from defenses import SpecificationError

OUTDATED = {
    "transform_batch(self, x, y, generator)": "transform_batch(batch, step), with batch.images, batch.targets and step.generator",
    "transform_gradients(self, gradients, generator)": "transform_gradients(gradients, step), with step.generator",
    "make_private(self, **arguments)": "override sample_batches, batch_gradient or account",
}


@pytest.mark.parametrize("signature", OUTDATED)
def test_a_plugin_of_an_earlier_version_gets_one_line_that_names_what_to_write(signature, tmp_path):
    (tmp_path / "old.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom defenses import Defense\n\n"
        f"@dataclass(frozen=True)\nclass Old(Defense):\n    name: ClassVar[str] = 'old'\n\n    def {signature}:\n        pass\n")
    with pytest.raises(InputError) as error:
        plugins.read(tmp_path / "old.py")
    text = str(error.value)
    assert text.startswith(f"plugin {tmp_path / 'old.py'}: Old.{signature.split('(')[0]} is written for an earlier version")
    assert OUTDATED[signature] in text and "\n" not in text and "old" not in defenses.registry.names()


def test_hooks_of_today_are_taken():
    class Fine(defenses.Defense):
        def transform_batch(self, batch, step):
            return batch

        def transform_gradients(self, gradients, step):
            return gradients

    with pytest.raises(SpecificationError, match="earlier version"):
        class Old(Fine):
            def transform_gradients(self, gradients, generator):
                return gradients


def test_who_is_plain_who_guarantees_and_whose_loss_is_another():
    def those(what):
        return {cls.name for cls in defenses.registry if cls.__module__.startswith("defenses.") and getattr(cls(), what)}

    assert those("plain") == {"none"} and those("guarantees") == {"dp-sgd", "dp-fedavg"} and those("regularized") == {"precode", "ppp", "cvb"}
    composed = defenses.create("precode+dp-sgd")
    assert composed.guarantees and composed.regularized and not composed.plain and len(composed.parts) == 2
    assert not composed.regularizer_reads_parameters and not defenses.create("noise+pruning").regularized
