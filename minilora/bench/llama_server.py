"""llama.cpp's HTTP server (xllamacpp's build of it) until standard input ends.

    python -m minilora.bench.llama_server MODEL.gguf --rows 8 --threads 2 --lora A.gguf

prints its address. Adapters are loaded and idle; a request says which it wants.
"""

from __future__ import annotations

import argparse
import sys

import xllamacpp

POSITIONS = 512
"""Of each row."""


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lora", action="append", default=[])
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.verbosity = options.model, 0
    params.n_parallel, params.n_ctx = options.rows, options.rows * POSITIONS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = options.rows + 4
    params.lora_init_without_apply = True
    adapters = []
    for path in options.lora:
        one = xllamacpp.CommonAdapterLoraInfo()
        one.path, one.scale = path, 0.0
        adapters.append(one)
    params.lora_adapters = adapters
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
