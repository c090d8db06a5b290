"""Serve an LLM's next-token distributions over gRPC."""

from __future__ import annotations

import argparse
from pathlib import Path

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery serve-source models/docs --port 50051"


def set_up(parser: Parser) -> None:
    from fusery.core.rules import Dtype

    parser.description = (
        "Serve an LLM's next-token distributions over gRPC. Callers must carry the token in the file that "
        "FUSERY_SOURCE_TOKEN_FILE names, if it is set."
    )
    parser.add_argument("model", metavar="MODEL", help="a folder with safetensors, a Hub id, tgi:URL or vllm:URL")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of the model that tgi:URL or vllm:URL serves")
    same_as = "of tgi:URL or vllm:URL: the weights' fingerprint of an earlier source that answers alike, as you know"
    parser.add_argument("--same-as", metavar="HEX", help=same_as)
    parser.add_argument("--revision", help="the Hub commit")
    dtypes = [dtype.value for dtype in Dtype]
    parser.add_argument("--dtype", default="float32", choices=dtypes, help="of weights and activations (float32)")
    parser.add_argument("--device", help="as torch names it, or auto: over all GPUs (default: a GPU if there is one)")
    parser.add_argument("--attention", metavar="NAME", help="transformers' attention implementation (default: its own)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=_port, default=50051, help="0: any free port (default: 50051)")
    parser.add_argument("--threads", type=options.count, help="CPU threads of the model (default: all cores)")
    parser.add_argument("--ready-file", type=Path, help="written with host:port once the model is loaded")
    _set_up_network(parser)


def _set_up_network(parser: Parser) -> None:
    """How a source server meets the network; every default is that of `Front`."""
    tls = parser.add_argument_group("TLS", "PEM files; by default those of FUSERY_SOURCE_TLS_CERT_FILE, … (plain text)")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain of this server")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    tls.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="clients need a certificate of these (mTLS)")
    parser.add_argument("--health-port", type=_port, help="health checks alone, plain text, for probes without TLS")
    parser.add_argument("--metrics-port", type=_port, help="Prometheus metrics (default: none)")
    parser.add_argument("--reflection", action="store_true", help="tell clients the API, for tools such as grpcurl")
    parser.add_argument("--waiting-requests", type=options.count, default=32, help="length of the queue (default: 32)")
    parser.add_argument(
        "--hang-s",
        type=options.seconds,
        default=600.0,
        help="a longer computation is a hang; liveness fails (default: 600)",
    )
    parser.add_argument(
        "--drain-s", type=options.seconds, default=30.0, help="for calls begun before SIGTERM (default: 30)"
    )
    parser.add_argument(
        "--max-connection-age-s", type=options.seconds, default=1800.0, help="then clients connect anew (default: 1800)"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def call(given: Arguments) -> int:
    """The exit code; returns after SIGTERM or SIGINT.

    Raises:
        FuseryError: see `serve`.
    """
    from fusery.runtime.settings import settings
    from fusery.source.server.serve import ServeConfig, serve
    from fusery.source.server.server import Front
    from fusery.source.tls import ServerTls

    place = settings()
    tls = ServerTls.of(
        given.tls_cert or place.source_tls_cert_file,
        given.tls_key or place.source_tls_key_file,
        given.tls_client_ca or place.source_tls_client_ca_file,
    )
    return serve(
        ServeConfig(
            model=given.model,
            revision=given.revision,
            tokenizer=given.tokenizer,
            same_as=given.same_as,
            dtype=given.dtype,
            attention=given.attention,
            device=given.device,
            threads=given.threads,
            host=given.host,
            port=given.port,
            ready_file=given.ready_file,
            token_file=place.source_token_file,
            waiting_requests=given.waiting_requests,
            drain_s=given.drain_s,
            front=Front(
                tls=tls,
                health_port=given.health_port,
                metrics_port=given.metrics_port,
                reflection=given.reflection,
                hang_s=given.hang_s,
                max_connection_age_s=given.max_connection_age_s,
            ),
        )
    )
