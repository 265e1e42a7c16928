"""What a repository of the hub says of a model."""

import jax

from .._clip import CLIP


_TEMPLATE = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags:
- clip
- eqx_clip
---

# {name}

A CLIP model: images and texts become vectors of {embed_dim} numbers, whose cosine says how well
they fit.

In JAX, with eqx_clip:

```python
import eqx_clip

model = eqx_clip.load("hf-hub:{repo}")
```

In PyTorch, with OpenCLIP:

```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{repo}")
tokenizer = open_clip.get_tokenizer("hf-hub:{repo}")
```

| | |
|---|---|
| image tower | {image} |
| text tower | {text} |
| parameters | {parameters:,} |
| weights | {dtype} |
| images | {height} x {width} pixels, mean {mean}, standard deviation {std} |
| texts | at most {context_length} tokens |

Data, training, accuracy and licence: not stated yet.
"""


def model_card(model: CLIP, repo: str) -> str:
    """The `README.md` of a repository: how the model is loaded, and its sizes, in Markdown."""
    leaves = jax.tree.leaves(model)
    return _TEMPLATE.format(
        repo=repo,
        name=repo.split("/")[-1],
        embed_dim=model.embed_dim,
        image=type(model.image).__name__,
        text=type(model.text).__name__,
        parameters=sum(leaf.size for leaf in leaves),
        dtype=model.logit_scale.dtype,
        height=model.preprocess.height,
        width=model.preprocess.width,
        mean=model.preprocess.mean,
        std=model.preprocess.std,
        context_length=model.tokenizer.context_length,
    )
