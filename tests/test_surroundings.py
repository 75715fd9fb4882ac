"""What a machine may lack or have wrong around the weights: a home, a cache, certificates, a proxy. One line each."""

import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub import HfApi

import zoo
from children import after_import, in_child
from conftest import ROOT
from loopback import Server, running
from zoo.publishing.mirror import write_mirror
from zoo.publishing.publish import Repository, publish
from zoo.weights import download as downloading
from zoo.weights.download import Address, download
from zoo.weights.fetch import cached_file, fetch
from zoo.weights.manifest import warm_starts
from zoo.weights.network_settings import failed_hub_call
from zoo.weights.paths import cache_folder

EMBEDDED = "lrunet1_100.zoo_fmnist"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
VARIABLES += ("SSL_CERT_FILE", "HF_HUB_OFFLINE", "HF_TOKEN")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


# ---- no home, no cache ----


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a name")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HOME": "/nonexistent"},
        {"HOME": "/root"},
        {"HOME": "/dev/null"},
        {"HOME": ""},
        {"ZOO_CACHE": "/proc/nowhere"},
        {"ZOO_CACHE": "~nosuchuser/cache"},
        {"XDG_CACHE_HOME": "/dev/null/x"},
        {"HOME": "/nonexistent", "HF_HOME": "/dev/null/x", "TORCH_HOME": "/dev/null/x"},
    ],
    ids=lambda v: ",".join(f"{k}={v}" for k, v in v.items()) or "no HOME",
)
def test_a_shipped_weight_loads_without_home_or_cache(variables):
    """As a user id without a name, who may write nowhere."""
    timm.create_model(EMBEDDED, pretrained=True)  # what it imports, the other user may not be allowed to read

    def load():
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        for variable in ("HOME", "ZOO_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(variable, None)
        os.environ.update(variables)
        os.setgid(54321)
        os.setuid(54321)
        timm.create_model(EMBEDDED, pretrained=True)
        return "loaded"

    assert in_child(load) == ("loaded", 0)


def test_the_package_is_imported_without_home():
    code = (
        "import os, pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
        f"import timm, zoo; timm.create_model({EMBEDDED!r}, pretrained=True); print('loaded')"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "ZOO_CACHE", "XDG_CACHE_HOME")}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == "loaded", run.stderr[-2000:]


@pytest.fixture
def no_home(monkeypatch):
    for variable in ("HOME", "ZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_what_needs_a_cache_says_so_in_a_line(no_home, entries, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "none"))
    with pytest.raises(zoo.WeightError, match=r"no home directory for a cache\. Set ZOO_CACHE"):
        cache_folder()
    for use in (
        lambda: zoo.create_model("lrunet1_100.okankop_fmnist", pretrained=True),
        lambda: zoo.create_model(next(iter(warm_starts())), pretrained=True),
    ):
        with pytest.raises(zoo.WeightError, match="ZOO_CACHE") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["ZOO_CACHE", "ZOO_HUB"])
def test_the_home_of_nobody(variable, monkeypatch):
    monkeypatch.setenv(variable, "~nosuchuser/x")
    with pytest.raises(zoo.WeightError, match=rf"{variable} is ~nosuchuser/x, and there is no such user") as caught:
        zoo.create_model("lrunet1_100.okankop_fmnist", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["ZOO_CACHE", "ZOO_HUB"])
def test_a_file_in_place_of_a_folder(variable, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(zoo.WeightError, match=rf"{variable} is .*file, which is a file\. Name a folder"):
        zoo.create_model("lrunet1_100.okankop_fmnist", pretrained=True)


def test_the_staged_folder_is_the_one_that_was_named(own_cache, entries, tmp_path, monkeypatch, caplog):
    """An empty one stages nothing, and one that is not there is said; the checkout's own is not used unawares."""
    name = "lrunet1_100.zoo_fmnist"
    place = fetch(name).path
    (tmp_path / "empty").mkdir()
    for folder, said in (
        ("empty", "has it, but ZOO_HUB names another"),
        ("none", "ZOO_HUB is .*none, and there is no"),
    ):
        monkeypatch.setenv("ZOO_HUB", str(tmp_path / folder))
        with pytest.raises(zoo.WeightError, match=rf"{said}.*\), or set ZOO_HUB to the folder it was staged into\.$"):
            zoo.create_model(name, pretrained=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(zoo.WeightError, match=r"\) or connect to the network\.$"):
        zoo.create_model("lrunet1_100.okankop_fmnist", pretrained=True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    target = cached_file(name, entries[name])
    target.parent.mkdir(parents=True)
    shutil.copy(place, target)
    assert fetch(name).path == target
    assert "ZOO_HUB is" in caplog.text


# ---- certificates and proxies ----


def failure(url: str, tmp_path) -> str:
    with pytest.raises(zoo.WeightError) as caught:
        download(Address(url, "release X", {}), tmp_path / "part", 1000)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(tmp_path.glob("part*"))
    return message


@pytest.fixture
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(downloading, "_pause", seconds.append)
    return seconds


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize(("content", "fault"), [(None, "No such file"), ("nonsense", "a file without certificates")])
def test_wrong_certificates_are_named(variable, content, fault, tmp_path, monkeypatch, waits):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    message = failure("https://127.0.0.1:9/file", tmp_path)
    assert f"The variable {variable} is '{path}'" in message
    assert fault in message
    assert waits == []


def test_right_certificates_are_not_blamed(tmp_path, monkeypatch, waits):
    import certifi

    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, certifi.where())
    monkeypatch.setenv("CURL_CA_BUNDLE", "/nonexistent")  # requests looks at the first only
    assert failure("https://127.0.0.1:9/file", tmp_path) == "release X: no connection"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", ["{}_PROXY", "{}_proxy", "ALL_PROXY", "all_proxy"])
def test_a_dead_proxy_is_named(variable, scheme, tmp_path, monkeypatch, waits):
    variable = variable.format(scheme.upper() if variable.isupper() or "P" in variable else scheme)
    monkeypatch.setenv(variable, "http://me:secret@127.0.0.1:9")
    message = failure(f"{scheme}://127.0.0.1:8/file", tmp_path)
    assert f"The proxy that {variable} names ('http://127.0.0.1:9') cannot be reached. Correct or unset it." in message
    assert "secret" not in message
    assert waits == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("http://", "is not the address of a proxy"),
        ("://x", "is not the address of a proxy"),
        ("http://127.0.0.1:port", "is not the address of a proxy"),
        ("http://127.0.0.1:99999999", "is not the address of a proxy"),
        ("http://[::1", "is not the address of a proxy"),
        ("ftp://127.0.0.1:9", "is not the address of a proxy"),
        (" ", "is not the address of a proxy"),
        ("127.0.0.1:9", "cannot be reached"),
        ("socks5://127.0.0.1:9", ""),
    ],
)
def test_a_malformed_proxy_is_named(value, fault, scheme, tmp_path, monkeypatch, waits):
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", value)
    message = failure(f"{scheme}://127.0.0.1:8/file", tmp_path)
    assert f"The proxy that {scheme.upper()}_PROXY names" in message
    assert fault in message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_named(scheme, tmp_path, monkeypatch, waits):
    with running(Server()) as proxy:
        proxy.fault = "status:407"
        proxy.http.RequestHandlerClass.do_CONNECT = lambda request: proxy.answer(request, body=False)
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
        message = failure(f"{scheme}://127.0.0.1:8/file", tmp_path)
    assert f"The proxy that {scheme.upper()}_PROXY names ('{proxy.url}') answered 407" in message


def test_a_proxy_that_is_not_used_is_not_blamed(tmp_path, monkeypatch, waits):
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://")
    assert failure("http://127.0.0.1:9/file", tmp_path) == "release X: no connection"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:7")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert failure("http://127.0.0.1:9/file", tmp_path) == "release X: no connection"


def test_calls_of_huggingface_hub_name_them_too(own_cache):
    """In processes of their own: its client is made once, with the variables of that moment."""
    variables = [
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("HTTP_PROXY", "nonsense://x"),
        ("ALL_PROXY", "http://127.0.0.1:port"),
        ("SSL_CERT_FILE", "/nonexistent"),
    ]
    codes = [
        f"import os; os.environ[{variable!r}] = {value!r}; import zoo\n"
        f"try: zoo.create_model({next(iter(warm_starts()))!r}, pretrained=True)\n"
        "except zoo.WeightError as error: print(error)"
        for variable, value in variables
    ]
    found = after_import("import timm", codes, cwd=ROOT, env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:8"})
    for (variable, _), (said, _) in zip(variables, found, strict=True):
        assert variable in said, said
        assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("error", [OSError(""), ValueError("Invalid port: 'port'")])
def test_mirror_and_publish_name_them_too(error, entries, own_cache, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:port")
    entries[EMBEDDED]["sources"] = [{"kind": "hub", "repo": "a/b", "revision": "0" * 40, "file": "model.safetensors"}]
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    monkeypatch.setattr("zoo.publishing.publish._publish", broken)
    repository = Repository(EMBEDDED, "a/b", {}, {})
    for use in (
        lambda: write_mirror([EMBEDDED], tmp_path / "mirror"),
        lambda: publish([repository], HfApi(endpoint="https://huggingface.co", token="hf_x")),
    ):
        with pytest.raises(zoo.ZooError, match="The proxy that HTTPS_PROXY names") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_an_answer_of_the_hub_is_not_the_proxys_fault(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    error = OSError("404 not found\nmore")
    error.response = object()
    assert failed_hub_call(error, "https://huggingface.co/x") == "404 not found"
