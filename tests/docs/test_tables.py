"""The tables of the pages are those of the results beside the benchmarks that made them."""

import json
import re

import pytest
import snippets

ROOT = snippets.ROOT


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def rows(page: str, after: str) -> list[list[str]]:
    """The cells of the first table after a piece of a page's text, without its head."""
    text = (ROOT / "docs" / page).read_text()
    assert text.count(after) == 1, after
    table = re.search(r"(?:^\|.*\n)+", text.partition(after)[2], re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def numbers(text: str) -> list[float]:
    return [snippets.number(found) for found in re.findall(snippets.NUMBER, text)]


def test_memory_of_a_pod_that_is_not_there():
    found = results("clip_pod_tpu_compiled")
    written = rows("devices.md", "## The ViT-B/16 recipe on a pod")
    order = ["as written", "nothing saved", "whole logits", "fsdp 16", "batch 131072", "batch 131072, whole logits"]
    order += ["flip", "accumulate", "siglip", "ViT-L-14, nothing saved"]
    by_case = {row["case"]: row for row in found["rows"]}
    assert sorted(order) == sorted(by_case) and len(written) == len(order)
    for (overrides, told), case in zip(written, order):
        row = by_case[case]
        if "same" not in overrides:
            keys = dict(re.findall(r"([\w.]+)=([\w-]+)", overrides))
            assert keys == row["overrides"]["keys"] and row["overrides"]["variant"].strip(":") in overrides
        if row["fits"]:
            assert numbers(told) == [round(row[key] / 2**30, 2) for key in ("peak_bytes", "argument_bytes")], case
        else:
            assert f"{numbers(told)[0]}G" in row["said"] and "15.75G" in row["said"]


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_memory_of_the_contrastive_losses(loss):
    made = {
        (r["way"], r["devices"], r["batch"]): r["temporary_bytes"]
        for r in results("contrastive_memory_cpu")["rows"]
        if r["loss"] == loss
    }
    for batch, *cells in rows("contrastive.md", {"infonce": "\nInfoNCE:\n", "sigmoid": "\nSigmoid:\n"}[loss]):
        wanted = [made[way, devices, int(batch)] / 1e6 for devices in (1, 8) for way in ("plain", "rows", "blocks")]
        assert [numbers(cell)[0] for cell in cells] == [round(value, 1) for value in wanted], batch


def test_speed_beside_open_clip():
    found = results("clip_speed_cpu")["results"]
    for (_, ours, theirs, ratio), name in zip(
        rows("clip.md", "Speed beside open_clip"), ("image", "text", "train"), strict=True
    ):
        row = found[name]
        assert numbers(ours + theirs) == [round(row[key], 2) for key in ("seconds_ours", "seconds_open_clip")]
        assert numbers(ratio) == [round(value, 2) for value in (row["ratio"], *row["ratio_low_high"])]


def test_speed_of_the_tokenizers():
    found = results("tokenizer_cpu")["captions_per_second"]
    names = ("ours", "ours, {}, a second time", "open_clip", "transformers", "tokenizers")
    for (_, *cells, _), name in zip(rows("tokenizer.md", "## Speed"), names, strict=True):
        for cell, kind in zip(cells, ("ascii", "other"), strict=True):
            value = found[name.format(kind) if "{}" in name else f"{name}, {kind}"]
            assert abs(snippets.number(cell) / value - 1) < 0.005


def test_memory_of_micro_batches():
    found = results("contrastive_memory_cpu")["towers"]
    ((_, *cells),) = rows("contrastive.md", "The gradient of a whole CLIP ViT-B/32")
    assert [numbers(cell)[0] for cell in cells] == [round(row["temporary_bytes"] / 1e9, 1) for row in found]
