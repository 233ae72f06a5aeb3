from pathlib import Path

from cnnjax.pretrained.network import Network


def save_stablehlo(path: str | Path, network: Network) -> None:
    raise NotImplementedError
