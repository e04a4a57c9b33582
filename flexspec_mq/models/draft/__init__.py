"""The draft model: how it is built from a base, trained, measured and shipped.

``artifact`` makes the checkpoint that a device loads; the other modules are needed only to train and measure.
Importing this package imports no torch.
"""

from flexspec_mq.models.draft.artifact import default_delta_path, export, materialise

__all__ = ["default_delta_path", "export", "materialise"]
