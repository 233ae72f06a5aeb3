"""Reads damaged weights files of every format: one sentence or a network must come of each, in time and memory.

    python tests/fuzz_weights.py                 # 2,000 files, from seed 0
    python tests/fuzz_weights.py --count 500 --seed 7
    python tests/fuzz_weights.py --only 1234     # writes that file, reads it and shows the error

A file is a whole one with bits flipped, bytes zeroed, cut out, repeated or moved, another file's bytes in it, or its
end missing; or its contents are changed and its checksums made right again. A failure is an exception other than
UserError, a crash, more than 30 seconds, more than 1 GB above the file's size, or a network that cannot be used.
`test_fuzz_weights.py` runs a few.
"""

import argparse
import json
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import keras_files  # noqa: E402
import torch_files  # noqa: E402
from oracles import numpy_nets  # noqa: E402

SECONDS, BYTES = 30, 1_000_000_000
FORMATS = ("pth", "legacy", "safetensors", "h5", "weights.h5", "keras", "native")


def whole(folder: Path) -> dict[str, Path]:
    """A small network in every format."""
    import h5py
    import safetensors.numpy

    from cnnjax import formats

    shapes = numpy_nets.vgg_shapes(numpy_nets.channels(11, (1, 1, 3, 5, 5)), 2, 2, 1)
    state = numpy_nets.filled(shapes)
    paths = {name: folder / f"whole.{name}" for name in FORMATS}
    checkpoint = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {}}}}
    torch_files.save(paths["pth"], checkpoint)
    torch_files.save(paths["legacy"], state, legacy=True)
    safetensors.numpy.save_file(state, paths["safetensors"])
    network = formats.load(paths["pth"])
    formats.save(paths["native"], network)
    plain = folder / "plain.weights.h5"
    formats.save_keras(plain, network)
    with h5py.File(plain, "a") as file:
        del file.attrs["cnnjax"]
    plain.rename(paths["weights.h5"])
    config = keras_files.written(
        keras_files.network((1, 1, 2, 2, 2), ("relu", "relu", "softmax"), 2), image_size=(32, 32)
    )
    with zipfile.ZipFile(paths["keras"], "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(paths["weights.h5"], "model.weights.h5")
    with h5py.File(paths["h5"], "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in network.params]
        file.attrs["model_config"] = json.dumps(config).encode()
        for name, layer in network.params.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            group["kernel:0"], group["bias:0"] = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
    return paths


ODD = (
    None, True, -1, 0, 1, 2, 10**6, 10**12, 10**30, -(10**12), 0.5, -0.5, float("inf"), float("nan"), 1e300, "", "x",
    "../x", "a\nb", "\x1b[2J", "\udcff", [], [[]], {}, {"class": "os.system"}, [1, 2, 3], ["a", "a"], [-1, -1], [0, 0],
    [10**9, 10**9], "vgg16", "small-cnn", "vgg99", "zca", "caffe", {"kind": "zca"},
)  # fmt: skip


def with_odd_values(value, random, share=0.15):
    """A JSON value in which some parts are odd, missing or repeated."""
    if random.random() < share:
        return ODD[random.integers(len(ODD))]
    if isinstance(value, dict):
        kept = {key: with_odd_values(one, random, share) for key, one in value.items() if random.random() > share / 3}
        return kept | ({"extra": ODD[random.integers(len(ODD))]} if random.random() < share / 3 else {})
    if isinstance(value, list):
        return [with_odd_values(one, random, share) for one in value if random.random() > share / 3]
    return value


def resealed(path: Path, random) -> bytes:
    """A file of our own whose description makes no sense, with the right checksum; sometimes with other arrays."""
    import safetensors.numpy

    from cnnjax.formats import native, safetensors_io
    from cnnjax.formats.description import KEY

    contents = path.read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    text = json.loads(contents[8 : 8 + length])["__metadata__"][KEY]
    tensors = safetensors.numpy.load(contents)
    text = json.dumps(with_odd_values(json.loads(text), random, 0.08), sort_keys=True)
    if random.random() < 0.4:
        name = sorted(tensors)[random.integers(len(tensors))]
        array = tensors.pop(name)
        changes = (lambda a: a[:0], lambda a: a.astype(np.int32), lambda a: a.reshape(-1), lambda a: a[..., None])
        if random.random() < 0.8:
            changed = changes[random.integers(len(changes))](np.atleast_1d(array))
            tensors[name if random.random() < 0.5 else f"{name}/more"] = np.ascontiguousarray(changed)
    text = text.encode("utf-8", "replace").decode()
    with tempfile.TemporaryDirectory() as folder:
        safetensors_io.write(Path(folder) / "f", tensors, {KEY: text, "sha256": native.checksum(text, tensors)})
        return (Path(folder) / "f").read_bytes()


def with_odd_config(path: Path, random) -> bytes:
    """A Keras archive whose config makes no sense."""
    with zipfile.ZipFile(path) as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(folder) / "f", "w") as archive:
            text = json.dumps(with_odd_values(config, random, 0.02)).encode("utf-8", "replace")
            archive.writestr("config.json", text)
            archive.writestr("model.weights.h5", weights)
        return (Path(folder) / "f").read_bytes()


def with_odd_pickle(path: Path, random) -> bytes:
    """An archive of PyTorch whose pickle has instructions changed, repeated or inserted."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = bytearray(parts["archive/data.pkl"])
    for _ in range(random.integers(1, 8)):
        place = int(random.integers(len(pickled)))
        kind = random.integers(4)
        opcodes = b"(0123)]}aestubRQh\x85\x86\x87\x81\x8f\x90\x91\x93\x94qjrKMJXGN\x88\x89.lid"
        if kind == 0:
            pickled[place] = opcodes[random.integers(len(opcodes))]
        elif kind == 1:
            pickled[place:place] = bytes([opcodes[random.integers(len(opcodes))]])
        elif kind == 2:
            span = pickled[place : place + int(random.integers(1, 60))]
            pickled[place:place] = span * int(random.integers(1, 50))
        else:
            del pickled[place : place + int(random.integers(1, 20))]
    parts["archive/data.pkl"] = bytes(pickled)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(folder) / "f", "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return (Path(folder) / "f").read_bytes()


def bytes_changed(contents: bytes, other: bytes, random) -> bytes:
    """Bits flipped, bytes zeroed, cut out, repeated, moved, of another file, or the end missing."""
    changed = bytearray(contents)
    # Headers are where damage says something; numbers may be any.
    reach = len(changed) if random.random() < 0.4 else min(len(changed), 2000)
    for _ in range(random.integers(1, 6)):
        place, size = int(random.integers(max(1, min(reach, len(changed) or 1)))), int(random.integers(1, 40))
        kind = random.integers(8)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            changed[place : place + size] = bytes(random.integers(0, 256, size, np.uint8))
        elif kind == 2:
            changed[place : place + size] = bytes(size)
        elif kind == 3:
            del changed[place : place + size]
        elif kind == 4:
            changed[place:place] = changed[place : place + size] * int(random.integers(1, 20))
        elif kind == 5:
            changed[place : place + 8] = struct.pack("<Q", (1 << int(random.integers(64))) - int(random.integers(2)))
        elif kind == 6:
            start = int(random.integers(len(other)))
            changed[place : place + size] = other[start : start + size]
        elif random.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def damaged(number: int, seed: int, paths: dict[str, Path]) -> tuple[str, bytes]:
    """The file of a number, and its format. The same numbers give the same file."""
    random = np.random.default_rng((seed, number))
    names = list(paths)
    name = names[number % len(names)]
    special = {"native": resealed, "keras": with_odd_config, "pth": with_odd_pickle}
    if name in special and random.random() < 0.6:
        return name, special[name](paths[name], random)
    other = paths[names[random.integers(len(names))]].read_bytes()
    return name, bytes_changed(paths[name].read_bytes(), other, random)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(path: Path) -> str:
    """What happened: "read", "refused", or what was wrong."""
    from cnnjax import formats
    from cnnjax.errors import UserError

    start, before = time.monotonic(), peak()
    try:
        network = formats.load(path, include_top=None)
        what = "read"
        if not 0 < min(network.image_shape) <= max(network.image_shape) <= 100_000 or not network.logits_shape():
            what = f"read {network!r}"
    except UserError as error:
        what = "refused" if str(error).isprintable() else f"a message that is not one printable line: {error!r}"
    except Exception:
        what = traceback.format_exc(limit=-4)
    if (seconds := time.monotonic() - start) > SECONDS:
        what = f"took {seconds:.0f} s"
    if peak() - before > BYTES + path.stat().st_size:
        what = f"took {(peak() - before) / 1e9:.1f} GB"
    return what


def worker(first: int, count: int, seed: int, step: int = 1) -> None:
    """Read the files from `first` on and print a line of JSON for each."""
    with tempfile.TemporaryDirectory() as folder:
        paths = whole(Path(folder))
        for number in range(first, count, step):
            name, contents = damaged(number, seed, paths)
            path = Path(folder) / "damaged"
            path.write_bytes(contents)
            print(json.dumps([number, "", ""]), flush=True)
            print(json.dumps([number, name, read(path)]), flush=True)


def run(count: int, seed: int) -> dict[str, dict[str, int]]:
    """All files, by a process that is started again when it dies or hangs. Returns counts; prints failures."""
    counts: dict[str, dict[str, int]] = {}
    first, failures = 0, 0
    while first < count:
        command = [sys.executable, __file__, "--worker", str(first), "--count", str(count), "--seed", str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            begun, what = first, "crashed"
            while True:
                ready, _, _ = select.select([process.stdout], [], [], SECONDS + 60 * (begun == first) + 5)
                line = process.stdout.readline() if ready else ""
                if not line:
                    what = "crashed" if ready else "hangs"
                    process.kill()
                    break
                begun, name, said = json.loads(line)
                if not name:
                    continue
                kind = said if said in ("read", "refused") else "failed"
                counts.setdefault(name, {})[kind] = counts.get(name, {}).get(kind, 0) + 1
                if kind == "failed":
                    failures += 1
                    print(f"--only {begun} ({name}):\n{said}", flush=True)
        if begun == count - 1 and process.returncode == 0:
            break
        if process.returncode != 0:
            failures += 1
            print(f"--only {begun}: the process {what}", flush=True)
        first = begun + 1
    print(f"{count} files from seed {seed}: {counts}; {failures} failures")
    return counts | {"failures": {"all": failures}}


def only(number: int, seed: int) -> None:
    """One file, kept as damaged-NUMBER."""
    from cnnjax import formats

    with tempfile.TemporaryDirectory() as folder:
        name, contents = damaged(number, seed, whole(Path(folder)))
    path = Path(f"damaged-{number}")
    path.write_bytes(contents)
    print(f"{path}, {name}, {len(contents)} bytes")
    print(formats.load(path, include_top=None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--worker", type=int)
    flags = parser.parse_args()
    if flags.only is not None:
        only(flags.only, flags.seed)
    elif flags.worker is not None:
        worker(flags.worker, flags.count, flags.seed)
    else:
        sys.exit(run(flags.count, flags.seed)["failures"]["all"] > 0)
