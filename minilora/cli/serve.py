"""`minilora serve`: a base, its adapters and a router over HTTP."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import typer

from minilora.cli.adapters import named_adapters
from minilora.cli.options import BASE_DTYPE_HELP, BASE_OF_ADAPTER_HELP
from minilora.hub.several import BASE
from minilora.runs.routing import SPECIALISTS, SPECIALISTS_CENTRES, adapters_in
from minilora.serving.opening import CONTEXT, KEPT, ROWS, open_engine, open_router
from minilora.serving.service import ROUTER, Service

GROUP = "Serve"
NEEDED = ("starlette", "uvicorn", "prometheus_client")
ADAPTER_HELP = "Adapter to serve under its name. Default: the ward's specialists and their router."
ROUTER_HELP = (
    "Who answers for the model `router`: centres of a router (.safetensors), or a JSON file with a "
    "regular expression a name."
)
KEY_HELP = "Key that requests must bear; demanded where others than this machine can ask."
LOAD_HELP = "Folder from which clients may load adapters, and unload any. Default: none may."
ROWS_HELP = f"Requests answered at a time. Default: {ROWS}, or what fits in memory."
CONTEXT_HELP = f"Tokens of a prompt with its answer. Default: {CONTEXT}, or what the model has."
PROMPT_HELP = "Of one prompt, at most. Default: what the context has room for."
PACKED_HELP = (
    "Keep a rounded base packed: less memory, and its numbers are made anew for each step, at 0.4 "
    "of the speed for one request at a time (data/serving/README.md)."
)


def serve(
    base: str = typer.Option(None, "--base", help=BASE_OF_ADAPTER_HELP),
    base_dtype: str = typer.Option(None, "--base-dtype", help=BASE_DTYPE_HELP),
    packed: bool = typer.Option(False, "--packed", help=PACKED_HELP),
    adapter: list[str] = typer.Option(
        [], "--adapter", metavar="[NAME=]DIR", help=f"{ADAPTER_HELP} {BASE}: none of them."
    ),
    router: Path = typer.Option(None, "--router", help=ROUTER_HELP),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen at."),
    port: int = typer.Option(8000, "--port", help="Port; 0 takes a free one."),
    api_key: str = typer.Option(None, "--api-key", envvar="MINILORA_API_KEY", help=KEY_HELP),
    load_from: Path = typer.Option(None, "--load-from", help=LOAD_HELP),
    rows: int = typer.Option(None, "--rows", help=ROWS_HELP),
    context: int = typer.Option(None, "--context", help=CONTEXT_HELP),
    kept_positions: int = typer.Option(
        KEPT, "--kept-positions", help="Positions of prompts kept for others that begin alike."
    ),
    max_prompt_tokens: int = typer.Option(None, "--max-prompt-tokens", help=PROMPT_HELP),
    max_new_tokens: int = typer.Option(1024, "--max-new-tokens", help="Of one answer, at most."),
    waiting: int = typer.Option(128, "--waiting", help="Requests that may wait for a row."),
    body_bytes: int = typer.Option(1 << 20, "--body-bytes", help="Of one request, at most."),
    seconds: float = typer.Option(300.0, "--seconds", help="A request may take, at most."),
    grace: float = typer.Option(30.0, "--grace", help="Seconds to finish in after Ctrl-C."),
) -> None:
    """Serve the base, adapters and a router: OpenAI's API, and a page for a browser.

    A request's `model` is an adapter's name, the base, or `router`. Greedy unless it says a
    temperature. Requests of any adapters share each step.

    Example: minilora serve --adapter cardiology=tour/adapter --port 8080
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"got no {', '.join(missing)} here, expected the serve extra: "
            "pip install 'minilora[serve]'"
        )
    from minilora.serving.http import run
    from minilora.serving.http.app import Settings
    from minilora.serving.http.asked import Limits

    run.require_key(host, api_key)
    specialists = base is None and not adapter
    chosen = adapters_in(SPECIALISTS) if specialists else named_adapters(adapter)
    limits = Limits(body_bytes, max_prompt_tokens, max_new_tokens, seconds=seconds)
    with run.listen(host, port) as listener:
        opened = open_engine(
            chosen, base, base_dtype, packed=packed, rows=rows, context=context, kept=kept_positions
        )
        path = SPECIALISTS_CENTRES if specialists and router is None else router
        route = None if path is None else open_router(path, opened.engine, opened.tokenizer)
        settings = Settings(opened.name, limits, api_key, run.hosts_for(host), load_from)
        service = Service(opened.engine, waiting, route)
        names = ", ".join([opened.name, *service.names, *([ROUTER] if route else [])])
        server = run.make_server(service, opened.tokenizer, settings, grace)
        typer.echo(f"Serving {names} at {run.url_of(listener)} (Ctrl-C ends it).")
        server.run([listener])
