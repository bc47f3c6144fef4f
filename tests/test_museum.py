"""Each exhibit of the museum on page 21 shows what its label says."""

import numpy as np
import pytest

from helpers import lessons

pytestmark = pytest.mark.makers


@pytest.fixture(scope="module")
def page():
    """The museum's part of the page's program, run by itself."""
    needed = ("setup", "constants", "museum")
    skip = [cell.id for cell in lessons.cells("21_mistakes") if not cell.id.startswith(needed)]
    return lessons.load("21_mistakes", skip=skip)


def mean(values):
    return 100 * np.mean(values)


def test_w2_first_costs_little_soon_and_everything_later(page):
    right, wrong = (np.array(page["order"][name]) for name in ("dA1 first", "W2 first"))
    assert right.shape == wrong.shape == (3, 14)
    assert 0 < mean(right[:, 1]) - mean(wrong[:, 1]) < 3  # after two epochs: a point or so
    assert right[:, -1].min() > 0.91 and wrong[:, -1].max() < 0.15


def test_the_wrong_shape_can_not_learn_32_digits_by_heart(page):
    hearts, variance = page["hearts"], page["variance"]
    assert hearts["(n,)"] < 0.05
    assert abs(hearts["(n, 1)"] / variance - 1) < 0.01  # everybody gets the mean


def test_a_list_hides_a_layer_from_pytorch_and_not_from_keras(page):
    assert page["listed"] == {"PyTorch": 2, "Keras": 4}
    assert np.allclose(page["list_losses"], page["RIGHT"][0]["losses"], rtol=1e-12)


def test_a_split_of_sorted_digits_validates_on_what_was_never_taught(page):
    split = page["split"]
    assert split["mixed"]["digits"] == list(range(10)) and split["sorted"]["digits"] == [8, 9]
    assert max(split["sorted"]["told"]) < 0.01 and min(split["mixed"]["told"]) > 0.8
    assert 60 < mean(split["sorted"]["test"]) < 80 < mean(split["mixed"]["test"])


def test_a_shuffle_thrown_away_lowers_the_loss_and_the_accuracy(page):
    rows, middle = page["first_rows"], page["middle_loss"]
    assert rows["thrown away"].tolist() == [0, 1, 2, 3, 4, 5] != rows["kept"].tolist()
    assert max(middle["thrown away"]) < min(middle["kept"]) / 2
    for mixed, ordered in zip(page["RIGHT"], page["unshuffled"], strict=True):
        assert ordered["accuracy"] < mixed["accuracy"] - 0.4


def test_a_squared_clipped_error_leaves_most_digits_asleep(page):
    asleep, means = page["asleep"], page["means"]
    assert asleep["Huber"] == [0, 0]
    assert min(asleep["clipped, squared"]) > 0.5
    assert means["Huber"][9] > 7 and means["clipped, squared"].max() < 3


def test_a_softmax_over_the_batch_is_right_in_company_only(page):
    company = page["company"]
    assert min(company[1000]) > 0.85 and max(company[1]) < 0.15
    assert mean(company[1000]) > mean(company[10]) + 3 > mean(company[1])


def test_a_mean_of_means_is_right_for_equal_parts_only(page):
    gaps = page["gaps"]
    assert gaps[8, 8, 8, 8] < 1e-10
    assert 0.1 < gaps[4, 10, 18] < gaps[1, 3, 28]
    right, uneven = ([p["accuracy"] for p in page[name]] for name in ("RIGHT", "uneven"))
    assert max(uneven) < min(right)


def test_a_momentum_the_other_way_shakes_the_accuracy(page):
    steady, shaky = page["last_steps"][0.01], page["last_steps"][0.99]
    assert len(steady) == len(shaky) == 40
    assert np.ptp(shaky) > 2 * np.ptp(steady) and min(shaky) < min(steady)


def test_an_adam_without_correction_begins_with_steps_too_large(page):
    step, accuracy = page["first_step"], page["adam_accuracy"]
    for rate in (0.03, 0.001):
        assert np.allclose([step[rate, True], step[rate, False]], [1, np.sqrt(10)], atol=0.02)
    assert mean(accuracy[0.03, False]) < mean(accuracy[0.03, True]) - 10
    assert mean(accuracy[0.001, False]) > mean(accuracy[0.001, True])  # a small rate likes the push


def test_a_schedule_stepped_per_batch_stops_the_training(page):
    assert min(page["rates"]["epoch"]) > 0.05 and page["rates"]["batch"][-1] < 1e-9
    accuracy = page["schedule_accuracy"]
    assert mean(accuracy["batch"]) < mean(accuracy["epoch"]) - 10


def test_a_threshold_for_probabilities_is_wrong_for_raw_outputs(page):
    thresholds = page["thresholds"]
    for sigmoid, zero, _ in thresholds.values():
        assert sigmoid == zero
    lost = [zero - half for _, zero, half in thresholds.values()]
    assert lost[0] > 40 and lost == sorted(lost, reverse=True) and lost[-1] < 3


def test_the_wall_did_no_visible_harm(page):
    right, wall = [program["accuracy"] for program in page["RIGHT"]], page["wall"]
    assert mean(wall["loss times 4"]) > mean(right)
    assert mean(wall["loss times 32"]) < 50
    assert abs(mean(wall["dropout"]) - mean(wall["dropout, off after 7 of 125 steps"])) < 2
    assert abs(mean(wall["four epochs, four orders"]) - mean(wall["four epochs, one order"])) < 2
    assert 0 < abs(mean(wall["padded to 96 x 11"]) - mean(right)) < 1
