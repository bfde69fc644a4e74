"""The outline of an encoder: frames of waveforms, by its first frame's field and the hop."""

from __future__ import annotations

import numpy as np

from sm_pipeline.encoders.base import Outline


def test_frames_of_waveforms():
    outline = Outline(width=768, field=400, hop=320)
    frames = outline.num_frames(np.asarray([0, 399, 400, 719, 720, 16_000]))
    assert frames.tolist() == [0, 0, 1, 1, 2, 49]
    assert frames.dtype == np.int64
    assert outline.frame_rate == 50.0
    assert Outline(1, 720, 640).frame_rate == 25.0
