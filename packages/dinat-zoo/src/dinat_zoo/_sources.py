"""Where weights come from: a file, a URL, the Hugging Face hub, the table of what was published."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import resolve_pretrained_cfg

from dinat_zoo._download import cached, is_offline
from dinat_zoo._pretrained import find
from dinat_zoo._weights_file import WeightsError, check, first_line

_HUB = "hf-hub:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def resolve(source: str | Path, cache_dir: str | Path | None = None) -> Path:
    """The local file that a source means, downloaded if need be.

    Args:
        source: a file; a folder that transformers wrote; a URL; "hf-hub:" and a repository (with "@" and a revision, if
            any); or the name of a published checkpoint, such as "dinat_mini_in1k_224" or "upernet_dinat_tiny".
        cache_dir: the cache to use instead of the hub's or this package's own.

    Raises:
        WeightsError: if it is none of these or cannot be had.
    """
    text = str(source)
    for path in (Path(source), *(Path(source) / name for name in _HUB_FILES)):
        if path.is_file():
            return path
    if isinstance(source, str) and "://" in source:
        return fetch(url=source, cache_dir=cache_dir)
    if text.startswith(_HUB):
        return fetch(hub=text.removeprefix(_HUB), cache_dir=cache_dir)
    row = find(text)
    if row is None:
        raise WeightsError(
            f"checkpoint {text!r} is not a file, nor a folder with {_HUB_FILES[0]}, nor a URL, nor {_HUB}OWNER/NAME, "
            "nor the name of a published checkpoint (`dinat-zoo list --checkpoints`)"
        )
    return fetch(row.hub, row.url, cache_dir=cache_dir)


def fetch(
    hub: str | None = None,
    url: str | None = None,
    filename: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """A local copy of weights that are in one or two places; the hub is asked first, unless there is a mirror.

    Args:
        hub: Hugging Face repository, with "@" and a revision if not the newest.
        url: plain URL.
        filename: file in the repository; by default the first there is of those that the hub's libraries write.
        cache_dir: the cache to use instead of the hub's or this package's own.

    Raises:
        WeightsError: if it cannot be had from the first place; the other is named, not tried.
    """
    from_url = url if url and (os.environ.get("DINAT_ZOO_MIRROR") or not hub) else None
    try:
        if from_url:
            return cached(from_url, cache_dir)
        return _from_hub(hub or "", filename, cache_dir)
    except WeightsError as error:
        other = (hub and f"{_HUB}{hub}") if from_url else url
        also = f" The same weights are at {other}: dinat_zoo.load_checkpoint(model, {other!r})." if other else ""
        raise WeightsError(
            f"{error}.{also} A file that you have: dinat_zoo.load_checkpoint(model, PATH), timm's "
            "pretrained_cfg_overlay=dict(file=PATH), or --checkpoint PATH of the command"
        ) from error


def local_overlay(
    model: str,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """timm's `pretrained_cfg_overlay` with a local, checked file in it, so that timm itself downloads nothing.

    Args:
        model: the registered name, without a tag.
        pretrained_cfg: what timm's builder is given: a tag, a configuration, or None.
        pretrained_cfg_overlay: what was to be changed in it.
        cache_dir: as timm's builder takes it.

    Raises:
        WeightsError: if the weights cannot be had or the file is refused.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    cfg = resolve_pretrained_cfg(model, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay)
    if cfg.source or cfg.state_dict or not cfg.has_weights:
        return overlay  # timm's own business: "hf-hub:" and "local-dir:" names, given weights, the lack of any
    if cfg.file:
        path = Path(cfg.file)
    else:
        url = cfg.url[0] if isinstance(cfg.url, tuple) else cfg.url
        path = fetch(cfg.hf_hub_id, url, cfg.hf_hub_filename, cache_dir)
    if check(path) == "detectron2":
        raise WeightsError(
            f"timm cannot read the detectron2 file {str(path)!r}; dinat_zoo.load_checkpoint and `dinat-zoo convert` can"
        )
    return {**overlay, "file": str(path)}


def _from_hub(repository: str, filename: str | None, cache_dir: str | Path | None) -> Path:
    name, _, revision = repository.partition("@")
    local = is_offline()
    reason: Exception | None = None
    for candidate in (filename,) if filename else _HUB_FILES:
        try:
            return Path(
                hf_hub_download(
                    name,
                    candidate,
                    revision=revision or None,
                    cache_dir=cache_dir,
                    local_files_only=local,
                )
            )
        except LocalEntryNotFoundError as error:
            reason, local = reason or error, True  # the network was tried
        except EntryNotFoundError as error:
            reason = error
        except Exception as error:  # the hub's client raises errors of several unrelated libraries
            reason = error
            break
    assert reason is not None
    raise WeightsError(f"cannot get {repository} from the Hugging Face hub: {first_line(reason)}") from reason
