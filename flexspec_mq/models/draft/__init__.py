"""The draft model as devices load it; `training.draft` makes it.

``artifact`` makes the checkpoint from a base and a ``delta``, which ``unpacking`` makes whole; ``confidence`` is what
its calibration means. Importing this package imports no torch.
"""

from flexspec_mq.models.draft.artifact import default_delta_path, export, materialise

__all__ = ["default_delta_path", "export", "materialise"]
