"""What TensorBoard reads of a run."""

import pytest

from .test_metrics import log_run


def events_of(workdir):
    """What TensorBoard would be told, in the order of the files."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4)
            length = int.from_bytes(data[:8], "little")
            for start, end in ((0, 8), (12, 12 + length)):
                assert int.from_bytes(data[end : end + 4], "little") == masked_crc32c(data[start:end])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_is_told_the_numbers_and_where_a_resumed_run_begins(tmp_path):
    log_run(tmp_path, 10)
    log_run(tmp_path, 10, start_step=5)
    events = list(events_of(tmp_path))
    assert events[0].file_version == "brain.Event:2"
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts[-1] == 6
    scalars = [(v.tag, event.step, v.simple_value) for event in events for v in event.summary.value]
    for step in (5, 10):
        assert ("eval/top1", step, pytest.approx(step / 100)) in scalars
        assert ("train/lr", step, pytest.approx(0.1 / step)) in scalars
    assert sum(tag == "train/loss" for tag, _, _ in scalars) == 3
