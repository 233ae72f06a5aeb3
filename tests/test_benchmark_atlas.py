"""The projection of an atlas's cost: layers that were not measured follow by their FLOPs."""

import json

import atlas
import pytest
import tiny

from cnnjax.visualize.atlas import choose_layers


def test_layers_follow_from_the_next_measured_one():
    network = tiny.network(12)
    layers = choose_layers(network)
    # By hand: 2 per multiply-add, forward, and as much for the gradient of the image.
    first, second = 2 * 2 * 12 * 12 * 27 * 4, 2 * 2 * 6 * 6 * 36 * 5
    rows = atlas.project(network, layers, {"conv_2": 0.5}, steps=10)
    assert [row.flops for row in rows] == [first, first + second]
    assert [row.measured for row in rows] == [False, True]
    assert rows[1].seconds == 5 and rows[0].seconds == pytest.approx(5 * first / (first + second))
    assert atlas.project(network, layers, {"conv_1": 0.5}, steps=1)[1].seconds > 0.5
    assert "total" in atlas.table(rows)


def test_chips_share_the_filters(tmp_path):
    row = atlas.Row("a", 100, (64, 64), 10**9, True, 1.0)
    assert atlas.accelerators([row], 10, tmp_path / "missing.json") == {}
    known = {"machine": "TPU v5e-8", "program": "vgg16 atlas", "share": 0.5}
    other = {"machine": "8 × H100", "program": "vgg16 atlas", "share": None}
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [known, other]}))
    found = atlas.accelerators([row], 10, tmp_path / "rows.json")
    assert found == {"TPU v5e-8": pytest.approx(10 * 100 * 1e9 / (8 * 0.5 * 197e12))}
