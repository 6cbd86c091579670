"""Serve an exported generator over HTTP: python -m gan_tutorial.ship.serving model.onnx."""

import argparse
import socket
import sys
from dataclasses import fields
from typing import NoReturn

from gan_tutorial.ship.serving.app import Service, application
from gan_tutorial.ship.serving.limits import Limits, LimitsMiddleware, Server, ServerState
from gan_tutorial.ship.serving.model import OnnxGenerator


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message, 2)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; print an error as one line, with a status that is not 0."""
    parser = _Parser(
        "python -m gan_tutorial.ship.serving",
        description="Serve an exported generator over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="a file that gan_tutorial export wrote")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    add("--port", type=int, default=8000, help="port; 0 for a free one, which is printed")
    add("--threads", type=int, default=1, help="threads of the network")
    add("--drain", type=float, default=0.5, help="seconds from a signal to the last new connection")
    for field in fields(Limits):
        add(f"--{field.name}", type=field.type, default=field.default, help=field.metadata["help"])
    options = parser.parse_args(arguments)
    try:
        limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
        if not 0 <= options.port < 2**16:
            raise ValueError(f"--port must be a port, but is {options.port}")
        if not 0 <= options.drain < 3600:
            raise ValueError(f"--drain must be seconds in [0, 3600), but is {options.drain}")
        state = ServerState()
        service = Service(OnnxGenerator(options.model, options.threads), limits, state)
        listener = socket.create_server((options.host, options.port), backlog=2048)
        # Without this option a short response waits 40 ms for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (ValueError, OSError) as error:
        _fail(str(error), 1)
    app = LimitsMiddleware(application(service), limits, state, service.registry)
    host, port, *_ = listener.getsockname()
    greeting = f"serving {service.generator.card.name} on http://{host}:{port}"
    Server(app, state, options.drain, greeting).run([listener])
    print(f"stopped: {state.answered} of {state.accepted} requests answered", flush=True)


if __name__ == "__main__":
    main()
