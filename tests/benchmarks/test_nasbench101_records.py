"""The reader of records against TensorBoard's writer; whole files go through ``test_nasbench101.py``."""

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_nas.benchmarks import nasbench101_records
from lightning_nas.benchmarks.nasbench101_records import _crc_table, _metrics_class, _records


@pytest.mark.parametrize("block", [1, 7, 50, 1 << 22])
def test_records_come_out_as_they_were_written(tmp_path, monkeypatch, block):
    monkeypatch.setattr(nasbench101_records, "_BLOCK", block)
    rng = np.random.default_rng(0)
    written = [rng.bytes(size) for size in (5, 0, 300, 1, 0, 17, 4096, 2)]
    path = tmp_path / "x.tfrecord"
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in written:
            writer.write(record)
    assert list(_records(path, iter)) == written


def test_checksums_are_crc32c():
    crc = 0xFFFFFFFF
    for byte in b"123456789":
        crc = int(_crc_table()[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
    assert crc ^ 0xFFFFFFFF == 0xE3069283 == crc32c(b"123456789")


def test_the_message_has_the_official_fields():
    message = _metrics_class()
    fields = {field.name: field.number for field in message.DESCRIPTOR.fields}
    assert fields == {"evaluation_data": 1, "trainable_parameters": 2, "total_time": 3}
    evaluation = message.DESCRIPTOR.fields_by_name["evaluation_data"].message_type
    assert [field.name for field in evaluation.fields][1:5] == [
        "training_time", "train_accuracy", "validation_accuracy", "test_accuracy",
    ]  # fmt: skip
    assert [field.number for field in evaluation.fields] == [1, 2, 3, 4, 5, 6]
