"""What the guest's program has a second time, in Lua, against the original: CBOR, and who a user is."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from hyperlog import encoding
from hyperlog.encoding import Encodable, Value
from hyperlog.errors import Corrupt, Refused
from vmhost.agent.program import FILES
from vmhost.users import resolve_user

pytestmark = pytest.mark.real("luajit")
_LIBRARY = FILES / "usr/lib/hyper/lua"

# Frames of (length, CBOR) on stdin; what `answer` makes of each value goes back the same way.
_DRIVER = """
package.path = arg[1] .. "/?.lua"
local cbor, users = require("cbor"), require("users")
local answers = {}
function answers.echo(value) return value end
function answers.read() return 1 end
function answers.user(value)
  local found, user = pcall(users.resolve, value[1], value[2], value[3])
  if not found then return { refused = user.error } end
  return { uid = user.uid, gid = user.gid, groups = cbor.list(user.groups), name = user.name, home = user.home }
end
while true do
  local head = io.read(4)
  if not head then return end
  local a, b, c, d = head:byte(1, 4)
  local text = io.read(a + 256 * (b + 256 * (c + 256 * d))) or ""
  local decoded, value = pcall(cbor.decode, text)
  local said = decoded and cbor.encode(answers[arg[2]](value)) or ""
  local left = #said
  for _ = 1, 4 do io.write(string.char(left % 256)); left = math.floor(left / 256) end
  io.write(said)
end
"""


def answers(what: str, questions: list[bytes], tmp_path: Path) -> list[bytes]:
    driver = tmp_path / "driver.lua"
    driver.write_text(_DRIVER)
    asked = b"".join(len(question).to_bytes(4, "little") + question for question in questions)
    done = subprocess.run(
        ["luajit", str(driver), str(_LIBRARY), what], input=asked, capture_output=True, timeout=120, check=True
    )
    found, at = [], 0
    while at < len(done.stdout):
        stop = at + 4 + int.from_bytes(done.stdout[at : at + 4], "little")
        found.append(done.stdout[at + 4 : stop])
        at = stop
    assert len(found) == len(questions), done.stderr
    return found


def anything(chance: random.Random, depth: int = 0) -> Value:
    """A value of the kinds that the protocol uses; strings are bytes, but for keys."""
    kind = chance.randrange(4 if depth < 4 else 2)
    if kind == 0:
        return chance.choice((0, 23, 24, 255, 256, 65535, 65536, 2**32, 2**48, -1, -24, -25, -70000))
    if kind == 1:
        return chance.randbytes(chance.choice((0, 1, 23, 24, 300, 70_000)))
    if kind == 2:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(1, 4))]
    names = ("a", "b", "aa", "code", "nanoseconds", "a longer name than twenty-four letters")
    return {chance.choice(names): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def test_cbor_is_the_same_in_both_languages(tmp_path: Path) -> None:
    chance = random.Random(1)
    spelled = [encoding.encode(anything(chance)) for _ in range(300)]
    assert answers("echo", spelled, tmp_path) == spelled


def test_what_is_no_cbor_is_refused_or_read_but_never_more(tmp_path: Path) -> None:
    chance = random.Random(2)
    broken = [chance.randbytes(chance.randrange(40)) for _ in range(2000)]
    for _ in range(2000):
        data = bytearray(encoding.encode(anything(chance)))[:2000]
        data[chance.randrange(len(data))] = chance.randrange(256)
        broken.append(bytes(data))
    told = answers("read", broken, tmp_path)
    assert 0 < told.count(b"") < len(broken)
    readable = [data for data, answer in zip(broken, told, strict=True) if not answer and _is_canonical(data)]
    assert readable == []


def _is_canonical(data: bytes) -> bool:
    try:
        encoding.decode(data, bytes_max=1 << 20)
    except Corrupt:
        return False
    return True


def test_a_user_is_the_same_in_both_languages(tmp_path: Path) -> None:
    chance = random.Random(3)
    cases = [_case(chance) for _ in range(3000)]
    questions = [encoding.encode([text.encode() for text in case]) for case in cases]
    told = [encoding.decode(answer, bytes_max=1 << 20) for answer in answers("user", questions, tmp_path)]
    assert told == [_expected(*case) for case in cases]
    refused = sum("refused" in answer for answer in told if isinstance(answer, dict))
    assert 300 < refused < 2700


def _case(chance: random.Random) -> tuple[str, str, str]:
    names = ("root", "joe", "0", "1000", "7", "www-data", "x", "", "4294967295", "-1", "12345678901")

    def row(columns: int) -> str:
        return ":".join(
            chance.choice((*names, "joe,www-data", "#c")) for _ in range(chance.choice((columns, columns, 3)))
        )

    wanted = chance.choice(names) + chance.choice(("", "", ":" + chance.choice(names)))

    def table(columns: int) -> str:
        return "\n".join(row(columns) for _ in range(chance.randrange(5)))

    return wanted, table(7), table(4)


def _expected(text: str, passwd: str, group: str) -> Encodable:
    try:
        user = resolve_user(text, passwd, group)
    except Refused as error:
        return {"refused": error.message.replace('"', "'").encode()}
    told: dict[str, Encodable] = {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)}
    told |= {} if user.name is None else {"name": user.name.encode()}
    return told | ({} if user.home is None else {"home": user.home.encode()})
