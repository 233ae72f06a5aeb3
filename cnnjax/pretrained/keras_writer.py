from pathlib import Path

from cnnjax.pretrained.network import Network


def save_keras(path: str | Path, network: Network) -> None:
    raise NotImplementedError
