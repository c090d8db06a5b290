"""Whether the target can be trained on the next token: the self-test of sources, asked of the target."""

from __future__ import annotations

from fusery.core.rules import Dtype
from fusery.models.checkpoint import Checkpoint, is_folder, known_architecture
from fusery.models.model_files import weight_files

_LOADED_BYTES = 1 << 30
"""Of weights that a check loads: seconds. Of a larger target, or one on the Hub, the architecture is asked; its weights
are when a training has loaded them."""


def check_target(model: str, target: Checkpoint) -> None:
    """Returns if row i of the target predicts token i+1 and sees nothing behind token i. Imports torch.

    Raises:
        ModelError: it does not: an encoder, a prefix LM, bidirectional attention, a head trained on unshifted labels.
    """
    from fusery.models.causality import check_architecture, check_causal
    from fusery.models.loading import load_model
    from fusery.source.conformance.checks import ENDINGS, quick_test, readable, refuse_failed
    from fusery.source.engines.transformers import engine_of

    name = f"target {model}"
    if not is_folder(model) or sum(path.stat().st_size for path in weight_files(target.folder)) > _LOADED_BYTES:
        check_architecture(known_architecture(target.folder)[0], name)
        return
    network = load_model(str(target.folder))
    check_causal(network, name)
    engine = engine_of(network, target, "", Dtype.FLOAT32, name)
    # A short context or a tokenizer that can't spell them says nothing of the model.
    if len(readable(ENDINGS, [engine])) == len(ENDINGS):
        refuse_failed(quick_test(engine), name)
