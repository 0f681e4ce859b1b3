"""The benchmark's form; its figures are the machine's."""

import json

import pytest

TINY = [
    "--n_layer=1",
    "--n_head=2",
    "--n_embd=32",
    "--vocab_size=512",
    "--block_size=32",
    "--batch_size=2",
    "--turns=1",
    "--new_tokens=8",
]
TINY_RECIPE = "n_layer, n_head, n_embd, batch_size, max_iters, fit_minutes, eval_iters = 1, 1, 32, 2, 30, 0.0, 1\n"
PEERS = {
    "train": {"nanogpt", "transformers"},
    "generate": {"nanogpt", "transformers", "llama.cpp-f16", "llama.cpp-q8_0"},
    "prepare": {"tiktoken"},
    "finetune": set(),
}
LIKE = {"llama.cpp-f16": "ours-float16", "llama.cpp-q8_0": "ours-int8"}


LONG = ("generate", "finetune")


@pytest.mark.parametrize(
    "what, peers",
    [pytest.param(what, peers, marks=pytest.mark.long if what in LONG else ()) for what, peers in PEERS.items()],
)
def test_the_last_line_is_the_report(project, what, peers):
    """One JSON line with ours, the peers, ratios in like precision, the roofline and the machine; nothing is left."""
    report = json.loads(project.run("bench.py", what, *TINY, "--megabytes=1").stdout.strip().splitlines()[-1])
    assert report["bench"] == what and report["peers"].keys() == peers <= report["ratios"].keys()
    for name in peers:
        ours = report["variants"][LIKE[name]] if name in LIKE else report["ours"]
        expected = ours["tokens_per_second"] / report["peers"][name]["tokens_per_second"]
        assert report["ratios"][name] == pytest.approx(expected) and report["memory_ratios"][name] > 0
    assert report["roofline"]["share"] == pytest.approx(
        report["ours"]["tokens_per_second"] / report["roofline"]["limit"]
    )
    assert report["machine"]["cores"] >= 1
    assert not list((project.folder / "data").glob("bench-*"))


def test_the_page_is_asked_by_many_at_once(project, chat):
    """How long one visitor and how long several wait for the beginning of an answer."""
    out = project.run("bench.py", "page", "--out_dir=out/talk", "--turns=1", "--visitors=4").stdout
    report = json.loads(out.strip().splitlines()[-1])
    assert report["ratio"] == report["together"]["median_seconds"] / report["alone"]["median_seconds"]
    assert 0 < report["together"]["median_seconds"] <= report["together"]["longest_seconds"]


def test_clients_are_served_beside_llama_cpps(project):
    """One and three clients at once, of both servers: tokens a second and the wait for the first; nothing is left."""
    shape = ["--n_layer=1", "--n_head=2", "--n_embd=32", "--new_tokens=8", "--turns=1", "--dtype=float32"]
    out = project.run("bench.py", "serve", *shape, "--clients=1,3").stdout
    report = json.loads(out.strip().splitlines()[-1])
    for figures in (report["clients"], report["peers"]["llama.cpp"]):
        assert figures.keys() == {"1", "3"}
        assert all(each["tokens_per_second"] > 0 and 0 < each["first_token"] < 30 for each in figures.values())
    assert not list((project.folder / "data").glob("bench-*"))


def test_an_unknown_benchmark_is_told(project):
    """In one line."""
    assert "write one of train, finetune, generate, open, prepare, page, serve, speedrun" in project.fails(
        "bench.py", "cooking"
    )


def make_recipes_tiny(project):
    """Let both tracks of the speedrun train a tiny model."""
    for track in ("sprint", "ten"):
        with open(project.folder / f"config/speedrun_{track}.py", "a", encoding="utf-8") as file:
            file.write(TINY_RECIPE)


@pytest.mark.long
def test_the_speedrun_records_a_line(project):
    """Both tracks, tiny: a JSON line, null for what was not reached, the record and its logs."""
    make_recipes_tiny(project)
    board = project.folder / "docs/leaderboard.md"
    before = board.read_text(encoding="utf-8")
    said = project.run("bench.py", "speedrun", "--changed=a tiny model").stdout
    report = json.loads(said.strip().splitlines()[-1])
    assert report.keys() == {"seconds_to_ppmd", "bits_after_ten_minutes", "machine"}
    assert report["seconds_to_ppmd"] is None and 7 < report["bits_after_ten_minutes"] < 20
    assert report["machine"]["gflops"].keys() == {"float32", "bfloat16"}
    after = board.read_text(encoding="utf-8")
    (line,) = after.removeprefix(before).splitlines()
    assert "| a tiny model | – |" in line and f"{report['bits_after_ten_minutes']:.3f}" in line
    log = project.folder / "docs" / line.split("](")[1].split(")")[0]
    assert json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["iter"] == 30


@pytest.mark.long
def test_choices_are_made_on_the_second_tenth(project):
    """It is held out from both, and records nothing."""
    make_recipes_tiny(project)
    board = project.folder / "docs/leaderboard.md"
    before = board.read_text(encoding="utf-8")
    said = project.run("bench.py", "speedrun", "--tenth=second").stdout
    second = json.loads(said.strip().splitlines()[-1])["bits_after_ten_minutes"]
    assert board.read_text(encoding="utf-8") == before
    said = project.run("bench.py", "speedrun").stdout
    assert 7 < second < 20 and second != json.loads(said.strip().splitlines()[-1])["bits_after_ten_minutes"]
    short = len((project.folder / "data/sanguo_second/val.bin").read_bytes())
    assert 0.85 < short / len((project.folder / "data/sanguo_bpe/val.bin").read_bytes()) < 1.05
