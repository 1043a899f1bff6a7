"""The small models: their data is clean and kept apart, and what their cards say is so."""

from __future__ import annotations

import json
import random
import sysconfig
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from gemma_batch.family.card import card_from_config
from gemma_batch.storage.models import model_files
from jobs.train_small import messages as reading
from jobs.train_small.card import percent, write_card
from jobs.train_small.labels import LANGUAGES, PROMPT, prompt_for
from jobs.train_small.messages import Message, clean_text, evenly, keep_apart, key
from jobs.train_small.metrics import read_metrics, record_again
from jobs.train_small.packages import PACKAGES
from jobs.train_small.quickstart_messages import load_messages
from jobs.train_small.samples import Encoder, batches, render, vary
from jobs.train_small.sizes import SIZES, Size

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {size: ROOT / "jobs" / "models" / f"language-{size}" for size in SIZES}
MESSAGES = ROOT / "jobs" / "messages"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Dieses Feld ist zwingend erforderlich.", "Dieses Feld ist zwingend erforderlich."),
        ("  Vous  avez\n%(count)d nouveaux messages ", "Vous avez nouveaux messages"),
        ("Bonjour {name}, voici {{ thing }} pour vous", "Bonjour , voici pour vous"),
        ("Accédez à %s avant le <b>dernier</b> jour", "Accédez à avant le dernier jour"),
        ("Przeczytaj https://example.org/pl/ dokumentację", "Przeczytaj dokumentację"),
        ("L&#39;elemento non esiste ancora", "L'elemento non esiste ancora"),
        ("Opslaan als…", None),  # too short
        ("%(a)s – %(b)s, 2024-01-01 12:00:00", None),  # no words
        ("ord " * 100, ("ord " * 50).strip()),  # cut at a space
        ("字" * 300, "字" * 200),
        ("Rabatt von 50% auf alles heute", "Rabatt von 50% auf alles heute"),
    ],
)
def test_cleaning(text: str, clean: str | None) -> None:
    """Placeholders, tags and addresses go; short texts and texts without words are left out."""
    assert clean_text(text) == clean


def test_what_a_catalogue_gives(tmp_path: Path) -> None:
    """Translations and their English originals; no header, no text that was left in English."""
    from babel.messages import Catalog
    from babel.messages.mofile import write_mo

    catalogue = Catalog(locale="pt_BR", project="Header that is long enough")
    catalogue.add("The page was deleted.", "A página foi excluída.")
    catalogue.add(
        ("%d new message here", "%d new messages here"),
        ("%d mensagem nova aqui", "%d novas mensagens"),
    )
    catalogue.add("Django administration", "Django Administration")
    catalogue.add("Not translated so far", "")
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for folder in ("pt_BR", "xx"):  # the second is no language that the models know
            with packed.open(f"some/locale/{folder}/LC_MESSAGES/django.mo", "w") as file:
                write_mo(file, catalogue)
    assert set(reading.catalogue_messages(wheel, "some")) == {
        Message("A página foi excluída.", "pt", "some"),
        Message("mensagem nova aqui", "pt", "some"),
        Message("novas mensagens", "pt", "some"),
        Message("The page was deleted.", "en", "some"),
        Message("new message here", "en", "some"),
        Message("new messages here", "en", "some"),
        Message("Django administration", "en", "some"),
    }


def test_no_text_is_trained_on_and_tested() -> None:
    """Also not in other case or punctuation; a text of two languages is in neither."""
    train = [
        Message("This field is required.", "en", "a"),
        Message("Valider le formulaire", "fr", "a"),
        Message("Datum och klockslag", "sv", "a"),
        Message("Datum och klockslag", "da", "a"),
        Message("Gem de ændringer nu", "da", "a"),
        Message("Gem de ændringer nu!", "da", "a"),
    ]
    test = [
        Message("this field is required", "en", "b"),
        Message("Informations generales", "fr", "b"),
        Message("informations générales", "fr", "b"),
        Message("Font Awesome Icons", "de", "b"),
        Message("Font Awesome icons", "nl", "b"),
    ]
    found = keep_apart(train, test)
    assert [one.text for one in found.train] == ["Gem de ændringer nu", "Valider le formulaire"]
    assert {one.text for one in found.test} == {
        "this field is required",
        "Informations generales",
        "informations générales",
    }
    assert not {key(one.text) for one in found.train} & {key(one.text) for one in found.test}


def test_messages_are_drawn_evenly() -> None:
    """As many of each language, the same for a seed; too few of one language are an error."""
    given = [Message(f"text {n} in {code}", code, "a") for code in LANGUAGES for n in range(9)]
    chosen = evenly(given, 3 * len(LANGUAGES), seed=1)
    assert set(Counter(one.language for one in chosen).values()) == {3}
    assert len(set(chosen)) == len(chosen)
    assert chosen == evenly(given, 3 * len(LANGUAGES), seed=1)
    assert chosen != evenly(given, 3 * len(LANGUAGES), seed=2)
    with pytest.raises(ValueError, match="9 messages in 'ar', fewer than 10"):
        evenly(given, 10 * len(LANGUAGES), seed=1)


def test_parts_of_a_message_come_from_it() -> None:
    """Varied texts hold no other characters than the message, apart from their case."""
    rng = random.Random(0)
    text = "Bitte geben Sie eine gültige Adresse ein"
    varied = [vary(text, rng) for _ in range(300)]
    assert all(one.casefold() in text.casefold() for one in varied)
    assert len(set(varied)) > 30
    assert min(map(len, varied)) >= 8
    assert varied.count(text) > 60


def test_the_messages_of_the_quickstart() -> None:
    """3,000 of packages that were not trained on, 125 of each language, with their licences."""
    found = load_messages(MESSAGES)
    assert Counter(one.language for one in found) == dict.fromkeys(LANGUAGES, 125)
    assert len({key(one.text) for one in found}) == 3000
    assert {one.source for one in found} == {one.name for one in PACKAGES if one.tested}
    assert all(clean_text(one.text) for one in found)
    assert sum(path.stat().st_size for path in MESSAGES.iterdir()) < 300_000
    page = (MESSAGES / "README.md").read_text(encoding="utf-8")
    for one in PACKAGES:
        assert (f"| {one.name} {one.version} | {one.licence}" in page) == one.tested
        assert (MESSAGES / f"LICENSE-{one.name}.txt").exists() == one.tested


def test_the_weights_are_small() -> None:
    """At most 10 MB together, everything that is not text included."""
    files = [path for folder in FOLDERS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000


@pytest.mark.parametrize("size", SIZES)
def test_a_model_loads_with_the_code_of_the_product(size: str) -> None:
    """Its files are found, and its card says what the architecture says."""
    folder = FOLDERS[size]
    found = model_files(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    card = card_from_config(str(folder), config)
    assert card.generation == "gemma3"
    assert 1_000_000 <= card.params <= 5_000_000
    assert found.weight_bytes == pytest.approx(2 * card.params, rel=0.01)  # bfloat16


@pytest.mark.parametrize("size", SIZES)
def test_prompts_are_what_the_product_renders(size: str) -> None:
    """Tokens put together from parts are those of the whole text; each label is one token."""
    import tokenizers

    encoder = Encoder(FOLDERS[size])
    whole = tokenizers.Tokenizer.from_file(str(FOLDERS[size] / "tokenizer.json"))
    texts = [
        "Enregistrer les modifications",
        "保存して 续行 再来",
        " <b>x</b>  y\n\nz ",
        "user model",
    ]
    for text, ids in zip(texts, encoder.prompts([t.rstrip() for t in texts]), strict=True):
        assert whole.encode(render(text), add_special_tokens=False).ids == ids
    assert len(set(encoder.labels)) == len(LANGUAGES)
    assert prompt_for("abc") in render("abc")
    assert PROMPT.replace("{{ text }}", "abc") == prompt_for("abc")


@pytest.mark.parametrize("size", SIZES)
def test_the_card_says_what_was_measured(size: str, tmp_path: Path) -> None:
    """README.md is made from metrics.json, and names each package with its licence."""
    folder = FOLDERS[size]
    for name in ("config.json", "metrics.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    metrics = read_metrics(folder)
    write_card(tmp_path, metrics)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
    assert percent(metrics["quickstart"]["choice"]) in text
    assert all(f"| {one.name} {one.version} | {one.licence} |" in text for one in PACKAGES)


def test_accuracy_and_how_steady_it_is() -> None:
    """The bigger model is right on over 90%, the smaller on fewer; again, the same by a point."""
    metrics = {size: read_metrics(folder) for size, folder in FOLDERS.items()}
    assert metrics["small"]["quickstart"]["choice"] >= 0.92
    for which in ("all", "quickstart"):  # one standard error is 0.005 for 3,000 messages
        assert metrics["tiny"][which]["choice"] < metrics["small"][which]["choice"] - 0.02
    for found in metrics.values():
        assert {one["seed"] for one in found["again"]} - {found["seed"]}, "another seed was tried"
        for again in found["again"]:
            for which in ("all", "quickstart"):
                assert abs(again[which] - found[which]["choice"]) <= 0.01


def test_only_trainings_of_one_size_are_compared(tmp_path: Path) -> None:
    """The card of one size takes no figures of another."""
    with pytest.raises(ValueError, match="is 'tiny', not 'small'"):
        record_again(FOLDERS["small"], [FOLDERS["tiny"]])


@pytest.mark.long
def test_answers_are_those_that_were_measured() -> None:
    """The weights in the repository give the accuracy in metrics.json."""
    pytest.importorskip("torch")
    from jobs.train_small.measure import accuracy, answer

    messages = load_messages(MESSAGES)
    for size, folder in FOLDERS.items():
        answers = answer(folder, [one.text for one in messages])
        claimed = read_metrics(folder)["quickstart"]
        assert accuracy(messages, answers.chosen) == pytest.approx(claimed["choice"], abs=0.005), (
            size
        )
        assert accuracy(messages, answers.free) == pytest.approx(claimed["free"], abs=0.005), size


def test_equal_seeds_draw_equal_batches() -> None:
    """Batches are a function of their arguments, hold each language, and keep their bound."""
    encoder = Encoder(FOLDERS["tiny"])
    given = load_messages(MESSAGES)

    def drawn(seed: int) -> list[list[list[int]]]:
        found = batches(given, encoder, count=480, tokens=1024, seed=seed)
        return [batch.ids for batch in found]

    first = drawn(0)
    assert first == drawn(0) != drawn(1)
    assert sum(map(len, first)) == 480
    assert all(len(ids) * len(ids[0]) <= 1024 for ids in first)


@pytest.mark.long
def test_training_end_to_end_without_a_network(tmp_path: Path) -> None:
    """From catalogues in this environment to a model that is far better than chance."""
    pytest.importorskip("torch")
    from jobs.train_small.measure import accuracy, answer
    from jobs.train_small.model import write_model_files
    from jobs.train_small.training import train

    wheel = tmp_path / "names.whl"
    packages = Path(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel, "w") as packed:
        for path in sorted((packages / "pycountry").rglob("*.mo")):
            packed.write(path, path.relative_to(packages).as_posix())
    found = set(reading.catalogue_messages(wheel, "pycountry"))
    given = keep_apart(found, ()).train
    random.Random(0).shuffle(given)
    held = {key(one.text) for one in given[::5]}
    apart = keep_apart(
        [one for one in given if key(one.text) not in held],
        [one for one in given if key(one.text) in held],
    )
    assert {one.language for one in apart.train} == set(LANGUAGES)
    size = Size(
        vocab=1024, layers=1, hidden=64, ffn=128, heads=2, kv_heads=1, head_dim=32,
        messages=3600, learning_rate=5e-3, batch_tokens=1024,
    )  # fmt: skip
    folder = tmp_path / "model"
    write_model_files(folder, size, apart.train)
    train(folder, size, apart.train, seed=0, say=lambda text: None)
    test = apart.test[:480]
    answers = answer(folder, [one.text for one in test])
    assert accuracy(test, answers.chosen) > 0.3  # chance is 0.04, the largest language below 0.1
    assert accuracy(test, answers.free) > 0.3
