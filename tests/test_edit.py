import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_text import save_encoder, save_text_weights
from tiny_weights import GRID, SIDE, save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.edit import EDITS, KEYS, Edit, arrange
from MaskGIL.pictures import MASKED_GREY
from MaskGIL.pipeline import Pipeline
from MaskGIL.weights import save_weights
from Network.text import PretrainedEncoder

STRIDE = SIDE // GRID


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture(scope="module")
def pipe(weights):
    return Pipeline.from_pretrained(weights, "cpu", torch.float32)


@pytest.fixture
def edit(weights, tmp_path, monkeypatch, capsys):
    """Runs in a folder with a picture of the right size, a larger one, and a mask of the former."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(
        0, MASKED_GREY - 20, (2 * SIDE, 3 * SIDE, 3), np.uint8
    )
    Image.fromarray(noise[:SIDE, :SIDE]).save("cat.png")
    Image.fromarray(noise).save("large.jpg")
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (2, 2, 7, 6))
    mask.save("mask.png")

    def edit(*words):
        given = ["edit", *words, f"weights={weights}", "device=cpu", "precision=fp32"]
        return main(given), *capsys.readouterr()

    return edit


def cells(path, height=SIDE, width=SIDE):
    """The images (rows, columns, height, width, 3) of a grid."""
    pixels = np.asarray(Image.open(path).convert("RGB"))[2:, 2:]
    rows, columns = pixels.shape[0] // (height + 2), pixels.shape[1] // (width + 2)
    grid = pixels.reshape(rows, height + 2, columns, width + 2, 3)
    return grid.swapaxes(1, 2)[:, :, :height, :width]


def grey(images):
    return (images == MASKED_GREY).all(-1)


def test_inpainting_shows_the_original_the_masked_one_and_the_results(edit, pipe):
    code, out, err = edit("inpaint", "image=cat.png", "mask=mask.png", "class_labels=red ring,3",
                          "num_images=2", "seed=5")  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("edit       inpaint of cat.png\nimages     2 in a row, red ring, yellow ")
    assert "sampler    4 steps" in out
    assert "wrote      edit.png\n" in out
    assert "note" not in out
    rows = cells("edit.png")
    assert rows.shape[:2] == (2, 4)
    original = np.asarray(Image.open("cat.png"))
    assert (rows[:, 0] == original).all()
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[2:6, 2:8] = True  # the mask, grown to whole tokens
    assert (grey(rows[0, 1]) == hidden).all()
    assert np.array_equal(rows[0, 1][~hidden], original[~hidden])
    drawn = pipe.inpaint("cat.png", "mask.png", ["red ring"] * 2 + [3] * 2, generator=5).images
    assert np.array_equal(rows[:, 2:].reshape(4, SIDE, SIDE, 3), np.stack(drawn))


def test_a_mask_may_be_a_box_or_a_word(edit):
    for mask, name in (("2,2,7,6", "box"), ("mask.png", "file"), ("center", "word")):
        assert edit("inpaint", "image=cat.png", f"mask={mask}", f"out={name}.png")[0] == 0
    assert np.array_equal(cells("box.png"), cells("file.png"))
    hidden = grey(cells("word.png")[0, 1])
    assert hidden[4:12, 4:12].all()
    assert hidden.sum() == 64


def test_pixels_are_pasted_unless_it_is_switched_off(edit):
    edit("inpaint", "image=cat.png", "mask=left")
    edit("inpaint", "image=cat.png", "mask=left", "paste=false", "out=bare.png")
    pasted, bare = cells("edit.png")[0], cells("bare.png")[0]
    assert (pasted[2:, :, SIDE // 2 :] == pasted[0, :, SIDE // 2 :]).all()
    assert (bare[2:, :, SIDE // 2 :] != pasted[0, :, SIDE // 2 :]).any()
    assert np.array_equal(pasted[2:, :, : SIDE // 2], bare[2:, :, : SIDE // 2])


def test_notes_stand_in_the_output(edit):
    code, out, err = edit("inpaint", "image=cat.png", "mask=0,0,16,16")
    assert (code, err) == (0, "")
    assert out.count("note       A mask covers all of an image: a fresh sample is drawn") == 1


def test_an_ar_plan_is_told_once(edit, tmp_path, capsys):
    folder = save_tiny_weights(tmp_path / "ar", objective="ar")
    words = ["image=cat.png", "right=8", "left=8", "device=cpu", f"weights={folder}"]
    assert main(["edit", "outpaint", *words]) == 0
    assert capsys.readouterr().out.count("note       An AR plan draws row by row and cannot l") == 1


def test_outpainting_shows_the_image_in_grey_and_the_results(edit, pipe):
    words = ["class_labels=4", "left=4", "bottom=10", "num_images=1", "out=new/wide.png"]
    assert edit("outpaint", "image=large.jpg", *words)[0] == 0
    ((seen, drawn),) = cells("new/wide.png", SIDE + 10, SIDE + 4)
    hidden = grey(seen)
    assert hidden[:, :4].all()
    assert hidden[SIDE:].all()
    assert np.array_equal(seen[:SIDE, 4:], drawn[:SIDE, 4:])
    expected = pipe.outpaint("large.jpg", 4, left=4, bottom=10).images[0]
    assert np.array_equal(drawn, expected)


def test_each_variation_stands_behind_what_was_kept(edit, pipe):
    words = ["image=cat.png", "strength=0.25", "class_labels=4", "num_images=2"]
    assert edit("vary", *words)[0] == 0
    ((original, seen, drawn, other_seen, other),) = cells("edit.png")
    for each in (seen, other_seen):
        assert grey(each).sum() == 0.25 * SIDE**2
        assert np.array_equal(each[~grey(each)], original[~grey(each)])
    assert (grey(seen) != grey(other_seen)).any()
    expected = pipe.vary("cat.png", 0.25, [4, 4]).images
    assert np.array_equal([drawn, other], np.stack(expected))


def test_interpolation_is_a_row_from_class_to_class(edit, pipe):
    assert edit("interpolate", "class_labels=red ring,3", "seed=2")[0] == 0
    (row,) = cells("edit.png")
    expected = pipe.interpolate("red ring", 3, 8, generator=2).images
    assert np.array_equal(row, np.stack(expected))


def test_each_result_is_written_alone(edit, tmp_path):
    code, out, _ = edit("vary", IMAGE, "num_images=2", "class_labels=1,2", "images=new/results")
    assert code == 0
    assert "wrote      edit.png, new/results\n" in out
    files = sorted((tmp_path / "new/results").iterdir())
    assert [file.name for file in files] == ["00.png", "01.png", "02.png", "03.png"]
    results = [np.asarray(Image.open(file)) for file in files]
    assert np.array_equal(results, cells("edit.png")[:, [2, 4]].reshape(4, SIDE, SIDE, 3))
    code, _, err = edit("vary", IMAGE, "images=new/results")
    assert (code, err) == (2, "error: images=new/results is not empty; name a new folder.\n")
    assert edit("vary", IMAGE, "num_images=1", "out=", "images=alone")[0] == 0
    assert [file.name for file in (tmp_path / "alone").iterdir()] == ["00.png"]


def test_weights_without_classes_have_nothing_to_interpolate(edit, tmp_path, capsys):
    folder = save_tiny_weights(tmp_path / "weights", classes=())
    for words in (["class_labels=a,b"], []):
        assert main(["edit", "interpolate", *words, f"weights={folder}", "device=cpu"]) == 2
        assert capsys.readouterr().err == (
            "error: This model knows no classes; there is nothing to interpolate between.\n"
        )


def test_cells_of_rows():
    images = torch.arange(4).view(4, 1, 1, 1)
    rows = arrange(Edit(Edit, before=[torch.tensor(-1)]), images, 2)
    assert [int(cell) for cell in rows] == [-1, 0, 1, -1, 2, 3]
    rows = arrange(Edit(Edit, [torch.tensor(-1)], [*torch.arange(10, 14)]), images, 4)
    assert [int(cell) for cell in rows] == [-1, 10, 0, 11, 1, 12, 2, 13, 3]


def test_every_kind_has_its_keys_and_its_edit():
    assert KEYS.keys() == EDITS.keys()


def test_dry_run_checks_and_writes_nothing(edit, tmp_path):
    before = set(tmp_path.iterdir())
    code, out, _ = edit("inpaint", "image=cat.png", "mask=center", "--dry-run")
    assert code == 0
    assert "images     3 in a row, no class, seed 0\nsampler    4 steps" in out
    code, _, err = edit("inpaint", "image=cat.png", "mask=large.jpg", "--dry-run")
    assert code == 2
    assert "The mask has 48x32 pixels and its image 16x16; give both the same size." in err
    assert set(tmp_path.iterdir()) == before


IMAGE = "image=cat.png"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["inpaint", "mask=center"], "image is empty; name the picture to edit, image=cat.png."),
        (["inpaint", "image=dog.png", "mask=center"], "There is no file dog.png; give a picture"),
        (["inpaint", IMAGE], "mask is empty; give a picture, a box left,top,right,bottom in pixel"),
        (["inpaint", IMAGE, "mask=centre"], "mask=centre is no file, no box"),
        (["inpaint", IMAGE, "mask=large.jpg"], "The mask has 48x32 pixels and its image 16x16; g"),
        (["inpant", IMAGE], "kind takes one of inpaint, outpaint, vary, interpolate, not 'inpant'"),
        (["inpaint", IMAGE, "mask=center", "left=2"], "left has no effect on inpaint; leave it ou"),
        (["outpaint", IMAGE, "mask=center"], "mask has no effect on outpaint; leave it out."),
        (["vary", IMAGE, "paste=false"], "paste has no effect on vary; leave it out."),
        (["interpolate", IMAGE], "image has no effect on interpolate; leave it out."),
        (["outpaint", IMAGE], "left, right, top and bottom are 0; say by how many pixels to go on"),
        (["outpaint", IMAGE, "top=3"], "top=3 must be a multiple of 2 pixels, the side of a token"),
        (["outpaint", IMAGE, "top=-2"], "top must be at least 0, not -2."),
        (
            ["outpaint", IMAGE, "top=2", "paste=false", "soft_edge=2"],
            "soft_edge has no effect with paste=false; leave one of them out.",
        ),
        (["vary", IMAGE, "strength=2"], "strength=2 must lie in [0, 1]: the share that is drawn"),
        (
            ["vary", IMAGE, "class_labels=red rung"],
            "Unknown class 'red rung'. Did you mean 'red ring'? Known: ",
        ),
        (["interpolate", "class_labels=1"], "class_labels of interpolate are two, from and to: cl"),
        (["vary", IMAGE, "class_labels=1,2", "num_images=40"], "2 classes of 40 images are more t"),
        (["vary", IMAGE, "num_images=65"], "num_images must lie in [0, 64], not 65."),
        (
            ["interpolate", "class_labels=1,2", "num_images=1", "--dry-run"],
            "num_images=1 cannot go from one class to another; ask for at least 2.",
        ),
        (
            ["inpaint", IMAGE, "mask=center", "soft_edge=100000", "--dry-run"],
            "soft_edge must lie in [0, 16], not 100000.",
        ),
        (["vary", IMAGE, "out=./cat.png"], "out=cat.png would replace the image; name another fi"),
        (
            ["inpaint", IMAGE, "mask=mask.png", "out=mask.png"],
            "out=mask.png would replace the mask; name another file.",
        ),
        (["vary", IMAGE, "out="], "out and images are empty; name a file to write, out=edit.png."),
        (["vary", IMAGE, "out=a.jpg"], "out=a.jpg must end in .png."),
        (["vary", IMAGE, "height=7"], "height=7 must be a multiple of 2; the nearest are 6 and 8."),
        (["vary", IMAGE, "num_steps=65"], "num_steps=65 must lie between 1 and the number of toke"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(edit, tmp_path, words, sentence):
    before = set(tmp_path.iterdir())
    code, _, err = edit(*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert set(tmp_path.iterdir()) == before


def test_an_edit_by_prompt(edit, tmp_path, capsys, monkeypatch):
    read, features = [], PretrainedEncoder.features
    monkeypatch.setattr(
        PretrainedEncoder, "features", lambda self, said: read.append(said) or features(self, said)
    )
    folder = save_text_weights(tmp_path / "weights", save_encoder(tmp_path / "encoder"))
    text = Pipeline.from_pretrained(folder, "cpu", torch.float32)
    capsys.readouterr()
    words = ["edit", "prompt=a red star, dark", "num_images=2", "device=cpu", "precision=fp32"]
    beside = [f"weights={folder}", "image=small.png", "negative_prompt=blue", "seed=5"]
    Image.open("cat.png").resize((8, 8)).save("small.png")
    for kind, more in {"inpaint": {"mask": "left"}, "outpaint": {"right": 4}, "vary": {}}.items():
        keys = [f"{key}={value}" for key, value in more.items()]
        del read[:]
        assert main([*words, f"kind={kind}", *keys, *beside, f"images={kind}"]) == 0
        assert read == [["a red star, dark"], ["blue"]]  # each once
        out, err = capsys.readouterr()
        assert err == ""
        assert "images     2 in a row, 'a red star, dark', seed 5\n" in out
        asked = {"prompt": ["a red star, dark"] * 2, "negative_prompt": "blue", "generator": 5}
        if kind == "inpaint":
            mask = torch.zeros(8, 8, dtype=torch.bool)
            mask[:, :4] = True
            more = {"masks": mask}
        elif kind == "vary":
            more = {"strength": 0.5}
        expected = getattr(text, kind)("small.png", **asked, **more).images
        for name, image in zip(("00.png", "01.png"), expected):
            assert np.array_equal(np.asarray(Image.open(f"{kind}/{name}")), np.asarray(image))
    assert main([*words[:1], "interpolate", "prompt=a star", f"weights={folder}"]) == 2
    assert "error: prompt has no effect on interpolate; leave it out." in capsys.readouterr().err


def test_the_picture_is_cropped_to_any_height_and_width(edit, pipe):
    words = ["image=large.jpg", "height=8", "width=24", "class_labels=4", "num_images=1"]
    sizes = {"height": 8, "width": 24}
    assert edit("inpaint", *words, "mask=left", "out=inpaint.png")[0] == 0
    original, hidden, drawn = cells("inpaint.png", 8, 24)[0]
    assert (grey(hidden)[:, :12].all(), grey(hidden)[:, 12:].any()) == (True, False)
    assert np.array_equal(drawn[:, 12:], original[:, 12:])
    assert edit("outpaint", *words, "right=4", "out=outpaint.png")[0] == 0
    _, drawn = cells("outpaint.png", 8, 28)[0]
    expected = pipe.outpaint("large.jpg", 4, right=4, **sizes).images[0]
    assert np.array_equal(drawn, expected)
    assert edit("vary", *words, "out=vary.png")[0] == 0
    _, seen, drawn = cells("vary.png", 8, 24)[0]
    assert grey(seen).sum() == 0.5 * 8 * 24
    expected = pipe.vary("large.jpg", 0.5, 4, **sizes).images[0]
    assert np.array_equal(drawn, expected)
    words = ["class_labels=1,2", "height=8", "width=24", "num_images=2"]
    assert edit("interpolate", *words, "out=between.png")[0] == 0
    assert cells("between.png", 8, 24).shape[:2] == (1, 2)


def test_a_prompt_needs_weights_that_know_it(edit):
    code, _, err = edit("vary", IMAGE, "prompt=a star", "--dry-run")
    told = "error: prompt is not for these weights, which know classes; use class_labels=...\n"
    assert (code, err) == (2, told)


def test_weights_of_a_tokenizer_and_of_captions(edit, tmp_path, capsys):
    save_weights(tmp_path / "tokenizer", tiny.tokenizer())
    words = ["edit", "vary", IMAGE, "device=cpu"]
    assert main([*words, f"weights={tmp_path / 'tokenizer'}"]) == 2
    assert "holds a tokenizer, no generator; give weights=RUN/weights." in capsys.readouterr().err
    network = tiny.network(num_classes=0, caption_width=6, grid=(GRID, GRID)).float()
    save_weights(tmp_path / "captions", tiny.tokenizer(), network=network)
    assert main([*words, f"weights={tmp_path / 'captions'}", "prompt=a star"]) == 2
    assert "error: These weights do not say which text encoder t" in capsys.readouterr().err
