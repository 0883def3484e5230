"""Mount options: values, defaults and what is refused."""

from __future__ import annotations

import pytest

from stagewright.dockerfile.mounts import MountType, RunMount, Sharing, parse_mount, parse_mount_spec
from stagewright.errors import DockerfileError


def expand(text: str) -> str:
    return text.replace("$A", "value")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/a", RunMount(target="/a")),
        ("type=bind,dst=/a,src=b,from=c", RunMount(target="/a", source="b", from_name="c")),
        ("TYPE=BIND,Destination=/a,rw", RunMount(target="/a", read_only=False)),
        ("target=/a,rw=false", RunMount(target="/a")),
        ("target=/a,ro=0", RunMount(target="/a", read_only=False)),
        ("target=/a,readwrite=T,readonly", RunMount(target="/a")),
        ("type=cache,target=/a", RunMount(MountType.CACHE, target="/a", read_only=False)),
        (
            "type=cache,target=$A/x,id=i$A,sharing=LOCKED,mode=0755,uid=1,gid=2,ro,from=b,source=/c",
            RunMount(MountType.CACHE, "b", "/c", "value/x", True, "ivalue", Sharing.LOCKED, mode=0o755, uid=1, gid=2),
        ),
        ("type=tmpfs,target=/a", RunMount(MountType.TMPFS, target="/a", read_only=False)),
        ("type=tmpfs,target=/a,size=1.5k", RunMount(MountType.TMPFS, target="/a", read_only=False, size_bytes=1536)),
        ("type=secret,id=a", RunMount(MountType.SECRET, id="a")),
        ("type=secret,id=a,env=B,required", RunMount(MountType.SECRET, id="a", env="B", required=True)),
        ("type=secret,src=a,required=false,mode=400", RunMount(MountType.SECRET, source="a", mode=0o400)),
        ("type=ssh", RunMount(MountType.SSH)),
        (
            "type=ssh,id=a,target=/s,required=true,uid=7",
            RunMount(MountType.SSH, target="/s", id="a", required=True, uid=7),
        ),
        ('target=/a,"source=b,c"', RunMount(target="/a", source="b,c")),
        ('"target=/a ""b"""', RunMount(target='/a "b"')),
        ("type=$A,target=/a", None),
        ("target=", RunMount()),
    ],
)
def test_mounts(text: str, mount: RunMount | None) -> None:
    if mount is None:
        with pytest.raises(DockerfileError, match='unsupported mount type "value"'):
            parse_mount(text, expand)
    else:
        assert parse_mount(text, expand) == mount


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "failed to parse csv mounts: EOF"),
        ("type=cahce", 'unsupported mount type "cahce" (did you mean cache?)'),
        ("type=cache,sharing=lokced", 'unsupported sharing value "lokced" (did you mean locked?)'),
        ("typ=bind", "unexpected key 'typ' in 'typ=bind' (did you mean type?)"),
        ("foobarbaz=x", "unexpected key 'foobarbaz' in 'foobarbaz=x'"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("", "failed to parse csv mounts: EOF"),
        ("ro=maybe", "invalid value for ro: maybe"),
        ("required", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,required=true", "unexpected key 'required' for mount type 'cache'"),
        ("size=1m", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=lots", "invalid value for size: lots"),
        ("type=cache,mode=999", "invalid value 999 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,gid=4294967296", "invalid value 4294967296 for gid"),
        ("mode=755", 'mode not allowed for "bind" type mounts'),
        ("type=tmpfs,uid=1", 'uid not allowed for "tmpfs" type mounts'),
        ("type=bind,gid=1", 'gid not allowed for "bind" type mounts'),
        ("sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret,id=a,sharing=private", "secret mount should not define sharing"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ('a"b=c', 'failed to parse csv mounts: parse error on line 1, column 2: bare " in non-quoted-field'),
        ('"a', 'failed to parse csv mounts: parse error on line 1, column 2: extraneous or missing " in quoted-field'),
    ],
)
def test_mount_errors(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_mount(text, expand)
    assert caught.value.message == message


def test_specs_know_what_a_mount_is_from() -> None:
    assert parse_mount_spec("type=$T,FROM=a,target=$X").from_name == "a"
    assert parse_mount_spec("from=a$").from_name == "a$"
    with pytest.raises(DockerfileError, match="doesn't support variable expansion"):
        parse_mount_spec("from=$A")
