"""Official NAS-Bench-101 records (``.tfrecord``), read without TensorFlow.

A record is the JSON list ``[hash, epochs, adjacency, operations, metrics]`` of one training: the adjacency matrix row
by row as 0s and 1s, the operations separated by commas, the metrics as a serialised protocol buffer in base64. The file
is read in blocks and checksums are verified for a whole block at a time: TensorBoard's own reader does it byte by byte,
which takes minutes for half a gigabyte.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_nas.errors import BenchmarkDataError

_BLOCK = 1 << 22
_LONGEST = 1 << 20  # bytes; real records have about 400, so more means that a length is damaged
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_FIELDS = (  # of EvaluationData; all but the last are doubles
    "current_epoch", "training_time", "train_accuracy", "validation_accuracy", "test_accuracy", "checkpoint_path",
)  # fmt: skip


class Trainings(NamedTuple):
    """All trainings of a file, in its order, n of m cells.

    Attributes:
        hashes: The file's own name of every cell, ``(m,)``.
        adjacency: Its matrix, row by row, as a string of 0s and 1s.
        operations: Labels of its vertices.
        params: Its trainable parameters, ``(m,)`` int64.
        cell: Which cell was trained, ``(n,)`` int64.
        epochs: For how long, ``(n,)`` int64.
        valid: Validation accuracy at the end, in [0, 1], ``(n,)`` float64.
        test: Test accuracy.
        seconds: Training time.
    """

    hashes: list[str]
    adjacency: list[str]
    operations: list[tuple[str, ...]]
    params: np.ndarray
    cell: np.ndarray
    epochs: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seconds: np.ndarray


def read_trainings(source: Path, track: Callable[[Sequence[int]], Iterable[int]] = iter) -> Trainings:
    """Read a whole file.

    Args:
        source: ``nasbench_only108.tfrecord``, ``nasbench_full.tfrecord`` or another file of that layout.
        track: Shows progress over the blocks of the file.

    Raises:
        BenchmarkDataError: A record is damaged or of another layout; says which.
    """
    metrics = _metrics_class()
    places: dict[str, int] = {}
    drawn: list[tuple[str, str]] = []
    params, cell, epochs = array("q"), array("q"), array("q")
    valid, test, seconds = array("d"), array("d"), array("d")
    for number, record in enumerate(_records(source, track)):
        try:
            name, length, adjacency, operations, raw = json.loads(record)
            measured = metrics.FromString(base64.b64decode(raw, validate=True))
            last = measured.evaluation_data[-1]  # the first and the halfway one come before
            if name not in places:
                places[name] = len(places)
                drawn.append((str(adjacency), str(operations)))
                params.append(measured.trainable_parameters)
            place = places[name]
            if drawn[place] != (adjacency, operations):
                raise ValueError(f"another cell than an earlier record of the name {name}")
            cell.append(place)
            epochs.append(length)
        except (ValueError, TypeError, IndexError, binascii.Error, _decode_error()) as error:
            raise BenchmarkDataError(
                f"{source}: record {number} is not of NAS-Bench-101 ({type(error).__name__}: {error}); expected a JSON "
                "list of hash, epochs, adjacency, operations and metrics"
            ) from error
        valid.append(last.validation_accuracy)
        test.append(last.test_accuracy)
        seconds.append(last.training_time)
    return Trainings(
        list(places),
        [adjacency for adjacency, _ in drawn],
        [tuple(operations.split(",")) for _, operations in drawn],
        *(np.array(column, np.int64) for column in (params, cell, epochs)),
        *(np.array(column, np.float64) for column in (valid, test, seconds)),
    )


def _records(source: Path, track: Callable[[Sequence[int]], Iterable[int]]) -> Iterator[bytes]:
    """Contents of all records, checked: ``length (8), its checksum (4), contents, their checksum (4)``, each."""
    rest, done, before = b"", 0, 0  # records and bytes done before this block
    with source.open("rb") as file:
        for _ in track(range(-(-source.stat().st_size // _BLOCK))):
            block = rest + file.read(_BLOCK)
            starts, lengths, end, absurd = _split(block)
            _verify(block, starts - 12, np.full_like(starts, 8), "length", source, done, before)
            _verify(block, starts, lengths, "contents", source, done, before)
            if absurd:
                raise _damaged(source, done + len(starts), before + end, "its length cannot be")
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                yield block[start : start + length]
            rest, done, before = block[end:], done + len(starts), before + end
    if rest:
        raise _damaged(source, done, before, "the file ends within it")


def _split(block: bytes) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Starts and lengths of the contents of all whole records, where they end, and whether an absurd length follows."""
    starts, lengths, at, length = array("q"), array("q"), 0, 0
    while at + 8 <= len(block):
        (length,) = struct.unpack_from("<Q", block, at)
        if length > _LONGEST or at + length + 16 > len(block):
            break
        starts.append(at + 12)
        lengths.append(length)
        at += length + 16
    return np.array(starts, np.int64), np.array(lengths, np.int64), at, length > _LONGEST


def _verify(
    block: bytes, starts: np.ndarray, lengths: np.ndarray, what: str, source: Path, done: int, before: int
) -> None:
    """Compare the checksums behind some parts of a block with those of the parts."""
    if not len(starts):
        return
    content = np.frombuffer(block, np.uint8)
    table = _crc_table()
    crc = np.full(len(starts), 0xFFFFFFFF, np.uint32)
    order = np.argsort(-lengths, kind="stable")  # parts that are not over yet come first
    starts, lengths = starts[order], lengths[order]
    active = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")
    for place, count in enumerate(active.tolist()):
        now = crc[:count]
        crc[:count] = table[(now ^ content[starts[:count] + place]) & 0xFF] ^ (now >> 8)
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)  # uint32 wraps around, as it shall
    ends = (starts + lengths)[:, None] + np.arange(4)
    stored = content[ends].copy().view("<u4")[:, 0]
    if len(wrong := np.flatnonzero(masked != stored)):
        first = wrong[np.argmin(starts[wrong])]
        number, place = done + int(order[first]), before + int(starts[first])
        raise _damaged(source, number, place, f"the checksum of its {what} is wrong")


def _damaged(source: Path, number: int, place: int, why: str) -> BenchmarkDataError:
    return BenchmarkDataError(
        f"{source}: record {number}, at byte {place}, is damaged ({why}); the download is incomplete or this is no "
        ".tfrecord, get it again"
    )


@cache
def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    return DecodeError  # type: ignore[no-any-return]


@cache
def _metrics_class() -> Any:
    """The protocol buffer of a training's metrics, made here from its description."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="nasbench101.proto", package="nasbench", syntax="proto2")
    evaluation = file.message_type.add(name="EvaluationData")
    for number, name in enumerate(_FIELDS, start=1):
        kind = kinds.TYPE_STRING if name == _FIELDS[-1] else kinds.TYPE_DOUBLE
        evaluation.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    metrics = file.message_type.add(name="ModelMetrics")
    metrics.field.add(
        name="evaluation_data", number=1, label=kinds.LABEL_REPEATED,
        type=kinds.TYPE_MESSAGE, type_name=".nasbench.EvaluationData",
    )  # fmt: skip
    for number, (name, kind) in enumerate(
        (("trainable_parameters", kinds.TYPE_INT32), ("total_time", kinds.TYPE_DOUBLE)), start=2
    ):
        metrics.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()  # one's own: the authors' package may have registered the same names
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))
