"""LoRA of a draft for one version: PEFT's two files, which lie in the version's head and go to workers with it."""

import shutil
from pathlib import Path

import msgspec

from flexspec_mq.errors import UsageError
from flexspec_mq.heads.manifest import MANIFEST, HeadError, digest, file_entry, read_head
from flexspec_mq.models.cache import whole_folder
from flexspec_mq.models.head import LoraHead
from flexspec_mq.models.head_files import ADAPTER, CONFIG, DRAFT, DRAFT_FILES, read_config, read_lora
from flexspec_mq.models.load import load_text
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import weights_fingerprint


def read_draft_lora(head: Path, draft: Path) -> LoraHead:
    """Read the LoRA in the folder of a head.

    Args:
        head: folder of the head.
        draft: checkpoint folder of the draft that it is for.

    Raises:
        HeadError: it is damaged, does not fit the draft, or was trained on another one.
        UnknownModel: the draft is built in a way that LoRA is not for.
    """
    sizes = Shape.from_config(load_text(draft).config)
    try:
        lora = read_lora(head, sizes, 0, DRAFT)
    except HeadError as error:
        raise HeadError(
            f"its LoRA is not for the draft {draft.name}: {error.message}",
            hint="name the draft that it was trained on with --draft, or save it again",
        ) from error
    trained_on = read_config(head / f"{DRAFT}{CONFIG}").get("revision")
    if trained_on and trained_on != (ours := weights_fingerprint(draft)):
        raise HeadError(
            f"the draft's LoRA was trained on a draft with fingerprint {trained_on}, not {ours}",
            hint="train it on the draft that the workers have, or give them that one with --draft",
        )
    return lora


def add_draft_lora(head: Path, adapter: Path, out: Path) -> str:
    """Write a head with the LoRA of a draft in it, which is another head: its digest differs.

    Args:
        head: folder of the head; a LoRA that it has is replaced.
        adapter: PEFT adapter directory.
        out: the folder to write; must not exist.

    Returns:
        The digest of its manifest, 64 hex digits.

    Raises:
        HeadError: a file is missing or damaged.
        UsageError: `out` is there.
    """
    manifest = read_head(head)
    if out.exists():
        raise UsageError(f"{out} is there already", hint="name another folder, or remove it")
    with whole_folder(out) as part:
        for name in {file.name for file in manifest.files} - DRAFT_FILES:
            shutil.copyfile(head / name, part / name)
        for name in (CONFIG, ADAPTER):
            if not (adapter / name).is_file():
                raise HeadError(f"{adapter} has no {name}", hint="name a directory that PEFT saved")
            shutil.copyfile(adapter / name, part / f"{DRAFT}{name}")
        data = msgspec.structs.replace(
            manifest, files=tuple(map(file_entry, sorted(part.iterdir())))
        ).encode()
        (part / MANIFEST).write_bytes(data)
    return digest(data).hex()
