"""Settings of the whole project; every one can be given by the environment or by a file ``.env``."""

import contextlib
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from flashsale_project.secret_key import kept_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def hide_the_line(record: logging.LogRecord) -> bool:
    """A filter of what django-environ logs: the line of ``.env`` that it cannot read may be a secret."""
    if record.levelno >= logging.WARNING:
        record.args = ("(not shown)",)
    return True


logging.getLogger("environ.environ").addFilter(hide_the_line)
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")


def positive(name: str, default: int) -> int:
    """A whole number above zero from the environment; `ImproperlyConfigured` names the wrong one."""
    text = env.str(name, default=str(default)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ImproperlyConfigured(f"{name} must be a whole number above zero, not {text[:40]!r}.")
    return int(text)


def boolean(name: str, default: bool) -> bool:
    """A switch from the environment; empty is not given. `ImproperlyConfigured` names one that is neither."""
    text = env.str(name, default="").strip().lower()
    if text in ("true", "1", "yes", "on", "false", "0", "no", "off", ""):
        return text in ("true", "1", "yes", "on") if text else default
    raise ImproperlyConfigured(f"{name} must be true or false, not {text!r}.")


def one_of(name: str, choices: Sequence[str]) -> str:
    """One of these words from the environment, the first by default; `ImproperlyConfigured` names another."""
    text: str = env.str(name, default="") or choices[0]
    if text in choices:
        return text
    raise ImproperlyConfigured(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, not {text!r}.")


# Where the embedded database and other run-time files live.
FLASHSALE_DATA_DIR = Path(env.str("FLASHSALE_DATA_DIR", default="") or BASE_DIR / ".flashsale").absolute()
# A directory with the programs initdb and postgres; found by itself where it is not set.
FLASHSALE_PG_BIN = Path(env.str("FLASHSALE_PG_BIN")) if env.str("FLASHSALE_PG_BIN", default="") else None

# What new sales look like. Sales that exist keep what they were made with.
FLASHSALE_ITEMS = positive("FLASHSALE_ITEMS", 10_000)
FLASHSALE_USER_LIMIT = positive("FLASHSALE_USER_LIMIT", 10)
FLASHSALE_CHECKOUT_TTL = positive("FLASHSALE_CHECKOUT_TTL", 60)  # seconds
FLASHSALE_PERIOD = positive("FLASHSALE_PERIOD", 3600)  # seconds


def usual_workers(cores: int) -> int:
    """Half of the cores, from one to four.

    PostgreSQL takes as much of a machine as the workers do, and each worker sends it statements of its own,
    smaller ones than fewer workers would: with one for each core it works harder, and a sale sells no faster
    (see benchmark/README.md). Where the database has a machine of its own, more may be better.
    """
    return max(1, min(4, cores // 2))


FLASHSALE_WORKERS = positive("FLASHSALE_WORKERS", usual_workers(os.cpu_count() or 1))

# Which way the two hot calls take: answered in the HTTP protocol, or by Django's views like the others.
LANES = ("express", "django")
FLASHSALE_LANE = one_of("FLASHSALE_LANE", LANES)

FLASHSALE_LOG_FORMAT = one_of("FLASHSALE_LOG_FORMAT", ("text", "json"))
FLASHSALE_LOG_LEVEL = one_of("FLASHSALE_LOG_LEVEL", ("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL"))

DEBUG = boolean("DEBUG", default=False)
# Not by `env`, which takes a value that begins with a dollar sign for the name of another variable.
try:
    SECRET_KEY = os.environ.get("SECRET_KEY") or kept_secret_key(FLASHSALE_DATA_DIR)
except OSError as error:
    is_file = isinstance(error, FileExistsError | NotADirectoryError)
    reason = "It is no directory" if is_file else error.strerror
    raise ImproperlyConfigured(
        f"The data directory {FLASHSALE_DATA_DIR} cannot be used: {reason}. "
        "Let FLASHSALE_DATA_DIR name one that this account may write to."
    ) from error
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# The cookies of the admin. Browsers take secure ones over TLS, and from this machine itself: Chrome and
# Firefox, at localhost and 127.0.0.1, without it.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# TLS ends at a proxy, and what reaches us is HTTP, so the origins of the admin's pages must be named. We
# trust no X-Forwarded-Proto (SECURE_PROXY_SSL_HEADER): without a proxy that removes it anybody can send it.
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])
CSRF_FAILURE_VIEW = "flashsale_project.access.strangers.csrf_failure"
SILENCED_SYSTEM_CHECKS = [
    # HSTS and the redirect to TLS are for the proxy that ends it: a service on http://127.0.0.1 without one
    # could not be reached any more.
    "security.W004",
    "security.W008",
]

INSTALLED_APPS = [
    "flashsale_project",  # first: its commands go before those of the same name
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "sales",
]

# `manage.py benchsale` measures a working copy; it is not installed with the service.
if find_spec("flashsale_project.benchmark") is not None:
    INSTALLED_APPS.append("flashsale_project.benchmark")

# Seats on trains at /book: the worked example of the batching package.
FLASHSALE_TRAIN_EXAMPLE = boolean("FLASHSALE_TRAIN_EXAMPLE", default=DEBUG)
if FLASHSALE_TRAIN_EXAMPLE:
    INSTALLED_APPS.append("batching.examples.trains")

# For the admin alone: the sale's own calls pass through none of it (see serving/http/handlers.py).
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "flashsale_project.access.staff_pass.StaffPassMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if not DEBUG:  # Django's pages for debugging bring styles and scripts of their own
    MIDDLEWARE.insert(0, "flashsale_project.access.security.ContentSecurityPolicyMiddleware")

ROOT_URLCONF = "flashsale_project.urls"
ASGI_APPLICATION = "flashsale_project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


CONNECT_TIMEOUT = 5
"""Seconds for a connection to the database, unless ``DATABASE_URL`` says ``?connect_timeout=…``."""


def database() -> dict[str, Any]:
    """The database of ``DATABASE_URL``, else the embedded one, which starts at the first connection.

    Raises `ImproperlyConfigured`, which shows nothing of the URL: any part of it may belong to the password.
    """
    url = env.str("DATABASE_URL", default="")
    if not url:
        return {
            "ENGINE": "flashsale_project.postgres",
            "NAME": "flashsale",
            "EMBEDDED_DATA_DIR": FLASHSALE_DATA_DIR,
            "EMBEDDED_BIN_DIR": FLASHSALE_PG_BIN,
        }
    if url.partition("://")[0] not in ("postgresql", "postgres"):
        raise ImproperlyConfigured("DATABASE_URL must name a PostgreSQL database: postgresql://…")
    config: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        config = env.db_url("DATABASE_URL")
    # Where a slash ends the password early, there is no user, and parts of it are the port and the name.
    if not config or not config["NAME"] or ("@" in url and not config["USER"]):
        raise ImproperlyConfigured(
            "DATABASE_URL must be like postgresql://user:password@host:port/name, with special characters of "
            "the password in percent-encoding: %2F for /."
        )
    options = config.setdefault("OPTIONS", {})
    # A host that never answers is told within seconds, and not by the kernel after two minutes.
    options.setdefault("connect_timeout", CONNECT_TIMEOUT)
    if "," in config["HOST"]:  # a primary and its standbys: whichever takes writes
        options.setdefault("target_session_attrs", "read-write")
    return config


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "flashsale_project.logs.TextFormatter"},
        "json": {"()": "flashsale_project.logs.JsonFormatter"},
    },
    "handlers": {
        "console": {
            "()": "flashsale_project.logs.Handler",
            "formatter": FLASHSALE_LOG_FORMAT,
            "level": FLASHSALE_LOG_LEVEL,
        }
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        **{name: {"level": FLASHSALE_LOG_LEVEL} for name in ("flashsale_project", "sales", "batching")},
        # A refusal is a normal answer, and so is a client's nonsense: neither is worth a line each.
        "django.request": {"level": "ERROR"},
        "django.security": {"level": "CRITICAL"},
        "uvicorn": {"level": "ERROR"},
        # The pool reports every attempt to connect; the service says once that the database is away.
        "psycopg.pool": {"level": "ERROR"},
    },
}
