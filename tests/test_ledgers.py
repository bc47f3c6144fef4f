"""The ledgers of lessons 1 and 2 say of each owner what the tools show here, when they are asked again."""

import contextlib
import inspect
import os
import re
import subprocess
import sys
import weakref

import numpy as np
import pytest

from helpers import ROOT, THREADS, lessons

LESSONS = ("01_matmul", "02_gradient", "04_optimizers")
LEDGERS = ("01_matmul", "02_gradient", "03_mlp", "04_optimizers", "05_custom_training", "06_convolution")
LEDGERS += ("07_recurrence", "08_probability")
LEDGERS += ("10_deployment",)
MODULES = {"numpy": "numpy", "keras": "tensorflow", "pytorch": "torch"}


def ledger(name):
    """The owner of each stage, as the table of a lesson says."""
    (table,) = (cell.source for cell in lessons.cells(name) if cell.id == "ledger-table")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[part.strip() for part in line.strip("| ").split(" | ")] for line in lines[2:]]
    return {stage: owner for stage, owner, _ in rows}


def kind(owner):
    """The word for an owner, whatever is said besides."""
    for word in ("nobody", "ours; in a Keras layer", "Python", "the tape"):
        if owner.startswith(word):
            return word
    if re.search(r"on request|or ours|unless we|if we|if a tape|when we", owner):
        return "on request"
    assert owner.startswith(("ours", "the tool's")), owner
    return "ours" if owner.startswith("ours") else "the tool's"


def refuses(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception:
        return True
    return False


def noted(outside, inside):
    """Whose it is to note what a derivative needs, given whether it is there without asking, and with."""
    return "the tool's" if outside else "on request" if inside else "ours"


# What a tool says of its threads after the lines of Setup; TensorFlow says nothing, so its process is asked.
SAYS_THREADS = {
    "numpy": "import threadpoolctl; print({pool['num_threads'] for pool in threadpoolctl.threadpool_info()})",
    "keras": "L = tf.ones((512, 512)); L @ L; import psutil; print(psutil.Process().num_threads())",
    "pytorch": "print(torch.get_num_threads())",
}


def threads_are(tool):
    """Whose it is to choose the threads: Setup asks for one, then for two, and that shows, or not."""
    (setup,) = (cell.source for cell in lessons.cells(f"01_matmul_{tool}") if cell.id == "setup-imports")
    started = []
    for number in ("1", "2"):
        source = re.sub(r'(setdefault\("OMP_NUM_THREADS", )"1"', rf'\1"{number}"', setup)
        assert tool == "keras" or number in re.findall(r'"(\d)"', source)  # Keras's Setup asks by a helper
        # OpenBLAS asks for its own variable first, so these are taken away where Setup's line asks.
        env = {name: value for name, value in os.environ.items() if name not in THREADS}
        env |= dict.fromkeys(THREADS, number) if tool == "keras" else {}
        command = [sys.executable, "-c", f"{source}\n{SAYS_THREADS[tool]}"]
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
    one, two = (process.communicate(timeout=300)[0] for process in started)
    assert one.strip() and two.strip()
    return "on request" if one != two else "the tool's"


def numpy_product(A, B):
    reserved, holders = np.empty_like(A), sys.getrefcount(A)
    again = A @ B
    held = sys.getrefcount(A) > holders
    assert again.shape == (2, 2)
    return {
        "checked the shapes": "the tool's" if refuses(np.matmul, A, np.ones((3, 2))) else "nobody",
        "converted the types": "the tool's" if not refuses(np.matmul, A.astype("float32"), B) else "ours",
        "allocated memory": "on request" if np.matmul(A, B, out=reserved) is reserved else "the tool's",
        "chose the algorithm": "the tool's" if refuses(np.matmul, A, B, algorithm="plain") else "ours",
        "chose the threads": threads_are("numpy"),
        "noted what a derivative needs": noted(False, held),
        "chose the device": "the tool's" if refuses(A.to_device, "cuda") else "on request",
    }


def keras_product(A, B):
    import keras
    import tensorflow as tf

    halves, box = tf.cast(A, "float32"), tf.Variable(A)
    converted = not refuses(keras.ops.matmul, halves, B) and not refuses(
        keras.layers.Dense(1, dtype="float32"), A
    )
    outside = box @ B
    with tf.GradientTape(persistent=True) as tape:
        inside = box @ B

    def placed(name):
        with tf.device(name):
            return A @ B

    tf.config.set_soft_device_placement(False)  # or TensorFlow takes another device, silently
    put = [not refuses(placed, "CPU:0"), refuses(placed, "GPU:99")]
    tf.config.set_soft_device_placement(True)
    types = "ours; in a Keras layer" if refuses(tf.matmul, halves, B) and converted else "the tool's"
    return {
        "checked the shapes": "the tool's" if refuses(tf.matmul, A, tf.ones((3, 2), "float64")) else "nobody",
        "converted the types": types,
        "allocated memory": "the tool's" if refuses(tf.matmul, A, B, out=box) else "on request",
        "chose the algorithm": "the tool's" if refuses(tf.matmul, A, B, algorithm="plain") else "ours",
        "chose the threads": threads_are("keras"),
        "noted what a derivative needs": noted(
            *(tape.gradient(y, box) is not None for y in (outside, inside))
        ),
        "chose the device": "on request" if all(put) else "the tool's",
    }


def pytorch_product(A, B):
    import torch

    reserved = torch.empty_like(A)
    put = [(A.to(place) @ B.to(place)).device.type == place for place in ("meta", "cpu")]
    put.append(refuses(A.to, "cuda:99"))
    products = (A @ B, A.clone().requires_grad_() @ B)
    return {
        "checked the shapes": "the tool's"
        if refuses(torch.matmul, A, torch.ones(3, 2).double())
        else "nobody",
        "converted the types": "ours" if refuses(torch.matmul, A.float(), B) else "the tool's",
        "allocated memory": "on request" if torch.matmul(A, B, out=reserved) is reserved else "the tool's",
        "chose the algorithm": "the tool's" if refuses(torch.matmul, A, B, algorithm="plain") else "ours",
        "chose the threads": threads_are("pytorch"),
        "noted what a derivative needs": noted(*(product.grad_fn is not None for product in products)),
        "chose the device": "on request" if all(put) else "the tool's",  # it stays where we put it
    }


PRODUCTS = {"numpy": numpy_product, "keras": keras_product, "pytorch": pytorch_product}


@pytest.mark.parametrize("tool", MODULES)
def test_the_ledgers_of_lesson_1_say_what_is_measured(tool):
    pytest.importorskip(MODULES[tool])
    lesson = lessons.load(f"01_matmul_{tool}", until="product-arrays")
    measured = PRODUCTS[tool](lesson["A"], lesson["B"])
    said = ledger(f"01_matmul_{tool}")
    assert len(said) == len(measured)
    for stage, owner in measured.items():
        (full,) = (each for each in said if each.startswith(stage))
        assert kind(said[full]) == owner, stage


def numpy_gradient(lesson):
    x = lesson["Value"](2.0)
    c = x**2
    y = c + 1
    pull, c_alive = c.parents[0][1], weakref.ref(c)
    ours = {function.__globals__ is lesson for function in (pull, lesson["add"], lesson["gradients"])}
    del c
    kept = c_alive() is not None
    del y
    owner = "ours" if ours == {True} and kept else "the tool's"
    return {
        "rules": owner,
        "notes": owner if not hasattr(np.ones(2) * 2, "parents") else "the tool's",
        "gradient": owner,
        "memory": "the tool's" if c_alive() is None else "ours",  # no line of ours has freed it
    }


def keras_gradient(lesson):
    import tensorflow as tf
    from tensorflow.python.framework.ops import get_gradient_function

    x = tf.Variable(2.0)

    def run(recorder):
        with recorder:
            e = tf.exp(x)
            y = e * e
        return weakref.ref(e), y

    tape = tf.GradientTape()
    (alive, y), (without, unnoted) = run(tape), run(contextlib.nullcontext())
    kept = alive() is not None and without() is None
    slope = tape.gradient(y, x)
    freed = kept and alive() is None and refuses(tape.gradient, y, x)
    with tf.GradientTape() as late:
        pass
    graph = tf.function(lesson["f"]).get_concrete_function(tf.TensorSpec((), "float64")).graph
    rules = [get_gradient_function(op) for op in graph.get_operations() if op.type == "Mul"]
    tools = all(inspect.isfunction(rule) and rule.__module__.startswith("tensorflow") for rule in rules)
    return {
        "rules": "the tool's" if rules and tools else "ours",
        "notes": noted(late.gradient(unnoted, x) is not None, slope is not None),
        "gradient": "on request" if slope is not None else "ours",
        "memory": "the tool's" if freed else "ours",
    }


def pytorch_gradient(lesson):
    import torch

    x = torch.tensor(2.0, requires_grad=True)
    square = (x**2).grad_fn
    derived = square(torch.tensor(1.0)).item() == 4
    y, unnoted = x**2, torch.tensor(2.0) ** 2
    before = x.grad
    y.backward()
    asked = before is None and x.grad.item() == 4
    return {
        "rules": "the tool's" if derived and not inspect.isfunction(square) else "ours",
        "notes": noted(unnoted.grad_fn is not None, y.grad_fn is not None),
        "gradient": "on request" if asked else "the tool's",
        "memory": "the tool's" if refuses(y.backward) else "ours",
    }


GRADIENTS = {"numpy": numpy_gradient, "keras": keras_gradient, "pytorch": pytorch_gradient}


@pytest.mark.parametrize("tool", MODULES)
def test_the_ledgers_of_lesson_2_say_what_is_measured(tool, capsys):
    pytest.importorskip(MODULES[tool])
    until = "walk-define" if tool == "numpy" else "record-run"
    lesson = lessons.load(f"02_gradient_{tool}", until=until, also=["ledger-order-run"])
    measured = GRADIENTS[tool](lesson)
    # A probe on each letter has said whose code waits while the walk passes it.
    waiting = re.findall(r"waiting: (.+)", capsys.readouterr().out)
    assert len(waiting) == 4
    measured["order"] = "ours" if set(waiting) == {"ours"} else "the tool's"
    said = ledger(f"02_gradient_{tool}")
    assert {stage: kind(owner) for stage, owner in said.items()} == measured


def numpy_optimizers():
    """NumPy has no optimizer: what the page uses, it defines."""
    lesson = lessons.load("04_optimizers_numpy", until="clipping-define", also=["schedules-drop"])
    made = ("Optimizer", "SGD", "Adam", "decoupled", "clipped", "dropping")
    defined = all(lesson[kind].__module__ == "04_optimizers_numpy" for kind in made)
    return dict.fromkeys(ledger("04_optimizers_numpy"), "ours" if defined else "the tool's")


def keras_optimizers():
    import keras

    w = keras.Variable(np.ones(3))
    zero, ten = keras.ops.zeros(3), 10 * keras.ops.ones(3)

    def moved(optimizer, gradient):
        w.assign(np.ones(3))
        optimizer.apply([gradient], [w])
        return 1 - w.numpy()[0]

    adam = keras.optimizers.Adam()
    counted = int(adam.iterations), moved(adam, ten) != 0, int(adam.iterations)
    drop = keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01]))
    steps = [moved(drop, ten) for _ in range(2)]
    clipped = moved(keras.optimizers.SGD(1.0, global_clipnorm=1.0), ten)
    decayed = moved(keras.optimizers.SGD(0.1, weight_decay=0.1), zero)

    class Asked(keras.optimizers.SGD):
        def update_step(self, *arguments):
            asked.append(self)
            super().update_step(*arguments)

    asked, model = [], keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(Asked(), "mse", run_eagerly=True)
    model.fit(np.ones((4, 3)), np.ones((4, 1)), batch_size=2, verbose=0)
    return {
        "memory": "the tool's" if len(adam.variables) == 4 else "ours",  # m, v, the count and the rate
        "count of the steps": "the tool's" if counted == (0, True, 1) else "ours",
        "formula": "the tool's" if len(asked) == 4 else "on request",  # two arrays, two steps
        "decay": "the tool's" if np.isclose(decayed, 0.01) else "ours",
        "schedule": "the tool's" if np.allclose(steps, [1, 0.1]) else "on request",
        "clipping": "the tool's" if np.isclose(clipped, 3**-0.5) else "ours",
        "checkpoint": "on request" if hasattr(adam, "save_own_variables") else "ours",
    }


def pytorch_optimizers():
    import torch

    def moved(kind, gradient, **options):
        w = torch.ones(3)
        optimizer, w.grad = kind([w], **options), torch.full((3,), gradient)
        unasked = w.clone()
        optimizer.step()
        assert (unasked == 1).all()
        return 1 - w[0].item(), optimizer

    _, adam = moved(torch.optim.Adam, 10.0, lr=0.1)
    (state,) = adam.state.values()
    by_ten, sgd = moved(torch.optim.SGD, 10.0, lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, [1])
    sgd.step()
    before = sgd.param_groups[0]["lr"]
    schedule.step()
    asked = before == 0.1 and np.isclose(sgd.param_groups[0]["lr"], 0.01)
    decayed, _ = moved(torch.optim.SGD, 0.0, lr=0.1, weight_decay=0.1)
    return {
        "memory": "the tool's" if {"exp_avg", "exp_avg_sq"} <= state.keys() else "ours",
        "count of the steps": "the tool's" if state["step"] == 1 else "ours",
        "formula": "on request" if np.isclose(by_ten, 1) else "ours",
        "decay": "the tool's" if np.isclose(decayed, 0.01) else "ours",
        "schedule": "on request" if asked else "the tool's",
        "clipping": "on request" if refuses(moved, torch.optim.SGD, 10.0, max_norm=1.0) else "the tool's",
        "checkpoint": "on request" if adam.state_dict()["state"] else "ours",
    }


OPTIMIZERS = {"numpy": numpy_optimizers, "keras": keras_optimizers, "pytorch": pytorch_optimizers}


@pytest.mark.parametrize("tool", MODULES)
def test_the_ledgers_of_lesson_4_say_what_is_measured(tool):
    pytest.importorskip(MODULES[tool])
    said = ledger(f"04_optimizers_{tool}")
    assert {stage: kind(owner) for stage, owner in said.items()} == OPTIMIZERS[tool]()


STAGES = (
    "loop over the rows",
    "formula of the cell",
    "first weights",
    "way back through the rows",
    "clipping",
    "mask for short digits",
)


def numpy_readers():
    """NumPy has no recurrent layer: what the page uses, it defines."""
    lesson = lessons.load("07_recurrence_numpy", until="gates-back", also=["masks-define"])
    made = ("rnn", "lstm", "draw_start", "rnn_back", "run", "masked")
    defined = all(lesson[name].__module__ == "07_recurrence_numpy" for name in made)
    return dict.fromkeys(STAGES, "ours" if defined else "the tool's")


def keras_readers():
    import keras

    X, Y = np.ones((4, 3, 2)), np.ones((4, 1))
    layer = keras.layers.LSTM(5, dtype="float64")
    asked = layer(X).shape == (4, 5), layer.get_weights()[0].any()

    def moved(**clipping):
        w = keras.Variable(np.zeros(2))
        keras.optimizers.SGD(1.0, **clipping).apply([keras.ops.convert_to_tensor([30.0, 40.0])], [w])
        return float(np.linalg.norm(w))

    model = keras.Sequential([keras.Input((3, 2)), keras.layers.SimpleRNN(5), keras.layers.Dense(1)])
    before = model.get_weights()[1]
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    padded = np.concatenate([X, -np.ones((4, 2, 2))], axis=1)
    masked = [layer(page) for page in (X, padded, keras.layers.Masking(-1.0)(padded))]
    skips = not np.allclose(masked[0], masked[1]) and np.allclose(masked[0], masked[2])
    return {
        "loop over the rows": "the tool's" if asked[0] else "ours",
        "formula of the cell": "the tool's" if asked[0] else "ours",
        "first weights": "the tool's" if asked[1] else "ours",
        "way back through the rows": "the tool's" if (before != model.get_weights()[1]).any() else "ours",
        "clipping": "on request" if moved() > 49 and moved(global_clipnorm=1.0) < 1.01 else "the tool's",
        "mask for short digits": "on request" if skips else "the tool's",
    }


def pytorch_readers():
    import torch

    X = torch.ones(4, 3, 2)
    layer = torch.nn.LSTM(2, 5, batch_first=True)
    states, (h, _) = layer(X)
    loop, drawn = states.shape == (4, 3, 5), layer.weight_hh_l0.any()
    before = layer.weight_hh_l0.grad
    h.sum().backward()
    back = before is None and layer.weight_hh_l0.grad.any()
    w = torch.zeros(2, requires_grad=True)
    (w @ torch.tensor([30.0, 40.0])).backward()
    unclipped = w.grad.norm() > 49
    torch.nn.utils.clip_grad_norm_([w], 1.0)
    padded = torch.cat([X, -torch.ones(4, 2, 2)], dim=1)
    how = dict(batch_first=True, enforce_sorted=False)
    packed = torch.nn.utils.rnn.pack_padded_sequence(padded, torch.full((4,), 3), **how)
    plain, skipped = (layer(page)[1][0] for page in (padded, packed))
    skips = not torch.allclose(h, plain) and torch.allclose(h, skipped)
    return {
        "loop over the rows": "the tool's" if loop else "ours",
        "formula of the cell": "the tool's" if loop else "ours",
        "first weights": "the tool's" if drawn else "ours",
        "way back through the rows": "on request" if back else "the tool's",
        "clipping": "on request" if unclipped and w.grad.norm() < 1.01 else "the tool's",
        "mask for short digits": "on request" if skips else "the tool's",
    }


READERS = {"numpy": numpy_readers, "keras": keras_readers, "pytorch": pytorch_readers}


@pytest.mark.parametrize("tool", MODULES)
def test_the_ledgers_of_lesson_7_say_what_is_measured(tool):
    pytest.importorskip(MODULES[tool])
    said = ledger(f"07_recurrence_{tool}")
    assert {stage: kind(owner) for stage, owner in said.items()} == READERS[tool]()


PROBABILITY = (
    "density of a named distribution",
    "fit by maximum likelihood",
    "path through a draw",
    "divergence of two normals",
    "way back through decoder and encoder",
)


def numpy_drawers():
    """SciPy has the densities and the fit; the rest the page defines."""
    from scipy import stats

    lesson = lessons.load("08_probability_numpy", until="train-define")
    made = all(
        lesson[name].__module__ == "08_probability_numpy" for name in ("path", "divergence", "gradients")
    )
    density = stats.gamma(2.0).logpdf(np.ones((3, 2)))
    fit = stats.gamma.fit(stats.gamma(2.0).rvs(100, random_state=0), floc=0)
    owners = ["on request" if density[0, 0] == -1 else "ours", "on request" if fit[0] > 1 else "ours"]
    owners += ["ours" if made else "the tool's"] * 3
    return dict(zip(PROBABILITY, owners, strict=True))


def keras_drawers():
    import tensorflow as tf
    import tensorflow_probability as tfp

    tfd, m = tfp.distributions, tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(m)
        z = tfd.Normal(m, 1.0).sample(seed=1)
    passes = tape.gradient(z, m) == 1
    fit = tfd.Gamma.experimental_fit(tf.constant([1.0, 2.0, 3.0])).mean()
    known = tfd.kl_divergence(tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0)) == 0
    owners = ["on request" if tfd.Exponential(1.0).log_prob(1.0) == -1 else "ours"]
    owners += ["on request" if abs(fit - 2) < 1e-3 else "ours", "the tool's" if passes else "ours"]
    owners += ["on request" if known else "ours"]
    w = tf.Variable(1.0)
    f = w**2  # before there is a tape
    with tf.GradientTape() as tape:
        g = w**2
    owners += ["on request" if tape.gradient(g, w) == 2 and not hasattr(f, "grad_fn") else "the tool's"]
    return dict(zip(PROBABILITY, owners, strict=True))


def pytorch_drawers():
    import torch

    td = torch.distributions
    known = td.Normal(torch.ones(2, requires_grad=True), 1.0)
    asked = known.rsample().requires_grad and not known.sample().requires_grad
    fits = any("fit" in name for name in dir(td.Gamma))
    same = td.kl_divergence(known, known).sum() == 0
    owners = ["on request" if td.Exponential(1.0).log_prob(torch.tensor(1.0)) == -1 else "ours"]
    owners += ["on request" if fits else "ours", "on request" if asked else "the tool's"]
    owners += ["on request" if same else "ours"]
    known.log_prob(torch.zeros(2)).sum().backward()
    owners += ["on request" if known.loc.grad.any() else "the tool's"]
    return dict(zip(PROBABILITY, owners, strict=True))


DRAWERS = {"numpy": numpy_drawers, "keras": keras_drawers, "pytorch": pytorch_drawers}


@pytest.mark.parametrize("tool", MODULES)
def test_the_ledgers_of_lesson_8_say_what_is_measured(tool):
    pytest.importorskip(MODULES[tool])
    said = ledger(f"08_probability_{tool}")
    assert {stage: kind(owner) for stage, owner in said.items()} == DRAWERS[tool]()


@pytest.mark.parametrize("tool", MODULES)
@pytest.mark.parametrize("lesson", LEDGERS)
def test_the_ledgers_have_one_vocabulary(lesson, tool):
    said = ledger(f"{lesson}_{tool}")
    assert said
    for stage, owner in said.items():
        assert re.fullmatch(r"(ours|on request|the tool's)([,;] .+)?", owner), stage


# Tables in words: who owns what, held above, in lesson 3 against lesson 22; maps of the suite; equations;
# what is claimed on page 22, and which claims speak for a tool, held in test_key_differences.
CLAIMS = "control code handled flexibility ease development weight between results speed guide"
TABLES = {
    ("00_start_here", "spectrum"),
    ("00_start_here", "map"),
    *((f"{name}_{tool}", "ledger-table") for name in LEDGERS for tool in MODULES),
    *((f"02_gradient_{tool}", "hand") for tool in MODULES),
    *((f"03_mlp_{tool}", "gradients") for tool in MODULES),
    ("05_custom_training_numpy", "penalty-why"),
    ("20_equality", "dial-momentum-why"),
    *(("22_key_differences", section) for section in CLAIMS.split()),
}


def test_no_table_of_facts_is_typed():
    typed = set()
    for path in lessons.NOTEBOOKS.glob("*.ipynb"):
        for cell in lessons.cells(path.stem):
            if cell.cell_type == "markdown" and re.search(r"^\|[-| :]+\|$", cell.source, re.MULTILINE):
                typed.add((path.stem, cell.id))
    assert typed == TABLES, "what a tool does, a cell observes and prints"
