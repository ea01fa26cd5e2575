"""What the tests of the command line share."""

RING, DISCS = "a red ring", "two pink discs"


def one_line(result, fragment):
    """The request was refused: status 2 and one line that says why."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("sjd2: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert fragment in err
    return True


def everything_in(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))
