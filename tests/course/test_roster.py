"""Class lists: what registrars write is read, and what would do harm is refused in one line."""

import pytest

from kvmlab.course.roster import MOST_BYTES, MOST_STUDENTS, BadRoster, read_roster


def roster(tmp_path, contents, name="roster.csv"):
    path = tmp_path / name
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return path


@pytest.mark.parametrize(
    "contents, ids",
    [
        ("id\nann\nbob\n", ("ann", "bob")),
        ("id,first_name,last_name,email,lms_user_id\nann,A,B,a@b.c,1\n", ("ann",)),  # nbgrader's
        ("name;ID\nAnn Lee; u-17 \n", ("u-17",)),  # Excel's in Europe
        ("\ufeffid\tname\nann\tA\n", ("ann",)),  # Excel's with a mark, tabs
        ("id\r\nann\r\n\r\n,\r\nbob", ("ann", "bob")),  # blank lines
        ('id,name\n"ann.lee@uni.edu","Lee, Ann"\n', ("ann.lee@uni.edu",)),
        ('name,id\n"two\nlines",ann\n', ("ann",)),
        ("id\n20230017\n007\n", ("20230017", "007")),
        ("id\n张三\nérika\n", ("张三", "érika")),
        ('id,note\nann,"=HYPERLINK(""http://x"")"\n', ("ann",)),  # a formula that nobody reads
    ],
)
def test_ids_are_read_in_their_order(contents, ids, tmp_path):
    assert read_roster(roster(tmp_path, contents)) == ids


def test_another_column_holds_the_ids(tmp_path):
    path = roster(tmp_path, "id,SIS User ID\n1,ann\n")

    assert read_roster(path, "sis user id") == ("ann",)


@pytest.mark.parametrize(
    "contents, says",
    [
        ("", "no column 'id' in its first line, but nothing"),
        ("name,email\nAnn,a@b.c\n", "no column 'id' in its first line, but name, email"),
        ("id,ID\nann,bob\n", "more than one column 'id'"),
        ("id\n", "no student below its first line"),
        ("id,name\nann,A\n,B\n", "line 3: there is no id"),
        ("name,id\nAnn,ann\nBob\n", "line 3: there is no id"),
        ("id\nann\nbob\nann\n", "line 4: 'ann' is 'ann' of line 2"),
        ("id\nann\nAnn\n", "line 3: 'Ann' is 'ann' of line 2"),  # one folder on a Mac
        ("id\n../../etc/passwd\n", "line 2: '../../etc/passwd' is no id"),
        ("id\n..\n", "'..' is no id"),
        ("id\na/b\n", "'a/b' is no id"),
        ("id\na\\b\n", "is no id"),
        ("id\nC:\n", "is no id"),
        ("id\n-rf\n", "'-rf' is no id"),
        ("id\n.hidden\n", "'.hidden' is no id"),
        ("id\ntrailing.\n", "is no id"),
        ("id\n=1+1\n", "'=1+1' is no id"),
        ("id\n@SUM(A1)\n", "is no id"),
        ("id\n+cmd|' /C calc'!A0\n", "is no id"),
        ("id\na+b\n", "'a+b' is no id"),  # nbgrader's exchange parts names at +
        ("id\nann lee\n", "'ann lee' is no id"),
        ("id\nann\u202ebob\n", "is no id"),
        ("id\n<img src=x onerror=alert(1)>\n", "is no id"),
        ("id\n" + "a" * 65 + "\n", "is no id"),
        ("id\n" + "a" * 200_000 + "\n", "line 2: field larger than field limit"),
        ('id\n"ann\n', "line 2: unexpected end of data"),
        ("id\nann\0\n", "holds zero bytes"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is no text in UTF-8; save it as CSV UTF-8"),
        ("id\nann\n".encode("utf-16"), "is no text in UTF-8"),
        (b"id\n" + b"a\n" * MOST_BYTES, "larger than 4 MiB"),
        ("id\n" + "\n".join(f"s{n}" for n in range(MOST_STUDENTS + 1)), "more than 5000 students"),
    ],
)
def test_what_is_broken_is_said_in_one_line(contents, says, tmp_path):
    path = roster(tmp_path, contents)
    with pytest.raises(BadRoster) as caught:
        read_roster(path)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_an_accent_of_its_own_is_no_part_of_an_id(tmp_path):
    """é in two characters is the same folder as é in one on some systems."""
    with pytest.raises(BadRoster, match="is no id"):
        read_roster(roster(tmp_path, "id\n\u00e9rika\ne\u0301rika\n"))
