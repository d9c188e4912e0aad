"""A real inference server for tests: llama.cpp on the CPU, with a model made of chance.

Run as a program it is the server; imported it makes the model and starts the program.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SLOTS = 8
SLOT_TOKENS = 4096  # the context window of each slot
READY_S = 30.0
MODEL = "tiny"
KEY = "sk-live-server-0123456789abcdef"

_WIDTH, _LAYERS, _HEADS = 64, 2, 4
_CHAT_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServer:
    """A running server: where it is and what it says."""

    address: str
    log: Path

    @property
    def api_base(self) -> str:
        return f"{self.address}/v1"

    def busy_slots(self) -> int:
        """How many answers are being written right now."""
        return sum(slot["is_processing"] for slot in self._get("/slots"))

    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        try:
            return bool(self._get("/health")["status"] == "ok")
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        headers = {"authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)


def missing_packages() -> list[str]:
    """What would have to be installed first."""
    return [name for name in ("gguf", "xllamacpp") if find_spec(name) is None]


def byte_symbols() -> list[str]:
    """A printable character for each byte, as byte-level BPE vocabularies spell them."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def write_model(path: Path, *, seed: int = 7) -> None:
    """A llama of two layers with random weights and a token for each byte.

    Only printable ASCII has output weights that are not zero, so the likeliest token always is a
    printable one: gibberish, but valid text without an end of its own.
    """
    import gguf
    import numpy as np

    tokens = [*byte_symbols(), "<|im_start|>", "<|im_end|>"]
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(SLOT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["i n"])  # the format wants one; nothing stands for it
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)

    chance = np.random.default_rng(seed)

    def random(*shape: int) -> Any:
        return (chance.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    output = random(len(tokens), _WIDTH)
    output[[token for token in range(len(tokens)) if not 0x20 <= token < 0x7F]] = 0.0
    tensors = {"token_embd": random(len(tokens), _WIDTH), "output": output}
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        tensors |= {f"{block}.attn_{part}": random(_WIDTH, _WIDTH) for part in "qkv"}
        tensors[f"{block}.attn_output"] = random(_WIDTH, _WIDTH)
        tensors[f"{block}.ffn_gate"] = random(2 * _WIDTH, _WIDTH)
        tensors[f"{block}.ffn_up"] = random(2 * _WIDTH, _WIDTH)
        tensors[f"{block}.ffn_down"] = random(_WIDTH, 2 * _WIDTH)
        tensors |= {
            f"{block}.{norm}": np.ones(_WIDTH, np.float32) for norm in ("attn_norm", "ffn_norm")
        }
    tensors["output_norm"] = np.ones(_WIDTH, np.float32)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def running_server(folder: Path) -> Iterator[LiveServer]:
    """A server on a free port, with a model of its own, gone at the end."""
    model, log = folder / "tiny.gguf", folder / "server.log"
    write_model(model)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, __file__, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            yield _when_ready(process, log)
        finally:
            process.kill()


def _when_ready(process: "subprocess.Popen[str]", log: Path) -> LiveServer:
    assert process.stdout is not None
    impatience = threading.Timer(READY_S, process.kill)
    impatience.start()
    try:
        server = LiveServer(address=process.stdout.readline().strip(), log=log)
        while process.poll() is None and server.address:
            if server.is_ready():
                return server
            time.sleep(0.01)
    finally:
        impatience.cancel()
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")


def serve(model: str) -> None:
    """Load the model, say where it is served, and stay until the standard input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {MODEL}
    parameters.api_keys = [KEY]
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.n_threads_http = SLOTS + 4
    parameters.n_gpu_layers = 0
    parameters.cache_prompt = False  # the same question is computed the same way again
    parameters.cache_ram_mib = 0
    parameters.fit_params = False  # it would guess sizes from the memory of this machine
    parameters.warmup = False
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()  # ends when the parent does, however that comes about
    os._exit(0)  # its threads are not asked


if __name__ == "__main__":
    serve(sys.argv[1])
