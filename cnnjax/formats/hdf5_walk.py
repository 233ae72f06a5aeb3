"""Looks at everything in an HDF5 file but its numbers. Run as a script, in a process that can be ended.

    python hdf5_walk.py FILE START SIZE SECONDS BYTES

The HDF5 library follows damaged structures for ever, or asks for gigabytes because of one wrong number. So each file is
first walked by a process with a limit on its time and memory, which imports neither JAX nor this package. It prints
what is wrong, or nothing. START and SIZE: the part of the file, which may be a member of an archive.
"""

import io
import sys
import time


class Part(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: str, start: int, size: int):
        super().__init__()
        self._file, self._start, self._size, self._place = open(path, "rb", buffering=0), start, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._place)]
        self._file.seek(self._start + self._place)
        count = self._file.readinto(view) or 0
        self._place += count
        return count


def walk(group, h5py, size: int) -> None:
    """Every object below a group once, with its attributes; the numbers of a dataset only where they are in chunks."""
    waiting, seen = [group], set()
    while waiting:
        here = waiting.pop()
        address = h5py.h5o.get_info(here.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in here.attrs:
            here.attrs[name]
        if isinstance(here, h5py.Dataset):
            filters = here.id.get_create_plist()
            usual = all(filters.get_filter(i)[0] in (1, 2, 3) for i in range(filters.get_nfilters()))
            # What claims to be much larger than the file is refused before its numbers are read.
            usual = usual and here.nbytes <= 4 * size
            if here.chunks and usual and not here.is_virtual and not here.external:
                for start in range(0, here.shape[0] if here.shape else 0, here.chunks[0]):
                    here[start : start + here.chunks[0]]
        elif isinstance(here, h5py.Group):
            for name in here:
                if isinstance(here.get(name, getlink=True), h5py.HardLink):
                    waiting.append(here[name])


def main(path: str, start: int, size: int, seconds: int, allowed: int) -> None:
    import h5py

    try:
        import resource

        # The system ends the process, also within the library, and whatever signals are ignored.
        limit = int(time.process_time()) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowed, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError, AttributeError, ImportError):
        pass  # not on every system
    try:
        with h5py.File(Part(path, start, size), "r") as file:
            walk(file, h5py, size)
    except MemoryError:
        print("its structure needs more memory than the file has bytes")
    except Exception as error:
        print((str(error).strip().splitlines() or [type(error).__name__])[0][:150])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
