"""The broker of one vendor's device, where it is not that of the run: ``[microgrids.X.devices.y.broker]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from heron_mqtt.config import Table

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
File = Annotated[str, Field(min_length=1, max_length=1000)]


class DeviceBrokerTable(Table):
    """Address of the device's broker, and the login; a secret is in an environment variable, never here."""

    url: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Address: mqtt://host:port or mqtts://host:port"
    )
    username: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="Name to log in with; None = no login."
    )
    password_env: Variable | None = Field(
        None, description="Name of the environment variable that holds the password."
    )
    ca: File | None = Field(None, description="Certificates to trust, PEM; None = those of the system.")
    cert: File | None = Field(None, description="Certificate to show, PEM.")
    key: File | None = Field(None, description="Its private key, PEM.")
    client_id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="None = generated."
    )
    protocol: Literal["3.1.1", "5"] = Field("3.1.1", description="Version of MQTT.")

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("no user or password in the URL: give username and password_env")
        return url
