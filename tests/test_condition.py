import torch

from Network.condition import ClassCondition


def test_a_label_is_its_row_of_the_table():
    condition = ClassCondition(5, 8)
    labels = torch.tensor([4, 0, 5, 4])
    tokens = condition(labels)
    assert tokens.shape == (4, condition.num_tokens, 8)
    assert torch.equal(tokens[:, 0], condition.table.weight[labels])


def test_the_null_condition_is_one_more_row():
    condition = ClassCondition(5, 8)
    assert condition.null == 5
    assert len(condition.table.weight) == 6


def test_without_classes_only_the_null_condition_is_left():
    condition = ClassCondition(0, 8)
    assert condition.null == 0
    assert condition(torch.tensor([0, 0])).shape == (2, 1, 8)
