"""What weights files do not tell: flags say it, a line says what was assumed, and `export` writes it down."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from oracles import numpy_nets

from cnnjax import formats
from cnnjax.cli import command_line
from cnnjax.cli.export import export
from cnnjax.cli.weights import Reading, class_names, load
from cnnjax.errors import UserError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small network of PyTorch for images of 144 to 159 pixels, as the article's 150."""
    path = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    shapes = numpy_nets.small_cnn_shapes((2, 3, 6, 6), (26, 13), 3, 9)
    safetensors.numpy.save_file(numpy_nets.filled(shapes), path)
    return path


def test_what_is_assumed_is_said_with_the_flags(file, capsys):
    network = load(str(file), Reading())
    assert network.image_size == (144, 144)
    assert capsys.readouterr().out == (
        f"{file} does not say all; assumed: image size 144×144 of 144 to 159 (--weights-image-size); preprocessing RGB "
        "in 0 to 1 (--weights-preprocessing); class names class 0, class 1, … (--weights-classes)\n"
    )
    told = Reading(150, "symmetric", ("cat", "dog", "fox"))
    network = load(str(file), told)
    assert not capsys.readouterr().out and "assumed" not in network.provenance
    assert network.image_size == (150, 150) and network.class_names == ("cat", "dog", "fox")
    assert load(str(file), Reading((150, 145))).image_size == (150, 145)


@pytest.mark.parametrize(
    "kind, expected",
    [("unit", lambda x: x), ("raw", lambda x: 255 * x), ("symmetric", lambda x: 2 * x - 1),
     ("imagenet", lambda x: (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
     ("caffe", lambda x: 255 * x[..., ::-1] - [103.939, 116.779, 123.68])],
)  # fmt: skip
def test_preprocessing(file, kind, expected):
    images = np.random.default_rng(0).random((1, 2, 2, 3)).astype(np.float32)
    normalizer = load(str(file), Reading(weights_preprocessing=kind)).normalizer
    found = normalizer(jnp.asarray(images))
    np.testing.assert_allclose(found, expected(images), rtol=1e-5, atol=1e-4)


def test_export_writes_it_down(file, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("cat\n\ndog \nfüchse\n", "utf-8")
    flags = ["--weights-classes", str(tmp_path / "names.txt"), "--weights-image-size", "150"]
    flags += ["--weights-preprocessing", "imagenet"]
    for to in ("cnnjax", "torchvision"):
        out = tmp_path / f"{to}.safetensors"
        with pytest.raises(SystemExit) as stop:
            command_line.main(export, [str(file), "--to", to, "--out", str(out), *flags])
        assert stop.value.code == 0, capsys.readouterr().err
        network = formats.load(out)
        assert network.image_size == (150, 150) and network.class_names == ("cat", "dog", "füchse")
        assert network.normalizer.kind == "standard" and "assumed" not in network.provenance
        load(str(out), Reading())
        assert "assumed" not in capsys.readouterr().out


def test_what_does_not_fit_is_refused(file, tmp_path):
    for told, sentence in (
        (Reading(weights_classes=("cat", "dog")), "has 3 classes, not the 2 of --weights-classes: name as many"),
        (Reading(weights_image_size=160), "images of height 144 to 159, not 160"),
        (Reading(weights_image_size=0), "image"),
    ):
        with pytest.raises(UserError, match=sentence):
            load(str(file), told)
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="give a text file in UTF-8"):
        class_names((str(tmp_path / "latin"),))
    (tmp_path / "large").write_bytes(b"x" * (1 << 21))
    with pytest.raises(UserError, match="give a file of class names"):
        class_names((str(tmp_path / "large"),))
    assert class_names(("cat", "dog")) == ("cat", "dog")
    (tmp_path / "windows").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert class_names((str(tmp_path / "windows"),)) == ("cat", "dog")
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(UserError, match="empty is empty: write the name of one class on each line"):
        class_names((str(tmp_path / "empty"),))
