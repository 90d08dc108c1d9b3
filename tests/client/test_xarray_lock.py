"""Files that several workers write: whole, because they take turns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from guildhall import Client, Lock, install_xarray_lock
from guildhall.client.xarray_lock import FileLock

xarray = pytest.importorskip("xarray")


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_datasets_are_written_whole(client: Client, tmp_path: Path, engine: str) -> None:
    install_xarray_lock()
    x = np.random.default_rng(0).random((200, 120))
    dataset = xarray.Dataset({"a": (("x", "y"), x), "b": (("x", "y"), x * 2)}).chunk({"x": 20, "y": 40})
    with dask.config.set(scheduler=client):
        for number in range(2):
            dataset.to_netcdf(tmp_path / f"{number}.nc", engine=engine)
        delayed = dataset.to_netcdf(tmp_path / "later.nc", engine=engine, compute=False)
        client.compute(delayed).result(120)
    for name in ("0", "1", "later"):
        with xarray.open_dataset(tmp_path / f"{name}.nc", engine=engine) as written:
            assert np.array_equal(written.a.values, x)
            assert np.array_equal(written.b.values, x * 2)


def test_the_lock_of_a_file_is_held_in_all_processes(client: Client, tmp_path: Path) -> None:
    def try_it(lock: FileLock) -> tuple[bool, bool]:
        got = lock.acquire(blocking=False)
        if got:
            lock.release()
        return got, lock.locked()

    lock = FileLock(("xarray", str(tmp_path)), client)
    with lock:
        assert lock.locked()
        assert client.submit(try_it, lock).result(60) == (False, True)
    assert client.submit(try_it, lock).result(60) == (True, False)


def test_locks_are_taken_in_the_same_order_everywhere(client: Client) -> None:
    install_xarray_lock()
    from xarray.backends import locks

    def names(combined: Any) -> list[str]:
        return [getattr(lock, "name", ("", "local"))[1] for lock in combined.locks]

    combined = locks.CombinedLock([locks.HDF5_LOCK, *(FileLock(("xarray", name), client) for name in "abc")])
    assert names(combined)[-1] == "local"
    assert client.gather(client.map(names, [combined] * 4)) == [names(combined)] * 4


def test_other_schedulers_are_left_as_they_were(client: Client, tmp_path: Path) -> None:
    install_xarray_lock()
    install_xarray_lock()
    from xarray.backends import locks

    assert locks.get_dask_scheduler() == "threaded"
    dataset = xarray.Dataset({"a": ("x", np.arange(10))}).chunk({"x": 5})
    dataset.to_netcdf(tmp_path / "threads.nc")
    with dask.config.set(scheduler=client):
        assert locks.get_dask_scheduler() == "distributed"
        assert isinstance(locks.get_write_lock("x.nc"), FileLock)
        assert locks.get_write_lock("x.nc").name == ("xarray", os.path.realpath("x.nc"))


class H5Target:
    """Where `dask.array.store` puts chunks: an HDF5 file that is opened for each."""

    def __init__(self, path: str, shape: tuple[int, ...]) -> None:
        import h5py

        self.path = path
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape, float)

    def __setitem__(self, place: Any, value: Any) -> None:
        import h5py

        with h5py.File(self.path, "a") as file:
            file["x"][place] = value


def test_arrays_are_stored_under_a_lock_of_ours(client: Client, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).random((200, 100))
    path = str(tmp_path / "array.h5")
    with dask.config.set(scheduler=client):
        da.store(da.from_array(x, chunks=(20, 50)), H5Target(path, x.shape), lock=Lock(path))
    with h5py.File(path) as file:
        assert np.array_equal(file["x"][:], x)


def test_without_xarray_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['xarray'] = None; import guildhall; guildhall.install_xarray_lock()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: install_xarray_lock needs xarray: pip install 'guildhall[xarray]'" in done.stderr


def test_importing_guildhall_imports_no_xarray() -> None:
    code = "import sys, guildhall; guildhall.install_xarray_lock; assert 'xarray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
