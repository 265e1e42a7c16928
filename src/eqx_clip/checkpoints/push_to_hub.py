"""Uploads a model to the Hugging Face hub, where other libraries find it, too."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import short_repr
from .._types import Name
from .hub import REPO, hub_answers
from .model_card import model_card
from .save import Model, save


if TYPE_CHECKING:
    Flag = bool
else:
    Flag = Any

CARD_FILE = "README.md"


def push_to_hub(
    model: Model,
    repo: Name,
    *,
    private: Flag = False,
    revision: Name | None = None,
    message: Name = "Add model",
) -> str:
    """Uploads `model` to the repository `repo` of the Hugging Face hub, in OpenCLIP's format.

    `eqx_clip.load("hf-hub:organisation/name")` and `open_clip.create_model` load it from there.
    The files of `eqx_clip.save` are uploaded in one commit, with a model card (`README.md`) where
    the repository has none; other files in it are left alone. They are written to a temporary
    folder first, which takes the size of the model on the disk. Weights take the hub's library
    for large files, which shows its progress.

    **Arguments:**

    - `repo`: "organisation/name"; made where it is missing.
    - `private`: whether a repository that is made now is hidden from others.
    - `revision`: a branch of the repository; by default the main one.
    - `message`: of the commit.

    huggingface-hub's settings hold (`hf auth login`, `HF_TOKEN`, `HF_ENDPOINT`). Returns the
    address of the commit. Raises `ValueError`, before anything is sent, for what is no name of a
    repository and for a model that `save` does not write; `ConnectionError` where the hub is out of
    reach, `PermissionError` without a token that may write to the repository, `OSError` for other
    answers of the hub. Source: OpenCLIP's `push_to_hf_hub`.
    """
    if not isinstance(repo, str) or not REPO.fullmatch(repo):
        raise ValueError(f"`repo` must be 'organisation/name'; got {short_repr(repo)}.")
    from huggingface_hub import create_repo, errors, file_exists, upload_folder

    with tempfile.TemporaryDirectory(prefix="eqx_clip-") as draft:
        folder = Path(draft)
        save(model, folder)
        if not hub_answers():
            raise ConnectionError(
                f"The hub is out of reach, or HF_HUB_OFFLINE forbids it: nothing was uploaded to "
                f"{repo!r}. `eqx_clip.save(model, folder)` writes the same files here."
            )
        try:
            create_repo(repo, private=private, exist_ok=True)
            if not file_exists(repo, CARD_FILE, revision=revision):
                (folder / CARD_FILE).write_text(model_card(model, repo), encoding="utf-8")
            commit = upload_folder(
                repo_id=repo, folder_path=folder, revision=revision, commit_message=message
            )
        except (errors.HfHubHTTPError, RuntimeError) as error:  # the latter of large files
            raise _refusal(error, repo) from error
    return str(commit.commit_url)


def _refusal(error: Exception, repo: str) -> OSError:
    """What the hub answers, as an error with its remedy."""
    reason = error if error.__cause__ is None else f"{error} {error.__cause__}"
    problem = f"The hub did not take the model for {repo!r}: {reason}"
    response = getattr(error, "response", None)
    if response is not None and response.status_code in (401, 403):
        return PermissionError(
            f"{problem} Log in (`hf auth login`, or HF_TOKEN) with a token that may write there."
        )
    return OSError(problem)
