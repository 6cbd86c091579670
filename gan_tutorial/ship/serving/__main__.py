"""Serve an exported generator over HTTP: python -m gan_tutorial.ship.serving model.onnx."""

import signal
import sys

if __name__ == "__main__":  # the first process of a container ignores SIGTERM without a handler
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

import argparse
import contextlib
import socket
from dataclasses import fields
from typing import NoReturn

from gan_tutorial import files
from gan_tutorial.ship.serving.app import Service, application, inside
from gan_tutorial.ship.serving.limits import Limits, LimitsMiddleware, ServerState
from gan_tutorial.ship.serving.model import OnnxGenerator
from gan_tutorial.ship.serving.server import BACKLOG, Server, reserve_files


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message, 2)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; for an IPv6 address, one that takes IPv4 as well if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(
        (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )
    # Without this option a short response waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; print an error as one line, with a status that is not 0."""
    files.escape_output()
    parser = _Parser(
        "python -m gan_tutorial.ship.serving",
        description="Serve an exported generator over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="a file that gan_tutorial export wrote")
    add("--host", default="127.0.0.1", help="address to listen on; :: for all, IPv6 and IPv4")
    add("--port", type=int, default=8000, help="port; 0 for a free one, which is printed")
    add(
        "--metrics_port",
        type=int,
        help="serve /metrics on this port, not on --port, and /healthz and /readyz on both",
    )
    add("--threads", type=int, default=1, help="threads of the network")
    add("--drain", type=float, default=0.5, help="seconds from a signal to the last new connection")
    for field in fields(Limits):
        add(f"--{field.name}", type=field.type, default=field.default, help=field.metadata["help"])
    options = parser.parse_args(arguments)
    try:
        limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
        for name, least in (("port", 0), ("metrics_port", 1)):  # a free metrics port is not printed
            port = getattr(options, name)
            if port is not None and not least <= port < 2**16:
                raise ValueError(f"--{name} must be a port, but is {port}")
        if not 0 <= options.drain < 3600:
            raise ValueError(f"--drain must be seconds in [0, 3600), but is {options.drain}")
        reserve_files(limits.connections)
        state = ServerState()
        service = Service(OnnxGenerator(options.model, options.threads), limits, state)
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(_listen(options.host, options.port))
            own = None
            if options.metrics_port is not None:
                own = inside(service), _listen(options.host, options.metrics_port)
            opened.pop_all()
    except (ValueError, OSError) as error:
        _fail(str(error), 1)
    app = application(service, metrics=own is None)
    app = LimitsMiddleware(app, limits, state, service.registry)
    host, port, *_ = listener.getsockname()
    host = f"[{host}]" if ":" in host else host
    greeting = f"serving {service.generator.card.name} on http://{host}:{port}"
    Server(app, limits, state, options.drain, greeting, own).run([listener])
    print(f"stopped: {state.answered} of {state.accepted} requests answered", flush=True)


if __name__ == "__main__":
    main()
