"""Lesson 8 by other means: its table of distributions, its draws, its autoencoder, what its sentences say."""

import itertools
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from helpers import lessons, records
from helpers.data import load_mnist
from helpers.records import TOOLS

PAGES = [f"08_probability_{tool}" for tool in TOOLS]
GRADIENT = ["Normal", "Exponential", "Gamma", "LogNormal", "StudentT", "Weibull"]
COUNTS = ["Bernoulli", "Geometric", "NegativeBinomial"]


def cell(page, cell_id):
    (found,) = (cell for cell in lessons.cells(page) if cell.id == cell_id)
    return found


def printed(page, cell_id):
    return "".join(output.get("text", "") for output in cell(page, cell_id).outputs)


def picture(page, cell_id):
    """What a picture says of itself, and what is drawn in it."""
    (said,) = (each.metadata["image/png"] for each in cell(page, cell_id).outputs if each.get("metadata"))
    return said["alt"], said["drawn"]


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", text)]


def tool_of(page):
    return page.rpartition("_")[2]


@pytest.fixture(scope="module")
def numpys():
    return lessons.load("08_probability_numpy", until="train-define")


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def tfp():
    pytest.importorskip("tensorflow")
    import helpers.quiet_tensorflow  # noqa: F401, I001
    import tensorflow_probability as tfp

    return tfp


@pytest.fixture
def float64(torch):
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# The table


OTHER = {"m": -0.4, "s": 0.7, "a": 3.5, "b": 2.3, "p": 0.65}
OTHER |= {
    "c": np.array([2.5, 4.0, 1.5]),
    "w": np.array([-1.0, 0.5]),
    "F": np.array([[0.6, 0.0], [-0.3, 1.1]]),
}


def moments(name, known):
    """Mean and variance (or covariance) of a row, by its letters: no tool is asked."""
    from scipy.special import gamma, iv

    m, s, a, b, p, c, w, F = (known[letter] for letter in "msabpcwF")
    total = np.sum(c)
    return {
        "Normal": (m, s**2),
        "Exponential": (1 / b, 1 / b**2),
        "Gamma": (a / b, a / b**2),
        "LogNormal": (np.exp(m + s**2 / 2), (np.exp(s**2) - 1) * np.exp(2 * m + s**2)),
        "StudentT": (m, s**2 * a / (a - 2)),
        "Weibull": (s * gamma(1 + 1 / a), s**2 * (gamma(1 + 2 / a) - gamma(1 + 1 / a) ** 2)),
        "VonMises": (m, 1 - iv(1, b) / iv(0, b)),  # the circular variance
        "Bernoulli": (p, p * (1 - p)),
        "Geometric": ((1 - p) / p, (1 - p) / p**2),
        "NegativeBinomial": (a * p / (1 - p), a * p / (1 - p) ** 2),
        "Dirichlet": (c / total, c / total * (1 - c / total) / (total + 1)),
        "MVNormal": (w, F @ F.T),
    }[name]


@pytest.mark.parametrize("page", PAGES)
def test_each_row_names_the_distribution_of_its_letters(torch, tfp, float64, page):
    import tensorflow as tf
    from scipy import stats

    lesson = lessons.load(page, until="languages-read")
    assert len(lesson["ROWS"]) == 12
    for name, codes in lesson["ROWS"].items():
        mean, variance = moments(name, OTHER)
        scipys = eval(codes[0], vars(stats) | OTHER | {"np": np})
        tensors = {k: tf.constant(v, tf.float64) for k, v in OTHER.items()}
        tfps = eval(codes[1], vars(tfp.distributions) | tensors)
        torchs = eval(codes[2], vars(torch.distributions) | {k: torch.as_tensor(v) for k, v in OTHER.items()})
        found = {"SciPy": scipys.mean if name == "MVNormal" else scipys.mean()}
        found |= {"TFP": tfps.mean().numpy(), "PyTorch": torchs.mean.numpy()}
        if name != "VonMises":  # (SciPy's and TFP's variance of it is another)
            spread = {"SciPy": scipys.cov if name == "MVNormal" else scipys.var()}
            mvn = name == "MVNormal"
            spread["TFP"] = (tfps.covariance() if mvn else tfps.variance()).numpy()
            spread["PyTorch"] = (torchs.covariance_matrix if mvn else torchs.variance).numpy()
            for tool, value in spread.items():
                np.testing.assert_allclose(value, variance, rtol=1e-9, err_msg=f"{name} in {tool}")
        else:
            np.testing.assert_allclose(torchs.variance, variance, rtol=1e-6)
            for log in (scipys.logpdf, tfps.log_prob):
                place = float(log(np.float64(0.7))) - float(log(np.float64(OTHER["m"])))
                assert place == pytest.approx(OTHER["b"] * (np.cos(0.7 - OTHER["m"]) - 1), rel=1e-9)
        for tool, value in found.items():
            np.testing.assert_allclose(value, mean, rtol=1e-9, atol=1e-12, err_msg=f"{name} in {tool}")


@pytest.mark.parametrize("page", PAGES)
def test_the_table_shows_what_was_compared(page):
    (output,) = cell(page, "density-table").outputs
    lines = output.data["text/markdown"].splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:]]
    lesson = lessons.load(page, until="languages-read")
    for name, scipys, others, verdict in rows:
        codes = [scipys, *others.split(", `" if name == "MVNormal" else "no such")]
        codes = [code.strip("`") for code in codes]
        assert codes == list(dict.fromkeys(lesson["ROWS"][name])), name
        assert (len(codes) == 3) == (name == "MVNormal")
        off = re.fullmatch(r"(\S+) off", verdict)
        assert bool(off) == (name == "VonMises" and tool_of(page) == "pytorch"), name
        assert off or verdict == "within 1e-14", name
        if off:
            assert 1e-9 < float(off[1]) < 1e-6
    assert [name for name, *_ in rows] == list(lesson["ROWS"])


@pytest.mark.parametrize("page", PAGES)
def test_the_density_of_each_row_is_the_recorded_one(torch, float64, page):
    # From PyTorch's classes, called by name. (Von Mises is checked above.)
    td, record = torch.distributions, records.load(page)
    known = lessons.load(page, until="languages")["KNOWN"]
    m, s, a, b, p, c, w, F = (torch.as_tensor(known[k]) for k in "msabpcwF")
    whole, places = torch.tensor([0.0, 1.0]), torch.tensor([0.3, 0.9, 1.6])
    expected = {
        "Normal": (td.Normal(loc=m, scale=s), places),
        "Exponential": (td.Exponential(rate=b), places),
        "Gamma": (td.Gamma(concentration=a, rate=b), places),
        "LogNormal": (td.LogNormal(loc=m, scale=s), places),
        "StudentT": (td.StudentT(df=a, loc=m, scale=s), places),
        "Weibull": (td.Weibull(concentration=a, scale=s), places),
        "Bernoulli": (td.Bernoulli(probs=p), whole),
        "Geometric": (td.Geometric(probs=p), whole),
        "NegativeBinomial": (td.NegativeBinomial(total_count=a, probs=p), whole),
        "Dirichlet": (td.Dirichlet(concentration=c), torch.tensor([0.2, 0.5, 0.3])),
        "MVNormal": (td.MultivariateNormal(w, covariance_matrix=F @ F.T), torch.tensor([0.5, 1.0])),
    }
    for name, (distribution, x) in expected.items():
        np.testing.assert_allclose(record[f"density_{name}"], distribution.log_prob(x), rtol=1e-12)


@pytest.mark.parametrize("page", PAGES)
def test_a_bare_number_is_a_probability_in_one_tool_and_a_logit_in_the_other(torch, tfp, page):
    said = cell(page, "types").source
    assert "a bare `Bernoulli(0.3)` means a probability in PyTorch, but in TFP a *logit*" in said
    assert torch.distributions.Bernoulli(0.3).probs.item() == pytest.approx(0.3)
    found = tfp.distributions.Bernoulli(0.3).probs_parameter().numpy()
    assert found == pytest.approx(1 / (1 + np.exp(-0.3)))
    assert "Without names, Weibull's two change places between TFP and PyTorch." in said
    theirs = tfp.distributions.Weibull(2.0, 3.0), torch.distributions.Weibull(3.0, 2.0)
    assert float(theirs[0].concentration) == float(theirs[1].concentration) == 2
    assert float(theirs[0].scale) == float(theirs[1].scale) == 3


@pytest.mark.parametrize("page", PAGES)
def test_what_becomes_of_a_python_number_and_of_an_array(torch, tfp, float64, page):
    from scipy import stats

    said = cell(page, "types").source
    assert "Beside a tensor, a Python number takes the tensor's type." in said
    assert tfp.distributions.Normal(np.zeros(2), 1.0).dtype.name == "float64"
    narrow = torch.zeros(2, dtype=torch.float32)
    assert torch.distributions.Normal(narrow, 1.0).sample().dtype == torch.float32
    assert "Alone, it becomes float32 in TFP and the default type in PyTorch." in said
    assert tfp.distributions.Normal(0.0, 1.0).dtype.name == "float32"
    assert torch.distributions.Normal(0.0, 1.0).sample().dtype == torch.float64
    assert "What `geom(p)` says of 4 throws, the others say of 3 failures." in said
    four, three = stats.geom(0.2).logpmf(4), torch.distributions.Geometric(torch.tensor(0.2))
    assert three.log_prob(torch.tensor(3.0)) == pytest.approx(four)
    assert "The last row's longer name is TFP's" in said
    assert hasattr(tfp.distributions, "MultivariateNormalTriL")
    assert not hasattr(torch.distributions, "MultivariateNormalTriL")
    known = tfp.distributions.MultivariateNormalTriL([0.0, 0.0], np.linalg.cholesky([[4, 2], [2, 5]]))
    np.testing.assert_allclose(known.covariance(), [[4, 2], [2, 5]], rtol=1e-6)
    assert "most of PyTorch's classes refuse an array of NumPy's" in said
    lesson, refused = lessons.load(page, until="languages-read"), []
    arrays = {k: np.full(2, v) if np.isscalar(v) else v for k, v in lesson["KNOWN"].items()}
    for name, codes in lesson["ROWS"].items():
        try:
            eval(codes[2], vars(torch.distributions) | arrays)
        except (AttributeError, TypeError, ValueError):
            refused.append(name)
    assert len(refused) > 6


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_which_rows_change_on_the_way_from_scipy(page):
    said = cell(page, "density-read").source
    rows = lessons.load(page, until="languages-read")["ROWS"]
    for name, (scipys, tfps, torchs) in rows.items():
        # What stands for a number in SciPy's call and not in the others'.
        letters = [re.findall(r"\b[msabpcwF]\b", code.partition("(")[2]) for code in (scipys, tfps)]
        changed = "/" in scipys or "np.exp" in scipys or "1 - p" in scipys or "@" in scipys
        assert changed == (name in ("Exponential", "Gamma", "LogNormal", "NegativeBinomial", "MVNormal"))
        if name == "VonMises":
            assert letters[0] == letters[1][::-1]
        elif not changed:
            assert letters[0] == letters[1]
        assert (tfps != torchs) == (name == "MVNormal")
    for words in (
        "A scale becomes a rate (Exponential, Gamma) or loses its `exp` (LogNormal)",
        "the negative binomial's $p$ becomes its complement",
        "a covariance its factor $F$",
        "Von Mises's arguments change places",
    ):
        assert words in said
    assert "TFP and PyTorch write eleven of them the same way" in cell(page, "density").source


def test_pytorchs_bessel_function_has_coefficients_of_few_digits(torch):
    assert "with coefficients of at most eight digits" in cell(PAGES[2], "density-off").source
    coefficients = torch.distributions.von_mises._I0_COEF_SMALL + torch.distributions.von_mises._I0_COEF_LARGE
    assert len(coefficients) > 10 and all(float(f"{each:.7e}") == each for each in coefficients)


def test_python_numbers_make_float32_whatever_keras_says(tfp):
    assert printed("08_probability_keras", "density-define") == "Normal(0.0, 1.0) is float32\n"


# Draws


@pytest.mark.parametrize("page", PAGES)
def test_the_slopes_are_those_on_paper(page):
    E = np.random.default_rng(0).standard_normal(2000)
    z = 1 + E / 2
    m = {"path": 2 * z, "score": z**2 * E * 2}
    s = {"path": 2 * z * E, "score": z**2 * (E**2 - 1) * 2}
    expected = np.array([m["path"], s["path"], m["score"], s["score"]])
    np.testing.assert_allclose(records.load(page)["slopes"], expected, rtol=1e-10, atol=1e-12)
    paper, *both, times = printed(page, "draw-run").splitlines()
    assert times.startswith("for the same error, the score needs about")
    assert numbers(paper) == [2, 1]
    error = 2000**0.5
    for line, name in zip(both, ("path", "score"), strict=True):
        told = [m[name].mean(), m[name].std() / error, s[name].mean(), s[name].std() / error]
        assert line.split()[0] == name and numbers(line) == pytest.approx(told, abs=6e-4)
        for mean, off, truth in ((*told[:2], 2), (*told[2:], 1)):
            assert abs(mean - truth) < 3 * off
    ratios = [(by["score"].std() / by["path"].std()) ** 2 for by in (m, s)]
    assert numbers(times) == [round(ratio) for ratio in ratios] and min(ratios) > 5
    # The means of so many draws could be off: by integration, too.
    x, weight = np.polynomial.hermite_e.hermegauss(40)
    weight = weight / weight.sum()
    z = 1 + x / 2
    spread = [np.sum(weight * f**2) - np.sum(weight * f) ** 2 for f in (z**2 * x * 2, 2 * z)]
    assert 10 < spread[0] / spread[1] < 30


@pytest.mark.parametrize("page", PAGES)
def test_the_picture_of_the_slopes_has_each_in_its_colour(page):
    alt, drawn = picture(page, "draw-picture")
    slopes = dict(zip(["path m", "path s", "score m", "score s"], records.load(page)["slopes"], strict=True))
    for name, letter in itertools.product(("path", "score"), "ms"):
        mean = slopes[f"{name} {letter}"]
        assert f"{name}, by {letter}, from {mean[:10].mean():.2f} to {mean.mean():.2f}" in alt
    colours = dict(re.findall(r"line: (\w+) \| (#\w+)", "\n".join(drawn)))
    assert colours == {"score": "#E69F00", "path": "#009E73"}


@pytest.mark.parametrize("page", PAGES)
def test_the_differences_know_a_path_from_a_score(page):
    scope = {"slopes": None, "M": 1.0, "S": 0.5, "records": records, "np": np}
    scope["E"] = E = np.random.default_rng(0).standard_normal(2000)
    scope["mean_square"] = lambda m, s, e: np.mean((m + s * e) ** 2)
    z = 1 + E / 2
    right = {"path": [2 * z, 2 * z * E], "score": [2 * z * E, 2 * z]}
    exec(cell(page, "draw-differences").source, scope | {"slopes": right})
    for wrong in ([2 * z, 2 * z], [2 * z + 1e-6, 2 * z * E]):
        with pytest.raises(AssertionError):
            exec(cell(page, "draw-differences").source, scope | {"slopes": right | {"path": wrong}})


def test_a_gradient_passes_where_the_lists_say(torch, tfp, float64):
    import tensorflow as tf

    for page, kind in (("08_probability_keras", 1), ("08_probability_pytorch", 2)):
        lesson, found = lessons.load(page, until="languages-read"), {True: [], False: []}
        for name, codes in lesson["ROWS"].items():
            if kind == 1:
                known = {k: tf.constant(v, tf.float64) for k, v in lesson["KNOWN"].items()}
                with tf.GradientTape() as tape:
                    tape.watch(list(known.values()))
                    drawn = eval(codes[1], vars(tfp.distributions) | known).sample(3, seed=1)
                    drawn = tf.cast(drawn, tf.float64)
                passes = any(g is not None for g in tape.gradient(drawn, list(known.values())))
            else:
                known = {k: torch.tensor(v, requires_grad=True) for k, v in lesson["KNOWN"].items()}
                try:
                    drawn = eval(codes[2], vars(torch.distributions) | known).rsample([3])
                    passes = drawn.requires_grad
                except NotImplementedError:
                    passes = False
            found[passes].append(name)
        lines = printed(page, "draw-tool-run").partition("a gradient passes: ")[2]
        yes, no = lines.split("none passes: ")
        assert [re.findall(r"\w+", each) for each in (yes, no)] == [found[True], found[False]]
    assert "VonMises" in no and "VonMises" not in yes, "of PyTorch, as its page says"


def test_counts_stand_still_or_jump():
    text = printed("08_probability_numpy", "draw-tool-run")
    moves, stands = text.partition("move with them: ")[2].split("stand, or jump: ")
    assert re.findall(r"\w+", moves) == [*GRADIENT, "VonMises"]
    assert re.findall(r"\w+", stands) == COUNTS
    assert "SciPy's normal, and M + S e: identical" in text


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_which_word_lets_a_gradient_pass(torch, tfp, page):
    import tensorflow as tf

    known = torch.distributions.Normal(torch.tensor(1.0, requires_grad=True), 1.0)
    assert known.rsample().requires_grad and not known.sample().requires_grad
    rate = tf.constant(0.3)
    with tf.GradientTape() as tape:
        tape.watch(rate)
        z = tf.cast(tfp.distributions.Bernoulli(probs=rate).sample(), tf.float32)
    assert tape.gradient(z, rate) is None
    said = cell(page, "draw-read").source
    assert {
        "numpy": "SciPy's draws carry no slopes: the path is ours to write.",
        "keras": "Where it can't, the draw's part is missing, and often nothing complains.",
        "pytorch": "or raises: also for Von Mises, which could move. `sample` lets none through",
    }[tool_of(page)] in said
    if tool_of(page) == "keras":
        # A mixture draws which part it takes, and so has a gradient that lacks a part.
        tfd, m = tfp.distributions, tf.Variable([1.0, -1.0])
        weights = tf.Variable([0.2, 0.3])
        with tf.GradientTape() as tape:
            choice = tfd.Categorical(logits=weights)
            mixture = tfd.MixtureSameFamily(choice, tfd.Normal(m, 1.0))
            z = mixture.sample(seed=1)
        assert tape.gradient(z, weights) is None or not np.any(tape.gradient(z, weights))
        assert mixture.reparameterization_type != tfd.FULLY_REPARAMETERIZED
    points = cell(page, "key-points").source
    assert "The score function needs none, and pays with noise (less with a baseline)." in points
    assert {"numpy": "What was drawn is held", "keras": "`sample` in TFP does so for a normal"}.get(
        tool_of(page), "`rsample` does so for a normal, and finds other paths for others. `sample` has none."
    ) in points


# Divergences


@pytest.mark.parametrize("page", PAGES)
def test_the_divergence_is_that_on_paper(page):
    z = 1 + np.random.default_rng(0).standard_normal(2000) / 2
    ratio = -(((z - 1) * 2) ** 2) / 2 - np.log(0.5) + z**2 / 2
    np.testing.assert_allclose(records.load(page)["ratio"], ratio, rtol=1e-9, atol=1e-12)
    known, sampled, error = numbers(printed(page, "divergence-run"))
    assert known == round((1 + 0.25 - 1 - np.log(0.25)) / 2, 4)
    assert [sampled, error] == pytest.approx([ratio.mean(), ratio.std() / 2000**0.5], abs=6e-5)
    assert abs(sampled - known) < 3 * error


@pytest.mark.parametrize("tool", ["keras", "pytorch"])
def test_the_pairs_that_have_no_formula(torch, tfp, float64, tool):
    lines = printed(f"08_probability_{tool}", "divergence-tool").splitlines()[1:]
    said = {line.split(":")[0]: "known" in line for line in lines}
    td = tfp.distributions if tool == "keras" else torch.distributions
    for name, (one, other) in {
        "StudentT": ((3.0, 0.0, 1.0), (4.0, 0.0, 1.0)),
        "VonMises": ((0.0, 1.0), (0.0, 2.0)),
        "LogNormal": ((0.0, 1.0), (0.0, 2.0)),
        "Gamma": ((2.0, 1.0), (3.0, 2.0)),
    }.items():
        make = getattr(td, name)
        number = float if tool == "keras" else torch.tensor
        try:
            td.kl_divergence(make(*map(number, one)), make(*map(number, other)))
            known = True
        except NotImplementedError:
            known = False
        assert said.pop(name) == known, name
    assert not said


def test_three_functions_are_called_kl():
    from scipy import special, stats

    p, q = np.array([1, 2, 1]), np.array([2, 2, 4])
    by_hand = {"rel_entr": (p * np.log(p / q)).sum(), "kl_div": (p * np.log(p / q) - p + q).sum()}
    by_hand["entropy"] = np.log(2) / 4
    lines = printed("08_probability_numpy", "names-run").splitlines()[:3]
    for line, (name, counts) in zip(lines, by_hand.items(), strict=True):
        assert line.split()[0] == name and numbers(line) == [round(counts, 4), round(np.log(2) / 4, 4)]
    assert special.kl_div(p / 4, q / 8).sum() == pytest.approx(special.rel_entr(p / 4, q / 8).sum())
    assert stats.entropy(p, q) == pytest.approx(np.log(2) / 4)


def test_keras_cuts_counts_at_one(tfp):
    import keras

    lines = printed("08_probability_keras", "names-run").splitlines()
    p, q = np.array([1.0, 2.0, 1.0]), np.array([2.0, 2.0, 4.0])
    assert abs(float(keras.losses.kl_divergence(p, q))) == 0
    known = round(np.log(2) / 4, 4)
    assert [numbers(line) for line in lines] == [[0, known], [known, known]]
    assert [line.split()[0] for line in lines] == ["Keras's", "TFP's"]


def test_the_mean_of_pytorchs_kl_is_over_all_numbers():
    lines = printed("08_probability_pytorch", "names-run").splitlines()
    lines = [line for line in lines if "of counts" in line]
    total = np.log(1 / 2) + np.log(1 / 4)
    expected = {"sum": (total, 1), "batchmean": (total, 1), "mean": (total / 3, 1 / 3)}
    for line, (name, (counts, share)) in zip(lines, expected.items(), strict=True):
        told = [round(counts, 4), round(np.log(2) / 4 * share, 4)]
        assert line.split()[0] == name and numbers(line) == told
    warned = numbers(" ".join(re.findall(r"warnings: \d", printed("08_probability_pytorch", "names-run"))))
    assert warned == [0, 0, 2]


# The autoencoder: trained once more, by PyTorch's functions alone


def parts(torch, params, X, e):
    W1, b1, W2, b2, W3, b3, W4, b4 = params
    m, r = (torch.relu(X @ W1 + b1) @ W2 + b2).split(2, dim=1)
    D = torch.relu((m + (r / 2).exp() * e) @ W3 + b3) @ W4 + b4
    black = torch.nn.functional.binary_cross_entropy_with_logits(D, X, reduction="none")
    return black.sum(dim=1).mean(), ((m**2).sum() + (r.exp() - r - 1).sum()) / 2 / len(X)


@pytest.fixture(scope="module")
def train(torch, numpys):
    X = torch.from_numpy(numpys["x_train"].reshape(4000, 784) / 255)

    def train(noise, weight=1.0):
        params = [torch.tensor(w, requires_grad=True) for w in numpys["start"]]
        adam, losses = torch.optim.Adam(params, 0.01, (7 / 8, 1023 / 1024), 1e-30), []
        for rows, e in zip(numpys["batches"], torch.from_numpy(noise), strict=False):
            R, K = parts(torch, params, X[rows], e)
            loss = weight * R + K
            losses.append(loss.item())
            adam.zero_grad()
            loss.backward()
            adam.step()
        return losses, [w.detach() for w in params]

    return train


@pytest.fixture(scope="module")
def trained(train, numpys):
    return train(numpys["noise"])


@pytest.fixture(scope="module")
def at_test(torch, numpys):
    X = torch.from_numpy(numpys["x_test"].reshape(1000, 784) / 255)
    e = torch.from_numpy(np.random.default_rng(2).standard_normal((1000, 2)))

    def at_test(params):
        return [float(part) for part in parts(torch, params, X, e)]

    return at_test


@pytest.mark.parametrize("page", PAGES)
def test_the_training_is_that_of_pytorchs_functions(numpys, trained, at_test, torch, page):
    losses, params = trained
    np.testing.assert_allclose(records.load(page)["losses"], losses, rtol=1e-9)
    coins, first, second = printed(page, "train-run").splitlines()
    P = np.clip(numpys["x_train"].reshape(-1, 784).mean(axis=0) / 255, 1e-6, 1 - 1e-6)
    X = numpys["x_test"].reshape(-1, 784) / 255
    flat = -(X @ np.log(P) + (1 - X) @ np.log(1 - P)).mean()
    assert coins == f"784 ln 2 is {784 * np.log(2):.1f}; the mean digit's R {flat:.1f}"
    assert (
        "A coin for each pixel makes $R$ 784 ln 2, the mean digit makes it much less."
        in cell(page, "train").source
    )
    assert at_test(params)[0] + 20 < flat < 784 * np.log(2) / 2
    before = at_test([torch.from_numpy(w) for w in numpys["start"]])
    assert numbers(first) == pytest.approx(before, abs=0.06)
    assert numbers(second) == pytest.approx(at_test(params), abs=0.06)
    assert before[0] == pytest.approx(784 * np.log(2), abs=2) and at_test(params)[0] < 175


def encoded(torch, params, x):
    W1, b1, W2, b2, *_ = params
    m, r = (torch.relu(torch.from_numpy(x.reshape(-1, 784) / 255) @ W1 + b1) @ W2 + b2).split(2, dim=1)
    return m.numpy(), (r / 2).exp().numpy()


def decoded(torch, params, z):
    *_, W3, b3, W4, b4 = params
    return torch.sigmoid(torch.relu(torch.from_numpy(z) @ W3 + b3) @ W4 + b4).numpy()


@pytest.mark.parametrize("page", PAGES)
def test_the_plane_shows_where_the_trained_network_puts_each_digit(numpys, trained, torch, page):
    m, _ = encoded(torch, trained[1], numpys["x_test"])
    alt, drawn = picture(page, "plane-picture")
    for digit in range(10):
        x, y = np.median(m[numpys["y_test"] == digit], axis=0)
        assert re.search(rf"\b{digit} at {x:.1f}, {y:.1f}[;.]", alt), digit
    assert drawn.count("PathCollection: 100") == 10
    # The same digits lie together, and overlap.
    middles = np.array([np.median(m[numpys["y_test"] == k], axis=0) for k in range(10)])
    near = np.linalg.norm(m[:, None] - middles, axis=2).argmin(axis=1)
    assert 0.35 < np.mean(near == numpys["y_test"]) < 0.8


@pytest.mark.parametrize("page", PAGES)
def test_the_points_have_the_colours_of_their_digits(numpys, torch, trained, page):
    m, _ = encoded(torch, trained[1], numpys["x_test"])
    seen, axes = [], mock.MagicMock()
    axes.scatter = lambda x, y, **look: seen.append((np.array([x, y]).T, look["color"]))
    colours = [f"colour {k}" for k in range(10)]
    plt = SimpleNamespace(subplots=lambda **_: (None, axes), get_cmap=lambda name: colours.__getitem__)
    scope = dict(plt=plt, np=np, plotting=mock.MagicMock(), y_test=numpys["y_test"])
    scope |= dict(posterior=lambda params, X: (params(X), None), trained=lambda X: m, X_test=None)
    exec(cell(page, "plane-picture").source, scope)
    for digit, (points, colour) in enumerate(seen):
        assert colour == f"colour {digit}"
        np.testing.assert_array_equal(points, m[numpys["y_test"] == digit])
    texts = {call.args[2]: call.args[:2] for call in axes.text.call_args_list}
    for digit in range(10):
        assert texts[digit] == pytest.approx(np.median(m[numpys["y_test"] == digit], axis=0))


@pytest.mark.parametrize("page", PAGES)
def test_ten_digits_are_drawn_from_the_normal(numpys, trained, torch, page):
    z = np.random.default_rng(2).standard_normal((1000, 2))[:10]
    x, y = numpys["x_test"], numpys["y_test"]
    each = [np.flatnonzero(y == digit)[0] for digit in range(10)]
    m, _ = encoded(torch, trained[1], x)
    again, new = (decoded(torch, trained[1], place).reshape(-1, 28, 28) for place in (m[each], z))
    rows = np.concatenate([x[each] / 255, again, new])
    alt, _ = picture(page, "drawn-picture")
    inks = alt.removeprefix("Digits, the same from m, new ones. Ink: ")
    assert numbers(inks) == [round(digit, 2) for digit in rows.mean(axis=(1, 2))]
    seen, grids = [], mock.Mock()
    grids.image_grid = lambda ax, *given: seen.append(given)
    scope = dict(np=np, trained=None, plotting=grids, m_test=m, x_test=x, y_test=y, e_test=z)
    scope["plt"] = SimpleNamespace(subplots=lambda **_: (None, None))
    scope["pictures"] = lambda params, z: decoded(torch, trained[1], z).reshape(-1, 28, 28)
    exec(cell(page, "drawn-picture").source, scope)
    ((images, columns, names),) = seen
    np.testing.assert_allclose(images, rows, atol=1e-12)
    assert columns == 10 and names[::10] == ["test", "from its m", "new"] and names[9::10] == names[::10]


@pytest.mark.parametrize("page", PAGES)
def test_each_decoded_digit_stands_at_its_place(trained, torch, page):
    corners = np.array([[-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    ink = decoded(torch, trained[1], corners).mean(axis=1)
    alt, _ = picture(page, "grid-picture")
    assert numbers(alt.partition("from the upper left:")[2]) == [round(each, 2) for each in ink]
    seen, axes = [], mock.MagicMock()
    axes.imshow = lambda image, **_: seen.append(image)
    scope = dict(np=np, trained=None, plotting=mock.MagicMock())
    scope["pictures"] = lambda params, z: decoded(torch, trained[1], z).reshape(-1, 28, 28)
    scope["plt"] = SimpleNamespace(subplots=lambda **_: (None, axes))
    exec(cell(page, "grid-picture").source, scope)
    (image,) = seen
    places = np.linspace(-2, 2, 15)
    for row, column in itertools.product((0, 3, 14), (0, 5, 14)):
        expected = decoded(torch, trained[1], np.array([[places[column], places[14 - row]]]))
        here = image[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
        np.testing.assert_allclose(here, expected.reshape(28, 28), atol=1e-12)
    ticks = [call.args for call in (*axes.set_xticks.call_args_list, *axes.set_yticks.call_args_list)]
    assert ticks == [([14, 210, 406], [-2, 0, 2]), ([14, 210, 406], [2, 0, -2])]


@pytest.mark.parametrize("page", PAGES)
def test_a_mean_over_pixels_silences_the_encoder(numpys, train, trained, at_test, torch, page):
    losses, params = train(numpys["noise"][:125], 1 / 784)
    assert len(losses) == 125
    first, second = printed(page, "mean-run").splitlines()
    assert numbers(first) == pytest.approx(at_test(params), abs=0.06)
    assert numbers(first)[1] < 1e-3
    places = np.linspace(-2, 2, 15)
    grid = np.array([[x, y] for x in places for y in places])
    first_epoch = train(numpys["noise"][:125])[1]
    spreads = [decoded(torch, each, grid).std(axis=0).max() for each in (params, first_epoch)]
    assert numbers(second) == pytest.approx(spreads, abs=6e-3)
    assert spreads[0] < 0.1 < 0.3 < spreads[1]


@pytest.mark.parametrize("page", PAGES)
def test_a_noise_that_repeats_hurts_as_the_page_says(numpys, train, at_test, page):
    fresh = numpys["noise"][:125]
    kinds = {"fresh": (125, 32), "same at each step": (1, 32), "one for all digits": (1, 1)}
    tests = []
    for line, (name, shape) in zip(
        printed(page, "repeat-train-run").splitlines(), kinds.items(), strict=True
    ):
        tests.append([])
        for seed in (5, 6, 7):
            noise = np.random.default_rng(seed).standard_normal((*shape, 2)) + 0 * fresh
            tests[-1].append(sum(at_test(train(noise)[1])))
        told = numbers(line.removeprefix(name).replace(" to ", " "))
        assert line.startswith(name) and told == pytest.approx([min(tests[-1]), max(tests[-1])], abs=0.6)
    assert np.ptp(tests[:2]) < 10 and min(tests[2]) > np.max(tests[:2]) + 30
    said = cell(page, "repeat-read").source
    assert "The same noise at each step hardly hurts here" in said
    assert "One $e$ for all digits does hurt: with fresh noise, the network fails." in said


@pytest.mark.parametrize("page", PAGES)
def test_the_check_by_hand_can_fail(page):
    def checked(parts):
        scope = dict(parts=parts, start=[np.ones(2)], X_test=None, e_test=None, records=records, np=np)
        scope |= dict(run=lambda batches, noise: (None, None), batches=[], noise=[], steps=0)
        exec(cell(page, "check-hand").source, scope)

    checked(lambda params, X, e: (784 * np.log(2), 0.0))
    for wrong in ((784 * np.log(2), 0.1), (784 * np.log(2) + 1e-9, 0.0), (2 * 784 * np.log(2), 0.0)):
        with pytest.raises(AssertionError):
            checked(lambda params, X, e, wrong=wrong: wrong)


# Shapes, wrong arguments, seeds


def test_the_shapes_are_those_that_the_tools_give():
    assert printed("08_probability_numpy", "shapes-run").split("\n")[:2] == [
        "sample (5, 3, 2) log-density (5, 3, 2)",
        "as 3 points: (5, 3)",
    ]
    for tool, opened, closed in (("keras", "(", ")"), ("pytorch", "[", "]")):
        text = printed(f"08_probability_{tool}", "shapes-run")
        shapes = re.findall(r"[(\[]([\d, ]*)[)\]]", text)
        assert [each.strip(", ") for each in shapes] == [
            *("3, 2", "", "5, 3, 2", "5, 3, 2"),
            *("3", "2", "5, 3", "5, 3, 2"),
        ]
        assert opened in text and closed in text


@pytest.mark.parametrize("page", PAGES)
def test_three_answers_to_a_wrong_argument(torch, tfp, page):
    import tensorflow as tf
    from scipy import stats

    assert np.isneginf(stats.expon().logpdf(-1)) and np.isnan(stats.norm(0, -1).logpdf(0.3))
    assert np.isneginf(stats.bernoulli(0.3).logpmf(0.3))
    assert tfp.distributions.Exponential(1.0).log_prob(-1.0) == 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        tfp.distributions.Exponential(1.0, validate_args=True).log_prob(-1.0)
    with pytest.raises(ValueError, match="support"):
        torch.distributions.Exponential(1.0).log_prob(torch.tensor(-1.0))
    assert torch.distributions.Exponential(1.0, validate_args=False).log_prob(torch.tensor(-1.0)) == 1
    said = cell(page, "wrong").source
    assert "SciPy says nan or -inf, TFP computes on, whatever comes out, and PyTorch raises" in said
    lines = printed(page, "wrong-run").splitlines()
    answers = [line.split()[1] for line in lines if "{" not in line and "as it comes" not in line]
    assert "raises (unless Python runs with `-O`)" in said
    program = "import torch; d = torch.distributions.Exponential(1.0); print(d.log_prob(torch.tensor(-1.0)))"
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "tensor(1.)\n"
    assert "SciPy raises, too, when it draws, and with densities of vectors." in said
    for raises in (
        lambda: stats.norm(0, -1).rvs(),
        lambda: stats.dirichlet([-1.0, 2.0]),
        lambda: stats.multivariate_normal([0, 0], -np.eye(2)),
    ):
        with pytest.raises(ValueError):
            raises()
    computed = ["1.000", "nan", "-0.611"]
    assert (
        answers
        == {
            "numpy": ["-inf", "nan", "-inf"],
            "keras": computed + ["InvalidArgumentError"] * 3,
            "pytorch": ["ValueError"] * 3 + computed,
        }[tool_of(page)]
    )
    assert computed[2] == f"{0.3 * np.log(0.3) + 0.7 * np.log(0.7):.3f}"


@pytest.mark.parametrize("page", PAGES)
def test_a_seed_inside_repeats_and_a_generator_goes_on(page):
    inside, made = printed(page, "repeat-run").splitlines()
    one, other = re.findall(r"\[([^]]+)\]", inside)
    assert one == other
    first, second = re.findall(r"\[([^]]+)\]", made)
    assert first == one and second != first


# Called back


def test_scipy_calls_our_loss_and_its_gradient_is_right(torch, float64):
    lesson = lessons.load("08_probability_numpy", until="called-back-define", also=["called-back-data"])
    theta = np.random.default_rng(3).normal(0, 0.05, 101770)
    loss, gradient = lesson["loss_and_gradient"](theta)
    there = torch.tensor(theta, requires_grad=True)
    W1, b1, W2, b2 = there.split([100352, 128, 1280, 10])
    X, y = torch.from_numpy(lesson["X"]), torch.from_numpy(lesson["y"]).long()
    S = torch.relu(X @ W1.reshape(784, 128) + b1) @ W2.reshape(128, 10) + b2
    expected = torch.nn.functional.cross_entropy(S, y)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, there.grad.numpy(), atol=1e-12)
    last, best, second = printed("08_probability_numpy", "called-back-count").splitlines()
    for line, (val_loss, accuracy) in {last: numbers(last), best: numbers(best)}.items():
        assert line.split(":")[0] in ("last", "best") and accuracy > 0.9 and val_loss < 0.6
    assert numbers(best)[0] < numbers(last)[0]
    calls, looks = numbers(second)
    assert calls >= looks > 11 and "we called once" in second


@pytest.mark.parametrize("tool", ["keras", "pytorch"])
def test_other_tools_call_back_as_well(torch, tfp, float64, tool):
    from scipy import special

    counted, agreed = printed(f"08_probability_{tool}", "called-back-run").splitlines()
    assert counted.startswith("we called once, ") and numbers(counted)[0] > 10
    assert agreed.startswith("the fit, and SciPy's: within 1e-")
    also = ["called-back-define"]
    lesson, asked = lessons.load(f"08_probability_{tool}", until="arrays", also=also), []
    if tool == "pytorch":
        lesson |= {"theta": torch.ones(2, requires_grad=True), "lbfgs": mock.Mock()}
        asked = [lesson["closure"]().item(), *lesson["theta"].grad.numpy()]
    else:
        import tensorflow as tf

        loss, slopes = lesson["loss_and_gradient"](tf.ones(2, "float64"))
        asked = [float(loss), *slopes.numpy()]
    assert len(lesson["calls"]) == 1
    # At ln a = ln b = 1. (Not at 0: with the shape exactly 1, TFP's slope by it lacks the mean of ln x.)
    ink, a, b = lesson["X_train"].mean(axis=1), np.e, np.e
    log = np.log(ink).mean()
    density = a * np.log(b) - special.gammaln(a) + (a - 1) * log - b * ink.mean()
    slopes = a * (np.log(b) - special.digamma(a) + log), a - b * ink.mean()
    assert asked == pytest.approx([-density, *(-slope for slope in slopes)])


# Noise of its own


@pytest.mark.parametrize("tool", TOOLS)
def test_a_network_with_noise_of_its_own_learns_as_well(tool, trained, at_test, train, numpys):
    R, K = numbers(printed(f"08_probability_{tool}", "own-run").partition(":")[2])
    first = at_test(train(numpys["noise"][:125])[1])
    assert [R, K] == pytest.approx(first, rel=0.12)


def test_a_network_that_draws_gets_other_noise_at_each_call(torch, tfp, float64):
    import keras

    for tool in ("keras", "pytorch"):
        lesson = lessons.load(f"08_probability_{tool}", until="autoencoder-define")
        net, X = lesson["VAE"](lesson["start"]), lesson["X_train"][:4]
        X = torch.from_numpy(X) if tool == "pytorch" else X
        first, second = (net(X)[0] for _ in range(2))
        assert first != second
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


# In short


def test_the_gain_is_that_of_the_likeliest_gamma_and_normal():
    from scipy import optimize, special

    (x_train, _), (x_test, _) = load_mnist()
    ink, ink_test = (x.mean(axis=(1, 2)) / 255 for x in (x_train, x_test))
    # Gamma: ln a - digamma(a) is the logarithm of the mean less the mean of the logarithms.
    excess = np.log(ink.mean()) - np.log(ink).mean()
    a = optimize.brentq(lambda a: np.log(a) - special.digamma(a) - excess, 0.1, 100)
    b = a / ink.mean()
    gamma = a * np.log(b) - special.gammaln(a) + (a - 1) * np.log(ink_test) - b * ink_test
    spread = ink.std()
    normal = -(((ink_test - ink.mean()) / spread) ** 2) / 2 - np.log(spread) - np.log(2 * np.pi) / 2
    gain = gamma - normal
    expected = [a, b, gamma.mean(), normal.mean(), gain.mean(), gain.std() / len(gain) ** 0.5]
    assert gain.mean() > 3 * expected[-1]
    for page in PAGES:
        said = numbers(printed(page, "in-short-draw" if "torch" in page else "in-short-fit"))
        assert said == pytest.approx(expected, abs=0.06, rel=1e-3)
        assert said[2:] == pytest.approx(expected[2:], abs=1.1e-3)


def test_seven_of_twelve_fit_themselves_in_tfp(tfp):
    import tensorflow as tf

    rows, fits = lessons.load("08_probability_keras", until="languages-read")["ROWS"], []
    for name, codes in rows.items():
        made = getattr(tfp.distributions, codes[1].partition("(")[0])
        x = {
            "Dirichlet": [[0.2, 0.8], [0.5, 0.5], [0.7, 0.3]],
            "MVNormal": [[0.0, 1.0], [1.0, 0.5], [2.0, 2.5]],
        }
        try:
            made.experimental_fit(
                tf.constant(x.get(name, [0.0, 1.0, 1.0] if name in COUNTS else [0.2, 0.5, 0.9]))
            )
            fits.append(name)
        except NotImplementedError:
            pass
    assert len(fits) == 7
    assert (
        "`experimental_fit`, for seven of our twelve" in cell("08_probability_keras", "ledger-table").source
    )


@pytest.mark.parametrize("page", PAGES)
def test_all_points_of_the_plane_are_in_sight(numpys, trained, torch, page):
    m, _ = encoded(torch, trained[1], numpys["x_test"])
    (xlim, ylim) = re.findall(r"lim=\(([-.\d]+), ([-.\d]+)\)", cell(page, "plane-picture").source)
    for values, (low, high) in zip(m.T, (xlim, ylim), strict=True):
        assert float(low) < values.min() and values.max() < float(high)


def test_tfps_step_has_somewhat_more_operations(tfp):
    assert "of which TFP's way has somewhat more" in cell("08_probability_keras", "measure-read").source
    also = ["measure-define", "measure-timer"]
    lesson = lessons.load("08_probability_keras", until="train-define", also=also)
    counts = [
        len(lesson["step_timer"](losses).get_concrete_function().graph.get_operations())
        for losses in (lesson["by_formula"], lesson["VAE"].call)
    ]
    assert counts[0] < counts[1] < 1.5 * counts[0]


def test_the_best_weights_are_those_of_the_best_validation_loss():
    from scipy.special import log_softmax

    also = [f"called-back-{part}" for part in ("data", "define", "note", "run")]
    lesson = lessons.load("08_probability_numpy", until="arrays", also=also)
    _, best, _ = printed("08_probability_numpy", "called-back-count").splitlines()
    W1, b1, W2, b2 = np.split(lesson["best"]["theta"], [100352, 100480, 101760])
    scores = [
        np.maximum(X @ W1.reshape(784, 128) + b1, 0) @ W2.reshape(128, 10) + b2
        for X in (lesson["X_val"], lesson["X_test"])
    ]
    val_loss = -log_softmax(scores[0], axis=1)[np.arange(400), lesson["y_val"]].mean()
    told = [val_loss, np.mean(scores[1].argmax(axis=1) == lesson["y_test"])]
    assert numbers(best) == pytest.approx(told, abs=2e-3)
