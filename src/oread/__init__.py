"""Write a handler once; every socket can call it.

TCP, HTTP and UDP listeners share one handler registry under one Trio nursery.
This module holds the public names and executes nothing.
"""

from __future__ import annotations

from oread.endpoints import Endpoint
from oread.errors import (
    BadRequest,
    Busy,
    EndpointError,
    HandlerCancelled,
    HandlerError,
    MessageError,
    NotAllowed,
    NotFound,
    OreadError,
    RegistrationError,
    TimedOut,
    TooLarge,
)
from oread.limits import DatagramLimits, HttpLimits, StreamLimits
from oread.messages import Datagram, Headers, HttpRequest, HttpResponse, Message, Peer, Reply
from oread.registry import HandlerInfo, Registration, Registry
from oread.service import Bound, DrainReport, Service, Statistics, open_service, serve

__all__ = [
    "BadRequest",
    "Bound",
    "Busy",
    "Datagram",
    "DatagramLimits",
    "DrainReport",
    "Endpoint",
    "EndpointError",
    "HandlerCancelled",
    "HandlerError",
    "HandlerInfo",
    "Headers",
    "HttpLimits",
    "HttpRequest",
    "HttpResponse",
    "Message",
    "MessageError",
    "NotAllowed",
    "NotFound",
    "OreadError",
    "Peer",
    "Registration",
    "RegistrationError",
    "Registry",
    "Reply",
    "Service",
    "Statistics",
    "StreamLimits",
    "TimedOut",
    "TooLarge",
    "open_service",
    "serve",
]
