"""Who is a member: every change has a higher epoch, and those who have the state stay known."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.policy import roll as policy


def member(node="a", *, fresh=True):
    return policy.Member(node=node, address=f"{node}:1", fresh=fresh)


def of(count, *, wanted=1):
    roll = policy.Roll(wanted=wanted)
    for index in range(count):
        roll, number = policy.numbered(roll)
        assert number == index
        roll, _ = policy.enrolled(roll, number, member(f"n/{index}"), 0)
    return roll


def test_training_waits_for_as_many_as_are_wanted():
    assert not of(1, wanted=2).begins
    roll = of(2, wanted=2)
    assert roll.begins
    assert roll.epoch == 0
    assert policy.begun(roll).epoch == 1


def test_a_loss_is_told_with_who_goes_on():
    roll, because = policy.settled(policy.begun(of(3)), 1)
    assert because == "3 members have the state"
    roll, because = policy.left(roll, 1)
    assert because == "member 1 on n/1 is lost; 2 go on"
    assert (roll.epoch, sorted(roll.members)) == (2, [0, 2])
    assert policy.left(roll, 1) == (roll, "")
    fresh, because = policy.left(policy.begun(of(2)), 0)
    assert because.endswith("nobody has the state")
    assert fresh.epoch == 2


def test_who_enrols_later_is_fresh_until_its_epoch_is_settled():
    roll, _ = policy.settled(policy.begun(of(2)), 1)
    roll, number = policy.numbered(roll)
    roll, because = policy.enrolled(roll, number, member("n/2"), 0)
    assert because == "member 2 on n/2 is here"
    assert [m.fresh for m in roll.members.values()] == [False, False, True]
    assert policy.settled(roll, 1) == (roll, "")  # of an epoch that is over
    roll, because = policy.settled(roll, roll.epoch)
    assert because == "member 2 on n/2 has the state"
    assert not any(m.fresh for m in roll.members.values())
    assert policy.settled(roll, roll.epoch) == (roll, "")  # each member says so


def test_who_has_done_all_steps_leaves_without_a_loss():
    roll, _ = policy.settled(policy.begun(of(2)), 1)
    roll, because = policy.left(policy.done(roll, 1), 1)
    assert because == "member 1 on n/1 has done all steps"
    assert (sorted(roll.members), roll.epoch) == ([0], 1)
    assert policy.done(roll, 1) == roll


def test_a_complaint_about_an_epoch_that_is_over_changes_nothing():
    roll = policy.begun(of(2))
    assert policy.broken(roll, 0) == roll
    assert policy.broken(roll, 1).epoch == 2


def test_a_controller_that_comes_back_goes_on_above_the_epoch_of_its_members():
    roll = policy.Roll(wanted=2)
    roll, because = policy.enrolled(roll, 5, member(fresh=False), 17)
    assert because.endswith("is here again")
    roll, _ = policy.enrolled(roll, 3, member(fresh=False), 16)
    assert policy.begun(roll).epoch == 18
    assert policy.numbered(roll)[1] == 6


@given(st.lists(st.tuples(st.sampled_from(["enrol", "left", "broken", "settled"]), st.integers(0, 5)), max_size=30))
def test_epochs_rise_with_every_change_of_who_is_there(events):
    roll = policy.begun(of(2))
    for kind, number in events:
        before = roll
        if kind == "enrol":
            roll, number = policy.numbered(roll)
            roll, _ = policy.enrolled(roll, number, member(), 0)
        elif kind == "left":
            roll, _ = policy.left(roll, number)
        elif kind == "broken":
            roll = policy.broken(roll, number)
        else:
            roll, _ = policy.settled(roll, number)
        assert roll.epoch >= before.epoch
        if roll.members.keys() != before.members.keys():
            assert roll.epoch > before.epoch
