"""The environment variables that requests obey, so that a wrong one is named instead of "no connection"."""

import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from requests.utils import get_environ_proxies, select_proxy

from ..errors import WeightError, without_secrets

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Files of certificates: of the package requests, the first two, the first first; of huggingface_hub the last."""


def without_password(url: str) -> str:
    """An address without user name and password, for messages."""
    try:
        parts = urlsplit(without_secrets(url))
        if not parts.netloc:  # a proxy may be written without http://
            return url.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:  # no address at all
        return url.rpartition("@")[2]


def refuse_offline(label: str) -> None:
    """Raise a WeightError where a variable forbids requests."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # as huggingface_hub does
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise WeightError(f"{label}: {variable} is set, so no request was made")


def refuse_odd_token(label: str) -> None:
    """Raise an error for a Hub token that no request can carry; clients would print it in theirs.

    Args:
        label: What needs it, for the message.

    Raises:
        WeightError: If the token has a blank, a control character or a letter beyond ASCII.
    """
    from huggingface_hub import get_token

    if not re.fullmatch("[!-~]*", get_token() or ""):
        raise WeightError(f"{label}: the Hub token has characters that no token has. Correct or unset HF_TOKEN.")


def certificate_problem(*variables: str) -> str:
    """What is wrong with the first of some variables that is set, in words; empty if nothing is.

    Args:
        *variables: Some of :data:`CERTIFICATES`.
    """
    variable = next((variable for variable in variables if os.environ.get(variable)), None)
    if variable is None:
        return ""
    path = Path(os.environ[variable])
    fault = f"The variable {variable} is {str(path)!r}"
    try:
        path.stat()
        if not path.is_file() and not path.is_dir():
            return f"{fault}, which is no file. Correct or unset it."
        if not path.is_dir():
            ssl.create_default_context(cafile=str(path))
    except ssl.SSLError:
        return f"{fault}, a file without certificates. Correct or unset it."
    except OSError as error:
        return f"{fault}, which cannot be read ({error.strerror or error}). Correct or unset it."
    return ""


def proxy_problem(url: str, error: BaseException | str) -> str:
    """The sentence that blames the proxy for a failed request; empty if the request goes through none.

    Args:
        url: What was requested.
        error: What went wrong: the client's exception, or words.
    """
    try:
        proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    except ValueError:  # the address itself is none
        return ""
    if not proxy:
        return ""
    scheme = urlsplit(url).scheme
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    where = f"The proxy that {variable} names ({without_password(os.environ.get(variable, proxy))!r})"
    return f"{where} {_fault(error)}. Correct or unset it."


def _fault(error: BaseException | str) -> str:
    text = str(error)
    if isinstance(error, str):
        return error
    if said := re.search(r"(?<=Tunnel connection failed: )[^'\")]+", text):
        return f"answered {said[0].strip()}"
    if "SOCKS" in text or "socksio" in text:
        return "needs support of SOCKS: pip install 'requests[socks]'"
    if isinstance(error, ValueError):  # requests' and httpx' errors of addresses are ones
        return "is not the address of a proxy, http://HOST:PORT"
    return "cannot be reached"


def failed_hub_call(error: BaseException, url: str) -> str:
    """Why a request of huggingface_hub failed, in one line; a wrong variable comes first.

    Args:
        error: What it raised.
        url: What was requested.
    """
    if getattr(error, "response", None) is None:
        problem = certificate_problem("SSL_CERT_FILE") or proxy_problem(url, error)
        if problem:
            return problem
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
