import json

import pytest
import test_members
from test_members import tar

from MaskGIL.data.members import read_members
from MaskGIL.data.shard_counts import check_counts
from MaskGIL.data.shards import open_shards
from Network.config import UserError

home = test_members.home
FILES = {"1.jpg": b"", "1.txt": b"a", "2.jpg": b"", "2.txt": b"b", "2.seg.png": b""}  # two samples


def check(*tars):
    check_counts(tars, read_members(tars))


def index(*shards):
    return json.dumps({"wids_version": 1, "shardlist": list(shards)})


def test_names_that_say_how_many_there_are(tmp_path):
    tars = [tar(tmp_path / f"train-{n:05d}-of-00003.tar", **FILES) for n in range(3)]
    check(*tars)
    sentence = rf"^The tar files {tmp_path}/train-...-of-3.tar are not all there; d"
    with pytest.raises(UserError, match=rf"{sentence}ownload what is missing too, 1\."):
        check(tars[0], tars[2])
    with pytest.raises(UserError, match=r"is missing too, 0\."):
        check(*tars[1:])
    with pytest.raises(UserError, match=r"is missing too, 0, 2\."):
        check(tars[1])
    from_one = [tar(tmp_path / f"val-{n}-of-2.tar", **FILES) for n in (1, 2)]
    check(*from_one, *tars)
    check(tar(tmp_path / "plain-7.tar", **FILES))  # says nothing


def test_the_numbers_of_img2dataset(tmp_path):
    path = tar(tmp_path / "00000.tar", **FILES)
    stats = tmp_path / "00000_stats.json"
    stats.write_text('{"count": 5, "successes": 2}')
    check(path)
    stats.write_text('{"count": 5, "successes": 5}')
    sentence = rf"^{path} holds 2 samples with pictures, 00000_stats.json says 5; download both ag"
    with pytest.raises(UserError, match=sentence):
        check(path)


def test_the_index_of_webdataset(tmp_path):
    path, other = (tar(tmp_path / f"{name}.tar", **FILES) for name in ("a", "b"))
    listed = tmp_path / "index.json"
    listed.write_text(index({"url": "a.tar", "nsamples": 2}, {"url": "https://x.org/d/b.tar"}))
    check(path, other)
    listed.write_text(index({"url": "a.tar", "nsamples": 3}))
    with pytest.raises(UserError, match=rf"^{path} holds 2 samples with .*, index.json says 3;"):
        check(path)
    check(other)  # of another split
    with pytest.raises(UserError, match=r"index.json says 3"):  # as a run would meet it
        open_shards([path], "train", [path])
    listed.write_text(index({"url": "a.tar", "nsamples": 2}, {"url": "c.tar", "nsamples": 2}))
    with pytest.raises(UserError, match=rf"^{listed} names c.tar, which is missing beside it"):
        check(path)
    listed.write_text(index({"url": "pipe:touch x; cat a.tar", "nsamples": 2}))
    with pytest.raises(UserError, match=rf"^{listed} names the command 'pipe:touch x; cat a.tar'"):
        check(path)


@pytest.mark.parametrize("text", ["", "[" * 50_000, "[1]", "{}", '{"shardlist": 3}', index(3)])
def test_other_files_say_nothing(tmp_path, text):
    path = tar(tmp_path / "a.tar", **FILES)
    (tmp_path / "info.json").write_text(text)
    (tmp_path / "a_stats.json").write_text(text)
    check(path)
