"""The model card of a folder that `SpeechMapper.save_pretrained` writes: README.md as the Hub shows it.

model_card(trained_for, measured)       what it was trained on and for, what was measured, limits and licences
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# As stated on the models' pages in November 2026.
LICENCES = {
    "facebook/seamless-m4t-v2-large": "cc-by-nc-4.0",
    "facebook/w2v-bert-2.0": "mit",
    "openai/whisper-large-v3": "apache-2.0",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
    "smollm2-135m": "apache-2.0",
    "utter-project/EuroLLM-9B-Instruct": "apache-2.0",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
}
UNKNOWN = "not known here: read its page"
LIMITS = """- It was trained on the data above; other languages, accents, noise and topics may be understood worse,
  or not at all.
- Text is generated: words may be wrong, missing, repeated or invented, also where the audio is clear. Do not use it
  unchecked where a mistake can harm somebody.
- Recordings over 25 s are cut in silence and read piece by piece; what is said is not attributed to speakers."""


def model_card(made: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]], included: tuple[str, ...]) -> str:
    """README.md of a saved model.

    Args:
        made: the projector's `trained_for`. measured: metrics of sm-eval by name of the evaluation.
        included: which models' files are in the folder: encoder, llm.
    """
    target, encoder = made.get("target", {}), made.get("encoder", {})
    llm = made.get("llm", {}).get("id", target.get("llm"))
    names = {"encoder": encoder.get("id"), "llm": llm}
    stores = made.get("stores") or [{name: made.get(name) for name in ("manifest_sha256",) if made.get(name)}]
    identity = {name: made[name] for name in ("encoder", "frame_rate", "normalizer", "target", "llm") if name in made}
    licences = "\n".join(f"- {role} `{name}`: {LICENCES.get(str(name), UNKNOWN)}" for role, name in names.items())
    head = _head(made, str(encoder.get("id")), encoder.get("layer"), str(llm), included)
    return f"""{head}## Data

Trained on {len(stores)} store{"s" if len(stores) > 1 else ""} of speech features; what identifies them:

```json
{json.dumps(stores, indent=1, default=str)}
```

## Metrics

{_metrics(measured)}

## Limits

{LIMITS}

## Licences

The licences of encoder, LLM and training data also bind what is made with them:

{licences}
- training data: {UNKNOWN}

## Identity

`config.json` holds all of it under `trained_for`; another encoder or another LLM's embedding table is refused.

```json
{json.dumps(identity, indent=1, default=str)}
```
"""


def _head(made: Mapping[str, Any], encoder: str, layer: int | None, llm: str, included: tuple[str, ...]) -> str:
    """What the model is and how it is used, with the Hub's metadata."""
    tasks = made.get("task") or made.get("stage")
    return f"""---
library_name: speechmapper
license: other
tags: [speech, speech-recognition, speech-translation, projector, llm]
---
# SpeechMapper model

A projector that lets the frozen LLM `{llm}` listen through the frozen speech encoder `{encoder}`
(layer {layer}), after {made.get("stage")} on {tasks}. The method is SpeechMapper (arXiv 2601.20417).

```python
from speechmapper import SpeechMapper

SpeechMapper.from_pretrained("path/or/hub-id").transcribe("talk.flac")
```

Files of models in this folder besides the projector: {", ".join(included) or "none; all are loaded by name"}.

"""


def _metrics(measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"| {name} | {metric} | {value:.4g} |"
        for name, metrics in measured.items()
        for metric, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if not rows:
        return "None were measured with `sm-eval` in the run's folder before it was saved."
    return "\n".join(["| evaluation | metric | value |", "|---|---|---|", *rows])
