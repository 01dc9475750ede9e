from hashlib import sha256

from MaskGIL.chunk_log import finished, log_line, log_path, read_logs, remove_logs

DATA = {0: b"nought", 1: b"one", 2: b"two"}
SHA = {chunk: sha256(data).hexdigest() for chunk, data in DATA.items()}
LINES = [log_line(0, DATA[0]), log_line(2, DATA[2], [7, 9])]


def test_logs_of_all_ranks_are_read(tmp_path):
    for rank, line in enumerate(LINES):
        log_path(tmp_path, rank).write_bytes(line)
    assert read_logs(tmp_path) == {(0, SHA[0]): [], (2, SHA[2]): [7, 9]}
    remove_logs(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_torn_line_is_no_record_and_spoils_none_after_it(tmp_path):
    first, second = LINES
    for kept in range(len(first + second)):
        log_path(tmp_path, 0).write_bytes((first + second)[:kept] + log_line(1, DATA[1]))
        expected = {(1, SHA[1]): []}
        if kept >= len(first) - 1:  # without its newline at most
            expected[0, SHA[0]] = []
        if kept >= len(first + second) - 1:
            expected[2, SHA[2]] = [7, 9]
        assert read_logs(tmp_path) == expected


def test_finished_is_what_is_logged_and_still_there():
    logs = {(0, SHA[0]): [], (1, SHA[1]): []}
    on_disk = SHA | {1: SHA[0]}  # chunk 1 has changed, 2 was never logged
    assert finished(logs, on_disk.__getitem__, range(3)) == {0}
    assert finished(logs, SHA.__getitem__, range(3)) == {0, 1}
    assert finished(logs, SHA.__getitem__, range(1, 3)) == {1}
