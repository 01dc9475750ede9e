import json
import re

from test_registry import SAMPLES, THEIRS
from test_row import NAMED, record

from Metrics.results_table import tables
from Metrics.row import row_of


def own(name, **changes):
    return row_of(record(samples=SAMPLES, **changes), **{**NAMED, "name": name})


def quoted(**changes):
    shared = {key: value for key, value in THEIRS.items() if key != "rows"}
    return {**shared, **THEIRS["rows"][0], **changes}


def cells(text, first):
    """The cells of the only line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_column_for_each_row_of_ours():
    text = tables([own("one"), own("two", fid=3.25, intervals={})])
    one = "`python FID_sample.py verify=one weights=WEIGHTS`"  # whose reference is drawn
    asked = {"weights": "a", "reference": "data", "train": "data"}
    (two,) = re.findall(r"`python .*verify=two.*`", tables([own("two", asked=asked)]))
    assert two == "`python FID_sample.py verify=two weights=WEIGHTS reference=FOLDER train=FOLDER`"
    assert f"{one}, `python FID_sample.py verify=two weights=WEIGHTS`" in text
    assert cells(text, "") == ["one", "two"]
    assert cells(text, "FID") == ["", "3.25"]  # blank where no Inception was at hand
    assert "| sFID |" not in text  # nor are others, which nobody misses
    assert cells(text, "shapesnet-1 distance") == ["50 (44 ± 4)", "50"]
    assert cells(text, "shapesnet-1 KID") == ["0 ± 0.5", "0"]
    assert cells(text, "parameters") == ["0.0M", "0.0M"]
    assert cells(text, "samples") == ["40, seed 0"] * 2
    assert cells(text, "reference") == ["64 images, val"] * 2
    assert cells(text, "weights") == ["`22222222`"] * 2
    assert cells(text, "sampler") == ["num_steps=4, guidance_scale=3.0"] * 2
    assert "Quoted" not in text


def test_what_sampling_took_where_a_row_tells_it():
    facts = {"device": "cpu", "images_per_second": 21.84, "seconds_alone": 0.123}
    made = {"versions": {"commit": "abc"}, **facts, "peak_memory": 1_234_000_000}
    text = tables(
        [own("one", made=made), own("two"), own("three", made={**made, "peak_memory": None})]
    )
    assert cells(text, "images per second") == ["21.8 on cpu", "", "21.8 on cpu"]
    assert cells(text, "seconds of one image") == ["0.12", "", "0.12"]
    assert cells(text, "peak memory") == ["1.2 GB", "", ""]
    assert "peak memory" not in tables([own("two")])


def test_what_is_no_fid_is_never_called_so():
    text = tables([own("one")])
    (line,) = [line for line in text.splitlines() if line.startswith("| FID |")]
    assert line == "| FID |  |"
    assert json.dumps(own("one")["numbers"]).count("FID") == 0


def test_quoted_rows_stand_apart_by_what_they_are_of():
    other = quoted(generator="small", data="CIFAR-10", image_size=[32, 32], num_images=None)
    filled = quoted(
        generator="large",
        parameters="1B",
        sampler="8 steps",
        evaluator="ADM's",
        reference="val",
        numbers={"FID": 3.9, "inception score": 281.7},
    )
    text = tables([own("one"), filled, other, quoted(generator="plain")])
    assert text.index("one") < text.index("CIFAR-10, 32x32") < text.index("ImageNet, 256x256")
    assert cells(text, "large") == ["1B", "8 steps", "3.90", "281.7", "(1)"]
    assert cells(text, "plain") == ["", "", "3.50", "", "(2)"]
    assert cells(text, "small") == ["", "", "3.50", "", "(1)"]
    source = "others: [their paper](https://a.org), 2026; "
    assert f"* (1) {source}50,000 images, evaluator ADM's, reference val\n" in text
    assert f"* (2) {source}50,000 images, evaluator not told, reference not told" in text
    assert f"* (1) {source}number of images not told, evaluator not told, ref" in text
    assert text.count("Quoted, not measured by us") == 2


def test_without_rows_there_are_no_tables():
    assert tables([]) == ""
