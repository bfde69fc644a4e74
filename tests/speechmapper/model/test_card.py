"""The model card says what the licence of a model's parts, its data and its figures are."""

from __future__ import annotations

from speechmapper.model.card import model_card


def test_a_card_states_data_identity_metrics_limits_and_licences():
    made = {
        "stage": "stage2",
        "task": "asr",
        "encoder": {"id": "facebook/seamless-m4t-v2-large", "layer": 24, "weights_sha256": "ab12"},
        "target": {"llm": "smollm2-135m"},
        "stores": [{"manifest_sha256": "cd34"}],
    }
    card = model_card(made, {"eval": {"wer": 0.0512, "normalizer": "mms-2", "utterances": 144}}, ("llm",))
    for heading in ("Data", "Metrics", "Limits", "Licences", "Identity"):
        assert f"\n## {heading}\n" in card
    for words in ("ab12", "cd34", "| eval | wer | 0.0512 |", "seamless-m4t-v2-large`: cc-by-nc-4.0", "apache-2.0"):
        assert words in card
    assert "None were measured" in model_card(made, {}, ())
