"""`--cache-to` and `--cache-from`: what is taken, and one clear error for all else."""

from __future__ import annotations

import os
import sys

import pytest

from stagewright.cli.specs import parse_cache
from stagewright.errors import UsageError
from stagewright.options import Cache
from stagewright.snapshots.compress import Compression
from stagewright.travel.options import (
    GhaListing,
    GhaPlace,
    InlinePlace,
    LocalPlace,
    RegistryPlace,
    S3Place,
    credentials_of,
    parse_export,
    parse_import,
)


def to(text: str, **env: str) -> object:
    return parse_export(parse_cache(text, "--cache-to"), env)


def from_(text: str, **env: str) -> object:
    return parse_import(parse_cache(text, "--cache-from"), env)


def test_a_name_alone_is_an_image() -> None:
    assert parse_cache("user/app:cache", "--cache-from") == Cache("registry", {"ref": "user/app:cache"})
    assert str(from_("user/app")) == "user/app:latest"


def test_all_options_of_an_export() -> None:
    spec = parse_export(
        parse_cache(
            "type=registry,ref=r.io/c,mode=max,image-manifest=false,oci-mediatypes=false,compression=zstd,"
            "compression-level=7,force-compression=true,ignore-error=false,mount=a,mount=b",
            "--cache-to",
        ),
        {},
    )
    assert isinstance(spec.place, RegistryPlace)
    assert spec.is_max and spec.force_compression and spec.used_mounts and not spec.ignores_errors
    assert not spec.as_image and not spec.oci_mediatypes
    assert spec.compression == Compression("zstd", 7)
    assert spec.mounts == ("a", "b")


def test_defaults_are_buildkits_but_that_failures_are_warnings() -> None:
    spec = parse_export(Cache("local", {"dest": "out"}), {})
    assert spec.place == LocalPlace("out", "latest")
    assert (spec.is_max, spec.as_image, spec.oci_mediatypes, spec.ignores_errors) == (False, True, True, True)
    assert spec.compression == Compression("gzip")
    assert not spec.used_mounts
    # Docker's media types know no image that is a cache.
    assert not parse_export(Cache("local", {"dest": "out", "oci-mediatypes": "false"}), {}).as_image
    assert parse_export(Cache("inline"), {}).place == InlinePlace()


def test_places_of_imports() -> None:
    digest = "sha256:" + "0" * 64
    assert from_(f"type=local,src=in,tag=t,digest={digest}") == LocalPlace("in", "t", digest)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=tape", 'unknown type "tape"'),
        ("type=registry", "needs ref="),
        ("type=registry,ref=", "needs ref="),
        ("type=registry,ref=user/UPPER", "must be lowercase"),
        ("type=local", "needs dest="),
        ("type=local,src=x", "needs dest="),
        ("type=local,dest=x,mode=mid", 'mode="mid" is none of min, max'),
        ("type=local,dest=x,compression=lzma", 'unsupported layer compression "lzma"'),
        ("type=local,dest=x,compression-level=11", "compression level 11"),
        ("type=local,dest=x,compression-level=high", 'compression-level="high" is not a number'),
        ("type=local,dest=x,ignore-error=perhaps", 'ignore-error="perhaps" is neither true nor false'),
        ("type=local,dest=x,image-manifest=true,oci-mediatypes=false", "image-manifest=true needs oci-mediatypes=true"),
        ("type=local,dest=x,colour=red", 'unknown or unsupported option "colour"'),
        ("type=local,dest=x,mounts=false,mount=a", "mounts=false and mount=ID exclude each other"),
        ("type=inline,mode=max", "no place for mode=max"),
        ("type=inline,mounts=true", "no place for cache mounts"),
        ("type=inline,ref=x", 'unknown or unsupported option "ref"'),
        ("dest=x", "no type is given"),
        ("type=local,dest", "is no key=value pair"),
    ],
)
def test_a_wrong_export(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"--cache-to|lowercase|compression") as caught:
        to(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=inline", 'unknown type "inline"'),
        ("type=local,dest=x", "needs src="),
        ("type=local,src=x,digest=abc", 'digest="abc" is not a digest'),
        ("type=registry,ref=x,mode=max", 'unknown or unsupported option "mode"'),
        ("type=local,src=x,mount=a", "has no mount="),
    ],
)
def test_a_wrong_import(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--cache-from") as caught:
        from_(text)
    assert said in caught.value.message


def test_s3_takes_what_the_environment_has() -> None:
    place = from_("type=s3", AWS_BUCKET="b", AWS_REGION="r")
    assert place == S3Place("b", "r")
    text = "type=s3,bucket=b,region=r,prefix=p/,name=a;b,endpoint_url=http://x,use_path_style=true,access_key_id=i,"
    place = from_(text + "secret_access_key=very-secret,session_token=very-secret-too")
    assert place == S3Place(
        "b",
        "r",
        "p/",
        names=("a", "b"),
        endpoint_url="http://x",
        path_style=True,
        access_key_id="i",
        secret_access_key="very-secret",
        session_token="very-secret-too",
    )
    assert "very-secret" not in repr(place) and "very-secret" not in str(place)


def test_all_else_that_buildkit_knows_of_s3() -> None:
    text = "type=s3,bucket=b,region=r,blobs_prefix=x-,manifests_prefix=m/"
    spec = parse_export(parse_cache(f"{text},touch_refresh=1h30m,upload_parallelism=9", "--cache-to"), {})
    assert spec.place == S3Place("b", "r", blobs_prefix="x-", manifests_prefix="m/", touch_s=5400)
    assert spec.uploads == 9
    assert from_(text) == S3Place("b", "r", blobs_prefix="x-", manifests_prefix="m/")


def test_what_later_builds_know_of_a_place_is_no_secret() -> None:
    text = "type=s3,bucket=b,region=r,prefix=p/,blobs_prefix=x/,endpoint_url=http://u:p-p@host/path,access_key_id=i,"
    place = parse_import(parse_cache(text + "secret_access_key=s,session_token=t", "--cache-from"), {})
    lasting = place.lasting()
    again = parse_import(Cache(lasting.pop("type"), lasting), {})
    assert again == S3Place("b", "r", "p/", "x/", endpoint_url="http://host/path")
    registry = parse_import(parse_cache("type=registry,ref=r.io/c,registry.insecure=true", "--cache-from"), {})
    assert registry.lasting() == {"type": "registry", "ref": "r.io/c:latest", "registry.insecure": "true"}
    job = parse_import(parse_cache("type=gha,url=http://x,token=secret,scope=s", "--cache-from"), {})
    assert job.lasting() == {"type": "gha", "scope": "s", "version": "1"}
    assert os.path.isabs(parse_import(Cache("local", {"src": "in"}), {}).lasting()["src"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=s3,bucket=b,region=r,touch_refresh=often", 'touch_refresh="often" is not a duration'),
        ("type=s3,bucket=b,region=r,upload_parallelism=0", "upload_parallelism=0 is less than one"),
        ("type=s3,region=r", "needs bucket=... or $AWS_BUCKET"),
        ("type=s3,bucket=b", "needs region=... or $AWS_REGION"),
        ("type=s3,bucket=b,region=r,access_key_id=i", "belong together"),
        ("type=s3,bucket=b,region=r,use_path_style=maybe", "neither true nor false"),
        ("type=s3,bucket=b,region=r,oci-mediatypes=true", 'unknown or unsupported option "oci-mediatypes"'),
    ],
)
def test_a_wrong_bucket(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--cache-to") as caught:
        to(text)
    assert said in caught.value.message


def test_s3_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr("stagewright.travel.options.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="boto3") as caught:
        from_("type=s3,bucket=b,region=r")
    assert caught.value.hint == "pip install 'stagewright[s3]'"


def test_credentials_are_known_to_be_hidden() -> None:
    caches = [Cache("s3", {"secret_access_key": "s", "session_token": "t", "endpoint_url": "http://u:p-p@x"})]
    assert credentials_of(caches, {"AWS_SECRET_ACCESS_KEY": "e", "ACTIONS_RUNTIME_TOKEN": "other"}) == [
        "s",
        "t",
        "e",
        "p-p",
    ]


def test_gha_takes_what_a_job_has() -> None:
    job = {"ACTIONS_CACHE_URL": "https://one/", "ACTIONS_RESULTS_URL": "https://two/", "ACTIONS_RUNTIME_TOKEN": "t"}
    assert from_("type=gha", **job) == GhaPlace("https://one/", "t", 1)
    assert from_("type=gha,scope=s", ACTIONS_CACHE_SERVICE_V2="true", **job) == GhaPlace("https://two/", "t", 2, "s")
    assert from_("type=gha,version=2", **job) == GhaPlace("https://two/", "t", 2)
    assert from_("type=gha,url=http://x,token=secret-token") == GhaPlace("http://x", "secret-token", 1)
    assert "secret-token" not in repr(from_("type=gha,url_v2=http://x,token=secret-token"))


def test_a_list_of_the_keys_of_a_repository() -> None:
    spec = parse_export(
        parse_cache("type=gha,url=http://x,token=t,ghtoken=gh-secret,repository=o/n,timeout=2m", "--cache-to"), {}
    )
    listing = GhaListing("https://api.github.com", "o/n", "gh-secret")
    assert spec.place == GhaPlace("http://x", "t", 1, timeout_s=120, listing=listing)
    assert "gh-secret" not in repr(spec)
    env = {"GITHUB_API_URL": "https://ghe/api", "GITHUB_REPOSITORY": "a/b"}
    spec = parse_export(Cache("gha", {"url": "http://x", "token": "t", "ghtoken": "g"}), env)
    assert isinstance(spec.place, GhaPlace) and spec.place.listing == GhaListing("https://ghe/api", "a/b", "g")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=gha,url=http://x,token=t,ghtoken=g", "needs repository=OWNER/NAME or $GITHUB_REPOSITORY"),
        ("type=gha,url=http://x,token=t,ghtoken=g,repository=a/b/c", "needs repository=OWNER/NAME"),
        ("type=gha,url=http://x,token=t,timeout=-1s", 'timeout="-1s" is not a duration'),
        ("type=gha", "needs url=... or $ACTIONS_CACHE_URL"),
        ("type=gha,version=2,token=t", "needs url_v2=... or $ACTIONS_RESULTS_URL"),
        ("type=gha,url=http://x", "needs token=... or $ACTIONS_RUNTIME_TOKEN"),
        ("type=gha,url=ftp://x,token=t", "not one of http or https"),
        ("type=gha,url=http://x,token=t,version=3", 'version="3" is none of 1, 2'),
    ],
)
def test_a_wrong_cache_service(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--cache-to") as caught:
        to(text)
    assert said in caught.value.message
