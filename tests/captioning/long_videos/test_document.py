"""The description of a video as JSON: its keys, and what is wrong with a broken file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.captioning.long_videos.cues import render
from pipeline.captioning.long_videos.document import Segment, VideoDescription

DESCRIPTION = VideoDescription(
    path="/d/ü\udcff.mp4",
    batch_size=4,
    segments=(
        Segment(0, 0, 4000, 4, "A dog runs.", "captioned", 1.25, (0.0, 1.0, 2.0, 3.003)),
        Segment(1, 4000, 8000, 0, "", "failed", None, message="decode: moov atom not found"),
        Segment(2, 8000, 9001, 2, "A cat", "truncated", 0.75),
        Segment(3, 9001, 9500, 0, "", "pending"),
    ),
    summary="A dog, then a cat.",
    title="Animals",
    turnaround_time=12.5,
    model="pllava-tiny",
    prompt="Describe the video.",
    summary_prompt="Summarise.",
    title_prompt="Name it.",
    versions={"mindspore": "2.5.0"},
    missing=(1,),
    status="incomplete",
    messages=("title: the model generated no text",),
)


def test_keys_are_those_of_the_known_demo_and_the_new_ones() -> None:
    record = json.loads(render(DESCRIPTION, "json"))
    assert {key: record[key] for key in record if key != "batches"} == {
        "video_title": "Animals",
        "batch_size": 4,
        "frames_analysed": 6,
        "summary": "A dog, then a cat.",
        "average_inference": 1.0,
        "turnaround_time": 12.5,
        "video": "/d/ü\udcff.mp4",
        "model": "pllava-tiny",
        "prompt": "Describe the video.",
        "summary_prompt": "Summarise.",
        "title_prompt": "Name it.",
        "versions": {"mindspore": "2.5.0"},
        "missing_segments": [1],
        "status": "incomplete",
        "messages": ["title: the model generated no text"],
    }
    assert record["batches"][:2] == [
        {"batch_id": 0, "frames": 4, "time": 1.25, "description": "A dog runs.", "start": 0.0, "end": 4.0,
         "outcome": "captioned", "frame_times": [0.0, 1.0, 2.0, 3.003]},
        {"batch_id": 1, "frames": 0, "time": None, "description": "", "start": 4.0, "end": 8.0,
         "outcome": "failed", "message": "decode: moov atom not found"},
    ]  # fmt: skip


def test_a_description_without_segments_and_times() -> None:
    record = VideoDescription("a.mp4").to_json()
    assert record["batches"] == [] and record["frames_analysed"] == 0 and record["status"] == "running"
    assert record["average_inference"] is None and record["turnaround_time"] is None
    assert "messages" not in record


@pytest.mark.parametrize("description", [DESCRIPTION, VideoDescription("a.mp4")])
def test_a_written_description_is_read_again(description: VideoDescription) -> None:
    content = render(description, "json").encode()
    assert VideoDescription.from_json(json.loads(content)) == description


def test_times_are_written_in_milliseconds() -> None:
    segment = Segment(0, 36_000_000_001, 36_000_000_002, 1, "x", "captioned", 1 / 3, (2 / 3,))
    record = segment.to_json()
    assert (record["time"], record["frame_times"]) == (0.333, [0.667])
    assert Segment.from_json(record).start_ms == segment.start_ms
    assert Segment.from_json(record).end_ms == segment.end_ms


def test_unknown_keys_are_ignored() -> None:
    record = DESCRIPTION.to_json() | {"later": 1}
    record["batches"][0]["later"] = {"x": []}
    assert VideoDescription.from_json(record) == DESCRIPTION


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda record: [record.pop(key) for key in keys]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("batches"), "the description has no 'batches'"),
        (_without("video"), "the description has no 'video'"),
        (lambda record: record["batches"][2].pop("start"), r"batches\[2\] has no 'start'"),
        (lambda record: record["batches"][2].update(start="x"), r"batches\[2\]: 'start' is 'x', not a number"),
        (lambda record: record["batches"][0].update(end=float("nan")), r"batches\[0\]: 'end' is nan, not a number"),
        (lambda record: record["batches"][0].update(end=-1), r"batches\[0\] ends at -1.0 s, before it starts"),
        (lambda record: record["batches"][0].update(frames=True), "'frames' is True, not a whole number from 0 on"),
        (lambda record: record["batches"][0].update(outcome="done"), "'outcome' is 'done', not one of captioned"),
        (lambda record: record["batches"][0].update(outcome=[]), r"'outcome' is \[\], not one of captioned"),
        (lambda record: record["batches"][0].update(frame_times=[1, None]), "not a list of numbers"),
        (lambda record: record["batches"][1].update(batch_id=0), "two batches have the same batch_id"),
        (lambda record: record.update(batches=[3]), r"batches\[0\] is 3, not an object"),
        (lambda record: record.update(status=None), "'status' is None, not one of running, complete, incomplete"),
        (lambda record: record.update(versions={"a": 1}), "not an object of texts"),
        (lambda record: record.update(summary=["x" * 99]), "'summary' is \\['x+…, not a text"),
    ],
)
def test_a_broken_file_says_what_is_wrong(change: Callable[[dict[str, Any]], object], message: str) -> None:
    record = DESCRIPTION.to_json()
    change(record)
    with pytest.raises(ValueError, match=message):
        VideoDescription.from_json(record)


def test_what_is_no_object_is_no_description() -> None:
    with pytest.raises(ValueError, match=r"the description is \[\], not an object"):
        VideoDescription.from_json([])
