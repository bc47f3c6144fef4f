"""Where an equation stands above its line, both say the same.

An equation is read from its LaTeX, and both sides are computed from the same random arrays, each letter its
own, no two lengths equal: an exchanged letter, a transpose, a sign, a sum in the place of a mean give other
numbers. The letters have to come in the same order, too. Nothing here depends on the words around them.
"""

import ast
import contextlib
import functools
import re
from copy import deepcopy
from functools import cache

import numpy as np
import pytest

from helpers import lessons, records, runner
from helpers.records import TOOLS

LESSONS = ("01_matmul", "02_gradient", "03_mlp", "04_optimizers", "05_custom_training")
LESSONS += ("06_convolution", "07_recurrence", "08_probability", "10_deployment", "20_equality")
SINGLE = ("20_equality",)  # of all three tools
PAGES = [f"{lesson}_{tool}" for lesson in LESSONS if lesson not in SINGLE for tool in TOOLS] + [*SINGLE]

# What an equation and its line call by different names. Lesson 3's `w` is any of the matrices W.
LETTERS = {"eta": "learning_rate", "W": "w", "dW": "dw", "lambda": "penalty", "varepsilon": "epsilon"}
CODE = {"LEARNING_RATE": "learning_rate", "RATE": "learning_rate", "rate": "learning_rate"}
CODE |= {"A_list": "A", "B_list": "B", "decay": "penalty"}
CODE |= {"SMOOTH": "s", "FOCUS": "gamma", "PENALTY": "penalty", "MOMENTUM": "mu", "INK": "c"}
CODE |= {"W": "w", "dW": "dw"}  # as in LETTERS
CODE |= {"weight": "omega"}
# The letter of what a function returns.
FUNCTIONS = {"by_hand": "C", "softmax": "P", "cross_entropy": "L"}
# Calls that only hand their argument on: to a tool, or to a number type.
WRAPPERS = {"constant", "from_numpy", "number", "rounded", "float"}

# The letters whose equations are displayed in a lesson, in `$$` or in a table.
DISPLAYED = {
    "01_matmul": "A B C Z1 dA",
    "02_gradient": "H a b c da db dc dx dy nabla s s_prime surface x y",
    "03_mlp": "A1 L P Z1 Z2 dA1 dW1 dW2 dZ1 dZ2 db1 db2 dw w",
    "04_optimizers": "a alpha c f k m m_hat r v v_hat w",
    "05_custom_training": "A A1 L R X Y dZ dZ1 dw m p w",
    "06_convolution": "M Z dA dX db dw r",
    "20_equality": "dP dZ2 m w",
}
DISPLAYED["03_mlp_numpy"] = DISPLAYED["03_mlp"] + " m"  # where softmax takes off the largest logit
DISPLAYED["05_custom_training_numpy"] = (
    DISPLAYED["05_custom_training"] + " D G N S dA1 dG dH dR dS dW1 dW2 dZ2 f"
)


DISPLAYED["07_recurrence"] = "A B P S Z c dS dU dV dZ db dh dv dw f g h i k o r w z"
DISPLAYED["07_recurrence_numpy"] = (
    DISPLAYED["07_recurrence"] + " dA1 dA2 dA3 dB3 dZ1 dZ2 dZ3 dZ4 dc df dg di do dr dz"
)
DISPLAYED["08_probability"] = "A1 A2 B D K L R k s z"
DISPLAYED["08_probability_numpy"] = DISPLAYED["08_probability"] + " dD dW1 dW2 dW3 dW4 dZ1 dZ3 dm dr dz"


DISPLAYED["10_deployment"] = "Q s"

# Here an equation has a form for each tool: it has to say what one of its heading's lines does, and each line
# has to be said by one of them.
FORMS = {"04_optimizers", "07_recurrence", "20_equality"}  # in 07, for each kind of cell


# Reading LaTeX: the subset that the lessons use.

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|[A-Za-z]|[^\s]")
SPACE = {"\\,", "\\;", "\\!", "\\ ", "\\textstyle", "\\displaystyle", "\\left", "\\right"}
RELATIONS = {"=", "\\leftarrow", "\\approx"}
CALLS = {"\\ln": "np.log", "\\log": "np.log", "\\exp": "np.exp", "\\cos": "np.cos", "\\tanh": "np.tanh"}
CALLED = {"softmax", "L", "f_prime", "round", "clip", "sign", "sigma"}
ENDS = {")", "]", "}", ",", "+", "-", "&", "\\\\", "\\end", "<", ">", "|", *RELATIONS}


class Reader:
    """An equation in Python: the letter on its left, with indices, and what stands on its other `sides`.

    On the left of an equation of numbers there is no letter, and all it says are sides.
    """

    def __init__(self, latex):
        self.tokens = [token for token in TOKEN.findall(latex) if token not in SPACE]
        self.latex, self.sizes, self.bars = latex, {}, 0
        self.left, self.indices, self.sides = None, [], []
        if re.match(r"[\d(-]|\\(ln|sqrt|frac\{[^\\])", latex):
            self.sides.append(self.sum())
        else:
            self.left, self.indices = self.name()
            if self.peek() == "(":  # f(x) = ...
                self.group()
        while self.tokens:
            self.take(*RELATIONS)
            self.sides.append(self.sum())
        if not self.sides:
            raise ValueError(f"no equation: {latex}")

    def peek(self):
        return self.tokens[0] if self.tokens else None

    def take(self, *wanted):
        if wanted and self.peek() not in wanted:
            raise ValueError(f"{self.peek()!r} in the place of {' or '.join(wanted)} in {self.latex}")
        return self.tokens.pop(0)

    def group(self):
        """What stands in brackets or is a single token, unread."""
        close = {"{": "}", "(": ")"}.get(self.peek())
        found, depth = [self.take()], 1
        while close and depth:
            found.append(self.take())
            depth += (found[-1] == found[0]) - (found[-1] == close)
        return found[1:-1] if close else found

    def inner(self, tokens, read):
        outer, self.tokens = self.tokens, tokens
        found = read()
        if self.tokens:
            raise ValueError(f"{self.peek()!r} is left over in {self.latex}")
        self.tokens = outer
        return found

    def sum(self):
        sign = self.take() if self.peek() in ("-", "+") else ""
        parts = [sign + self.term()]
        while self.peek() in ("+", "-"):
            parts += [self.take(), self.term()]
        return "(" + " ".join(parts) + ")"

    def term(self):
        found = self.factor()
        while self.tokens and (self.peek() not in ENDS or (self.peek() == "|" and not self.bars)):
            if self.peek() in ("\\cdot", "\\odot", "\\times", "*"):
                self.take()
                found = f"{found} * {self.factor()}"
            elif self.peek() == "/":
                self.take()
                found = f"{found} / {self.factor()}"
            else:  # side by side: a product of matrices, or of numbers
                found = f"times({found}, {self.factor()})"
        return found

    def factor(self):
        base = self.peek()
        found = self.atom() if base != "e" else self.take()
        while self.peek() == "^":
            self.take()
            power = self.group()
            if power in (["\\top"], ["T"]):
                found += ".T"
            else:
                power = self.inner(power, self.sum)
                found = f"np.exp{power}" if found == "e" else f"{found} ** {power}"
        return found

    def atom(self):
        token = self.peek()
        if token.isdigit() or "." in token:
            return self.take()
        if token == "(":
            items = [self.inner(part, self.sum) for part in split(self.group(), ",")]
            return items[0] if len(items) == 1 else f"({', '.join(items)})"
        if token == "[":  # 1 where the condition holds, and 0 elsewhere
            self.take()
            sides, conditions = [self.sum()], []
            while self.peek() in ("<", ">"):
                relation, sides = self.take(), [*sides, self.sum()]
                conditions.append(f"({sides[-2]} {relation} {sides[-1]})")
            self.take("]")
            return f"({' & '.join(conditions)})"
        if token == "|":
            self.take()
            self.bars += 1
            found = f"np.abs({self.sum()})"
            self.bars -= 1
            self.take("|")
            return found
        if token in CALLS:
            self.take()
            return f"{CALLS[token]}({self.factor()})"
        if token == "\\sqrt":
            self.take()
            return f"np.sqrt{self.inner(self.group(), self.sum)}"
        if token in ("\\sum", "\\max", "\\min"):
            return self.over()
        if token == "\\begin":
            return self.matrix()
        if token == "\\frac" and self.tokens[1:3] != ["{", "\\partial"]:
            self.take()
            return "({} / {})".format(*(self.inner(self.group(), self.sum) for _ in range(2)))
        name, indices = self.name()
        if name in CALLED and self.peek() == "(":
            return f"{name}({self.inner(self.group(), self.sum)})"
        return f"{name}[{', '.join(indices)}]" if indices else name

    def over(self):
        """A sum or an extreme: of two arguments, over rows, or over an index."""
        kind, which = self.take()[1:], []
        if self.peek() == "_":
            self.take()
            which = self.group() if self.peek() != "\\text" else [self.take(), *self.group()]
        if not which and kind != "sum":
            return f"most(np.{kind}imum, {self.atom()})"
        body = self.term()
        if which[:1] == ["\\text"]:
            axis = {"rows": "axis=0", "digits": "axis=0", "cols": "axis=1, keepdims=True"}[
                "".join(which[1:]).strip("{}")
            ]
            return f"({body}).{kind}({axis})"
        if not which:
            return f"np.sum({body})"
        loops = " ".join(f"for {index} in range(size['{index}'])" for index in which if index != ",")
        return f"{kind}({body} {loops})"

    def matrix(self):
        self.take(), self.group()
        tokens = self.tokens[: self.tokens.index("\\end")]
        del self.tokens[: len(tokens) + 1]
        self.group()
        rows = [[self.inner(cell, self.sum) for cell in split(row, "&")] for row in split(tokens, "\\\\")]
        return f"np.array([{', '.join('[' + ', '.join(row) + ']' for row in rows)}])"

    def name(self):
        r"""A letter as the code writes it, and its indices: Z_{2,ij} is Z2[i, j], \hat m is m_hat."""
        token = self.take()
        if token == "\\frac":  # dA is short for the derivative of the result with respect to A
            self.group()
            return self.inner(self.group()[1:], lambda: self.subscripts("d" + self.take()))
        if token == "\\hat":
            return "".join(self.group()) + "_hat", []
        if token in ("\\text", "\\mathrm", "\\operatorname"):
            token = "".join(self.group())
        elif token == "d" and self.tokens and self.peek().isalpha():
            token += self.take()
        elif not re.fullmatch(r"\\?[A-Za-z]+", token):
            raise ValueError(f"{token!r} in {self.latex}")
        return self.subscripts(token.lstrip("\\"))

    def subscripts(self, name):
        indices = []
        if self.peek() == "_":
            self.take()
            script = self.group() if self.peek() != "\\text" else [self.take(), *self.group()]
            while script:
                part = script.pop(0)
                if part == "\\text":  # h_\text{old}
                    word, script = "".join(script).strip("{}"), []
                    name += f"_{word}"
                elif part.isdigit():
                    name += part
                elif script[:1] == ["_"]:  # P_{i, y_i}
                    indices.append(f"{part}[{script[1]}]")
                    del script[:2]
                elif script[:1] in (["+"], ["-"]):  # X_{i+u, j}
                    indices.append(f"{part} {script[0]} {script[1]}")
                    del script[:2]
                elif part != ",":
                    indices.append(part)
        if self.peek() == "'":
            self.take()
            name += "_prime"
        name = LETTERS.get(name, name)
        plain = [(place, index) for place, index in enumerate(indices) if index.isidentifier()]
        self.sizes |= {index: f"np.shape({name})[{place}]" for place, index in plain}
        return name, indices


def split(tokens, separator):
    """Cut a list of tokens at a separator that stands outside of all brackets."""
    parts, depth = [[]], 0
    for token in tokens:
        depth += (token in "({[") - (token in ")}]")
        if token == separator and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def times(a, b):
    columns = {np.shape(a)[-1:], np.shape(b)[-1:]} == {(1,)}  # of numbers, one for each row
    return a @ b if np.ndim(a) == np.ndim(b) == 2 and not columns else a * b


def most(extreme, arrays):
    """The extreme of several arrays, each entry its own, or of all numbers of one."""
    if isinstance(arrays, np.ndarray):
        return extreme.reduce(arrays, axis=None)
    return functools.reduce(extreme, arrays)


def softmax(Z):
    E = np.exp(Z)
    return E / E.sum(axis=1, keepdims=True)


# The letters' values. All lengths differ, and each letter is drawn on its own: even those that a lesson
# computes from others.


def values(lesson):
    rng = np.random.default_rng(0)
    n, pixels, hidden, classes = 5, 7, 4, 3
    known = {"n": n}

    def draw(names, *shape):
        known.update({name: rng.uniform(0.3, 1.7, shape) for name in names.split()})

    if lesson == "01_matmul":
        draw("A dA", 2, 4), draw("B", 4, 3), draw("C", 2, 3)
        draw("X", n, pixels), draw("W1", pixels, hidden), draw("b1", hidden), draw("Z1", n, hidden)
    elif lesson == "02_gradient":
        draw("a b c x y da db dc dx dy")
    elif lesson == "04_optimizers":
        draw("w g m v m_hat v_hat a c", 2, 3), draw("learning_rate epsilon t mu rho alpha penalty x y s n")
        known |= {"beta1": 0.9, "beta2": 0.99, "pi": np.pi, "sign": np.sign}
        known["c"] -= 1  # of both signs
    elif lesson == "06_convolution":
        draw("X dX", 8, 7, 2), draw("K", 3, 3, 2, 4), draw("b db", 4), draw("Z dZ", n, 4)
        draw("R", n, pixels), draw("w dw", pixels, 4), draw("A00 A01 A10 A11 M dM dA first", n, 2)
        draw("F", n, 6), draw("W3", 6, classes), draw("b3", classes), draw("Z3", n, classes)
        draw("learning_rate r mu v h L")
    else:
        draw("X", n, pixels), draw("W1 dW1", pixels, hidden), draw("b1 db1", hidden)
        draw("W2 dW2", hidden, classes), draw("b2 db2", classes)
        draw("Z1 A1 dZ1 dA1", n, hidden), draw("Z2 P dZ2", n, classes)
        draw("w dw m", 2, 3), draw("learning_rate h L")
        known["Z1"] -= known["Z1"][0, 0]  # of both signs, and one is 0
        known["y"] = np.array([2, 0, 1, 1, 0])
        known["Y"] = np.eye(classes)[known["y"]]
        known["softmax"] = softmax
    if lesson == "07_recurrence":
        draw("w dw", pixels, hidden), draw("U dU", hidden, hidden), draw("b q db", hidden)
        draw("V dV", hidden, classes), draw("v dv", classes), draw("S P dS", n, classes)
        draw("x", n, pixels), draw("m", n, 1)
        gates = "h h_old c c_old i f g o t z r Z Z1 Z2 Z3 Z4 A A1 A2 A3 B B1 B2 B3"
        draw(gates, n, hidden), draw(" ".join(f"d{each}" for each in gates.split()), n, hidden)
        draw("N theta k")
        known["sigma"] = known["sigmoid"] = lambda Z: 1 / (1 + np.exp(-Z))
    if lesson == "08_probability":
        half, both = 3, 6
        draw("A1 A2 dZ1 dZ3", n, hidden), draw("B dB", n, both), draw("D dD", n, pixels)
        draw("m r s e k z dm dr dz", n, half)
        draw("W1 dW1", pixels, hidden), draw("W2 dW2", hidden, both), draw("b2", both)
        draw("W3 dW3", half, hidden), draw("b3", hidden), draw("W4 dW4", hidden, pixels), draw("b4", pixels)
        draw("R K L omega")
        known["A1"], known["A2"] = known["A1"] - 1, known["A2"] - 1  # of both signs
        known["sigma"] = known["sigmoid"] = lambda D: 1 / (1 + np.exp(-D))
    if lesson == "10_deployment":
        draw("s"), draw("Q", 2, 3)
        known["w"] -= 1  # of both signs
        known["round"] = np.round
    if lesson == "20_equality":
        draw("dP", n, classes), draw("w m g", 2, 3), draw("mu")
    if lesson == "05_custom_training":
        draw("G dG", n, classes), draw("D dH", n, hidden), draw("S dS", n, pixels), draw("N f", n)
        draw("R T dR", n, 1), draw("W3", hidden, 1), draw("b3", 1), draw("p f", n, 1)
        draw("A Z dA dZ", n, hidden)
        draw("s gamma penalty mu c k epsilon")
        known["p"] /= 2  # a probability
        known["Z1"] *= 2  # beyond 1, too
        known["m"], known["g"] = known["w"] + 1, np.array([known["w"], known["dw"]])
        known |= {"round": np.round, "sign": np.sign, "clip": lambda array: np.clip(array, 0, 1)}
    return known


def evaluate(expression, known):
    with np.errstate(all="ignore"):
        return eval(expression, {"np": np, "times": times, "most": most, **known})


def value(equation, side, known):
    """What a side of an equation says: a number or an array, an entry for each value of its indices."""
    size = {index: evaluate(length, known) for index, length in equation.sizes.items()}
    shape = [size[index] for index in equation.indices]
    ats = (dict(zip(equation.indices, at, strict=True)) for at in np.ndindex(*shape))
    if not shape:
        return np.asarray(evaluate(side, known | {"size": size}))
    entries = np.array([evaluate(side, known | {"size": size} | at) for at in ats])
    return entries.reshape(*shape, *entries.shape[1:])


def letters(expression, known):
    """The letters in an expression, in order; one that stands twice in a row counts once."""
    expression = re.sub(r"np\.ones_like\(\w+\)", "1", expression)  # gives a shape, and no number
    names = [node for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)]
    names = [name.id for name in sorted(names, key=lambda name: name.col_offset)]
    names = [name for name in names if name in known and not callable(known[name])]
    return [name for place, name in enumerate(names) if name not in names[:place][-1:]]


# What stands on a page: its equations, and the lines and functions that they are compared with.


def sections(cells):
    """Each cell with the heading it stands under."""
    heading = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#{2,3} (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        yield heading, cell


def equations(cells):
    """Each display of equations: its heading, and the equations; `$$`, or a row of a table."""
    for heading, cell in sections(cells):
        if cell.cell_type == "markdown":
            rows = re.findall(r"^\|.*\|$", cell.source, re.MULTILINE)
            shown = re.findall(r"\$\$(.+?)\$\$", cell.source, re.DOTALL)
            shown += [r" \quad ".join(re.findall(r"\$(.+?)\$", row)) for row in rows]
            for display in shown:
                parts = [part.strip(" ,\n") for part in re.split(r"\\q?quad", display)]
                yield heading, [Reader(part) for part in parts if re.search(r"=|\\leftarrow|\\approx", part)]


class Plain(ast.NodeTransformer):
    """A line as its equation would say it: without wrappers, and with what isn't a letter written out."""

    def __init__(self, known, written):
        self.known, self.written = known, written

    def visit_Name(self, node):
        if not isinstance(node.ctx, ast.Load):
            return node
        name = CODE.get(node.id, node.id)
        if name in self.written and name not in self.known:
            return deepcopy(self.written[name])
        return ast.Name(name, ast.Load())

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self.visit(ast.Name(node.attr, node.ctx))
        return self.generic_visit(node)

    def visit_Call(self, node):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in WRAPPERS and node.args:
            return self.visit(node.args[0])
        if called == "len" and isinstance(node.args[0], ast.Name):
            rows = np.shape(self.known.get(node.args[0].id, [0] * self.known["n"]))
            if rows[:1] == (self.known["n"],):
                return ast.Name("n", ast.Load())
        return self.generic_visit(node)


def lines(cells, known):
    """Each line that assigns to a letter: its heading, whether it is the program's, the letter, the value."""
    for heading, cell in sections(cells):
        tags = cell.metadata.get("tags", ())
        if cell.cell_type != "code" or "solution" in tags:
            continue
        tree = ast.parse(cell.source)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for scope in [tree, *(node for node in functions if node.name not in FUNCTIONS)]:
            written = {}
            for node in statements(scope):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(node, ast.AugAssign) and isinstance(target, ast.Name):
                    pairs = [(target, ast.BinOp(ast.Name(target.id, ast.Load()), node.op, node.value))]
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                else:
                    pairs = [(target, node.value)]
                for name, meaning in pairs:
                    if isinstance(name, ast.Subscript) and isinstance(name.slice, ast.Slice):
                        name = name.value  # in place: m[:] is m
                    if isinstance(name, ast.Name):
                        plain = ast.unparse(Plain(known, written).visit(meaning))
                        if CODE.get(name.id, name.id) in known:
                            yield heading, "program" in tags, CODE.get(name.id, name.id), plain
                        elif not isinstance(node, ast.AugAssign):
                            written[name.id] = ast.parse(plain, mode="eval").body


def statements(scope):
    """The assignments of a scope, without those of the functions in it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Assign | ast.AugAssign):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from statements(node)


@cache
def otherwise(lesson):
    """What equations are compared with that have no line: {letter: [(given, its value)]}."""
    if lesson == "02_gradient":
        lesson, each = lessons.load("02_gradient_numpy", until="check-define", skip=["network-lesson"]), {}
        functions = {"surface": lesson["surface"], "H": lesson["numeric_hessian"]}
        functions |= {"nabla": lesson["partials"]}
        for letter, function in functions.items():
            each[letter] = [({"x": x, "y": y}, function(x, y)) for x, y in ((0.7, -1.3), lesson["POINT"])]

        points, path = lesson["POINTS"], lesson["path"]
        each["s"], each["s_prime"] = ([({"x": points}, values)] for values in lesson["record"]["softplus"])
        walk = {"x": path[:-1], "learning_rate": lesson["RATE"]}
        walk |= {"f_prime": lambda x: lesson["complex_step"](lesson["f"], x)}
        return each | {"x": [(walk, path[1:])]}
    if lesson == "03_mlp":
        lesson = lessons.load("03_mlp_numpy", until="constants", also=["gradients-check-define"])
        given = {"w": 0.7, "h": 0.1, "L": lambda w: np.exp(w) + w**4}
        lesson["loss_at"] = lambda params: given["L"](params[0][0])
        return {"dw": [(given, lesson["numeric_gradient"]([np.array([0.7])], 0, 0, h=0.1))]}
    if lesson == "04_optimizers":
        also = ["schedules-define"]
        lesson = lessons.load("04_optimizers_numpy", until="clipping-define", also=also)
        here, there = lesson["walk"](lesson["SGD"], 1.0)[:2]  # at this rate, a step is a slope
        x, y = here
        each = {"f": [({"x": x, "y": y, "s": lesson["STEEP"]}, here @ (here - there) / 2)]}
        given = {"t": lesson["t"], "learning_rate": 0.1}
        each["r"] = [(given, lesson["schedules"]["PyTorch"]["cosine"])]
        clipped = {c: lesson["together"]([np.array([3.0, 4.0])], c)[0] for c in (2.0, 9.0)}
        each["k"] = [({"c": c, "n": 5.0}, gradient[0] / 3) for c, gradient in clipped.items()]
        return each
    if lesson == "05_custom_training":
        return by_the_changes(values(lesson))
    if lesson == "06_convolution":
        return by_the_windows(values(lesson))
    return {}


def by_the_windows(known):
    """What lesson 6's functions return for random arrays, and its lines say of each of two layers."""
    cells = {cell.id: cell.source for cell in lessons.cells("06_convolution_numpy")}
    lesson = lessons.load("06_convolution_numpy", until="gradients-windows")
    rng, X, K, b, found = np.random.default_rng(1), known["X"], known["K"], known["b"], {}
    Z = lesson["by_loops"](X, K, b)
    found["Convolution", "Z"] = [({"Z": Z}, Z)]

    A, dM = rng.integers(0, 3, (2, 8, 6, 3)) + 0.5, rng.random((2, 4, 3, 3))  # with ties
    corners = np.array([A[:, u::2, v::2] for u, v in np.ndindex(2, 2)])
    first = corners.argmax(axis=0) == np.arange(4).reshape(4, 1, 1, 1, 1)
    dA = lesson["unpool"](dM, A, lesson["pool"](A))
    dA = np.array([[dA[:, u::2, v::2] for v in (0, 1)] for u in (0, 1)])
    given = {"dM": dM, "first": first.reshape(dA.shape), "dA": dA}
    found["Pooling", "dA"] = [(given, dA)]

    # Windows as large as the image: then no pixel has two copies, and each entry is one product.
    dZ, K = rng.random((5, 4)), rng.random((3, 3, 2, 4))
    dX = lesson["windows_back"](dZ, K.reshape(18, 4), np.zeros((5, 3, 3, 2)), k=3)
    dX = dX.transpose(1, 2, 0, 3)
    found["Gradients", "dX"] = [({"dX": 0 * dX, "dZ": dZ, "K": K}, dX)]

    for heading, letter, cell, count in (
        ("Model", "Z", "model-define", 2),
        ("Gradients", "dw", "gradients-define", 2),
        ("Gradients", "db", "gradients-define", 2),
    ):
        written = {"dw": "dW"}.get(letter, letter)
        lines = re.findall(rf"^    {written}[12] = (.+?)(?:  #.*)?$", cells[cell], re.MULTILINE)
        assert len(lines) == count, letter
        lines = [re.sub(r"\b([A-Za-z]+)[12]\b", r"\1", line) for line in lines]
        found[heading, letter] = [({}, evaluate(line, known | {"W": known["w"]})) for line in lines]

    (numeric,) = (
        each for each in ast.parse(cells["check-gradients"]).body if isinstance(each, ast.FunctionDef)
    )
    given = {"w": 0.7, "h": 0.1, "L": lambda w: np.exp(w) + w**4}
    scope = {"loss_at": lambda params: given["L"](params[0][0])}
    exec(ast.unparse(numeric), scope)
    found["dw"] = [(given, scope["numeric_gradient"]([np.array([0.7])], 0, 0, h=0.1))]

    scope = {"np": np, "DTYPE": "float64", "records": records}
    exec(cells["norm-define"], scope)
    given = {"r": np.ones(5), "mu": scope["mu"], "v": scope["batch"].var(axis=0)}
    found["Batch norm", "r"] = [(given, scope["running"]["Keras"])]
    return found


def by_the_changes(known):
    """What lesson 5's functions return for random arrays, by heading and letter."""
    base = lessons.load("05_custom_training_numpy", until="start-trainer")
    base = base["lesson"] | base
    cells = {cell.id: cell.source for cell in lessons.cells("05_custom_training_numpy")}

    def defined(*cell_ids, **replaced):
        """The constants, lesson 3's functions, and those that these cells define."""
        wanted = [node for name in cell_ids for node in ast.parse(cells[name]).body if hasattr(node, "name")]
        exec(ast.unparse(ast.Module(wanted, [])), scope := base | {"INK": 0.3} | replaced)
        return scope

    X, Y, P = (known[letter] for letter in "XYP")
    given = {"gamma": base["FOCUS"], "penalty": base["PENALTY"], "mu": base["MOMENTUM"], "k": base["PARTS"]}
    given |= {"learning_rate": base["LEARNING_RATE"], "s": base["SMOOTH"], "c": 0.3}
    found = {}

    def note(heading, letter, result, **letters):
        found[heading, letter] = [(given | letters, result)]

    note("Label smoothing", "L", defined("smoothing")["cross_entropy"](P, Y + 0.1), Y=Y + 0.1)
    P = softmax(known["Z2"] / 1000)
    note("Focal loss", "L", defined("focal-loss")["cross_entropy"](P, Y), P=P, p=P[Y == 1])
    note("Focal loss", "p", P[Y == 1], P=P)

    params = [known[name] for name in ("W1", "b1", "W2", "b2")]
    scope = defined("penalty-gradient", "penalty-step")
    Z1, _, P = scope["forward"](X, *params)
    S = scope["image_gradient"](Y, Z1, P, params[0], params[2])[-1]
    loss = scope["train_step"](X, Y, params, lambda params, grads: None)
    note("Gradient penalty", "L", loss, P=P, S=S)

    both = defined("two-step")["TwoOptimizers"]()
    both.m, w = [known["m"].copy()], known["w"].copy()
    both([w, w, w.copy()], [0 * w, 0 * w, known["dw"]])
    note("Two optimizers", "m", both.m[0])

    scope = defined("image-fool", X_test=X)
    note("Image", "X", scope["moved"](known["S"] - 1, known["epsilon"]), S=known["S"] - 1)
    seen = []
    scope = defined("accumulation", sgd=lambda params, grads: seen.append(grads[0]))
    update, g = scope["Accumulated"](), np.stack([known["w"] + j**2 for j in range(base["PARTS"])])
    for part in g:
        update([], [part])
    note("Accumulation", "dw", seen[0], g=g)

    scope, T = defined("heads-define"), known["T"]
    params = [w.copy() for w in [*params, known["W3"], known["b3"]]]
    Z1, A1, P = base["forward"](X, *params[:4])
    R = A1 @ params[4] + params[5]
    note("Two heads", "L", scope["heads_step"](X, Y, T, params), P=P, R=R[:, 0], T=T[:, 0])
    return found


def functions(cells, letter):
    """The lesson's functions that return this letter."""
    for cell in cells:
        if cell.cell_type == "code" and "solution" not in cell.metadata.get("tags", ()):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and FUNCTIONS.get(node.name) == letter:
                    scope = {"np": np}
                    exec(ast.unparse(node), scope)
                    yield [argument.arg for argument in node.args.args], scope[node.name]


def same(one, other):
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-7, atol=0)


def computed(lines, letter, known, used):
    """What the lines say of a letter: (given, value, letters). What only a tool can compute says nothing,
    nor does a line of numbers, an example, where the equation has letters.
    """
    for *_, name, line, strict in lines:
        if name == letter and bool(letters(line, known)) >= bool(used):
            try:
                yield {}, evaluate(line, known), letters(line, known)
            except (NameError, AttributeError):  # a name or a method that our arrays don't know
                if strict and not re.match(r"\w+\(", line):  # a function of the lesson may know more
                    raise


def returned(functions, used, known):
    """What the functions return when they are called with the letters of an equation."""
    for parameters, function in functions:
        called = {name: name if name in parameters else name.rstrip("12") for name in used if name != "n"}
        given = {called[name]: known[name] for name in called}
        if "y" in given:  # labels, of which the function gets the one-hot rows
            given["Y"] = np.eye(3)[given.pop("y")]
        if set(parameters) != set(given):
            raise NameError(f"the letters {' '.join(given)} stand beside {' '.join(parameters)}")
        yield {}, np.asarray(function(**given)), used


def differs(equation, side, known, used, given, other, names):
    """In what a side of an equation differs from what it is compared with; None if in nothing."""
    said = value(equation, side, known | given)
    if not same(said, other):
        return f"{side} and what it is compared with are different numbers"
    if letters(side, known) and names != used:
        return f"the letters {' '.join(used)} stand beside {' '.join(names)}"
    if not given and letters(side, known) and said.shape != np.shape(known[equation.left]):
        return f"{equation.left} has another shape"


def problem(equation, display, lesson, here, everywhere, cells, heading=None):
    """What is wrong with an equation; None if it says what all do that it is compared with."""
    known, letter, side = values(lesson), equation.left, equation.sides[0]
    if "Z2" in known and "m" in [each.left for each in display]:
        known["Z2"] *= 1000  # e^Z2 overflows, unless the largest is taken off
    try:
        # What a neighbour says of a letter goes into this equation: m_i into P_ij.
        beside = {each.left: each for each in display if each.indices and each.left in letters(side, known)}
        known |= {name: value(each, each.sides[0], known) for name, each in beside.items()}
        used = [name for name in letters(side, known) if name not in beside]
        found = [(*each, used) for each in otherwise(lesson).get((heading, letter), [])]
        found = found or [
            *computed(here, letter, known, used),
            *returned(functions(cells, letter), used, known),
        ]
        found = found or [(*each, used) for each in otherwise(lesson).get(letter, [])]
        uses = [each for each in display if equation.indices and letter in letters(each.sides[0], known)]
        if not found and uses:
            return problem(uses[0], display, lesson, here, everywhere, cells, heading)
        found = found or list(computed(everywhere, letter, known, used))
        if not found:
            return "there is nothing to compare it with"
        for side in equation.sides:
            each = found if letters(side, known) else found[-1:]
            wrong = [differs(equation, side, known, used, *one) for one in each]
            if lesson in FORMS and None in wrong:
                continue
            for why in filter(None, wrong):
                return why
    except (ValueError, IndexError, NameError, TypeError, AttributeError) as error:
        return str(error)


def problems(page, cells, numpy_cells):
    """Each displayed equation of a page, and what is wrong with it (None: nothing)."""
    lesson = runner.lesson(page)
    # Siblings show the same equations, some of which only the NumPy notebook writes as lines.
    found = [(*line, True) for line in lines(numpy_cells, values(lesson))]
    if cells is not numpy_cells:
        found += [(*line, False) for line in lines(cells, values(lesson))]
    program = [line for line in found if line[1]]
    for heading, display in equations(cells):
        here = [line for line in found if line[0] == heading]
        for equation in display:
            yield equation, problem(equation, display, lesson, here, program, numpy_cells, heading)


def pages(page):
    """A page, its cells, and those of the NumPy notebook, which has the lines."""
    cells = lessons.cells(page)
    has_lines = page.endswith("numpy") or page in SINGLE
    return page, cells, cells if has_lines else lessons.cells(f"{runner.lesson(page)}_numpy")


@pytest.mark.parametrize("page", PAGES)
def test_an_equation_says_what_its_line_does(page):
    wrong = [f"{equation.latex}: {why}" for equation, why in problems(*pages(page)) if why]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_no_equation_gets_lost(page):
    shown = {equation.left for equation, _ in problems(*pages(page))}
    assert shown == set(DISPLAYED.get(page, DISPLAYED[runner.lesson(page)]).split())


@pytest.mark.parametrize("page", PAGES)
def test_a_formula_in_a_sentence_is_right(page):
    name, cells, numpy_cells = pages(page)
    lesson = runner.lesson(name)
    known = values(lesson)
    program = [(*line, True) for line in lines(numpy_cells, known) if line[1]]
    for heading, cell in sections(cells):
        here = [line for line in program if line[0] == heading]
        for latex in re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", cell.source, flags=re.DOTALL)):
            with contextlib.suppress(ValueError, NameError, IndexError, SyntaxError):  # no equation
                equation = Reader(latex)
                names = letters(equation.sides[0], known)
                if not equation.left and not names:
                    first, *others = (float(evaluate(side, known)) for side in equation.sides)
                    assert others == pytest.approx([first] * len(others), rel=1e-3), latex
                elif len(names) > 1 and list(computed(here or program, equation.left, known, names)):
                    assert not problem(equation, [], lesson, here or program, program, []), latex


@pytest.mark.parametrize("page", ["03_mlp_numpy", "04_optimizers_numpy"])
def test_each_line_of_the_program_has_its_equation(page):
    _, cells, _ = pages(page)
    lesson = runner.lesson(page)
    known = values(lesson)
    tables = [cell for cell in cells if cell.source.count("\n|") > 2]
    shown = {None: set(DISPLAYED[lesson].split())}
    # The table of the gradients has a row for each line of the model and of `backward`.
    shown["Gradients"] = {each.left for _, display in equations(tables) for each in display}
    shown["Model"] = shown["Gradients"]
    for heading, program, letter, line in lines(cells, known):
        if program and letters(line, known) and heading not in ("Setup", "Check", "The others"):
            # (What the norm n of the gradients is, lesson 4 tells in words.)
            assert letter in shown.get(heading, shown[None]) | {"n"}, line


@pytest.mark.parametrize("lesson", ["04_optimizers"])
def test_each_form_has_its_equation(lesson):
    _, cells, _ = pages(f"{lesson}_numpy")
    known = values(lesson)
    shown = [equation for _, display in equations(cells) for equation in display if equation.left != "k"]
    count = 0
    for heading, program, letter, line in lines(cells, known):
        if program and letters(line, known) and heading not in ("The others", "Clipping"):
            with np.errstate(all="ignore"):
                found = evaluate(line, known)
            same_letter = [equation for equation in shown if equation.left == letter]
            assert any(same(found, value(e, e.sides[0], known)) for e in same_letter), f"{heading}: {line}"
            count += 1
    assert count >= 17


@pytest.mark.parametrize("tool", TOOLS)
def test_the_figures_beside_the_chain_rule_are_those_of_its_lines(tool):
    also = ["data-function", "hand-run"]
    lesson = lessons.load("02_gradient_numpy", until="constants", also=also)
    (table,) = (cell.source for cell in lessons.cells(f"02_gradient_{tool}") if cell.id == "hand")
    beside = re.findall(r"\$(\w+) = [^$]*\$(?=[^|]*\| ([\d.]+) \|)", table)
    assert {letter for letter, _ in beside} == set("a b c y da db dc dx dy".split())
    assert all(float(figure) == lesson[letter] for letter, figure in beside)
    # What each of the two paths brings to x.
    shares = re.findall(r"along \$(\w)\$: \$([^$]+)\$ \| ([\d.]+) \|", table)
    assert [letter for letter, *_ in shares] == ["a", "b"]
    for _, share, figure in shares:
        reader = Reader(f"dx = {share}")
        assert evaluate(reader.sides[0], lesson) == float(figure), share
    assert sum(float(figure) for *_, figure in shares) == lesson["dx"]


# A slip each: lesson, cell, what stands there, what takes its place.
SLIPS = (
    ("03_mlp", "gradients", r"A_1^\top dZ_2", r"Z_1^\top dZ_2"),  # a letter
    ("03_mlp", "gradients", r"dW_1 = X^\top dZ_1", r"dW_1 = dZ_1^\top X"),  # the order
    ("03_mlp", "gradients", r"dZ_2 W_2^\top", "dZ_2 W_2"),  # a transpose
    ("03_mlp", "gradients", "(P - Y) / n", "(Y - P) / n"),  # a sign
    ("03_mlp", "gradients", "(P - Y) / n", "P - Y"),  # 1/n
    ("03_mlp", "gradients-why", r"db_1 = \textstyle", r"db_1 = \textstyle\frac{1}{n}"),  # sum and mean
    ("03_mlp", "gradients-why", "[Z_1 > 0]", "[Z_1 < 0]"),
    ("03_mlp", "model-softmax-why", r"\max_k", r"\min_k"),
    ("03_mlp", "loss", r"-\frac{1}{n}", r"\frac{1}{n}"),
    ("03_mlp", "update", r"W - \eta", r"W + \eta"),
    ("04_optimizers", "adam", r"\sqrt{\hat v} + \epsilon", r"\sqrt{\hat v + \epsilon}"),
    ("04_optimizers", "adam", r"\frac{v}{1 - \beta_2^t}", r"\frac{v}{1 - \beta_2}"),
    ("04_optimizers", "keras-forms", r"{\sqrt{v} + \epsilon}", r"{\sqrt{v + \epsilon}}"),
    ("04_optimizers", "momentum", r"w - \eta \, (g + \mu m)", r"w - \eta \, (m + \mu g)"),
    ("04_optimizers", "one-name", r"\mu m - \eta \, g \qquad", r"\mu m + \eta \, g \qquad"),
    ("04_optimizers", "rmsprop", r"(1 - \rho) \, g^2 \qquad", r"(1 - \rho) \, g \qquad"),
    ("04_optimizers", "decay", r"\eta \lambda w", r"\lambda w"),
    ("04_optimizers", "own", r"\text{sign}(c) \qquad", r"\text{sign}(m) \qquad"),
    ("04_optimizers", "schedules", r"\pi t / 10", r"\pi t / 5"),
    ("04_optimizers", "clipping", r"\min(1, c / n)", r"\min(c, 1 / n)"),
    ("04_optimizers", "valley", r"s y^2}{2}", r"s y^2}{1}"),
    ("05_custom_training", "loss", "s / 10", "s / 9"),
    ("05_custom_training", "loss", r"\sum_i \sum_j Y_{ij}", r"\sum_i \sum_j P_{ij}"),
    ("05_custom_training", "focal-why", r"\gamma p (1 - p)^{\gamma - 1}", r"p (1 - p)^{\gamma - 1}"),
    ("05_custom_training", "derivative", "e^{-Z}", "e^Z"),
    ("05_custom_training", "derivative", r"\ln(1 + e^Z)", r"\ln(1 - e^Z)"),
    ("05_custom_training", "stairs-goal", "[0 < Z_1 < 1]", "[0 < Z_1]"),
    ("05_custom_training", "step", r"\frac{\lambda}{n} \sum_i \sum_j", r"\lambda \sum_i \sum_j"),
    ("05_custom_training", "penalty-why", r"dS = 2 \lambda S", r"dS = \lambda S"),
    ("05_custom_training", "penalty-why", r" + dS^\top D", ""),
    ("05_custom_training", "two", r"- \eta", r"+ \eta"),
    ("05_custom_training", "examples-why", r"\sqrt{(1 + ", r"\sqrt{("),
    ("05_custom_training", "image", r"X + \varepsilon", r"X - \varepsilon"),
    ("05_custom_training", "accumulation-goal", r"\frac{1}{k} \sum_j", r"\sum_j"),
    ("05_custom_training", "heads", r"\frac{c}{n}", r"\frac{1}{n}"),
    ("05_custom_training", "heads-why", r" + dR W_3^\top", ""),
    ("05_custom_training", "penalty-gradient", "+ dH.T @ G", "- dH.T @ G"),
    ("06_convolution", "convolution", "K_{uvcf}", "K_{vucf}"),
    ("06_convolution", "convolution", "X_{i+u,j+v,c}", "X_{i+v,j+u,c}"),
    ("06_convolution", "convolution", "X_{i+u,j+v,c}", "X_{i-u,j-v,c}"),
    ("06_convolution", "convolution", "X_{i+u,j+v,c}", "X_{u,v,c}"),
    ("06_convolution", "convolution", "+ b_f", "- b_f"),
    ("06_convolution", "convolution", "b_f", "b_c"),
    ("06_convolution", "convolution", r"\sum_{u,v,c}", r"\sum_{u,v}"),
    ("06_convolution", "convolution", "K_{uvcf}", "K_{uvfc}"),
    ("06_convolution", "pooling", r"\max(A", r"\min(A"),
    ("06_convolution", "pooling", "A_{10}, A_{11}", "A_{10}, A_{10}"),
    ("06_convolution", "pooling", "(A_{00}, A", "(A"),
    ("06_convolution", "pooling", r"dM \odot \text{first}_{uv}", r"dM \odot \text{first}_{vu}"),
    ("06_convolution", "pooling", r"dM \odot \text{first}_{uv}", r"\text{first}_{uv}"),
    ("06_convolution", "model", "R W + b$$", "W R + b$$"),
    ("06_convolution", "model", "R W + b$$", "R W - b$$"),
    ("06_convolution", "gradients", r"R^\top dZ", r"R \, dZ"),
    ("06_convolution", "gradients", r"R^\top dZ", r"dZ^\top R"),
    ("06_convolution", "gradients", r"\textstyle\sum", r"\textstyle\frac{1}{n} \sum"),
    ("06_convolution", "gradients", r"K_{uv}^\top", "K_{uv}"),
    ("06_convolution", "gradients", r"K_{uv}^\top", r"K_{vu}^\top"),
    ("06_convolution", "gradients", r"dX_{uv} + dZ", r"dX_{uv} - dZ"),
    ("06_convolution", "check", "{2h}", "{h}"),
    ("06_convolution", "check", "L(w - h)", "L(w)"),
    ("06_convolution", "norm", r"(1 - \mu) v", r"\mu v"),
    ("06_convolution", "norm", r"\leftarrow \mu r", r"\leftarrow r"),
    ("07_recurrence", "cell", r"h_\text{old} U", "h U"),
    ("07_recurrence", "cell", "h V+v", "h V"),
    ("07_recurrence", "gradients", r"(1-h^2)", r"(1-h)"),
    ("07_recurrence", "gradients", r"dU+h_\text{old}^\top", r"dU+h^\top"),
    ("07_recurrence", "gradients", r"dh\leftarrow dZ U^\top", r"dh\leftarrow dZ U"),
    ("07_recurrence", "gradients", r"dW\leftarrow dW+x^\top dZ", r"dW\leftarrow x^\top dZ"),
    ("07_recurrence", "train", r"\min(1, \theta/", r"\min(\theta, 1/"),
    ("07_recurrence", "train", r"10^{-6}", r"10^{-5}"),
    ("07_recurrence", "train", r"\eta k \, dw", r"\eta \, dw"),
    ("07_recurrence", "gates", r"o\odot\tanh(c)", r"o\odot c"),
    ("07_recurrence", "gates", r"o=\sigma(Z_4)", r"o=\sigma(Z_3)"),
    ("07_recurrence", "gates", r"f\odot c_\text{old}", r"f\odot c"),
    ("07_recurrence", "gates-why", r"dc\leftarrow dc\odot f", r"dc\leftarrow dc\odot i"),
    ("07_recurrence", "gates-why", r"o\odot(1-t^2)", r"o\odot(1-t)"),
    ("07_recurrence", "gates-why", r"df=dc\odot c_\text{old}", r"df=dc\odot c"),
    ("07_recurrence", "two-gates", r"r\odot B_3", "B_3"),
    ("07_recurrence", "two-gates", r"(1-z)\odot g", r"z\odot g"),
    ("07_recurrence", "two-gates-why", r"dA_3\odot B_3", r"dA_3\odot A_3"),
    ("07_recurrence", "two-gates-why", r"dh\odot z+", r"dh\odot(1-z)+"),
    ("07_recurrence", "masks", r"(1-m)\odot", r"m\odot"),
    ("07_recurrence", "gates-back", "dh * o * (1 - t**2)", "dh * (1 - t**2)"),
    ("07_recurrence", "two-gates-back", "dz, dg = dh * (h_old - g)", "dz, dg = dh * (g - h_old)"),
    ("08_probability", "draw", r"m+s\odot e", r"m+s^2\odot e"),
    ("08_probability", "divergence", r"-1-\ln s^2", r"-1+\ln s^2"),
    ("08_probability", "divergence", r"\ln s^2)/2", r"\ln s^2)"),
    ("08_probability", "autoencoder", r"\max(X W_1+b_1,0)", r"\max(X W_1,0)"),
    ("08_probability", "autoencoder", r"\exp(r/2)", r"\exp(r)"),
    ("08_probability", "autoencoder", r"z W_3+b_3", r"m W_3+b_3"),
    ("08_probability", "autoencoder", r"1+\exp(D)", r"1+\exp(X)"),
    ("08_probability", "autoencoder", r"m^2+s^2-1-r", r"m^2+s^2-1-s"),
    ("08_probability", "autoencoder", r"L=\omega R+K", r"L=R+\omega K"),
    ("08_probability", "gradients-why", r"(\sigma(D)-X)/n", r"(\sigma(D)-X)"),
    ("08_probability", "gradients-why", r"dz+m/n", r"dz+m"),
    ("08_probability", "gradients-why", r"e\odot s/2", r"e\odot s"),
    ("08_probability", "gradients-why", r"(s^2-1)/(2n)", r"(s^2-1)/n"),
    ("08_probability", "gradients-why", r"dZ_3 W_3^\top", r"dZ_3 W_3"),
    ("08_probability", "gradients-define", "dm = dz + m / n", "dm = dz - m / n"),
    ("03_mlp", "gradients-define", "A1.T @ dZ2", "Z1.T @ dZ2"),
    ("03_mlp", "gradients-define", "dA1 * (Z1 > 0)", "dA1 * (Z1 >= 0)"),
    ("02_gradient", "hand", r"dx = da \cdot 2x", r"dx = da \cdot x"),
    ("02_gradient", "own", r"1 + e^{-|x|}}", r"1 - e^{-|x|}}"),
    ("01_matmul", "by-hand", "B_{kj}", "B_{jk}"),
    ("10_deployment", "int8", r"{127}", r"{128}"),
    ("10_deployment", "int8", r"\max |W|", r"\max W"),
    ("10_deployment", "int8", r"\max |W|", r"|W|"),
    ("10_deployment", "int8", r"\text{round}(W / s)", r"W / s"),
    ("10_deployment", "int8", r"\text{round}(W / s)", r"\text{round}(W s)"),
    ("20_equality", "dial-momentum-why", r"w - \eta \, m", r"w - m"),
    ("20_equality", "dial-momentum-why", r"\mu m - \eta \, g", r"\mu m + \eta \, g"),
    ("20_equality", "dial-momentum-why", "$w \\leftarrow w + m$", "$w \\leftarrow w - m$"),
    ("20_equality", "dial-double-match-why", "- Y) / n", "- Y)"),
    ("20_equality", "dial-double-match-why", r"dP \odot P)$$", r"dP)$$"),
    ("20_equality", "dial-double-match", "keepdims=True))", "keepdims=True) / 2)"),
)


@pytest.mark.parametrize(("lesson", "cell_id", "old", "new"), SLIPS, ids=[f"{s[1]}: {s[3]}" for s in SLIPS])
def test_a_slip_is_noticed(lesson, cell_id, old, new):
    page, cells, _ = pages(lesson if lesson in SINGLE else f"{lesson}_numpy")
    (cell,) = (cell for cell in cells if cell.id == cell_id)
    assert cell.source.count(old) == 1
    cell.source = cell.source.replace(old, new)
    assert any(why for _, why in problems(page, cells, cells))
